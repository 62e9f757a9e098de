//! Activations on a device, as the GEMMs read them.

use crate::config::BLOCK;
use crate::error::{Error, Result};
use crate::layer::memory;
use hadal::device::{Buffer, Stream};
use hadal::ep::latency::ReceivedRows;
use hadal::gemm::{Format, Matrix, OperandError, Shape, View};
use hadal::moe::SwigluOutput;
use half::bf16;

/// A stack of matrices: E4M3 with one scale per row and 128 columns, M-major; or BF16.
#[derive(Debug)]
pub(crate) enum Activations {
    Fp8 {
        codes: Buffer<u8>,
        scales: Buffer<f32>,
    },
    Bf16(Buffer<bf16>),
}

/// The same, borrowed; buffers may be longer than the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    Fp8 {
        codes: &'a Buffer<u8>,
        scales: &'a Buffer<f32>,
    },
    Bf16(&'a Buffer<bf16>),
}

impl Activations {
    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Fp8 { codes, scales } => Input::Fp8 { codes, scales },
            Self::Bf16(values) => Input::Bf16(values),
        }
    }

    pub(crate) fn output(&mut self) -> SwigluOutput<'_> {
        match self {
            Self::Fp8 { codes, scales } => SwigluOutput::Fp8 { codes, scales },
            Self::Bf16(values) => SwigluOutput::Bf16(values),
        }
    }
}

impl<'a> Input<'a> {
    /// What the all-to-all received.
    pub(crate) fn received(rows: &'a ReceivedRows, scales: &'a Buffer<f32>) -> Self {
        match rows {
            ReceivedRows::Fp8(codes) => Self::Fp8 { codes, scales },
            ReceivedRows::Bf16(values) => Self::Bf16(values),
        }
    }

    /// The first matrices of this shape.
    pub(crate) fn view(self, shape: Shape) -> std::result::Result<Matrix<'a>, OperandError> {
        let [slots, rows, columns] = [shape.slots, shape.rows, shape.columns].map(|n| n as usize);
        let elements = slots * rows * columns;
        match self {
            Self::Fp8 { codes, scales } => {
                let lines = slots * (columns / BLOCK);
                let count = lines * rows.next_multiple_of(4);
                let codes = View::from(codes).slice(0..elements)?;
                Matrix::fp8_rows(
                    Format::E4m3,
                    codes,
                    View::from(scales).slice(0..count)?,
                    shape,
                )
            }
            Self::Bf16(values) => Matrix::bf16(View::from(values).slice(0..elements)?, shape),
        }
    }

    /// Bytes of a value.
    pub(crate) fn width(self) -> u64 {
        match self {
            Self::Fp8 { .. } => 1,
            Self::Bf16(_) => 2,
        }
    }

    /// Enqueues a copy of everything.
    pub(crate) fn copy(self, stream: &Stream) -> Result<Activations> {
        Ok(match self {
            Self::Fp8 { codes, scales } => Activations::Fp8 {
                codes: copy(stream, codes)?,
                scales: copy(stream, scales)?,
            },
            Self::Bf16(values) => Activations::Bf16(copy(stream, values)?),
        })
    }
}

/// Enqueues a copy of a buffer.
pub(crate) fn copy<T: bytemuck::Pod>(stream: &Stream, from: &Buffer<T>) -> Result<Buffer<T>> {
    let mut to = Buffer::alloc(stream.context(), from.len()).map_err(memory())?;
    to.copy_from_buffer(stream, from)
        .map_err(Error::device("copy of intermediate results"))?;
    Ok(to)
}
