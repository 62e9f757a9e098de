//! GEMM for Hopper: `D[m, n] = Σ over k of A[m, k] · B[n, k]`, A and B K-major; FP8 with scales, or
//! BF16.
//!
//! [`GemmDesc`] → [`GemmPlan`] (pure) → [`Gemm`] (kernel loaded) → [`Gemm::run`] with checked
//! operands.
//!
//! | [`Form`] | A | B | D |
//! |---|---|---|---|
//! | dense | `[m, k]` | `[n, k]` | `[m, n]` |
//! | batched | `[b, m, k]` | `[b, n, k]` | `[b, m, n]` |
//! | contiguous, offsets | `[m, k]`, rows of all groups | `[g, n, k]` | `[m, n]` |
//! | masked | `[g, slot, k]` | `[g, n, k]` | `[g, slot, n]` |
//! | K-grouped | `[m, k]`, columns of all groups | `[n, k]` | `[g, m, n]` |
//!
//! | [`Arithmetic`] | scales of A | scales of B | a value of D |
//! |---|---|---|---|
//! | 1d2d | per 1×128 | per 128×128 | Σ over blocks of 128 of K of `a · b · P` |
//! | 1d1d | per 1×128 | per 1×128 | the same |
//! | channel | per row, or one | per row, or one | `(Σ P) · a · b` |
//! | BF16 | none | none | the sum |
//!
//! P is Hopper's own FP8 sum over a block of 128 of K, which keeps 13 fraction bits, so blocks are
//! summed in F32 (`csrc/gemm/accumulate.cuh`). The bits of a row of D depend on that row of A and on
//! B only: not on the number of rows, the tile, the form or the row's place.

mod desc;
mod error;
mod matrix;
pub mod model;
mod plan;
mod run;
mod stage;
mod tile;
mod view;

pub use desc::{Arithmetic, BLOCK, Form, Format, GROUP_ALIGNMENT, GemmDesc, Output, scale_stride};
pub use error::{GemmError, OperandError};
pub use matrix::{Groups, Matrix, MatrixMut, Shape};
pub use plan::GemmPlan;
pub use run::{Gemm, Operands};
pub use tile::{Order, Tile};
pub use view::{View, ViewMut};

pub(crate) use error::{multiple, range};
