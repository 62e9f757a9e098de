use hadal::gemm::{Format, Shape, View};
use hadal::quant::{Quantise128x128, Quantise128x128Desc, Quantise128x128Plan, Scaling};
use hadal_reference::blocks::{Quantised, quantise_blocks};
use half::bf16;

use crate::harness::{Device, RULES, elements, input, rule, same, wide};

/// Runs, compares all codes and scales, and gives what they should be.
fn check(device: &Device, input: &[bf16], desc: Quantise128x128Desc) -> Quantised {
    let plan = Quantise128x128Plan::new(desc).expect("a plan");
    let x = device.upload(input);
    let mut codes = device.output::<u8>(elements(desc.shape));
    let mut scales = device.output::<f32>(plan.scales as usize);
    Quantise128x128::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, View::from(&x), codes.view(), scales.view())
        .expect("launched");
    let Shape { rows, columns, .. } = desc.shape;
    let (format, scaling) = rule(desc.format, desc.scaling);
    let mut want = Quantised {
        codes: Vec::new(),
        scales: Vec::new(),
    };
    for slot in wide(input).chunks((rows * columns).max(1) as usize) {
        let slot = quantise_blocks(slot, columns as usize, format, scaling);
        want.codes.extend(slot.codes);
        want.scales.extend(slot.scales);
    }
    let what = format!("{desc:?}: codes");
    same(
        &what,
        &codes.read(&what, device),
        &want.codes,
        columns as usize,
    );
    let what = format!("{desc:?}: scales");
    let pitch = columns.div_ceil(128) as usize;
    same(&what, &scales.read(&what, device), &want.scales, pitch);
    want
}

fn desc(slots: u32, rows: u32, columns: u32) -> Quantise128x128Desc {
    Quantise128x128Desc {
        shape: Shape {
            slots,
            rows,
            columns,
        },
        format: Format::E4m3,
        scaling: Scaling::Exact,
        sms: 1,
    }
}

#[test]
fn every_code_and_scale() {
    let device = Device::open();
    for rows in [1, 7, 127, 128, 129, 300] {
        for columns in [16, 128, 144, 400] {
            for (format, scaling) in RULES {
                let desc = Quantise128x128Desc {
                    format,
                    scaling,
                    ..desc(1, rows, columns)
                };
                check(&device, &input(elements(desc.shape)), desc);
            }
        }
    }
}

#[test]
fn slots_have_blocks_of_their_own() {
    let device = Device::open();
    let desc = desc(3, 150, 272);
    check(&device, &input(elements(desc.shape)), desc);
}

#[test]
fn nothing_to_do_launches_nothing() {
    let device = Device::open();
    check(&device, &[], desc(1, 0, 128));
    check(&device, &[], desc(0, 128, 128));
    assert_eq!(device.context.launches(), []);
}

/// The largest of a block may be in any of its corners.
#[test]
fn the_whole_block_counts() {
    let device = Device::open();
    for place in [0, 15, 127 * 128, 128 * 128 - 1] {
        let mut x = vec![bf16::from_f32(0.25); 128 * 128];
        x[place] = bf16::from_f32(-896.0);
        let want = check(&device, &x, desc(1, 128, 128));
        assert_eq!((want.scales[0], want.codes[place]), (2.0, 0xfe));
    }
}

#[test]
fn zero_nan_and_infinity() {
    let device = Device::open();
    let mut x = input(256 * 256);
    x[..128 * 256].fill(bf16::NEG_ZERO);
    x[3] = bf16::NAN;
    x[200 * 256 + 5] = bf16::INFINITY;
    for (format, scaling) in RULES {
        let desc = Quantise128x128Desc {
            format,
            scaling,
            ..desc(1, 256, 256)
        };
        let want = check(&device, &x, desc);
        assert_eq!(want.scales[..3], [1.0, 1.0, f32::INFINITY]);
        assert_eq!((want.codes[2], want.codes[3]), (0x80, 0x7f));
    }
}
