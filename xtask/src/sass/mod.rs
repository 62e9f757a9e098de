//! The static report: what every compiled kernel takes on a device, from ptxas and from its
//! disassembly. It is committed as `benches/static/sm_90a.md`, so a change shows in review.
//!
//! Figures are *static*: read from the machine code, not measured; cycles are *modelled*.

mod classes;
mod code;
#[expect(
    unreachable_pub,
    dead_code,
    reason = "shared with the library, where it is public"
)]
#[path = "../../../src/gemm/stage.rs"]
mod stage;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use hadal_kernel_build::toolchain::{self, Places};
use hadal_kernel_build::{Config, Image};

use crate::process::output;
use crate::{root, setup, softgpu};
use classes::{CLASSES, Class};
use code::Sass;
use stage::StageShape;

const INTRODUCTION: &str = "\
# Static report

Written by `cargo xtask bless report` from the `sm_90a` machine code of every row of
`csrc/instances.toml`. Static figures, not measurements.

*Registers*: per thread at launch, and the highest index that the code uses (they differ where
`setmaxnreg` moves registers between warps). *Loop*: instructions per warp in the main loop, which is
the one with the largest share of matrix instructions, or the longest where there are none; *MMA*:
matrix instructions among them. No kernel spills and none has a remark C75xx (serialised
`wgmma` and its kin): the build refuses that.
";

const CLASSES_INTRODUCTION: &str = "
## GEMM main loops

Instructions per warp for a share of 64 × 128 × 128 (four `wgmma` of 128 columns), everything from one
turn of the ring of stages to the next counted (but K blocks that fill no turn), beside the best public
kernel of the class (DeepGEMM compiled with ptxas 13.0; its N and K are constants, here they
are not), and modelled cycles per 128³ of both by the same model (`src/gemm/stage.rs`).

| class | kernel | GMMA | FFMA | FMUL | FADD | all | baseline | cycles | baseline |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// `cargo xtask sass`
#[derive(Args)]
pub(crate) struct SassTask {
    /// Print one JSON line per GEMM class, and one per other kernel
    #[arg(long)]
    json: bool,
    /// Write the cubins there, so that anyone can count again
    #[arg(long, value_name = "DIR")]
    emit: Option<PathBuf>,
}

/// One kernel with what was found.
struct Entry {
    image: Image,
    sass: Sass,
}

/// Prints the report.
#[expect(clippy::print_stdout, reason = "the report is the command's result")]
pub(crate) fn run(task: &SassTask) -> Result<()> {
    let entries = entries()?;
    if let Some(folder) = &task.emit {
        emit(&entries, folder)?;
    }
    if task.json {
        print!("{}", json(&entries));
    } else {
        println!("{}", report(&entries)?);
    }
    Ok(())
}

fn emit(entries: &[Entry], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    for Entry { image, .. } in entries {
        let to = folder.join(format!("{}.cubin", image.row.name));
        std::fs::copy(&image.cubin, &to)
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

/// Writes the report.
pub(crate) fn bless() -> Result<()> {
    let path = committed();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let text = report(&entries()?)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
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
    let current = report(&entries()?)?;
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
    root().join("benches/static/sm_90a.md")
}

/// Every kernel, disassembled.
fn entries() -> Result<Vec<Entry>> {
    let target = softgpu::target_directory()?;
    let config = Config {
        workspace: root().to_owned(),
        places: Places::from_env(root()),
        cache: target.join("kernel-cache"),
        work: target.join("kernel-report"),
        jobs: std::thread::available_parallelism().map_or(1, Into::into),
    };
    let nvdisasm = nvdisasm()?;
    let disassemble = |image: Image| {
        let mut command = std::process::Command::new(&nvdisasm);
        let sass = code::parse(&output(command.arg("-c").arg(&image.cubin))?);
        Ok(Entry { image, sass })
    };
    let images = hadal_kernel_build::compile(&config)?;
    images.into_iter().map(disassemble).collect()
}

fn report(entries: &[Entry]) -> Result<String> {
    let mut out = format!(
        "{INTRODUCTION}\n| kernel | threads | cluster | registers | highest | shared (static + \
         dynamic) | stack | instructions | loop | MMA |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for entry in entries {
        row(&mut out, entry);
    }
    out += CLASSES_INTRODUCTION;
    for class in &CLASSES {
        class_row(&mut out, class, find(entries, class)?);
    }
    Ok(out)
}

fn find<'a>(entries: &'a [Entry], class: &Class) -> Result<&'a Entry> {
    let found = entries
        .iter()
        .find(|entry| entry.image.row.name == class.kernel);
    found.with_context(|| format!("no instance {} for class {}", class.kernel, class.name))
}

