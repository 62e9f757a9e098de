//! Box copies of TMA in tiled mode: `cp.async.bulk.tensor` and `cp.reduce.async.bulk.tensor`.
//!
//! A box is dense in shared memory, dimension 0 innermost, its 16-byte chunks permuted by the
//! swizzle of its map. Elements outside of the tensor are filled on load and skipped on store; the
//! byte count of a load is always that of the full box. Source: PTX ISA, "tensor" chapters.
//!
//! Global memory is reached through [`Global`], a row at a time; shared memory is the byte slice of
//! a CTA, beginning at shared address 0.

use super::map::{Fill, MAX_RANK, TensorMap};
use super::reduce::Reduction;
use super::swizzle::Swizzle;
use crate::error::FaultKind;

/// Access to guest global memory.
pub trait Global {
    /// Reads `row.len()` bytes at `address`.
    ///
    /// # Errors
    /// `IllegalAddress` when some byte may not be read.
    fn read(&mut self, address: u64, row: &mut [u8]) -> Result<(), FaultKind>;

    /// Writes `row` at `address`.
    ///
    /// # Errors
    /// `IllegalAddress` when some byte may not be written.
    fn write(&mut self, address: u64, row: &[u8]) -> Result<(), FaultKind>;

    /// Combines each element at `address` with the element of `row`. Every element is one atomic
    /// operation for the guest; this default is not atomic, so whoever runs several threads on one
    /// memory overrides it (see [`Reduction::element`]).
    ///
    /// # Errors
    /// `IllegalAddress` when some byte may not be accessed.
    fn combine(&mut self, address: u64, row: &[u8], reduction: Reduction) -> Result<(), FaultKind> {
        let mut memory = [0; MAX_ROW];
        let memory = &mut memory[..row.len()];
        self.read(address, memory)?;
        reduction.row(memory, row);
        self.write(address, memory)
    }
}

/// Bytes of the longest row of a box: 256 elements of 8 bytes.
pub const MAX_ROW: usize = 2048;

/// Alignment of a box in shared memory.
const BOX_ALIGN: u32 = 128;

/// `cp.async.bulk.tensor` from global to shared memory. Returns the bytes for `complete_tx`.
///
/// `coordinates` are those of the box's first element, dimension 0 first; `destination` is a shared
/// address.
///
/// # Errors
/// Faults of `global`; `MisalignedAddress` and `IllegalAddress` for the destination;
/// `IllegalInstruction` when the number of coordinates is not the rank; `Unsupported` when a
/// swizzled row is narrower than the swizzle.
pub fn load(
    map: &TensorMap,
    coordinates: &[i32],
    shared: &mut [u8],
    destination: u32,
    global: &mut impl Global,
) -> Result<u32, FaultKind> {
    let copy = BoxCopy::new(
        map,
        coordinates,
        (destination, shared.len()),
        Direction::Load,
    )?;
    let mut buffer = [0; MAX_ROW];
    for (index, row) in copy.rows().enumerate() {
        let at = copy.shared_row(index);
        if map.swizzle() == Swizzle::None {
            let start = at as usize;
            copy.load_row(row, &mut shared[start..start + copy.row_bytes], global)?;
            continue;
        }
        let buffer = &mut buffer[..copy.row_bytes];
        copy.load_row(row, buffer, global)?;
        for (chunk, from) in (0u32..).zip(buffer.chunks_exact(16)) {
            let to = map.swizzle().apply(at + 16 * chunk) as usize;
            shared[to..to + 16].copy_from_slice(from);
        }
    }
    Ok(copy.bytes)
}

/// `cp.async.bulk.tensor` from shared to global memory; `source` is a shared address.
///
/// # Errors
/// As for [`load`].
pub fn store(
    map: &TensorMap,
    coordinates: &[i32],
    shared: &[u8],
    source: u32,
    global: &mut impl Global,
) -> Result<(), FaultKind> {
    let copy = BoxCopy::new(map, coordinates, (source, shared.len()), Direction::Store)?;
    copy.each_inside(shared, |address, row| global.write(address, row))
}

