//! Every stage of a forward pass against its oracle, from the operands that the stage really used.
//!
//! Arithmetic stages (the GEMMs and the combine) are compared element by element within derived
//! bounds; quantising stages as codes; routing as index sets; dispatch bitwise.

use crate::checkpoint::{ExpertWeights, LayerWeights, Projection, WeightValues};
use crate::config::{BLOCK, Config, WeightFormat};
use crate::layer::capture::{
    ActivationValues, Activations, LayerCapture, MlpCapture, RankCapture, Row, Source,
};
use crate::oracle;
use hadal_reference::combine::combine;
use hadal_reference::compare::{Bounded, Comparison};
use hadal_reference::gemm::{self, Codes, Operand, Output, gemm_bounded};
use hadal_reference::layer::logits;
use hadal_reference::quantise::{CodeCheck, check_row};
use hadal_reference::swiglu::swiglu_row;
use half::bf16;

/// A routing decision made by less than this may go either way in FP32.
const MARGIN: f64 = 1e-5;

/// Relative error of a routing weight: a sigmoid and a quotient in FP32 of a logit that is itself
/// rounded.
const WEIGHT_TOLERANCE: f64 = 1e-5;

/// What checking one stage found.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Name.
    pub name: &'static str,
    /// Elements compared.
    pub elements: usize,
    /// Largest |error| / bound; only stages with bounds have it.
    pub err_over_bound: Option<f64>,
    /// Widest bound / largest output of the stage.
    pub bound_over_out: Option<f64>,
    /// The first mismatch, with its coordinate.
    pub mismatch: Option<String>,
}

/// All stages of a forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// In the order of execution.
    pub stages: Vec<Stage>,
}

impl Report {
    /// Worst |error| / bound of any stage.
    #[must_use]
    pub fn max_err_over_bound(&self) -> f64 {
        self.stages
            .iter()
            .filter_map(|s| s.err_over_bound)
            .fold(0.0, f64::max)
    }

    /// Widest bound / largest output of any stage.
    #[must_use]
    pub fn max_bound_over_out(&self) -> f64 {
        self.stages
            .iter()
            .filter_map(|s| s.bound_over_out)
            .fold(0.0, f64::max)
    }

    /// The first mismatch of any stage.
    #[must_use]
    pub fn mismatch(&self) -> Option<String> {
        self.stages.iter().find_map(|s| {
            s.mismatch
                .as_ref()
                .map(|m| format!("stage {}: {m}", s.name))
        })
    }
}

/// What a forward pass was given and what it left on its devices.
#[derive(Debug, Clone, Copy)]
pub struct Forward<'a> {
    /// Shape and routing.
    pub config: &'a Config,
    /// Weights.
    pub weights: &'a LayerWeights,
    /// BF16 `[tokens, hidden]`.
    pub input: &'a [bf16],
    /// Intermediate results of all ranks.
    pub capture: &'a LayerCapture,
    /// F32 `[tokens, hidden]`.
    pub output: &'a [f32],
}

