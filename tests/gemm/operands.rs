//! Operands that do not fit are refused with the number and the rule; bound operands may change.

use hadal::device::Buffer;
use hadal::gemm::{
    Bf16Matrix, Form, Fp8Gemm, Fp8Matrix, Fp8Weights, GemmDesc, GemmPlan, Groups, Operands, Shape,
    View, ViewMut,
};
use half::bf16;

use crate::case::Device;

#[test]
fn operands_are_checked() {
    let device = Device::open();
    let codes: Buffer<u8> = device.upload(&[0; 5 * 256 + 16]);
    let scales: Buffer<f32> = device.upload(&[1.0; 32]);
    let a = |codes: View<'_, u8>, scales: View<'_, f32>, rows, k| {
        Fp8Matrix::new(codes, scales, Shape::matrix(rows, k))
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let view = View::from(&codes);
    let part = |range| view.slice(range).expect("inside");
    let lines = View::from(&scales);
    assert_eq!(a(view, lines, 5, 192), "K = 192 is not a multiple of 128");
    assert_eq!(
        a(view, lines, 5, 256),
        "codes of A: 1296 elements, expected 1280"
    );
    let error = a(part(8..1288), lines, 5, 256);
    assert!(
        error.starts_with("codes of A: address 0x") && error.ends_with("is not a multiple of 16")
    );
    assert_eq!(
        a(part(0..1280), lines, 5, 256),
        "scales of A: 32 elements, expected 16"
    );
    let stride = Fp8Matrix::with_scale_stride(part(0..1280), lines, Shape::matrix(5, 256), 10);
    assert_eq!(
        stride.unwrap_err().to_string(),
        "scale stride of A = 10 is not a multiple of 4"
    );
    let weights = Fp8Weights::new(view, lines, Shape::matrix(100, 256));
    assert_eq!(
        weights.unwrap_err().to_string(),
        "N = 100 is not a multiple of 128"
    );
    let outside = view.slice(0..2000).unwrap_err().to_string();
    assert_eq!(outside, "elements 0..2000 of a view of 1296");
    let mut d: Buffer<bf16> = device.upload(&[bf16::ZERO; 100]);
    let d = Bf16Matrix::new(ViewMut::from(&mut d), Shape::matrix(1, 128));
    assert_eq!(d.unwrap_err().to_string(), "D: 100 elements, expected 128");
}

/// Everything that a 4 × 128 × 128 product needs.
struct Small {
    device: Device,
    codes: Buffer<u8>,
    scales: Buffer<f32>,
    weights: Buffer<u8>,
    one: Buffer<f32>,
}

impl Small {
    fn new() -> Self {
        let device = Device::open();
        // 0x38 is 1.0.
        let codes = device.upload(&[0x38; 4 * 128]);
        let scales = device.upload(&[1.0, 2.0, 3.0, 4.0]);
        let weights = device.upload(&[0x38; 128 * 128]);
        let one = device.upload(&[1.0]);
        Self {
            device,
            codes,
            scales,
            weights,
            one,
        }
    }

    fn gemm(&self, form: Form) -> Fp8Gemm {
        let desc = GemmDesc {
            form,
            n: 128,
            k: 128,
            sms: 4,
        };
        let plan = GemmPlan::new(desc).expect("a plan");
        Fp8Gemm::new(&self.device.context, plan).expect("a kernel")
    }

    fn operands<'a>(&'a self, d: &'a mut Buffer<bf16>, groups: Groups<'a>) -> Operands<'a> {
        let square = Shape::matrix(128, 128);
        Operands {
            a: Fp8Matrix::new(&self.codes, &self.scales, Shape::matrix(4, 128)).expect("A"),
            b: Fp8Weights::new(&self.weights, &self.one, square).expect("B"),
            groups,
            d: Bf16Matrix::new(d, Shape::matrix(4, 128)).expect("D"),
        }
    }
}

#[test]
fn operands_must_fit_the_plan() {
    let small = Small::new();
    let mut d = small.device.upload(&[bf16::ZERO; 4 * 128]);
    let counts: Buffer<i32> = small.device.upload(&[4]);
    let error = |form, groups, d: &mut Buffer<bf16>| {
        let mut gemm = small.gemm(form);
        gemm.run(&small.device.stream, &mut small.operands(d, groups))
            .unwrap_err()
            .to_string()
    };
    let five = Form::Dense { rows: 5 };
    assert_eq!(
        error(five, Groups::None, &mut d),
        "rows of A = 4, but the plan has 5"
    );
    let dense = Form::Dense { rows: 4 };
    let given = Groups::Counts((&counts).into());
    let expected = "groups given as counts, but the plan's form is dense";
    assert_eq!(error(dense, given, &mut d), expected);
    let contiguous = Form::Contiguous { rows: 4, groups: 1 };
    let given = Groups::OfRows((&counts).into());
    assert_eq!(
        error(contiguous, given, &mut d),
        "groups: 1 elements, expected 4"
    );
}

/// The second call of a bound GEMM reuses its tensor maps; another output is not mistaken for it.
#[test]
fn bound_operands_may_change() {
    let small = Small::new();
    let stream = &small.device.stream;
    let mut gemm = small.gemm(Form::Dense { rows: 4 });
    let mut outputs: [Buffer<bf16>; 2] =
        std::array::from_fn(|_| small.device.upload(&[bf16::ZERO; 4 * 128]));
    for i in [0, 0, 1, 0] {
        outputs[i].fill_bytes(stream, 0xff).expect("filled");
        let mut operands = small.operands(&mut outputs[i], Groups::None);
        gemm.run(stream, &mut operands).expect("launched");
        let d = outputs[i].to_vec(stream).expect("executed");
        for (at, value) in d.iter().enumerate() {
            let expected = 128.0 * (1 + at / 128) as f32;
            assert_eq!(
                value.to_f32(),
                expected,
                "call on {i}, [{}, {}]",
                at / 128,
                at % 128
            );
        }
    }
}
