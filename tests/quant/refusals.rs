//! Calls that are wrong in one way each: a typed error names the operand, and nothing is launched.
#![expect(
    unsafe_code,
    reason = "views of memory that is in use, for calls that are refused"
)]

use std::sync::Arc;

use bytemuck::Pod;
use hadal::device::{Buffer, Context, Stream};
use hadal::gemm::{Format, GemmError, Matrix, MatrixMut, OperandError, Shape, View, ViewMut};
use hadal::quant::{
    Dequantise, DequantiseDesc, DequantisePlan, PackUe8m0, PadOffsets, PadOffsetsDesc,
    Quantise1x128, Quantise1x128Desc, Quantise1x128Plan, Quantise128x128, Quantise128x128Desc,
    Quantise128x128Plan, ScaleLayout, Scaling, TransposeQuantise, TransposeQuantiseDesc,
    TransposeQuantiseOperands, TransposeQuantisePlan, TransposeScales, TransposeScalesDesc,
    TransposeScalesPlan, Ue8m0Desc, Ue8m0Plan, UnpackUe8m0,
};

use crate::harness::{Device, UNWRITTEN};

const SHAPE: Shape = Shape::matrix(8, 128);

/// Where an operand is, and how many elements it has too many.
#[derive(Clone, Copy)]
struct Place {
    address: u64,
    extra: usize,
}

impl Place {
    fn view<T: Pod>(self, context: &Arc<Context>, len: usize) -> View<'_, T> {
        // SAFETY: no kernel gets it.
        unsafe { View::from_raw(context, self.address, len + self.extra) }
    }

    fn view_mut<T: Pod>(self, context: &Arc<Context>, len: usize) -> ViewMut<'_, T> {
        // SAFETY: no kernel gets it.
        unsafe { ViewMut::from_raw(context, self.address, len + self.extra) }
    }
}

struct Operand {
    name: &'static str,
    bytes: u64,
    align: u64,
    written: bool,
}

const fn read(name: &'static str, bytes: u64, align: u64) -> Operand {
    Operand {
        name,
        bytes,
        align,
        written: false,
    }
}

const fn written(name: &'static str, bytes: u64, align: u64) -> Operand {
    Operand {
        written: true,
        ..read(name, bytes, align)
    }
}

/// Runs on a stream with operands at places.
type Run<'a> = dyn Fn(&Stream, &[Place]) -> Result<(), GemmError> + 'a;

/// A kernel's call.
struct Call<'a> {
    kernel: &'static str,
    operands: &'a [Operand],
    run: &'a Run<'a>,
}

