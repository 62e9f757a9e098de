//! A Hugging Face style checkpoint: `config.json` and safetensors files with or without an index.

use crate::config::{BLOCK, Config};
use crate::error::{Error, Result};
use crate::tensors::TensorFile;
use half::bf16;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the index file.
const INDEX: &str = "model.safetensors.index.json";

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    /// Shape and routing of its layers.
    pub config: Config,
    files: Vec<TensorFile>,
    /// Tensor name to index of its file.
    tensors: BTreeMap<String, usize>,
}

/// A block-quantised projection: `[rows, columns]` E4M3 codes, `[rows/128, columns/128]` scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// E4M3 codes, row-major.
    pub codes: Vec<u8>,
    /// `weight_scale_inv`, row-major: dequantised weight = code × scale.
    pub scales: Vec<f32>,
}

/// One expert's projections.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertWeights {
    /// Gate rows, then up rows: `[2·intermediate, hidden]`.
    pub gate_up: Projection,
    /// `[hidden, intermediate]`.
    pub down: Projection,
}

/// All weights of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// Layer number in the checkpoint.
    pub layer: usize,
    /// Router weight `[experts, hidden]`.
    pub router: Vec<bf16>,
    /// Correction bias `[experts]`.
    pub bias: Vec<f32>,
    /// Routed experts.
    pub experts: Vec<ExpertWeights>,
    /// Shared expert.
    pub shared: Option<ExpertWeights>,
}

impl Checkpoint {
    /// Opens a checkpoint's folder.
    ///
    /// # Errors
    ///
    /// A file is missing or malformed, or the configuration is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let mut checkpoint = Self {
            folder: folder.to_path_buf(),
            config,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let index = folder.join(INDEX);
        if index.is_file() {
            checkpoint.open_indexed(&index)?;
        } else {
            checkpoint.open_all()?;
        }
        Ok(checkpoint)
    }

    fn open_indexed(&mut self, index: &Path) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read_to_string(index).map_err(Error::io(index, "read"))?;
        let parsed: Index = serde_json::from_str(&text).map_err(|e| Error::Format {
            path: index.to_path_buf(),
            expectation: e.to_string(),
        })?;
        let mut opened = BTreeMap::new();
        for (tensor, name) in parsed.weight_map {
            let plain = Path::new(&name)
                .file_name()
                .is_some_and(|n| n == name.as_str());
            if !plain {
                let expectation = format!("`{name}` is not the name of a file in this folder");
                return Err(Error::Tensor {
                    path: index.to_path_buf(),
                    tensor,
                    expectation,
                });
            }
            let file = match opened.get(&name) {
                Some(&file) => file,
                None => {
                    self.files.push(TensorFile::open(&self.folder.join(&name))?);
                    opened.insert(name, self.files.len() - 1);
                    self.files.len() - 1
                }
            };
            self.tensors.insert(tensor, file);
        }
        Ok(())
    }

    fn open_all(&mut self) -> Result<()> {
        let entries = std::fs::read_dir(&self.folder).map_err(Error::io(&self.folder, "list"))?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io(&self.folder, "list"))?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let file = TensorFile::open(&path)?;
            for tensor in file.names() {
                self.tensors.entry(tensor).or_insert(self.files.len());
            }
            self.files.push(file);
        }
        Ok(())
    }

    /// Numbers of the mixture-of-experts layers present.
    #[must_use]
    pub fn moe_layers(&self) -> Vec<usize> {
        let mut layers: Vec<usize> = self
            .tensors
            .keys()
            .filter_map(|name| {
                let rest = name.strip_prefix("model.layers.")?;
                rest.strip_suffix(".mlp.gate.weight")?.parse().ok()
            })
            .collect();
        layers.sort_unstable();
        layers
    }

    /// The layer asked for, or the only one there is.
    ///
    /// # Errors
    ///
    /// No such layer, or several and none was named; the message lists them.
    pub fn choose_layer(&self, wanted: Option<usize>) -> Result<usize> {
        let layers = self.moe_layers();
        let listed = format!("one of the mixture-of-experts layers {layers:?}");
        match (wanted, layers.as_slice()) {
            (Some(layer), _) if layers.contains(&layer) => Ok(layer),
            (None, &[layer]) => Ok(layer),
            (_, []) => Err(Error::Tensor {
                path: self.folder.clone(),
                tensor: "model.layers.*.mlp.gate.weight".into(),
                expectation: "this checkpoint has no mixture-of-experts layer".into(),
            }),
            (wanted, _) => Err(Error::Request {
                what: "--layer",
                found: wanted.map_or_else(|| "absent".into(), |l| l.to_string()),
                expected: listed,
            }),
        }
    }

    /// Reads all weights of a layer.
    ///
    /// # Errors
    ///
    /// A tensor is missing, or not of the type or shape that the configuration asks for.
    pub fn read_layer(&self, layer: usize) -> Result<LayerWeights> {
        let Config {
            hidden,
            intermediate,
            experts,
            shared,
            ..
        } = self.config;
        let prefix = format!("model.layers.{layer}.mlp");
        let router = self.read_bf16(&format!("{prefix}.gate.weight"), &[experts, hidden])?;
        let bias = format!("{prefix}.gate.e_score_correction_bias");
        Ok(LayerWeights {
            layer,
            router,
            bias: self.read_f32(&bias, &[experts])?,
            experts: (0..experts)
                .map(|e| self.read_expert(&format!("{prefix}.experts.{e}"), intermediate))
                .collect::<Result<_>>()?,
            shared: (shared > 0)
                .then(|| {
                    let name = format!("{prefix}.shared_experts");
                    self.read_expert(&name, shared * intermediate)
                })
                .transpose()?,
        })
    }

    fn read_expert(&self, prefix: &str, intermediate: usize) -> Result<ExpertWeights> {
        let hidden = self.config.hidden;
        let projection = |name: &str, rows, columns| {
            self.read_projection(&format!("{prefix}.{name}.weight"), rows, columns)
        };
        let mut gate_up = projection("gate_proj", intermediate, hidden)?;
        let up = projection("up_proj", intermediate, hidden)?;
        gate_up.rows += up.rows;
        gate_up.codes.extend(up.codes);
        gate_up.scales.extend(up.scales);
        Ok(ExpertWeights {
            gate_up,
            down: projection("down_proj", hidden, intermediate)?,
        })
    }

    fn read_projection(&self, name: &str, rows: usize, columns: usize) -> Result<Projection> {
        let (_, codes) = self.read(name, &[Dtype::F8_E4M3], &[rows, columns])?;
        let scales = self.read_f32(
            &format!("{name}_scale_inv"),
            &[rows / BLOCK, columns / BLOCK],
        )?;
        Ok(Projection {
            rows,
            columns,
            codes,
            scales,
        })
    }

    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (dtype, bytes) = self.read(name, &[Dtype::F32, Dtype::BF16], shape)?;
        Ok(match dtype {
            Dtype::BF16 => bytemuck::allocation::pod_collect_to_vec::<u8, bf16>(&bytes)
                .iter()
                .map(|v| v.to_f32())
                .collect(),
            _ => bytemuck::allocation::pod_collect_to_vec(&bytes),
        })
    }

    fn read_bf16(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>> {
        let (_, bytes) = self.read(name, &[Dtype::BF16], shape)?;
        Ok(bytemuck::allocation::pod_collect_to_vec(&bytes))
    }

    fn read(&self, name: &str, types: &[Dtype], shape: &[usize]) -> Result<(Dtype, Vec<u8>)> {
        let Some(&file) = self.tensors.get(name) else {
            return Err(Error::Tensor {
                path: self.folder.clone(),
                tensor: name.to_owned(),
                expectation: "not in this checkpoint".into(),
            });
        };
        let shape: Vec<Option<usize>> = shape.iter().copied().map(Some).collect();
        let (info, bytes) = self.files[file].read(name, types, &shape)?;
        Ok((info.dtype, bytes))
    }
}

