//! `tensormap.replace` and `tensormap.cp_fenceproxy`: tensor maps edited and moved by the guest.
#![expect(unsafe_code, reason = "tensor maps live in guest memory")]

use std::sync::atomic::{Ordering, fence};

use super::access::{MemCtx, Span};
use super::inst::LaneFault;
use super::system::{Site, read_bytes};
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{Space, TensormapField};
use crate::mem::Access;
use crate::tensor::map::{self, Field};

/// The span of a map; a `CUtensorMap` is aligned to 64 bytes.
const fn span(access: Access) -> Span {
    Span {
        bytes: map::BYTES as u64,
        align: 64,
        access,
    }
}

/// The field of the encoding.
const fn field_of(field: TensormapField) -> Field {
    match field {
        TensormapField::GlobalAddress => Field::Address,
        TensormapField::Rank => Field::Rank,
        TensormapField::BoxDim(i) => Field::BoxDimension(i as usize),
        TensormapField::GlobalDim(i) => Field::Dimension(i as usize),
        TensormapField::GlobalStride(i) => Field::Stride(i as usize),
        TensormapField::ElementStride(i) => Field::ElementStride(i as usize),
        TensormapField::Elemtype => Field::DataType,
        TensormapField::InterleaveLayout => Field::Interleave,
        TensormapField::SwizzleMode => Field::Swizzle,
        TensormapField::FillMode => Field::Fill,
    }
}

fn write_map(host: *mut u8, bytes: &[u8; map::BYTES]) {
    // SAFETY: the caller resolved the address for writing 128 bytes; `bytes` is no guest memory.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, map::BYTES) };
}

impl Warp {
    /// `tensormap.replace`, by every lane of the site.
    pub(super) fn tensormap_replace(
        &mut self,
        ctx: &MemCtx<'_>,
        site: Site<'_>,
        (field, space, offset): (TensormapField, Space, i64),
    ) -> Result<Step, LaneFault> {
        for lane in (0..32).filter(|lane| site.mask >> lane & 1 != 0) {
            let value = |index: usize| self.regs.operand_u64(&site.instr.src[index], lane);
            let mut address = value(0).wrapping_add_signed(offset);
            if matches!(space, Space::Shared | Space::SharedCluster) {
                address &= 0xffff_ffff;
            }
            let host = ctx.resolve_one(space, address, lane, span(Access::Write))?;
            let mut bytes: [u8; map::BYTES] = read_bytes(host);
            map::replace(&mut bytes, field_of(field), value(1)).map_err(|error| {
                let what = format!("tensormap.replace of {field:?} by {:#x}: {error}", value(1));
                let kind = FaultKind::IllegalInstruction { what };
                LaneFault { lane, kind }
            })?;
            write_map(host, &bytes);
        }
        Ok(Step::Next)
    }

    /// `tensormap.cp_fenceproxy`: one copy for the warp, and the fence.
    pub(super) fn tensormap_copy(
        &mut self,
        ctx: &MemCtx<'_>,
        site: Site<'_>,
    ) -> Result<Step, LaneFault> {
        let lane = site.mask.trailing_zeros();
        let operand = |index: usize| self.regs.operand_u64(&site.instr.src[index], lane);
        let from = operand(1) & 0xffff_ffff;
        let from = ctx.resolve_one(Space::Shared, from, lane, span(Access::Read))?;
        let to = ctx.resolve_one(Space::Generic, operand(0), lane, span(Access::Write))?;
        write_map(to, &read_bytes(from));
        fence(Ordering::AcqRel);
        Ok(Step::Next)
    }
}
