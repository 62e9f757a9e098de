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
//!
//! **Layout.** Matrices are row-major and dense, slots one after another; the contiguous dimension of A
//! and B is K. Sizes are in elements, addresses of matrices multiples of 16 bytes (scales 16 where
//! they are M-major, else 4; groups 4). N and K are multiples of 16, K of 128 in the K-grouped form.
//! Scales are F32: per 1×128 M-major, `[slots, k / 128, scale_stride(rows)]`; per 128×128
//! `[slots, n / 128, k / 128]`, all rounded up; per row `[slots, rows]`. (As in DeepSeek-V3's
//! technical report, arXiv 2412.19437, section 3.3, and its checkpoints' `weight_scale_inv`.)
//!
//! **Errors** name the operand, the number and the rule ([`OperandError`]), and come before anything is
//! launched. What the device reads (groups, counts, offsets) cannot be checked: wrong entries are
//! clamped or skipped as [`Groups`] says, and never lead out of the operands.
//!
//! **Cost.** A call allocates nothing, waits for nothing, may be captured into a graph
//! ([`crate::device::Graph`]), and calls the driver once, and once more per operand that is another
//! than in the last call.
//!
//! ```
//! use hadal::device::{Buffer, Context, Stream};
//! use hadal::gemm::{
//!     Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
//!     Output, Shape,
//! };
//! use hadal::quant::{Quantise1x128, Quantise1x128Desc, Quantise1x128Plan, ScaleLayout, Scaling};
//! use half::bf16;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = Context::new(0)?;
//! let stream = Stream::new(&context)?;
//! let sms = context.multiprocessors()?;
//! let (rows, n, k) = (5, 256, 384);
//!
//! // Activations in BF16, quantised on the device. A row of 3.5s has the scale 3.5 / 448.
//! let x = Buffer::from_slice(&stream, &vec![bf16::from_f32(3.5); 5 * 384])?;
//! let plan = Quantise1x128Plan::new(Quantise1x128Desc {
//!     shape: Shape::matrix(rows, k),
//!     format: Format::E4m3,
//!     layout: ScaleLayout::MMajor,
//!     scaling: Scaling::Exact,
//!     sms,
//! })?;
//! let mut codes = Buffer::<u8>::zeroed(&stream, 5 * 384)?;
//! let mut scales = Buffer::<f32>::zeroed(&stream, plan.scales.try_into()?)?;
//! let quantise = Quantise1x128::new(&context, plan)?;
//! quantise.run(&stream, (&x).into(), (&mut codes).into(), (&mut scales).into())?;
//!
//! // Weights: E4M3 ones (0x38), a scale of 0.5 for each of the 2 × 3 blocks of 128×128.
//! let w = Buffer::from_slice(&stream, &vec![0x38u8; 256 * 384])?;
//! let w_scales = Buffer::from_slice(&stream, &[0.5f32; 2 * 3])?;
//!
//! let desc = GemmDesc {
//!     form: Form::Dense { rows },
//!     n,
//!     k,
//!     arithmetic: Arithmetic::E4M3_1D2D,
//!     output: Output::F32,
//!     sms,
//! };
//! let mut gemm = Gemm::new(&context, GemmPlan::new(desc)?)?;
//! let mut d = Buffer::<f32>::zeroed(&stream, 5 * 256)?;
//! let mut operands = Operands {
//!     a: Matrix::fp8_rows(Format::E4m3, &codes, &scales, Shape::matrix(rows, k))?,
//!     b: Matrix::fp8_blocks(Format::E4m3, &w, &w_scales, Shape::matrix(n, k))?,
//!     groups: Groups::None,
//!     d: MatrixMut::f32(&mut d, Shape::matrix(rows, n))?,
//! };
//! gemm.run(&stream, &mut operands)?;
//! assert_eq!(d.to_vec(&stream)?, [384.0 * 3.5 * 0.5; 5 * 256]);
//! # Ok(()) }
//! ```

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

pub(crate) use error::{disjoint, multiple, range};
pub(crate) use matrix::{MatrixScales, Values, ValuesMut};
