//! The main job: the trained layer on 1, 2 and 4 ranks, and a seeded layer of DeepSeek-V3's true
//! expert shape, every stage checked.

use crate::config::{Config, WeightFormat};
use crate::error::{Error, Result};
use crate::family::{Family, Routing};
use crate::forward::{self, Form, Request};
use crate::report::Run;
use crate::seeded;
use std::path::{Path, PathBuf};

/// Tolerance of the trained layer against full precision: quantising the activations moves the
/// output by 2.1 % (relative L2) and 1.7 % of its largest element (`data/tiny-moe/README.md`).
pub const TRAINED_TOLERANCE: f64 = 0.03;

/// The same for the seeded layer, whose random weights average nothing out.
pub const SEEDED_TOLERANCE: f64 = 0.06;

/// Widest bound over the largest output of a stage: a wider one could hide an error.
pub const WIDEST_BOUND: f64 = 0.02;

/// A run and what is wrong with it.
#[derive(Debug)]
pub struct Outcome {
    /// The run.
    pub run: Run,
    /// What does not hold; empty when all is well.
    pub failures: Vec<String>,
}

/// The trained layer's folder in the source tree.
#[must_use]
pub fn trained_layer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny-moe")
}

/// Runs everything; `scratch` holds the seeded layer and the outputs.
///
/// # Errors
///
/// Bad input, or a device failure.
pub fn run(scratch: &Path) -> Result<Vec<Outcome>> {
    std::fs::create_dir_all(scratch).map_err(Error::io(scratch, "create"))?;
    let mut outcomes = Vec::new();
    let mut first: Option<Vec<u8>> = None;
    for (ranks, form) in [
        (1, Form::Prefill),
        (2, Form::Prefill),
        (4, Form::Prefill),
        (4, Form::Decode),
    ] {
        let folder = trained_layer();
        let output = scratch.join(format!("trained-{ranks}-{}.safetensors", form.name()));
        let run = forward::run(&Request {
            name: format!("trained layer, {ranks} ranks, {}", form.name()),
            input: folder.join("input.safetensors"),
            expected: Some(folder.join("expected.safetensors")),
            checkpoint: folder,
            output: output.clone(),
            ranks,
            form,
            experts: None,
            trace: None,
            layer: None,
            check: true,
        })?;
        let mut failures = judge(&run, TRAINED_TOLERANCE);
        let bytes = std::fs::read(&output).map_err(Error::io(&output, "read"))?;
        if first.get_or_insert_with(|| bytes.clone()) != &bytes {
            failures.push(format!(
                "the output on {ranks} ranks in {} differs from that on 1",
                form.name()
            ));
        }
        outcomes.push(Outcome { run, failures });
    }
    let folder = seeded_layer(scratch)?;
    let run = forward::run(&Request {
        name: "seeded layer, 2 ranks".into(),
        input: folder.join("input.safetensors"),
        expected: None,
        checkpoint: folder,
        output: scratch.join("seeded-2.safetensors"),
        ranks: 2,
        form: Form::Prefill,
        experts: None,
        trace: None,
        layer: None,
        check: true,
    })?;
    let failures = judge(&run, SEEDED_TOLERANCE);
    outcomes.push(Outcome { run, failures });
    Ok(outcomes)
}

/// Writes the seeded layer unless it is there.
fn seeded_layer(scratch: &Path) -> Result<PathBuf> {
    let config = Config {
        family: Family::DeepseekV3,
        hidden: 7168,
        intermediate: 2048,
        experts: 8,
        shared: 1,
        top_k: 2,
        routing: Routing {
            groups: 2,
            top_groups: 1,
            ..Family::DeepseekV3.routing()
        },
        weights: WeightFormat::Fp8,
    };
    let folder = scratch.join("seeded");
    if !folder.join("config.json").is_file() {
        seeded::write(&folder, &config, 64, 1)?;
    }
    Ok(folder)
}

/// What does not hold for a checked run.
#[must_use]
pub fn judge(run: &Run, tolerance: f64) -> Vec<String> {
    let mut failures = Vec::new();
    match &run.check {
        None => failures.push("the stages were not checked".to_owned()),
        Some(report) => {
            failures.extend(report.mismatch());
            let (error, bound) = (report.max_err_over_bound(), report.max_bound_over_out());
            if !(error > 0.0 && error <= 1.0) {
                failures.push(format!(
                    "error / bound is {error}, expected above 0 and at most 1"
                ));
            }
            if bound.is_nan() || bound > WIDEST_BOUND {
                failures.push(format!(
                    "bound / output is {bound}, expected at most {WIDEST_BOUND}"
                ));
            }
        }
    }
    let near = run
        .agreement
        .is_some_and(|a| a.relative_l2 <= tolerance && a.relative_max <= tolerance);
    if !near {
        let found = run.agreement;
        failures.push(format!(
            "against full precision: {found:?}, expected at most {tolerance}"
        ));
    }
    failures
}
