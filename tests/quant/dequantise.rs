use hadal::device::Buffer;
use hadal::gemm::{Format, Matrix, MatrixMut, OperandError, Shape};
use hadal::quant::{Dequantise, DequantiseDesc, DequantisePlan, ScaleLayout, Scaling};
use hadal_reference::blocks::dequantise;
use half::bf16;

use crate::harness::{Device, elements, laid_out, rule, same};

/// What a scale belongs to.
#[derive(Debug, Clone, Copy)]
enum Per {
    Block1x128,
    Block128x128,
    Row,
    Operand,
}

/// Scales of every kind: ordinary ones, all special ones.
fn scales(len: usize) -> Vec<f32> {
    let special = [
        0.0,
        f32::from_bits(1),
        f32::MIN_POSITIVE / 2.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        -1.5,
    ];
    let ordinary = |i: usize| (1.0 + i as f32 / 1021.0) * 2f32.powi((i % 40) as i32 - 20);
    (0..len)
        .map(|i| {
            if i % 3 == 2 {
                special[i / 3 % 7]
            } else {
                ordinary(i)
            }
        })
        .collect()
}

fn check(device: &Device, shape: Shape, format: Format, per: Per) {
    let (rows, columns) = (shape.rows as usize, shape.columns as usize);
    let (lines, blocks) = (rows.div_ceil(128), columns.div_ceil(128));
    let slots = shape.slots as usize;
    let codes: Vec<u8> = (0..elements(shape))
        .map(|i| (i * 37 + i / 256) as u8)
        .collect();
    let scales = scales(match per {
        Per::Block1x128 => slots * rows * blocks,
        Per::Block128x128 => slots * lines * blocks,
        Per::Row => slots * rows,
        Per::Operand => 1,
    });
    let scale_of = |row: usize, column: usize| {
        let (slot, row) = (row / rows, row % rows);
        scales[match per {
            Per::Block1x128 => (slot * rows + row) * blocks + column / 128,
            Per::Block128x128 => (slot * lines + row / 128) * blocks + column / 128,
            Per::Row => slot * rows + row,
            Per::Operand => 0,
        }]
    };
    let (oracle, _) = rule(format, Scaling::Exact);
    let want: Vec<u16> = codes
        .iter()
        .enumerate()
        .map(|(i, &code)| dequantise(code, scale_of(i / columns, i % columns), oracle))
        .collect();

    let codes = device.upload(&codes);
    let laid_out = match per {
        Per::Block1x128 => laid_out(&scales, shape, ScaleLayout::MMajor),
        _ => scales.clone(),
    };
    let memory: Buffer<f32> = device.upload(&laid_out);
    let matrix = match per {
        Per::Block1x128 => Matrix::fp8_rows(format, &codes, &memory, shape),
        Per::Block128x128 => Matrix::fp8_blocks(format, &codes, &memory, shape),
        _ => Matrix::fp8_channel(format, &codes, &memory, shape),
    };
    let mut output = device.output::<bf16>(want.len());
    let plan = DequantisePlan::new(DequantiseDesc { shape, sms: 1 }).expect("a plan");
    let mut view = MatrixMut::bf16(output.view(), shape).expect("an output");
    Dequantise::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, &matrix.expect("an input"), &mut view)
        .expect("launched");
    let what = format!("{shape:?}, {format:?}, {per:?}");
    let want: Vec<bf16> = want.into_iter().map(bf16::from_bits).collect();
    same(&what, &output.read(&what, device), &want, columns);
}

#[test]
fn every_value() {
    let device = Device::open();
    for format in [Format::E4m3, Format::E5m2] {
        for per in [Per::Block1x128, Per::Block128x128, Per::Row, Per::Operand] {
            for rows in [1, 7, 127, 128, 129] {
                for columns in [16, 128, 400] {
                    check(&device, Shape::matrix(rows, columns), format, per);
                }
            }
            let shape = Shape {
                slots: 3,
                rows: 130,
                columns: 272,
            };
            check(&device, shape, format, per);
        }
    }
}

/// Every code with every special scale.
#[test]
fn every_code_with_every_scale() {
    let device = Device::open();
    for format in [Format::E4m3, Format::E5m2] {
        check(&device, Shape::matrix(42, 256), format, Per::Row);
    }
}

#[test]
fn no_rows_launch_nothing() {
    let device = Device::open();
    check(
        &device,
        Shape::matrix(0, 128),
        Format::E4m3,
        Per::Block1x128,
    );
    assert_eq!(device.context.launches(), []);
}

#[test]
fn other_kinds_of_operands_are_refused() {
    let device = Device::open();
    let shape = Shape::matrix(2, 128);
    let plan = DequantisePlan::new(DequantiseDesc { shape, sms: 1 }).expect("a plan");
    let dequantise = Dequantise::new(&device.context, plan).expect("a kernel");
    let (codes, scales) = (device.upload(&[0u8; 512]), device.upload(&[1f32; 4]));
    let values = device.upload(&[bf16::ZERO; 256]);
    let mut bf16_out = device.output::<bf16>(256);
    let mut f32_out = device.output::<f32>(256);
    let mut run = |matrix: &Matrix<'_>, wide: bool| {
        let mut output = if wide {
            MatrixMut::f32(f32_out.view(), shape)
        } else {
            MatrixMut::bf16(bf16_out.view(), shape)
        };
        let output = output.as_mut().expect("an output");
        let result = dequantise.run(&device.stream, matrix, output);
        result.expect_err("refused").to_string()
    };
    let bf16 = Matrix::bf16(&values, shape).expect("a matrix");
    assert_eq!(run(&bf16, false), "input has BF16, expected E4M3 or E5M2");
    let tall = Shape::matrix(4, 128);
    let tall = Matrix::fp8_rows(Format::E4m3, &codes, &scales, tall).expect("a matrix");
    assert_eq!(run(&tall, false), "rows = 4, but the plan has 2");
    let inside = (&codes).into();
    let codes = hadal::gemm::View::slice(inside, 0..256).expect("inside");
    let fp8 = Matrix::fp8_rows(Format::E4m3, codes, &scales, shape).expect("a matrix");
    assert_eq!(run(&fp8, true), "output has F32, expected BF16");
    let error = DequantisePlan::new(DequantiseDesc { shape, sms: 0 });
    assert!(matches!(
        error,
        Err(OperandError::Range { what: "SMs", .. })
    ));
    assert_eq!(device.context.launches(), []);
}
