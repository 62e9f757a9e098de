//! Routing as DeepSeek-V3 publishes it (arXiv 2412.19437, section 2.1.2); `csrc/moe/route.cuh`.
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

/// What is to be routed, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteDesc {
    /// Tokens; may be 0.
    pub tokens: usize,
    /// Width of a token: a multiple of 8.
    pub hidden: usize,
    /// Experts: 1 to 256.
    pub experts: usize,
    /// Experts per token: 1 to 16, at most as many as the kept groups hold.
    pub top_k: usize,
    /// Groups the experts fall into, in order: 1 to 32, a divisor of `experts`.
    pub groups: usize,
    /// Groups a token may use: 1 to `groups`.
    pub top_groups: usize,
    /// Weights are divided by their sum.
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
    pub router: &'a Buffer<bf16>,
    /// `[experts]`, takes part in the choice only.
    pub bias: &'a Buffer<f32>,
    /// Out: `[tokens, top_k]`, in the order of falling choice score.
    pub topk_indices: &'a mut Buffer<i32>,
    /// Out: `[tokens, top_k]`.
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
            topk_indices,
            topk_weights,
        } = operands;
        let choices = desc.tokens * desc.top_k;
        let params = RouteParams {
            hidden_states: operand(
                OPERATION,
                stream,
                ("hidden_states", hidden_states),
                desc.tokens * desc.hidden,
            )?,
            router: operand(
                OPERATION,
                stream,
                ("router", router),
                desc.experts * desc.hidden,
            )?,
            bias: operand(OPERATION, stream, ("bias", bias), desc.experts)?,
            topk_indices: operand(OPERATION, stream, ("topk_indices", topk_indices), choices)?,
            topk_weights: operand(OPERATION, stream, ("topk_weights", topk_weights), choices)?,
            tokens: dimension(OPERATION, "tokens", desc.tokens)?,
            hidden: dimension(OPERATION, "hidden", desc.hidden)?,
            experts: dimension(OPERATION, "experts", desc.experts)?,
            top_k: dimension(OPERATION, "top_k", desc.top_k)?,
            groups: dimension(OPERATION, "groups", desc.groups)?,
            top_groups: dimension(OPERATION, "top_groups", desc.top_groups)?,
            normalise: desc.normalise.into(),
            scaling: desc.scaling,
        };
        if desc.tokens == 0 {
            return Ok(());
        }
        let kernel = stream.context().kernel("moe_route")?;
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
            (RouteDesc { experts: 257, ..V3 }, "experts"),
            (RouteDesc { groups: 7, ..V3 }, "groups"),
            (RouteDesc { groups: 64, ..V3 }, "groups"),
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
