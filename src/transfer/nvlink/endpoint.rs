//! One rank's resources, and the only place that launches the kernels.
//!
//! # Safety
//! The kernels' contract is `docs/protocol.md`, "NVLink primitives", and csrc/params/nvlink.h. Addresses of the heap, the state
//! and the record are owned by [`Endpoint`]. Its drop frees device memory first, which waits for work that
//! uses it, and only then unmaps the heap. Ranges of a call are checked before they come here, and freeing a device buffer
//! waits for work that uses it.
#![expect(
    unsafe_code,
    reason = "launches kernels whose contract is fulfilled here"
)]

use std::sync::Arc;

use super::{Desc, Layout, NvLinkError, fault};
use crate::device::{Buffer, Context, DeviceError, Kernel, LaunchConfig, Stream};
use crate::memory::{Bootstrap, MappedHost, SymmetricHeap};
use crate::params::{KernelParams, Nvlink, NvlinkFault, NvlinkState};

#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) copy_vector: Kernel,
    pub(super) copy_bulk: Kernel,
    pub(super) signal: Kernel,
    pub(super) wait: Kernel,
    pub(super) barrier: Kernel,
    pub(super) all_gather: Kernel,
    pub(super) peer: Collectives,
    pub(super) multicast: Collectives,
}

/// Of one path.
#[derive(Debug)]
pub(super) struct Collectives {
    pub(super) broadcast: Kernel,
    pub(super) all_reduce_f32: Kernel,
    pub(super) all_reduce_bf16: Kernel,
}

impl Kernels {
    /// Loads them now: loading one while peers wait could wait for them in turn.
    fn load(context: &Arc<Context>) -> Result<Self, NvLinkError> {
        Ok(Self {
            copy_vector: context.kernel("nvlink_copy_vector")?,
            copy_bulk: context.kernel("nvlink_copy_bulk")?,
            signal: context.kernel("nvlink_signal")?,
            wait: context.kernel("nvlink_wait")?,
            barrier: context.kernel("nvlink_barrier")?,
            all_gather: context.kernel("nvlink_all_gather")?,
            peer: Collectives {
                broadcast: context.kernel("nvlink_broadcast_peer")?,
                all_reduce_f32: context.kernel("nvlink_all_reduce_peer_f32")?,
                all_reduce_bf16: context.kernel("nvlink_all_reduce_peer_bf16")?,
            },
            multicast: Collectives {
                broadcast: context.kernel("nvlink_broadcast_multicast")?,
                all_reduce_f32: context.kernel("nvlink_all_reduce_multicast_f32")?,
                all_reduce_bf16: context.kernel("nvlink_all_reduce_multicast_bf16")?,
            },
        })
    }
}

/// One rank's window, and what its primitives need.
///
/// Dropping it waits for this rank's work on the device; peers may end later.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) context: Arc<Context>,
    pub(super) desc: Desc,
    pub(super) layout: Layout,
    pub(super) kernels: Kernels,
    /// Per signal, what counting waits have waited for.
    pub(super) consumed: Buffer<u64>,
    /// Per rank and signal, CTAs of a put that have arrived.
    pub(super) arrived: Buffer<u32>,
    // Fields are dropped in this order: the buffers above and the state wait for the device.
    state: Buffer<NvlinkState>,
    record: MappedHost,
    heap: SymmetricHeap,
}

impl Endpoint {
    /// Allocates this rank's window and maps everyone's. All ranks call it together, with an equal `desc`.
    ///
    /// # Errors
    /// A description that cannot be laid out, a bootstrap with masked ranks, a driver error here or on a peer, or a failed
    /// meeting.
    pub fn new(
        desc: &Desc,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<Self, NvLinkError> {
        let members = bootstrap.members();
        if members.count() != bootstrap.ranks() {
            // On all of them alike.
            return Err(NvLinkError::Argument {
                operation: "NVLink endpoint",
                what: "members of the bootstrap",
                value: format!("ranks {:?}", members.ranks().collect::<Vec<_>>()),
                expected: format!("all {} ranks", bootstrap.ranks()),
            });
        }
        let own = Own::new(desc, bootstrap.ranks(), context);
        let Own {
            layout,
            kernels,
            consumed,
            arrived,
            state,
            record,
        } = bootstrap.agree("NVLink endpoint: allocate", own)?;
        // Ends with a meeting: from here on peers may write.
        let mut heap = SymmetricHeap::new(bootstrap, context, layout.bytes)?;
        if desc.multicast {
            heap.share_multicast(bootstrap, context)?;
        }
        Ok(Self {
            context: Arc::clone(context),
            desc: *desc,
            layout,
            kernels,
            consumed,
            arrived,
            state,
            record,
            heap,
        })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.heap.rank()
    }

    /// All ranks.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.heap.ranks()
    }

    /// What the window holds.
    #[must_use]
    pub fn desc(&self) -> &Desc {
        &self.desc
    }

    /// Where it lies in a window.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Address, on this rank, of the window of `rank`: for kernels of one's own.
    ///
    /// # Errors
    /// A rank that is none of the ranks.
    pub fn window(&self, rank: u32) -> Result<u64, NvLinkError> {
        self.check_rank("window", rank)?;
        Ok(self.heap.window(rank))
    }

    /// Address, on this rank, of all windows at once: for `multimem` instructions of kernels of one's own.
    ///
    /// # Errors
    /// Why there is none, the same on all ranks.
    pub fn multicast(&self) -> Result<u64, &str> {
        self.heap.multicast()
    }

