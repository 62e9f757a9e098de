//! The calls of a steady state allocate no host memory, whether their operands are the last call's or
//! others: every form of the GEMM, the quantisations, and a bare launch.
//!
//! Allocations are counted per thread, so that neither the test harness's threads nor those of a
//! software GPU matter (which has an allocator of its own anyway). A driver's own are not counted.
#![expect(
    unsafe_code,
    reason = "the counting allocator; a kernel is launched without a wrapper"
)]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use bytemuck::Pod;
use hadal::device::{Buffer, Context, LaunchConfig, Stream};
use hadal::gemm::{
    Arithmetic, BLOCK, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
    Output, Shape, ViewMut, scale_stride,
};
use hadal::moe::{SwigluDesc, SwigluFormat, SwigluOperands, SwigluOutput};
use hadal::params::FillParams;
use hadal::quant::{
    Dequantise, DequantiseDesc, DequantisePlan, Quantise1x128, Quantise1x128Desc,
    Quantise1x128Plan, Quantise128x128, Quantise128x128Desc, Quantise128x128Plan, ScaleLayout,
    Scaling, TransposeQuantise, TransposeQuantiseDesc, TransposeQuantiseOperands,
    TransposeQuantisePlan,
};
use hadal::transfer::fill_words;
use half::bf16;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn note() {
        COUNT.with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: everything is the system's allocator; the counter neither allocates nor needs a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note();
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note();
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note();
        // SAFETY: the caller's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of this thread in `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(
        allocations(|| drop(std::hint::black_box(Box::new(1u64)))),
        1
    );
    assert_eq!(allocations(|| ()), 0);
}

fn open() -> (Arc<Context>, Stream) {
    let context = Context::new(0).expect("a device");
    let stream = Stream::new(&context).expect("a stream");
    (context, stream)
}

/// A, B, their scales, groups and D of one call.
struct Memory {
    a: Buffer<u8>,
    b: Buffer<u8>,
    scales_a: Buffer<f32>,
    scales_b: Buffer<f32>,
    groups: Buffer<i32>,
    d: Buffer<f32>,
}

fn shapes(desc: &GemmDesc) -> [Shape; 3] {
    let GemmDesc { form, n, k, .. } = *desc;
    let shape = |slots, rows, columns| Shape {
        slots,
        rows,
        columns,
    };
    [
        shape(form.a_slots(), form.rows(), k),
        shape(form.b_slots(), n, k),
        shape(form.d_slots(), form.rows(), n),
    ]
}

impl Memory {
    fn new(stream: &Stream, desc: &GemmDesc, groups: &[i32]) -> Self {
        let [a, b, d] = shapes(desc);
        let zeros = |shape: Shape| shape.slots as usize * (shape.rows * shape.columns) as usize;
        let lines = |shape: Shape| {
            (shape.slots * shape.columns / BLOCK * scale_stride(shape.rows)) as usize
        };
        let blocks = (b.slots * b.rows / BLOCK * b.columns / BLOCK) as usize;
        let one_per_row = matches!(desc.arithmetic, Arithmetic::Fp8Block1d1d { .. });
        Self {
            a: buffer(stream, zeros(a)),
            b: buffer(stream, zeros(b)),
            scales_a: buffer(stream, lines(a)),
            scales_b: buffer(stream, if one_per_row { lines(b) } else { blocks }),
            groups: Buffer::from_slice(stream, groups).expect("device memory"),
            d: buffer(stream, zeros(d)),
        }
    }

    fn run(&mut self, gemm: &mut Gemm, stream: &Stream) {
        let desc = gemm.plan().desc;
        let [a, b, d] = shapes(&desc);
        let groups = (&self.groups).into();
        let mut operands = Operands {
            a: Matrix::fp8_rows(Format::E4m3, &self.a, &self.scales_a, a).unwrap(),
            b: match desc.arithmetic {
                Arithmetic::Fp8Block1d1d { .. } => {
                    Matrix::fp8_rows(Format::E4m3, &self.b, &self.scales_b, b)
                }
                _ => Matrix::fp8_blocks(Format::E4m3, &self.b, &self.scales_b, b),
            }
            .unwrap(),
            groups: match desc.form {
                Form::Contiguous { .. } => Groups::OfRows(groups),
                Form::Masked { .. } => Groups::Counts(groups),
                Form::Offsets { .. } | Form::KGrouped { .. } => Groups::Offsets(groups),
                _ => Groups::None,
            },
            d: MatrixMut::f32(&mut self.d, d).unwrap(),
        };
        gemm.run(stream, &mut operands).expect("launched");
    }
}

