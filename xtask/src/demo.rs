//! The main job. The runs are defined by `hadal-moe demo`; this builds and starts it, and passes
//! its exit code on.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::process::cargo;
use crate::{Format, setup};

/// Sets up, builds and runs the demo.
pub(crate) fn run(format: Format) -> Result<ExitCode> {
    setup::run_setup()?;
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "hadal-moe",
        "--",
        "demo",
    ]);
    command.args(format.argument());
    let status = command.status().context("cannot start cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
