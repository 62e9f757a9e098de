//! Every stage of a forward pass against its oracle, from the operands that the stage really used.
//!
//! Arithmetic stages (the GEMMs and the combine) are compared element by element within derived
//! bounds; quantising stages as codes; routing as index sets; dispatch bitwise.

use crate::capture::{LayerCapture, MlpCapture, Quantised, RankCapture, Source};
use crate::checkpoint::{ExpertWeights, LayerWeights, Projection};
use crate::config::{BLOCK, Config};
use crate::oracle;
use hadal_reference::combine::combine;
use hadal_reference::compare::{Bounded, Comparison};
use hadal_reference::gemm::{Operand, Output, gemm_bounded};
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
        let mut stages = vec![self.route(), self.quantise(), self.dispatch()];
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
        let router_weight: Vec<f32> = self.weights.router.iter().map(|v| v.to_f32()).collect();
        let bias: Vec<f64> = self.weights.bias.iter().map(|&b| b.into()).collect();
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

    fn quantise(&self) -> Stage {
        let mut check = CodeCheck::default();
        for rank in &self.capture.ranks {
            for (row, x) in self.rows(rank).enumerate() {
                let x: Vec<f64> = x.iter().map(|v| v.to_f64()).collect();
                for quantised in [Some(&rank.x), rank.shared.as_ref().map(|mlp| &mlp.x)] {
                    let Some((codes, scales)) = quantised.map(|q| q.row(row)) else {
                        continue;
                    };
                    check_row(&mut check, rank.tokens.start + row, &x, codes, &scales);
                }
            }
        }
        Stage::of_codes("quantise", &check)
    }

    /// Every entry's row must lie, bit for bit, where the routing puts it, and nowhere else.
    fn dispatch(&self) -> Stage {
        let mut stage = Stage::new("dispatch");
        for rank in &self.capture.ranks {
            for local in &rank.experts {
                let expected = self.entries(local.expert);
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
                    let sent = self.capture.ranks[want.rank].x.row(want.token);
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

    /// Entries for an expert in the order of (source rank, token, k).
    fn entries(&self, expert: usize) -> Vec<Source> {
        let top_k = self.config.top_k;
        let mut entries = Vec::new();
        for (rank, captured) in self.capture.ranks.iter().enumerate() {
            for (entry, &index) in captured.topk_indices.iter().enumerate() {
                if usize::try_from(index) == Ok(expert) {
                    let (token, k) = (entry / top_k, entry % top_k);
                    entries.push(Source { rank, token, k });
                }
            }
        }
        entries
    }

    fn experts(&self) -> [Stage; 3] {
        let mut gate_up = Comparison::default();
        let mut swiglu = CodeCheck::default();
        let mut down = Comparison::default();
        for local in self.capture.ranks.iter().flat_map(|rank| &rank.experts) {
            let weights = &self.weights.experts[local.expert];
            let mlp = &local.mlp;
            gate_up = gate_up.merge(check_gemm(&mlp.x, &weights.gate_up, &mlp.gate_up));
            check_swiglu(&mut swiglu, mlp);
            down = down.merge(check_gemm(&mlp.activated, &weights.down, &mlp.down));
        }
        [
            Stage::of_bounds("expert gate+up GEMM", &gate_up),
            Stage::of_codes("expert SwiGLU and quantise", &swiglu),
            Stage::of_bounds("expert down GEMM", &down),
        ]
    }

    fn shared_expert(&self, weights: &ExpertWeights) -> [Stage; 3] {
        let mut gate_up = Comparison::default();
        let mut swiglu = CodeCheck::default();
        let mut down = Comparison::default();
        for rank in &self.capture.ranks {
            let Some(mlp) = &rank.shared else { continue };
            gate_up = gate_up.merge(check_gemm(&mlp.x, &weights.gate_up, &mlp.gate_up));
            check_swiglu(&mut swiglu, mlp);
            down = down.merge(check_gemm(&mlp.activated, &weights.down, &mlp.down));
        }
        [
            Stage::of_bounds("shared gate+up GEMM", &gate_up),
            Stage::of_codes("shared SwiGLU and quantise", &swiglu),
            Stage::of_bounds("shared down GEMM", &down),
        ]
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
        let wanted = Source { rank, token, k };
        let hidden = self.config.hidden;
        let index = self.capture.ranks[rank].topk_indices[token * self.config.top_k + k];
        let mut experts = self.capture.ranks.iter().flat_map(|r| &r.experts);
        experts
            .find(|local| usize::try_from(index) == Ok(local.expert))
            .and_then(|local| {
                let row = local.sources.iter().position(|&s| s == wanted)?;
                Some(wide(&local.mlp.down, row, hidden))
            })
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

fn check_gemm(a: &Quantised, b: &Projection, got: &[bf16]) -> Comparison {
    let scales: Vec<f32> = (0..a.rows).flat_map(|row| a.row(row).1).collect();
    let expected = gemm_bounded(
        &Operand::e4m3(&a.codes, &scales, a.rows, 1),
        &Operand::e4m3(&b.codes, &b.scales, b.rows, BLOCK),
        b.columns,
        Output::Bf16,
    );
    Comparison::of(&expected, got.iter().map(|v| v.to_f64()), b.rows)
}

fn check_swiglu(check: &mut CodeCheck, mlp: &MlpCapture) {
    let width = 2 * mlp.activated.columns;
    for row in 0..mlp.activated.rows {
        let exact = swiglu_row(&wide(&mlp.gate_up, row, width));
        let (codes, scales) = mlp.activated.row(row);
        check_row(check, row, &exact, codes, &scales);
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
