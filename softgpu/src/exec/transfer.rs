//! Data movement of the asynchronous copy engine, at the moment of completion.
//!
//! Loads write shared memory and then complete bytes on an mbarrier of the receiving CTA. Stores
//! first read their source into a buffer (which frees it: `wait_group.read`), and write global
//! memory in a second step.
#![expect(unsafe_code, reason = "guest memory is reached through pointers")]

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::counters::AsyncBytes;
use super::cta::{Env, Origin, State};
use super::held::{self, Verdicts};
use super::inject::{self, Effect};
use super::mbar;
use super::traffic::{Deed, Traffic};
use crate::error::FaultKind;
use crate::mem::{Access, AddressSpace};
use crate::tensor::copy::{self, Global};
use crate::tensor::map::TensorMap;
use crate::tensor::reduce::Reduction;

/// A rank and an offset in that CTA's shared memory.
pub(super) type Place = (u32, u32);

/// Coordinates of a box.
pub(super) type Coordinates = SmallVec<[i32; 5]>;

/// Where a load takes its bytes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Global {
        address: u64,
        bytes: u32,
    },
    Tensor {
        map: TensorMap,
        at: Coordinates,
    },
    Shared {
        place: Place,
        bytes: u32,
    },
    /// Values of registers, little-endian.
    Value(SmallVec<[u8; 16]>),
}

/// Where a store puts its bytes.
#[derive(Debug, Clone)]
pub(super) enum Destination {
    Global { address: u64, bytes: u32 },
    Tensor { map: TensorMap, at: Coordinates },
}

/// A receiving CTA: where the bytes go and the mbarrier that counts them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) mbarrier: Place,
}

/// One lane of `cp.async`.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneCopy {
    pub(super) to: Place,
    pub(super) from: u64,
    /// Bytes written; those beyond `read` are zero.
    pub(super) bytes: u32,
    pub(super) read: u32,
}

/// Rows read from a source, with the global addresses they go to.
#[derive(Debug, Clone, Default)]
pub(super) struct Staged {
    data: Vec<u8>,
    rows: Vec<(u64, usize)>,
}

/// A movement of bytes.
#[derive(Debug, Clone)]
pub(super) enum Transfer {
    Load {
        source: Source,
        targets: SmallVec<[Target; 2]>,
        /// Combines with what is there (shared memory only).
        reduction: Option<Reduction>,
    },
    Store {
        source: Place,
        destination: Destination,
        reduction: Option<Reduction>,
        staged: Option<Staged>,
    },
    Copies(Vec<LaneCopy>),
}

/// Whether a transfer is through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The source has been read.
    Read,
    /// Complete.
    Done,
}

/// Global memory as a device sees it.
struct Memory<'a> {
    space: &'static AddressSpace,
    device: u32,
    /// Counts what is read.
    traffic: Option<&'a mut Traffic>,
}

impl<'a> Memory<'a> {
    fn of(env: &Env, traffic: Option<&'a mut Traffic>) -> Self {
        Self {
            space: AddressSpace::global(),
            device: env.launch.device,
            traffic,
        }
    }

    fn host(&self, address: u64, bytes: usize, access: Access) -> Result<*mut u8, FaultKind> {
        let bytes = bytes as u64;
        let host = self.space.translate(self.device, address, bytes, access);
        host.ok_or(FaultKind::IllegalAddress {
            address,
            bytes,
            write: access == Access::Write,
        })
    }
}

impl Global for Memory<'_> {
    fn read(&mut self, address: u64, row: &mut [u8]) -> Result<(), FaultKind> {
        let host = self.host(address, row.len(), Access::Read)?;
        if let Some(traffic) = &mut self.traffic {
            traffic.global(self.device, address, (Deed::Read, row.len() as u64));
        }
        // SAFETY: `translate` answered for the whole range, which does not overlap host objects.
        unsafe { std::ptr::copy_nonoverlapping(host, row.as_mut_ptr(), row.len()) };
        Ok(())
    }

    fn write(&mut self, address: u64, row: &[u8]) -> Result<(), FaultKind> {
        let host = self.host(address, row.len(), Access::Write)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), host, row.len()) };
        Ok(())
    }

    fn combine(&mut self, address: u64, row: &[u8], reduction: Reduction) -> Result<(), FaultKind> {
        let host = self.host(address, row.len(), Access::Write)?;
        let size = reduction.data_type().bytes();
        if !address.is_multiple_of(size as u64) {
            let align = size as u64;
            return Err(FaultKind::MisalignedAddress { address, align });
        }
        for (index, element) in row.chunks_exact(size).enumerate() {
            let mut word = [0; 8];
            word[..size].copy_from_slice(element);
            let operand = u64::from_le_bytes(word);
            combine_element(host.wrapping_add(index * size), size, operand, reduction);
        }
        Ok(())
    }
}

