//! One round of either mode, counted phase by phase.

use std::sync::{Barrier, Mutex, PoisonError};
use std::time::Duration;

use hadal::device::{Buffer, Context, Stream};
use hadal::ep::{latency, throughput};
use hadal::memory::Bootstrap;
use half::bf16;

use crate::Result;
use crate::wire::{self, Counted};

pub(crate) const RANKS: u32 = 8;
pub(crate) const TOKENS: u32 = 128;
pub(crate) const HIDDEN: u32 = 7168;
const EXPERTS: u32 = 256;
const TOPK: u32 = 8;
/// Rows of an expert in latency mode; the mean is 32.
const MAX_ROWS: u32 = 128;
/// The software GPU is slow.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Throughput,
    Latency,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
        }
    }

    /// Bytes of the counts that cross in a phase: in throughput mode every rank tells every other one its
    /// entries of each expert and its rows for each rank.
    pub(crate) const fn count_bytes(self, phase: usize) -> u64 {
        match self {
            Self::Throughput if phase == 0 => {
                (RANKS * (RANKS - 1)) as u64 * (EXPERTS + RANKS) as u64 * 4
            }
            _ => 0,
        }
    }
}

/// Both phases of one round.
pub(crate) struct Phases {
    pub(crate) phases: [Counted; 2],
}

/// Payload and scales of a row: FP8 in dispatch, BF16 in combine.
pub(crate) fn unit_bytes(phase: usize, hidden: u32) -> u64 {
    match phase {
        0 => u64::from(hidden) + u64::from(hidden.div_ceil(128)) * 4,
        _ => u64::from(hidden) * 2,
    }
}

/// `[tokens][TOPK]`: different experts, drawn evenly.
fn routing(rank: u32, tokens: u32) -> Vec<i32> {
    let mut state = u64::from(rank) + 1;
    let mut draw = move |limit: u32| {
        // Knuth's MMIX generator; the high bits are good.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32 % limit
    };
    let mut all = Vec::new();
    for _ in 0..tokens {
        let mut left: Vec<u32> = (0..EXPERTS).collect();
        for k in 0..TOPK {
            all.push(left.swap_remove(draw(EXPERTS - k) as usize).cast_signed());
        }
    }
    all
}

/// Different (token, other rank) of all tokens: how often a row has to cross at least.
pub(crate) fn pairs() -> u64 {
    let owner = |expert: i32| expert.cast_unsigned() / (EXPERTS / RANKS);
    let of_rank = |rank: u32| {
        let entries = routing(rank, TOKENS);
        let of_token = |chosen: &[i32]| {
            let mut ranks: Vec<u32> = chosen.iter().map(|expert| owner(*expert)).collect();
            ranks.sort_unstable();
            ranks.dedup();
            ranks.iter().filter(|to| **to != rank).count() as u64
        };
        entries.chunks(TOPK as usize).map(of_token).sum::<u64>()
    };
    (0..RANKS).map(of_rank).sum()
}

/// Runs a round on all ranks, which are threads.
pub(crate) fn run(mode: Mode, hidden: u32, tokens: u32) -> Result<Phases> {
    let count = Count {
        barrier: Barrier::new(RANKS as usize),
        phases: Mutex::new(Vec::new()),
    };
    let sides = Bootstrap::in_process(RANKS)?;
    std::thread::scope(|scope| {
        for mut side in sides {
            let count = &count;
            scope.spawn(move || {
                let done = match mode {
                    Mode::Throughput => throughput_round(&mut side, hidden, tokens, count),
                    Mode::Latency => latency_round(&mut side, hidden, tokens, count),
                };
                if let Err(error) = done {
                    // The others wait for this rank at the barrier.
                    eprintln!("error: {} mode, rank {}: {error}", mode.name(), side.rank());
                    std::process::exit(2);
                }
            });
        }
    });
    let phases = count
        .phases
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let phases = <[Counted; 2]>::try_from(phases).map_err(|_| "a round has two phases")?;
    Ok(Phases { phases })
}

/// Counts what lies between barriers of all ranks.
struct Count {
    barrier: Barrier,
    phases: Mutex<Vec<Counted>>,
}

impl Count {
    fn phase<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.barrier.wait().is_leader() {
            wire::begin()?;
        }
        self.barrier.wait();
        let result = run()?;
        if self.barrier.wait().is_leader() {
            let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
            phases.push(wire::end()?);
        }
        self.barrier.wait();
        Ok(result)
    }
}

