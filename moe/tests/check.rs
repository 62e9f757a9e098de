//! The stage checks can fail: a pass emulated on the host agrees, and every single corruption of what
//! it left is found, in the stage it belongs to.

use hadal_moe::check::{Forward, Report};
use hadal_moe::checkpoint::{
    Checkpoint, ExpertWeights, LayerWeights, Projection, WeightValues, read_hidden_states,
};
use hadal_moe::config::{Config, WeightFormat};
use hadal_moe::family::{Family, Routing};
use hadal_moe::layer::capture::{
    ActivationValues, Activations, ExpertCapture, LayerCapture, MlpCapture, RankCapture, Source,
};
use hadal_moe::{forward, oracle, seeded};
use hadal_reference::fp8::e4m3_from_f64;
use hadal_reference::gemm::{Operand, Output, gemm_bounded};
use hadal_reference::layer::logits;
use hadal_reference::swiglu::swiglu_row;
use hadal_reference::{combine, quantise};
use half::bf16;

const CONFIG: Config = Config {
    family: Family::DeepseekV3,
    hidden: 256,
    intermediate: 128,
    experts: 4,
    shared: 1,
    top_k: 2,
    routing: Routing {
        groups: 2,
        top_groups: 1,
        ..Family::DeepseekV3.routing()
    },
    weights: WeightFormat::Fp8,
};
const TOKENS: usize = 5;
const RANKS: usize = 2;

/// What a pass is given and what it leaves.
#[derive(Clone)]
struct Pass {
    weights: LayerWeights,
    input: Vec<bf16>,
    capture: LayerCapture,
    output: Vec<f32>,
}

impl Pass {
    fn check(&self) -> Report {
        Forward {
            config: &CONFIG,
            weights: &self.weights,
            input: &self.input,
            capture: &self.capture,
            output: &self.output,
        }
        .check()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "results in device types")]
fn quantised(rows: &[Vec<f64>], columns: usize) -> Activations {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in rows.iter().flat_map(|row| row.chunks(quantise::BLOCK)) {
        let scale = quantise::scale(block);
        scales.push(scale as f32);
        codes.extend(block.iter().map(|v| e4m3_from_f64(v / scale)));
    }
    Activations {
        rows: rows.len(),
        columns,
        values: ActivationValues::Fp8 { codes, scales },
    }
}

fn product(a: &Activations, b: &Projection) -> Vec<bf16> {
    let (
        ActivationValues::Fp8 { codes, scales },
        WeightValues::Fp8 {
            codes: b_codes,
            scales: b_scales,
        },
    ) = (&a.values, &b.values)
    else {
        panic!("FP8 here")
    };
    let a = Operand::e4m3(codes, scales, a.rows, 1);
    let operand = Operand::e4m3(b_codes, b_scales, b.rows, 128);
    let exact = gemm_bounded(&a, &operand, b.columns, Output::Bf16);
    exact.iter().map(|e| bf16::from_f64(e.value)).collect()
}

/// A code of a matrix.
fn code(activations: &mut Activations, index: usize) -> &mut u8 {
    match &mut activations.values {
        ActivationValues::Fp8 { codes, .. } => &mut codes[index],
        ActivationValues::Bf16(_) => panic!("FP8 here"),
    }
}

fn mlp(x: Activations, weights: &ExpertWeights) -> MlpCapture {
    let gate_up = product(&x, &weights.gate_up);
    let rows: Vec<Vec<f64>> = gate_up
        .chunks(weights.gate_up.rows)
        .map(|row| {
            swiglu_row(
                &row.iter().map(|v| v.to_f64()).collect::<Vec<_>>(),
                f64::INFINITY,
            )
        })
        .collect();
    let activated = quantised(&rows, weights.down.columns);
    let down = product(&activated, &weights.down);
    MlpCapture {
        x,
        gate_up,
        activated,
        down,
    }
}

/// Emulates a pass on the host.
#[expect(clippy::cast_possible_truncation, reason = "results in device types")]
fn pass() -> Pass {
    let folder = tempfile::tempdir().expect("a temporary folder");
    seeded::write(folder.path(), &CONFIG, TOKENS, 5).expect("written");
    let weights = Checkpoint::open(folder.path())
        .and_then(|c| c.read_layer(0))
        .expect("a whole layer");
    let input = read_hidden_states(&folder.path().join("input.safetensors"), CONFIG.hidden)
        .expect("tokens");
    let rows: Vec<Vec<f64>> = input
        .chunks(CONFIG.hidden)
        .map(|row| row.iter().map(|v| v.to_f64()).collect())
        .collect();
    let router_weight = weights.router.to_f32();
    let bias = oracle::bias(&CONFIG, &weights);
    let mut ranks = Vec::new();
    for tokens in forward::split(TOKENS, RANKS) {
        let mut rank = RankCapture {
            x: quantised(&rows[tokens.clone()], CONFIG.hidden),
            tokens: tokens.clone(),
            topk_indices: Vec::new(),
            topk_weights: Vec::new(),
            parts: std::iter::once(0..tokens.len()).collect(),
            experts: Vec::new(),
            shared: None,
        };
        for row in &rows[tokens] {
            let x: Vec<f32> = row.iter().map(|&v| v as f32).collect();
            let scores = logits(&x, &router_weight, CONFIG.experts);
            let choice = oracle::router(&CONFIG).choose(&scores, &bias);
            rank.topk_indices
                .extend(choice.experts.iter().map(|&e| e as i32));
            rank.topk_weights
                .extend(choice.weights.iter().map(|&w| w as f32));
        }
        rank.shared = weights
            .shared
            .as_ref()
            .map(|shared| mlp(rank.x.clone(), shared));
        ranks.push(rank);
    }
    for expert in 0..CONFIG.experts {
        let local = expert_capture(&ranks, expert, &weights.experts[expert], &rows);
        ranks[expert * RANKS / CONFIG.experts].experts.push(local);
    }
    let output = combined(&ranks);
    Pass {
        weights,
        input,
        capture: LayerCapture { ranks },
        output,
    }
}

