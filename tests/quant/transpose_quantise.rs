use hadal::gemm::{Format, Matrix, Shape, View, scale_stride};
use hadal::quant::{
    PadOffsets, PadOffsetsDesc, ScaleLayout, Scaling, TransposeQuantise, TransposeQuantiseDesc,
    TransposeQuantiseOperands, TransposeQuantisePlan, padded_rows,
};
use hadal_reference::blocks::{code, pad_offsets, quantise_rows, ranges, scale, transpose_groups};
use half::bf16;

use crate::harness::{Device, RULES, UNWRITTEN, input, laid_out, rule, same, unwritten, wide};

/// An input, and its values as the kernel counts them.
enum Input {
    Bf16(Vec<bf16>),
    Fp8 {
        format: Format,
        codes: Vec<u8>,
        scales: Vec<f32>,
    },
}

impl Input {
    /// FP8 of the same values as `input`.
    fn fp8(values: &[bf16], columns: usize, format: Format) -> Self {
        let (oracle, scaling) = rule(format, Scaling::Exact);
        let quantised = quantise_rows(&wide(values), columns, oracle, scaling);
        Self::Fp8 {
            format,
            codes: quantised.codes,
            scales: quantised.scales,
        }
    }

    fn values(&self, columns: usize) -> Vec<f32> {
        match self {
            Self::Bf16(values) => wide(values),
            Self::Fp8 {
                format,
                codes,
                scales,
            } => {
                let (oracle, _) = rule(*format, Scaling::Exact);
                let blocks = columns.div_ceil(128);
                let scale = |i: usize| scales[i / columns * blocks + i % columns / 128];
                let values = codes.iter().enumerate();
                values.map(|(i, &c)| oracle.decode(c) * scale(i)).collect()
            }
        }
    }
}

/// Codes and scales as they must be, unwritten where no group is.
fn expected(
    input: &Input,
    plan: &TransposeQuantisePlan,
    offsets: &[i32],
    padded: &[i32],
) -> (Vec<u8>, Vec<f32>) {
    let desc = plan.desc;
    let (columns, k) = (desc.columns as usize, plan.k as usize);
    let groups = ranges(offsets, desc.rows as usize);
    let places = ranges(padded, k);
    let values = transpose_groups(&input.values(columns), columns, &groups, &places, k);
    let (format, scaling) = rule(desc.format, desc.scaling);
    let stride = scale_stride(desc.columns) as usize;
    let mut codes = vec![UNWRITTEN; columns * k];
    let mut scales: Vec<f32> = unwritten(k / 128 * stride);
    for (at, block) in values.chunks(128).enumerate() {
        let (column, line) = (at / (k / 128), at % (k / 128));
        let Some(block) = block.iter().copied().collect::<Option<Vec<f32>>>() else {
            continue;
        };
        let scale = scale(block.iter().copied(), format, scaling);
        scales[line * stride + column] = scale;
        for (i, &value) in block.iter().enumerate() {
            codes[at * 128 + i] = code(value, scale, format);
        }
    }
    (codes, scales)
}

