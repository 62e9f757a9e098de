//! `sweep gemm` and `sweep ep`: the large cases of the GEMM and of the all-to-all. `sweep faults`: ranks that are killed. `sweep moe`: layers of
//! published shapes.
//! `sweep clients`: outside programs of the CUDA driver API, unmodified, on the software GPU.
//!
//! They are installed under `target/clients/`, from pinned sources. Every test of theirs must pass,
//! apart from those that `docs/softgpu-clients.md` lists one by one with a reason; a listed test that
//! passes, or that no longer exists, is an error too.

mod cudarc;
mod install;
mod list;
mod numba;
mod outcome;
mod process;
mod triton;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::Format;
use crate::process::{cargo, run as run_command};
use install::Places;
use list::Expected;
use outcome::{Outcomes, Verdict};

/// Of the tests that run, less than this part may be listed as failing, not counting those that
/// compare wall times: they fail or pass with the machine that runs them.
const MOST_LISTED: f64 = 0.05;

/// Arguments of `sweep`.
#[derive(Args)]
pub(crate) struct Sweep {
    /// What
    what: Subject,
    /// Which of them; all, if none is named
    suites: Vec<Suite>,
    /// Only test modules (numba) or tests whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// End with one JSON line
    #[arg(long)]
    json: bool,
}

/// What can be swept.
#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Outside programs of the driver API, on the software GPU
    Clients,
    /// The large cases of `tests/gemm/cases.toml`
    Gemm,
    /// The large cases of `tests/ep/cases.toml`
    Ep,
    /// The all-to-all while ranks' processes are killed, a hundred times
    Faults,
    /// Layers with the expert shapes of published models
    Moe,
}

/// An outside client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// numba-cuda's own tests: cudadrv and cudapy
    Numba,
    /// Kernels compiled by Triton
    Triton,
    /// cudarc's own unit tests
    Cudarc,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Numba => "numba",
            Self::Triton => "triton",
            Self::Cudarc => "cudarc",
        }
    }

    fn run(self, places: &Places, only: &str, listed: &BTreeMap<&str, bool>) -> Result<Outcomes> {
        match self {
            Self::Numba => numba::run(places, only, listed),
            Self::Triton => triton::run(places, only),
            Self::Cudarc => cudarc::run(places, only),
        }
    }
}

/// Runs what is asked for.
pub(crate) fn run(sweep: &Sweep) -> Result<ExitCode> {
    match sweep.what {
        Subject::Clients => clients(sweep),
        Subject::Gemm => large(["hadal", "gemm"], "cases::sweep"),
        Subject::Ep => large(["hadal", "ep"], "cases::large"),
        Subject::Faults => large(["hadal", "ep"], "membership::processes::a_hundred_kills"),
        Subject::Moe => large(["hadal-moe", "forward"], "published_shapes"),
    }
}

/// A test that takes too long for every day.
fn large([package, program]: [&str; 2], test: &str) -> Result<ExitCode> {
    let program = ["test", "-p", package, "--test", program, "--"];
    run_command(
        cargo()
            .args(program)
            .args(["--ignored", "--exact", "--nocapture", test]),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Installs and runs the clients.
#[expect(clippy::print_stdout, reason = "prints its results")]
fn clients(sweep: &Sweep) -> Result<ExitCode> {
    let expected = Expected::read()?;
    let places = install::run()?;
    let suites = match &sweep.suites[..] {
        [] => Suite::value_variants(),
        named => named,
    };
    let (mut passed, mut failed, mut parts) = (0, 0, Vec::new());
    for suite in suites {
        let only = sweep.only.as_deref();
        let listed = expected.of(suite.name());
        let begun = Instant::now();
        let outcomes = suite.run(&places, only.unwrap_or_default(), &listed)?;
        let seconds = begun.elapsed().as_secs();
        if outcomes.len() == 0 {
            bail!("{}: no test ran", suite.name());
        }
        let verdict = Verdict::new(&outcomes, &listed, only);
        let lasting = |test: &&String| listed.get(test.as_str()) == Some(&false);
        let lasting = verdict.listed.iter().filter(lasting).count();
        let share = lasting as f64 / verdict.ran().max(1) as f64;
        let too_many = only.is_none() && share >= MOST_LISTED;
        verdict.print(suite.name(), seconds);
        if too_many {
            println!(
                "{}: {:.1} % are listed as failing",
                suite.name(),
                share * 100.0
            );
        }
        passed += verdict.passed;
        failed += verdict.failed() + usize::from(too_many);
        parts.push(verdict.json(suite.name(), seconds));
    }
    println!("{passed} passed, {failed} failed");
    if Format::from(sweep.json) == Format::Json {
        println!(
            "{{\"sweep\":\"clients\",\"passed\":{passed},\"failed\":{failed},\"suites\":[{}]}}",
            parts.join(",")
        );
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
