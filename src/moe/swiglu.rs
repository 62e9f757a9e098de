//! SwiGLU of a gate+up GEMM's output: `silu(gate) · up`, as BF16 or quantised to E4M3 per row and 128
//! columns; `csrc/moe/swiglu.cuh`.
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use super::{MoeError, dimension, operand, require, view};
use crate::device::{Buffer, LaunchConfig, Stream};
use crate::gemm::{BLOCK, View};
use crate::params::{HADAL_QUANT_POWER_OF_TWO, SwigluParams};
use crate::quant::Scaling;
use half::bf16;

const OPERATION: &str = "SwiGLU";

/// Most CTAs that share the rows of a group.
const MAX_CTAS: usize = 64;

/// Shape of the operation: `groups` matrices of `rows` rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwigluDesc {
    /// Groups; 1 for a dense matrix.
    pub groups: usize,
    /// Rows of a group.
    pub rows: usize,
    /// Columns of the result; the input has twice as many. A multiple of 128 for [`SwigluFormat::Fp8`], of 4 for
    /// [`SwigluFormat::Bf16`].
    pub intermediate: usize,
    /// Bound of the input, positive: gate is at most this and up within plus and minus this. `None`: no bound.
    pub limit: Option<f32>,
    /// How the result is stored.
    pub format: SwigluFormat,
}

/// How the result is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SwigluFormat {
    /// E4M3 codes with one scale per row and 128 columns.
    Fp8 {
        /// Distance of two blocks of 128 columns in the scales: at least `rows`.
        scale_stride: usize,
        /// Which scales may be chosen.
        scaling: Scaling,
    },
    /// BF16, rounded to nearest even.
    Bf16,
}

/// A description that the kernel can execute, and its grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwigluPlan {
    desc: SwigluDesc,
    ctas: u32,
}

/// Device memory of one call. Only rows in use are read and written.
#[derive(Debug)]
pub struct SwigluOperands<'a> {
    /// `[groups, rows, 2·intermediate]`: gate, then up.
    pub gate_up: &'a Buffer<bf16>,
    /// `[groups]`: rows in use, each 0 to `rows`; without it, all are.
    pub counts: Option<View<'a, i32>>,
    /// Where the result goes; of the plan's format.
    pub output: SwigluOutput<'a>,
}

/// Where the result goes.
#[derive(Debug)]
pub enum SwigluOutput<'a> {
    /// For [`SwigluFormat::Fp8`].
    Fp8 {
        /// E4M3 `[groups, rows, intermediate]`.
        codes: &'a mut Buffer<u8>,
        /// `[groups, intermediate / 128, scale_stride]`, as the FP8 GEMM reads those of A.
        scales: &'a mut Buffer<f32>,
    },
    /// For [`SwigluFormat::Bf16`]: `[groups, rows, intermediate]`.
    Bf16(&'a mut Buffer<bf16>),
}

impl SwigluDesc {
    /// Checks the description and sizes the grid.
    ///
    /// # Errors
    ///
    /// [`MoeError::Desc`] naming the field and its range.
    pub fn plan(self) -> Result<SwigluPlan, MoeError> {
        let Self {
            groups,
            rows,
            intermediate,
            limit,
            format,
        } = self;
        let step = match format {
            SwigluFormat::Fp8 { .. } => BLOCK as usize,
            SwigluFormat::Bf16 => 4,
        };
        let steps = intermediate > 0 && intermediate.is_multiple_of(step);
        let expected = format!("a positive multiple of {step}");
        require(OPERATION, ("intermediate", intermediate), steps, expected)?;
        if let SwigluFormat::Fp8 { scale_stride, .. } = format {
            let expected = format!("at least {rows} rows");
            let what = ("scale_stride", scale_stride);
            require(OPERATION, what, scale_stride >= rows, expected)?;
            dimension(OPERATION, "scale_stride", scale_stride)?;
        }
        require(
            OPERATION,
            ("groups", groups),
            groups <= 65_535,
            "at most 65535",
        )?;
        if let Some(limit) = limit.filter(|&limit| limit.is_nan() || limit <= 0.0) {
            return Err(MoeError::Limit {
                operation: OPERATION,
                found: limit,
            });
        }
        dimension(OPERATION, "rows", rows)?;
        dimension(OPERATION, "intermediate", intermediate)?;
        let warps = rows.saturating_mul(intermediate.div_ceil(BLOCK as usize));
        let ctas = warps.div_ceil(8).clamp(1, MAX_CTAS);
        Ok(SwigluPlan {
            desc: self,
            ctas: dimension(OPERATION, "grid", ctas)?,
        })
    }
}

impl SwigluPlan {
    /// Elements of the result; one that no memory can have, as `usize::MAX`.
    fn elements(&self) -> usize {
        let SwigluDesc {
            groups,
            rows,
            intermediate,
            ..
        } = self.desc;
        groups.saturating_mul(rows).saturating_mul(intermediate)
    }

    /// Elements of its scales, likewise.
    fn scales(&self) -> usize {
        let SwigluDesc {
            groups,
            intermediate,
            format,
            ..
        } = self.desc;
        match format {
            SwigluFormat::Bf16 => 0,
            SwigluFormat::Fp8 { scale_stride, .. } => groups
                .saturating_mul(intermediate / BLOCK as usize)
                .saturating_mul(scale_stride),
        }
    }

