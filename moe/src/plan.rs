//! What a checkpoint is, and what its layers would take, before anything is allocated.

use crate::checkpoint::Checkpoint;
use crate::config::{Config, WeightFormat};
use crate::error::Result;
use crate::layer::{LayerDesc, Memory};
use comfy_table::{Cell, CellAlignment, Table, presets};
use hadal::moe::Scores;
use serde::Serialize;
use std::path::Path;

/// A checkpoint's mixture-of-experts layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// `model_type`.
    pub family: &'static str,
    /// Width of a token.
    pub hidden: usize,
    /// Intermediate width of a routed expert.
    pub intermediate: usize,
    /// Routed experts.
    pub experts: usize,
    /// Shared experts.
    pub shared: usize,
    /// Experts per token.
    pub top_k: usize,
    /// `[groups, groups that a token may use]`.
    pub groups: [usize; 2],
    /// How scores come from logits.
    pub scores: &'static str,
    /// The arithmetic that the experts run in.
    pub arithmetic: &'static str,
    /// Numbers of the layers.
    pub layers: Vec<usize>,
    /// Bytes of the weights of one layer.
    pub layer_bytes: u64,
}

/// Memory of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RankMemory {
    /// The rank.
    pub rank: u32,
    /// First of its experts, and one past the last.
    pub experts: [usize; 2],
    /// What a layer takes of its device.
    #[serde(flatten)]
    pub memory: Memory,
    /// All of it.
    pub total: u64,
}

/// Looks at a checkpoint's folder; reads no weights.
///
/// # Errors
///
/// A file is missing or malformed, or the configuration is not supported.
pub fn inspect(folder: &Path) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(folder)?;
    let config = &checkpoint.config;
    let Config {
        family,
        hidden,
        intermediate,
        experts,
        shared,
        top_k,
        routing,
        weights,
    } = *config;
    let alone = LayerDesc::new(config.clone(), 1, 1);
    Ok(Inspection {
        family: family.model_type(),
        hidden,
        intermediate,
        experts,
        shared,
        top_k,
        groups: [routing.groups, routing.top_groups],
        scores: match routing.scores {
            Scores::Sigmoid => "sigmoid",
            Scores::Softmax => "softmax",
        },
        arithmetic: match weights {
            WeightFormat::Fp8 => "FP8 E4M3, scales per 1x128 and 128x128",
            WeightFormat::Bf16 => "BF16",
        },
        layers: checkpoint.moe_layers(),
        layer_bytes: alone.memory(0)?.weights,
    })
}

/// What a layer takes of every rank's device.
///
/// # Errors
///
/// A description that cannot be planned.
pub fn ranks(desc: &LayerDesc) -> Result<Vec<RankMemory>> {
    let of_rank = |rank| {
        let (experts, memory) = (desc.experts(rank), desc.memory(rank)?);
        Ok(RankMemory {
            rank,
            experts: [experts.start, experts.end],
            memory,
            total: memory.total(),
        })
    };
    (0..desc.ranks).map(of_rank).collect()
}

impl Inspection {
    /// As a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        let layers = match self.layers.as_slice() {
            [] => "none".to_owned(),
            [first, .., last] => format!("{} from {first} to {last}", self.layers.len()),
            [only] => only.to_string(),
        };
        for (name, value) in [
            ("family", self.family.to_owned()),
            ("mixture-of-experts layers", layers),
            ("width of a token", self.hidden.to_string()),
            ("width of an expert", self.intermediate.to_string()),
            (
                "experts",
                format!("{}, and {} shared", self.experts, self.shared),
            ),
            ("experts per token", self.top_k.to_string()),
            (
                "groups",
                format!("{} of {}", self.groups[1], self.groups[0]),
            ),
            ("scores", self.scores.to_owned()),
            ("arithmetic", self.arithmetic.to_owned()),
            ("weights of a layer", megabytes(self.layer_bytes)),
        ] {
            table.add_row([name.to_owned(), value]);
        }
        table.to_string()
    }
}

/// The ranks' memory as a table.
#[must_use]
pub fn table(ranks: &[RankMemory]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "rank",
        "experts",
        "weights",
        "workspace",
        "all-to-all",
        "windows",
        "total",
    ]);
    for rank in ranks {
        let [first, end] = rank.experts;
        let Memory {
            weights,
            workspace,
            all_to_all,
            windows,
        } = rank.memory;
        let bytes = [weights, workspace, all_to_all, windows, rank.total].map(megabytes);
        let cells = [rank.rank.to_string(), format!("{first}..{end}")]
            .into_iter()
            .chain(bytes);
        table.add_row(cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
    }
    table.to_string()
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
