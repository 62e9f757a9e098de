//! One rank's side of an all-to-all, whichever mode: its window, its state on the device, the order of its
//! launches, and the only place that launches the kernels.
//!
//! # Safety
//! The kernels' contract is `docs/protocol.md` and csrc/params/ep_latency.h: the addresses of heap, state and record
//! are owned by [`Endpoint`], which outlives the work on them (its drop waits). The modes' own memory is
//! device buffers, whose freeing waits for work that uses them. Arguments of a call are
//! checked for context and length before they come here.
#![expect(
    unsafe_code,
    reason = "launches kernels whose contract is fulfilled here"
)]

use std::fmt::Debug;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytemuck::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ledger::Ledger;
use super::stats::EpStats;
use super::{EpError, Operation, fault};
use crate::device::{Buffer, Context, DEFAULT_WAIT, Event, Kernel, LaunchConfig, Stream};
use crate::memory::{Bootstrap, MappedHost, Members, MemoryError, SymmetricHeap};
use crate::params::{EpFault, EpState, KernelParams};

/// What the host knows and may change; calls hold it while they enqueue.
#[derive(Debug)]
pub(in crate::ep) struct Desk {
    pub(in crate::ep) ledger: Ledger,
    /// Who takes part. Rounds of earlier memberships are over.
    members: Members,
    /// The first launch that failed, so that the device's epochs no longer agree with the ledger; or that members change.
    failed: Option<String>,
    /// The capture of the last launch that was captured.
    captured: Option<u64>,
    /// Epoch of the latest abandoned round that was reported.
    reported: u64,
}

impl Desk {
    fn new(members: Members) -> Self {
        Self {
            ledger: Ledger::default(),
            members,
            failed: None,
            captured: None,
            reported: 0,
        }
    }

    /// Refuses `operation` on what began in an earlier membership.
    pub(in crate::ep) fn still(&self, operation: Operation, began: u64) -> Result<(), EpError> {
        let now = self.membership();
        if began == now {
            return Ok(());
        }
        Err(EpError::Membership {
            operation,
            began,
            now,
        })
    }

    /// A number for rounds that begin now.
    pub(in crate::ep) fn membership(&self) -> u64 {
        self.members.epoch()
    }
}

/// One rank's resources, apart from what a mode adds.
#[derive(Debug)]
pub(in crate::ep) struct Endpoint {
    pub(in crate::ep) rank: u32,
    pub(in crate::ep) context: Arc<Context>,
    /// Where abandoned rounds run.
    pub(in crate::ep) abandon_stream: Stream,
    record: ManuallyDrop<MappedHost>,
    timeout_ns: AtomicU64,
    /// Its addresses never change.
    heap: ManuallyDrop<Mutex<SymmetricHeap>>,
    window: [u64; 2],
    state: Mutex<Buffer<EpState>>,
    state_address: u64,
    /// End of the last kernel: the next one, on whatever stream, follows it.
    chain: Event,
    /// The same inside of a capture. What a capture holds follows what was enqueued before only as its launch does.
    captured_chain: Event,
    desk: Mutex<Desk>,
}

/// What does not need the peers.
#[derive(Debug)]
pub(in crate::ep) struct LocalEndpoint {
    record: MappedHost,
    state: Buffer<EpState>,
    chain: Event,
    captured_chain: Event,
    stream: Stream,
}

impl LocalEndpoint {
    pub(in crate::ep) fn new(context: &Arc<Context>) -> Result<Self, EpError> {
        let stream = Stream::new(context)?;
        let state = Buffer::zeroed(&stream, 1)?;
        stream.synchronize()?;
        Ok(Self {
            record: MappedHost::zeroed(context, size_of::<EpFault>())?,
            state,
            chain: Event::new(context)?,
            captured_chain: Event::new(context)?,
            stream,
        })
    }

    /// Maps a window of `bytes` with all ranks. Ends with a meeting: from then on peers may write.
    pub(in crate::ep) fn join(
        self,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Endpoint, EpError> {
        let Self {
            record,
            mut state,
            chain,
            captured_chain,
            stream,
        } = self;
        let members = bootstrap.members();
        let ready = set_state(&stream, &mut state, members);
        bootstrap.agree("all-to-all: state", ready)?;
        let heap = SymmetricHeap::new(bootstrap, context, bytes)?;
        Ok(Endpoint {
            rank: bootstrap.rank(),
            context: Arc::clone(context),
            abandon_stream: stream,
            record: ManuallyDrop::new(record),
            timeout_ns: AtomicU64::new(nanoseconds(timeout)),
            window: [heap.address(), heap.stride()],
            heap: ManuallyDrop::new(Mutex::new(heap)),
            state_address: state.address(),
            state: Mutex::new(state),
            chain,
            captured_chain,
            desk: Mutex::new(Desk::new(members)),
        })
    }
}

/// The state of a device that has run no round with these members.
fn set_state(
    stream: &Stream,
    state: &mut Buffer<EpState>,
    members: Members,
) -> Result<(), EpError> {
    let live = members.ranks().fold(0, |mask, rank| mask | 1 << rank);
    let fresh = EpState {
        live,
        ..Default::default()
    };
    state.copy_from(stream, &[fresh])?;
    stream.synchronize_within(DEFAULT_WAIT)?;
    Ok(())
}

/// Addresses that every kernel gets.
#[derive(Debug, Clone, Copy)]
pub(in crate::ep) struct Addresses {
    pub(in crate::ep) heap: u64,
    pub(in crate::ep) heap_stride: u64,
    pub(in crate::ep) state: u64,
    pub(in crate::ep) fault: u64,
    pub(in crate::ep) timeout_ns: u64,
}

impl Endpoint {
    /// Begins a call: refused after a fault or a failure.
    pub(in crate::ep) fn enter(&self) -> Result<MutexGuard<'_, Desk>, EpError> {
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
    pub(in crate::ep) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::ep) fn set_timeout(&self, timeout: Duration) {
        let timeout = nanoseconds(timeout).max(1);
        self.timeout_ns.store(timeout, Ordering::Relaxed);
    }

