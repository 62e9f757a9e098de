//! One rank's resources, and the only place that launches the kernels.
//!
//! # Safety
//! The kernels' contract is `docs/protocol.md` and csrc/params/ep_latency.h: addresses of the heap, the state,
//! the record and the received layouts are owned by [`Shared`], which outlives the work on them (its drop waits).
//! Arguments of a call are checked for context and length before they come here, and freeing a
//! device buffer waits for work that uses it.
#![expect(
    unsafe_code,
    reason = "launches kernels whose contract is fulfilled here"
)]

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffers::Received;
use super::ledger::Ledger;
use super::{LatencyPlan, fault};
use crate::device::{Buffer, Context, DEFAULT_WAIT, Event, Kernel, LaunchConfig, Stream};
use crate::ep::{EpError, Operation};
use crate::memory::{Bootstrap, MappedHost, SymmetricHeap};
use crate::params::{
    EpCombineRecvParams, EpCombineSendParams, EpDispatchRecvParams, EpDispatchSendParams, EpFault,
    EpLatency, EpState, KernelParams,
};

/// Which instance of the last kernel a call wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputType {
    F32,
    Bf16,
}

#[derive(Debug)]
struct Kernels {
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
            dispatch_send: context.kernel("ep_dispatch_send")?,
            dispatch_recv: context.kernel("ep_dispatch_recv")?,
            combine_send: context.kernel("ep_combine_send")?,
            combine_recv_f32: context.kernel("ep_combine_recv_f32")?,
            combine_recv_bf16: context.kernel("ep_combine_recv_bf16")?,
        })
    }
}

/// What the host knows and may change; calls hold it while they enqueue.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) ledger: Ledger,
    /// The first launch that failed: the device's epochs no longer agree with the ledger.
    failed: Option<String>,
    /// Epoch of the latest abandoned round that was reported.
    pub(super) reported: u64,
}

/// One rank's resources, shared by its open rounds.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: LatencyPlan,
    pub(super) rank: u32,
    pub(super) context: Arc<Context>,
    pub(super) received: [Received; 2],
    pub(super) record: ManuallyDrop<MappedHost>,
    pub(super) timeout_ns: AtomicU64,
    heap: ManuallyDrop<SymmetricHeap>,
    state: Buffer<EpState>,
    kernels: Kernels,
    /// Where abandoned rounds run.
    abandon_stream: Stream,
    /// End of the last kernel: the next one, on whatever stream, follows it.
    chain: Event,
    desk: Mutex<Desk>,
}

impl Shared {
    pub(super) fn new(
        plan: &LatencyPlan,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<Self, EpError> {
        let rank = bootstrap.rank();
        let local = Local::new(plan, rank, context);
        let Local {
            received,
            record,
            state,
            chain,
            kernels,
            stream,
        } = bootstrap.agree("latency all-to-all: allocate", local)?;
        // Ends with a meeting: from here on peers may write, and what they write to stands.
        let heap = SymmetricHeap::new(bootstrap, context, plan.heap.bytes)?;
        Ok(Self {
            plan: *plan,
            rank,
            context: Arc::clone(context),
            received,
            record: ManuallyDrop::new(record),
            timeout_ns: AtomicU64::new(nanoseconds(plan.timeout())),
            heap: ManuallyDrop::new(heap),
            state,
            kernels,
            chain,
            abandon_stream: stream,
            desk: Mutex::default(),
        })
    }

    /// Begins a call: refused after a fault or a failure.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, Desk>, EpError> {
        let desk = self.desk();
        if let Some(fault) = fault::recorded(&self.record)? {
            return Err(fault.into());
        }
        match &desk.failed {
            None => Ok(desk),
            Some(cause) => Err(EpError::Failed {
                cause: cause.clone(),
            }),
        }
    }

    /// The desk as it is; it is valid after any panic of a holder.
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layout that `epoch` is received into.
    pub(super) fn received(&self, epoch: u64) -> &Received {
        &self.received[usize::from(epoch % 2 == 1)]
    }

    pub(super) fn dispatch_send(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        params: EpDispatchSendParams,
    ) -> Result<(), EpError> {
        let ep = self.common();
        let params = EpDispatchSendParams { ep, ..params };
        let ctas = self.plan.dispatch_send_ctas;
        self.launch(desk, stream, (&self.kernels.dispatch_send, ctas), &params)
    }

    pub(super) fn dispatch_recv(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        epoch: u64,
        abandon: Abandon,
    ) -> Result<(), EpError> {
        let into = self.received(epoch);
        let params = EpDispatchRecvParams {
            ep: self.common(),
            x: into.rows.address(),
            x_scales: into.scales.address(),
            counts: into.counts.address(),
            source: into.source.address(),
            abandon: abandon as u32,
            ..Default::default()
        };
        let ctas = self.plan.expert_ctas;
        self.launch(desk, stream, (&self.kernels.dispatch_recv, ctas), &params)
    }

    pub(super) fn combine_send(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        epoch: u64,
        y: Option<u64>,
    ) -> Result<(), EpError> {
        let from = self.received(epoch);
        let params = EpCombineSendParams {
            ep: self.common(),
            y: y.unwrap_or(0),
            counts: from.counts.address(),
            source: from.source.address(),
            abandon: u32::from(y.is_none()),
            ..Default::default()
        };
        let ctas = self.plan.expert_ctas;
        self.launch(desk, stream, (&self.kernels.combine_send, ctas), &params)
    }

