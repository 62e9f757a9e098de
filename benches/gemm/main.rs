//! Host time of the GEMM's interface: planning, and what a call through the safe wrapper costs more
//! than the driver call that it ends in. Criterion's statistics, then the paired comparison; with
//! `--json` the comparison alone, as one JSON line.
//!
//! Launches go into a stream that captures, so that nothing executes and the times are the host's
//! alone, whatever the device. They depend on the driver (a software GPU has its own); their
//! difference is the wrapper.
#![expect(
    unsafe_code,
    reason = "launches through the driver, to compare the wrapper with"
)]

mod launch;
mod plan;

use std::error::Error;
use std::process::ExitCode;

use criterion::Criterion;
use hadal::device::{Context, Stream, selected};

use crate::launch::{Paired, Subjects};

/// Any error: each is printed and ends the program.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Nanoseconds that the wrapper may add to a launch.
const LIMIT: f64 = 500.0;

/// The paired comparisons.
struct Figures {
    plan: f64,
    /// `Gemm::run` on the last call's operands.
    same: Paired,
    /// `Gemm::run` on other operands: A, its scales and D.
    changed: Paired,
    /// `Stream::launch` of a kernel with little to do.
    bare: Paired,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// For people, behind Criterion's statistics.
    Text,
    /// One line.
    Json,
}

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    match run(if json { Format::Json } else { Format::Text }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(format: Format) -> Result<()> {
    eprintln!("{}", selected()?);
    let stream = Stream::new(&Context::new(0)?)?;
    let mut subjects = Subjects::new(&stream)?;
    if format == Format::Text {
        let mut criterion = Criterion::default().configure_from_args();
        plan::criterion(&mut criterion);
        subjects.criterion(&mut criterion);
        criterion.final_summary();
    }
    let figures = Figures {
        plan: plan::nanoseconds()?,
        same: subjects.same()?,
        changed: subjects.changed()?,
        bare: subjects.bare()?,
    };
    match format {
        Format::Json => print_json(&figures, &stream.context().name()?),
        Format::Text => print(&figures),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "prints its results")]
fn print(figures: &Figures) {
    println!("median of a plan{:>46.0} ns", figures.plan);
    for (what, paired) in [
        ("GEMM, operands of the last call", figures.same),
        ("GEMM, other A, scales and D", figures.changed),
        ("bare launch", figures.bare),
    ] {
        let Paired {
            raw,
            wrapper,
            overhead,
        } = paired;
        println!(
            "{what:<34} driver {raw:6.0} ns, wrapper {wrapper:6.0} ns, overhead {overhead:6.0} ns"
        );
    }
    println!("(medians; the overhead of the first and the last is to be at most {LIMIT} ns)");
}

#[expect(clippy::print_stdout, reason = "prints its results")]
fn print_json(figures: &Figures, device: &str) {
    let Figures {
        plan,
        same,
        changed,
        bare,
    } = figures;
    let pairs = [
        ("plan_ns", *plan),
        ("launch_raw_ns", same.raw),
        ("launch_wrapper_ns", same.wrapper),
        ("overhead_ns", same.overhead),
        ("changed_overhead_ns", changed.overhead),
        ("bare_raw_ns", bare.raw),
        ("bare_wrapper_ns", bare.wrapper),
        ("bare_overhead_ns", bare.overhead),
    ];
    let pairs: String = pairs
        .iter()
        .map(|(key, value)| format!("\"{key}\":{value:.0},"))
        .collect();
    println!("{{\"bench\":\"gemm\",{pairs}\"device\":\"{device}\"}}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
