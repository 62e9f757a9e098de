//! Routing of tokens to experts; `csrc/moe/route.cuh`.
//!
//! DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) and GLM-4.5: [`Scores::Sigmoid`], [`GroupWorth::BestTwo`], a bias. DeepSeek-V2 (arXiv 2405.04434,
//! section 2.1.2): [`Scores::Softmax`], [`GroupWorth::Best`]. Qwen3-MoE, Mixtral and Granite: softmax in one group; where a family takes the softmax of the chosen logits
//! only, that is the normalised form.
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use super::{MoeError, dimension, operand, require};
use crate::device::{Buffer, LaunchConfig, Stream};
use crate::params::{
    HADAL_ROUTE_MAX_EXPERTS, HADAL_ROUTE_MAX_GROUPS, HADAL_ROUTE_MAX_TOP_K, RouteParams,
};
use half::bf16;

const OPERATION: &str = "route";

/// Scores from the logits of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scores {
    /// The sigmoid of each.
    Sigmoid,
    /// The softmax over all experts.
    Softmax,
}

/// How a group of experts is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupWorth {
    /// By the sum of its two largest choice scores.
    BestTwo,
    /// By its largest choice score.
    Best,
}

/// The router's weights, `[experts, hidden]`. Logits are FP32 either way.
#[derive(Debug, Clone, Copy)]
pub enum RouterWeight<'a> {
    /// BF16.
    Bf16(&'a Buffer<bf16>),
    /// F32.
    F32(&'a Buffer<f32>),
}

/// What is to be routed, and by which rule. A choice score is the score plus the bias; of equal ones the lower index is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteDesc {
    /// Tokens; may be 0.
    pub tokens: usize,
    /// Width of a token: a multiple of 8.
    pub hidden: usize,
    /// Experts: 1 to 512.
    pub experts: usize,
    /// Experts per token: 1 to 16, at most as many as the kept groups hold.
    pub top_k: usize,
    /// Groups the experts fall into, in order: 1 to 32, a divisor of `experts`.
    pub groups: usize,
    /// Groups a token may use: 1 to `groups`.
    pub top_groups: usize,
    /// Scores.
    pub scores: Scores,
    /// How groups are judged, where there are several.
    pub group_worth: GroupWorth,
    /// Weights, which are the scores of the chosen, are divided by their sum.
    pub normalise: bool,
    /// Factor of the weights.
    pub scaling: f32,
}

/// A description that the kernel can execute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoutePlan(RouteDesc);

/// Device memory of one call.
#[derive(Debug)]
pub struct RouteOperands<'a> {
    /// `[tokens, hidden]`.
    pub hidden_states: &'a Buffer<bf16>,
    /// `[experts, hidden]`.
    pub router: RouterWeight<'a>,
    /// `[experts]`, takes part in the choice only.
    pub bias: Option<&'a Buffer<f32>>,
    /// One number: tokens in use. The others are dropped. Read on the device, so that a captured launch may have other tokens each time.
    pub valid: Option<&'a Buffer<u32>>,
    /// Out: `[tokens, top_k]`, in the order of falling choice score; -1 where dropped.
    pub topk_indices: &'a mut Buffer<i32>,
    /// Out: `[tokens, top_k]`; 0 where dropped.
    pub topk_weights: &'a mut Buffer<f32>,
}

impl RouteDesc {
    /// Checks the description.
    ///
    /// # Errors
    ///
    /// [`MoeError::Desc`] naming the field and its range.
    pub fn plan(self) -> Result<RoutePlan, MoeError> {
        let Self {
            tokens,
            hidden,
            experts,
            top_k,
            groups,
            top_groups,
            group_worth,
            ..
        } = self;
        let check = |what, holds, expected: String| require(OPERATION, what, holds, expected);
        let at_most = |most: u32| move |n: usize| n >= 1 && n <= most as usize;
        dimension(OPERATION, "tokens", tokens)?;
        dimension(OPERATION, "hidden", hidden)?;
        let eights = hidden > 0 && hidden.is_multiple_of(8);
        check(
            ("hidden", hidden),
            eights,
            "a positive multiple of 8".into(),
        )?;
        let range = format!("1 to {HADAL_ROUTE_MAX_EXPERTS}");
        check(
            ("experts", experts),
            at_most(HADAL_ROUTE_MAX_EXPERTS)(experts),
            range,
        )?;
        let range = format!("1 to {HADAL_ROUTE_MAX_GROUPS}, a divisor of {experts} experts");
        let divides = at_most(HADAL_ROUTE_MAX_GROUPS)(groups) && experts.is_multiple_of(groups);
        check(("groups", groups), divides, range)?;
        let two = groups == 1 || group_worth == GroupWorth::Best || experts / groups >= 2;
        let range = "groups of at least two experts, which are judged by their two best";
        check(("groups", groups), two, range.into())?;
        let kept = (1..=groups).contains(&top_groups);
        check(
            ("top_groups", top_groups),
            kept,
            format!("1 to {groups} groups"),
        )?;
        let most = (top_groups * (experts / groups)).min(HADAL_ROUTE_MAX_TOP_K as usize);
        check(
            ("top_k", top_k),
            (1..=most).contains(&top_k),
            format!("1 to {most}"),
        )?;
        Ok(RoutePlan(self))
    }
}

