//! Calls that are captured into a graph, and operands that are dropped while a call runs.
#![expect(unsafe_code, reason = "a graph's launch is its caller's contract")]

use hadal::device::{Buffer, Stream};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmError, GemmPlan, Groups, Matrix, MatrixMut,
    Operands, Output, Shape,
};
use half::bf16;

use crate::device::Device;
use crate::problem::Random;

const ROWS: u32 = 70;
const N: u32 = 192;
const K: u32 = 384;

/// A masked problem of two slots in device memory.
struct Inputs {
    a: Buffer<u8>,
    b: Buffer<u8>,
    scales_a: Buffer<f32>,
    scales_b: Buffer<f32>,
    counts: Buffer<i32>,
}

impl Inputs {
    fn new(device: &Device, seed: u64, counts: [i32; 2]) -> Self {
        let mut random = Random(seed);
        let mut codes = |len: u32| {
            // Finite codes of either sign.
            let code = |random: &mut Random| (random.below(0x7f) | random.below(2) << 7) as u8;
            let codes: Vec<u8> = (0..len).map(|_| code(&mut random)).collect();
            device.upload(&codes)
        };
        let (a, b) = (codes(2 * ROWS * K), codes(2 * N * K));
        let mut scales = |len: u32| {
            let scales: Vec<f32> = (0..len)
                .map(|_| 1.0 + random.below(64) as f32 / 64.0)
                .collect();
            device.upload(&scales)
        };
        Self {
            a,
            b,
            scales_a: scales(2 * K / 128 * ROWS.next_multiple_of(4)),
            scales_b: scales(2 * N.div_ceil(128) * K / 128),
            counts: device.upload(&counts),
        }
    }

    fn run(&self, gemm: &mut Gemm, stream: &Stream, d: &mut Buffer<bf16>) -> Result<(), GemmError> {
        let shape = |rows, columns| Shape {
            slots: 2,
            rows,
            columns,
        };
        let (e4m3, a) = (Format::E4m3, shape(ROWS, K));
        let mut operands = Operands {
            a: Matrix::fp8_rows(e4m3, &self.a, &self.scales_a, a)?,
            b: Matrix::fp8_blocks(e4m3, &self.b, &self.scales_b, shape(N, K))?,
            groups: Groups::Counts((&self.counts).into()),
            d: MatrixMut::bf16(d, shape(ROWS, N))?,
        };
        gemm.run(stream, &mut operands)
    }
}

fn gemm(device: &Device) -> Gemm {
    let desc = GemmDesc {
        form: Form::Masked {
            slot_rows: ROWS,
            groups: 2,
            expected_rows: ROWS,
        },
        n: N,
        k: K,
        arithmetic: Arithmetic::E4M3_1D2D,
        output: Output::Bf16,
        sms: 8,
    };
    let plan = GemmPlan::new(desc).expect("a plan");
    Gemm::new(&device.context, plan).expect("a kernel")
}

/// D with every byte set.
fn output(device: &Device) -> Buffer<bf16> {
    let mut d = Buffer::alloc(&device.context, (2 * ROWS * N) as usize).expect("device memory");
    d.fill_bytes(&device.stream, 0xff).expect("filled");
    d
}

fn bits(device: &Device, d: &Buffer<bf16>) -> Vec<u32> {
    let values = d.to_vec(&device.stream).expect("executed");
    values.iter().map(|value| value.to_bits().into()).collect()
}

/// The first differing element of two outputs, if any.
fn assert_same(what: &str, found: &[u32], expected: &[u32]) {
    assert_eq!(found.len(), expected.len());
    let differ = (0..found.len()).find(|&at| found[at] != expected[at]);
    if let Some(at) = differ {
        let (row, column) = (at / N as usize, at % N as usize);
        let (found, expected) = (found[at], expected[at]);
        panic!("{what}: D[{row}, {column}] = {found:#06x}, expected {expected:#06x}");
    }
}

