//! `config.json` of a checkpoint: what of it the layer needs, and what it must say.

use crate::error::{Error, Result};
use crate::family::{ExpertNames, Family, Routing};
use hadal::moe::GroupWorth;
use serde_json::{Map, Value};
use std::path::Path;

/// Edge of a weight's scale block, and columns per activation scale.
pub const BLOCK: usize = 128;

/// What widths are a multiple of where weights are BF16: 16 elements are the step of the tensor cores.
const BF16_STEP: usize = 16;

/// How a checkpoint stores the projections of its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum WeightFormat {
    /// E4M3 codes with one FP32 scale per 128×128 block.
    Fp8,
    /// BF16, or a wider type that is rounded to it.
    Bf16,
}

/// Shape and routing of a mixture-of-experts layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Family.
    pub family: Family,
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
    /// How they are chosen.
    pub routing: Routing,
    /// How the experts are stored.
    pub weights: WeightFormat,
}

/// The keys of one file.
struct Keys<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl Keys<'_> {
    /// The value of a key, with dots for nesting; `None` where it is absent or null.
    fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.map.get(parts.next()?)?;
        parts
            .try_fold(first, |value, part| value.get(part))
            .filter(|value| !value.is_null())
    }

    /// The first of these keys that is there; the first of all where none is.
    fn first_of(&self, keys: &'static [&'static str]) -> &'static str {
        let present = keys.iter().find(|key| self.get(key).is_some());
        present.or(keys.first()).copied().unwrap_or_default()
    }

    fn refuse<T>(&self, key: &'static str, expected: impl Into<String>) -> Result<T> {
        let found = self
            .get(key)
            .map_or_else(|| "absent".to_owned(), Value::to_string);
        let (path, expected) = (self.path.to_path_buf(), expected.into());
        Err(Error::Config {
            path,
            key,
            found,
            expected,
        })
    }

    fn size(&self, key: &'static str, absent: Option<usize>) -> Result<usize> {
        let found = match (self.get(key), absent) {
            (None, Some(absent)) => return Ok(absent),
            (value, _) => value
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok()),
        };
        found.map_or_else(|| self.refuse(key, "a whole number"), Ok)
    }

    fn flag(&self, key: &'static str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => self.refuse(key, "true or false"),
        }
    }

    /// The key is absent, or one of these texts.
    fn text(&self, key: &'static str, allowed: &[&str]) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_str().filter(|text| allowed.contains(text)) {
            Some(text) => Ok(Some(text)),
            None => self.refuse(key, listed(allowed)),
        }
    }
}

fn listed(texts: &[&str]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    quoted.join(" or ")
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
        let map = serde_json::from_str(&text).map_err(|e| Error::Format {
            path: path.clone(),
            expectation: e.to_string(),
        })?;
        Self::parse(&path, map)
    }

    /// The same from the file's content.
    pub(crate) fn parse(path: &Path, map: Map<String, Value>) -> Result<Self> {
        let keys = Keys { path, map };
        let family = family(&keys)?;
        keys.text("hidden_act", &["silu"])?;
        if keys.flag("mlp_bias")? == Some(true) {
            return keys.refuse("mlp_bias", "false: experts have no bias");
        }
        let shared = match (family.shared(), keys.map.get("n_shared_experts")) {
            (0, _) | (_, Some(Value::Null)) => 0,
            (default, _) => keys.size("n_shared_experts", Some(default))?,
        };
        let config = Self {
            family,
            hidden: keys.size("hidden_size", None)?,
            intermediate: keys.size(family.intermediate_key(), None)?,
            experts: keys.size(keys.first_of(family.experts_keys()), None)?,
            shared,
            top_k: keys.size("num_experts_per_tok", None)?,
            routing: routing(&keys, family)?,
            weights: weights(&keys, family)?,
        };
        config.check(&keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys<'_>) -> Result<()> {
        let Self {
            family,
            hidden,
            intermediate,
            experts,
            top_k,
            ..
        } = *self;
        let Routing {
            groups,
            top_groups,
            group_worth,
            scaling,
            ..
        } = self.routing;
        let step = match self.weights {
            WeightFormat::Fp8 => BLOCK,
            WeightFormat::Bf16 => BF16_STEP,
        };
        for (key, width) in [
            ("hidden_size", hidden),
            (family.intermediate_key(), intermediate),
        ] {
            if width == 0 || !width.is_multiple_of(step) || u32::try_from(width).is_err() {
                return keys.refuse(key, format!("a positive multiple of {step} below 2^32"));
            }
        }
        if !(1..=256).contains(&experts) {
            return keys.refuse(keys.first_of(family.experts_keys()), "1 to 256");
        }
        if self.shared > 16 {
            return keys.refuse("n_shared_experts", "0 to 16");
        }
        if !(1..=32).contains(&groups) || !experts.is_multiple_of(groups) {
            return keys.refuse(
                "n_group",
                format!("1 to 32 and a divisor of {experts} experts"),
            );
        }
        if groups > 1 && group_worth == GroupWorth::BestTwo && experts / groups < 2 {
            return keys.refuse("n_group", "groups of at least two experts");
        }
        if !(1..=groups).contains(&top_groups) {
            return keys.refuse("topk_group", format!("1 to n_group = {groups}"));
        }
        let most = 16.min(top_groups * (experts / groups));
        if !(1..=most).contains(&top_k) {
            let range = format!("1 to {most} (at most 16, within the kept groups)");
            return keys.refuse("num_experts_per_tok", range);
        }
        if !scaling.is_finite() {
            return keys.refuse("routed_scaling_factor", "a finite number");
        }
        Ok(())
    }
}