/// One atomic element operation on a translated, aligned address.
#[expect(
    clippy::cast_possible_truncation,
    reason = "elements sit in the low bits of the word"
)]
pub(super) fn combine_element(host: *mut u8, size: usize, operand: u64, reduction: Reduction) {
    let order = (Ordering::Relaxed, Ordering::Relaxed);
    match size {
        2 => {
            // SAFETY: valid for two bytes and aligned; other threads use atomics or race by
            // the guest's own doing.
            let cell = unsafe { AtomicU16::from_ptr(host.cast()) };
            let next = |old: u16| Some(reduction.element(old.into(), operand) as u16);
            let _ = cell.fetch_update(order.0, order.1, next);
        }
        4 => {
            // SAFETY: as above, for four bytes.
            let cell = unsafe { AtomicU32::from_ptr(host.cast()) };
            let next = |old: u32| Some(reduction.element(old.into(), operand) as u32);
            let _ = cell.fetch_update(order.0, order.1, next);
        }
        _ => {
            // SAFETY: as above, for eight bytes.
            let cell = unsafe { AtomicU64::from_ptr(host.cast()) };
            let _ = cell.fetch_update(order.0, order.1, |old| {
                Some(reduction.element(old, operand))
            });
        }
    }
}

/// Collects rows instead of writing them.
struct Collector<'a>(&'a mut Staged);

impl Global for Collector<'_> {
    fn read(&mut self, _: u64, row: &mut [u8]) -> Result<(), FaultKind> {
        let what = format!("reading {} bytes while staging a store", row.len());
        Err(FaultKind::Internal { what })
    }

    fn write(&mut self, address: u64, row: &[u8]) -> Result<(), FaultKind> {
        self.0.data.extend_from_slice(row);
        self.0.rows.push((address, row.len()));
        Ok(())
    }
}

/// Hands the shared memory of a CTA of the cluster to a function.
fn with_shared<R>(env: &Env, rank: u32, function: impl FnOnce(&mut [u8]) -> R) -> R {
    let memory = env.shared[rank as usize];
    // SAFETY: the block lives as long as `env`; the cluster belongs to this thread, and no caller
    // nests two of these.
    let shared = unsafe { std::slice::from_raw_parts_mut(memory.base, memory.len as usize) };
    function(shared)
}

/// Hands a range of shared memory to a function.
fn with_range<R>(
    env: &Env,
    (rank, offset): Place,
    bytes: u32,
    function: impl FnOnce(&mut [u8]) -> Result<R, FaultKind>,
) -> Result<R, FaultKind> {
    let start = offset as usize;
    let illegal = FaultKind::IllegalAddress {
        address: offset.into(),
        bytes: bytes.into(),
        write: true,
    };
    with_shared(env, rank, |shared| {
        let range = shared.get_mut(start..start + bytes as usize);
        function(range.ok_or(illegal)?)
    })
}

impl Transfer {
    /// Advances the transfer by one step.
    ///
    /// # Errors
    /// The fault of the guest.
    pub(super) fn advance(
        &mut self,
        env: &Env,
        st: &mut State,
        origin: Origin,
    ) -> Result<Progress, FaultKind> {
        match self {
            Self::Load {
                source,
                targets,
                reduction,
            } => {
                // The source is read once, however many CTAs receive it.
                let mut traffic = st.counters.traffic.take();
                for (index, target) in targets.iter().enumerate() {
                    let reader = traffic.as_deref_mut().filter(|_| index == 0);
                    let bytes = deliver(env, source, (target.place, *reduction), reader)?;
                    *loaded(&mut st.counters.moved, source, targets.len()) += u64::from(bytes);
                    mbar::complete_tx(env, st, target.mbarrier, bytes)?;
                }
                st.counters.traffic = traffic;
                Ok(Progress::Done)
            }
            Self::Store {
                source,
                destination,
                reduction,
                staged,
            } => match staged {
                None => {
                    *staged = Some(stage(env, *source, destination)?);
                    Ok(Progress::Read)
                }
                Some(rows) => {
                    let moved = &mut st.counters.moved;
                    *(match reduction {
                        Some(_) => &mut moved.reduce,
                        None => &mut moved.store,
                    }) += rows.data.len() as u64;
                    write(env, st, rows, (*reduction, origin))?;
                    Ok(Progress::Done)
                }
            },
            Self::Copies(lanes) => {
                for lane in lanes.iter() {
                    let mut bytes = [0; 16];
                    // A copy that reads nothing may name any address.
                    if lane.read != 0 {
                        let traffic = st.counters.traffic.as_deref_mut();
                        Memory::of(env, traffic)
                            .read(lane.from, &mut bytes[..lane.read as usize])?;
                    }
                    with_range(env, lane.to, lane.bytes, |to| {
                        to.copy_from_slice(&bytes[..lane.bytes as usize]);
                        Ok(())
                    })?;
                    st.counters.moved.cp_async += u64::from(lane.bytes);
                }
                Ok(Progress::Done)
            }
        }
    }
}

