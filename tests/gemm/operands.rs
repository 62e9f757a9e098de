//! Operands that do not fit are refused with the number and the rule; bound operands may change.
#![expect(unsafe_code, reason = "a view of memory that is in use already")]

use hadal::device::Buffer;
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, OperandError,
    Operands, Output, Shape, Tile, View, ViewMut,
};
use half::bf16;

use crate::device::Device;

#[test]
fn operands_are_checked() {
    let device = Device::open();
    let codes: Buffer<u8> = device.upload(&[0; 5 * 256 + 16]);
    let scales: Buffer<f32> = device.upload(&[1.0; 32]);
    let error =
        |result: Result<Matrix<'_>, OperandError>| result.map(|_| ()).unwrap_err().to_string();
    let view = View::from(&codes);
    let part = |range| view.slice(range).expect("inside");
    let lines = View::from(&scales);
    let rows = |codes, scales, rows, k| {
        error(Matrix::fp8_rows(
            Format::E4m3,
            codes,
            scales,
            Shape::matrix(rows, k),
        ))
    };
    let sixteen = View::from(&scales).slice(0..16).expect("inside");
    assert_eq!(
        rows(view, sixteen, 5, 200),
        "columns = 200 is not a multiple of 16"
    );
    assert_eq!(
        rows(view, sixteen, 5, 256),
        "codes: 1296 elements, expected 1280"
    );
    let outside = view.slice(0..2000).unwrap_err().to_string();
    assert_eq!(outside, "elements 0..2000 of a view of 1296");
    let misaligned = rows(part(8..1288), sixteen, 5, 256);
    assert!(misaligned.starts_with("codes: address 0x"), "{misaligned}");
    assert!(
        misaligned.ends_with("is not a multiple of 16"),
        "{misaligned}"
    );
    assert_eq!(
        rows(part(0..1280), lines, 5, 256),
        "scales: 32 elements, expected 16"
    );
}

#[test]
fn scales_are_checked() {
    let device = Device::open();
    let codes: Buffer<u8> = device.upload(&[0; 5 * 256]);
    let scales: Buffer<f32> = device.upload(&[1.0; 32]);
    let (codes, lines) = (View::from(&codes), View::from(&scales));
    let sixteen = lines.slice(0..16).expect("inside");
    let error =
        |result: Result<Matrix<'_>, OperandError>| result.map(|_| ()).unwrap_err().to_string();
    let shape = Shape::matrix(5, 256);
    let stride = |stride| {
        error(Matrix::fp8_rows_with_stride(
            Format::E4m3,
            codes,
            lines,
            shape,
            stride,
        ))
    };
    assert_eq!(stride(10), "scale stride = 10 is not a multiple of 4");
    assert_eq!(stride(4), "scale stride = 4, expected 5 to 4294967295");
    assert_eq!(
        error(Matrix::fp8_blocks(Format::E4m3, codes, lines, shape)),
        "scales: 32 elements, expected 2"
    );
    assert_eq!(
        error(Matrix::fp8_channel(Format::E4m3, codes, lines, shape)),
        "scales: 32 elements, expected 5"
    );
    assert_eq!(
        error(Matrix::fp8_rows(Format::Bf16, codes, sixteen, shape)),
        "codes has BF16, expected E4M3 or E5M2"
    );
}