/// A captured call gives the bits of a direct one at every replay, and reads its groups at each.
#[test]
fn replays_equal_direct_calls() {
    let device = Device::open();
    let stream = &device.stream;
    let mut inputs = Inputs::new(&device, 5, [70, 33]);
    let mut gemm = gemm(&device);
    let mut direct = [[70, 33], [1, 70]].map(|counts| {
        inputs.counts = device.upload(&counts);
        let mut d = output(&device);
        inputs.run(&mut gemm, stream, &mut d).expect("launched");
        bits(&device, &d)
    });
    assert_ne!(direct[0], direct[1]);
    let mut d = output(&device);
    let graph = stream
        .capture(|stream| inputs.run(&mut gemm, stream, &mut d))
        .expect("captured");
    // The GEMM serves other calls while the graph lives.
    let others = Inputs::new(&device, 6, [2, 2]);
    let mut other = output(&device);
    others.run(&mut gemm, stream, &mut other).expect("launched");
    direct.reverse();
    for (replay, counts) in [[1, 70], [70, 33]].into_iter().enumerate() {
        d.fill_bytes(stream, 0xff).expect("filled");
        inputs.counts.copy_from(stream, &counts).expect("written");
        // SAFETY: inputs and D live until D has been read, and the stream orders their users.
        unsafe { graph.launch(stream) }.expect("launched");
        assert_same(
            &format!("replay {replay}"),
            &bits(&device, &d),
            &direct[replay],
        );
    }
    // Two in a row, on another stream than it was captured on.
    let second = Stream::new(&device.context).expect("a stream");
    for _ in 0..2 {
        // SAFETY: as above; the first stream is idle.
        unsafe { graph.launch(&second) }.expect("launched");
    }
    second.synchronize().expect("executed");
    assert_same("on another stream", &bits(&device, &d), &direct[1]);
    assert_eq!(device.context.take_deferred_errors(), []);
}

/// A call that fails inside a capture ends the capture: the stream works as before.
#[test]
fn an_error_ends_the_capture() {
    let device = Device::open();
    let inputs = Inputs::new(&device, 7, [3, 3]);
    let mut gemm = gemm(&device);
    let mut short = device.upload(&[bf16::ZERO; 16]);
    let result = device
        .stream
        .capture(|stream| inputs.run(&mut gemm, stream, &mut short));
    let error = result.map(|_| ()).expect_err("refused").to_string();
    assert_eq!(error, "D: 16 elements, expected 26880");
    let mut d = output(&device);
    inputs
        .run(&mut gemm, &device.stream, &mut d)
        .expect("launched");
    let bits = bits(&device, &d);
    assert!(bits[..3 * N as usize].iter().all(|&bits| bits != 0xffff));
    assert_eq!(device.context.take_deferred_errors(), []);
}

/// Operands may be dropped as soon as the call returns: freeing waits for the device.
#[test]
fn operands_dropped_right_after_the_call() {
    let device = Device::open();
    let mut gemm = gemm(&device);
    let mut expected = None;
    for round in 0..4 {
        let inputs = Inputs::new(&device, 8, [70, 70]);
        let mut d = output(&device);
        inputs
            .run(&mut gemm, &device.stream, &mut d)
            .expect("launched");
        drop(inputs);
        // What is allocated now may lie where the operands did.
        let mut reused: Vec<Buffer<u8>> = Vec::new();
        for len in [2 * ROWS * K, 2 * N * K, 4096, 4096, 4096] {
            let mut buffer = Buffer::alloc(&device.context, len as usize).expect("device memory");
            let other = Stream::new(&device.context).expect("a stream");
            buffer.fill_bytes(&other, 0x7f).expect("filled");
            reused.push(buffer);
        }
        let bits = bits(&device, &d);
        let expected = expected.get_or_insert_with(|| bits.clone());
        assert_same(&format!("round {round}"), &bits, expected);
        assert!(bits.iter().all(|&bits| bits != 0xffff), "round {round}");
    }
    assert_eq!(device.context.take_deferred_errors(), []);
}

/// D, the plan's kernel and the stream itself may go while the call is under way.
#[test]
fn everything_dropped_right_after_the_call() {
    let device = Device::open();
    let inputs = Inputs::new(&device, 9, [70, 70]);
    let mut gemm = gemm(&device);
    let mut d = output(&device);
    device.stream.synchronize().expect("executed");
    let stream = Stream::new(&device.context).expect("a stream");
    inputs.run(&mut gemm, &stream, &mut d).expect("launched");
    drop((stream, gemm, d, inputs));
    device.stream.synchronize().expect("the context works");
    assert_eq!(device.context.take_deferred_errors(), []);
}
