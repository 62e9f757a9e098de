//! `config.json` of a DeepSeek-V3 checkpoint: what of it the layer needs, and what it must say.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// Edge of a weight's scale block, and columns per activation scale.
pub const BLOCK: usize = 128;

/// Shape and routing of a mixture-of-experts layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of a token.
    pub hidden: usize,
    /// Intermediate width of a routed expert.
    pub intermediate: usize,
    /// Routed experts.
    pub experts: usize,
    /// Shared experts; they form one expert of `shared * intermediate`.
    pub shared: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Groups of experts.
    pub groups: usize,
    /// Groups that a token may use.
    pub top_groups: usize,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Factor of the weights.
    pub scaling: f32,
}

#[derive(Debug, Deserialize)]
struct Raw {
    model_type: Option<String>,
    hidden_size: usize,
    moe_intermediate_size: usize,
    n_routed_experts: usize,
    n_shared_experts: Option<usize>,
    num_experts_per_tok: usize,
    n_group: Option<usize>,
    topk_group: Option<usize>,
    topk_method: Option<String>,
    scoring_func: Option<String>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f32>,
    hidden_act: Option<String>,
    quantization_config: Option<RawQuantization>,
}

#[derive(Debug, Deserialize)]
struct RawQuantization {
    quant_method: Option<String>,
    fmt: Option<String>,
    weight_block_size: Option<Vec<usize>>,
}

/// Builds [`Error::Config`] for one file.
struct Refuse<'a>(&'a Path);

impl Refuse<'_> {
    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "the condition that must hold"
    )]
    fn unless(
        &self,
        holds: bool,
        key: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Result<()> {
        if holds {
            return Ok(());
        }
        let (path, found, expected) = (self.0.to_path_buf(), found.to_string(), expected.into());
        Err(Error::Config {
            path,
            key,
            found,
            expected,
        })
    }

    fn text(&self, key: &'static str, found: Option<&str>, expected: &str) -> Result<()> {
        let shown = found.map_or_else(|| "absent".to_owned(), |f| format!("\"{f}\""));
        self.unless(
            found == Some(expected),
            key,
            shown,
            format!("\"{expected}\""),
        )
    }
}

