//! Tests on a real GPU: this machine's, or a folder that runs wherever there is a driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process::{cargo, run as run_command};
use crate::root;
use crate::softgpu::target_directory;

/// What a conformance runner exits with where there is no device.
const NO_DEVICE: u8 = 2;
const RUNNER: &str = "conformance";
/// Times the GEMM: an example of the root package.
const SPEED: &str = "gemm_speed";
const PREDICTED: &str = "predicted.jsonl";
/// The folders of a bundle, and where their files come from.
const FOLDERS: [(&str, &str); 4] = [
    ("isa", "softgpu/tests/isa"),
    ("vectors", "softgpu/tests/hardware/vectors"),
    ("approx", "softgpu/tests/hardware/approx"),
    ("litmus", "softgpu/tests/hardware/litmus"),
];
const RUN: &str = "#!/bin/sh
# Runs every test on device 0 of this machine's CUDA driver; writes results/DEVICE.jsonl. Then times
# the GEMM; writes speed/DEVICE.jsonl.
set -eu
cd \"$(dirname \"$0\")\"
status=0
./conformance . || status=$?
test $status -le 1 || exit $status
HADAL_DEVICE=cuda ./gemm_speed --output speed || status=1
exit $status
";
const README: &str = "# Hardware tests

`./run.sh` needs a CUDA 13 driver, a Hopper GPU as device 0, and nothing else. It writes
`results/DEVICE.jsonl`, one line per test, and says what failed and which records are not as the
software GPU predicts (`predicted.jsonl`). Then it prints how fast the FP8 GEMM is beside published
times of other kernels, with a cold and a warm L2, and writes every sample and the clocks to
`speed/DEVICE.jsonl`. (Where the driver is the software GPU, shapes are small and each line says
`\"simulated\":true`.) Exit code 0: all passed, 1: some failed, 2: no device.

* `isa/`: instructions with expected results.
* `vectors/`: tensor-core products with C that is not zero; the records are D.
* `approx/`: results of `.approx` functions.
* `litmus/`: histograms of outcomes under the memory model; forbidden ones are expected to be 0.
";

#[derive(Args)]
pub(crate) struct GpuTask {
    /// Make a folder that runs on any machine with a driver, instead of running here
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

/// How the runner and the software GPU are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    #[cfg(test)]
    Dev,
    Release,
}