impl Call<'_> {
    /// Spoils each operand in turn in every way.
    fn check(&self, device: &Device) {
        let memory = Buffer::<u8>::zeroed(&device.stream, 1 << 16).expect("device memory");
        let mut after = memory;
        after.fill_bytes(&device.stream, UNWRITTEN).expect("filled");
        let base = after.address();
        let place = |i: usize| Place {
            address: base + ((i as u64) << 13),
            extra: 0,
        };
        let places: Vec<Place> = (0..self.operands.len()).map(place).collect();
        for (i, operand) in self.operands.iter().enumerate() {
            let spoiled = |spoil: &dyn Fn(&mut Place)| {
                let mut places = places.clone();
                spoil(&mut places[i]);
                self.error(&device.stream, &places)
            };
            let what = format!("{}, {}", self.kernel, operand.name);
            let error = spoiled(&|place| place.address += operand.align / 2);
            let fits = matches!(error, OperandError::Alignment { of, .. } if of == operand.align);
            assert!(fits, "{what}: {error}");
            let error = spoiled(&|place| place.extra = 1);
            assert!(
                matches!(error, OperandError::Length { .. }),
                "{what}: {error}"
            );
            let error = spoiled(&|place| place.address = 0);
            assert!(
                matches!(error, OperandError::Null { .. }),
                "{what}: {error}"
            );
            if operand.written {
                self.check_overlaps(device, &places, i);
            }
        }
        let other = Context::new(1).expect("a second device");
        let stream = Stream::new(&other).expect("a stream");
        let error = self.error(&stream, &places);
        assert!(
            matches!(error, OperandError::WrongContext { .. }),
            "{error}"
        );
        let bytes = after.to_vec(&device.stream).expect("no error is pending");
        assert_eq!(bytes.iter().position(|&byte| byte != UNWRITTEN), None);
        assert_eq!(device.context.launches(), [], "{}", self.kernel);
    }

    /// Output `i` on the first and on the last bytes of every other operand.
    fn check_overlaps(&self, device: &Device, places: &[Place], i: usize) {
        let output = &self.operands[i];
        for (j, other) in self.operands.iter().enumerate().filter(|&(j, _)| j != i) {
            let step = output.align.max(4);
            let ends = [
                places[j].address - output.bytes.saturating_sub(step) / step * step,
                places[j].address + other.bytes.saturating_sub(step) / step * step,
            ];
            for address in ends {
                let mut places = places.to_vec();
                places[i].address = address;
                let error = self.error(&device.stream, &places);
                let OperandError::Overlap {
                    output: a, what: b, ..
                } = error
                else {
                    panic!(
                        "{}: {} on {}: {error}",
                        self.kernel, output.name, other.name
                    );
                };
                let names = [output.name, other.name];
                assert!(names == [a, b] || names == [b, a], "{names:?}: {a}, {b}");
            }
        }
    }

    fn error(&self, stream: &Stream, places: &[Place]) -> OperandError {
        match (self.run)(stream, places).expect_err("refused") {
            GemmError::Operand(error) => error,
            error => panic!("{}: {error}", self.kernel),
        }
    }
}

#[test]
fn quantise_1x128() {
    let device = Device::open();
    let context = &device.context;
    let desc = Quantise1x128Desc {
        shape: SHAPE,
        format: Format::E4m3,
        layout: ScaleLayout::MMajor,
        scaling: Scaling::Exact,
        sms: 4,
    };
    let error = |desc| {
        Quantise1x128Plan::new(desc)
            .expect_err("refused")
            .to_string()
    };
    let shape = Shape::matrix(8, 0);
    let text = format!("columns = 0, expected 16 to {}", i32::MAX);
    assert_eq!(error(Quantise1x128Desc { shape, ..desc }), text);
    let shape = Shape::matrix(8, 130);
    let text = "columns = 130 is not a multiple of 16";
    assert_eq!(error(Quantise1x128Desc { shape, ..desc }), text);
    let shape = Shape::matrix(u32::MAX, 128);
    let text = format!("rows = {}, expected 0 to {}", u32::MAX, i32::MAX);
    assert_eq!(error(Quantise1x128Desc { shape, ..desc }), text);
    let shape = Shape::matrix(1 << 30, 1024);
    let text = format!("blocks = {}, expected 0 to {}", 1u64 << 33, i32::MAX);
    assert_eq!(error(Quantise1x128Desc { shape, ..desc }), text);
    let text = "SMs = 0, expected 1 to 65536";
    assert_eq!(error(Quantise1x128Desc { sms: 0, ..desc }), text);
    let format = Format::Bf16;
    let text = "codes has BF16, expected E4M3 or E5M2";
    assert_eq!(error(Quantise1x128Desc { format, ..desc }), text);

    let plan = Quantise1x128Plan::new(desc).expect("a plan");
    let changed = Quantise1x128Plan { scales: 1, ..plan };
    let error = Quantise1x128::new(context, changed).expect_err("refused");
    assert_eq!(error, OperandError::PlanChanged.into());
    let quantise = Quantise1x128::new(context, plan).expect("a kernel");
    Call {
        kernel: "quantise_1x128",
        operands: &[
            read("input", 2048, 16),
            written("codes", 1024, 8),
            written("scales", 32, 4),
        ],
        run: &|stream, at| {
            let codes = at[1].view_mut(context, 1024);
            quantise.run(
                stream,
                at[0].view(context, 1024),
                codes,
                at[2].view_mut(context, 8),
            )
        },
    }
    .check(&device);
}