fn buffer<T: Pod>(stream: &Stream, len: usize) -> Buffer<T> {
    Buffer::zeroed(stream, len).expect("device memory")
}

/// Planning, then calls on the same operands, on others, and back.
fn check_form(form: Form, arithmetic: Arithmetic, groups: &[i32]) {
    let (context, stream) = open();
    let desc = GemmDesc {
        form,
        n: 128,
        k: 256,
        arithmetic,
        output: Output::F32,
        sms: 4,
    };
    assert_eq!(
        allocations(|| drop(GemmPlan::new(desc))),
        0,
        "{form:?}: a plan"
    );
    let plan = GemmPlan::new(desc).expect("a plan");
    let mut gemm = Gemm::new(&context, plan).expect("a kernel");
    let mut memory = [0; 3].map(|_| Memory::new(&stream, &desc, groups));
    // The first launch of a kernel may set the kernel up.
    memory[0].run(&mut gemm, &stream);
    let order = [0, 0, 1, 2, 2, 0, 1];
    for (call, at) in order.into_iter().enumerate() {
        let count = allocations(|| memory[at].run(&mut gemm, &stream));
        assert_eq!(count, 0, "{form:?}: call {call}, with operands {at}");
    }
    stream.synchronize().expect("executed");
    let launches = context.launches();
    let expected = [(plan.tile.kernel, order.len() as u64 + 1)];
    assert_eq!(launches, expected, "every call launches");
}

#[test]
fn every_form_of_the_gemm() {
    let block = Arithmetic::E4M3_1D2D;
    let rows = 130;
    check_form(Form::Dense { rows }, block, &[0]);
    check_form(Form::Batched { rows, batch: 2 }, block, &[0]);
    let of_rows: Vec<i32> = (0..130).map(|row| row / 128).collect();
    check_form(Form::Contiguous { rows, groups: 2 }, block, &of_rows);
    check_form(Form::Offsets { rows, groups: 2 }, block, &[0, 60, 130]);
    let masked = Form::Masked {
        slot_rows: rows,
        groups: 2,
        expected_rows: 8,
    };
    check_form(masked, block, &[130, 1]);
    let vector = Arithmetic::Fp8Block1d1d { a: Format::E4m3 };
    check_form(Form::KGrouped { rows, groups: 2 }, vector, &[0, 128, 256]);
}

#[test]
fn quantisations() {
    let (context, stream) = open();
    let (rows, columns) = (5u32, 256u32);
    let elements = (rows * columns) as usize;
    for layout in [ScaleLayout::RowMajor, ScaleLayout::MMajor] {
        let desc = Quantise1x128Desc {
            shape: Shape::matrix(rows, columns),
            format: Format::E4m3,
            layout,
            scaling: Scaling::Exact,
            sms: 2,
        };
        let plan = Quantise1x128Plan::new(desc).expect("a plan");
        let quantise = Quantise1x128::new(&context, plan).expect("a kernel");
        let mut memory = [0; 2].map(|_| {
            (
                buffer::<bf16>(&stream, elements),
                buffer::<u8>(&stream, elements),
                buffer::<f32>(&stream, usize::try_from(plan.scales).unwrap()),
            )
        });
        for (call, at) in [0, 0, 1, 0, 1].into_iter().enumerate() {
            let (input, codes, scales) = &mut memory[at];
            let run = || {
                let (input, codes, scales) = ((&*input).into(), codes.into(), scales.into());
                quantise
                    .run(&stream, input, codes, scales)
                    .expect("launched");
            };
            let count = allocations(run);
            assert!(count == 0 || call == 0, "{layout:?}: call {call}: {count}");
        }
    }
    stream.synchronize().expect("executed");
}

/// Two calls, of which the second must not allocate.
fn check_second(what: &str, mut call: impl FnMut()) {
    call();
    assert_eq!(allocations(&mut call), 0, "{what}");
}

