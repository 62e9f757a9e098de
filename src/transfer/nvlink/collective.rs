//! All-reduce and broadcast.

use std::ops::Range;

use super::copy::Source;
use super::endpoint::Collectives;
use super::{CopyPlan, Endpoint, Form, NvLinkError, Team};
use crate::device::Stream;
use crate::params::{NvlinkAllReduceParams, NvlinkBroadcastParams};

/// Bytes that a collective moves at once, and to which its ranges are aligned.
const VECTOR: u64 = 16;

/// How a collective reaches all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// [`Path::Multicast`] where [`Endpoint::multicast`] has an address, else [`Path::Peer`].
    Best,
    /// Loads from and stores to every window. Sums are in the order of ranks.
    Peer,
    /// `multimem` instructions: one load sums, and one store reaches all windows. The order of sums is the switch's.
    Multicast,
}

/// How a collective runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CollectivePlan {
    /// How it reaches the ranks.
    pub path: Path,
    /// CTAs of 256 threads.
    pub ctas: u32,
}

impl CollectivePlan {
    /// A plan for `bytes` of one window, on the best path.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self {
            path: Path::Best,
            ctas: CopyPlan::new(Form::Vector, bytes).ctas,
        }
    }

    /// With exactly `ctas` CTAs, at least one.
    #[must_use]
    pub fn with_ctas(self, ctas: u32) -> Self {
        Self { ctas, ..self }
    }

    /// On this path.
    #[must_use]
    pub fn with_path(self, path: Path) -> Self {
        Self { path, ..self }
    }
}

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single precision, summed in it.
    F32,
    /// BF16, summed in f32 and rounded once, to nearest even.
    Bf16,
}

impl Endpoint {
    /// Sums `range` of the caller's part of all windows, element by element, into all windows, in the order of `stream`.
    ///
    /// All ranks call it together with the same range, element and path; each sums one part of the elements for all, so all ranks get the
    /// same bits. On [`Path::Peer`] a sum is `((x0 + x1) + x2) + …` in the order of ranks, in f32, from rank 0's value on; on
    /// [`Path::Multicast`] the hardware chooses the order, and only sums that are exact in every order are the same bits from run to run.
    ///
    /// Order: a barrier of all ranks, the sums, and another barrier: operands are what every rank wrote earlier on its stream, and
    /// later work of each stream sees the results. Nobody may access the range meanwhile.
    ///
    /// ```
    /// # use hadal::device::{Buffer, Context, Stream};
    /// # use hadal::memory::Bootstrap;
    /// # use hadal::transfer::nvlink::{CollectivePlan, CopyPlan, Desc, Element, Endpoint, Form, Place, Source};
    /// /// What one rank does: adds its rank + 1 to the sum of all.
    /// fn sum(mut side: Bootstrap) -> Result<(), hadal::Error> {
    ///     let context = Context::new(side.rank())?;
    ///     let stream = Stream::new(&context)?;
    ///     let desc = Desc { bytes: 1024, ..Desc::default() };
    ///     let endpoint = Endpoint::new(&desc, &mut side, &context)?;
    ///     let own = Place { rank: side.rank(), offset: 0 };
    ///     let copy = CopyPlan::new(Form::Vector, 64);
    ///     let operand = Buffer::from_slice(&stream, &[side.rank() as f32 + 1.0; 16])?;
    ///     endpoint.put(&stream, Source::buffer(&operand), own, copy)?;
    ///     endpoint.all_reduce(&stream, Element::F32, 0..64, CollectivePlan::new(64))?;
    ///     let mut sums = Buffer::<f32>::zeroed(&stream, 16)?;
    ///     endpoint.get(&stream, own, (&mut sums).into(), copy)?;
    ///     endpoint.synchronize(&stream)?;
    ///     assert_eq!(sums.to_vec(&stream)?, [6.0; 16]);
    ///     Ok(())
    /// }
    /// # fn main() -> Result<(), hadal::Error> {
    /// let sides = Bootstrap::in_process(3)?;
    /// std::thread::scope(|scope| {
    ///     let ranks: Vec<_> = sides.into_iter().map(|side| scope.spawn(|| sum(side))).collect();
    ///     ranks.into_iter().try_for_each(|rank| rank.join().expect("no panic"))
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// A range outside the window or not a multiple of 16 bytes in offset and length, a plan without CTAs, [`Path::Multicast`] where
    /// there is none, another context, an earlier fault (nothing is launched in these cases), or a driver error.
    pub fn all_reduce(
        &self,
        stream: &Stream,
        element: Element,
        range: Range<u64>,
        plan: CollectivePlan,
    ) -> Result<(), NvLinkError> {
        let operation = "all-reduce";
        self.enter(operation, stream)?;
        let bytes = range.end.saturating_sub(range.start);
        let offset = self.vector_offset(operation, range.start, bytes)?;
        let (multicast, kernels) = self.collectives(operation, plan)?;
        let kernel = match element {
            Element::F32 => &kernels.all_reduce_f32,
            Element::Bf16 => &kernels.all_reduce_bf16,
        };
        let params = NvlinkAllReduceParams {
            nvlink: self.params(),
            offset,
            multicast,
            vectors: bytes / VECTOR,
        };
        let all = Team::all(self.ranks())?;
        self.barrier(stream, all)?;
        if bytes > 0 {
            self.launch(stream, (kernel, plan.ctas), &params)?;
        }
        self.barrier(stream, all)
    }

