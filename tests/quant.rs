//! The quantisation kernel on a device, bit for bit: both divisions and the rounding are exact
//! operations, so the oracle has no tolerance.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use hadal::device::{Buffer, Context, Stream};
use hadal::gemm::{View, ViewMut, scale_stride};
use hadal::quant::{QuantDesc, QuantPlan, Quantise, ScaleLayout};
use hadal_reference::fp8::e4m3_from_f64;
use half::bf16;

const GUARD: usize = 32;
const UNWRITTEN_CODE: u8 = 0xa5;
const UNWRITTEN_SCALE: u32 = 0x7fa5_a5a5;

/// Blocks of every kind: wide range, zeros, subnormals, one large value among tiny ones.
fn input(rows: usize, columns: usize) -> Vec<bf16> {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 32
    };
    (0..rows * columns)
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

/// Scale bits and codes of one block.
fn expected(block: &[bf16]) -> (u32, Vec<u8>) {
    let values: Vec<f32> = block.iter().map(|v| v.to_f32()).collect();
    let amax = values.iter().fold(0f32, |amax, v| amax.max(v.abs()));
    let scale = if amax == 0.0 { 1.0 } else { amax / 448.0 };
    let codes = values
        .iter()
        .map(|v| e4m3_from_f64(f64::from(v / scale)))
        .collect();
    (scale.to_bits(), codes)
}

struct Device {
    context: std::sync::Arc<Context>,
    stream: Stream,
}

impl Device {
    fn open() -> Self {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        Self { context, stream }
    }

    fn check(&self, input: &[bf16], desc: QuantDesc) {
        let (rows, columns) = (desc.rows as usize, desc.columns as usize);
        let plan = QuantPlan::new(desc).expect("a plan");
        let quantise = Quantise::new(&self.context, plan).expect("a kernel");
        let x = Buffer::from_slice(&self.stream, input).expect("memory");
        let elements = rows * columns;
        let scales = plan.scales as usize;
        let upload_codes = vec![UNWRITTEN_CODE; elements + 2 * GUARD];
        let mut codes = Buffer::from_slice(&self.stream, &upload_codes).expect("memory");
        let upload_scales = vec![f32::from_bits(UNWRITTEN_SCALE); scales + 2 * GUARD];
        let mut out = Buffer::from_slice(&self.stream, &upload_scales).expect("memory");
        let code_view = ViewMut::from(&mut codes)
            .slice(GUARD..GUARD + elements)
            .expect("inside");
        let scale_view = ViewMut::from(&mut out)
            .slice(GUARD..GUARD + scales)
            .expect("inside");
        quantise
            .run(&self.stream, View::from(&x), code_view, scale_view)
            .expect("launched");
        let codes = codes.to_vec(&self.stream).expect("executed");
        let out: Vec<u32> = out
            .to_vec(&self.stream)
            .expect("executed")
            .iter()
            .map(|s| s.to_bits())
            .collect();
        let mut want_codes = vec![UNWRITTEN_CODE; codes.len()];
        let mut want_scales = vec![UNWRITTEN_SCALE; out.len()];
        let blocks = columns / 128;
        for (i, block) in input.chunks(128).enumerate() {
            let (row, block_of_row) = (i / blocks, i % blocks);
            let at = match desc.layout {
                ScaleLayout::RowMajor => row * blocks + block_of_row,
                ScaleLayout::MMajor => block_of_row * scale_stride(desc.rows) as usize + row,
            };
            let (scale, expected) = expected(block);
            want_scales[GUARD + at] = scale;
            want_codes[GUARD + i * 128..][..128].copy_from_slice(&expected);
        }
        for (i, (got, want)) in codes.iter().zip(&want_codes).enumerate() {
            let at = i as isize - GUARD as isize;
            assert_eq!(
                got,
                want,
                "{desc:?}: code {at} (row {})",
                at / columns as isize
            );
        }
        for (i, (got, want)) in out.iter().zip(&want_scales).enumerate() {
            assert_eq!(got, want, "{desc:?}: scale {}", i as isize - GUARD as isize);
        }
    }
}

#[test]
fn every_code_and_scale() {
    let device = Device::open();
    for rows in [1, 7, 64, 65] {
        for columns in [128, 256, 640, 1152] {
            for layout in [ScaleLayout::RowMajor, ScaleLayout::MMajor] {
                let desc = QuantDesc {
                    rows,
                    columns,
                    layout,
                    sms: 2,
                };
                device.check(&input(rows as usize, columns as usize), desc);
            }
        }
    }
}

#[test]
fn no_rows_launch_nothing() {
    let desc = QuantDesc {
        rows: 0,
        columns: 128,
        layout: ScaleLayout::MMajor,
        sms: 132,
    };
    Device::open().check(&[], desc);
}

/// NaN gets its own code and leaves the rest alone; an infinity takes its block with it.
#[test]
fn nan_and_infinity() {
    let device = Device::open();
    let desc = QuantDesc {
        rows: 2,
        columns: 256,
        layout: ScaleLayout::RowMajor,
        sms: 132,
    };
    let mut x = input(2, 256);
    x[5] = bf16::NAN;
    x[128 + 9] = bf16::INFINITY;
    x[256..384].fill(bf16::NAN);
    x[384] = bf16::NEG_INFINITY;
    device.check(&x, desc);
    let (scale, codes) = expected(&x[128..256]);
    assert_eq!(f32::from_bits(scale), f32::INFINITY);
    assert_eq!((codes[9], codes[10] & 0x7f), (0x7f, 0));
    let (scale, codes) = expected(&x[256..384]);
    assert_eq!((f32::from_bits(scale), codes[0]), (1.0, 0x7f));
}

#[test]
fn plans_and_errors() {
    let desc = QuantDesc {
        rows: 65,
        columns: 7168,
        layout: ScaleLayout::MMajor,
        sms: 132,
    };
    let plan = QuantPlan::new(desc).expect("a plan");
    assert_eq!((plan.grid, plan.scales), (228, 56 * 68));
    assert_eq!((plan.row_stride, plan.block_stride), (1, 68));
    let error = QuantPlan::new(QuantDesc {
        columns: 130,
        ..desc
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "columns = 130 is not a multiple of 128");
    let error = QuantPlan::new(QuantDesc { columns: 0, ..desc }).unwrap_err();
    assert_eq!(error.to_string(), "columns = 0, expected 128 to 2147483647");
}