/// Makes a bundle, or runs one here.
#[expect(clippy::print_stdout, reason = "the folder is the command's result")]
pub(crate) fn run(task: &GpuTask) -> Result<ExitCode> {
    if let Some(folder) = &task.bundle {
        let folder = std::path::absolute(folder)?;
        bundle(&folder, Profile::Release)?;
        println!("{}", folder.display());
        return Ok(ExitCode::SUCCESS);
    }
    let built = build(Profile::Release)?;
    let probe = Command::new(built.join(RUNNER)).arg("--probe").status()?;
    if probe.code() == Some(NO_DEVICE.into()) {
        eprintln!(
            "this machine has no CUDA device: `cargo xtask gpu --bundle DIR` makes a folder whose \
             run.sh works on one that has"
        );
        return Ok(ExitCode::from(NO_DEVICE));
    }
    ensure!(probe.success(), "cannot ask for the device: {probe}");
    let folder = target_directory()?.join("gpu-bundle");
    bundle(&folder, Profile::Release)?;
    let status = Command::new(folder.join("run.sh")).status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds runner, timer and software GPU; where they are.
fn build(profile: Profile) -> Result<PathBuf> {
    let (folder, flag) = match profile {
        #[cfg(test)]
        Profile::Dev => ("debug", None),
        Profile::Release => ("release", Some("--release")),
    };
    // In one command: two would ask for different features of softgpu, and each build it anew.
    let packages = ["-p", "softgpu", "-p", "softgpu-conformance", "-p", "hadal"];
    let targets = ["--lib", "--bins", "--example", SPEED];
    let mut command = cargo();
    command.args(["build", "--quiet"]).args(flag);
    run_command(command.args(packages).args(targets))?;
    Ok(target_directory()?.join(folder))
}

/// Fills `folder`, replacing an earlier bundle but not its results.
fn bundle(folder: &Path, profile: Profile) -> Result<()> {
    let built = build(profile)?;
    let earlier = folder.join(RUNNER).is_file();
    let empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    ensure!(
        earlier || empty,
        "{} is neither empty nor an earlier bundle",
        folder.display()
    );
    for (name, source) in FOLDERS {
        let to = folder.join(name);
        if to.exists() {
            fs::remove_dir_all(&to).with_context(|| format!("cannot empty {}", to.display()))?;
        }
        copy_tests(&root().join(source), &to)?;
    }
    for (name, from) in [
        (RUNNER, built.join(RUNNER)),
        (SPEED, built.join("examples").join(SPEED)),
    ] {
        let to = folder.join(name);
        fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    fs::write(folder.join("README.md"), README)?;
    let script = folder.join("run.sh");
    fs::write(&script, RUN)?;
    make_executable(&script)?;
    predict(folder, &built.join("libsoftgpu.so"))
}

/// Copies the PTX files of one folder.
fn copy_tests(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("no {}", from.display()))? {
        let path = entry?.path();
        if let (Some("ptx"), Some(name)) =
            (path.extension().and_then(|e| e.to_str()), path.file_name())
        {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Lets the software GPU say what it would record.
fn predict(folder: &Path, library: &Path) -> Result<()> {
    let predicted = folder.join(PREDICTED);
    // Without it the run compares its records with nothing.
    if predicted.exists() {
        fs::remove_file(&predicted)?;
    }
    let work = folder.join("results");
    let kept: Vec<PathBuf> = results(&work)?;
    let output = Command::new(folder.join(RUNNER))
        .arg(folder)
        .env("CUDA_DRIVER", library)
        .output()?;
    if !output.status.success() {
        bail!(
            "the software GPU fails its own tests:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let made = results(&work)?;
    let new = made.iter().find(|path| !kept.contains(path));
    // A bundle that has run on the software GPU has a file of that name.
    let new = new.or(made.first()).context("the run left no results")?;
    fs::rename(new, &predicted)?;
    Ok(())
}

/// The results files.
fn results(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_runs_on_the_software_gpu() {
        let folder = tempfile::tempdir().unwrap();
        let bundled = folder.path().join("bundle");
        bundle(&bundled, Profile::Dev).unwrap();
        let driver = folder.path().join("driver");
        fs::create_dir(&driver).unwrap();
        let library = target_directory().unwrap().join("debug/libsoftgpu.so");
        std::os::unix::fs::symlink(library, driver.join("libcuda.so.1")).unwrap();
        let output = Command::new(bundled.join("run.sh"))
            .env("LD_LIBRARY_PATH", &driver)
            .env_remove("HADAL_SOFTGPU")
            .env_remove("CUDA_DRIVER")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains(" 0 failed, 0 skipped"), "{text}");
        let results = results(&bundled.join("results")).unwrap();
        let lines = fs::read_to_string(&results[0]).unwrap();
        assert!(
            lines.lines().count() > 150,
            "{} lines",
            lines.lines().count()
        );
        // Times of a simulation carry that mark, and no rate that could be taken for a GPU's.
        assert!(
            text.contains("SIMULATED: nothing here was measured"),
            "{text}"
        );
        let speed = self::results(&bundled.join("speed")).unwrap();
        let rows = fs::read_to_string(&speed[0]).unwrap();
        assert_eq!(rows.lines().count(), 8, "{rows}");
        for row in rows.lines() {
            assert!(row.contains("\"simulated\":true"), "{row}");
            assert!(row.contains("\"samples_us\":["), "{row}");
            assert!(
                !row.contains("tflops") && !row.contains("gb_per_s"),
                "{row}"
            );
        }
        let size: u64 = results
            .iter()
            .chain(&[PREDICTED, RUNNER, SPEED].map(|name| bundled.join(name)))
            .map(|path| path.metadata().unwrap().len())
            .sum();
        assert!(size < 60 << 20, "{size} bytes");
    }

    #[test]
    fn a_folder_with_other_things_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "years").unwrap();
        assert!(bundle(folder.path(), Profile::Dev).is_err());
    }
}
