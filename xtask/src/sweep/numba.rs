//! numba-cuda's own tests, one process per test module, and one for each test that is listed as
//! failing: its fault stays in its context, where all that follows in the process would fail too.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::install::Places;
use super::outcome::{Outcome, Outcomes};
use super::process::limited;
use crate::process::output;

const SCRIPT: &str = "numba/run.py";
/// Tests compare all output and all warnings of a process with what they expect. This one is of our
/// set-up: without nvJitLink numba-cuda links through the driver. The rest is as by unittest.
const WARNINGS: &str = "default,ignore:cuda.bindings.nvjitlink is not available:RuntimeWarning";
/// Memory of a device: a test fills a tenth of it, and twice as much of the host's.
const MEMORY_GIB: &str = "16";
/// For one test module.
const LIMIT: Duration = Duration::from_secs(1200);
/// For one listed test.
const LISTED_LIMIT: Duration = Duration::from_secs(240);

pub(super) fn run(places: &Places, only: &str, listed: &BTreeMap<&str, bool>) -> Result<Outcomes> {
    let modules = output(places.python(SCRIPT).arg("--list"))?;
    let results = places.results("numba")?;
    let mut outcomes = Outcomes::default();
    for module in modules.lines().filter(|module| module.contains(only)) {
        let name = module.trim_start_matches("numba.cuda.tests.");
        let record = results.join(format!("{name}.tsv"));
        let inside = |test: &&str| {
            let rest = test.strip_prefix(module);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        let apart: Vec<&str> = listed.keys().copied().filter(inside).collect();
        let python = || {
            let mut command = places.python(SCRIPT);
            command.env("PYTHONWARNINGS", WARNINGS);
            command.env("SOFTGPU_MEMORY_GIB", MEMORY_GIB);
            command
        };
        let mut command = python();
        command.arg(module).arg(&record);
        command.arg("without").args(&apart);
        let (mut failures, end) = record_run(&mut outcomes, &mut command, LIMIT, &record)?;
        if let Some(end) = &end {
            let log = record.with_extension("log");
            let why = format!("{end}; see {}", log.display());
            outcomes.set(module, Outcome::Failed(why));
        }
        for test in apart {
            let record = results.join(format!("{name}.{}.tsv", short(test)));
            let mut command = python();
            command.arg(module).arg(&record).args(["only", test]);
            failures += record_run(&mut outcomes, &mut command, LISTED_LIMIT, &record)?.0;
        }
        let end = end.map(|end| format!("; {end}")).unwrap_or_default();
        eprintln!("{name}: {failures} failed{end}");
    }
    Ok(outcomes)
}

/// The last part of a test's name.
fn short(test: &str) -> &str {
    test.rsplit_once('.').map_or(test, |(_, last)| last)
}

/// Adds what a process recorded: its failures, and how it ended unless that was success.
fn record_run(
    outcomes: &mut Outcomes,
    command: &mut Command,
    limit: Duration,
    record: &Path,
) -> Result<(usize, Option<String>)> {
    // An old record must not count.
    std::fs::write(record, "")?;
    let end = limited(command, limit, &record.with_extension("log"))?;
    let text = std::fs::read_to_string(record)?;
    let why = end.as_deref().unwrap_or("the process ended");
    let failures = outcomes.record(&text, why);
    Ok((failures, end))
}
