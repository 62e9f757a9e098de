//! The tokens of a call: their routing, and the form in which they are dispatched.

use crate::checkpoint::LayerWeights;
use crate::config::{BLOCK, Config, WeightFormat};
use crate::error::{Error, Result};
use crate::layer::activations::Input;
use crate::layer::weights::Router;
use crate::layer::{memory, size};
use hadal::device::{Buffer, Stream};
use hadal::ep::latency::Rows;
use hadal::gemm::{Format, Shape, View, ViewMut, scale_stride};
use hadal::moe::{RouteDesc, RouteOperands, RoutePlan};
use hadal::quant::{Quantise1x128, Quantise1x128Desc, Quantise1x128Plan, ScaleLayout, Scaling};
use half::bf16;

/// Routing and quantisation, and their results.
#[derive(Debug)]
pub(crate) struct Tokens {
    config: Config,
    max_tokens: u32,
    router: Router,
    bias: Option<Buffer<f32>>,
    pub(crate) topk_indices: Buffer<i32>,
    pub(crate) topk_weights: Buffer<f32>,
    pub(crate) quantised: Option<Quantised>,
    plan: Plan,
}

/// Tokens of a layer with FP8 experts.
#[derive(Debug)]
pub(crate) struct Quantised {
    pub(crate) codes: Buffer<u8>,
    /// For the dispatch.
    pub(crate) row_major: Buffer<f32>,
    /// For the shared expert, where there is one.
    pub(crate) m_major: Option<Buffer<f32>>,
}

/// What depends on the number of tokens.
#[derive(Debug)]
struct Plan {
    tokens: u32,
    route: RoutePlan,
    row_major: Option<Quantise1x128>,
    m_major: Option<Quantise1x128>,
}

impl Plan {
    fn new(stream: &Stream, config: &Config, tokens: u32) -> Result<Self> {
        let routing = config.routing;
        let route = RouteDesc {
            tokens: tokens as usize,
            hidden: config.hidden,
            experts: config.experts,
            top_k: config.top_k,
            groups: routing.groups,
            top_groups: routing.top_groups,
            scores: routing.scores,
            group_worth: routing.group_worth,
            normalise: routing.normalise,
            scaling: routing.scaling,
        };
        let quantise = |layout, wanted| {
            let shape = Shape::matrix(tokens, size(config.hidden)?);
            let used = config.weights == WeightFormat::Fp8 && wanted;
            used.then(|| quantise(stream, shape, layout)).transpose()
        };
        Ok(Self {
            tokens,
            route: route.plan().map_err(Error::plan("plan of the routing"))?,
            row_major: quantise(ScaleLayout::RowMajor, true)?,
            m_major: quantise(ScaleLayout::MMajor, config.shared > 0)?,
        })
    }
}

impl Tokens {
    pub(crate) fn new(
        stream: &Stream,
        config: &Config,
        weights: &LayerWeights,
        max_tokens: u32,
    ) -> Result<Self> {
        let (context, tokens) = (stream.context(), max_tokens as usize);
        let blocks = config.hidden / BLOCK;
        let floats = |count| Buffer::<f32>::zeroed(stream, count).map_err(memory());
        let quantised = || -> Result<_> {
            let m_major = blocks * scale_stride(max_tokens) as usize;
            Ok(Quantised {
                codes: Buffer::alloc(context, tokens * config.hidden).map_err(memory())?,
                row_major: floats(tokens * blocks)?,
                m_major: (config.shared > 0).then(|| floats(m_major)).transpose()?,
            })
        };
        let entries = tokens * config.top_k;
        Ok(Self {
            max_tokens,
            router: Router::upload(stream, &weights.router)?,
            bias: match &weights.bias {
                Some(bias) => Some(Buffer::from_slice(stream, bias).map_err(memory())?),
                None => None,
            },
            topk_indices: Buffer::alloc(context, entries).map_err(memory())?,
            topk_weights: Buffer::alloc(context, entries).map_err(memory())?,
            quantised: (config.weights == WeightFormat::Fp8)
                .then(quantised)
                .transpose()?,
            plan: Plan::new(stream, config, max_tokens)?,
            config: config.clone(),
        })
    }

