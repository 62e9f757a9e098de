//! cudarc's own unit tests: the source that cargo fetched for us, copied and tested.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::install::Places;
use super::outcome::{Outcome, Outcomes};
use super::process::limited;
use crate::process::{cargo, output};

/// As hadal uses it.
const FEATURES: &str = "std,driver,nvrtc,cuda-13000,dynamic-loading";
/// For building and testing.
const LIMIT: Duration = Duration::from_secs(1800);

pub(super) fn run(places: &Places, only: &str) -> Result<Outcomes> {
    let source = places.folder.join("cudarc");
    if !source.join("Cargo.toml").is_file() {
        copy(&fetched()?, &source)?;
    }
    let log = places.results("cudarc")?.join("log.txt");
    let mut command = cargo();
    command.current_dir(&source);
    command.args(["test", "--lib", "--no-default-features"]);
    command.args(["--features", FEATURES, "--", "--test-threads", "2", only]);
    command.env("CARGO_TARGET_DIR", places.folder.join("cudarc-target"));
    places.on_softgpu(&mut command);
    let end = limited(&mut command, LIMIT, &log)?;
    let text = std::fs::read_to_string(&log)?;
    let mut outcomes = parse(&text);
    // An end with an error is explained by the tests that failed, unless none did.
    let complete = text.lines().any(|line| line.starts_with("test result:"));
    if let (Some(end), false) = (end, complete) {
        outcomes.set(
            "cudarc",
            Outcome::Failed(format!("{end}; see {}", log.display())),
        );
    }
    Ok(outcomes)
}

/// Reads the lines `test NAME ... ok`.
fn parse(text: &str) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for line in text.lines() {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        let outcome = match result.trim() {
            "ok" => Outcome::Passed,
            result if result.starts_with("ignored") => Outcome::Skipped,
            result => Outcome::Failed(result.to_owned()),
        };
        outcomes.set(name.trim_end_matches(" - should panic"), outcome);
    }
    outcomes
}

/// Where cargo keeps the source of the cudarc that this workspace uses.
fn fetched() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1"]))?;
    let paths = metadata.split("\"manifest_path\":\"").skip(1);
    for path in paths.filter_map(|rest| rest.split('"').next()) {
        let folder = Path::new(path)
            .parent()
            .context("a manifest in no folder")?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("cudarc-") {
            return Ok(folder.to_owned());
        }
    }
    bail!("cargo metadata names no cudarc")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in
        std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?
    {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::parse;
    use crate::sweep::outcome::Verdict;

    #[test]
    fn outcomes_are_read() {
        let text = "running 3 tests\ntest a::b ... ok\ntest c - should panic ... ok\n\
                    test d ... FAILED\ntest e ... ignored, why\n";
        let verdict = Verdict::new(&parse(text), &BTreeMap::from([("d", false)]), None);
        assert_eq!((verdict.passed, verdict.failed()), (2, 0));
        assert_eq!(verdict.listed, ["d"]);
    }
}