impl Forward<'_> {
    /// Checks all stages.
    #[must_use]
    pub fn check(&self) -> Report {
        let mut stages = vec![self.route(), self.tokens(), self.dispatch()];
        stages.extend(self.experts());
        if let Some(shared) = &self.weights.shared {
            stages.extend(self.shared_expert(shared));
        }
        stages.push(self.combine());
        Report { stages }
    }

    /// Input rows of a rank as exact values.
    fn rows<'a>(&'a self, rank: &'a RankCapture) -> impl Iterator<Item = &'a [bf16]> {
        let hidden = self.config.hidden;
        self.input[rank.tokens.start * hidden..rank.tokens.end * hidden].chunks_exact(hidden)
    }

    fn route(&self) -> Stage {
        let router = oracle::router(self.config);
        let router_weight = self.weights.router.to_f32();
        let bias = oracle::bias(self.config, self.weights);
        let mut stage = Stage::new("route");
        for rank in &self.capture.ranks {
            for (row, x) in self.rows(rank).enumerate() {
                let x: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
                let exact = router.choose(&logits(&x, &router_weight, router.experts), &bias);
                let range = row * router.top_k..(row + 1) * router.top_k;
                let (indices, weights) =
                    (&rank.topk_indices[range.clone()], &rank.topk_weights[range]);
                stage.elements += router.top_k;
                let wrong = routing_differs(&exact, indices, weights);
                let token = rank.tokens.start + row;
                stage.note(wrong.map(|what| format!("token {token}: {what}")));
            }
        }
        stage
    }

    /// The tokens as they are dispatched, and as the shared expert reads them.
    fn tokens(&self) -> Stage {
        let mut check = CodeCheck::default();
        let mut copied = Stage::new("tokens");
        for rank in &self.capture.ranks {
            for (row, x) in self.rows(rank).enumerate() {
                let token = rank.tokens.start + row;
                let exact: Vec<f64> = x.iter().map(|v| v.to_f64()).collect();
                for found in [Some(&rank.x), rank.shared.as_ref().map(|mlp| &mlp.x)] {
                    match found.map(|x| x.row(row)) {
                        None => {}
                        Some(Row::Fp8(codes, scales)) => {
                            check_row(&mut check, token, &exact, codes, scales);
                        }
                        Some(Row::Bf16(bits)) => {
                            copied.elements += bits.len();
                            let same = bits == bytemuck::cast_slice::<bf16, u16>(x);
                            copied.note((!same).then(|| format!("token {token} was changed")));
                        }
                    }
                }
            }
        }
        match self.config.weights {
            WeightFormat::Fp8 => Stage::of_codes("quantise", &check),
            WeightFormat::Bf16 => copied,
        }
    }

    /// Every entry's row must lie, bit for bit, where the routing puts it, and nowhere else.
    fn dispatch(&self) -> Stage {
        let mut stage = Stage::new("dispatch");
        for rank in &self.capture.ranks {
            for local in &rank.experts {
                let expected = self.entries(local.expert, local.part);
                let count = local.sources.len();
                if count != expected.len() {
                    let (expert, want) = (local.expert, expected.len());
                    stage.note(Some(format!(
                        "expert {expert}: {count} rows, expected {want}"
                    )));
                    continue;
                }
                for (row, (&got, &want)) in local.sources.iter().zip(&expected).enumerate() {
                    stage.elements += self.config.hidden;
                    let source = &self.capture.ranks[want.rank];
                    let sent = source.x.row(source.parts[local.part].start + want.token);
                    let arrived = local.mlp.x.row(row);
                    let same = got == want && sent == arrived;
                    stage.note((!same).then(|| {
                        format!(
                            "expert {}, row {row}: {got:?}, expected {want:?}",
                            local.expert
                        )
                    }));
                }
            }
        }
        stage
    }

    /// Entries for an expert in a micro-batch, in the order of (source rank, token, k).
    fn entries(&self, expert: usize, part: usize) -> Vec<Source> {
        let top_k = self.config.top_k;
        let mut entries = Vec::new();
        for (rank, captured) in self.capture.ranks.iter().enumerate() {
            let tokens = captured.parts[part].clone();
            let of_part = &captured.topk_indices[tokens.start * top_k..tokens.end * top_k];
            for (entry, &index) in of_part.iter().enumerate() {
                if usize::try_from(index) == Ok(expert) {
                    let (token, k) = (entry / top_k, entry % top_k);
                    entries.push(Source { rank, token, k });
                }
            }
        }
        entries
    }

    fn experts(&self) -> [Stage; 3] {
        let mut checks = MlpChecks::default();
        for local in self.capture.ranks.iter().flat_map(|rank| &rank.experts) {
            checks.check(&local.mlp, &self.weights.experts[local.expert]);
        }
        checks.stages(["expert gate+up GEMM", "expert SwiGLU", "expert down GEMM"])
    }

    fn shared_expert(&self, weights: &ExpertWeights) -> [Stage; 3] {
        let mut checks = MlpChecks::default();
        for mlp in self
            .capture
            .ranks
            .iter()
            .filter_map(|rank| rank.shared.as_ref())
        {
            checks.check(mlp, weights);
        }
        checks.stages(["shared gate+up GEMM", "shared SwiGLU", "shared down GEMM"])
    }

    /// The output against the weighted sum of the experts' BF16 rows and the shared row.
    fn combine(&self) -> Stage {
        let hidden = self.config.hidden;
        let mut expected: Vec<Bounded> = Vec::with_capacity(self.output.len());
        for (rank, captured) in self.capture.ranks.iter().enumerate() {
            for token in 0..captured.tokens.len() {
                let rows: Vec<Vec<f64>> = (0..self.config.top_k)
                    .map(|k| self.expert_row(rank, token, k))
                    .collect();
                let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
                let weights = &captured.topk_weights[token * rows.len()..][..rows.len()];
                let shared = captured
                    .shared
                    .as_ref()
                    .map(|mlp| wide(&mlp.down, token, hidden));
                expected.extend(combine(weights, &rows, shared.as_deref()));
            }
        }
        let got = self.output.iter().map(|&v| f64::from(v));
        Stage::of_bounds("combine", &Comparison::of(&expected, got, hidden))
    }

    /// The output row of the expert that a token chose as its `k`-th; NaN if it is nowhere.
    fn expert_row(&self, rank: usize, token: usize, k: usize) -> Vec<f64> {
        let hidden = self.config.hidden;
        let captured = &self.capture.ranks[rank];
        let index = captured.topk_indices[token * self.config.top_k + k];
        let part = captured.parts.iter().position(|part| part.contains(&token));
        let find = |part: usize| {
            let token = token - captured.parts[part].start;
            let wanted = Source { rank, token, k };
            let mut experts = self.capture.ranks.iter().flat_map(|r| &r.experts);
            let local = experts
                .find(|local| local.part == part && usize::try_from(index) == Ok(local.expert))?;
            let row = local.sources.iter().position(|&s| s == wanted)?;
            Some(wide(&local.mlp.down, row, hidden))
        };
        part.and_then(find)
            .unwrap_or_else(|| vec![f64::NAN; hidden])
    }
}

