//! A seeded mixture-of-experts layer in the published checkpoint format of any family: random weights and tokens
//! of any shape, the same for the same seed on every machine.

use crate::config::{BLOCK, Config, WeightFormat};
use crate::error::{Error, Result};
use crate::family::{ExpertNames, Family};
use crate::tensors;
use hadal_reference::fp8::e4m3_from_f64;
use half::bf16;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Entries of the table of normally distributed codes, indexed by random bits.
const CODES: usize = 1 << 12;

/// Standard deviation of the codes' values: four deviations are within ±448.
const CODE_DEVIATION: f64 = 100.0;

/// Writes `config.json`, `model.safetensors` (layer 0) and `input.safetensors` into `folder`.
///
/// # Errors
///
/// The configuration is one that [`Config::read`] refuses, or the folder cannot be created or written to.
pub fn write(folder: &Path, config: &Config, tokens: usize, seed: u64) -> Result<()> {
    let path = folder.join("config.json");
    let described = describe(config);
    Config::parse(&path, described.clone())?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    let mut source = Source::new(seed);
    let hidden = source.bf16(tokens * config.hidden, 1.0);
    let input = view(
        Dtype::BF16,
        &[tokens, config.hidden],
        bytemuck::cast_slice(&hidden),
    )?;
    tensors::write(
        &folder.join("input.safetensors"),
        &[("hidden_states", input)],
    )?;

    let tensors = source.layer(config);
    let views = tensors
        .iter()
        .map(Owned::view)
        .collect::<Result<Vec<_>>>()?;
    tensors::write(&folder.join("model.safetensors"), &views)?;
    // Last, since its presence marks the folder as complete.
    let text = serde_json::to_vec_pretty(&described).map_err(|e| Error::Format {
        path: path.clone(),
        expectation: e.to_string(),
    })?;
    std::fs::write(&path, text).map_err(Error::io(&path, "write"))
}

