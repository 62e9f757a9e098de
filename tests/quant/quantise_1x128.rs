use hadal::gemm::{Format, Shape, View};
use hadal::quant::{Quantise1x128, Quantise1x128Desc, Quantise1x128Plan, ScaleLayout, Scaling};
use hadal_reference::blocks::{Quantised, quantise_rows};
use half::bf16;

use crate::harness::{Device, RULES, elements, input, laid_out, rule, same, wide};

const LAYOUTS: [ScaleLayout; 2] = [ScaleLayout::RowMajor, ScaleLayout::MMajor];

const DESC: Quantise1x128Desc = Quantise1x128Desc {
    shape: Shape::matrix(65, 7168),
    format: Format::E4m3,
    layout: ScaleLayout::MMajor,
    scaling: Scaling::Exact,
    sms: 132,
};

/// Runs, compares all codes and scales, and gives what they should be.
fn check(device: &Device, input: &[bf16], desc: Quantise1x128Desc) -> Quantised {
    let plan = Quantise1x128Plan::new(desc).expect("a plan");
    let x = device.upload(input);
    let mut codes = device.output::<u8>(elements(desc.shape));
    let mut scales = device.output::<f32>(plan.scales as usize);
    Quantise1x128::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, View::from(&x), codes.view(), scales.view())
        .expect("launched");
    let columns = desc.shape.columns as usize;
    let (format, scaling) = rule(desc.format, desc.scaling);
    let want = quantise_rows(&wide(input), columns, format, scaling);
    let what = format!("{desc:?}: codes");
    same(&what, &codes.read(&what, device), &want.codes, columns);
    let what = format!("{desc:?}: scales");
    let laid_out = laid_out(&want.scales, desc.shape, desc.layout);
    same(
        &what,
        &scales.read(&what, device),
        &laid_out,
        laid_out.len(),
    );
    want
}

#[test]
fn every_code_and_scale() {
    let device = Device::open();
    for rows in [1, 7, 127, 128, 129] {
        for columns in [16, 112, 128, 144, 640] {
            for layout in LAYOUTS {
                for (format, scaling) in RULES {
                    let shape = Shape::matrix(rows, columns);
                    let desc = Quantise1x128Desc {
                        shape,
                        format,
                        layout,
                        scaling,
                        sms: 2,
                    };
                    check(&device, &input(elements(shape)), desc);
                }
            }
        }
    }
}

#[test]
fn slots_have_lines_of_their_own() {
    let device = Device::open();
    for layout in LAYOUTS {
        let shape = Shape {
            slots: 3,
            rows: 5,
            columns: 272,
        };
        let desc = Quantise1x128Desc {
            shape,
            layout,
            sms: 1,
            ..DESC
        };
        check(&device, &input(elements(shape)), desc);
    }
}

#[test]
fn no_rows_launch_nothing() {
    let device = Device::open();
    let desc = Quantise1x128Desc {
        shape: Shape::matrix(0, 128),
        ..DESC
    };
    check(&device, &[], desc);
    assert_eq!(device.context.launches(), []);
}

/// NaN gets its own code and leaves the rest alone; an infinity takes its block with it.
#[test]
fn nan_and_infinity() {
    let device = Device::open();
    let mut x = input(2 * 256);
    x[5] = bf16::NAN;
    x[128 + 9] = bf16::INFINITY;
    x[256..384].fill(bf16::NAN);
    x[384] = bf16::NEG_INFINITY;
    for (format, scaling) in RULES {
        let desc = Quantise1x128Desc {
            shape: Shape::matrix(2, 256),
            format,
            scaling,
            ..DESC
        };
        let Quantised { codes, scales } = check(&device, &x, desc);
        assert_eq!(
            (scales[1], codes[137], codes[138] & 0x7f),
            (f32::INFINITY, 0x7f, 0)
        );
        assert_eq!((scales[2], codes[256]), (1.0, 0x7f));
    }
}

#[test]
fn plans() {
    let plan = Quantise1x128Plan::new(DESC).expect("a plan");
    assert_eq!((plan.grid, plan.scales), (228, 56 * 68));
    let desc = Quantise1x128Desc {
        layout: ScaleLayout::RowMajor,
        sms: 1,
        ..DESC
    };
    let plan = Quantise1x128Plan::new(desc).expect("a plan");
    assert_eq!((plan.grid, plan.scales), (8, 56 * 65));
}