/// Device data of a rank.
struct Data {
    stream: Stream,
    codes: Buffer<u8>,
    scales: Buffer<f32>,
    topk_idx: Buffer<i32>,
    weights: Buffer<f32>,
    sums: Buffer<f32>,
}

impl Data {
    fn new(stream: Stream, rank: u32, hidden: u32, tokens: u32) -> Result<Self> {
        let len = |columns: u32| (tokens * columns) as usize;
        Ok(Self {
            codes: Buffer::zeroed(&stream, len(hidden))?,
            scales: Buffer::zeroed(&stream, len(hidden.div_ceil(128)))?,
            topk_idx: Buffer::from_slice(&stream, &routing(rank, tokens))?,
            weights: Buffer::zeroed(&stream, len(TOPK))?,
            sums: Buffer::zeroed(&stream, len(hidden))?,
            stream,
        })
    }
}

fn throughput_round(side: &mut Bootstrap, hidden: u32, tokens: u32, count: &Count) -> Result<()> {
    use throughput::{
        DispatchInput, Output, Payload, Reduce, Rows, ThroughputBuffers, ThroughputDesc,
        ThroughputPlan,
    };
    let rank = side.rank();
    let context = Context::new(rank)?;
    let shape = [RANKS, EXPERTS, TOPK];
    let plan = ThroughputPlan::new(ThroughputDesc {
        timeout: TIMEOUT,
        ..ThroughputDesc::new(shape, hidden, TOKENS, Payload::Fp8, Reduce::PerRank)
    })?;
    let buffers = ThroughputBuffers::new(&plan, side, &context)?;
    let mut data = Data::new(Stream::new(&context)?, rank, hidden, tokens)?;
    let y = Buffer::<bf16>::zeroed(&data.stream, plan.max_rows as usize * hidden as usize)?;
    data.stream.synchronize()?;
    let handle = count.phase(|| {
        let input = DispatchInput {
            first: 0,
            tokens,
            rows: Rows::Fp8 {
                codes: &data.codes,
                scales: &data.scales,
            },
            topk_idx: &data.topk_idx,
            weights: &data.weights,
        };
        let handle = buffers.dispatch(&data.stream, &input)?;
        buffers.synchronize(&data.stream)?;
        Ok(handle)
    })?;
    count.phase(|| {
        handle.combine(&data.stream, &y, Output::F32(&mut data.sums))?;
        Ok(buffers.synchronize(&data.stream)?)
    })
}

fn latency_round(side: &mut Bootstrap, hidden: u32, tokens: u32, count: &Count) -> Result<()> {
    use latency::{
        CombineInput, DispatchInput, LatencyBuffers, LatencyDesc, LatencyPlan, Output, Payload,
        Rows,
    };
    let rank = side.rank();
    let context = Context::new(rank)?;
    let plan = LatencyPlan::new(LatencyDesc {
        ranks: RANKS,
        experts: EXPERTS,
        topk: TOPK,
        hidden,
        max_tokens: TOKENS,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        max_rows: Some(MAX_ROWS),
        ctas: None,
        timeout: TIMEOUT,
    })?;
    let buffers = LatencyBuffers::new(&plan, side, &context)?;
    let mut data = Data::new(Stream::new(&context)?, rank, hidden, tokens)?;
    let rows = plan.max_local_experts * plan.max_rows;
    let y = Buffer::<bf16>::zeroed(&data.stream, rows as usize * hidden as usize)?;
    data.stream.synchronize()?;
    let handle = count.phase(|| {
        let input = DispatchInput {
            first: 0,
            tokens,
            rows: Rows::Fp8 {
                codes: &data.codes,
                scales: &data.scales,
            },
            topk_idx: &data.topk_idx,
        };
        let handle = buffers.dispatch(&data.stream, &input)?;
        buffers.synchronize(&data.stream)?;
        Ok(handle)
    })?;
    count.phase(|| {
        let input = CombineInput {
            topk_idx: &data.topk_idx,
            weights: &data.weights,
        };
        handle.combine(&data.stream, &y, &input, Output::F32(&mut data.sums))?;
        Ok(buffers.synchronize(&data.stream)?)
    })
}
