//! Benchmarks: starts them in the release profile.

use anyhow::Result;
use clap::ValueEnum;

use crate::process::{cargo, run as run_command};
use crate::{Format, setup};

/// What can be measured.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Subject {
    /// The software GPU: interpreter and dense GEMM, per host core
    Softgpu,
    /// Host time of the GEMM's interface: planning, and the wrapper beside the driver call
    Gemm,
    /// What the all-to-all puts on the wire, counted by the software GPU
    Ep,
}

/// Runs the benchmark of `what`.
pub(crate) fn run(what: Subject, format: Format) -> Result<()> {
    setup::run_setup()?;
    let name = match what {
        Subject::Softgpu => "softgpu",
        Subject::Gemm => "gemm",
        Subject::Ep => "ep",
    };
    let mut command = cargo();
    command.args([
        "bench",
        "--quiet",
        "--package",
        "hadal",
        "--bench",
        name,
        "--",
    ]);
    command.args(format.argument());
    run_command(&mut command)
}