    /// Enqueues the operation.
    ///
    /// # Errors
    ///
    /// [`MoeError::Operand`] for a buffer that is too short, [`MoeError::Format`] for an output of another format, or
    /// a device error.
    pub fn run(&self, stream: &Stream, operands: SwigluOperands<'_>) -> Result<(), MoeError> {
        let SwigluDesc {
            groups,
            rows,
            intermediate,
            limit,
            format,
        } = self.desc;
        let SwigluOperands {
            gate_up,
            counts,
            output,
        } = operands;
        let elements = self.elements();
        let (kernel, output, scales, scale_stride, rule) = match (format, output) {
            (
                SwigluFormat::Fp8 {
                    scale_stride,
                    scaling,
                },
                SwigluOutput::Fp8 { codes, scales },
            ) => (
                "moe_swiglu_quantise",
                operand(OPERATION, stream, ("codes", codes), elements)?,
                operand(OPERATION, stream, ("scales", scales), self.scales())?,
                scale_stride,
                match scaling {
                    Scaling::Exact => 0,
                    Scaling::PowerOfTwo => HADAL_QUANT_POWER_OF_TWO,
                },
            ),
            (SwigluFormat::Bf16, SwigluOutput::Bf16(output)) => (
                "moe_swiglu_bf16",
                operand(OPERATION, stream, ("output", output), elements)?,
                0,
                0,
                0,
            ),
            (SwigluFormat::Fp8 { .. }, SwigluOutput::Bf16(_)) => {
                return Err(format_error("BF16", "FP8"));
            }
            (SwigluFormat::Bf16, SwigluOutput::Fp8 { .. }) => {
                return Err(format_error("FP8", "BF16"));
            }
        };
        let inputs = elements.saturating_mul(2);
        let params = SwigluParams {
            gate_up: operand(OPERATION, stream, ("gate_up", gate_up), inputs)?,
            counts: match counts {
                Some(counts) => view(OPERATION, stream, ("counts", counts), groups)?,
                None => 0,
            },
            output,
            scales,
            groups: dimension(OPERATION, "groups", groups)?,
            rows: dimension(OPERATION, "rows", rows)?,
            intermediate: dimension(OPERATION, "intermediate", intermediate)?,
            scale_stride: dimension(OPERATION, "scale_stride", scale_stride)?,
            limit: limit.unwrap_or(f32::INFINITY),
            rule,
        };
        if elements == 0 {
            return Ok(());
        }
        let kernel = stream.context().kernel(kernel)?;
        let config = LaunchConfig::new(&kernel, [self.ctas, params.groups, 1]);
        // SAFETY: (1) every buffer has the elements that the kernel's header asks for, on this
        // device, aligned by its allocation, and the kernel clamps counts to the rows; (2) freeing a
        // buffer waits for work that uses it; (3) outputs are borrowed mutably here and ordered by
        // their streams afterwards.
        unsafe { stream.launch(&kernel, &config, &params) }?;
        Ok(())
    }
}

fn format_error(found: &'static str, expected: &'static str) -> MoeError {
    MoeError::Format {
        operation: OPERATION,
        what: "output",
        found,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESC: SwigluDesc = SwigluDesc {
        groups: 2,
        rows: 100,
        intermediate: 2048,
        limit: None,
        format: SwigluFormat::Fp8 {
            scale_stride: 100,
            scaling: Scaling::Exact,
        },
    };

    fn refusal(desc: SwigluDesc) -> String {
        desc.plan().unwrap_err().to_string()
    }

    #[test]
    fn grids_cover_the_rows() {
        let ctas = |desc: SwigluDesc| desc.plan().unwrap().ctas;
        assert_eq!(ctas(DESC), 64);
        assert_eq!(
            ctas(SwigluDesc {
                rows: 1,
                intermediate: 128,
                ..DESC
            }),
            1
        );
        assert_eq!(ctas(SwigluDesc { rows: 0, ..DESC }), 1);
        let odd = SwigluDesc {
            rows: 9,
            intermediate: 132,
            format: SwigluFormat::Bf16,
            ..DESC
        };
        assert_eq!(ctas(odd), 3);
    }

    #[test]
    fn limits_are_named() {
        let scaling = Scaling::Exact;
        let cases = [
            (
                SwigluDesc {
                    intermediate: 192,
                    ..DESC
                },
                "intermediate = 192",
            ),
            (
                SwigluDesc {
                    intermediate: 6,
                    format: SwigluFormat::Bf16,
                    ..DESC
                },
                "intermediate = 6",
            ),
            (
                SwigluDesc {
                    groups: 65_536,
                    ..DESC
                },
                "groups = 65536",
            ),
            (
                SwigluDesc {
                    limit: Some(0.0),
                    ..DESC
                },
                "limit = 0",
            ),
            (
                SwigluDesc {
                    limit: Some(f32::NAN),
                    ..DESC
                },
                "limit = NaN",
            ),
            (
                SwigluDesc {
                    format: SwigluFormat::Fp8 {
                        scale_stride: 99,
                        scaling,
                    },
                    ..DESC
                },
                "scale_stride = 99",
            ),
        ];
        for (desc, needle) in cases {
            let message = refusal(desc);
            assert!(message.contains(needle), "{message}");
        }
    }

    #[test]
    fn sizes_beyond_memory_do_not_wrap_around() {
        let most = u32::MAX as usize;
        let format = |scale_stride| SwigluFormat::Fp8 {
            scale_stride,
            scaling: Scaling::Exact,
        };
        let desc = SwigluDesc {
            groups: 65_535,
            rows: most,
            intermediate: most / BLOCK as usize * BLOCK as usize,
            format: format(most),
            ..DESC
        };
        let plan = desc.plan().unwrap();
        assert_eq!([plan.elements(), plan.scales()], [usize::MAX; 2]);
        let message = refusal(SwigluDesc {
            rows: most + 1,
            format: format(most + 1),
            ..desc
        });
        assert!(message.contains("= 4294967296"), "{message}");
    }
}
