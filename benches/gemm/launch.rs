//! What the safe wrappers add to `cuLaunchKernelEx`: both by turns, in one capture after another.
//!
//! # Safety
//! Captured work is thrown away, never launched, so no address is accessed. Graphs are destroyed once,
//! after their last use.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use criterion::Criterion;
use cudarc::driver::sys::{
    self, CUfunction, CUgraph, CUgraphNode, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUstream, CUstreamCaptureMode,
};
use hadal::device::{Buffer, Kernel, LaunchConfig, Stream};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
    Output, Shape,
};
use hadal::params::FillParams;
use half::bf16;

use crate::{Result, median};

/// Captures, and pairs of launches in each: few, as a graph grows slower the larger it is.
const ROUNDS: usize = 400;
const PAIRS: usize = 32;

/// Medians in nanoseconds: of either way, and of the differences within pairs.
#[derive(Clone, Copy)]
pub(crate) struct Paired {
    pub(crate) raw: f64,
    pub(crate) wrapper: f64,
    pub(crate) overhead: f64,
}

/// `[m, n, k]` of the GEMM: a decode step's.
const SHAPE: [u32; 3] = [64, 7168, 2048];

/// What is launched.
pub(crate) struct Subjects<'a> {
    stream: &'a Stream,
    gemm: Gemm,
    b: (Buffer<u8>, Buffer<f32>),
    /// Two sets of A with its scales, and D.
    sets: [(Buffer<u8>, Buffer<f32>, Buffer<bf16>); 2],
    fill: Kernel,
    words: Buffer<u32>,
}

impl<'a> Subjects<'a> {
    pub(crate) fn new(stream: &'a Stream) -> Result<Self> {
        let [m, n, k] = SHAPE;
        let context = stream.context();
        let desc = GemmDesc {
            form: Form::Dense { rows: m },
            n,
            k,
            arithmetic: Arithmetic::E4M3_1D2D,
            output: Output::Bf16,
            sms: context.multiprocessors()?,
        };
        let set = || -> Result<_> {
            Ok((
                Buffer::alloc(context, (m * k) as usize)?,
                Buffer::alloc(context, (k / 128 * m) as usize)?,
                Buffer::alloc(context, (m * n) as usize)?,
            ))
        };
        let (b, scales_b) = ((n * k) as usize, (n / 128 * k / 128) as usize);
        let mut subjects = Self {
            stream,
            gemm: Gemm::new(context, GemmPlan::new(desc)?)?,
            b: (
                Buffer::alloc(context, b)?,
                Buffer::alloc(context, scales_b)?,
            ),
            sets: [set()?, set()?],
            fill: context.kernel("fill_words")?,
            words: Buffer::alloc(context, 1)?,
        };
        // A kernel's first launch sets it up.
        drop(capture(stream, || subjects.run(0))?);
        drop(capture(stream, || subjects.launch())?);
        Ok(subjects)
    }

    /// A call as a program makes it: operands described, checked, enqueued.
    fn run(&mut self, set: usize) -> Result<()> {
        let [m, n, k] = SHAPE;
        let (a, scales_a, d) = &mut self.sets[set];
        let (b, scales_b) = &self.b;
        let mut operands = Operands {
            a: Matrix::fp8_rows(Format::E4m3, &*a, &*scales_a, Shape::matrix(m, k))?,
            b: Matrix::fp8_blocks(Format::E4m3, b, scales_b, Shape::matrix(n, k))?,
            groups: Groups::None,
            d: MatrixMut::bf16(d, Shape::matrix(m, n))?,
        };
        Ok(self.gemm.run(self.stream, &mut operands)?)
    }

    fn launch(&self) -> Result<()> {
        let params = FillParams {
            destination: self.words.address(),
            count: self.words.len() as u64,
            value: 0,
            reserved: 0,
        };
        let config = LaunchConfig::new(&self.fill, [1; 3]);
        // SAFETY: the range is the buffer; captured, never executed.
        Ok(unsafe { self.stream.launch(&self.fill, &config, &params) }?)
    }

    pub(crate) fn same(&mut self) -> Result<Paired> {
        let template = capture(self.stream, || self.run(0))?;
        let raw = RawLaunch::of(&template, self.stream)?;
        paired(self.stream, &raw, |_| self.run(0))
    }

    pub(crate) fn changed(&mut self) -> Result<Paired> {
        let template = capture(self.stream, || self.run(0))?;
        let raw = RawLaunch::of(&template, self.stream)?;
        paired(self.stream, &raw, |call| self.run(call % 2))
    }

    pub(crate) fn bare(&mut self) -> Result<Paired> {
        let template = capture(self.stream, || self.launch())?;
        let raw = RawLaunch::of(&template, self.stream)?;
        paired(self.stream, &raw, |_| self.launch())
    }

    pub(crate) fn criterion(&mut self, criterion: &mut Criterion) {
        let Ok(template) = capture(self.stream, || self.run(0)) else {
            return;
        };
        let Ok(raw) = RawLaunch::of(&template, self.stream) else {
            return;
        };
        let stream = self.stream;
        let mut group = criterion.benchmark_group("launch");
        group.bench_function("driver", |bencher| {
            bencher.iter_custom(|calls| timed(stream, calls, || raw.launch()));
        });
        group.bench_function("wrapper", |bencher| {
            bencher.iter_custom(|calls| timed(stream, calls, || self.run(0)));
        });
        group.finish();
    }
}