/// `cp.reduce.async.bulk.tensor` from shared to global memory.
///
/// # Errors
/// As for [`load`], and `IllegalInstruction` when the data type of the map is not that of
/// `reduction`.
pub fn reduce(
    map: &TensorMap,
    coordinates: &[i32],
    (shared, source): (&[u8], u32),
    reduction: Reduction,
    global: &mut impl Global,
) -> Result<(), FaultKind> {
    if reduction.data_type() != map.data_type() {
        return Err(FaultKind::IllegalInstruction {
            what: format!("{reduction:?} on a tensor of {:?}", map.data_type()),
        });
    }
    let copy = BoxCopy::new(map, coordinates, (source, shared.len()), Direction::Store)?;
    copy.each_inside(shared, |address, row| {
        global.combine(address, row, reduction)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Load,
    Store,
}

/// One row of a box along dimension 0.
#[derive(Debug, Clone, Copy)]
enum Row {
    /// Some outer coordinate lies outside of the tensor.
    Outside,
    /// Address that coordinate 0 of the row has.
    At(u64),
}

/// A box at its place.
struct BoxCopy<'a> {
    map: &'a TensorMap,
    coordinates: [i64; MAX_RANK],
    counts: [usize; MAX_RANK],
    shared: u32,
    row_bytes: usize,
    bytes: u32,
    /// Bytes of a row that lie inside of the tensor.
    inside: std::ops::Range<usize>,
}

impl<'a> BoxCopy<'a> {
    fn new(
        map: &'a TensorMap,
        coordinates: &[i32],
        (shared, shared_len): (u32, usize),
        direction: Direction,
    ) -> Result<Self, FaultKind> {
        if coordinates.len() != map.rank() {
            return Err(FaultKind::IllegalInstruction {
                what: format!(
                    "{} coordinates for a tensor map of rank {}",
                    coordinates.len(),
                    map.rank()
                ),
            });
        }
        // Legal on hardware. Its documentation says that space for the full width must be there,
        // but not how far apart rows lie and how many bytes the barrier counts.
        let (row_bytes, width) = (map.inner_bytes(), map.swizzle().width());
        if map.swizzle() != Swizzle::None && row_bytes != width as usize {
            return Err(FaultKind::Unsupported {
                what: format!("box rows of {row_bytes} bytes under a {width}-byte swizzle"),
            });
        }
        if !shared.is_multiple_of(BOX_ALIGN) {
            return Err(FaultKind::MisalignedAddress {
                address: shared.into(),
                align: BOX_ALIGN.into(),
            });
        }
        // The swizzle stays within aligned 128-byte lines, so up to one line beyond the last row.
        let bytes = map.box_bytes();
        let touched = if map.swizzle() == Swizzle::None {
            bytes
        } else {
            bytes.next_multiple_of(128)
        };
        if shared as usize + touched > shared_len {
            return Err(FaultKind::IllegalAddress {
                address: shared.into(),
                bytes: touched as u64,
                write: direction == Direction::Load,
            });
        }
        let mut all = [0; MAX_RANK];
        for (to, &from) in all.iter_mut().zip(coordinates) {
            *to = i64::from(from);
        }
        let counts = map.counts();
        Ok(Self {
            map,
            coordinates: all,
            counts,
            shared,
            row_bytes,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            inside: inside(all[0], counts[0], map),
        })
    }

    /// Shared address of row `index` before the swizzle.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "new() checked that the box lies within shared memory"
    )]
    fn shared_row(&self, index: usize) -> u32 {
        self.shared + (index * self.row_bytes) as u32
    }

    /// The rows of the box in the order of shared memory.
    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let rows: usize = self.counts[1..].iter().product();
        (0..rows).map(|index| self.row(index))
    }

    fn row(&self, mut index: usize) -> Row {
        let mut address = self.map.address();
        for d in 1..MAX_RANK {
            let step = (index % self.counts[d]) as i64 * i64::from(self.map.element_strides()[d]);
            index /= self.counts[d];
            match u64::try_from(self.coordinates[d] + step) {
                Ok(position) if position < self.map.dims()[d] => {
                    let offset = position.wrapping_mul(self.map.strides()[d - 1]);
                    address = address.wrapping_add(offset);
                }
                _ => return Row::Outside,
            }
        }
        Row::At(address)
    }

    /// Global address of the first byte of `self.inside`.
    fn first_inside(&self, row: u64) -> u64 {
        let offset = self.coordinates[0] * self.map.data_type().bytes() as i64;
        row.wrapping_add_signed(offset)
            .wrapping_add(self.inside.start as u64)
    }

    fn load_row(
        &self,
        row: Row,
        out: &mut [u8],
        global: &mut impl Global,
    ) -> Result<(), FaultKind> {
        match row {
            Row::At(address) if !self.inside.is_empty() => {
                let (before, rest) = out.split_at_mut(self.inside.start);
                let (within, after) = rest.split_at_mut(self.inside.len());
                fill(self.map, before);
                fill(self.map, after);
                global.read(self.first_inside(address), within)?;
                if let Some(convert) = self.map.data_type().converts() {
                    for element in within.as_chunks_mut().0 {
                        *element = convert(u32::from_le_bytes(*element)).to_le_bytes();
                    }
                }
                Ok(())
            }
            _ => {
                fill(self.map, out);
                Ok(())
            }
        }
    }

    /// Calls `write` with every part of a row that lies inside of the tensor, without swizzle.
    fn each_inside(
        &self,
        shared: &[u8],
        mut write: impl FnMut(u64, &[u8]) -> Result<(), FaultKind>,
    ) -> Result<(), FaultKind> {
        if self.inside.is_empty() {
            return Ok(());
        }
        let mut buffer = [0; MAX_ROW];
        for (index, row) in self.rows().enumerate() {
            let Row::At(address) = row else { continue };
            let at = self.shared_row(index);
            let row = if self.map.swizzle() == Swizzle::None {
                &shared[at as usize..at as usize + self.row_bytes]
            } else {
                let buffer = &mut buffer[..self.row_bytes];
                for (chunk, to) in (0u32..).zip(buffer.chunks_exact_mut(16)) {
                    let from = self.map.swizzle().apply(at + 16 * chunk) as usize;
                    to.copy_from_slice(&shared[from..from + 16]);
                }
                buffer
            };
            write(self.first_inside(address), &row[self.inside.clone()])?;
        }
        Ok(())
    }
}

/// The bytes of a row of `count` elements from coordinate `first` on that dimension 0 has.
fn inside(first: i64, count: usize, map: &TensorMap) -> std::ops::Range<usize> {
    // A dimension is at most 2^32 and a count at most 256, so nothing is lost on the way.
    let end = i64::try_from(map.dims()[0]).unwrap_or(i64::MAX);
    let clamp = |element: i64| usize::try_from(element).unwrap_or(0).min(count);
    let (from, to) = (clamp(-first), clamp(end - first));
    let size = map.data_type().bytes();
    from.min(to) * size..to * size
}

/// Fills elements outside of the tensor. The NaN is the canonical one of the type: PTX speaks of a
/// special "OOB NaN" without giving its bits.
fn fill(map: &TensorMap, out: &mut [u8]) {
    if map.fill() == Fill::Zero {
        out.fill(0);
        return;
    }
    let size = map.data_type().bytes();
    for (i, byte) in out.iter_mut().enumerate() {
        // All ones but for the sign: little-endian, so the last byte of an element differs.
        *byte = if i % size == size - 1 { 0x7F } else { 0xFF };
    }
}