/// The counter for what a load delivers.
fn loaded<'a>(moved: &'a mut AsyncBytes, source: &Source, targets: usize) -> &'a mut u64 {
    match source {
        Source::Shared { .. } | Source::Value(_) => &mut moved.cluster,
        _ if targets > 1 => &mut moved.multicast,
        _ => &mut moved.load,
    }
}

fn deliver(
    env: &Env,
    source: &Source,
    (place, reduction): (Place, Option<Reduction>),
    traffic: Option<&mut Traffic>,
) -> Result<u32, FaultKind> {
    let mut memory = Memory::of(env, traffic);
    match source {
        Source::Tensor { map, at } => with_shared(env, place.0, |shared| {
            copy::load(map, at, shared, place.1, &mut memory)
        }),
        Source::Global { address, bytes } => {
            with_range(env, place, *bytes, |to| memory.read(*address, to))?;
            Ok(*bytes)
        }
        Source::Shared { place: from, bytes } => {
            let data = with_range(env, *from, *bytes, |from| Ok(from.to_vec()))?;
            with_range(env, place, *bytes, |to| {
                put(to, &data, reduction);
                Ok(*bytes)
            })
        }
        Source::Value(data) => {
            let bytes = u32::try_from(data.len()).unwrap_or(0);
            with_range(env, place, bytes, |to| {
                put(to, data, reduction);
                Ok(bytes)
            })
        }
    }
}

/// Puts bytes into shared memory, or combines them with what is there.
fn put(to: &mut [u8], data: &[u8], reduction: Option<Reduction>) {
    match reduction {
        Some(reduction) => reduction.row(to, data),
        None => to.copy_from_slice(data),
    }
}

fn stage(env: &Env, source: Place, destination: &Destination) -> Result<Staged, FaultKind> {
    let mut staged = Staged::default();
    match destination {
        Destination::Global { address, bytes } => {
            let mut collector = Collector(&mut staged);
            with_range(env, source, *bytes, |row| collector.write(*address, row))?;
        }
        Destination::Tensor { map, at } => {
            let mut collector = Collector(&mut staged);
            with_shared(env, source.0, |shared| {
                copy::store(map, at, shared, source.1, &mut collector)
            })?;
        }
    }
    Ok(staged)
}

fn write(
    env: &Env,
    st: &mut State,
    staged: &Staged,
    (reduction, origin): (Option<Reduction>, Origin),
) -> Result<(), FaultKind> {
    let device = env.launch.device;
    let injects = inject::concerns(device);
    let mut verdicts = Verdicts::default();
    let mut rest = &staged.data[..];
    for &(address, length) in &staged.rows {
        let (row, after) = rest.split_at(length);
        rest = after;
        if let Some(traffic) = &mut st.counters.traffic {
            let deed = if reduction.is_some() {
                Deed::Atomic
            } else {
                Deed::Write
            };
            traffic.global(device, address, (deed, length as u64));
        }
        let effect = injects.then(|| verdicts.of(device, address)).flatten();
        match effect {
            None => write_row(env, address, row, reduction)?,
            Some(Effect::Drop) => {}
            Some(Effect::Delay { ns }) => {
                let due = st.arrival(ns);
                st.held.keep_row((due, origin), address, row, reduction);
            }
            Some(Effect::Corrupt { bit }) => {
                verdicts.corrupted(address);
                write_row(env, address, &held::wrong(row, bit), reduction)?;
            }
        }
    }
    Ok(())
}

/// Writes a row of a store, or combines it with what is there.
pub(super) fn write_row(
    env: &Env,
    address: u64,
    row: &[u8],
    reduction: Option<Reduction>,
) -> Result<(), FaultKind> {
    let mut memory = Memory::of(env, None);
    match reduction {
        Some(reduction) => memory.combine(address, row, reduction),
        None => memory.write(address, row),
    }
}

/// Zeroes bytes of global memory that the machine has allocated itself.
pub(super) fn zero(device: u32, address: u64, bytes: u64) {
    let space = AddressSpace::global();
    if let Some(host) = space.translate(device, address, bytes, Access::Write) {
        let bytes = usize::try_from(bytes).unwrap_or(0);
        // SAFETY: `translate` answered for the whole range.
        unsafe { host.write_bytes(0, bytes) };
    }
}
