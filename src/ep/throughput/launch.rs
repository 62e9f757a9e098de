//! One rank's resources in throughput mode, and what each kernel gets.

use std::sync::{Arc, Mutex, PoisonError};

use super::buffers::Received;
use super::{Reduce, ThroughputPlan};
use crate::device::{Buffer, Context, Kernel, Stream};
use crate::ep::endpoint::{Abandon, Desk, Endpoint, LocalEndpoint};
use crate::ep::{EpError, Operation};
use crate::memory::Bootstrap;
use crate::params::{
    EpThroughput, EpTpCombineRecvParams, EpTpCombineSendParams, EpTpCountParams,
    EpTpDispatchRecvParams, EpTpDispatchSendParams,
};

/// The meeting that ends what a rank allocates by itself.
pub(super) const ALLOCATE: &str = "throughput all-to-all: allocate";

/// Which instance of the last kernel a call wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputType {
    F32,
    Bf16,
}

#[derive(Debug)]
struct Kernels {
    count: Kernel,
    dispatch_send: Kernel,
    dispatch_recv: Kernel,
    combine_send: Kernel,
    combine_recv_f32: Kernel,
    combine_recv_bf16: Kernel,
}

impl Kernels {
    /// Loads them now: loading one while peers wait could wait for them in turn.
    fn load(context: &Arc<Context>) -> Result<Self, EpError> {
        Ok(Self {
            count: context.kernel("ep_tp_count")?,
            dispatch_send: context.kernel("ep_tp_dispatch_send")?,
            dispatch_recv: context.kernel("ep_tp_dispatch_recv")?,
            combine_send: context.kernel("ep_tp_combine_send")?,
            combine_recv_f32: context.kernel("ep_tp_combine_recv_f32")?,
            combine_recv_bf16: context.kernel("ep_tp_combine_recv_bf16")?,
        })
    }
}

/// What `count` leaves for the later kernels of its round, and of those that use its routing again.
#[derive(Debug)]
pub(super) struct Counted {
    routing: Buffer<i32>,
    weights: Buffer<f32>,
    entry_at: Buffer<u32>,
    row_at: Buffer<u32>,
    chunks: Buffer<u32>,
}

impl Counted {
    pub(super) fn new(plan: &ThroughputPlan, context: &Arc<Context>) -> Result<Self, EpError> {
        let desc = &plan.desc;
        let tokens = desc.max_tokens as usize;
        let entries = tokens * desc.topk as usize;
        let columns = (desc.experts + desc.ranks) as usize;
        let chunks = plan.chunks(desc.max_tokens) as usize + 1;
        Ok(Self {
            routing: Buffer::alloc(context, entries)?,
            weights: Buffer::alloc(context, entries)?,
            entry_at: Buffer::alloc(context, entries)?,
            row_at: Buffer::alloc(context, tokens * desc.ranks as usize)?,
            chunks: Buffer::alloc(context, chunks * columns)?,
        })
    }
}

/// One rank's resources, shared by its open rounds.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: ThroughputPlan,
    pub(super) endpoint: Endpoint,
    pub(super) received: [Received; 2],
    counted: Mutex<[Arc<Counted>; 2]>,
    kernels: Kernels,
}

/// What does not need the peers.
type Local = (LocalEndpoint, [Received; 2], [Arc<Counted>; 2], Kernels);

