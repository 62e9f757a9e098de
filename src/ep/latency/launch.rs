//! One rank's resources in latency mode, and what each kernel gets.

use std::sync::Arc;

use super::LatencyPlan;
use super::buffers::Received;
use crate::device::{Context, Kernel, Stream};
use crate::ep::endpoint::{Abandon, Desk, Endpoint, LocalEndpoint};
use crate::ep::{EpError, Operation};
use crate::memory::Bootstrap;
use crate::params::{
    EpCombineRecvParams, EpCombineSendParams, EpDispatchRecvParams, EpDispatchSendParams, EpLatency,
};

/// The meeting that ends what a rank allocates by itself.
pub(super) const ALLOCATE: &str = "latency all-to-all: allocate";

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

/// One rank's resources, shared by its open rounds.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: LatencyPlan,
    pub(super) endpoint: Endpoint,
    pub(super) received: [Received; 2],
    kernels: Kernels,
}

impl Shared {
    pub(super) fn new(
        plan: &LatencyPlan,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<Self, EpError> {
        let local = Self::local(plan, bootstrap.rank(), context);
        let (local, received, kernels) = bootstrap.agree(ALLOCATE, local)?;
        Ok(Self {
            plan: *plan,
            endpoint: local.join(bootstrap, context, plan.heap.bytes, plan.timeout())?,
            received,
            kernels,
        })
    }

    fn local(
        plan: &LatencyPlan,
        rank: u32,
        context: &Arc<Context>,
    ) -> Result<(LocalEndpoint, [Received; 2], Kernels), EpError> {
        let stream = Stream::new(context)?;
        let received = [
            Received::new(plan, rank, &stream)?,
            Received::new(plan, rank, &stream)?,
        ];
        stream.synchronize()?;
        let local = LocalEndpoint::new(context)?;
        Ok((local, received, Kernels::load(context)?))
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
        self.endpoint
            .launch(desk, stream, (&self.kernels.dispatch_send, ctas), &params)
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
        self.endpoint
            .launch(desk, stream, (&self.kernels.dispatch_recv, ctas), &params)
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
        self.endpoint
            .launch(desk, stream, (&self.kernels.combine_send, ctas), &params)
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
                Operation::CombineSend => self.combine_send(desk, stream, epoch, None),
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
            let params = EpCombineRecvParams {
                abandon: Abandon::Yes as u32,
                ..Default::default()
            };
            self.combine_recv(desk, &self.endpoint.abandon_stream, OutputType::F32, params)?;
            desk.ledger.launched(Operation::CombineRecv, owed);
        }
        Ok(())
    }

    fn common(&self) -> EpLatency {
        let plan = &self.plan;
        let heap = &plan.heap;
        let addresses = self.endpoint.addresses();
        EpLatency {
            heap: addresses.heap,
            heap_stride: addresses.heap_stride,
            state: addresses.state,
            fault: addresses.fault,
            timeout_ns: addresses.timeout_ns,
            dispatch_signal: heap.dispatch_signal.offset,
            dispatch_credit: heap.dispatch_credit.offset,
            combine_signal: heap.combine_signal.offset,
            combine_credit: heap.combine_credit.offset,
            poison: heap.poison.offset,
            dispatch_slots: heap.dispatch_slots.offset,
            combine_slots: heap.combine_slots.offset,
            rank: self.endpoint.rank,
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
            combine_scales: plan.combine_scales,
            combine_slot_bytes: plan.combine_slot_bytes,
            reserved: 0,
        }
    }
}
