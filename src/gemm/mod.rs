//! FP8 GEMM: `D[m, n] = bf16(Σ over K blocks of scale_a · scale_b · (A block · B block))`, A and B
//! E4M3 and K-major, one scale of A per row and 128 of K, one scale of B per 128×128.
//!
//! [`GemmDesc`] → [`GemmPlan`] (pure) → [`Fp8Gemm`] (kernel loaded) → [`Fp8Gemm::run`] with checked
//! operands. Three forms ([`Form`]): dense, grouped contiguous, grouped masked.
//!
//! The bits of an output row depend on that row of A and on B only: not on the number of rows, the
//! tile, the form or the row's place (`csrc/gemm/fp8_gemm_1d2d.cuh`).

mod error;
mod operand;
mod plan;
mod run;

pub use error::{GemmError, OperandError};
pub use operand::{Bf16Matrix, Fp8Matrix, Fp8Weights, Groups, Shape, View, ViewMut};
pub use plan::{BLOCK, Form, GROUP_ALIGNMENT, GemmDesc, GemmPlan, Tile, scale_stride};
pub use run::{Fp8Gemm, Operands};

pub(crate) use error::{multiple, range};