impl Shared {
    pub(super) fn new(
        plan: &ThroughputPlan,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<Self, EpError> {
        let local = Self::local(plan, bootstrap.rank(), context);
        let (local, received, counted, kernels) = bootstrap.agree(ALLOCATE, local)?;
        Ok(Self {
            plan: *plan,
            endpoint: local.join(bootstrap, context, plan.heap.bytes, plan.desc.timeout)?,
            received,
            counted: Mutex::new(counted),
            kernels,
        })
    }

    fn local(plan: &ThroughputPlan, rank: u32, context: &Arc<Context>) -> Result<Local, EpError> {
        let stream = Stream::new(context)?;
        let received = [
            Received::new(plan, rank, &stream)?,
            Received::new(plan, rank, &stream)?,
        ];
        stream.synchronize()?;
        let local = LocalEndpoint::new(context)?;
        let counted = [
            Arc::new(Counted::new(plan, context)?),
            Arc::new(Counted::new(plan, context)?),
        ];
        Ok((local, received, counted, Kernels::load(context)?))
    }

    /// The layout that `epoch` is received into.
    pub(super) fn received(&self, epoch: u64) -> &Received {
        &self.received[usize::from(epoch % 2 == 1)]
    }

    /// Where a new round of `epoch` counts.
    pub(super) fn counted(&self, epoch: u64) -> Arc<Counted> {
        let places = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&places[usize::from(epoch % 2 == 1)])
    }

    /// Sees to it that no later round counts where `counted` is.
    pub(super) fn keep(&self, counted: &Arc<Counted>) -> Result<(), EpError> {
        let mut places = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places
            .iter_mut()
            .filter(|place| Arc::ptr_eq(place, counted))
        {
            *place = Arc::new(Counted::new(&self.plan, &self.endpoint.context)?);
        }
        Ok(())
    }

    pub(super) fn count(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        (counted, params): (&Counted, EpTpCountParams),
    ) -> Result<(), EpError> {
        let ep = self.common(Some(counted));
        let params = EpTpCountParams { ep, ..params };
        let tokens = if params.again == 0 { params.tokens } else { 0 };
        let ctas = self.plan.count_ctas(tokens);
        let kernel = (&self.kernels.count, ctas);
        self.endpoint.launch(desk, stream, kernel, &params)
    }

    pub(super) fn dispatch_send(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        (counted, params): (&Counted, EpTpDispatchSendParams),
    ) -> Result<(), EpError> {
        let ep = self.common(Some(counted));
        let params = EpTpDispatchSendParams { ep, ..params };
        let ctas = self.plan.dispatch_ctas(params.tokens);
        let kernel = (&self.kernels.dispatch_send, ctas);
        self.endpoint.launch(desk, stream, kernel, &params)
    }

    pub(super) fn dispatch_recv(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        epoch: u64,
        abandon: Abandon,
    ) -> Result<(), EpError> {
        let into = self.received(epoch);
        let params = EpTpDispatchRecvParams {
            ep: self.common(None),
            x: into.rows.address(),
            x_scales: into.scales.address(),
            offsets: into.offsets.address(),
            counts: into.counts.address(),
            index: into.index.address(),
            source: into.source.address(),
            weights: into.weights.address(),
            abandon: abandon as u32,
            ..Default::default()
        };
        let ctas = self.plan.dispatch_ctas(self.plan.max_recv_rows);
        let kernel = (&self.kernels.dispatch_recv, ctas);
        self.endpoint.launch(desk, stream, kernel, &params)
    }

    /// Without `y` the round is abandoned.
    pub(super) fn combine_send(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        y: Option<u64>,
    ) -> Result<(), EpError> {
        let params = EpTpCombineSendParams {
            ep: self.common(None),
            y: y.unwrap_or(0),
            abandon: u32::from(y.is_none()),
            ..Default::default()
        };
        let ctas = self.plan.combine_send_ctas();
        let kernel = (&self.kernels.combine_send, ctas);
        self.endpoint.launch(desk, stream, kernel, &params)
    }

    /// Without `counted` the round is abandoned.
    pub(super) fn combine_recv(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        output: OutputType,
        (counted, params): (Option<&Counted>, EpTpCombineRecvParams),
    ) -> Result<(), EpError> {
        let kernel = match output {
            OutputType::F32 => &self.kernels.combine_recv_f32,
            OutputType::Bf16 => &self.kernels.combine_recv_bf16,
        };
        let ep = self.common(counted);
        let params = EpTpCombineRecvParams { ep, ..params };
        let ctas = self.plan.combine_recv_ctas(params.tokens);
        self.endpoint.launch(desk, stream, (kernel, ctas), &params)
    }