fn row(out: &mut String, Entry { image, sass }: &Entry) {
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
        sass.main_loop.instructions,
        sass.main_loop.mma,
    );
}

/// Instructions of some kind per share of 64 × 128 × 128.
fn per_step(sass: &Sass, count: usize) -> f64 {
    count as f64 / sass.main_loop.steps()
}

/// The tile of a GEMM kernel, from its threads and its loop.
fn stage_shape(Entry { image, sass }: &Entry) -> Option<StageShape> {
    let (_, tile) = image.row.name.rsplit_once('_')?;
    let (m, n) = tile.split_once('x')?;
    let (m, n): (u32, u32) = (m.parse().ok()?, n.parse().ok()?);
    let (long, short) = if image.row.name.contains("_swapped_") {
        (n, m)
    } else {
        (m, n)
    };
    let blocks = long / 64 / (image.row.threads / 128 - 1).max(1);
    let share = f64::from(short * blocks) / 128.0;
    Some(StageShape {
        long,
        short,
        blocks,
        instructions: per_step(sass, sass.main_loop.instructions) * share,
    })
}

fn class_row(out: &mut String, class: &Class, entry: &Entry) {
    let found = &entry.sass.main_loop;
    let count = |count| per_step(&entry.sass, count);
    let cycles = stage_shape(entry).map_or(f64::NAN, |shape| shape.per_step());
    let (all, modelled) = class.baseline.map_or((String::new(), String::new()), |b| {
        (format!("{:.1}", b.per_step), format!("{:.0}", b.cycles()))
    });
    let _ = writeln!(
        out,
        "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {all} | {cycles:.0} | {modelled} |",
        class.name,
        class.kernel,
        count(found.mma),
        count(found.ffma),
        count(found.fmul),
        count(found.fadd),
        count(found.instructions),
    );
}

/// One line per class, then one per GEMM kernel of no class.
fn json(entries: &[Entry]) -> String {
    let mut out = String::new();
    let of_class = |class: &Class| find(entries, class).ok().map(|entry| (class.name, entry));
    let classes = CLASSES.iter().filter_map(of_class);
    let others = entries
        .iter()
        .filter(|entry| entry.sass.main_loop.mma > 0)
        .filter(|entry| CLASSES.iter().all(|c| c.kernel != entry.image.row.name))
        .map(|entry| (entry.image.row.name.as_str(), entry));
    for (class, entry) in classes.chain(others) {
        json_line(&mut out, class, entry);
    }
    out
}

fn json_line(out: &mut String, class: &str, entry: &Entry) {
    let Entry { image, sass } = entry;
    let Image { row, resources, .. } = image;
    let found = &sass.main_loop;
    let count = |count| per_step(sass, count);
    let cycles = stage_shape(entry).map_or(f64::NAN, |shape| shape.per_step());
    // Names are identifiers, so nothing needs escaping.
    let _ = writeln!(
        out,
        "{{\"name\":\"{}\",\"class\":\"{class}\",\"regs\":{},\"spill_bytes\":{},\
         \"serialised_wgmma\":{},\"smem\":{},\"stack\":{},\"loop_per_step\":{:.2},\"gmma\":{:.2},\
         \"ffma\":{:.2},\"fmul\":{:.2},\"fadd\":{:.2},\"modelled_cycles_per_step\":{cycles:.1}}}",
        row.name,
        sass.highest_register,
        resources.spill_bytes,
        resources.serialised_wgmma,
        row.shared + resources.static_shared,
        resources.stack,
        count(found.instructions),
        count(found.mma),
        count(found.ffma),
        count(found.fmul),
        count(found.fadd),
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