fn check(
    device: &Device,
    input: &Input,
    plan: TransposeQuantisePlan,
    offsets: &[i32],
    padded: &[i32],
) {
    let desc = plan.desc;
    let shape = Shape::matrix(desc.rows, desc.columns);
    let (offset_memory, padded_memory) = (device.upload(offsets), device.upload(padded));
    let (values, input_codes, input_scales) = match input {
        Input::Bf16(values) => (&values[..], &[][..], vec![]),
        Input::Fp8 { codes, scales, .. } => (
            &[][..],
            &codes[..],
            laid_out(scales, shape, ScaleLayout::MMajor),
        ),
    };
    let values = device.upload(values);
    let (input_codes, input_scales) = (device.upload(input_codes), device.upload(&input_scales));
    let matrix = match input {
        Input::Bf16(_) => Matrix::bf16(&values, shape),
        Input::Fp8 { format, .. } => Matrix::fp8_rows(*format, &input_codes, &input_scales, shape),
    };
    let (columns, k) = (desc.columns as usize, plan.k as usize);
    let mut codes = device.output::<u8>(columns * k);
    let mut scales = device.output::<f32>(plan.scales as usize);
    let operands = TransposeQuantiseOperands {
        input: matrix.expect("an input"),
        offsets: View::from(&offset_memory),
        padded: View::from(&padded_memory),
        codes: codes.view(),
        scales: scales.view(),
    };
    TransposeQuantise::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, operands)
        .expect("launched");
    let (want_codes, want_scales) = expected(input, &plan, offsets, padded);
    let what = format!("{desc:?}, {offsets:?} to {padded:?}: codes");
    same(&what, &codes.read(&what, device), &want_codes, k);
    let what = format!("{desc:?}, {offsets:?} to {padded:?}: scales");
    let stride = scale_stride(desc.columns) as usize;
    same(&what, &scales.read(&what, device), &want_scales, stride);
}

fn plan(rows: u32, columns: u32, groups: u32) -> TransposeQuantiseDesc {
    TransposeQuantiseDesc {
        rows,
        columns,
        groups,
        input: Format::Bf16,
        format: Format::E4m3,
        scaling: Scaling::Exact,
        sms: 2,
    }
}

/// Pads on the device, compares, and gives the table.
fn pad(device: &Device, rows: u32, offsets: &[i32]) -> Vec<i32> {
    let groups = offsets.len() as u32 - 1;
    let table = device.upload(offsets);
    let mut padded = device.output::<i32>(offsets.len());
    PadOffsets::new(&device.context, PadOffsetsDesc { rows, groups })
        .expect("a kernel")
        .run(&device.stream, View::from(&table), padded.view())
        .expect("launched");
    let k = padded_rows(rows, groups).expect("a size") as usize;
    let want: Vec<i32> = pad_offsets(offsets, rows as usize, k)
        .iter()
        .map(|&end| end as i32)
        .collect();
    let what = format!("{rows} rows, {offsets:?}");
    let got = padded.read(&what, device);
    same(&what, &got, &want, want.len());
    got
}

/// Tables: no row, odd ones, empty groups, one huge, gaps at the ends, ends that lie.
const TABLES: [(u32, &[i32]); 10] = [
    (0, &[0, 0, 0]),
    (1, &[0, 1]),
    (7, &[0, 0, 7, 7]),
    (127, &[0, 127]),
    (128, &[0, 128]),
    (129, &[0, 1, 129]),
    (400, &[0, 130, 130, 131, 400]),
    (700, &[0, 0, 700, 700]),
    (300, &[3, 140, 290]),
    (200, &[-1, 60, 50, i32::MAX, i32::MIN, 200]),
];

#[test]
fn padded_offsets() {
    let device = Device::open();
    for (rows, offsets) in TABLES {
        pad(&device, rows, offsets);
    }
    // More groups than lanes, and tables that ask for more than there is.
    for groups in [31i32, 32, 33, 100] {
        let offsets: Vec<i32> = (0..=groups).map(|g| g * (g - 1) / 2).collect();
        pad(&device, offsets[groups as usize] as u32, &offsets);
        let offsets: Vec<i32> = (0..=groups).map(|g| g % 2 * 300).collect();
        pad(&device, 300, &offsets);
    }
}

#[test]
fn padded_rows_suffice() {
    let text = |rows, groups| padded_rows(rows, groups).expect_err("refused").to_string();
    assert_eq!(padded_rows(0, 1), Ok(128));
    assert_eq!(padded_rows(1, 8), Ok(128));
    assert_eq!(padded_rows(2, 8), Ok(256));
    assert_eq!(padded_rows(1000, 4), Ok(1408));
    assert_eq!(
        text(1, 0),
        format!("groups = 0, expected 1 to {}", i32::MAX - 1)
    );
    assert_eq!(
        text(u32::MAX, 1),
        format!("padded rows = {}, expected 0 to {}", 1u64 << 32, i32::MAX)
    );
}