impl Config {
    /// Reads and checks `config.json` in a checkpoint's folder.
    ///
    /// # Errors
    ///
    /// The file is missing or not JSON, lacks a key, or asks for what is not implemented.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let raw: Raw = serde_json::from_str(&text).map_err(|e| Error::Format {
            path: path.clone(),
            expectation: e.to_string(),
        })?;
        Self::check(&raw, &Refuse(&path))
    }

    fn check(raw: &Raw, refuse: &Refuse<'_>) -> Result<Self> {
        refuse.text("model_type", raw.model_type.as_deref(), "deepseek_v3")?;
        refuse.text("hidden_act", raw.hidden_act.as_deref(), "silu")?;
        refuse.text("scoring_func", raw.scoring_func.as_deref(), "sigmoid")?;
        refuse.text("topk_method", raw.topk_method.as_deref(), "noaux_tc")?;
        let quantisation = raw.quantization_config.as_ref();
        let method = quantisation.and_then(|q| q.quant_method.as_deref());
        refuse.text("quantization_config.quant_method", method, "fp8")?;
        let format = quantisation.and_then(|q| q.fmt.as_deref());
        refuse.text("quantization_config.fmt", format, "e4m3")?;
        let block = quantisation.and_then(|q| q.weight_block_size.as_deref());
        refuse.unless(
            block == Some(&[BLOCK, BLOCK]),
            "quantization_config.weight_block_size",
            format!("{block:?}"),
            "[128, 128]",
        )?;
        let config = Self {
            hidden: raw.hidden_size,
            intermediate: raw.moe_intermediate_size,
            experts: raw.n_routed_experts,
            shared: raw.n_shared_experts.unwrap_or(0),
            top_k: raw.num_experts_per_tok,
            groups: raw.n_group.unwrap_or(1),
            top_groups: raw.topk_group.unwrap_or(1),
            normalise: raw.norm_topk_prob.unwrap_or(true),
            scaling: raw.routed_scaling_factor.unwrap_or(1.0),
        };
        config.check_numbers(refuse)?;
        Ok(config)
    }

    fn check_numbers(&self, refuse: &Refuse<'_>) -> Result<()> {
        let Self {
            hidden,
            intermediate,
            experts,
            shared,
            top_k,
            groups,
            top_groups,
            ..
        } = *self;
        let multiple = |n: usize| n > 0 && n.is_multiple_of(BLOCK);
        refuse.unless(multiple(hidden), "hidden_size", hidden, "a multiple of 128")?;
        let key = "moe_intermediate_size";
        refuse.unless(
            multiple(intermediate),
            key,
            intermediate,
            "a multiple of 128",
        )?;
        let range = "1 to 256";
        refuse.unless(
            (1..=256).contains(&experts),
            "n_routed_experts",
            experts,
            range,
        )?;
        refuse.unless(shared <= 16, "n_shared_experts", shared, "0 to 16")?;
        let divides = (1..=32).contains(&groups) && experts.is_multiple_of(groups);
        let range = format!("1 to 32 and a divisor of n_routed_experts = {experts}");
        refuse.unless(divides, "n_group", groups, range)?;
        let two = groups == 1 || experts / groups >= 2;
        refuse.unless(two, "n_group", groups, "groups of at least two experts")?;
        let kept = (1..=groups).contains(&top_groups);
        refuse.unless(
            kept,
            "topk_group",
            top_groups,
            format!("1 to n_group = {groups}"),
        )?;
        let reachable = 16.min(top_groups * experts / groups);
        let range = format!("1 to {reachable} (at most 16, within the kept groups)");
        refuse.unless(
            (1..=reachable).contains(&top_k),
            "num_experts_per_tok",
            top_k,
            range,
        )?;
        let finite = self.scaling.is_finite();
        refuse.unless(
            finite,
            "routed_scaling_factor",
            self.scaling,
            "a finite number",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tiny() -> Value {
        let text = include_str!("../data/tiny-moe/config.json");
        serde_json::from_str(text).expect("valid JSON")
    }

    fn read(value: &Value) -> Result<Config> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = serde_json::to_vec(value).expect("JSON");
        std::fs::write(folder.path().join("config.json"), text).expect("writable");
        Config::read(folder.path())
    }

    #[test]
    fn reads_the_published_form() {
        let config = read(&tiny()).expect("supported");
        assert_eq!(
            (config.hidden, config.intermediate, config.experts),
            (512, 128, 32)
        );
        assert_eq!((config.top_k, config.groups, config.top_groups), (4, 4, 2));
        assert!(config.normalise && config.scaling == 2.5 && config.shared == 1);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        let cases: [(&str, Value); 12] = [
            ("model_type", json!("mixtral")),
            ("hidden_act", json!("gelu")),
            ("scoring_func", json!("softmax")),
            ("topk_method", json!("greedy")),
            ("quantization_config", json!(null)),
            (
                "quantization_config",
                json!({"quant_method": "fp8", "fmt": "e5m2"}),
            ),
            ("hidden_size", json!(520)),
            ("moe_intermediate_size", json!(0)),
            ("n_routed_experts", json!(257)),
            ("n_group", json!(5)),
            ("topk_group", json!(9)),
            ("num_experts_per_tok", json!(17)),
        ];
        for (key, value) in cases {
            let mut config = tiny();
            config[key] = value;
            let message = read(&config).expect_err(key).to_string();
            assert!(
                message.contains("config.json") && message.contains(key),
                "{message}"
            );
        }
    }

    #[test]
    fn absent_keys_and_broken_files_are_errors() {
        let mut config = tiny();
        config
            .as_object_mut()
            .expect("object")
            .remove("hidden_size");
        assert!(
            read(&config)
                .expect_err("absent")
                .to_string()
                .contains("hidden_size")
        );
        let nowhere = Config::read(Path::new("/nonexistent")).expect_err("no folder");
        assert_eq!(nowhere.exit_code(), 2);
    }
}
