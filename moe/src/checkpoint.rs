//! A Hugging Face style checkpoint: `config.json` and safetensors files with or without an index.

use crate::config::{BLOCK, Config, WeightFormat};
use crate::error::{Error, Result};
use crate::family::{ExpertNames, TensorNames};
use crate::tensors::TensorFile;
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What the names of a layer's tensors begin with, before its number.
const LAYERS: &str = "model.layers.";

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

/// A projection `[rows, columns]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Values.
    pub values: WeightValues,
}

/// How a projection is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum WeightValues {
    /// Dequantised weight = code × scale.
    Fp8 {
        /// E4M3 codes.
        codes: Vec<u8>,
        /// `weight_scale_inv`, `[rows/128, columns/128]`, row-major.
        scales: Vec<f32>,
    },
    /// BF16.
    Bf16(Vec<bf16>),
}

/// One expert's projections.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertWeights {
    /// Gate rows, then up rows: `[2·intermediate, hidden]`.
    pub gate_up: Projection,
    /// `[hidden, intermediate]`.
    pub down: Projection,
}

/// How the router's weight is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum RouterValues {
    /// BF16.
    Bf16(Vec<bf16>),
    /// F32.
    F32(Vec<f32>),
}

impl RouterValues {
    /// The values, exactly.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Bf16(values) => values.iter().map(|v| v.to_f32()).collect(),
            Self::F32(values) => values.clone(),
        }
    }
}

