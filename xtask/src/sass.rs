//! The static report: what every compiled kernel takes on a device, from ptxas and from its
//! disassembly. It is committed as `docs/static-report.md`, so a change shows in review.
//!
//! Figures are *static*: read from the machine code, not measured.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hadal_kernel_build::toolchain::{self, Places};
use hadal_kernel_build::{Config, Image};

use crate::process::output;
use crate::{root, setup, softgpu};

const INTRODUCTION: &str = "\
# Static report

Written by `cargo xtask bless report` from the `sm_90a` machine code of every row of
`csrc/instances.toml`. Static figures, not measurements.

*Registers*: per thread at launch, and the highest index that the code uses (they differ where
`setmaxnreg` moves registers between warps). *Loop*: instructions per warp in the main loop, which is
the innermost loop with the most matrix instructions, or the longest loop where there are none;
*MMA*: matrix instructions among them. No kernel spills: the build refuses that.
";

/// What the machine code of a kernel tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sass {
    instructions: usize,
    highest_register: u32,
    loop_instructions: usize,
    loop_mma: usize,
}

/// Prints the report.
#[expect(clippy::print_stdout, reason = "the report is the command's result")]
pub(crate) fn print() -> Result<()> {
    println!("{}", report()?);
    Ok(())
}

/// Writes the report.
pub(crate) fn bless() -> Result<()> {
    let path = committed();
    std::fs::write(&path, report()?).with_context(|| format!("cannot write {}", path.display()))
}

/// Fails when the committed report is not current. Another compiler than the pinned one gives
/// other code, so only the pinned one is compared.
pub(crate) fn check() -> Result<()> {
    let found = toolchain::find(&Places::from_env(root()))?;
    if found.version != toolchain::MINIMUM {
        eprintln!(
            "not compared: nvcc {} is not {}",
            found.version,
            toolchain::MINIMUM
        );
        return Ok(());
    }
    let path = committed();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let current = report()?;
    if let Some((old, new)) = text
        .lines()
        .zip(current.lines())
        .find(|(old, new)| old != new)
    {
        bail!(
            "{} is stale (`cargo xtask bless report`):\n- {old}\n+ {new}",
            path.display()
        );
    }
    if text != current {
        bail!(
            "{} is stale (`cargo xtask bless report`): other rows",
            path.display()
        );
    }
    Ok(())
}

fn committed() -> PathBuf {
    root().join("docs/static-report.md")
}

fn report() -> Result<String> {
    let target = softgpu::target_directory()?;
    let config = Config {
        workspace: root().to_owned(),
        places: Places::from_env(root()),
        cache: target.join("kernel-cache"),
        work: target.join("kernel-report"),
        jobs: std::thread::available_parallelism().map_or(1, Into::into),
    };
    let images = hadal_kernel_build::compile(&config)?;
    let nvdisasm = nvdisasm()?;
    let mut out = format!(
        "{INTRODUCTION}\n| kernel | threads | cluster | registers | highest | shared (static + \
         dynamic) | stack | instructions | loop | MMA |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for image in &images {
        let mut command = std::process::Command::new(&nvdisasm);
        let sass = parse(&output(command.arg("-c").arg(&image.cubin))?);
        row(&mut out, image, &sass);
    }
    Ok(out)
}

fn row(out: &mut String, image: &Image, sass: &Sass) {
    let Image { row, resources, .. } = image;
    let [x, y, z] = row.cluster;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} + {} | {} | {} | {} | {} |",
        row.name,
        row.threads,
        x * y * z,
        resources.registers,
        sass.highest_register,
        resources.static_shared,
        row.shared,
        resources.stack,
        sass.instructions,
        sass.loop_instructions,
        sass.loop_mma,
    );
}

/// Beside the compiler, or as setup installs it.
fn nvdisasm() -> Result<PathBuf> {
    let found = toolchain::find(&Places::from_env(root()))?;
    let beside = found.nvcc.with_file_name("nvdisasm");
    let installed = setup::folder().join("nvidia/cu13/bin/nvdisasm");
    match [beside, installed]
        .into_iter()
        .find(|path| Path::is_file(path))
    {
        Some(path) => Ok(path),
        None => bail!("no nvdisasm: run `cargo xtask setup`"),
    }
}

