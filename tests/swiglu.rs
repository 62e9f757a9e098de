//! SwiGLU against its f64 oracle: both formats, limits, counts, rows that are not in use, and values that are no numbers.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data: values are small, and a failure is a failed test"
)]

use std::sync::{Arc, OnceLock};

use hadal::device::{Buffer, Context, Stream};
use hadal::moe::{MoeError, SwigluDesc, SwigluFormat, SwigluOperands, SwigluOutput};
use hadal::quant::Scaling;
use hadal_reference::quantise::{CodeCheck, check_row};
use hadal_reference::swiglu::swiglu_row;
use half::bf16;
use proptest::prelude::*;

/// What outputs hold before a call.
const UNTOUCHED: u16 = 0x4a5b;

/// The device's exponential and quotient are off by a few FP32 ulps.
const RELATIVE: f64 = 1e-6;

fn context() -> Arc<Context> {
    static CONTEXT: OnceLock<Arc<Context>> = OnceLock::new();
    Arc::clone(CONTEXT.get_or_init(|| Context::new(0).unwrap()))
}

/// A call and what it left.
struct Call {
    desc: SwigluDesc,
    counts: Option<Vec<i32>>,
    gate_up: Vec<bf16>,
}

impl Call {
    fn new(desc: SwigluDesc, counts: Option<Vec<i32>>, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bf16::from_f32(((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 12.0)
        };
        let gate_up = (0..desc.groups * desc.rows * 2 * desc.intermediate)
            .map(|_| draw())
            .collect();
        Self {
            desc,
            counts,
            gate_up,
        }
    }

    fn used(&self, group: usize) -> usize {
        self.counts.as_ref().map_or(self.desc.rows, |counts| {
            usize::try_from(counts[group])
                .unwrap_or(0)
                .min(self.desc.rows)
        })
    }

    /// The exact row, for a row in use.
    fn exact(&self, group: usize, row: usize) -> Option<Vec<f64>> {
        let width = 2 * self.desc.intermediate;
        let values = &self.gate_up[(group * self.desc.rows + row) * width..][..width];
        let values: Vec<f64> = values.iter().map(|v| v.to_f64()).collect();
        let limit = self.desc.limit.map_or(f64::INFINITY, f64::from);
        (row < self.used(group)).then(|| swiglu_row(&values, limit))
    }

    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let SwigluDesc { groups, rows, .. } = self.desc;
        (0..groups).flat_map(move |group| (0..rows).map(move |row| (group, row)))
    }

    fn run_bf16(&self) -> Vec<bf16> {
        let stream = Stream::new(&context()).unwrap();
        let before = vec![bf16::from_bits(UNTOUCHED); self.gate_up.len() / 2];
        let mut output = Buffer::from_slice(&stream, &before).unwrap();
        self.launch(&stream, SwigluOutput::Bf16(&mut output));
        output.to_vec(&stream).unwrap()
    }

    fn run_fp8(&self, scales: usize) -> (Vec<u8>, Vec<f32>) {
        let stream = Stream::new(&context()).unwrap();
        let mut codes =
            Buffer::from_slice(&stream, &vec![UNTOUCHED as u8; self.gate_up.len() / 2]).unwrap();
        let mut scales = Buffer::from_slice(&stream, &vec![f32::MIN; scales]).unwrap();
        self.launch(
            &stream,
            SwigluOutput::Fp8 {
                codes: &mut codes,
                scales: &mut scales,
            },
        );
        (
            codes.to_vec(&stream).unwrap(),
            scales.to_vec(&stream).unwrap(),
        )
    }

    fn launch(&self, stream: &Stream, output: SwigluOutput<'_>) {
        let gate_up = Buffer::from_slice(stream, &self.gate_up).unwrap();
        let counts = self
            .counts
            .as_ref()
            .map(|counts| Buffer::from_slice(stream, counts).unwrap());
        let operands = SwigluOperands {
            gate_up: &gate_up,
            counts: counts.as_ref().map(Into::into),
            output,
        };
        self.desc.plan().unwrap().run(stream, operands).unwrap();
    }

    fn check_bf16(&self) -> Result<(), TestCaseError> {
        let got = self.run_bf16();
        let columns = self.desc.intermediate;
        for (group, row) in self.rows() {
            let got = &got[(group * self.desc.rows + row) * columns..][..columns];
            let Some(exact) = self.exact(group, row) else {
                prop_assert!(
                    got.iter().all(|v| v.to_bits() == UNTOUCHED),
                    "group {group}, row {row}: not in use"
                );
                continue;
            };
            for (column, (&got, exact)) in got.iter().zip(exact).enumerate() {
                let right = [1.0 - RELATIVE, 1.0, 1.0 + RELATIVE]
                    .map(|f| bf16::from_f64(exact * f).to_bits());
                prop_assert!(
                    right.contains(&got.to_bits()),
                    "[{group}, {row}, {column}]: {got}, expected {exact}"
                );
            }
        }
        Ok(())
    }

