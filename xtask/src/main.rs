//! The one entry for people: `cargo xtask COMMAND`. Run it from anywhere in the workspace.

mod params;
mod process;
mod setup;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

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
    /// Checks that generated files are current
    Check,
    /// Regenerates committed files from their sources
    Bless {
        /// Which file
        what: Blessed,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Blessed {
    /// src/params/generated.rs from csrc/params/*.h
    Params,
}

/// The workspace root.
fn root() -> &'static Path {
    hadal_kernel_build::workspace_root()
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run_setup(),
        Command::Bless {
            what: Blessed::Params,
        } => params::bless(),
        Command::Check => params::check(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
