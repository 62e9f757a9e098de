//! The dense FP8 GEMM through the library, end to end.

use hadal::device::{Buffer, Stream};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
    Output, Shape,
};

use crate::{Figure, Host, Result, best};

/// E4M3 codes of finite numbers without a pattern.
fn codes(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let code = state.to_be_bytes()[0];
        // 0x7f and 0xff are NaN.
        if code & 0x7f == 0x7f { 0 } else { code }
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// 128x4096x7168.
pub(crate) fn dense(stream: &Stream, host: &Host) -> Result<Figure> {
    let (m, n, k) = (128u32, 4096u32, 7168u32);
    let (a, b, d) = (
        Shape::matrix(m, k),
        Shape::matrix(n, k),
        Shape::matrix(m, n),
    );
    let elements = |shape: Shape| shape.rows as usize * shape.columns as usize;
    let a_codes = Buffer::from_slice(stream, &codes(elements(a)))?;
    let a_scales = Buffer::from_slice(stream, &vec![1.0f32; (m * k / 128) as usize])?;
    let b_codes = Buffer::from_slice(stream, &codes(elements(b)))?;
    let b_scales = Buffer::from_slice(stream, &vec![1.0f32; (n / 128 * k / 128) as usize])?;
    let mut values = Buffer::zeroed(stream, elements(d))?;
    let sms = stream.context().multiprocessors()?;
    let desc = GemmDesc {
        form: Form::Dense { rows: m },
        n,
        k,
        arithmetic: Arithmetic::E4M3_1D2D,
        output: Output::Bf16,
        sms,
    };
    let mut gemm = Gemm::new(stream.context(), GemmPlan::new(desc)?)?;
    let time = best(|| {
        let mut operands = Operands {
            a: Matrix::fp8_rows(Format::E4m3, &a_codes, &a_scales, a)?,
            b: Matrix::fp8_blocks(Format::E4m3, &b_codes, &b_scales, b)?,
            groups: Groups::None,
            d: MatrixMut::bf16(&mut values, d)?,
        };
        gemm.run(stream, &mut operands)?;
        Ok(stream.synchronize()?)
    })?;
    let flops = 2.0 * f64::from(m) * f64::from(n) * f64::from(k);
    Ok(Figure {
        key: "wgmma_e4m3_gflops_per_core",
        value: flops / time.as_secs_f64() / 1e9,
        unit: "GFLOP/s/core",
        target: if host.vector_width >= 512 { 30.0 } else { 20.0 },
        time,
    })
}