#[test]
fn groups_of_every_size() {
    let device = Device::open();
    for (rows, offsets) in TABLES {
        let padded = pad(&device, rows, offsets);
        for columns in [16, 64, 80, 208] {
            let values = input((rows * columns) as usize);
            let desc = plan(rows, columns, offsets.len() as u32 - 1);
            let desc = TransposeQuantisePlan::new(desc).expect("a plan");
            check(&device, &Input::Bf16(values), desc, offsets, &padded);
        }
    }
}

#[test]
fn every_format_and_scaling() {
    let device = Device::open();
    let (rows, columns) = (300, 272);
    let offsets = [0, 131, 131, 300];
    let padded = pad(&device, rows, &offsets);
    let mut values = input((rows * columns) as usize);
    values[columns as usize + 3] = bf16::NAN;
    values[7] = bf16::INFINITY;
    for (format, scaling) in RULES {
        for from in [Format::Bf16, Format::E4m3, Format::E5m2] {
            let input = match from {
                Format::Bf16 => Input::Bf16(values.clone()),
                from => Input::fp8(&values, columns as usize, from),
            };
            let plan = TransposeQuantisePlan::new(TransposeQuantiseDesc {
                input: from,
                format,
                scaling,
                ..plan(rows, columns, 3)
            });
            check(&device, &input, plan.expect("a plan"), &offsets, &padded);
        }
    }
}

/// Products of codes and scales below the smallest normal number, down to zero.
#[test]
fn tiny_products() {
    let device = Device::open();
    let (rows, columns) = (130, 128);
    let codes: Vec<u8> = (0..rows * columns).map(|i| (i * 11 % 120) as u8).collect();
    let scales = (0..rows).map(|i| f32::from_bits(1 << (i % 24))).collect();
    let input = Input::Fp8 {
        format: Format::E4m3,
        codes,
        scales,
    };
    for (format, scaling) in RULES {
        let plan = TransposeQuantisePlan::new(TransposeQuantiseDesc {
            input: Format::E4m3,
            format,
            scaling,
            ..plan(rows, columns, 1)
        });
        check(&device, &input, plan.expect("a plan"), &[0, 130], &[0, 256]);
    }
}

/// Tables that were not computed by the kernel: room to spare, too little, shared, none.
#[test]
fn other_padded_offsets() {
    let device = Device::open();
    let offsets = [0, 100, 200];
    let tables: [[i32; 3]; 6] = [
        [0, 256, 384],
        [128, 256, 384],
        [0, 0, 256],
        [0, 128, 128],
        [256, 0, i32::MAX],
        [i32::MIN, i32::MAX, i32::MIN],
    ];
    let values = Input::Bf16(input(200 * 80));
    for padded in tables {
        // One group more, empty, so that there are 384 columns.
        let plan = TransposeQuantisePlan::new(plan(200, 80, 3)).expect("a plan");
        assert_eq!(plan.k, 512);
        let end = padded[2];
        let padded = [padded[0], padded[1], end, end];
        check(
            &device,
            &values,
            plan,
            &[&offsets[..], &[200]].concat(),
            &padded,
        );
    }
}

/// More groups than a warp looks at together.
#[test]
fn many_groups() {
    let device = Device::open();
    let offsets: Vec<i32> = (0..=70).map(|g| g * 5 - g % 2).collect();
    let padded = pad(&device, 350, &offsets);
    let plan = TransposeQuantisePlan::new(plan(350, 16, 70)).expect("a plan");
    check(
        &device,
        &Input::Bf16(input(350 * 16)),
        plan,
        &offsets,
        &padded,
    );
}
