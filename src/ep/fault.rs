//! Reads the record that a kernel leaves in host-visible memory (csrc/params/ep_latency.h).

use std::mem::offset_of;
use std::time::Duration;

use crate::ep::{EpError, Fault, FaultKind, Operation, Phase};
use crate::memory::{MappedHost, MemoryError};
use crate::params::{self, EpFault};

/// Bits of the mask below the epoch in the word `abandoned`.
const MASK_BITS: u32 = 16;
const _: () = assert!(params::HADAL_EP_MAX_RANKS <= MASK_BITS);

/// The fault of this rank, if there is one.
pub(in crate::ep) fn recorded(record: &MappedHost) -> Result<Option<Fault>, EpError> {
    // The device stores the kind last, with release: the rest is complete once it is seen.
    let kind = record.load_u32(offset_of!(EpFault, kind))?;
    if kind == params::HADAL_EP_FAULT_NONE {
        return Ok(None);
    }
    let word = |offset| record.load_u32(offset);
    let long = |offset| record.load_u64(offset);
    Ok(Some(Fault {
        kind: fault_kind(kind)?,
        operation: operation(word(offset_of!(EpFault, kernel))?)?,
        rank: word(offset_of!(EpFault, rank))?,
        peer: word(offset_of!(EpFault, peer))?,
        phase: phase(word(offset_of!(EpFault, phase))?)?,
        slot: word(offset_of!(EpFault, slot))?,
        epoch: long(offset_of!(EpFault, epoch))?,
        expected: long(offset_of!(EpFault, expected))?,
        seen: long(offset_of!(EpFault, seen))?.cast_signed(),
        waited: Duration::from_nanos(long(offset_of!(EpFault, waited_ns))?),
    }))
}

/// Epoch and ranks of the latest round that was combined here and abandoned by others; epoch 0: none.
pub(in crate::ep) fn abandoned(record: &MappedHost) -> Result<(u64, Vec<u32>), MemoryError> {
    let word = record.load_u64(offset_of!(EpFault, abandoned))?;
    let ranks = (0..MASK_BITS).filter(|rank| word >> rank & 1 == 1);
    Ok((word >> MASK_BITS, ranks.collect()))
}

fn unknown<T>(what: &'static str, value: u32) -> Result<T, EpError> {
    Err(EpError::Argument {
        operation: "fault record",
        what,
        value: value.to_string(),
        expected: "one of csrc/params/ep_latency.h".into(),
    })
}

fn fault_kind(value: u32) -> Result<FaultKind, EpError> {
    Ok(match value {
        params::HADAL_EP_FAULT_TIMEOUT => FaultKind::Timeout,
        params::HADAL_EP_FAULT_POISONED => FaultKind::Poisoned,
        params::HADAL_EP_FAULT_INDEX => FaultKind::Index,
        params::HADAL_EP_FAULT_ROWS => FaultKind::Rows,
        params::HADAL_EP_FAULT_PROTOCOL => FaultKind::Protocol,
        _ => return unknown("kind", value),
    })
}

fn operation(value: u32) -> Result<Operation, EpError> {
    Ok(match value {
        params::HADAL_EP_DISPATCH_SEND => Operation::DispatchSend,
        params::HADAL_EP_DISPATCH_RECV => Operation::DispatchRecv,
        params::HADAL_EP_COMBINE_SEND => Operation::CombineSend,
        params::HADAL_EP_COMBINE_RECV => Operation::CombineRecv,
        params::HADAL_EP_COUNT => Operation::Count,
        _ => return unknown("kernel", value),
    })
}

fn phase(value: u32) -> Result<Phase, EpError> {
    Ok(match value {
        params::HADAL_EP_PHASE_DISPATCH_CREDIT => Phase::DispatchCredit,
        params::HADAL_EP_PHASE_DISPATCH_SIGNAL => Phase::DispatchSignal,
        params::HADAL_EP_PHASE_COMBINE_CREDIT => Phase::CombineCredit,
        params::HADAL_EP_PHASE_COMBINE_SIGNAL => Phase::CombineSignal,
        params::HADAL_EP_PHASE_ROUTING => Phase::Routing,
        params::HADAL_EP_PHASE_PLACEMENT => Phase::Placement,
        params::HADAL_EP_PHASE_COUNTS => Phase::Counts,
        _ => return unknown("phase", value),
    })
}
