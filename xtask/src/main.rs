//! The one entry for people: `cargo xtask COMMAND`. Run it from anywhere in the workspace.

mod bench;
mod coverage;
mod demo;
mod explore;
mod gpu;
mod params;
mod process;
mod rules;
mod sass;
mod setup;
mod softgpu;
mod sweep;
mod test;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Sets up, runs, tests and measures hadal"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs the pinned CUDA compiler and tools under target/cuda/, where they are missing
    Setup,
    /// Runs the main job: forward passes of mixture-of-experts layers, checked against the oracle
    Demo {
        /// End with one JSON line per run
        #[arg(long)]
        json: bool,
    },
    /// Runs every check and test
    Test,
    /// Measures
    Bench {
        /// What
        what: bench::Subject,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Runs a command under many seeds of the software GPU and stops at the first failure
    Explore(explore::Explore),
    /// Runs outside programs of the driver API on the software GPU
    Sweep(sweep::Sweep),
    /// Regenerates committed files from their sources
    Bless {
        /// Which file
        what: Blessed,
    },
    /// Fails when a generated file is not what its sources give, or a rule is broken
    Check {
        /// What
        what: Checked,
    },
    /// Prints registers, spills, shared memory and main-loop instructions of every kernel
    Sass(sass::SassTask),
    /// Runs the hardware tests on this machine's GPU (exit code 2 where there is none)
    Gpu(gpu::GpuTask),
    /// Builds the software GPU
    Softgpu(SoftgpuTask),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SoftgpuTask {
    /// Print the folder that holds libcuda.so.1, for LD_LIBRARY_PATH
    #[arg(long)]
    print_dir: bool,
    /// Print every opcode of production kernels with the tests that execute it
    #[arg(long)]
    coverage: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Blessed {
    /// src/params/generated.rs from csrc/params/*.h
    Params,
    /// benches/static/sm_90a.md from the compiled kernels
    Report,
}

#[derive(Clone, Copy, ValueEnum)]
enum Checked {
    /// src/params/generated.rs
    Params,
    /// benches/static/sm_90a.md
    Report,
    /// The rules that no compiler enforces
    Rules,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Format {
    /// The argument that asks another program for this format.
    fn argument(self) -> Option<&'static str> {
        (self == Self::Json).then_some("--json")
    }
}

impl From<bool> for Format {
    fn from(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// The workspace root.
fn root() -> &'static Path {
    hadal_kernel_build::workspace_root()
}

fn dispatch(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::run_setup()?,
        Command::Demo { json } => return demo::run((*json).into()),
        Command::Test => return test::run(),
        Command::Explore(explore) => return explore::run(explore),
        Command::Sweep(sweep) => return sweep::run(sweep),
        Command::Bench { what, json } => bench::run(*what, (*json).into())?,
        Command::Bless {
            what: Blessed::Params,
        } => params::bless()?,
        Command::Bless {
            what: Blessed::Report,
        } => sass::bless()?,
        Command::Check {
            what: Checked::Params,
        } => params::check()?,
        Command::Check {
            what: Checked::Report,
        } => sass::check()?,
        Command::Check {
            what: Checked::Rules,
        } => rules::check()?,
        Command::Sass(task) => sass::run(task)?,
        Command::Gpu(task) => return gpu::run(task),
        Command::Softgpu(task) if task.coverage => return coverage::print(),
        Command::Softgpu(_) => softgpu::print_dir()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    dispatch(&Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
