//! Rounds in captured graphs: dispatch, the experts' GEMM, combine, with routing that changes from launch to launch.

use hadal::device::{Buffer, Stream};
use hadal::ep::EpError;
use hadal::ep::latency::{
    CombineInput, DispatchHandle, DispatchInput, LatencyBuffers, LatencyDesc, LatencyPlan, Output,
    Payload, Received, ReceivedRows, Rows,
};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
    Output as GemmOutput, Shape,
};
use half::bf16;

use crate::compare::same;
use crate::latency::model::{Case, Routing};
use crate::ranks::{context, on_ranks};

const REPLAYS: u64 = 100;

fn case() -> Case {
    Case {
        ranks: 2,
        experts: 5,
        topk: 3,
        hidden: 256,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        routing: Routing::Holes,
        tokens: vec![9, 9],
        rounds: REPLAYS,
        seed: 21,
        tight: false,
    }
}

/// One rank: its communicator, its experts' GEMM, and the device data of a layer.
struct Layer<'a> {
    case: &'a Case,
    rank: u32,
    stream: Stream,
    buffers: LatencyBuffers,
    gemm: Gemm,
    codes: Buffer<u8>,
    scales: Buffer<f32>,
    topk_idx: Buffer<i32>,
    weights: Buffer<f32>,
    b: Buffer<u8>,
    b_scales: Buffer<f32>,
    y: Buffer<bf16>,
    sums: Buffer<f32>,
}

impl<'a> Layer<'a> {
    fn new(case: &'a Case, side: &mut hadal::memory::Bootstrap) -> Self {
        let (rank, desc) = (side.rank(), case.desc());
        let context = context(rank);
        let stream = Stream::new(&context).unwrap();
        let plan = LatencyPlan::new(desc).unwrap();
        let (experts, hidden) = (desc.local_experts(rank), case.hidden);
        let gemm = GemmPlan::new(GemmDesc {
            form: Form::Masked {
                slot_rows: plan.max_rows,
                groups: experts,
                expected_rows: 4,
            },
            n: hidden,
            k: hidden,
            arithmetic: Arithmetic::E4M3_1D2D,
            output: GemmOutput::Bf16,
            sms: 8,
        });
        let weights = experts as usize * (hidden * hidden) as usize;
        // Finite codes of either sign, all over the small range.
        let codes = |at: usize| (at * 37 % 0x50) as u8 | ((at / 3 % 2) as u8) << 7;
        let b: Vec<u8> = (0..weights).map(codes).collect();
        let b_scales = vec![0.25; (experts * hidden / 128 * (hidden / 128)) as usize];
        let tokens = case.tokens(0, rank) * case.topk;
        let y = experts * plan.max_rows * hidden;
        Self {
            gemm: Gemm::new(&context, gemm.unwrap()).unwrap(),
            buffers: LatencyBuffers::new(&plan, side, &context).unwrap(),
            codes: Buffer::from_slice(&stream, &finite(case.rows(0, rank))).unwrap(),
            scales: Buffer::from_slice(&stream, &positive(case.scales(0, rank))).unwrap(),
            topk_idx: Buffer::zeroed(&stream, tokens as usize).unwrap(),
            weights: Buffer::zeroed(&stream, tokens as usize).unwrap(),
            b: Buffer::from_slice(&stream, &b).unwrap(),
            b_scales: Buffer::from_slice(&stream, &b_scales).unwrap(),
            y: Buffer::zeroed(&stream, y as usize).unwrap(),
            sums: Buffer::zeroed(&stream, (case.tokens(0, rank) * hidden) as usize).unwrap(),
            case,
            rank,
            stream,
        }
    }

    /// The routing and weights of a round.
    fn set(&mut self, round: u64) {
        let routing = self.case.routing(round, self.rank);
        self.topk_idx.copy_from(&self.stream, &routing).unwrap();
        let weights = self.case.weights(round, self.rank);
        self.weights.copy_from(&self.stream, &weights).unwrap();
    }

    /// Enqueues the layer.
    fn run(&mut self, stream: &Stream) -> Result<(), EpError> {
        let handle = self.dispatch(stream)?;
        self.experts(stream, handle.received(), handle.plan());
        let input = CombineInput {
            topk_idx: &self.topk_idx,
            weights: &self.weights,
        };
        handle.combine(stream, &self.y, &input, Output::F32(&mut self.sums))
    }

    fn dispatch(&self, stream: &Stream) -> Result<DispatchHandle, EpError> {
        let input = DispatchInput {
            first: 0,
            tokens: self.case.tokens(0, self.rank),
            rows: Rows::Fp8 {
                codes: &self.codes,
                scales: &self.scales,
            },
            topk_idx: &self.topk_idx,
        };
        self.buffers.dispatch(stream, &input)
    }

