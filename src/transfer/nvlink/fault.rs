//! Reads the record that a kernel leaves in host-visible memory (csrc/params/nvlink.h).

use std::mem::offset_of;
use std::time::Duration;

use super::{Fault, FaultKind, NvLinkError, Operation};
use crate::memory::MappedHost;
use crate::params::{self, NvlinkFault};

/// The fault of this rank, if there is one.
pub(super) fn recorded(record: &MappedHost) -> Result<Option<Fault>, NvLinkError> {
    // The device stores the kind last, with release: the rest is complete once it is seen.
    let kind = match record.load_u32(offset_of!(NvlinkFault, kind))? {
        params::HADAL_NVLINK_FAULT_NONE => return Ok(None),
        params::HADAL_NVLINK_FAULT_TIMEOUT => FaultKind::Timeout,
        params::HADAL_NVLINK_FAULT_POISONED => FaultKind::Poisoned,
        params::HADAL_NVLINK_FAULT_PROTOCOL => FaultKind::Protocol,
        other => return Err(unknown("kind", other)),
    };
    let operation = match record.load_u32(offset_of!(NvlinkFault, operation))? {
        params::HADAL_NVLINK_OP_WAIT => Operation::Wait,
        params::HADAL_NVLINK_OP_BARRIER => Operation::Barrier,
        params::HADAL_NVLINK_OP_GATHER_CREDIT => Operation::GatherCredit,
        params::HADAL_NVLINK_OP_GATHER_SIGNAL => Operation::GatherSignal,
        other => return Err(unknown("operation", other)),
    };
    Ok(Some(Fault {
        kind,
        operation,
        rank: record.load_u32(offset_of!(NvlinkFault, rank))?,
        peer: record.load_u32(offset_of!(NvlinkFault, peer))?,
        slot: record.load_u32(offset_of!(NvlinkFault, slot))?,
        expected: record.load_u64(offset_of!(NvlinkFault, expected))?,
        seen: record.load_u64(offset_of!(NvlinkFault, seen))?,
        waited: Duration::from_nanos(record.load_u64(offset_of!(NvlinkFault, waited_ns))?),
    }))
}

fn unknown(what: &'static str, value: u32) -> NvLinkError {
    NvLinkError::Argument {
        operation: "fault record",
        what,
        value: value.to_string(),
        expected: "one of csrc/params/nvlink.h".into(),
    }
}
