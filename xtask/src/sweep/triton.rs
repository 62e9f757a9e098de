//! Kernels that Triton compiles, one process per test of `softgpu/clients/triton/`.

use std::time::Duration;

use anyhow::Result;

use super::install::Places;
use super::outcome::{Outcome, Outcomes};
use super::process::limited;
use crate::process::output;
use crate::root;

const SCRIPT: &str = "triton/run.py";
/// For one test; the first one of a fresh installation compiles Triton's launcher.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) fn run(places: &Places, only: &str) -> Result<Outcomes> {
    // Triton's own setting: it calls this in place of the assembler, which would make machine code.
    let assembler = root().join("softgpu/clients/triton/pass_through_assembler");
    let python = || {
        let mut command = places.python(SCRIPT);
        command.env("TRITON_PTXAS_PATH", &assembler);
        command.env("TRITON_PTXAS_BLACKWELL_PATH", &assembler);
        command
    };
    let tests = output(python().arg("--list"))?;
    let results = places.results("triton")?;
    let mut outcomes = Outcomes::default();
    for test in tests.lines().filter(|test| test.contains(only)) {
        let log = results.join(format!("{test}.log"));
        let end = limited(python().arg(test), LIMIT, &log)?;
        eprintln!("{test}: {}", end.as_deref().unwrap_or("passed"));
        let outcome = match end {
            None => Outcome::Passed,
            Some(end) => Outcome::Failed(format!("{end}; see {}", log.display())),
        };
        outcomes.set(test, outcome);
    }
    Ok(outcomes)
}