    /// Notes that nobody will call the rest of `epoch`, and runs what is owed. Nothing if the round, or its membership, has ended.
    pub(super) fn abandon(&self, epoch: u64, membership: u64) {
        {
            let mut desk = self.endpoint.desk();
            if desk.membership() != membership {
                return;
            }
            desk.ledger.abandon(epoch);
        }
        // After a fault or a failure the peers are told by poison or deadline; there is nothing to run.
        if let Ok(mut desk) = self.endpoint.enter() {
            self.run_owed(&mut desk);
        }
    }

    /// Launches what abandoned rounds owe, as far as it is their turn. A failure is kept for the next call.
    pub(super) fn run_owed(&self, desk: &mut Desk) {
        let stream = &self.endpoint.abandon_stream;
        while let Some((operation, epoch)) = desk.ledger.owed() {
            let launched = match operation {
                // Owed rounds have sent their dispatch, and their last kernel waits for `end_owed`.
                Operation::Count | Operation::DispatchSend | Operation::CombineRecv => return,
                Operation::DispatchRecv => self.dispatch_recv(desk, stream, epoch, Abandon::Yes),
                Operation::CombineSend => self.combine_send(desk, stream, None),
            };
            if launched.is_err() {
                return;
            }
            desk.ledger.launched(operation, epoch);
        }
    }

    /// Ends abandoned rounds that must have ended before `operation` of `epoch`.
    pub(super) fn end_owed(
        &self,
        desk: &mut Desk,
        operation: Operation,
        epoch: u64,
    ) -> Result<(), EpError> {
        while let Some(owed) = desk.ledger.owed_before(operation, epoch) {
            let params = EpTpCombineRecvParams {
                abandon: Abandon::Yes as u32,
                ..Default::default()
            };
            let stream = &self.endpoint.abandon_stream;
            self.combine_recv(desk, stream, OutputType::F32, (None, params))?;
            desk.ledger.launched(Operation::CombineRecv, owed);
        }
        Ok(())
    }

    /// `counted` for the kernels that look at it.
    fn common(&self, counted: Option<&Counted>) -> EpThroughput {
        let plan = &self.plan;
        let heap = &plan.heap;
        let addresses = self.endpoint.addresses();
        EpThroughput {
            heap: addresses.heap,
            heap_stride: addresses.heap_stride,
            state: addresses.state,
            fault: addresses.fault,
            timeout_ns: addresses.timeout_ns,
            counts: heap.counts.offset,
            count_signal: heap.count_signal.offset,
            dispatch_signal: heap.dispatch_signal.offset,
            combine_signal: heap.combine_signal.offset,
            poison: heap.poison.offset,
            rows: heap.rows.offset,
            results: heap.results.offset,
            routing: counted.map_or(0, |c| c.routing.address()),
            weights: counted.map_or(0, |c| c.weights.address()),
            entry_at: counted.map_or(0, |c| c.entry_at.address()),
            row_at: counted.map_or(0, |c| c.row_at.address()),
            chunks: counted.map_or(0, |c| c.chunks.address()),
            rank: self.endpoint.rank,
            ranks: plan.desc.ranks,
            experts: plan.desc.experts,
            topk: plan.desc.topk,
            max_tokens: plan.desc.max_tokens,
            max_recv_rows: plan.max_recv_rows,
            max_rows: plan.max_rows,
            alignment: plan.desc.alignment,
            chunk_tokens: plan.chunk_tokens,
            hidden: plan.desc.hidden,
            payload_bytes: plan.payload_bytes,
            scales: plan.scales,
            slot_bytes: plan.slot_bytes,
            per_rank: u32::from(plan.desc.reduce == Reduce::PerRank),
        }
    }
}
