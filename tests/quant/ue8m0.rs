use hadal::gemm::{Shape, View, scale_stride};
use hadal::quant::{PackUe8m0, ScaleLayout, Ue8m0Desc, Ue8m0Plan, UnpackUe8m0};
use hadal_reference::blocks::{from_ue8m0, to_ue8m0};

use crate::harness::{Device, laid_out, same, unwritten};

/// Powers of two, neighbours of powers of two, all that is special.
fn scales(len: usize) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        f32::from_bits(1),
        f32::from_bits(0x40_0000),
        f32::from_bits(0x40_0001),
        f32::from_bits(0x7f_ffff),
        f32::MIN_POSITIVE,
        1.7e38,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        -4.0,
        -5.0,
    ];
    let power = |i: usize| ((i * 7 % 254 + 1) as u32) << 23;
    (0..len)
        .map(|i| match i % 5 {
            0 => special[i / 5 % special.len()],
            1 => f32::from_bits(power(i) + 1),
            2 => f32::from_bits(power(i) - 1),
            _ => f32::from_bits(power(i)),
        })
        .collect()
}

fn check(device: &Device, shape: Shape, layout: ScaleLayout) {
    let (rows, blocks) = (shape.rows as usize, shape.columns.div_ceil(128) as usize);
    let (words, stride) = (blocks.div_ceil(4), scale_stride(shape.rows) as usize);
    let scales = scales(shape.slots as usize * rows * blocks);
    let mut want: Vec<u32> = unwritten(shape.slots as usize * words * stride);
    for row in 0..shape.slots as usize * rows {
        for word in 0..words {
            let mut bytes = [0; 4];
            for (j, byte) in bytes.iter_mut().enumerate() {
                if word * 4 + j < blocks {
                    *byte = to_ue8m0(scales[row * blocks + word * 4 + j]);
                }
            }
            let line = row / rows * words + word;
            want[line * stride + row % rows] = u32::from_le_bytes(bytes);
        }
    }
    let desc = Ue8m0Desc {
        shape,
        layout,
        sms: 1,
    };
    let plan = Ue8m0Plan::new(desc).expect("a plan");
    let input = device.upload(&laid_out(&scales, shape, layout));
    let mut packed = device.output::<u32>(plan.packed as usize);
    PackUe8m0::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, View::from(&input), packed.view())
        .expect("launched");
    let what = format!("{shape:?}, {layout:?}: packed");
    let got = packed.read(&what, device);
    same(&what, &got, &want, stride.max(1));

    // And back: the powers of two that scales were rounded to.
    let powers: Vec<f32> = scales
        .iter()
        .map(|&scale| match to_ue8m0(scale) {
            255 => f32::from_bits(0x7fff_ffff),
            code => from_ue8m0(code),
        })
        .collect();
    let input = device.upload(&got);
    let mut output = device.output::<f32>(plan.scales as usize);
    UnpackUe8m0::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, View::from(&input), output.view())
        .expect("launched");
    let what = format!("{shape:?}, {layout:?}: unpacked");
    let want = laid_out(&powers, shape, layout);
    same(&what, &output.read(&what, device), &want, want.len().max(1));
}

#[test]
fn every_word_and_back() {
    let device = Device::open();
    for layout in [ScaleLayout::RowMajor, ScaleLayout::MMajor] {
        for rows in [1, 7, 127, 128, 129] {
            for columns in [16, 128, 384, 512, 528, 1152] {
                check(&device, Shape::matrix(rows, columns), layout);
            }
        }
        let shape = Shape {
            slots: 3,
            rows: 130,
            columns: 784,
        };
        check(&device, shape, layout);
    }
}

#[test]
fn no_rows_launch_nothing() {
    let device = Device::open();
    check(&device, Shape::matrix(0, 128), ScaleLayout::MMajor);
    assert_eq!(device.context.launches(), []);
}