/// Reads `nvdisasm -c` output: labels, and instructions behind a `/*address*/`.
fn parse(text: &str) -> Sass {
    let mut code: Vec<&str> = Vec::new();
    let mut labels: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, code.len());
        } else if let Some((_, instruction)) = line
            .strip_prefix("/*")
            .and_then(|rest| rest.split_once("*/"))
        {
            code.push(instruction.trim());
        }
    }
    let mut sass = Sass {
        instructions: code.len(),
        ..Sass::default()
    };
    sass.highest_register = code
        .iter()
        .filter_map(|line| highest_register(line))
        .max()
        .unwrap_or(0);
    for (index, line) in code.iter().enumerate() {
        let Some(start) = branch_target(line).and_then(|label| labels.get(label)) else {
            continue;
        };
        let Some(body) = code.get(*start..=index) else {
            continue;
        };
        let mma = body.iter().filter(|line| is_mma(line)).count();
        let better = match mma.cmp(&sass.loop_mma) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            // Of loops with the same matrix instructions, the innermost.
            std::cmp::Ordering::Equal if mma > 0 => body.len() < sass.loop_instructions,
            std::cmp::Ordering::Equal => body.len() > sass.loop_instructions && body.len() > 1,
        };
        if better {
            (sass.loop_instructions, sass.loop_mma) = (body.len(), mma);
        }
    }
    sass
}

/// The label of `BRA `(.L_x_1)`.
fn branch_target(instruction: &str) -> Option<&str> {
    let (before, rest) = instruction.split_once("`(")?;
    before
        .contains("BRA")
        .then(|| rest.split_once(')').map(|(label, _)| label))?
}

/// `HFMA2.MMA` is a plain instruction in spite of its name.
fn is_mma(instruction: &str) -> bool {
    let is_matrix = |op: &str| op.ends_with("GMMA") || matches!(op, "HMMA" | "IMMA" | "DMMA");
    instruction.split([' ', '.']).any(is_matrix)
}

/// The highest register index of an instruction, with the whole range of wide operands.
fn highest_register(instruction: &str) -> Option<u32> {
    let wide = wgmma_accumulators(instruction)
        .or_else(|| access_width(instruction))
        .unwrap_or(1);
    let words = instruction.split(|c: char| !c.is_ascii_alphanumeric());
    let first = words
        .filter_map(|word| word.strip_prefix('R')?.parse::<u32>().ok())
        .max()?;
    Some(first + wide - 1)
}

/// Accumulator registers per thread of `QGMMA.64xNxK.F32…`: 64 x N over 128 threads.
fn wgmma_accumulators(instruction: &str) -> Option<u32> {
    let (_, shape) = instruction.split_once("GMMA.64x")?;
    let (columns, _) = shape.split_once('x')?;
    columns.parse::<u32>().ok().map(|columns| columns / 2)
}

/// Registers of a 64- or 128-bit load or store.
fn access_width(instruction: &str) -> Option<u32> {
    let memory = ["LD", "ST"].iter().any(|op| instruction.contains(op));
    let widths = [(".128", 4), (".64", 2)];
    widths
        .iter()
        .find(|(suffix, _)| memory && instruction.contains(suffix))
        .map(|&(_, n)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "\
\t.target\tsm_90a
kernel:
.text.kernel:
        /*0000*/                   S2R R21, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_2:
        /*0020*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*0030*/                   FADD R1, R2, R3 ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
        /*0050*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*0060*/                   BRA `(.L_x_3) ;
";

    #[test]
    fn the_main_loop_is_the_innermost_with_matrix_instructions() {
        let expected = Sass {
            instructions: 7,
            highest_register: 24 + 63,
            loop_instructions: 3,
            loop_mma: 1,
        };
        assert_eq!(parse(CODE), expected);
    }

    #[test]
    fn without_matrix_instructions_it_is_the_longest_and_no_trap_at_the_end() {
        let sass = parse(&CODE.replace("QGMMA", "NOP"));
        assert_eq!((sass.loop_instructions, sass.loop_mma), (5, 0));
        let end = "kernel:\n/*0000*/ EXIT ;\n.L_x_3:\n/*0010*/ BRA `(.L_x_3) ;\n";
        assert_eq!(parse(end).loop_instructions, 0);
    }

    #[test]
    fn wide_operands_count_in_full() {
        assert_eq!(highest_register("LDG.E.128 R4, desc[UR4][R2.64]"), Some(7));
        assert_eq!(highest_register("ST.E.64 desc[UR4][R2.64], R6"), Some(7));
        assert_eq!(highest_register("FADD R1, R200, RZ"), Some(200));
        assert_eq!(highest_register("UMOV UR4, 0x400"), None);
    }
}