    /// Takes another number of tokens, from the next call on.
    pub(crate) fn set(&mut self, stream: &Stream, tokens: u32) -> Result<()> {
        if tokens > self.max_tokens {
            return Err(Error::Request {
                what: "tokens",
                found: tokens.to_string(),
                expected: format!("at most {}, what the layer was made for", self.max_tokens),
            });
        }
        if self.plan.tokens != tokens {
            self.plan = Plan::new(stream, &self.config, tokens)?;
        }
        Ok(())
    }

    /// Enqueues the routing.
    pub(crate) fn route(
        &mut self,
        stream: &Stream,
        x: &Buffer<bf16>,
        valid: Option<&Buffer<u32>>,
    ) -> Result<()> {
        let operands = RouteOperands {
            hidden_states: x,
            router: self.router.view(),
            bias: self.bias.as_ref(),
            valid,
            topk_indices: &mut self.topk_indices,
            topk_weights: &mut self.topk_weights,
        };
        let plan = &self.plan.route;
        plan.run(stream, operands).map_err(Error::device("routing"))
    }

    /// Enqueues the quantisation, if any: the same codes with scales in one or both layouts.
    pub(crate) fn quantise(&mut self, stream: &Stream, x: &Buffer<bf16>) -> Result<()> {
        let Some(quantised) = &mut self.quantised else {
            return Ok(());
        };
        let elements = self.plan.tokens as usize * self.config.hidden;
        let layouts = [
            (&self.plan.row_major, Some(&mut quantised.row_major)),
            (&self.plan.m_major, quantised.m_major.as_mut()),
        ];
        for (quantise, scales) in layouts {
            let (Some(quantise), Some(scales)) = (quantise, scales) else {
                continue;
            };
            let count = usize::try_from(quantise.plan().scales).map_err(memory())?;
            let x = View::from(x).slice(0..elements);
            let codes = ViewMut::from(&mut quantised.codes).slice(0..elements);
            let scales = ViewMut::from(scales).slice(0..count);
            x.and_then(|x| Ok((x, codes?, scales?)))
                .map_err(Error::device("tokens"))
                .and_then(|(x, codes, scales)| {
                    let run = quantise.run(stream, x, codes, scales);
                    run.map_err(Error::device("quantisation"))
                })?;
        }
        Ok(())
    }

    /// What is dispatched.
    pub(crate) fn rows<'a>(&'a self, x: &'a Buffer<bf16>) -> Rows<'a> {
        match &self.quantised {
            Some(quantised) => Rows::Fp8 {
                codes: &quantised.codes,
                scales: &quantised.row_major,
            },
            None => Rows::Bf16(x),
        }
    }

    /// What the shared expert reads.
    pub(crate) fn shared_input<'a>(&'a self, x: &'a Buffer<bf16>) -> Input<'a> {
        match &self.quantised {
            Some(Quantised {
                codes,
                m_major: Some(scales),
                ..
            }) => Input::Fp8 { codes, scales },
            _ => Input::Bf16(x),
        }
    }
}

fn quantise(stream: &Stream, shape: Shape, layout: ScaleLayout) -> Result<Quantise1x128> {
    let context = stream.context();
    let sms = context
        .multiprocessors()
        .map_err(Error::device("device attributes"))?;
    let desc = Quantise1x128Desc {
        shape,
        format: Format::E4m3,
        layout,
        scaling: Scaling::Exact,
        sms,
    };
    let plan = Quantise1x128Plan::new(desc).map_err(Error::plan("plan of the quantisation"))?;
    Quantise1x128::new(context, plan).map_err(Error::device("loading the quantisation"))
}
