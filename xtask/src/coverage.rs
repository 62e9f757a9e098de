//! Which tests of the software GPU execute which opcodes of production kernels. The machine itself
//! records what it executes (`SOFTGPU_COVERAGE`); test names play no part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, run};
use crate::root;
use crate::softgpu::target_directory;

/// Tests by opcode.
type Tests = BTreeMap<String, BTreeSet<String>>;

/// Runs the tests and prints each opcode with those that execute it; fails if one has none.
#[expect(clippy::print_stdout, reason = "the table is the command's result")]
pub(crate) fn print() -> Result<ExitCode> {
    let (opcodes, tests) = (opcodes()?, record()?);
    let mut covered = 0;
    for opcode in &opcodes {
        let names = tests.get(opcode).map(|set| {
            let names: Vec<&str> = set.iter().map(String::as_str).collect();
            names.join(" ")
        });
        covered += usize::from(names.is_some());
        println!("{opcode}\t{}", names.as_deref().unwrap_or("MISSING"));
    }
    println!("{covered} of {}", opcodes.len());
    Ok(if covered == opcodes.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Fails when an opcode has no test.
pub(crate) fn check() -> Result<()> {
    let (opcodes, tests) = (opcodes()?, record()?);
    let missing: Vec<&str> = opcodes
        .iter()
        .map(String::as_str)
        .filter(|&opcode| !tests.contains_key(opcode))
        .collect();
    ensure!(
        missing.is_empty(),
        "no test executes {}",
        missing.join(", ")
    );
    Ok(())
}

/// The opcodes that must be executed.
fn opcodes() -> Result<Vec<String>> {
    let list = std::fs::read_to_string(root().join("softgpu/testdata/opcodes.txt"))?;
    let opcodes = list.lines().filter(|line| !line.starts_with('#'));
    Ok(opcodes.map(str::to_owned).collect())
}

/// Runs the tests under the recorder.
fn record() -> Result<Tests> {
    let folder = target_directory()?.join("softgpu-coverage");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let isa = folder.join("isa");
    std::fs::create_dir_all(&isa).with_context(|| format!("cannot make {}", isa.display()))?;
    // One file per PTX file, and one for all tests of the driver API together.
    let test = |name| {
        let mut command = cargo();
        command.args(["test", "--quiet", "--package", "softgpu", "--test", name]);
        command.stdout(std::process::Stdio::null());
        command
    };
    run(test("isa").env("SOFTGPU_COVERAGE_DIR", &isa))?;
    run(test("driver").env("SOFTGPU_COVERAGE", folder.join("driver")))?;
    let mut tests = Tests::new();
    add(&mut tests, &isa)?;
    add(&mut tests, &folder)?;
    Ok(tests)
}

/// Adds the records of a folder: a file per test, an opcode per line.
fn add(tests: &mut Tests, folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for opcode in std::fs::read_to_string(&path)?.lines() {
            let set = tests.entry(opcode.to_owned()).or_default();
            set.insert(name.clone().into_owned());
        }
    }
    Ok(())
}
