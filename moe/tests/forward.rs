//! The layer end to end, every stage checked, for any number of tokens and ranks.

use hadal_moe::config::{Config, WeightFormat};
use hadal_moe::demo::{self, TRAINED_TOLERANCE};
use hadal_moe::family::{Family, Routing};
use hadal_moe::forward::{self, Form, Request};
use hadal_moe::report::Run;
use hadal_moe::seeded;
use std::path::Path;

fn trained(folder: &Path, ranks: usize, form: Form) -> (Run, Vec<u8>) {
    let source = demo::trained_layer();
    let output = folder.join(format!("{ranks}.safetensors"));
    let run = forward::run(&Request {
        name: format!("{ranks} ranks"),
        input: source.join("input.safetensors"),
        expected: Some(source.join("expected.safetensors")),
        checkpoint: source,
        output: output.clone(),
        ranks,
        form,
        experts: None,
        trace: None,
        layer: Some(1),
        check: true,
    })
    .expect("runs");
    (run, std::fs::read(output).expect("written"))
}

#[test]
fn the_trained_layer_agrees_and_has_the_same_bits_in_both_forms_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (run, single) = trained(folder.path(), 1, Form::Decode);
    assert_eq!(demo::judge(&run, TRAINED_TOLERANCE), [""; 0]);
    for (ranks, form) in [
        (1, Form::Prefill),
        (2, Form::Decode),
        (3, Form::Prefill),
        (4, Form::Decode),
        (8, Form::Prefill),
        (8, Form::Decode),
    ] {
        let (run, bytes) = trained(folder.path(), ranks, form);
        assert_eq!(
            demo::judge(&run, TRAINED_TOLERANCE),
            [""; 0],
            "{ranks} ranks, {form:?}"
        );
        assert!(
            bytes == single,
            "{ranks} ranks, {form:?}: the output differs from that on one rank"
        );
    }
}

#[test]
fn odd_shapes_and_token_counts_run() {
    // More ranks than experts, more ranks than tokens, no tokens, and no shared expert.
    for (experts, shared, tokens, ranks) in [
        (3, 0, 7, 2),
        (2, 1, 1, 4),
        (5, 2, 0, 3),
        (1, 1, 3, 2),
        (6, 1, 129, 5),
    ] {
        let config = Config {
            family: Family::DeepseekV3,
            hidden: 384,
            intermediate: 256,
            experts,
            shared,
            top_k: experts.min(2),
            routing: Routing {
                groups: 1,
                top_groups: 1,
                normalise: experts != 3,
                scaling: 1.5,
                ..Family::DeepseekV3.routing()
            },
            weights: WeightFormat::Fp8,
        };
        run_seeded(&config, tokens, ranks, 0.08);
    }
}

/// Runs a seeded layer in both forms, every stage checked, within a relative L2 of full precision; both give the same
/// bits. BF16 experts run in FP8 as well, where their widths allow.
fn run_seeded(config: &Config, tokens: usize, ranks: usize, tolerance: f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    seeded::write(folder.path(), config, tokens, 11).expect("written");
    let as_stored = (config, tokens, ranks, tolerance, None);
    let [prefill, decode] =
        [Form::Prefill, Form::Decode].map(|form| run_form(folder.path(), as_stored, form));
    assert!(prefill == decode, "{config:?}: the forms differ");
    if config.weights == WeightFormat::Bf16 && config.with_fp8_experts().is_ok() {
        let fp8 = Some(WeightFormat::Fp8);
        run_form(
            folder.path(),
            (config, tokens, ranks, 0.08, fp8),
            Form::Prefill,
        );
    }
}

fn run_form(
    folder: &Path,
    (config, tokens, ranks, tolerance, experts): (&Config, usize, usize, f64, Option<WeightFormat>),
    form: Form,
) -> Vec<u8> {
    let run = forward::run(&Request {
        name: format!("{form:?}, {config:?}, {tokens} tokens, {ranks} ranks"),
        checkpoint: folder.to_path_buf(),
        input: folder.join("input.safetensors"),
        output: folder.join("output.safetensors"),
        ranks,
        form,
        experts,
        trace: None,
        layer: None,
        check: true,
        expected: None,
    })
    .expect("runs");
    let report = run.check.as_ref().expect("checked");
    assert_eq!(report.mismatch(), None, "{}", run.name);
    let agreement = run.agreement.expect("compared");
    assert!(
        agreement.relative_l2 < tolerance,
        "{}: {agreement:?}",
        run.name
    );
    std::fs::read(folder.join("output.safetensors")).expect("written")
}

/// Each family's rule and tensor names, in the format it is published in and in FP8 where that exists.
#[test]
fn every_family_runs_in_bf16_and_fp8() {
    for family in Family::ALL {
        let grouped = usize::from(family.shared() > 0);
        let mut config = Config {
            family,
            hidden: 256,
            intermediate: 128,
            experts: 8,
            shared: grouped,
            top_k: 3,
            routing: Routing {
                groups: 1 + grouped,
                top_groups: 1,
                ..family.routing()
            },
            weights: WeightFormat::Bf16,
        };
        run_seeded(&config, 21, 2, 0.01);
        if family != Family::GraniteMoe {
            config.weights = WeightFormat::Fp8;
            run_seeded(&config, 21, 2, 0.08);
        }
    }
}

/// BF16 experts may have widths that FP8 blocks cannot.
#[test]
fn bf16_widths_are_multiples_of_16() {
    let config = Config {
        family: Family::Qwen3Moe,
        hidden: 208,
        intermediate: 144,
        experts: 5,
        shared: 0,
        top_k: 2,
        routing: Family::Qwen3Moe.routing(),
        weights: WeightFormat::Bf16,
    };
    run_seeded(&config, 33, 3, 0.01);
}

/// The expert shapes of published models, with as many experts and tokens as a minute or two allow.
#[test]
#[ignore = "minutes: the sweep runs it"]
fn published_shapes() {
    let shape = |family: Family, [hidden, intermediate]: [usize; 2], weights| Config {
        family,
        hidden,
        intermediate,
        experts: 8,
        shared: usize::from(family.shared() > 0),
        top_k: 2,
        routing: Routing {
            groups: 1,
            top_groups: 1,
            ..family.routing()
        },
        weights,
    };
    for config in [
        shape(Family::DeepseekV3, [7168, 2048], WeightFormat::Fp8),
        shape(Family::DeepseekV2, [5120, 1536], WeightFormat::Bf16),
        shape(Family::Qwen3Moe, [4096, 1536], WeightFormat::Fp8),
        shape(Family::Qwen3Moe, [2048, 768], WeightFormat::Bf16),
        shape(Family::Mixtral, [4096, 14336], WeightFormat::Bf16),
        shape(Family::Glm4Moe, [5120, 1536], WeightFormat::Fp8),
        shape(Family::GraniteMoe, [1536, 512], WeightFormat::Bf16),
    ] {
        let tolerance = if config.weights == WeightFormat::Fp8 {
            0.08
        } else {
            0.01
        };
        run_seeded(&config, 24, 2, tolerance);
    }
}
