use hadal::gemm::{Shape, View};
use hadal::quant::{ScaleLayout, TransposeScales, TransposeScalesDesc, TransposeScalesPlan};

use crate::harness::{Device, laid_out, same};

/// Distinct bits, NaN among them; all are copied as they are.
fn scales(len: usize) -> Vec<f32> {
    let bits = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) ^ 0x1234_5678;
    (0..len).map(|i| f32::from_bits(bits(i))).collect()
}

fn check(device: &Device, shape: Shape, from: ScaleLayout) {
    let to = match from {
        ScaleLayout::RowMajor => ScaleLayout::MMajor,
        ScaleLayout::MMajor => ScaleLayout::RowMajor,
    };
    let blocks = shape.columns.div_ceil(128);
    let scales = scales((shape.slots * shape.rows * blocks) as usize);
    let plan = TransposeScalesPlan::new(TransposeScalesDesc {
        shape,
        from,
        sms: 1,
    });
    let plan = plan.expect("a plan");
    let input = device.upload(&laid_out(&scales, shape, from));
    let mut output = device.output::<f32>(plan.output as usize);
    TransposeScales::new(&device.context, plan)
        .expect("a kernel")
        .run(&device.stream, View::from(&input), output.view())
        .expect("launched");
    let what = format!("{shape:?} from {from:?}");
    let want = laid_out(&scales, shape, to);
    same(&what, &output.read(&what, device), &want, want.len().max(1));
}

#[test]
fn both_ways() {
    let device = Device::open();
    for from in [ScaleLayout::RowMajor, ScaleLayout::MMajor] {
        for rows in [1, 7, 31, 33, 127, 128, 129] {
            for columns in [16, 128, 144, 7168] {
                check(&device, Shape::matrix(rows, columns), from);
            }
        }
        let shape = Shape {
            slots: 3,
            rows: 35,
            columns: 4352,
        };
        check(&device, shape, from);
    }
}

#[test]
fn no_rows_launch_nothing() {
    let device = Device::open();
    check(&device, Shape::matrix(0, 128), ScaleLayout::RowMajor);
    check(&device, Shape::matrix(0, 128), ScaleLayout::MMajor);
    assert_eq!(device.context.launches(), []);
}