fn wide(matrix: &[bf16], row: usize, columns: usize) -> Vec<f64> {
    matrix[row * columns..][..columns]
        .iter()
        .map(|v| v.to_f64())
        .collect()
}

fn routing_differs(
    exact: &hadal_reference::route::Choice,
    indices: &[i32],
    weights: &[f32],
) -> Option<String> {
    let mut got: Vec<usize> = indices
        .iter()
        .filter_map(|&i| usize::try_from(i).ok())
        .collect();
    let mut want = exact.experts.clone();
    got.sort_unstable();
    want.sort_unstable();
    if got != want {
        let margin = exact.margin;
        return (margin > MARGIN)
            .then(|| format!("experts {got:?}, expected {want:?}, margin {margin:e}"));
    }
    indices.iter().zip(weights).find_map(|(&index, &weight)| {
        let at = exact
            .experts
            .iter()
            .position(|&e| usize::try_from(index) == Ok(e))?;
        let want = exact.weights[at];
        let near = (f64::from(weight) - want).abs() <= WEIGHT_TOLERANCE * want.abs();
        (!near).then(|| format!("weight of expert {index} is {weight:e}, expected {want:e}"))
    })
}

/// What was found in MLPs.
#[derive(Default)]
struct MlpChecks {
    gate_up: Comparison,
    codes: CodeCheck,
    rounded: Comparison,
    down: Comparison,
}

impl MlpChecks {
    fn check(&mut self, mlp: &MlpCapture, weights: &ExpertWeights) {
        let merge = |all: &mut Comparison, one| *all = std::mem::take(all).merge(one);
        merge(
            &mut self.gate_up,
            check_gemm(&mlp.x, &weights.gate_up, &mlp.gate_up),
        );
        let columns = mlp.activated.columns;
        let mut expected = Vec::new();
        for row in 0..mlp.activated.rows {
            let exact = swiglu_row(&wide(&mlp.gate_up, row, 2 * columns), f64::INFINITY);
            match mlp.activated.row(row) {
                Row::Fp8(codes, scales) => check_row(&mut self.codes, row, &exact, codes, scales),
                Row::Bf16(_) => expected.extend(exact.into_iter().map(rounded)),
            }
        }
        if let ActivationValues::Bf16(got) = &mlp.activated.values {
            let got = got.iter().map(|v| v.to_f64());
            merge(&mut self.rounded, Comparison::of(&expected, got, columns));
        }
        merge(
            &mut self.down,
            check_gemm(&mlp.activated, &weights.down, &mlp.down),
        );
    }

    fn stages(&self, [gate_up, swiglu, down]: [&'static str; 3]) -> [Stage; 3] {
        let swiglu = match self.rounded.elements {
            0 => Stage::of_codes(swiglu, &self.codes),
            _ => Stage::of_bounds(swiglu, &self.rounded),
        };
        [
            Stage::of_bounds(gate_up, &self.gate_up),
            swiglu,
            Stage::of_bounds(down, &self.down),
        ]
    }
}

/// SwiGLU in FP32 rounded to BF16: half a unit in the last of 8 digits, and 2^-20 for the arithmetic.
fn rounded(value: f64) -> Bounded {
    let bound = value.abs() * (1.0 / 256.0 + 1.0 / 1_048_576.0) + f64::from(f32::MIN_POSITIVE);
    Bounded { value, bound }
}

fn check_gemm(a: &Activations, b: &Projection, got: &[bf16]) -> Comparison {
    let left = match &a.values {
        ActivationValues::Bf16(values) => bf16_operand(values, a.rows),
        ActivationValues::Fp8 { codes, scales } => Operand::e4m3(codes, scales, a.rows, 1),
    };
    let right = match &b.values {
        WeightValues::Bf16(values) => bf16_operand(values, b.rows),
        WeightValues::Fp8 { codes, scales } => Operand::e4m3(codes, scales, b.rows, BLOCK),
    };
    let expected = gemm_bounded(&left, &right, b.columns, Output::Bf16);
    Comparison::of(&expected, got.iter().map(|v| v.to_f64()), b.rows)
}

fn bf16_operand(values: &[bf16], rows: usize) -> Operand<'_> {
    Operand {
        codes: Codes::Bf16(bytemuck::cast_slice(values)),
        scales: gemm::Scales::None,
        rows,
    }
}

impl Stage {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            elements: 0,
            err_over_bound: None,
            bound_over_out: None,
            mismatch: None,
        }
    }

    fn note(&mut self, mismatch: Option<String>) {
        if self.mismatch.is_none() {
            self.mismatch = mismatch;
        }
    }

    fn of_codes(name: &'static str, check: &CodeCheck) -> Self {
        let mismatch = check.first_mismatch.map(|m| m.to_string());
        Self {
            elements: check.elements,
            mismatch,
            ..Self::new(name)
        }
    }

    fn of_bounds(name: &'static str, comparison: &Comparison) -> Self {
        Self {
            elements: comparison.elements,
            err_over_bound: Some(comparison.err_over_bound),
            bound_over_out: Some(comparison.bound_over_out),
            mismatch: comparison.first_mismatch.map(|m| m.to_string()),
            ..Self::new(name)
        }
    }
}
