//! SwiGLU of a gate+up GEMM's output, quantised to E4M3 per row and 128 columns;
//! `csrc/moe/swiglu_quantise.cuh`.
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use super::{MoeError, dimension, operand, require};
use crate::device::{Buffer, LaunchConfig, Stream};
use crate::params::SwigluQuantiseParams;
use half::bf16;

const OPERATION: &str = "SwiGLU and quantise";

/// Columns that share a scale.
const BLOCK: usize = 128;

/// Most CTAs that share the rows of a group.
const MAX_CTAS: usize = 64;

/// Shape of the operation: `groups` matrices of `rows` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwigluDesc {
    /// Groups; 1 for a dense matrix.
    pub groups: usize,
    /// Rows of a group.
    pub rows: usize,
    /// Columns of the result: a multiple of 128. The input has twice as many.
    pub intermediate: usize,
    /// Distance of two blocks of 128 columns in the scales: at least `rows`.
    pub scale_stride: usize,
}

/// A description that the kernel can execute, and its grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwigluPlan {
    desc: SwigluDesc,
    ctas: u32,
}

/// Device memory of one call.
#[derive(Debug)]
pub struct SwigluOperands<'a> {
    /// `[groups, rows, 2·intermediate]`: gate, then up.
    pub gate_up: &'a Buffer<bf16>,
    /// `[groups]`: rows in use, each 0 to `rows`; without it, all are.
    pub counts: Option<&'a Buffer<i32>>,
    /// Out: E4M3 `[groups, rows, intermediate]`.
    pub codes: &'a mut Buffer<u8>,
    /// Out: `[groups, intermediate / 128, scale_stride]`, as the FP8 GEMM reads those of A.
    pub scales: &'a mut Buffer<f32>,
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
            scale_stride,
        } = self;
        let blocks = intermediate > 0 && intermediate.is_multiple_of(BLOCK);
        let what = ("intermediate", intermediate);
        require(OPERATION, what, blocks, "a positive multiple of 128")?;
        let expected = format!("at least {rows} rows");
        let what = ("scale_stride", scale_stride);
        require(OPERATION, what, scale_stride >= rows, expected)?;
        require(
            OPERATION,
            ("groups", groups),
            groups <= 65_535,
            "at most 65535",
        )?;
        dimension(OPERATION, "rows", rows)?;
        dimension(OPERATION, "intermediate", intermediate)?;
        dimension(OPERATION, "scale_stride", scale_stride)?;
        let warps = rows.saturating_mul(intermediate / BLOCK);
        let ctas = warps.div_ceil(8).clamp(1, MAX_CTAS);
        Ok(SwigluPlan {
            desc: self,
            ctas: dimension(OPERATION, "grid", ctas)?,
        })
    }
}

impl SwigluPlan {
    /// Elements of the result, and of its scales; those that no memory can have, as `usize::MAX`.
    fn lengths(&self) -> [usize; 2] {
        let SwigluDesc {
            groups,
            rows,
            intermediate,
            scale_stride,
        } = self.desc;
        let of_group = |lines: usize, length| groups.saturating_mul(lines).saturating_mul(length);
        [
            of_group(rows, intermediate),
            of_group(intermediate / BLOCK, scale_stride),
        ]
    }

    /// Enqueues the operation.
    ///
    /// # Errors
    ///
    /// [`MoeError::Operand`] for a buffer that is too short, or a device error.
    pub fn run(&self, stream: &Stream, operands: SwigluOperands<'_>) -> Result<(), MoeError> {
        let SwigluDesc {
            groups,
            rows,
            intermediate,
            scale_stride,
        } = self.desc;
        let SwigluOperands {
            gate_up,
            counts,
            codes,
            scales,
        } = operands;
        let [elements, scale_count] = self.lengths();
        let inputs = elements.saturating_mul(2);
        let params = SwigluQuantiseParams {
            gate_up: operand(OPERATION, stream, ("gate_up", gate_up), inputs)?,
            counts: match counts {
                Some(counts) => operand(OPERATION, stream, ("counts", counts), groups)?,
                None => 0,
            },
            codes: operand(OPERATION, stream, ("codes", codes), elements)?,
            scales: operand(OPERATION, stream, ("scales", scales), scale_count)?,
            groups: dimension(OPERATION, "groups", groups)?,
            rows: dimension(OPERATION, "rows", rows)?,
            intermediate: dimension(OPERATION, "intermediate", intermediate)?,
            scale_stride: dimension(OPERATION, "scale_stride", scale_stride)?,
        };
        if elements == 0 {
            return Ok(());
        }
        let kernel = stream.context().kernel("moe_swiglu_quantise")?;
        let config = LaunchConfig::new(&kernel, [self.ctas, params.groups, 1]);
        // SAFETY: (1) every buffer has the elements that the kernel's header asks for, on this
        // device, aligned by its allocation, and the kernel clamps counts to the rows; (2) freeing a
        // buffer waits for work that uses it; (3) outputs are borrowed mutably here and ordered by
        // their streams afterwards.
        unsafe { stream.launch(&kernel, &config, &params) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_the_rows_and_limits_are_named() {
        let desc = SwigluDesc {
            groups: 2,
            rows: 100,
            intermediate: 2048,
            scale_stride: 100,
        };
        assert_eq!(desc.plan().unwrap().ctas, 64);
        assert_eq!(
            SwigluDesc {
                rows: 1,
                intermediate: 128,
                ..desc
            }
            .plan()
            .unwrap()
            .ctas,
            1
        );
        assert_eq!(SwigluDesc { rows: 0, ..desc }.plan().unwrap().ctas, 1);
        let message = SwigluDesc {
            intermediate: 192,
            ..desc
        }
        .plan()
        .unwrap_err()
        .to_string();
        assert!(message.contains("intermediate = 192"), "{message}");
        let message = SwigluDesc {
            scale_stride: 99,
            ..desc
        }
        .plan()
        .unwrap_err()
        .to_string();
        assert!(message.contains("scale_stride = 99"), "{message}");
    }

    #[test]
    fn sizes_beyond_memory_do_not_wrap_around() {
        let most = u32::MAX as usize;
        let desc = SwigluDesc {
            groups: 65_535,
            rows: most,
            intermediate: most / BLOCK * BLOCK,
            scale_stride: most,
        };
        assert_eq!(desc.plan().unwrap().lengths(), [usize::MAX; 2]);
        let (rows, scale_stride) = (most + 1, most + 1);
        let message = SwigluDesc {
            rows,
            scale_stride,
            ..desc
        }
        .plan()
        .unwrap_err()
        .to_string();
        assert!(message.contains("rows = 4294967296"), "{message}");
    }
}
