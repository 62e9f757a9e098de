//! numba-cuda's own tests, one process per test module.

use std::time::Duration;

use anyhow::Result;

use super::install::Places;
use super::outcome::{Outcome, Outcomes};
use super::process::limited;
use crate::process::output;

const SCRIPT: &str = "numba/run.py";
/// For one test module.
const LIMIT: Duration = Duration::from_secs(1200);

pub(super) fn run(places: &Places, only: &str) -> Result<Outcomes> {
    let modules = output(places.python(SCRIPT).arg("--list"))?;
    let results = places.results("numba")?;
    let mut outcomes = Outcomes::default();
    for module in modules.lines().filter(|module| module.contains(only)) {
        let name = module.trim_start_matches("numba.cuda.tests.");
        let record = results.join(format!("{name}.tsv"));
        // An old record must not count.
        std::fs::write(&record, "")?;
        let log = results.join(format!("{name}.log"));
        let mut command = places.python(SCRIPT);
        let end = limited(command.arg(module).arg(&record), LIMIT, &log)?;
        let text = std::fs::read_to_string(&record)?;
        let why = end.as_deref().unwrap_or("the process ended");
        let failures = outcomes.record(&text, why);
        if let Some(end) = &end {
            outcomes.set(
                module,
                Outcome::Failed(format!("{end}; see {}", log.display())),
            );
        }
        eprintln!(
            "{name}: {failures} failed{}",
            end.map(|e| format!("; {e}")).unwrap_or_default()
        );
    }
    Ok(outcomes)
}