    pub(super) fn combine_recv(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        output: OutputType,
        params: EpCombineRecvParams,
    ) -> Result<(), EpError> {
        let kernel = match output {
            OutputType::F32 => &self.kernels.combine_recv_f32,
            OutputType::Bf16 => &self.kernels.combine_recv_bf16,
        };
        let ctas = self.plan.combine_recv_ctas(params.tokens);
        let ep = self.common();
        let params = EpCombineRecvParams { ep, ..params };
        self.launch(desk, stream, (kernel, ctas), &params)
    }

    /// Notes that nobody will call the rest of `epoch`, and runs what is owed. Nothing if the round has ended.
    pub(super) fn abandon(&self, epoch: u64) {
        self.desk().ledger.abandon(epoch);
        // After a fault or a failure the peers are told by poison or deadline; there is nothing to run.
        if let Ok(mut desk) = self.enter() {
            self.run_owed(&mut desk);
        }
    }

    /// Launches what abandoned rounds owe, as far as it is their turn. A failure is kept for the next call.
    pub(super) fn run_owed(&self, desk: &mut Desk) {
        let stream = &self.abandon_stream;
        while let Some((operation, epoch)) = desk.ledger.owed() {
            let launched = match operation {
                // Owed rounds have sent their dispatch: nothing to do but go on.
                Operation::DispatchSend => Ok(()),
                Operation::DispatchRecv => self.dispatch_recv(desk, stream, epoch, Abandon::Yes),
                Operation::CombineSend => self.combine_send(desk, stream, epoch, None),
                Operation::CombineRecv => {
                    let params = EpCombineRecvParams {
                        abandon: Abandon::Yes as u32,
                        ..Default::default()
                    };
                    self.combine_recv(desk, stream, OutputType::F32, params)
                }
            };
            if launched.is_err() {
                return;
            }
            desk.ledger.launched(operation, epoch);
        }
    }

    fn common(&self) -> EpLatency {
        let plan = &self.plan;
        let heap = &plan.heap;
        EpLatency {
            heap: self.heap.address(),
            heap_stride: self.heap.stride(),
            state: self.state.address(),
            fault: self.record.address(),
            timeout_ns: self.timeout_ns.load(Ordering::Relaxed),
            dispatch_signal: heap.dispatch_signal.offset,
            dispatch_credit: heap.dispatch_credit.offset,
            combine_signal: heap.combine_signal.offset,
            combine_credit: heap.combine_credit.offset,
            poison: heap.poison.offset,
            dispatch_slots: heap.dispatch_slots.offset,
            combine_slots: heap.combine_slots.offset,
            rank: self.rank,
            ranks: plan.desc.ranks,
            experts: plan.desc.experts,
            max_local_experts: plan.max_local_experts,
            topk: plan.desc.topk,
            max_tokens: plan.desc.max_tokens,
            max_rows: plan.max_rows,
            hidden: plan.desc.hidden,
            payload_bytes: plan.payload_bytes,
            scales: plan.scales,
            slot_bytes: plan.slot_bytes,
            reserved: 0,
        }
    }

    /// Enqueues a kernel behind the previous one of this rank.
    fn launch<P: KernelParams>(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        (kernel, ctas): (&Kernel, u32),
        params: &P,
    ) -> Result<(), EpError> {
        let config = LaunchConfig::new(kernel, [ctas, 1, 1]);
        let launched = stream.wait_event(&self.chain).and_then(|()| {
            // SAFETY: (1) and (2) as the header of this file says; (3) the protocol orders all accesses
            // to windows, and the event chain those to this rank's own memory.
            unsafe { stream.launch(kernel, &config, params) }?;
            self.chain.record(stream)
        });
        launched.map_err(|error| {
            let error = EpError::from(error);
            desk.failed.get_or_insert_with(|| error.to_string());
            error
        })
    }
}

/// Whether a receiving kernel copies rows or only keeps the protocol going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abandon {
    No = 0,
    Yes = 1,
}

pub(super) fn nanoseconds(timeout: std::time::Duration) -> u64 {
    u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)
}

/// What does not need the peers.
struct Local {
    received: [Received; 2],
    record: MappedHost,
    state: Buffer<EpState>,
    chain: Event,
    kernels: Kernels,
    stream: Stream,
}

impl Local {
    fn new(plan: &LatencyPlan, rank: u32, context: &Arc<Context>) -> Result<Self, EpError> {
        let stream = Stream::new(context)?;
        let received = [
            Received::new(plan, rank, &stream)?,
            Received::new(plan, rank, &stream)?,
        ];
        let state = Buffer::zeroed(&stream, 1)?;
        stream.synchronize()?;
        Ok(Self {
            received,
            record: MappedHost::zeroed(context, size_of::<EpFault>())?,
            state,
            chain: Event::new(context)?,
            kernels: Kernels::load(context)?,
            stream,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Waits on peers are bounded, so this ends. If it does not, the memory that kernels may
        // still use stays mapped for ever.
        let idle = self.chain.synchronize_within(DEFAULT_WAIT);
        if matches!(idle, Err(crate::device::DeviceError::Timeout { .. })) {
            self.context.defer(idle);
            return;
        }
        // SAFETY: dropped here and nowhere else; no kernel uses it any more.
        unsafe { ManuallyDrop::drop(&mut self.heap) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.record) };
    }
}
