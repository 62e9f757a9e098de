//! Families of models: how each routes, and what it calls its keys and tensors. Reference: the implementations of
//! Hugging Face transformers.

use hadal::moe::{GroupWorth, Scores};

/// A family, by the `model_type` of its `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Family {
    /// `deepseek_v3`: DeepSeek-V3 and R1.
    #[value(name = "deepseek_v3")]
    DeepseekV3,
    /// `deepseek_v2`: DeepSeek-V2 and V2-Lite.
    #[value(name = "deepseek_v2")]
    DeepseekV2,
    /// `qwen3_moe`.
    #[value(name = "qwen3_moe")]
    Qwen3Moe,
    /// `mixtral`.
    Mixtral,
    /// `glm4_moe`: GLM-4.5 and 4.6.
    #[value(name = "glm4_moe")]
    Glm4Moe,
    /// `granitemoe`.
    #[value(name = "granitemoe")]
    GraniteMoe,
}

/// How a token chooses its experts; the fields of [`hadal::moe::RouteDesc`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// Scores from logits.
    pub scores: Scores,
    /// A correction bias takes part in the choice.
    pub bias: bool,
    /// Groups of experts.
    pub groups: usize,
    /// Groups that a token may use.
    pub top_groups: usize,
    /// How groups are judged.
    pub group_worth: GroupWorth,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Factor of the weights.
    pub scaling: f32,
}

/// Names of a layer's tensors, below the layer's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TensorNames {
    /// The block of the layer.
    pub(crate) block: &'static str,
    /// Router weight, below the block.
    pub(crate) router: &'static str,
    /// The experts' projections, below the block.
    pub(crate) experts: ExpertNames,
}

/// Names of the experts' projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpertNames {
    /// `experts.N.NAME.weight`, each `[rows, columns]`: gate, up, down.
    Each([&'static str; 3]),
    /// One tensor `[experts, rows, columns]` for all: gate over up, down.
    Stacked([&'static str; 2]),
}

impl Family {
    /// All families.
    pub const ALL: [Self; 6] = [
        Self::DeepseekV3,
        Self::DeepseekV2,
        Self::Qwen3Moe,
        Self::Mixtral,
        Self::Glm4Moe,
        Self::GraniteMoe,
    ];

    /// Its `model_type`.
    #[must_use]
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::DeepseekV3 => "deepseek_v3",
            Self::DeepseekV2 => "deepseek_v2",
            Self::Qwen3Moe => "qwen3_moe",
            Self::Mixtral => "mixtral",
            Self::Glm4Moe => "glm4_moe",
            Self::GraniteMoe => "granitemoe",
        }
    }

    /// Its routing where `config.json` says nothing.
    #[must_use]
    pub const fn routing(self) -> Routing {
        let softmax = Routing {
            scores: Scores::Softmax,
            bias: false,
            groups: 1,
            top_groups: 1,
            group_worth: GroupWorth::Best,
            normalise: false,
            scaling: 1.0,
        };
        let sigmoid = Routing {
            scores: Scores::Sigmoid,
            bias: true,
            group_worth: GroupWorth::BestTwo,
            normalise: true,
            ..softmax
        };
        match self {
            Self::DeepseekV3 => Routing {
                groups: 8,
                top_groups: 4,
                scaling: 2.5,
                ..sigmoid
            },
            Self::Glm4Moe => sigmoid,
            Self::DeepseekV2 | Self::Qwen3Moe => softmax,
            // Granite's softmax of the chosen logits is the normalised softmax of all.
            Self::Mixtral | Self::GraniteMoe => Routing {
                normalise: true,
                ..softmax
            },
        }
    }

    /// Keys of the number of routed experts, the published one first; newer transformers write the last.
    pub(crate) const fn experts_keys(self) -> &'static [&'static str] {
        match self {
            Self::DeepseekV3 | Self::DeepseekV2 | Self::Glm4Moe => {
                &["n_routed_experts", "num_local_experts"]
            }
            Self::Qwen3Moe => &["num_experts", "num_local_experts"],
            Self::Mixtral | Self::GraniteMoe => &["num_local_experts"],
        }
    }

    /// Key of a routed expert's intermediate width.
    pub(crate) const fn intermediate_key(self) -> &'static str {
        match self {
            Self::Mixtral | Self::GraniteMoe => "intermediate_size",
            _ => "moe_intermediate_size",
        }
    }

    /// Shared experts where `config.json` says nothing; 0 where the family has none.
    #[must_use]
    pub const fn shared(self) -> usize {
        match self {
            Self::DeepseekV3 | Self::Glm4Moe => 1,
            Self::DeepseekV2 => 2,
            _ => 0,
        }
    }

    /// Names of its tensors.
    pub(crate) const fn tensors(self) -> TensorNames {
        match self {
            Self::Mixtral => TensorNames {
                block: "block_sparse_moe",
                router: "gate",
                experts: ExpertNames::Each(["w1", "w3", "w2"]),
            },
            Self::GraniteMoe => TensorNames {
                block: "block_sparse_moe",
                router: "router.layer",
                experts: ExpertNames::Stacked(["input_linear", "output_linear"]),
            },
            _ => TensorNames {
                block: "mlp",
                router: "gate",
                experts: ExpertNames::Each(["gate_proj", "up_proj", "down_proj"]),
            },
        }
    }
}