    /// Reports the first fault of this rank, if its device has found one.
    ///
    /// # Errors
    /// [`NvLinkError::Fault`].
    pub fn check(&self) -> Result<(), NvLinkError> {
        match fault::recorded(&self.record)? {
            Some(fault) => Err(fault.into()),
            None => Ok(()),
        }
    }

    /// Waits for all work of `stream`, then reports as [`Self::check`].
    ///
    /// # Errors
    /// The error of the work itself, or [`NvLinkError::Fault`].
    pub fn synchronize(&self, stream: &Stream) -> Result<(), NvLinkError> {
        stream.synchronize()?;
        self.check()
    }

    /// Begins a call: refused after a fault, and on another context's stream.
    pub(super) fn enter(
        &self,
        operation: &'static str,
        stream: &Stream,
    ) -> Result<(), NvLinkError> {
        self.same_context(operation, "stream", stream.context())?;
        self.check()
    }

    pub(super) fn same_context(
        &self,
        operation: &'static str,
        what: &'static str,
        context: &Arc<Context>,
    ) -> Result<(), NvLinkError> {
        if Arc::ptr_eq(context, &self.context) {
            return Ok(());
        }
        Err(DeviceError::WrongContext { operation, what }.into())
    }

    pub(super) fn check_rank(&self, operation: &'static str, rank: u32) -> Result<(), NvLinkError> {
        if rank < self.ranks() {
            return Ok(());
        }
        Err(NvLinkError::Argument {
            operation,
            what: "rank",
            value: rank.to_string(),
            expected: format!("less than {}", self.ranks()),
        })
    }

    /// Address of signal `index` in the window of `rank`.
    pub(super) fn signal_address(
        &self,
        operation: &'static str,
        rank: u32,
        index: u32,
    ) -> Result<u64, NvLinkError> {
        self.check_rank(operation, rank)?;
        if index < self.desc.signals {
            let offset = self.layout.signals.offset + u64::from(index) * 8;
            return Ok(self.heap.window(rank) + offset);
        }
        Err(NvLinkError::Argument {
            operation,
            what: "signal",
            value: index.to_string(),
            expected: format!("less than {}", self.desc.signals),
        })
    }

    /// Address of `bytes` bytes at `offset` of the caller's part of the window of `rank`.
    pub(super) fn data_address(
        &self,
        operation: &'static str,
        rank: u32,
        (offset, bytes): (u64, u64),
    ) -> Result<u64, NvLinkError> {
        self.check_rank(operation, rank)?;
        let size = self.desc.bytes;
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(NvLinkError::Range {
                operation,
                what: "window",
                offset,
                bytes,
                size,
            });
        }
        Ok(self.heap.window(rank) + self.layout.data.offset + offset)
    }

    pub(super) fn state_address(&self) -> u64 {
        self.state.address()
    }

    /// What the device functions of `csrc/transfer/nvlink` are given: part of the parameters of kernels of one's own, under the
    /// contract of `docs/protocol.md`. The addresses are those of this rank's device and live as long as the endpoint.
    #[must_use]
    pub fn params(&self) -> Nvlink {
        let layout = &self.layout;
        Nvlink {
            heap: self.heap.address(),
            heap_stride: self.heap.stride(),
            state: self.state.address(),
            fault: self.record.address(),
            timeout_ns: super::sync::nanoseconds(self.desc.timeout),
            poison: layout.poison.offset,
            barrier: layout.barrier.offset,
            gather_signal: layout.gather_signal.offset,
            gather_credit: layout.gather_credit.offset,
            gather_slots: layout.gather_slots.offset,
            rank: self.rank(),
            ranks: self.ranks(),
            slot_bytes: layout.slot_bytes,
            reserved: 0,
        }
    }

    /// Enqueues `ctas` CTAs of a kernel whose addresses were checked.
    pub(super) fn launch<P: KernelParams>(
        &self,
        stream: &Stream,
        (kernel, ctas): (&Kernel, u32),
        params: &P,
    ) -> Result<(), NvLinkError> {
        let config = LaunchConfig::new(kernel, [ctas, 1, 1]);
        // SAFETY: (1) and (2) as the header of this file says; (3) the protocol orders accesses to
        // windows, which are never references.
        unsafe { stream.launch(kernel, &config, params) }?;
        Ok(())
    }
}

/// What does not need the peers.
struct Own {
    layout: Layout,
    kernels: Kernels,
    consumed: Buffer<u64>,
    arrived: Buffer<u32>,
    state: Buffer<NvlinkState>,
    record: MappedHost,
}

impl Own {
    fn new(desc: &Desc, ranks: u32, context: &Arc<Context>) -> Result<Self, NvLinkError> {
        let layout = desc.layout(ranks)?;
        let stream = Stream::new(context)?;
        let own = Self {
            layout,
            kernels: Kernels::load(context)?,
            consumed: Buffer::zeroed(&stream, desc.signals as usize)?,
            // Cannot wrap: the layout is refused then.
            arrived: Buffer::zeroed(&stream, (desc.signals * ranks) as usize)?,
            state: Buffer::zeroed(&stream, 1)?,
            record: MappedHost::zeroed(context, size_of::<NvlinkFault>())?,
        };
        stream.synchronize()?;
        Ok(own)
    }
}