impl RoutePlan {
    /// Enqueues the routing of all tokens.
    ///
    /// # Errors
    ///
    /// [`MoeError::Operand`] for a buffer that is too short, or a device error.
    pub fn run(&self, stream: &Stream, operands: RouteOperands<'_>) -> Result<(), MoeError> {
        let desc = self.0;
        let RouteOperands {
            hidden_states,
            router,
            bias,
            valid,
            topk_indices,
            topk_weights,
        } = operands;
        let choices = desc.tokens * desc.top_k;
        let weights = desc.experts * desc.hidden;
        let (kernel, router) = match router {
            RouterWeight::Bf16(router) => (
                "moe_route_bf16",
                operand(OPERATION, stream, ("router", router), weights)?,
            ),
            RouterWeight::F32(router) => (
                "moe_route_f32",
                operand(OPERATION, stream, ("router", router), weights)?,
            ),
        };
        let params = RouteParams {
            hidden_states: operand(
                OPERATION,
                stream,
                ("hidden_states", hidden_states),
                desc.tokens * desc.hidden,
            )?,
            router,
            bias: bias.map_or(Ok(0), |bias| {
                operand(OPERATION, stream, ("bias", bias), desc.experts)
            })?,
            valid: valid.map_or(Ok(0), |valid| {
                operand(OPERATION, stream, ("valid", valid), 1)
            })?,
            topk_indices: operand(OPERATION, stream, ("topk_indices", topk_indices), choices)?,
            topk_weights: operand(OPERATION, stream, ("topk_weights", topk_weights), choices)?,
            tokens: dimension(OPERATION, "tokens", desc.tokens)?,
            hidden: dimension(OPERATION, "hidden", desc.hidden)?,
            experts: dimension(OPERATION, "experts", desc.experts)?,
            top_k: dimension(OPERATION, "top_k", desc.top_k)?,
            groups: dimension(OPERATION, "groups", desc.groups)?,
            top_groups: dimension(OPERATION, "top_groups", desc.top_groups)?,
            softmax: (desc.scores == Scores::Softmax).into(),
            group_best: (desc.group_worth == GroupWorth::Best).into(),
            normalise: desc.normalise.into(),
            scaling: desc.scaling,
        };
        if desc.tokens == 0 {
            return Ok(());
        }
        let kernel = stream.context().kernel(kernel)?;
        let config = LaunchConfig::new(&kernel, [params.tokens, 1, 1]);
        // SAFETY: (1) every buffer has the elements that the kernel's header asks for, on this
        // device, aligned by its allocation; (2) freeing a buffer waits for work that uses it;
        // (3) outputs are borrowed mutably here and ordered by their streams afterwards.
        unsafe { stream.launch(&kernel, &config, &params) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3: RouteDesc = RouteDesc {
        tokens: 64,
        hidden: 7168,
        experts: 256,
        top_k: 8,
        groups: 8,
        top_groups: 4,
        scores: Scores::Sigmoid,
        group_worth: GroupWorth::BestTwo,
        normalise: true,
        scaling: 2.5,
    };

    #[test]
    fn the_published_shape_is_accepted_and_each_limit_is_named() {
        V3.plan().unwrap();
        RouteDesc { tokens: 0, ..V3 }.plan().unwrap();
        for (desc, field) in [
            (RouteDesc { hidden: 7170, ..V3 }, "hidden"),
            (RouteDesc { experts: 0, ..V3 }, "experts"),
            (RouteDesc { experts: 513, ..V3 }, "experts"),
            (RouteDesc { groups: 7, ..V3 }, "groups"),
            (RouteDesc { groups: 64, ..V3 }, "groups"),
            (RouteDesc { experts: 8, ..V3 }, "groups"),
            (
                RouteDesc {
                    top_groups: 9,
                    ..V3
                },
                "top_groups",
            ),
            (RouteDesc { top_k: 17, ..V3 }, "top_k"),
            (
                RouteDesc {
                    top_groups: 1,
                    experts: 56,
                    ..V3
                },
                "top_k",
            ),
        ] {
            let message = desc.plan().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("route: {field} = ")),
                "{message}"
            );
        }
    }
}