#[test]
fn companions_of_the_gemm() {
    let (context, stream) = open();
    let shape = Shape::matrix(8, 128);
    let mut values = buffer::<bf16>(&stream, 1024);
    let (mut codes, mut scales) = (buffer::<u8>(&stream, 1024), buffer::<f32>(&stream, 8));
    let desc = Quantise128x128Desc {
        shape,
        format: Format::E4m3,
        scaling: Scaling::Exact,
        sms: 2,
    };
    let plan = Quantise128x128Plan::new(desc).expect("a plan");
    let quantise = Quantise128x128::new(&context, plan).expect("a kernel");
    check_second("quantise_128x128", || {
        let scale = ViewMut::from(&mut scales).slice(0..1).expect("inside");
        let result = quantise.run(&stream, (&values).into(), (&mut codes).into(), scale);
        result.expect("launched");
    });
    let plan = DequantisePlan::new(DequantiseDesc { shape, sms: 2 }).expect("a plan");
    let dequantise = Dequantise::new(&context, plan).expect("a kernel");
    check_second("dequantise", || {
        let input = Matrix::fp8_rows(Format::E4m3, &codes, &scales, shape).expect("an input");
        let mut output = MatrixMut::bf16(&mut values, shape).expect("an output");
        let result = dequantise.run(&stream, &input, &mut output);
        result.expect("launched");
    });
    let offsets = Buffer::from_slice(&stream, &[0, 8]).expect("device memory");
    let padded = Buffer::from_slice(&stream, &[0, 128]).expect("device memory");
    let desc = TransposeQuantiseDesc {
        rows: 8,
        columns: 128,
        groups: 1,
        input: Format::Bf16,
        format: Format::E4m3,
        scaling: Scaling::Exact,
        sms: 2,
    };
    let plan = TransposeQuantisePlan::new(desc).expect("a plan");
    let transpose = TransposeQuantise::new(&context, plan).expect("a kernel");
    let (mut codes, mut scales) = (buffer(&stream, 128 * 128), buffer(&stream, 128));
    check_second("transpose_quantise", || {
        let operands = TransposeQuantiseOperands {
            input: Matrix::bf16(&values, shape).expect("an input"),
            offsets: (&offsets).into(),
            padded: (&padded).into(),
            codes: (&mut codes).into(),
            scales: (&mut scales).into(),
        };
        transpose.run(&stream, operands).expect("launched");
    });
    stream.synchronize().expect("executed");
}

#[test]
fn swiglu_with_quantisation() {
    let (_, stream) = open();
    let (rows, intermediate) = (4, 128);
    let desc = SwigluDesc {
        groups: 1,
        rows,
        intermediate,
        limit: None,
        format: SwigluFormat::Fp8 {
            scale_stride: rows,
            scaling: Scaling::Exact,
        },
    };
    let plan = desc.plan().expect("a plan");
    let gate_up = buffer::<bf16>(&stream, 2 * rows * intermediate);
    let mut memory = [0; 2].map(|_| {
        (
            buffer::<u8>(&stream, rows * intermediate),
            buffer::<f32>(&stream, rows),
        )
    });
    for (call, at) in [0, 0, 1, 0].into_iter().enumerate() {
        let (codes, scales) = &mut memory[at];
        let operands = SwigluOperands {
            gate_up: &gate_up,
            counts: None,
            output: SwigluOutput::Fp8 { codes, scales },
        };
        let count = allocations(|| plan.run(&stream, operands).expect("launched"));
        assert!(count == 0 || call == 0, "call {call}: {count}");
    }
    stream.synchronize().expect("executed");
}

#[test]
fn launches() {
    let (context, stream) = open();
    let mut words = buffer::<u32>(&stream, 512);
    fill_words(&stream, &mut words, 1).expect("launched");
    let count = allocations(|| fill_words(&stream, &mut words, 2).expect("launched"));
    assert_eq!(count, 0, "fill_words");
    let kernel = context.kernel("fill_words").expect("a kernel");
    let config = LaunchConfig::new(&kernel, [2, 1, 1]);
    let with_attributes = LaunchConfig {
        pdl: true,
        cluster: [2, 1, 1],
        ..config
    };
    for (value, config) in [(3, config), (4, with_attributes)] {
        let params = FillParams {
            destination: words.address(),
            count: 512,
            value,
            reserved: 0,
        };
        // SAFETY: the range is the buffer, which is read after the stream is past the launch.
        let launch = || unsafe { stream.launch(&kernel, &config, &params) }.expect("launched");
        assert_eq!(allocations(launch), 0, "{config:?}");
        assert_eq!(words.to_vec(&stream).expect("executed"), [value; 512]);
    }
}
