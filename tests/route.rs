//! The router against its f64 oracle, for every rule of scores and groups.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data: values are small, and a failure is a failed test"
)]

use std::sync::{Arc, OnceLock};

use hadal::device::{Buffer, Context, Stream};
use hadal::moe::{GroupWorth, MoeError, RouteDesc, RouteOperands, RouterWeight, Scores};
use hadal_reference::route::{Choice, Router};
use half::bf16;
use proptest::prelude::*;

/// Least difference of two scores that decides alike in FP32 and in f64.
const MARGIN: f64 = 1e-5;

fn context() -> Arc<Context> {
    static CONTEXT: OnceLock<Arc<Context>> = OnceLock::new();
    Arc::clone(CONTEXT.get_or_init(|| Context::new(0).unwrap()))
}

const DEEPSEEK_V3: RouteDesc = RouteDesc {
    tokens: 5,
    hidden: 256,
    experts: 256,
    top_k: 8,
    groups: 8,
    top_groups: 4,
    scores: Scores::Sigmoid,
    group_worth: GroupWorth::BestTwo,
    normalise: true,
    scaling: 2.5,
};

/// How the router's weights are stored.
#[derive(Clone, Copy)]
enum Stored {
    Bf16,
    F32,
}

/// Inputs of a call, each a different function of its index.
struct Inputs {
    desc: RouteDesc,
    tokens: Vec<bf16>,
    router: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Inputs {
    fn new(desc: RouteDesc, seed: u64, bias: Option<f32>) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut values =
            |count: usize, size: f32| -> Vec<f32> { (0..count).map(|_| draw() * size).collect() };
        let tokens = values(desc.tokens * desc.hidden, 1.0);
        // Representable in BF16, so that both forms of the weight are the same router.
        let router = values(desc.experts * desc.hidden, 0.3);
        Self {
            tokens: tokens.into_iter().map(bf16::from_f32).collect(),
            router: router
                .into_iter()
                .map(|v| bf16::from_f32(v).to_f32())
                .collect(),
            bias: bias.map(|size| values(desc.experts, size)),
            desc,
        }
    }

    fn expected(&self, token: usize) -> Choice {
        let desc = self.desc;
        let router = Router {
            experts: desc.experts,
            top_k: desc.top_k,
            groups: desc.groups,
            top_groups: desc.top_groups,
            softmax: desc.scores == Scores::Softmax,
            group_best: desc.group_worth == GroupWorth::Best,
            normalise: desc.normalise,
            scaling: desc.scaling.into(),
        };
        let x = &self.tokens[token * desc.hidden..][..desc.hidden];
        let logit = |row: &[f32]| -> f64 {
            let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x.to_f64());
            products.sum()
        };
        let logits: Vec<f64> = self.router.chunks(desc.hidden).map(logit).collect();
        let bias = self.bias.clone().unwrap_or(vec![0.0; desc.experts]);
        let bias: Vec<f64> = bias.into_iter().map(f64::from).collect();
        router.choose(&logits, &bias)
    }

    /// Indices and weights of all tokens.
    fn run(&self, stored: Stored, valid: Option<u32>) -> (Vec<i32>, Vec<f32>) {
        let context = context();
        let stream = Stream::new(&context).unwrap();
        let desc = self.desc;
        let tokens = Buffer::from_slice(&stream, &self.tokens).unwrap();
        let f32 = Buffer::from_slice(&stream, &self.router).unwrap();
        let bf16: Vec<bf16> = self.router.iter().map(|v| bf16::from_f32(*v)).collect();
        let bf16 = Buffer::from_slice(&stream, &bf16).unwrap();
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| Buffer::from_slice(&stream, bias).unwrap());
        let valid = valid.map(|count| Buffer::from_slice(&stream, &[count]).unwrap());
        let choices = desc.tokens * desc.top_k;
        let mut indices = Buffer::from_slice(&stream, &vec![i32::MIN; choices]).unwrap();
        let mut weights = Buffer::from_slice(&stream, &vec![f32::NAN; choices]).unwrap();
        let operands = RouteOperands {
            hidden_states: &tokens,
            router: match stored {
                Stored::Bf16 => RouterWeight::Bf16(&bf16),
                Stored::F32 => RouterWeight::F32(&f32),
            },
            bias: bias.as_ref(),
            valid: valid.as_ref(),
            topk_indices: &mut indices,
            topk_weights: &mut weights,
        };
        desc.plan().unwrap().run(&stream, operands).unwrap();
        (
            indices.to_vec(&stream).unwrap(),
            weights.to_vec(&stream).unwrap(),
        )
    }

    fn check(&self) {
        let (indices, weights) = self.run(Stored::Bf16, None);
        let (same_indices, same_weights) = self.run(Stored::F32, None);
        assert_eq!(indices, same_indices, "{:?}: F32 router", self.desc);
        let bits = |weights: &[f32]| weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&weights), bits(&same_weights), "{:?}", self.desc);
        let top_k = self.desc.top_k;
        for token in 0..self.desc.tokens {
            let expected = self.expected(token);
            if expected.margin < MARGIN {
                continue;
            }
            let range = token * top_k..(token + 1) * top_k;
            let mut found: Vec<_> = indices[range.clone()].to_vec();
            let mut chosen: Vec<_> = expected.experts.iter().map(|&e| e as i32).collect();
            for (k, (index, weight)) in found.iter().zip(&weights[range]).enumerate() {
                let place = chosen.iter().position(|e| e == index);
                let place = place.unwrap_or_else(|| {
                    panic!(
                        "{:?}: token {token}, choice {k}: {found:?}, expected {chosen:?}",
                        self.desc
                    )
                });
                let exact = expected.weights[place];
                let error = (f64::from(*weight) - exact).abs();
                // A logit is a sum of `hidden` FP32 products of size one: 1e-5 of its score.
                assert!(
                    error <= 2e-5 * exact.abs() + 1e-12,
                    "{:?}: token {token}, choice {k}: {weight}, expected {exact}",
                    self.desc
                );
            }
            found.sort_unstable();
            chosen.sort_unstable();
            assert_eq!(found, chosen, "{:?}: token {token}", self.desc);
        }
    }
}