fn family(keys: &Keys<'_>) -> Result<Family> {
    let known = Family::ALL.map(Family::model_type);
    let name = keys.text("model_type", &known)?;
    let family = Family::ALL
        .into_iter()
        .find(|family| Some(family.model_type()) == name);
    family.map_or_else(|| keys.refuse("model_type", listed(&known)), Ok)
}

/// The family's routing with what the keys say about it.
fn routing(keys: &Keys<'_>, family: Family) -> Result<Routing> {
    let base = family.routing();
    match family {
        Family::Mixtral | Family::GraniteMoe => Ok(base),
        Family::Qwen3Moe => Ok(Routing {
            normalise: keys.flag("norm_topk_prob")?.unwrap_or(base.normalise),
            ..base
        }),
        Family::DeepseekV2 => {
            keys.text("scoring_func", &["softmax"])?;
            let method = keys.text("topk_method", &["greedy", "group_limited_greedy"])?;
            let limited = method == Some("group_limited_greedy");
            let groups = |key| if limited { keys.size(key, None) } else { Ok(1) };
            // The reference neither normalises nor reads `norm_topk_prob`.
            Ok(Routing {
                groups: groups("n_group")?,
                top_groups: groups("topk_group")?,
                scaling: scaling(keys, base.scaling)?,
                ..base
            })
        }
        Family::DeepseekV3 | Family::Glm4Moe => {
            keys.text("scoring_func", &["sigmoid"])?;
            keys.text("topk_method", &["noaux_tc"])?;
            Ok(Routing {
                groups: keys.size("n_group", Some(base.groups))?,
                top_groups: keys.size("topk_group", Some(base.top_groups))?,
                normalise: keys.flag("norm_topk_prob")?.unwrap_or(base.normalise),
                scaling: scaling(keys, base.scaling)?,
                ..base
            })
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a factor of FP32 weights")]
fn scaling(keys: &Keys<'_>, absent: f32) -> Result<f32> {
    let key = "routed_scaling_factor";
    match keys.get(key) {
        None => Ok(absent),
        Some(value) => value.as_f64().map_or_else(
            || keys.refuse(key, "a finite number"),
            |factor| Ok(factor as f32),
        ),
    }
}

/// The published block form, or none: `quantization_config` is absent or null.
fn weights(keys: &Keys<'_>, family: Family) -> Result<WeightFormat> {
    if keys.get("quantization_config").is_none() {
        return Ok(WeightFormat::Bf16);
    }
    let method = "quantization_config.quant_method";
    if keys.text(method, &["fp8"])?.is_none() {
        return keys.refuse(method, "\"fp8\"");
    }
    keys.text("quantization_config.fmt", &["e4m3"])?;
    keys.text("quantization_config.activation_scheme", &["dynamic"])?;
    let block = "quantization_config.weight_block_size";
    if keys.get(block) != Some(&serde_json::json!([BLOCK, BLOCK])) {
        return keys.refuse(block, "[128, 128]");
    }
    if let ExpertNames::Stacked(_) = family.tensors().experts {
        return keys.refuse("quantization_config", "absent: stacked experts are BF16");
    }
    Ok(WeightFormat::Fp8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal::moe::Scores;
    use serde_json::json;

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
        let Routing {
            groups,
            top_groups,
            normalise,
            scaling,
            ..
        } = config.routing;
        assert_eq!(
            (config.hidden, config.intermediate, config.experts),
            (512, 128, 32)
        );
        assert_eq!((config.top_k, groups, top_groups), (4, 4, 2));
        assert!(normalise && scaling == 2.5 && config.shared == 1);
        assert_eq!(
            (config.family, config.weights),
            (Family::DeepseekV3, WeightFormat::Fp8)
        );
    }

    /// The numbers of the published models (their `config.json`).
    #[test]
    fn each_family_has_its_own_keys_and_rules() {
        let v2 = json!({"model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288,
            "moe_intermediate_size": 1536, "n_routed_experts": 160, "n_shared_experts": 2,
            "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy",
            "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 16.0});
        let lite = json!({"model_type": "deepseek_v2", "hidden_size": 2048, "moe_intermediate_size": 1408,
            "n_routed_experts": 64, "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1,
            "topk_method": "greedy", "n_shared_experts": 2});
        let qwen = json!({"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
            "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true});
        let mixtral = json!({"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
            "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_act": "silu"});
        let glm = json!({"model_type": "glm4_moe", "hidden_size": 4096, "intermediate_size": 10944,
            "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1,
            "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
            "routed_scaling_factor": 1.0});
        let granite = json!({"model_type": "granitemoe", "hidden_size": 1536, "intermediate_size": 512,
            "num_local_experts": 40, "num_experts_per_tok": 8});
        let softmax = |groups, top_groups, normalise, scaling| Routing {
            scores: Scores::Softmax,
            bias: false,
            groups,
            top_groups,
            group_worth: GroupWorth::Best,
            normalise,
            scaling,
        };
        let sigmoid = Routing {
            scores: Scores::Sigmoid,
            bias: true,
            group_worth: GroupWorth::BestTwo,
            ..softmax(1, 1, true, 1.0)
        };
        let cases = [
            (v2, [5120, 1536, 160, 2, 6], softmax(8, 3, false, 16.0)),
            (lite, [2048, 1408, 64, 2, 6], softmax(1, 1, false, 1.0)),
            (qwen, [2048, 768, 128, 0, 8], softmax(1, 1, true, 1.0)),
            (mixtral, [4096, 14336, 8, 0, 2], softmax(1, 1, true, 1.0)),
            (glm, [4096, 1408, 128, 1, 8], sigmoid),
            (granite, [1536, 512, 40, 0, 8], softmax(1, 1, true, 1.0)),
        ];
        for (json, sizes, routing) in cases {
            let config = read(&json).expect("supported");
            let Config {
                hidden,
                intermediate,
                experts,
                shared,
                top_k,
                ..
            } = config;
            assert_eq!(
                [hidden, intermediate, experts, shared, top_k],
                sizes,
                "{json}"
            );
            assert_eq!(
                (config.routing, config.weights),
                (routing, WeightFormat::Bf16),
                "{json}"
            );
            assert_eq!(json["model_type"], config.family.model_type());
        }
    }

    #[test]
    fn absent_keys_take_the_reference_s_values_and_null_switches_off() {
        let mut json = tiny();
        let keys = json.as_object_mut().expect("an object");
        for key in [
            "n_group",
            "topk_group",
            "routed_scaling_factor",
            "norm_topk_prob",
            "scoring_func",
        ] {
            keys.remove(key);
        }
        keys.insert("n_shared_experts".into(), Value::Null);
        let experts = keys.remove("n_routed_experts").expect("present");
        keys.insert("num_local_experts".into(), experts);
        let config = read(&json).expect("supported");
        let Routing {
            groups,
            top_groups,
            normalise,
            scaling,
            ..
        } = config.routing;
        assert_eq!((groups, top_groups, normalise, scaling), (8, 4, true, 2.5));
        assert_eq!((config.shared, config.experts), (0, 32));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        let cases: [(&str, Value); 18] = [
            ("model_type", json!("llama4")),
            ("model_type", json!(null)),
            ("hidden_act", json!("gelu")),
            ("mlp_bias", json!(true)),
            ("scoring_func", json!("softmax")),
            ("topk_method", json!("greedy")),
            ("quantization_config", json!({"quant_method": "gptq"})),
            (
                "quantization_config",
                json!({"quant_method": "fp8", "fmt": "e5m2"}),
            ),
            (
                "quantization_config",
                json!({"quant_method": "fp8", "weight_block_size": [64, 128]}),
            ),
            ("hidden_size", json!(520)),
            ("hidden_size", json!("512")),
            ("moe_intermediate_size", json!(0)),
            ("n_routed_experts", json!(257)),
            ("n_group", json!(5)),
            ("topk_group", json!(9)),
            ("num_experts_per_tok", json!(17)),
            ("norm_topk_prob", json!(1)),
            ("routed_scaling_factor", json!(1e300)),
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
        let granite = json!({"model_type": "granitemoe", "hidden_size": 1536, "intermediate_size": 512,
            "num_local_experts": 40, "num_experts_per_tok": 8, "quantization_config":
            {"quant_method": "fp8", "weight_block_size": [128, 128]}});
        let message = read(&granite).expect_err("stacked").to_string();
        assert!(message.contains("stacked"), "{message}");
    }

    #[test]
    fn absent_keys_and_broken_files_are_errors() {
        let mut config = tiny();
        config
            .as_object_mut()
            .expect("object")
            .remove("hidden_size");
        let message = read(&config).expect_err("absent").to_string();
        assert!(message.contains("`hidden_size` is absent"), "{message}");
        for broken in ["", "[]", "{\"model_type\": ", "null"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            std::fs::write(folder.path().join("config.json"), broken).expect("writable");
            let error = Config::read(folder.path()).expect_err(broken);
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let nowhere = Config::read(Path::new("/nonexistent")).expect_err("no folder");
        assert_eq!(nowhere.exit_code(), 2);
    }
}
