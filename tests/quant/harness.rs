//! A device, outputs between guards, inputs of every kind.

use std::sync::Arc;

use bytemuck::Pod;
use hadal::device::{Buffer, Context, Stream};
use hadal::gemm::{Format, Shape, ViewMut, scale_stride};
use hadal::quant::{ScaleLayout, Scaling};
use hadal_reference::blocks;
use half::bf16;

/// Elements before and behind an output, a multiple of any alignment.
const GUARD: usize = 32;

/// What an output's bytes are before: no kernel writes four of them in a row.
pub(crate) const UNWRITTEN: u8 = 0xa5;

pub(crate) struct Device {
    pub(crate) context: Arc<Context>,
    pub(crate) stream: Stream,
}

impl Device {
    pub(crate) fn open() -> Self {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        Self { context, stream }
    }

    pub(crate) fn upload<T: Pod>(&self, data: &[T]) -> Buffer<T> {
        Buffer::from_slice(&self.stream, data).expect("device memory")
    }

    pub(crate) fn output<T: Pod>(&self, len: usize) -> Guarded<T> {
        let before = unwritten(len + 2 * GUARD);
        Guarded {
            buffer: self.upload(&before),
            len,
        }
    }
}

/// `len` elements that nobody has written.
pub(crate) fn unwritten<T: Pod>(len: usize) -> Vec<T> {
    let mut all = vec![T::zeroed(); len];
    bytemuck::cast_slice_mut::<T, u8>(&mut all).fill(UNWRITTEN);
    all
}

/// An output between guards.
pub(crate) struct Guarded<T: Pod> {
    buffer: Buffer<T>,
    len: usize,
}

impl<T: Pod> Guarded<T> {
    pub(crate) fn view(&mut self) -> ViewMut<'_, T> {
        let inside = GUARD..GUARD + self.len;
        ViewMut::from(&mut self.buffer)
            .slice(inside)
            .expect("inside")
    }

    /// The elements, once the guards were checked.
    pub(crate) fn read(&self, what: &str, device: &Device) -> Vec<T> {
        let mut all = self.buffer.to_vec(&device.stream).expect("executed");
        let guard = unwritten::<T>(GUARD);
        same(
            &format!("{what}: guard before"),
            &all[..GUARD],
            &guard,
            GUARD,
        );
        let behind = GUARD + self.len;
        same(
            &format!("{what}: guard behind"),
            &all[behind..],
            &guard,
            GUARD,
        );
        all.truncate(behind);
        all.split_off(GUARD)
    }
}

/// Panics at the first element whose bits differ, with its place in rows of `pitch`.
pub(crate) fn same<T: Pod>(what: &str, got: &[T], expected: &[T], pitch: usize) {
    assert_eq!(got.len(), expected.len(), "{what}: elements");
    let bytes = |value: &T| bytemuck::bytes_of(value).to_vec();
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (mut got, mut expected) = (bytes(got), bytes(expected));
        if got != expected {
            got.reverse();
            expected.reverse();
            let (row, column) = (i / pitch, i % pitch);
            panic!("{what}: [{row}, {column}] is {got:02x?}, expected {expected:02x?}");
        }
    }
}

/// Blocks of every kind: wide range, zeros of both signs, subnormals, one large value among tiny
/// ones, any exponent.
pub(crate) fn input(len: usize) -> Vec<bf16> {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 32
    };
    (0..len)
        .map(|i| {
            let noise = next();
            let sign = (noise as u16) & 0x8000;
            let fraction = (noise >> 16) as u16 & 0x7f;
            let bits = match i / 128 % 5 {
                0 => sign | (120 + (noise as u16 & 15)) << 7 | fraction,
                1 => sign,
                2 => sign | fraction,
                3 if i % 128 == 77 => sign | 254 << 7 | fraction,
                3 => sign | (noise as u16 & 7) << 7 | fraction,
                _ => sign | (1 + (noise as u16 >> 3) % 253) << 7 | fraction,
            };
            bf16::from_bits(bits)
        })
        .collect()
}

pub(crate) fn wide(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// Every format of codes with every scaling.
pub(crate) const RULES: [(Format, Scaling); 4] = [
    (Format::E4m3, Scaling::Exact),
    (Format::E4m3, Scaling::PowerOfTwo),
    (Format::E5m2, Scaling::Exact),
    (Format::E5m2, Scaling::PowerOfTwo),
];

/// The oracle's names of the same.
pub(crate) fn rule(format: Format, scaling: Scaling) -> (blocks::Format, blocks::Scaling) {
    let format = match format {
        Format::E4m3 => blocks::Format::E4m3,
        _ => blocks::Format::E5m2,
    };
    let scaling = match scaling {
        Scaling::Exact => blocks::Scaling::Exact,
        Scaling::PowerOfTwo => blocks::Scaling::PowerOfTwo,
    };
    (format, scaling)
}

/// Row-major scales, `[slots, rows, blocks]`, as memory of `layout` holds them; padding unwritten.
pub(crate) fn laid_out(scales: &[f32], shape: Shape, layout: ScaleLayout) -> Vec<f32> {
    let blocks = shape.columns.div_ceil(128) as usize;
    let rows = shape.rows as usize;
    if layout == ScaleLayout::RowMajor {
        return scales.to_vec();
    }
    let stride = scale_stride(shape.rows) as usize;
    let mut out = unwritten(shape.slots as usize * blocks * stride);
    for (i, &scale) in scales.iter().enumerate() {
        let (row, block) = (i / blocks, i % blocks);
        out[(row / rows * blocks + block) * stride + row % rows] = scale;
    }
    out
}

/// Elements of a shape.
pub(crate) fn elements(shape: Shape) -> usize {
    (shape.slots * shape.rows * shape.columns) as usize
}