#[test]
fn outputs_are_checked() {
    let device = Device::open();
    let mut d: Buffer<bf16> = device.upload(&[bf16::ZERO; 100]);
    let d = MatrixMut::bf16(ViewMut::from(&mut d), Shape::matrix(1, 128));
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

    fn gemm(&self, form: Form) -> Gemm {
        let desc = GemmDesc {
            form,
            n: 128,
            k: 128,
            arithmetic: Arithmetic::E4M3_1D2D,
            output: Output::Bf16,
            sms: 4,
        };
        let plan = GemmPlan::new(desc).expect("a plan");
        Gemm::new(&self.device.context, plan).expect("a kernel")
    }

    fn operands<'a>(&'a self, d: &'a mut Buffer<bf16>, groups: Groups<'a>) -> Operands<'a> {
        let square = Shape::matrix(128, 128);
        Operands {
            a: Matrix::fp8_rows(
                Format::E4m3,
                &self.codes,
                &self.scales,
                Shape::matrix(4, 128),
            )
            .expect("A"),
            b: Matrix::fp8_blocks(Format::E4m3, &self.weights, &self.one, square).expect("B"),
            groups,
            d: MatrixMut::bf16(d, Shape::matrix(4, 128)).expect("D"),
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

/// Of a call's operands one is another than in the call before: only its maps are encoded again.
#[test]
fn each_operand_may_change_alone() {
    let device = Device::open();
    let stream = &device.stream;
    let (rows, square) = (Shape::matrix(4, 128), Shape::matrix(128, 128));
    let form = Form::Masked {
        slot_rows: 4,
        groups: 1,
        expected_rows: 4,
    };
    // 1.0 and 2.0.
    let codes = |len: usize| [0x38u8, 0x40].map(|code| device.upload(&vec![code; len]));
    let (a, b) = (codes(4 * 128), codes(128 * 128));
    let floats = |len: usize| [1.0f32, 3.0].map(|scale| device.upload(&vec![scale; len]));
    for channel in [false, true] {
        // Channel scales: one per row, or one in all.
        let (of_rows, of_b) = (floats(4), floats(if channel { 128 } else { 1 }));
        let counts = [4i32, 3].map(|count| device.upload(&[count]));
        let mut d: [Buffer<bf16>; 2] = [0; 2].map(|_| device.upload(&[bf16::ZERO; 4 * 128]));
        let arithmetic = match channel {
            true => Arithmetic::Fp8Channel { a: Format::E4m3 },
            false => Arithmetic::E4M3_1D2D,
        };
        let desc = GemmDesc {
            form,
            n: 128,
            k: 128,
            arithmetic,
            output: Output::Bf16,
            sms: 4,
        };
        let plan = GemmPlan::new(desc).expect("a plan");
        let mut gemm = Gemm::new(&device.context, plan).expect("a kernel");
        let all_in_one = View::from(&of_rows[1]).slice(0..1).expect("inside");
        // Bit i: operand i is the second one. Each call changes one bit; 32 is the scale's stride.
        let mut calls = vec![0usize, 1, 3, 7, 15, 31, 63, 62, 60, 56, 48, 32, 0];
        if channel {
            calls.extend([2, 66, 2, 66, 64 + 3]);
        }
        for chosen in calls {
            let bit = |i: usize| chosen >> i & 1;
            let scales = match chosen & 64 {
                0 => View::from(&of_rows[bit(1)]),
                _ => all_in_one,
            };
            let (codes, weights, of_b) = (&a[bit(0)], &b[bit(2)], &of_b[bit(3)]);
            let d = &mut d[bit(5)];
            d.fill_bytes(stream, 0).expect("filled");
            let sides = match channel {
                true => (
                    Matrix::fp8_channel(Format::E4m3, codes, scales, rows),
                    Matrix::fp8_channel(Format::E4m3, weights, of_b, square),
                ),
                false => (
                    Matrix::fp8_rows(Format::E4m3, codes, scales, rows),
                    Matrix::fp8_blocks(Format::E4m3, weights, of_b, square),
                ),
            };
            let mut operands = Operands {
                a: sides.0.expect("A"),
                b: sides.1.expect("B"),
                groups: Groups::Counts((&counts[bit(4)]).into()),
                d: MatrixMut::bf16(&mut *d, rows).expect("D"),
            };
            gemm.run(stream, &mut operands).expect("launched");
            let factors = [[1.0, 2.0][bit(0)], [1.0, 3.0][bit(1)], [1.0, 2.0][bit(2)]];
            let product = 128.0 * factors.iter().product::<f32>() * [1.0, 3.0][bit(3)];
            for (at, value) in d.to_vec(stream).expect("executed").iter().enumerate() {
                let (row, column) = (at / 128, at % 128);
                let expected = if row < 4 - bit(4) { product } else { 0.0 };
                let found = value.to_f32();
                assert_eq!(found, expected, "operands {chosen:#b}, D[{row}, {column}]");
            }
        }
    }
}

/// A row of D of 4 GiB: its length in bytes does not fit 32 bits. The group is empty, so none of
/// the memory needs to exist.
#[test]
fn rows_of_many_bytes() {
    let device = Device::open();
    let (n, k) = (1u32 << 30, 16);
    let form = Form::Masked {
        slot_rows: 1,
        groups: 1,
        expected_rows: 1,
    };
    let counts: Buffer<i32> = device.upload(&[0]);
    for (arithmetic, output) in [
        (Arithmetic::E4M3_1D2D, Output::F32),
        (Arithmetic::Bf16, Output::AddF32),
    ] {
        let desc = GemmDesc {
            form,
            n,
            k,
            arithmetic,
            output,
            sms: 1,
        };
        for tile in Tile::candidates(arithmetic, form) {
            let plan = GemmPlan::with_tile(desc, tile, [1, 1]).expect("a plan");
            let mut gemm = Gemm::new(&device.context, plan).expect("a kernel");
            let (a, b) = (Shape::matrix(1, k), Shape::matrix(n, k));
            let elements = |shape: Shape| shape.rows as usize * shape.columns as usize;
            let context = &device.context;
            let base = 1 << 40;
            // SAFETY: no element of any view is accessed: there is no row.
            let codes = |len| unsafe { View::<u8>::from_raw(context, base, len) };
            // SAFETY: as above.
            let values = |len| unsafe { View::<bf16>::from_raw(context, base, len) };
            // SAFETY: as above.
            let scales = |len| unsafe { View::<f32>::from_raw(context, base, len) };
            // SAFETY: as above.
            let d = unsafe { ViewMut::<f32>::from_raw(context, 1 << 44, n as usize) };
            let sides = match arithmetic {
                Arithmetic::Bf16 => (
                    Matrix::bf16(values(elements(a)), a),
                    Matrix::bf16(values(elements(b)), b),
                ),
                _ => (
                    Matrix::fp8_rows(Format::E4m3, codes(elements(a)), scales(4), a),
                    Matrix::fp8_blocks(Format::E4m3, codes(elements(b)), scales(1 << 23), b),
                ),
            };
            let mut operands = Operands {
                a: sides.0.expect("A"),
                b: sides.1.expect("B"),
                groups: Groups::Counts((&counts).into()),
                d: MatrixMut::f32(d, Shape::matrix(1, n)).expect("D"),
            };
            gemm.run(&device.stream, &mut operands).expect("launched");
            device.stream.synchronize().expect("executed");
        }
    }
}

/// What would read or write the wrong memory, or compute something else, is refused.
#[test]
fn kinds_and_overlaps_are_refused() {
    let small = Small::new();
    let stream = &small.device.stream;
    let mut gemm = small.gemm(Form::Dense { rows: 4 });
    let mut d = small.device.upload(&[bf16::ZERO; 4 * 128]);
    let mut wide = small.device.upload(&[0f32; 4 * 128]);
    let shape = Shape::matrix(4, 128);
    let mut error = |a: Option<Matrix<'_>>, b: Option<Matrix<'_>>| {
        let operands = small.operands(&mut d, Groups::None);
        let mut operands = Operands {
            a: a.unwrap_or(operands.a),
            b: b.unwrap_or(operands.b),
            ..operands
        };
        gemm.run(stream, &mut operands).unwrap_err().to_string()
    };
    let (codes, scales) = (&small.codes, &small.scales);
    let e5m2 = Matrix::fp8_rows(Format::E5m2, codes, scales, shape).expect("a matrix");
    assert_eq!(error(Some(e5m2), None), "A has E5M2, expected E4M3");
    let channel = Matrix::fp8_channel(Format::E4m3, codes, scales, shape).expect("a matrix");
    assert_eq!(
        error(Some(channel), None),
        "A has channel scales, expected scales per 1x128"
    );
    let rows = Matrix::fp8_rows(Format::E4m3, codes, scales, shape).expect("a matrix");
    assert_eq!(
        error(None, Some(rows)),
        "B has scales per 1x128, expected scales per 128x128"
    );
    let mut operands = small.operands(&mut d, Groups::None);
    operands.d = MatrixMut::f32(&mut wide, shape).expect("D");
    assert_eq!(
        gemm.run(stream, &mut operands).unwrap_err().to_string(),
        "D has F32, expected BF16"
    );
    let mut operands = small.operands(&mut d, Groups::None);
    let address = small.weights.address() + 16 * 128;
    // SAFETY: the call is refused before anything uses the view.
    let view = unsafe { ViewMut::from_raw(&small.device.context, address, 4 * 128) };
    operands.d = MatrixMut::bf16(view, shape).expect("D");
    let overlap = gemm.run(stream, &mut operands).unwrap_err().to_string();
    assert!(overlap.contains("overlaps B at 0x"), "{overlap}");
    assert_eq!(small.device.context.launches(), [], "nothing was launched");
}

#[test]
fn tiles_must_fit_the_problem() {
    let desc = GemmDesc {
        form: Form::Contiguous { rows: 4, groups: 1 },
        n: 128,
        k: 128,
        arithmetic: Arithmetic::E4M3_1D2D,
        output: Output::Bf16,
        sms: 1,
    };
    let tile = |name| {
        Tile::ALL
            .into_iter()
            .find(|tile| tile.kernel == name)
            .expect("a tile")
    };
    let error = |name, cluster| {
        GemmPlan::with_tile(desc, tile(name), cluster)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("gemm_1d2d_e4m3_64x128", [2, 1]),
        "gemm_1d2d_e4m3_64x128 in clusters of [2, 1] cannot compute the contiguous form on 1 SMs"
    );
    for (name, cluster) in [
        ("gemm_1d2d_e4m3_192x128", [1, 1]),
        ("gemm_1d2d_e4m3_swapped_16x64", [1, 2]),
        ("gemm_bf16_64x128", [1, 1]),
        ("gemm_1d2d_e4m3_64x128", [4, 1]),
    ] {
        assert!(error(name, cluster).starts_with(name), "{name}");
    }
}

/// Groups along K need scales along K of both operands.
#[test]
fn groups_along_k_have_1d1d_scales() {
    for arithmetic in [
        Arithmetic::E4M3_1D2D,
        Arithmetic::Fp8Block1d2d { a: Format::E5m2 },
        Arithmetic::Fp8Channel { a: Format::E4m3 },
        Arithmetic::Fp8Channel { a: Format::E5m2 },
        Arithmetic::Bf16,
    ] {
        let desc = GemmDesc {
            form: Form::KGrouped {
                rows: 128,
                groups: 2,
            },
            n: 128,
            k: 256,
            arithmetic,
            output: Output::F32,
            sms: 4,
        };
        let form = "K-grouped";
        let expected = OperandError::NoTile { arithmetic, form };
        assert_eq!(GemmPlan::new(desc), Err(expected));
        for tile in Tile::ALL {
            let error = GemmPlan::with_tile(desc, tile, [1, 1]).expect_err("not computed");
            assert!(
                matches!(error, OperandError::Cluster { .. }),
                "{}: {error}",
                tile.kernel
            );
        }
    }
}