    fn experts(&mut self, stream: &Stream, received: &Received, plan: &LatencyPlan) {
        let ReceivedRows::Fp8(codes) = &received.rows else {
            panic!("the case is FP8");
        };
        let desc: &LatencyDesc = &plan.desc;
        let shape = |rows| Shape {
            slots: desc.local_experts(self.rank),
            rows,
            columns: desc.hidden,
        };
        let (rows, all) = (shape(plan.max_rows), shape(desc.hidden));
        let mut operands = Operands {
            a: Matrix::fp8_rows(Format::E4m3, codes, &received.scales, rows).unwrap(),
            b: Matrix::fp8_blocks(Format::E4m3, &self.b, &self.b_scales, all).unwrap(),
            groups: Groups::Counts((&received.counts).into()),
            d: MatrixMut::bf16(&mut self.y, rows).unwrap(),
        };
        self.gemm.run(stream, &mut operands).unwrap();
    }

    fn sums(&self) -> Vec<u32> {
        self.buffers.synchronize(&self.stream).unwrap();
        let sums = self.sums.to_vec(&self.stream).unwrap();
        sums.iter().map(|value| value.to_bits()).collect()
    }
}

/// Without NaN codes.
fn finite(codes: Vec<u8>) -> Vec<u8> {
    codes.into_iter().map(|code| code & 0xbf).collect()
}

/// Of the size of one.
fn positive(scales: Vec<f32>) -> Vec<f32> {
    let scale = |value: f32| f32::from_bits(value.to_bits() & 0x007f_ffff | 0x3f80_0000);
    scales.into_iter().map(scale).collect()
}

/// A graph launched with other routing each time gives the bits of calls, and calls go on beside it.
#[test]
fn a_layer_replays_with_changing_routing() {
    let case = case();
    on_ranks(case.ranks, |mut side| {
        let mut layer = Layer::new(&case, &mut side);
        let stream = Stream::new(layer.stream.context()).unwrap();
        let mut eager = Vec::new();
        for round in 0..REPLAYS {
            layer.set(round);
            layer.run(&stream).unwrap();
            stream.synchronize().unwrap();
            eager.push(layer.sums());
        }
        assert!(
            eager.windows(2).all(|pair| pair[0] != pair[1]),
            "routing changes nothing"
        );
        let graph = stream.capture(|stream| layer.run(stream)).unwrap();
        for round in 0..REPLAYS {
            layer.set(round);
            layer.sums.fill_bytes(&layer.stream, 0xff).unwrap();
            layer.stream.synchronize().unwrap();
            launch(&graph, &layer.stream);
            let place = format!("rank {}, replay {round}", layer.rank);
            same(&place, "sum", &layer.sums(), &eager[round as usize]);
            if round % 40 == 7 {
                layer.run(&stream).unwrap();
                stream.synchronize().unwrap();
                same(
                    &place,
                    "sum of a call",
                    &layer.sums(),
                    &eager[round as usize],
                );
            }
        }
    });
}

#[expect(unsafe_code, reason = "a graph's launch is its caller's contract")]
fn launch(graph: &hadal::device::Graph, stream: &Stream) {
    // SAFETY: the layer outlives its launches, which are waited for before anything else uses it.
    unsafe { graph.launch(stream) }.unwrap();
}

/// A captured round that is dropped leaves no trace; one that leaves its capture is refused.
#[test]
fn captured_rounds_stay_in_their_capture() {
    let case = case();
    on_ranks(case.ranks, |mut side| {
        let mut layer = Layer::new(&case, &mut side);
        layer.set(0);
        let stream = Stream::new(layer.stream.context()).unwrap();
        layer.stream.synchronize().unwrap();
        let captured = stream.capture(|stream| layer.dispatch(stream).map(drop));
        assert!(captured.is_ok(), "{captured:?}");
        let mut escaped = None;
        let captured = stream.capture(|stream| {
            escaped = Some(layer.dispatch(stream)?);
            Ok::<(), EpError>(())
        });
        assert!(captured.is_ok(), "{captured:?}");
        let refused = escaped
            .unwrap()
            .combine_begin(&stream, &layer.y)
            .unwrap_err();
        assert!(matches!(refused, EpError::Capture { .. }), "{refused}");
        layer.run(&stream).unwrap();
        stream.synchronize().unwrap();
        assert!(layer.sums().iter().any(|sum| *sum != 0));
    });
}