/// Weights of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// Layer number in the checkpoint.
    pub layer: usize,
    /// Router weight `[experts, hidden]`.
    pub router: RouterValues,
    /// Correction bias `[experts]`, where the family has one.
    pub bias: Option<Vec<f32>>,
    /// Number of the first of `experts`.
    pub first_expert: usize,
    /// Routed experts: all of them, or a rank's.
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
        let router = self.router_name("");
        let mut layers: Vec<usize> = self
            .tensors
            .keys()
            .filter_map(|name| {
                let rest = name.strip_prefix(LAYERS)?;
                rest.strip_suffix(&router)?.parse().ok()
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
                tensor: self.router_name(&format!("{LAYERS}*")),
                expectation: "this checkpoint has no mixture-of-experts layer".into(),
            }),
            (wanted, _) => Err(Error::Request {
                what: "--layer",
                found: wanted.map_or_else(|| "absent".into(), |l| l.to_string()),
                expected: listed,
            }),
        }
    }

    /// Name of the router's weight of the layer whose tensors begin with `layer`.
    fn router_name(&self, layer: &str) -> String {
        let TensorNames { block, router, .. } = self.config.family.tensors();
        format!("{layer}.{block}.{router}.weight")
    }

    /// Reads all weights of a layer.
    ///
    /// # Errors
    ///
    /// As [`Self::read_share`].
    pub fn read_layer(&self, layer: usize) -> Result<LayerWeights> {
        self.read_share(layer, 0..self.config.experts)
    }

    /// Reads a rank's weights of a layer: of the routed experts only these
    /// ([`LayerDesc::experts`](crate::layer::LayerDesc::experts)).
    ///
    /// # Errors
    ///
    /// A tensor is missing, or not of the type or shape that the configuration asks for; or there are no such experts.
    pub fn read_share(&self, layer: usize, share: Range<usize>) -> Result<LayerWeights> {
        let Config {
            family,
            hidden,
            intermediate,
            experts,
            shared,
            ..
        } = self.config;
        if share.start > share.end || share.end > experts {
            return Err(Error::Request {
                what: "experts to be read",
                found: format!("{share:?}"),
                expected: format!("within 0..{experts}"),
            });
        }
        let prefix = format!("{LAYERS}{layer}");
        let names = family.tensors();
        let block = format!("{prefix}.{}", names.block);
        let bias = || {
            let name = format!("{block}.{}.e_score_correction_bias", names.router);
            self.read_f32(&name, &[experts])
        };
        Ok(LayerWeights {
            layer,
            router: self.read_router(&self.router_name(&prefix), &[experts, hidden])?,
            bias: self.config.routing.bias.then(bias).transpose()?,
            first_expert: share.start,
            experts: match names.experts {
                ExpertNames::Each(projections) => share
                    .map(|e| {
                        let expert = format!("{block}.experts.{e}");
                        self.read_expert(&expert, projections, intermediate)
                    })
                    .collect::<Result<_>>()?,
                ExpertNames::Stacked(projections) => {
                    self.read_stacked(&block, projections, share)?
                }
            },
            shared: (shared > 0)
                .then(|| {
                    let name = format!("{block}.shared_experts");
                    let projections = ["gate_proj", "up_proj", "down_proj"];
                    self.read_expert(&name, projections, shared * intermediate)
                })
                .transpose()?,
        })
    }

    fn read_expert(
        &self,
        prefix: &str,
        [gate, up, down]: [&str; 3],
        intermediate: usize,
    ) -> Result<ExpertWeights> {
        let hidden = self.config.hidden;
        let projection = |name: &str, rows, columns| {
            self.read_projection(&format!("{prefix}.{name}.weight"), rows, columns)
        };
        let mut gate_up = projection(gate, intermediate, hidden)?;
        let up = projection(up, intermediate, hidden)?;
        gate_up.rows += up.rows;
        match (&mut gate_up.values, up.values) {
            (
                WeightValues::Fp8 { codes, scales },
                WeightValues::Fp8 {
                    codes: up_codes,
                    scales: up_scales,
                },
            ) => {
                codes.extend(up_codes);
                scales.extend(up_scales);
            }
            (WeightValues::Bf16(values), WeightValues::Bf16(up)) => values.extend(up),
            // Both were read in the configuration's format.
            _ => {}
        }
        Ok(ExpertWeights {
            gate_up,
            down: projection(down, hidden, intermediate)?,
        })
    }

    /// Experts from one tensor per projection.
    fn read_stacked(
        &self,
        block: &str,
        [gate_up, down]: [&str; 2],
        share: Range<usize>,
    ) -> Result<Vec<ExpertWeights>> {
        let Config {
            hidden,
            intermediate,
            experts,
            ..
        } = self.config;
        let read = |name: &str, rows: usize, columns: usize| -> Result<Vec<Projection>> {
            let name = format!("{block}.{name}.weight");
            let values = self.read_bf16_rows(&name, &[experts, rows, columns], share.clone())?;
            let each = values.chunks_exact(rows * columns);
            Ok(each
                .map(|values| Projection {
                    rows,
                    columns,
                    values: WeightValues::Bf16(values.to_vec()),
                })
                .collect())
        };
        let gate_up = read(gate_up, 2 * intermediate, hidden)?;
        let down = read(down, hidden, intermediate)?;
        let experts = gate_up.into_iter().zip(down);
        Ok(experts
            .map(|(gate_up, down)| ExpertWeights { gate_up, down })
            .collect())
    }

    fn read_projection(&self, name: &str, rows: usize, columns: usize) -> Result<Projection> {
        let values = match self.config.weights {
            WeightFormat::Bf16 => WeightValues::Bf16(self.read_bf16(name, &[rows, columns])?),
            WeightFormat::Fp8 => {
                let (_, codes) = self.read(name, &[Dtype::F8_E4M3], &[rows, columns])?;
                let name = format!("{name}_scale_inv");
                let scales = self.read_f32(&name, &[rows / BLOCK, columns / BLOCK])?;
                WeightValues::Fp8 { codes, scales }
            }
        };
        Ok(Projection {
            rows,
            columns,
            values,
        })
    }

    fn read_router(&self, name: &str, shape: &[usize]) -> Result<RouterValues> {
        let (dtype, bytes) = self.read(name, &[Dtype::BF16, Dtype::F16, Dtype::F32], shape)?;
        Ok(match dtype {
            Dtype::BF16 => RouterValues::Bf16(bytemuck::allocation::pod_collect_to_vec(&bytes)),
            _ => RouterValues::F32(widened(dtype, &bytes)),
        })
    }

    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (dtype, bytes) = self.read(name, &[Dtype::F32, Dtype::BF16, Dtype::F16], shape)?;
        Ok(widened(dtype, &bytes))
    }

    /// BF16, or a wider type rounded to it (to nearest even).
    fn read_bf16(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>> {
        self.read_bf16_rows(name, shape, 0..shape[0])
    }

    fn read_bf16_rows(&self, name: &str, shape: &[usize], rows: Range<usize>) -> Result<Vec<bf16>> {
        let types = [Dtype::BF16, Dtype::F16, Dtype::F32];
        let (dtype, bytes) = self.read_rows(name, &types, shape, rows)?;
        Ok(match dtype {
            Dtype::BF16 => bytemuck::allocation::pod_collect_to_vec(&bytes),
            _ => widened(dtype, &bytes)
                .into_iter()
                .map(bf16::from_f32)
                .collect(),
        })
    }

    fn read(&self, name: &str, types: &[Dtype], shape: &[usize]) -> Result<(Dtype, Vec<u8>)> {
        self.read_rows(name, types, shape, 0..shape[0])
    }

    /// Some of a tensor's outermost rows.
    fn read_rows(
        &self,
        name: &str,
        types: &[Dtype],
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<(Dtype, Vec<u8>)> {
        let Some(&file) = self.tensors.get(name) else {
            return Err(Error::Tensor {
                path: self.folder.clone(),
                tensor: name.to_owned(),
                expectation: "not in this checkpoint".into(),
            });
        };
        let shape: Vec<Option<usize>> = shape.iter().copied().map(Some).collect();
        self.files[file].read_rows(name, types, &shape, rows)
    }
}

/// Values of a tensor of BF16, F16 or F32, exactly.
fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    use bytemuck::allocation::pod_collect_to_vec;
    match dtype {
        Dtype::BF16 => {
            let values: Vec<bf16> = pod_collect_to_vec(bytes);
            values.iter().map(|v| v.to_f32()).collect()
        }
        Dtype::F16 => {
            let values: Vec<f16> = pod_collect_to_vec(bytes);
            values.iter().map(|v| v.to_f32()).collect()
        }
        _ => pod_collect_to_vec(bytes),
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
        let WeightValues::Fp8 { codes, scales } = &layer.experts[0].gate_up.values else {
            panic!("published in FP8");
        };
        assert_eq!((codes.len(), scales.len()), (2 * 128 * 512, 2 * 4));

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