    /// What has gone wrong on the device so far: a fault for ever, an abandoned round once.
    pub(in crate::ep) fn check(&self) -> Result<(), EpError> {
        let mut desk = self.enter()?;
        let (epoch, ranks) = fault::abandoned(&self.record)?;
        if epoch <= desk.reported {
            return Ok(());
        }
        desk.reported = epoch;
        Err(EpError::Abandoned { epoch, ranks })
    }

    pub(in crate::ep) fn addresses(&self) -> Addresses {
        Addresses {
            heap: self.window[0],
            heap_stride: self.window[1],
            state: self.state_address,
            fault: self.record.address(),
            timeout_ns: self.timeout_ns.load(Ordering::Relaxed),
        }
    }

    /// What the kernels that `stream` is past have noted, with the bytes of a dispatched and of a combined row.
    pub(in crate::ep) fn stats(
        &self,
        stream: &Stream,
        ranks: u32,
        row_bytes: [u64; 2],
    ) -> Result<EpStats, EpError> {
        let mut state = [EpState::default()];
        let device = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        device.copy_to(stream, &mut state)?;
        Ok(EpStats::new((self.rank, ranks), &state[0], row_bytes))
    }

    /// Begins a round whose first kernels are on `stream`.
    pub(in crate::ep) fn begin(&self, desk: &mut Desk, stream: &Stream) -> Result<(), EpError> {
        desk.ledger.begin(stream.capture_id()?);
        Ok(())
    }

    /// Refuses `operation` of `epoch` of a membership on `stream` when it is not its turn.
    pub(in crate::ep) fn turn(
        &self,
        desk: &Desk,
        stream: &Stream,
        (operation, epoch, membership): (Operation, u64, u64),
    ) -> Result<(), EpError> {
        desk.still(operation, membership)?;
        desk.ledger.turn(operation, epoch)?;
        let called = stream.capture_id()?;
        if desk.ledger.capture(epoch) == called {
            return Ok(());
        }
        Err(EpError::Capture { operation, epoch })
    }

    /// Enqueues a kernel behind the previous one of this rank.
    pub(in crate::ep) fn launch<P: KernelParams>(
        &self,
        desk: &mut Desk,
        stream: &Stream,
        (kernel, ctas): (&Kernel, u32),
        params: &P,
    ) -> Result<(), EpError> {
        let config = LaunchConfig::new(kernel, [ctas, 1, 1]);
        let capture = stream.capture_id()?;
        let chain = match capture {
            None => Some(&self.chain),
            Some(_) if capture == desk.captured => Some(&self.captured_chain),
            // The first launch of a capture: an event from outside cannot be waited for.
            Some(_) => None,
        };
        let waited = chain.map_or(Ok(()), |chain| stream.wait_event(chain));
        let launched = waited.and_then(|()| {
            // SAFETY: (1) and (2) as the header of this file says; (3) the protocol orders all accesses
            // to windows, and the event chain those to this rank's own memory. Of a captured launch the
            // caller of `Graph::launch` promises all three.
            unsafe { stream.launch(kernel, &config, params) }?;
            if capture.is_some() {
                desk.captured = capture;
                self.captured_chain.record(stream)
            } else {
                self.chain.record(stream)
            }
        });
        launched.map_err(|error| {
            let error = EpError::from(error);
            desk.failed.get_or_insert_with(|| error.to_string());
            error
        })
    }

    /// Who takes part.
    pub(in crate::ep) fn members(&self) -> Members {
        self.desk().members
    }

    /// Agrees with the ranks that are left on who they are, unless that has been done, and begins anew with them. Ranks that are
    /// lost meanwhile are left out as well.
    pub(in crate::ep) fn recover(&self, bootstrap: &mut Bootstrap) -> Result<(), EpError> {
        let before = self.close("the members recover")?;
        loop {
            if bootstrap.is_broken() || bootstrap.members().epoch() <= before.epoch() {
                bootstrap.recover()?;
            }
            let renewed = self.renew(bootstrap);
            // A meeting that failed is a rank that was lost, and each is lost but once.
            if renewed.is_ok() || !bootstrap.is_broken() {
                return renewed;
            }
        }
    }