    fn check_fp8(&self, scale_stride: usize) -> Result<(), TestCaseError> {
        let columns = self.desc.intermediate;
        let blocks = columns / 128;
        let (codes, scales) = self.run_fp8(self.desc.groups * blocks * scale_stride);
        let mut check = CodeCheck::default();
        for (group, row) in self.rows() {
            let at = group * self.desc.rows + row;
            let codes = &codes[at * columns..][..columns];
            let of_row = |block: usize| scales[(group * blocks + block) * scale_stride + row];
            let scales: Vec<f32> = (0..blocks).map(of_row).collect();
            match self.exact(group, row) {
                Some(exact) => check_row(&mut check, at, &exact, codes, &scales),
                None => {
                    let kept = codes.iter().all(|&c| c == UNTOUCHED as u8)
                        && scales.iter().all(|&s| s == f32::MIN);
                    prop_assert!(kept, "group {group}, row {row}: not in use");
                }
            }
        }
        prop_assert!(
            check.first_mismatch.is_none(),
            "{}",
            check.first_mismatch.unwrap()
        );
        Ok(())
    }
}

const BF16: SwigluDesc = SwigluDesc {
    groups: 1,
    rows: 5,
    intermediate: 132,
    limit: None,
    format: SwigluFormat::Bf16,
};

const fn fp8(scale_stride: usize, scaling: Scaling) -> SwigluFormat {
    SwigluFormat::Fp8 {
        scale_stride,
        scaling,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_is_right_and_only_rows_in_use_are_written(
        (groups, rows, quads) in (1usize..4, 0usize..20, 1usize..80),
        limit in prop::option::of(0.5f32..10.0),
        counts in prop::option::of(prop::array::uniform4(-1i32..25)),
        seed: u64,
    ) {
        let counts = counts.map(|counts| counts[..groups].to_vec());
        let desc = SwigluDesc { groups, rows, intermediate: 4 * quads, limit, format: SwigluFormat::Bf16 };
        Call::new(desc, counts.clone(), seed).check_bf16()?;
        let stride = rows.next_multiple_of(4);
        let intermediate = quads.div_ceil(32) * 128;
        let desc = SwigluDesc { intermediate, format: fp8(stride, Scaling::Exact), ..desc };
        Call::new(desc, counts, seed).check_fp8(stride)?;
    }
}

#[test]
fn scales_are_powers_of_two_on_request() {
    let desc = SwigluDesc {
        intermediate: 256,
        format: fp8(5, Scaling::PowerOfTwo),
        ..BF16
    };
    let exact = SwigluDesc {
        format: fp8(5, Scaling::Exact),
        ..desc
    };
    let (_, scales) = Call::new(desc, None, 3).run_fp8(10);
    let (_, wanted) = Call::new(exact, None, 3).run_fp8(10);
    for (&scale, wanted) in scales.iter().zip(wanted) {
        assert_eq!(f64::from(scale), f64::from(wanted).log2().ceil().exp2());
    }
}

#[test]
fn a_nan_stays_one_and_infinities_meet_the_limit() {
    let desc = SwigluDesc {
        rows: 1,
        intermediate: 4,
        limit: Some(7.0),
        ..BF16
    };
    let mut call = Call::new(desc, None, 1);
    let (nan, large) = (bf16::NAN, bf16::INFINITY);
    let one = bf16::ONE;
    call.gate_up = vec![nan, one, large, one, one, nan, one, -large];
    let output = call.run_bf16();
    assert!(output[0].is_nan() && output[1].is_nan());
    let seven = bf16::from_f64(7.0 / (1.0 + (-7f64).exp()));
    let minus = bf16::from_f64(-7.0 / (1.0 + (-1f64).exp()));
    assert_eq!(output[2..], [seven, minus]);
}

#[test]
fn what_does_not_fit_is_refused_before_a_launch() {
    let context = context();
    let stream = Stream::new(&context).unwrap();
    let plan = BF16.plan().unwrap();
    let gate_up = Buffer::alloc(&context, 2 * 5 * 132).unwrap();
    let mut codes = Buffer::alloc(&context, 5 * 132).unwrap();
    let mut scales = Buffer::alloc(&context, 10).unwrap();
    let launches = context.launches().len();
    let output = SwigluOutput::Fp8 {
        codes: &mut codes,
        scales: &mut scales,
    };
    let refused = plan.run(
        &stream,
        SwigluOperands {
            gate_up: &gate_up,
            counts: None,
            output,
        },
    );
    assert!(matches!(
        refused,
        Err(MoeError::Format {
            found: "FP8",
            expected: "BF16",
            ..
        })
    ));
    let mut short = Buffer::alloc(&context, 5 * 132 - 1).unwrap();
    let output = SwigluOutput::Bf16(&mut short);
    let refused = plan.run(
        &stream,
        SwigluOperands {
            gate_up: &gate_up,
            counts: None,
            output,
        },
    );
    assert!(matches!(
        refused,
        Err(MoeError::Operand {
            what: "output",
            found: 659,
            ..
        })
    ));
    assert_eq!(context.launches().len(), launches);
}