#[test]
fn quantise_128x128() {
    let device = Device::open();
    let context = &device.context;
    let plan = Quantise128x128Plan::new(Quantise128x128Desc {
        shape: SHAPE,
        format: Format::E5m2,
        scaling: Scaling::Exact,
        sms: 4,
    });
    let plan = plan.expect("a plan");
    let changed = Quantise128x128Plan { scales: 0, ..plan };
    let error = Quantise128x128::new(context, changed).expect_err("refused");
    assert_eq!(error, OperandError::PlanChanged.into());
    let quantise = Quantise128x128::new(context, plan).expect("a kernel");
    Call {
        kernel: "quantise_128x128",
        operands: &[
            read("input", 2048, 16),
            written("codes", 1024, 8),
            written("scales", 4, 4),
        ],
        run: &|stream, at| {
            let codes = at[1].view_mut(context, 1024);
            quantise.run(
                stream,
                at[0].view(context, 1024),
                codes,
                at[2].view_mut(context, 1),
            )
        },
    }
    .check(&device);
}

#[test]
fn dequantise() {
    let device = Device::open();
    let context = &device.context;
    let desc = DequantiseDesc {
        shape: SHAPE,
        sms: 4,
    };
    let plan = DequantisePlan::new(desc).expect("a plan");
    let dequantise = Dequantise::new(context, plan).expect("a kernel");
    Call {
        kernel: "dequantise",
        operands: &[
            read("input", 1024, 16),
            read("scales", 32, 16),
            written("output", 2048, 16),
        ],
        run: &|stream, at| {
            let (codes, scales) = (at[0].view(context, 1024), at[1].view(context, 8));
            let input = Matrix::fp8_rows(Format::E4m3, codes, scales, SHAPE)?;
            let mut output = MatrixMut::bf16(at[2].view_mut(context, 1024), SHAPE)?;
            dequantise.run(stream, &input, &mut output)
        },
    }
    .check(&device);
}

#[test]
fn transpose_scales() {
    let device = Device::open();
    let context = &device.context;
    for from in [ScaleLayout::RowMajor, ScaleLayout::MMajor] {
        let plan = TransposeScalesPlan::new(TransposeScalesDesc {
            shape: SHAPE,
            from,
            sms: 4,
        });
        let plan = plan.expect("a plan");
        let changed = TransposeScalesPlan { output: 0, ..plan };
        let error = TransposeScales::new(context, changed).expect_err("refused");
        assert_eq!(error, OperandError::PlanChanged.into());
        let transpose = TransposeScales::new(context, plan).expect("a kernel");
        Call {
            kernel: "transpose_scales",
            operands: &[read("input", 32, 4), written("output", 32, 4)],
            run: &|stream, at| {
                transpose.run(stream, at[0].view(context, 8), at[1].view_mut(context, 8))
            },
        }
        .check(&device);
    }
}

#[test]
fn ue8m0() {
    let device = Device::open();
    let context = &device.context;
    let plan = Ue8m0Plan::new(Ue8m0Desc {
        shape: SHAPE,
        layout: ScaleLayout::MMajor,
        sms: 4,
    });
    let plan = plan.expect("a plan");
    let changed = Ue8m0Plan { packed: 0, ..plan };
    let error = PackUe8m0::new(context, changed).expect_err("refused");
    assert_eq!(error, OperandError::PlanChanged.into());
    let pack = PackUe8m0::new(context, plan).expect("a kernel");
    Call {
        kernel: "pack_ue8m0",
        operands: &[read("scales", 32, 4), written("packed", 32, 16)],
        run: &|stream, at| pack.run(stream, at[0].view(context, 8), at[1].view_mut(context, 8)),
    }
    .check(&device);
    let unpack = UnpackUe8m0::new(context, plan).expect("a kernel");
    Call {
        kernel: "unpack_ue8m0",
        operands: &[read("packed", 32, 16), written("scales", 32, 4)],
        run: &|stream, at| unpack.run(stream, at[0].view(context, 8), at[1].view_mut(context, 8)),
    }
    .check(&device);
}