    /// Copies `source` to `offset` of the caller's part of all windows, the own one too, in the order of `stream`.
    ///
    /// Order: none by itself, as of [`put`](Self::put). One rank calls it; the others need not know. Any number per phase.
    ///
    /// # Errors
    /// As [`Self::all_reduce`], or a source that overlaps the destination or is not aligned to 16 bytes.
    pub fn broadcast(
        &self,
        stream: &Stream,
        source: Source<'_>,
        offset: u64,
        plan: CollectivePlan,
    ) -> Result<(), NvLinkError> {
        let operation = "broadcast";
        self.enter(operation, stream)?;
        let (source, bytes) = self.local(operation, &source)?;
        let own = self.data_address(operation, self.rank(), (offset, bytes))?;
        Self::disjoint(operation, (source, own), (offset, bytes))?;
        if !source.is_multiple_of(VECTOR) {
            return Err(unaligned(operation, "source", source));
        }
        let offset = self.vector_offset(operation, offset, bytes)?;
        let (multicast, kernels) = self.collectives(operation, plan)?;
        if bytes == 0 {
            return Ok(());
        }
        let params = NvlinkBroadcastParams {
            nvlink: self.params(),
            source,
            offset,
            multicast,
            vectors: bytes / VECTOR,
        };
        self.launch(stream, (&kernels.broadcast, plan.ctas), &params)
    }

    /// Offset in a window of bytes of the caller's part that are whole vectors.
    fn vector_offset(
        &self,
        operation: &'static str,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, NvLinkError> {
        self.data_address(operation, self.rank(), (offset, bytes))?;
        if !offset.is_multiple_of(VECTOR) {
            return Err(unaligned(operation, "offset", offset));
        }
        if !bytes.is_multiple_of(VECTOR) {
            return Err(unaligned(operation, "bytes", bytes));
        }
        // The caller's part begins at a multiple, too.
        Ok(self.layout.data.offset + offset)
    }

    /// Address of all windows at once, if the path has one, and the path's kernels.
    fn collectives(
        &self,
        operation: &'static str,
        plan: CollectivePlan,
    ) -> Result<(u64, &Collectives), NvLinkError> {
        if plan.ctas == 0 {
            return Err(NvLinkError::Argument {
                operation,
                what: "CTAs",
                value: "0".into(),
                expected: "at least 1".into(),
            });
        }
        match (plan.path, self.multicast()) {
            (Path::Best | Path::Multicast, Ok(address)) => Ok((address, &self.kernels.multicast)),
            (Path::Best | Path::Peer, _) => Ok((0, &self.kernels.peer)),
            (Path::Multicast, Err(reason)) => Err(NvLinkError::Argument {
                operation,
                what: "path",
                value: "multicast".into(),
                expected: format!("another one: {reason}"),
            }),
        }
    }
}

fn unaligned(operation: &'static str, what: &'static str, value: u64) -> NvLinkError {
    NvLinkError::Argument {
        operation,
        what,
        value: value.to_string(),
        expected: format!("a multiple of {VECTOR}"),
    }
}