/// The rules of the families that the crate's documentation names.
#[test]
fn every_family() {
    let v2 = RouteDesc {
        experts: 160,
        top_k: 6,
        top_groups: 3,
        scores: Scores::Softmax,
        group_worth: GroupWorth::Best,
        normalise: false,
        scaling: 16.0,
        ..DEEPSEEK_V3
    };
    let qwen3 = RouteDesc {
        experts: 128,
        top_k: 8,
        groups: 1,
        top_groups: 1,
        normalise: true,
        scaling: 1.0,
        ..v2
    };
    let mixtral = RouteDesc {
        experts: 8,
        top_k: 2,
        ..qwen3
    };
    let kimi = RouteDesc {
        experts: 384,
        groups: 1,
        top_groups: 1,
        ..DEEPSEEK_V3
    };
    for (seed, desc) in (0..).zip([DEEPSEEK_V3, v2, qwen3, mixtral, kimi]) {
        let bias = (desc.scores == Scores::Sigmoid).then_some(0.2);
        Inputs::new(desc, seed, bias).check();
    }
}

#[test]
fn equal_scores_fall_to_the_lower_index_and_unused_tokens_are_dropped() {
    let desc = RouteDesc {
        tokens: 3,
        groups: 1,
        top_groups: 1,
        ..DEEPSEEK_V3
    };
    for scores in [Scores::Sigmoid, Scores::Softmax] {
        let desc = RouteDesc { scores, ..desc };
        let mut inputs = Inputs::new(desc, 3, None);
        inputs.router.fill(0.25);
        let (indices, weights) = inputs.run(Stored::Bf16, Some(2));
        let first: Vec<i32> = (0..8).collect();
        assert_eq!(indices[..16], [&first[..], &first[..]].concat());
        assert!(weights[..16].iter().all(|w| (w - 2.5 / 8.0).abs() < 1e-6));
        assert_eq!(indices[16..], [-1; 8]);
        assert_eq!(weights[16..], [0.0; 8]);
        assert_eq!(inputs.run(Stored::F32, Some(0)).0, [-1; 24]);
    }
}

/// Whatever the tokens are, the choice is one of distinct experts.
#[test]
fn nan_and_infinity_choose_valid_experts() {
    for scores in [Scores::Sigmoid, Scores::Softmax] {
        let desc = RouteDesc {
            scores,
            ..DEEPSEEK_V3
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut inputs = Inputs::new(desc, 5, None);
            inputs.tokens.fill(bf16::from_f32(value));
            let (indices, _) = inputs.run(Stored::Bf16, None);
            for chosen in indices.chunks(desc.top_k) {
                let mut chosen = chosen.to_vec();
                chosen.sort_unstable();
                chosen.dedup();
                assert_eq!(chosen.len(), desc.top_k, "{scores:?} of {value}");
                assert!(chosen.iter().all(|e| (0..256).contains(e)));
            }
        }
    }
}

#[test]
fn groups_of_one_cannot_be_judged_by_two() {
    let desc = RouteDesc {
        experts: 8,
        groups: 8,
        top_groups: 4,
        top_k: 2,
        ..DEEPSEEK_V3
    };
    let refused = desc.plan().unwrap_err();
    assert!(matches!(refused, MoeError::Desc { what: "groups", .. }));
    let best = RouteDesc {
        group_worth: GroupWorth::Best,
        ..desc
    };
    Inputs::new(best, 9, Some(0.2)).check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_rule(
        (tokens, eights, groups, size) in (0usize..4, 1usize..40, 1usize..=32, 2usize..=16),
        (kept, picked, seed) in (0usize..32, 0usize..16, any::<u64>()),
        (softmax, best, normalise, biased) in any::<(bool, bool, bool, bool)>(),
    ) {
        let top_groups = 1 + kept % groups;
        let desc = RouteDesc {
            tokens,
            hidden: 8 * eights,
            experts: groups * size,
            top_k: 1 + picked % (top_groups * size).min(16),
            groups,
            top_groups,
            scores: if softmax { Scores::Softmax } else { Scores::Sigmoid },
            group_worth: if best { GroupWorth::Best } else { GroupWorth::BestTwo },
            normalise,
            scaling: 1.5,
        };
        Inputs::new(desc, seed, biased.then_some(0.2)).check();
    }
}