/// Reads the tensor `hidden_states`, BF16 `[tokens, hidden]`.
///
/// # Errors
///
/// The file or tensor is missing, or of another type or width.
pub fn read_hidden_states(path: &Path, hidden: usize) -> Result<Vec<bf16>> {
    let file = TensorFile::open(path)?;
    let (_, bytes) = file.read("hidden_states", &[Dtype::BF16], &[None, Some(hidden)])?;
    Ok(bytemuck::allocation::pod_collect_to_vec(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny-moe")
    }

    #[test]
    fn reads_the_trained_layer_with_and_without_its_index() {
        let indexed = Checkpoint::open(&tiny()).expect("the project's own data");
        assert_eq!(indexed.choose_layer(None).expect("one layer"), 1);
        let layer = indexed.read_layer(1).expect("complete");
        assert_eq!((layer.experts.len(), layer.shared.is_some()), (32, true));
        assert_eq!(layer.experts[0].gate_up.codes.len(), 2 * 128 * 512);
        assert_eq!(layer.experts[0].gate_up.scales.len(), 2 * 4);

        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(tiny().join(name), folder.path().join(name)).expect("copied");
        }
        let plain = Checkpoint::open(folder.path()).expect("no index needed");
        assert_eq!(plain.read_layer(1).expect("complete"), layer);
    }

    #[test]
    fn an_absent_layer_is_an_error_that_lists_the_layers() {
        let checkpoint = Checkpoint::open(&tiny()).expect("the project's own data");
        let message = checkpoint
            .choose_layer(Some(0))
            .expect_err("dense layer")
            .to_string();
        assert!(message.contains("[1]"), "{message}");
    }

    #[test]
    fn an_index_cannot_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::copy(
            tiny().join("config.json"),
            folder.path().join("config.json"),
        )
        .expect("copied");
        std::fs::write(
            folder.path().join(INDEX),
            r#"{"weight_map": {"t": "../x.safetensors"}}"#,
        )
        .expect("written");
        let message = Checkpoint::open(folder.path())
            .expect_err("refused")
            .to_string();
        assert!(message.contains("../x.safetensors"), "{message}");
    }
}
