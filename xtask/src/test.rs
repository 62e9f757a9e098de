//! Every check and every test, with one closing line. A check that fails does not stop the others.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process::{cargo, run as run_command};
use crate::{coverage, rules, setup};

/// What succeeded and what did not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// A named step.
type Check = (&'static str, fn() -> Result<()>);

/// Runs everything.
#[expect(
    clippy::print_stdout,
    reason = "the closing line is the command's result"
)]
pub(crate) fn run() -> Result<ExitCode> {
    let start = Instant::now();
    setup::run_setup()?;
    let mut tally = Tally::default();
    let checks: [Check; 7] = [
        ("format", || {
            run_command(cargo().args(["fmt", "--all", "--check"]))
        }),
        ("rules", rules::check),
        ("parameters are current", || xtask(&["check", "params"])),
        ("static report is current", || xtask(&["check", "report"])),
        ("clippy", clippy),
        ("documentation", documentation),
        ("every opcode is executed", coverage::check),
    ];
    for (name, check) in checks {
        eprintln!("== {name}");
        match check() {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                eprintln!("FAILED {name}: {error:#}");
                tally.failed += 1;
            }
        }
    }
    eprintln!("== tests");
    tests(&mut tally)?;
    eprintln!("{} ignored; {} s", tally.ignored, start.elapsed().as_secs());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// This program again: generating needs a process of its own.
fn xtask(arguments: &[&str]) -> Result<()> {
    let executable = std::env::current_exe()?;
    run_command(std::process::Command::new(executable).args(arguments))
}

fn clippy() -> Result<()> {
    let arguments = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    run_command(cargo().args(arguments))
}

fn documentation() -> Result<()> {
    let arguments = [
        "doc",
        "--quiet",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    run_command(cargo().env("RUSTDOCFLAGS", "-D warnings").args(arguments))
}

/// Runs `cargo test` and adds up its summaries.
#[expect(clippy::print_stdout, reason = "passes the tests' output on")]
fn tests(tally: &mut Tally) -> Result<()> {
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let mut failed_here = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo test printed no UTF-8")?;
        println!("{line}");
        if let Some(part) = summary(&line) {
            tally.passed += part.passed;
            tally.ignored += part.ignored;
            failed_here += part.failed;
        }
    }
    let status = child.wait()?;
    // A test program that does not compile, or that dies, prints no summary.
    tally.failed += if status.success() {
        failed_here
    } else {
        failed_here.max(1)
    };
    Ok(())
}

/// The counts in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn summary(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let (before, _) = counts.split_once(word)?;
        before.rsplit(' ').next()?.parse().ok()
    };
    Some(Tally {
        passed: count(" passed")?,
        failed: count(" failed")?,
        ignored: count(" ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read_and_other_lines_are_not() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            summary(line),
            Some(Tally {
                passed: 12,
                failed: 3,
                ignored: 1
            })
        );
        assert_eq!(summary("test a ... ok"), None);
        assert_eq!(summary("test result: unknown"), None);
    }
}
