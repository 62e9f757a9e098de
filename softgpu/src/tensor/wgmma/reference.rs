//! wgmma element by element, through the model. Right for every type; slow.

use super::decode::{self, Class, Operands};
use super::fast::Task;
#[cfg(test)]
use super::integer::{self, Integers};
use super::{Accumulators, Addend, K_BYTES};
use crate::tensor::format::{Format, Value};
use crate::tensor::model::{self, Accumulator};

/// Where an element of D stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) warp: usize,
    pub(super) register: usize,
    pub(super) lane: usize,
    /// Bits to the right of the element in its register.
    pub(super) shift: u32,
    /// The element's bits, before the shift.
    pub(super) mask: u32,
}

impl Place {
    /// The place of `(row, column)` with 32-bit or f16 accumulators.
    pub(super) fn of(row: usize, column: usize, accumulator_bits: u32) -> Self {
        let lower = (row / 8) % 2;
        let pair = column % 2;
        let lane = 4 * (row % 8) + (column % 8) / 2;
        let warp = row / 16;
        if accumulator_bits == 16 {
            return Self {
                warp,
                register: 2 * (column / 8) + lower,
                lane,
                shift: if pair == 0 { 0 } else { 16 },
                mask: 0xFFFF,
            };
        }
        Self {
            warp,
            register: 4 * (column / 8) + 2 * lower + pair,
            lane,
            shift: 0,
            mask: u32::MAX,
        }
    }
}

impl Accumulators<'_> {
    pub(super) fn get(&self, place: Place) -> u32 {
        (self.lanes(place.warp, place.register)[place.lane] >> place.shift) & place.mask
    }

    pub(super) fn set(&mut self, place: Place, bits: u32) {
        let word = &mut self.lanes_mut(place.warp, place.register)[place.lane];
        *word = (*word & !(place.mask << place.shift)) | (bits << place.shift);
    }
}

/// The elements of a packed row, one per word.
fn elements(row: &[u8], format: Format) -> Vec<u32> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    };
    row.chunks_exact(format.bytes()).map(word).collect()
}

/// `row` of A with the sign of every element flipped.
fn negated(mut row: Vec<u32>, format: Format) -> Vec<u32> {
    let sign = match format {
        Format::Tf32 | Format::F32 => 31,
        _ => format.fraction_bits() + format.exponent_bits(),
    };
    row.iter_mut().for_each(|word| *word ^= 1 << sign);
    row
}

/// `D = A·B (+ D)` by the model.
#[cfg(test)]
pub(super) fn multiply_add(task: &Task<'_>, d: &mut Accumulators<'_>) {
    for row in 0..task.rows() {
        for column in 0..task.n {
            let (place, bits) = float_element(task, d, (row, column));
            d.set(place, bits);
        }
    }
}

/// `D = A·B (+ D)` in integers, product by product.
#[cfg(test)]
pub(super) fn multiply_add_integers(task: &integer::Task<'_>, d: &mut Accumulators<'_>) {
    for (row, a) in task.a.chunks_exact(K_BYTES).enumerate() {
        for (column, b) in task.b.chunks_exact(K_BYTES).enumerate() {
            let place = Place::of(row, column, 32);
            let c = match task.addend {
                Addend::Zero => 0,
                Addend::Accumulator => i64::from(d.get(place).cast_signed()),
            };
            let sum = c + integer_products(task.kind, a, b);
            let value = if task.saturate {
                sum.clamp(i32::MIN.into(), i32::MAX.into())
            } else {
                sum
            };
            let [b0, b1, b2, b3, ..] = value.to_le_bytes();
            d.set(place, u32::from_le_bytes([b0, b1, b2, b3]));
        }
    }
}

#[cfg(test)]
fn integer_products(kind: Integers, a: &[u8], b: &[u8]) -> i64 {
    let value = |bits: u8, width: u32, signed: bool| {
        let value = i64::from(bits);
        let negative = signed && value >= 1 << (width - 1);
        value - if negative { 1 << width } else { 0 }
    };
    match kind {
        Integers::Bits { and } => (a.iter().zip(b))
            .map(|(&a, &b)| i64::from(if and { a & b } else { a ^ b }.count_ones()))
            .sum(),
        Integers::Bytes { a_signed, b_signed } => (a.iter().zip(b))
            .map(|(&a, &b)| value(a, 8, a_signed) * value(b, 8, b_signed))
            .sum(),
        Integers::Nibbles { a_signed, b_signed } => (a.iter().zip(b))
            .flat_map(|(&a, &b)| [(a & 15, b & 15), (a >> 4, b >> 4)])
            .map(|(a, b)| value(a, 4, a_signed) * value(b, 4, b_signed))
            .sum(),
    }
}

/// One element of D by the model; `d` is read for C.
fn float_element(
    task: &Task<'_>,
    d: &Accumulators<'_>,
    (row, column): (usize, usize),
) -> (Place, u32) {
    let &Task {
        mma, a, b, addend, ..
    } = task;
    let place = Place::of(row, column, accumulator_bits(mma.d));
    let c = match addend {
        Addend::Zero => 0,
        Addend::Accumulator => d.get(place),
    };
    let mut a = elements(&a[row * K_BYTES..][..K_BYTES], mma.a);
    if task.negate {
        a = negated(a, mma.a);
    }
    let b = elements(&b[column * K_BYTES..][..K_BYTES], mma.b);
    (place, model::dot(mma, &a, &b, c))
}

const fn accumulator_bits(d: Accumulator) -> u32 {
    match d {
        Accumulator::F32 => 32,
        Accumulator::F16 => 16,
    }
}

/// The elements of hard rows and columns, which the fast tiles leave to the model; to be computed
/// before and written after they run.
pub(super) fn hard_elements(
    task: &Task<'_>,
    operands: &Operands,
    d: &Accumulators<'_>,
) -> Vec<(Place, u32)> {
    let n = task.n;
    let columns = || (0..n).map(|place| (decode::column(place), operands.column_class[place]));
    let no_column = columns().all(|(_, class)| class == Class::Plain);
    if no_column
        && operands.row_class[..task.rows()]
            .iter()
            .all(|&class| class == Class::Plain)
    {
        return Vec::new();
    }
    // A NaN makes all elements of its row or column NaN, whatever else they sum up.
    let nan_row = |row: usize| holds_nan(&task.a[row * K_BYTES..][..K_BYTES], task.mma.a);
    let nan_column = |column: usize| holds_nan(&task.b[column * K_BYTES..][..K_BYTES], task.mma.b);
    let columns: Vec<_> = columns()
        .map(|(column, class)| (column, class, class == Class::Hard && nan_column(column)))
        .collect();
    let mut hard = Vec::new();
    for row in 0..task.rows() {
        let hard_row = operands.row_class[row] == Class::Hard;
        let nan_row = hard_row && nan_row(row);
        for &(column, class, nan_column) in &columns {
            if nan_row || nan_column {
                let bits = accumulator_bits(task.mma.d);
                hard.push((Place::of(row, column, bits), task.mma.d.nan()));
            } else if hard_row || class == Class::Hard {
                hard.push(float_element(task, d, (row, column)));
            }
        }
    }
    hard
}

fn holds_nan(row: &[u8], format: Format) -> bool {
    elements(row, format)
        .iter()
        .any(|&bits| format.value(bits) == Value::Nan)
}