fn describe(config: &Config) -> Map<String, Value> {
    let Config {
        family, routing, ..
    } = config;
    let always = [
        ("model_type", json!(family.model_type())),
        ("hidden_size", json!(config.hidden)),
        (family.intermediate_key(), json!(config.intermediate)),
        (family.experts_keys()[0], json!(config.experts)),
        ("num_hidden_layers", json!(1)),
        ("num_experts_per_tok", json!(config.top_k)),
        ("hidden_act", json!("silu")),
        ("torch_dtype", json!("bfloat16")),
    ];
    let grouped = [
        ("n_shared_experts", json!(config.shared)),
        ("n_group", json!(routing.groups)),
        ("topk_group", json!(routing.top_groups)),
        ("routed_scaling_factor", json!(routing.scaling)),
    ];
    let own = match family {
        Family::DeepseekV3 | Family::Glm4Moe => vec![("norm_topk_prob", json!(routing.normalise))],
        Family::DeepseekV2 => vec![("topk_method", json!("group_limited_greedy"))],
        Family::Qwen3Moe => vec![("norm_topk_prob", json!(routing.normalise))],
        Family::Mixtral | Family::GraniteMoe => Vec::new(),
    };
    let grouped = grouped.into_iter().filter(|_| family.shared() > 0);
    let blocks = json!({
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    });
    let blocks = (config.weights == WeightFormat::Fp8).then_some(("quantization_config", blocks));
    let keys = always.into_iter().chain(grouped).chain(own).chain(blocks);
    keys.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A tensor to be written.
struct Owned {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Owned {
    fn new(name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self {
            name,
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }

    fn view(&self) -> Result<(&str, TensorView<'_>)> {
        Ok((&self.name, view(self.dtype, &self.shape, &self.bytes)?))
    }
}

fn view<'a>(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Result<TensorView<'a>> {
    TensorView::new(dtype, shape.to_vec(), bytes).map_err(|e| Error::Request {
        what: "the seeded layer's shape",
        found: format!("{shape:?}"),
        expected: e.to_string(),
    })
}

/// Random values.
struct Source {
    random: ChaCha8Rng,
    codes: Vec<u8>,
}

impl Source {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let codes = (0..CODES)
            .map(|_| e4m3_from_f64(normal(&mut random) * CODE_DEVIATION))
            .collect();
        Self { random, codes }
    }

    fn f32(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "random values")]
        (0..count)
            .map(|_| normal(&mut self.random) as f32 * deviation)
            .collect()
    }

    fn bf16(&mut self, count: usize, deviation: f32) -> Vec<bf16> {
        self.f32(count, deviation)
            .into_iter()
            .map(bf16::from_f32)
            .collect()
    }

    /// All tensors of layer 0.
    fn layer(&mut self, config: &Config) -> Vec<Owned> {
        let Config {
            hidden,
            intermediate,
            experts,
            shared,
            weights,
            ..
        } = *config;
        let names = config.family.tensors();
        let block = format!("model.layers.0.{}", names.block);
        let mut tensors = Vec::new();
        let router = self.bf16(experts * hidden, deviation(hidden));
        tensors.push(Owned::new(
            format!("{block}.{}.weight", names.router),
            Dtype::BF16,
            &[experts, hidden],
            bytemuck::cast_slice(&router).to_vec(),
        ));
        if config.routing.bias {
            let bias = self.f32(experts, 0.05);
            tensors.push(Owned::new(
                format!("{block}.{}.e_score_correction_bias", names.router),
                Dtype::F32,
                &[experts],
                bytemuck::cast_slice(&bias).to_vec(),
            ));
        }
        match names.experts {
            ExpertNames::Each(projections) => {
                for expert in 0..experts {
                    let name = format!("{block}.experts.{expert}");
                    self.expert(
                        &mut tensors,
                        (&name, projections),
                        [hidden, intermediate],
                        weights,
                    );
                }
            }
            ExpertNames::Stacked([gate_up, down]) => {
                for (name, rows, columns) in [
                    (gate_up, 2 * intermediate, hidden),
                    (down, hidden, intermediate),
                ] {
                    let values = self.bf16(experts * rows * columns, deviation(columns));
                    tensors.push(Owned::new(
                        format!("{block}.{name}.weight"),
                        Dtype::BF16,
                        &[experts, rows, columns],
                        bytemuck::cast_slice(&values).to_vec(),
                    ));
                }
            }
        }
        if shared > 0 {
            let name = format!("{block}.shared_experts");
            let projections = ["gate_proj", "up_proj", "down_proj"];
            let widths = [hidden, shared * intermediate];
            self.expert(&mut tensors, (&name, projections), widths, weights);
        }
        tensors
    }

    fn expert(
        &mut self,
        tensors: &mut Vec<Owned>,
        (name, [gate, up, down]): (&str, [&str; 3]),
        [hidden, inner]: [usize; 2],
        weights: WeightFormat,
    ) {
        for (projection, rows, columns) in [
            (gate, inner, hidden),
            (up, inner, hidden),
            (down, hidden, inner),
        ] {
            let weight = format!("{name}.{projection}.weight");
            let shape = [rows, columns];
            match weights {
                WeightFormat::Fp8 => self.blocks(tensors, weight, shape),
                WeightFormat::Bf16 => {
                    let values = self.bf16(rows * columns, deviation(columns));
                    let bytes = bytemuck::cast_slice(&values).to_vec();
                    tensors.push(Owned::new(weight, Dtype::BF16, &shape, bytes));
                }
            }
        }
    }

    /// Codes and scales of a projection.
    fn blocks(&mut self, tensors: &mut Vec<Owned>, name: String, [rows, columns]: [usize; 2]) {
        let mut bytes = vec![0u8; rows * columns * 2];
        self.random.fill_bytes(&mut bytes);
        let index = |pair: &[u8]| usize::from(u16::from_le_bytes([pair[0], pair[1]])) % CODES;
        let codes = bytes
            .chunks_exact(2)
            .map(|pair| self.codes[index(pair)])
            .collect();
        let blocks = [rows / BLOCK, columns / BLOCK];
        #[expect(clippy::cast_possible_truncation, reason = "a factor")]
        let scale = deviation(columns) / CODE_DEVIATION as f32;
        let scales: Vec<f32> = (0..blocks[0] * blocks[1])
            .map(|_| scale * (0.5 + self.random.random::<f32>()))
            .collect();
        let bytes = bytemuck::cast_slice(&scales).to_vec();
        let scales = Owned::new(format!("{name}_scale_inv"), Dtype::F32, &blocks, bytes);
        tensors.push(Owned::new(name, Dtype::F8_E4M3, &[rows, columns], codes));
        tensors.push(scales);
    }
}

/// Standard deviation of weights with so many inputs: keeps activations of order one.
#[expect(clippy::cast_precision_loss, reason = "a width")]
fn deviation(inputs: usize) -> f32 {
    1.0 / (inputs as f32).sqrt()
}

/// One sample of the normal distribution: the sum of twelve uniform ones, less its mean.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, read_hidden_states};
    use crate::family::Routing;

    fn config(family: Family, weights: WeightFormat) -> Config {
        let shared = usize::from(family.shared() > 0);
        Config {
            family,
            hidden: 256,
            intermediate: 128,
            experts: 4,
            shared,
            top_k: 2,
            routing: Routing {
                groups: 1 + shared,
                ..family.routing()
            },
            weights,
        }
    }

    #[test]
    fn a_seeded_layer_of_any_family_reads_back_and_is_the_same_for_its_seed() {
        for family in Family::ALL {
            for weights in [WeightFormat::Fp8, WeightFormat::Bf16] {
                if family == Family::GraniteMoe && weights == WeightFormat::Fp8 {
                    continue;
                }
                let mut config = config(family, weights);
                config.routing.top_groups = 1;
                let folders = [(); 3].map(|()| tempfile::tempdir().expect("a temporary folder"));
                for (folder, seed) in folders.iter().zip([7, 7, 8]) {
                    write(folder.path(), &config, 5, seed).expect("written");
                }
                let [a, b, c] = folders.each_ref().map(|folder| {
                    let checkpoint = Checkpoint::open(folder.path()).expect("valid");
                    assert_eq!(checkpoint.config, config);
                    let input = folder.path().join("input.safetensors");
                    let tokens = read_hidden_states(&input, 256).expect("valid");
                    assert_eq!(tokens.len(), 5 * 256);
                    checkpoint.read_layer(0).expect("complete")
                });
                assert!(a == b && a != c, "{family:?}");
            }
        }
    }
}
