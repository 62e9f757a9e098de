//! Functions that the driver provides to device code: `vprintf`, `__assertfail`, `malloc`, `free`.

use std::fmt::Write as _;

use super::access::{MemCtx, Span};
use super::cta::Env;
use super::device::services;
use super::inst::LaneFault;
use super::printf::{Arguments, format};
use super::regs::Slot;
use super::system::{Site, read_bytes};
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{Builtin, Space};
use crate::mem::Access;

/// Longest string that is read: a missing NUL must not read all of memory.
const STRING_LIMIT: u64 = 1 << 20;

fn read<const N: usize>(ctx: &MemCtx<'_>, address: u64, lane: u32) -> Result<[u8; N], LaneFault> {
    let span = Span {
        bytes: N as u64,
        align: N as u64,
        access: Access::Read,
    };
    let host = ctx.resolve_one(Space::Generic, address, lane, span)?;
    Ok(read_bytes(host))
}

fn read_string(ctx: &MemCtx<'_>, address: u64, lane: u32) -> Result<Vec<u8>, LaneFault> {
    let mut text = Vec::new();
    for offset in 0..STRING_LIMIT {
        let [byte] = read::<1>(ctx, address.wrapping_add(offset), lane)?;
        if byte == 0 {
            break;
        }
        text.push(byte);
    }
    Ok(text)
}

/// The argument buffer of one thread.
struct Buffer<'a> {
    ctx: &'a MemCtx<'a>,
    lane: u32,
    at: u64,
    fault: Option<LaneFault>,
}

impl Buffer<'_> {
    fn keep<T>(&mut self, result: Result<T, LaneFault>) -> Option<T> {
        result.map_err(|fault| self.fault = Some(fault)).ok()
    }
}

impl Arguments for Buffer<'_> {
    fn value(&mut self, bytes: u32) -> Option<u64> {
        let at = self.at.next_multiple_of(bytes.into());
        self.at = at + u64::from(bytes);
        let value = if bytes == 8 {
            read::<8>(self.ctx, at, self.lane).map(u64::from_le_bytes)
        } else {
            read::<4>(self.ctx, at, self.lane).map(|word| u32::from_le_bytes(word).into())
        };
        self.keep(value)
    }

    fn string(&mut self, address: u64) -> Option<Vec<u8>> {
        let text = read_string(self.ctx, address, self.lane);
        self.keep(text)
    }
}

impl Warp {
    /// Executes a function of the driver for the lanes of the site, one after the other.
    pub(super) fn builtin(
        &mut self,
        env: &Env,
        ctx: &MemCtx<'_>,
        site: Site<'_>,
        builtin: Builtin,
    ) -> Result<Step, LaneFault> {
        if builtin == Builtin::AssertFail {
            return Err(self.assertion(env, ctx, site));
        }
        let Site { instr, mask, .. } = site;
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let argument = |warp: &Self, index: usize| {
                let operand = instr.src.get(index);
                operand.map_or(0, |operand| warp.regs.operand_u64(operand, lane))
            };
            let (first, second) = (argument(self, 0), argument(self, 1));
            let services = services(env.launch.device);
            let result = match builtin {
                Builtin::Printf => {
                    let layout = read_string(ctx, first, lane)?;
                    let mut buffer = Buffer {
                        ctx,
                        lane,
                        at: second,
                        fault: None,
                    };
                    match (format(&layout, &mut buffer), buffer.fault) {
                        (Some((text, count)), _) => {
                            services.print(text);
                            u64::from(count.cast_unsigned())
                        }
                        (None, Some(fault)) => return Err(fault),
                        (None, None) => 0,
                    }
                }
                Builtin::Malloc => services.heap.lock().malloc(first),
                _ => {
                    if !services.heap.lock().free(first) {
                        let (address, bytes, write) = (first, 0, true);
                        let kind = FaultKind::IllegalAddress {
                            address,
                            bytes,
                            write,
                        };
                        return Err(LaneFault { lane, kind });
                    }
                    0
                }
            };
            if let Some(dst) = instr.dst.first() {
                self.regs.set_value(Slot(dst.slot), dst.class, lane, result);
            }
        }
        Ok(Step::Next)
    }

    /// The fault of a failed assertion: a line for each thread, as a device prints them.
    fn assertion(&self, env: &Env, ctx: &MemCtx<'_>, site: Site<'_>) -> LaneFault {
        let Site { instr, mask, .. } = site;
        let [x, y, z] = env.positions[self.rank as usize].cta;
        let mut message = String::new();
        for lane in (0..32u32).filter(|lane| mask >> lane & 1 != 0) {
            let argument = |index: usize| {
                let operand = instr.src.get(index);
                operand.map_or(0, |operand| self.regs.operand_u64(operand, lane))
            };
            let text = |index: usize| {
                let text = read_string(ctx, argument(index), lane).unwrap_or_default();
                String::from_utf8_lossy(&text).into_owned()
            };
            let [i, j, k] = self.tid.map(|tid| tid[lane as usize]);
            if !message.is_empty() {
                message.push('\n');
            }
            let _ = write!(
                message,
                "{}:{}: {}: block: [{x},{y},{z}], thread: [{i},{j},{k}] Assertion `{}` failed.",
                text(1),
                argument(2),
                text(3),
                text(0),
            );
        }
        LaneFault {
            lane: mask.trailing_zeros(),
            kind: FaultKind::Assert { message },
        }
    }
}