fn expert_capture(
    ranks: &[RankCapture],
    expert: usize,
    weights: &ExpertWeights,
    rows: &[Vec<f64>],
) -> ExpertCapture {
    let mut sources = Vec::new();
    for (rank, captured) in ranks.iter().enumerate() {
        for (entry, &index) in captured.topk_indices.iter().enumerate() {
            if usize::try_from(index) == Ok(expert) {
                let (token, k) = (entry / CONFIG.top_k, entry % CONFIG.top_k);
                sources.push(Source { rank, token, k });
            }
        }
    }
    let of = |s: &Source| rows[ranks[s.rank].tokens.start + s.token].clone();
    let received: Vec<Vec<f64>> = sources.iter().map(of).collect();
    let mlp = mlp(quantised(&received, CONFIG.hidden), weights);
    ExpertCapture {
        expert,
        part: 0,
        sources,
        mlp,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "results in device types")]
fn combined(ranks: &[RankCapture]) -> Vec<f32> {
    let hidden = CONFIG.hidden;
    let wide = |matrix: &[bf16], row: usize| -> Vec<f64> {
        matrix[row * hidden..][..hidden]
            .iter()
            .map(|v| v.to_f64())
            .collect()
    };
    let mut output = Vec::new();
    for (rank, captured) in ranks.iter().enumerate() {
        for token in 0..captured.tokens.len() {
            let rows: Vec<Vec<f64>> = (0..CONFIG.top_k)
                .map(|k| {
                    let wanted = Source { rank, token, k };
                    let local = ranks.iter().flat_map(|r| &r.experts);
                    let mut found = local.filter_map(|e| {
                        let row = e.sources.iter().position(|&s| s == wanted)?;
                        Some(wide(&e.mlp.down, row))
                    });
                    found.next().expect("every choice is somewhere")
                })
                .collect();
            let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
            let weights = &captured.topk_weights[token * CONFIG.top_k..][..CONFIG.top_k];
            let shared = captured.shared.as_ref().map(|mlp| wide(&mlp.down, token));
            let sums = combine::combine(weights, &rows, shared.as_deref());
            output.extend(sums.iter().map(|s| s.value as f32));
        }
    }
    output
}

#[test]
fn an_emulated_pass_agrees_and_every_corruption_is_found_in_its_stage() {
    let good = pass();
    assert_eq!(good.check().mismatch(), None);

    type Corruption = (&'static str, fn(&mut Pass));
    let corruptions: [Corruption; 12] = [
        ("route", |p| p.capture.ranks[0].topk_indices.swap(0, 2)),
        ("route", |p| p.capture.ranks[1].topk_weights[0] *= 1.0001),
        ("quantise", |p| *code(&mut p.capture.ranks[0].x, 300) ^= 1),
        ("quantise", |p| {
            *code(&mut p.capture.ranks[1].shared.as_mut().unwrap().x, 9) ^= 0x80
        }),
        ("dispatch", |p| busiest(p).sources[0].token += 1),
        ("dispatch", |p| {
            busiest(p).sources.pop();
        }),
        ("dispatch", |p| *code(&mut busiest(p).mlp.x, 7) ^= 1),
        ("expert gate+up GEMM", |p| {
            nudge(&mut busiest(p).mlp.gate_up[100])
        }),
        ("expert SwiGLU", |p| {
            *code(&mut busiest(p).mlp.activated, 50) ^= 2
        }),
        ("expert down GEMM", |p| busiest(p).mlp.down[255] = bf16::NAN),
        ("shared down GEMM", |p| {
            nudge(&mut p.capture.ranks[1].shared.as_mut().unwrap().down[3]);
        }),
        ("combine", |p| p.output[1000] *= 1.001),
    ];
    for (index, (stage, corrupt)) in corruptions.into_iter().enumerate() {
        let mut bad = good.clone();
        corrupt(&mut bad);
        let report = bad.check();
        let found = report
            .stages
            .iter()
            .find(|s| s.name == stage)
            .expect("a stage of this name");
        assert!(
            found.mismatch.is_some(),
            "corruption {index} was not found in stage {stage}"
        );
        assert!(report.mismatch().is_some());
    }
}

/// The expert with the most rows.
fn busiest(pass: &mut Pass) -> &mut ExpertCapture {
    let experts = pass
        .capture
        .ranks
        .iter_mut()
        .flat_map(|rank| &mut rank.experts);
    experts
        .max_by_key(|expert| expert.sources.len())
        .expect("experts")
}

/// Moves a value by four units in the last place, and off zero.
fn nudge(value: &mut bf16) {
    *value = bf16::from_f32(value.to_f32() * 1.03 + value.to_f32().signum() * 1e-3);
}