    /// Begins anew with the members of another bootstrap; the counterpart of [`LocalEndpoint::join`], after `agree_on`.
    pub(in crate::ep) fn rejoin<D: Copy + PartialEq + Debug + Serialize + DeserializeOwned>(
        &self,
        bootstrap: &mut Bootstrap,
        allocate: &'static str,
        (ranks, desc): (u32, D),
    ) -> Result<(), EpError> {
        let before = self.close("a rank rejoins")?;
        if bootstrap.rank() != self.rank {
            return Err(EpError::Desc {
                field: "rank",
                value: bootstrap.rank().to_string(),
                expected: format!("{}, as before", self.rank),
            });
        }
        agree_on(bootstrap, (ranks, before.epoch()), desc)?;
        bootstrap.agree::<_, EpError>(allocate, Ok(()))?;
        self.renew(bootstrap)
    }

    /// Refuses all calls from now on, and waits for this rank's kernels.
    fn close(&self, why: &'static str) -> Result<Members, EpError> {
        let members = {
            let mut desk = self.desk();
            desk.failed = Some(why.to_owned());
            desk.members
        };
        self.chain.synchronize_within(DEFAULT_WAIT)?;
        Ok(members)
    }

    /// New windows, a fresh state, and an open desk.
    fn renew(&self, bootstrap: &mut Bootstrap) -> Result<(), EpError> {
        let members = bootstrap.members();
        let ready = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            set_state(&self.abandon_stream, &mut state, members)
        };
        bootstrap.agree("all-to-all: state", ready)?;
        self.record.clear();
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        heap.renew(bootstrap, &self.context)?;
        *self.desk() = Desk::new(members);
        Ok(())
    }

    /// A checker of the arguments of `operation`.
    pub(in crate::ep) fn arguments(&self, operation: &'static str) -> Arguments<'_> {
        Arguments {
            context: &self.context,
            operation,
        }
    }
}

/// Whether a receiving kernel copies rows or only keeps the protocol going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ep) enum Abandon {
    No = 0,
    Yes = 1,
}

fn nanoseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Endpoint {
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

/// All ranks bring the same description, made for as many ranks as meet; the plan follows from it. And each brings its
/// last membership, which the common one follows: 0 where there was none.
pub(in crate::ep) fn agree_on<D: Copy + PartialEq + Debug + Serialize + DeserializeOwned>(
    bootstrap: &mut Bootstrap,
    (ranks, last): (u32, u64),
    desc: D,
) -> Result<(), EpError> {
    if bootstrap.ranks() != ranks {
        return Err(EpError::Desc {
            field: "ranks",
            value: ranks.to_string(),
            expected: format!("{}, the ranks that meet", bootstrap.ranks()),
        });
    }
    let last = last.max(bootstrap.members().epoch() - 1);
    let all = bootstrap.all_gather("all-to-all: plan", (last, desc))?;
    let last = all.iter().map(|(_, (last, _))| *last).max().unwrap_or(last);
    bootstrap.set_epoch(last + 1);
    for (rank, (_, other)) in all {
        if other != desc {
            return Err(EpError::Memory(MemoryError::Disagreement {
                what: "plan of the all-to-all",
                rank,
                found: format!("{other:?}"),
                expected: format!("{desc:?}"),
            }));
        }
    }
    Ok(())
}

/// Checks the arguments of one call.
pub(in crate::ep) struct Arguments<'a> {
    context: &'a Arc<Context>,
    operation: &'static str,
}

impl Arguments<'_> {
    /// The address of row `first` of a buffer with room for `[first + rows][columns]`.
    pub(in crate::ep) fn rows<T: Pod>(
        &self,
        what: &'static str,
        buffer: &Buffer<T>,
        [first, rows, columns]: [u32; 3],
    ) -> Result<u64, EpError> {
        let [first, rows, columns] = [first, rows, columns].map(u64::from);
        let address = self.elements(what, buffer, (first + rows) * columns)?;
        Ok(address + first * columns * size_of::<T>() as u64)
    }

    /// The address of a buffer of at least `needed` elements on this rank's device.
    pub(in crate::ep) fn elements<T: Pod>(
        &self,
        what: &'static str,
        buffer: &Buffer<T>,
        needed: u64,
    ) -> Result<u64, EpError> {
        if !Arc::ptr_eq(buffer.context(), self.context) {
            let found = format!("on device {}", buffer.context().ordinal());
            let expected = format!("in the context of device {}", self.context.ordinal());
            return Err(self.refuse(what, found, expected));
        }
        if (buffer.len() as u64) < needed {
            let found = format!("{} elements", buffer.len());
            return Err(self.refuse(what, found, format!("at least {needed}")));
        }
        Ok(buffer.address())
    }

    pub(in crate::ep) fn refuse(
        &self,
        what: &'static str,
        value: String,
        expected: impl ToString,
    ) -> EpError {
        EpError::Argument {
            operation: self.operation,
            what,
            value,
            expected: expected.to_string(),
        }
    }
}
