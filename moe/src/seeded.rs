//! A seeded mixture-of-experts layer in the published checkpoint format: random weights and tokens
//! of any shape, the same for the same seed on every machine.

use crate::config::{BLOCK, Config};
use crate::error::{Error, Result};
use crate::tensors;
use hadal_reference::fp8::e4m3_from_f64;
use half::bf16;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::path::Path;

/// Entries of the table of normally distributed codes, indexed by random bits.
const CODES: usize = 1 << 12;

/// Standard deviation of dequantised weights, times √inputs: keeps activations of order one.
const GAIN: f32 = 1.0;

/// Standard deviation of the codes' values: four deviations are within ±448.
const CODE_DEVIATION: f64 = 100.0;

/// Writes `config.json`, `model.safetensors` (layer 0) and `input.safetensors` into `folder`.
///
/// # Errors
///
/// The folder cannot be created or written to.
pub fn write(folder: &Path, config: &Config, tokens: usize, seed: u64) -> Result<()> {
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

    let mut tensors = Vec::new();
    let prefix = "model.layers.0.mlp";
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let deviation = 1.0 / (config.hidden as f32).sqrt();
    let router = source.bf16(config.experts * config.hidden, deviation);
    tensors.push(Owned::new(
        format!("{prefix}.gate.weight"),
        Dtype::BF16,
        &[config.experts, config.hidden],
        bytemuck::cast_slice(&router).to_vec(),
    ));
    let bias = source.f32(config.experts, 0.05);
    tensors.push(Owned::new(
        format!("{prefix}.gate.e_score_correction_bias"),
        Dtype::F32,
        &[config.experts],
        bytemuck::cast_slice(&bias).to_vec(),
    ));
    for expert in 0..config.experts {
        let name = format!("{prefix}.experts.{expert}");
        source.expert(&mut tensors, &name, config.hidden, config.intermediate);
    }
    if config.shared > 0 {
        let name = format!("{prefix}.shared_experts");
        source.expert(
            &mut tensors,
            &name,
            config.hidden,
            config.shared * config.intermediate,
        );
    }
    let views = tensors
        .iter()
        .map(Owned::view)
        .collect::<Result<Vec<_>>>()?;
    tensors::write(&folder.join("model.safetensors"), &views)?;
    // Last, since its presence marks the folder as complete.
    let path = folder.join("config.json");
    let text = serde_json::to_vec_pretty(&describe(config)).map_err(|e| Error::Format {
        path: path.clone(),
        expectation: e.to_string(),
    })?;
    std::fs::write(&path, text).map_err(Error::io(&path, "write"))
}

fn describe(config: &Config) -> serde_json::Value {
    json!({
        "model_type": "deepseek_v3",
        "hidden_size": config.hidden,
        "moe_intermediate_size": config.intermediate,
        "num_hidden_layers": 1,
        "first_k_dense_replace": 0,
        "n_routed_experts": config.experts,
        "n_shared_experts": config.shared,
        "num_experts_per_tok": config.top_k,
        "n_group": config.groups,
        "topk_group": config.top_groups,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": config.normalise,
        "routed_scaling_factor": config.scaling,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
        },
    })
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

    fn expert(&mut self, tensors: &mut Vec<Owned>, name: &str, hidden: usize, inner: usize) {
        for (projection, rows, columns) in [
            ("gate_proj", inner, hidden),
            ("up_proj", inner, hidden),
            ("down_proj", hidden, inner),
        ] {
            let weight = format!("{name}.{projection}.weight");
            let mut bytes = vec![0u8; rows * columns * 2];
            self.random.fill_bytes(&mut bytes);
            let index = |pair: &[u8]| usize::from(u16::from_le_bytes([pair[0], pair[1]])) % CODES;
            let codes = bytes
                .chunks_exact(2)
                .map(|pair| self.codes[index(pair)])
                .collect();
            let blocks = [rows / BLOCK, columns / BLOCK];
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "a width"
            )]
            let deviation = GAIN / ((columns as f32).sqrt() * CODE_DEVIATION as f32);
            let scales: Vec<f32> = (0..blocks[0] * blocks[1])
                .map(|_| deviation * (0.5 + self.random.random::<f32>()))
                .collect();
            tensors.push(Owned::new(
                weight.clone(),
                Dtype::F8_E4M3,
                &[rows, columns],
                codes,
            ));
            let bytes = bytemuck::cast_slice(&scales).to_vec();
            tensors.push(Owned::new(
                format!("{weight}_scale_inv"),
                Dtype::F32,
                &blocks,
                bytes,
            ));
        }
    }
}

/// One sample of the normal distribution: the sum of twelve uniform ones, less its mean.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, read_hidden_states};

    #[test]
    fn a_seeded_layer_reads_back_and_is_the_same_for_its_seed() {
        let config = Config {
            hidden: 256,
            intermediate: 128,
            experts: 4,
            shared: 1,
            top_k: 2,
            groups: 2,
            top_groups: 1,
            normalise: true,
            scaling: 2.5,
        };
        let folders = [(); 3].map(|()| tempfile::tempdir().expect("a temporary folder"));
        for (folder, seed) in folders.iter().zip([7, 7, 8]) {
            write(folder.path(), &config, 5, seed).expect("written");
        }
        let [a, b, c] = folders.each_ref().map(|folder| {
            let checkpoint = Checkpoint::open(folder.path()).expect("valid");
            assert_eq!(checkpoint.config, config);
            let input = folder.path().join("input.safetensors");
            assert_eq!(
                read_hidden_states(&input, 256).expect("valid").len(),
                5 * 256
            );
            checkpoint.read_layer(0).expect("complete")
        });
        assert!(a == b && a != c);
    }
}