#[test]
fn pad_offsets() {
    let device = Device::open();
    let context = &device.context;
    let desc = PadOffsetsDesc { rows: 8, groups: 3 };
    let pad = PadOffsets::new(context, desc).expect("a kernel");
    Call {
        kernel: "pad_offsets",
        operands: &[read("offsets", 16, 4), written("padded offsets", 16, 4)],
        run: &|stream, at| pad.run(stream, at[0].view(context, 4), at[1].view_mut(context, 4)),
    }
    .check(&device);
    let none = PadOffsetsDesc { groups: 0, ..desc };
    let error = PadOffsets::new(context, none).expect_err("refused");
    assert!(matches!(
        error,
        GemmError::Operand(OperandError::Range { what: "groups", .. })
    ));
}

const TRANSPOSITION: TransposeQuantiseDesc = TransposeQuantiseDesc {
    rows: 8,
    columns: 16,
    groups: 1,
    input: Format::E4m3,
    format: Format::E4m3,
    scaling: Scaling::Exact,
    sms: 4,
};

fn transposed<'a>(
    context: &'a Arc<Context>,
    at: &[Place],
    input: Matrix<'a>,
) -> TransposeQuantiseOperands<'a> {
    TransposeQuantiseOperands {
        input,
        offsets: at[2].view(context, 2),
        padded: at[3].view(context, 2),
        codes: at[4].view_mut(context, 16 * 128),
        scales: at[5].view_mut(context, 16),
    }
}

#[test]
fn transpose_quantise() {
    let device = Device::open();
    let context = &device.context;
    let plan = TransposeQuantisePlan::new(TRANSPOSITION).expect("a plan");
    let changed = TransposeQuantisePlan { k: 256, ..plan };
    let error = TransposeQuantise::new(context, changed).expect_err("refused");
    assert_eq!(error, OperandError::PlanChanged.into());
    let transpose = TransposeQuantise::new(context, plan).expect("a kernel");
    let shape = Shape::matrix(8, 16);
    let call = Call {
        kernel: "transpose_quantise",
        operands: &[
            read("input", 128, 16),
            read("input scales", 32, 16),
            read("offsets", 8, 4),
            read("padded offsets", 8, 4),
            written("codes", 2048, 16),
            written("scales", 64, 16),
        ],
        run: &|stream, at| {
            let (codes, scales) = (at[0].view(context, 128), at[1].view(context, 8));
            let input = Matrix::fp8_rows(Format::E4m3, codes, scales, shape)?;
            transpose.run(stream, transposed(context, at, input))
        },
    };
    call.check(&device);
}

#[test]
fn transpose_quantise_kinds() {
    let device = Device::open();
    let context = &device.context;
    let plan = TransposeQuantisePlan::new(TRANSPOSITION).expect("a plan");
    let transpose = TransposeQuantise::new(context, plan).expect("a kernel");
    let shape = Shape::matrix(8, 16);
    let at = [Place {
        address: 1 << 20,
        extra: 0,
    }; 6];
    let text = |input: Result<Matrix<'_>, OperandError>| {
        let result = transpose.run(
            &device.stream,
            transposed(context, &at, input.expect("a matrix")),
        );
        result.expect_err("refused").to_string()
    };
    let codes = at[0].view(context, 128);
    let channel = Matrix::fp8_channel(Format::E4m3, codes, at[1].view(context, 1), shape);
    assert_eq!(
        text(channel),
        "input has channel scales, expected scales per 1x128"
    );
    let e5m2 = Matrix::fp8_rows(Format::E5m2, codes, at[1].view(context, 8), shape);
    assert_eq!(text(e5m2), "input has E5M2, expected E4M3");
    let bf16 = Matrix::bf16(at[0].view(context, 128), shape);
    assert_eq!(text(bf16), "input has BF16, expected E4M3");
    let other = Matrix::fp8_rows(
        Format::E4m3,
        codes,
        at[1].view(context, 4),
        Shape::matrix(4, 32),
    );
    assert_eq!(text(other), "rows = 4, but the plan has 8");
}