/// Time of `calls` launches, captures aside. A failing one ends the program with its text.
#[expect(
    clippy::expect_used,
    reason = "criterion has no way to return an error"
)]
fn timed(stream: &Stream, calls: u64, mut launch: impl FnMut() -> Result<()>) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = calls;
    while left > 0 {
        let some = left.min(2 * PAIRS as u64);
        left -= some;
        let work = || {
            let start = Instant::now();
            for _ in 0..some {
                launch()?;
            }
            time += start.elapsed();
            Ok(())
        };
        drop(capture(stream, work).expect("a launch"));
    }
    time
}

fn paired(
    stream: &Stream,
    raw: &RawLaunch,
    mut wrapper: impl FnMut(usize) -> Result<()>,
) -> Result<Paired> {
    let mut times: [Vec<f64>; 3] = [const { Vec::new() }; 3];
    let nanoseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e9;
    for round in 0..ROUNDS {
        let mut pairs = || {
            for pair in 0..PAIRS {
                // Who comes first finds the caches as the other left them.
                let first = Instant::now();
                let (second, third, raw_first) = if pair % 2 == 0 {
                    raw.launch()?;
                    let second = Instant::now();
                    wrapper(pair / 2)?;
                    (second, Instant::now(), true)
                } else {
                    wrapper(pair / 2 + 1)?;
                    let second = Instant::now();
                    raw.launch()?;
                    (second, Instant::now(), false)
                };
                let (one, two) = (nanoseconds(first, second), nanoseconds(second, third));
                let (raw, wrapper) = if raw_first { (one, two) } else { (two, one) };
                // The first rounds warm up.
                if round >= ROUNDS / 10 {
                    times[0].push(raw);
                    times[1].push(wrapper);
                    times[2].push(wrapper - raw);
                }
            }
            Ok(())
        };
        drop(capture(stream, &mut pairs)?);
    }
    let [raw, wrapper, overhead] = times.map(median);
    Ok(Paired {
        raw,
        wrapper,
        overhead,
    })
}

/// A graph that was captured.
struct Captured(CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        let _ = unsafe { sys::cuGraphDestroy(self.0) };
    }
}

/// What `work` puts on the stream. An error leaves the stream capturing: it ends the program.
fn capture(stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Captured> {
    let handle: CUstream = stream.as_raw().cast();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the handle is live.
    unsafe { sys::cuStreamBeginCapture_v2(handle, mode) }.result()?;
    work()?;
    let mut graph = null_mut();
    // SAFETY: the handle is live, and a valid place for the answer.
    unsafe { sys::cuStreamEndCapture(handle, &raw mut graph) }.result()?;
    Ok(Captured(graph))
}

/// The driver call that a wrapper made: the same kernel, configuration and parameters.
struct RawLaunch {
    function: CUfunction,
    /// Those of the node that the wrapper's call became.
    arguments: *mut *mut c_void,
    config: CUlaunchConfig,
    _attributes: Vec<CUlaunchAttribute>,
}

impl RawLaunch {
    /// Of the only node of `graph`, which must outlive this.
    fn of(graph: &Captured, stream: &Stream) -> Result<Self> {
        let mut node: CUgraphNode = null_mut();
        let mut count = 1;
        // SAFETY: room for `count` nodes.
        unsafe { sys::cuGraphGetNodes(graph.0, &raw mut node, &raw mut count) }.result()?;
        if count != 1 {
            return Err(format!("one launch became {count} nodes").into());
        }
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut params: sys::CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
        // SAFETY: a kernel's node, and a valid place for the answer.
        unsafe { sys::cuGraphKernelNodeGetParams_v2(node, &raw mut params) }.result()?;
        let mut attributes = attributes(node)?;
        let config = CUlaunchConfig {
            gridDimX: params.gridDimX,
            gridDimY: params.gridDimY,
            gridDimZ: params.gridDimZ,
            blockDimX: params.blockDimX,
            blockDimY: params.blockDimY,
            blockDimZ: params.blockDimZ,
            sharedMemBytes: params.sharedMemBytes,
            hStream: stream.as_raw().cast(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::try_from(attributes.len())?,
        };
        Ok(Self {
            function: params.func,
            arguments: params.kernelParams,
            config,
            _attributes: attributes,
        })
    }

    fn launch(&self) -> Result<()> {
        let (config, none) = (&raw const self.config, null_mut());
        // SAFETY: everything lives as long as `self` and the graph it was taken from.
        let code = unsafe { sys::cuLaunchKernelEx(config, self.function, self.arguments, none) };
        Ok(code.result()?)
    }
}

/// The attributes that the wrappers set, as far as the node has them.
fn attributes(node: CUgraphNode) -> Result<Vec<CUlaunchAttribute>> {
    let mut all = Vec::new();
    for id in [
        CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
    ] {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        // SAFETY: a kernel's node, and a valid place for the answer.
        let code = unsafe { sys::cuGraphKernelNodeGetAttribute(node, id, &raw mut value) };
        code.result()?;
        // SAFETY: all bytes were set above, and any are valid.
        let words = unsafe { value.pad };
        if words.iter().any(|&word| word != 0) {
            all.push(CUlaunchAttribute {
                id,
                pad: [0; 4],
                value,
            });
        }
    }
    Ok(all)
}
