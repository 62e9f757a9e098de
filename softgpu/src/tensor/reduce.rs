//! Element operations of TMA reductions into global memory.
//!
//! Integer addition wraps; `inc` and `dec` wrap at the operand as `atom.inc` and `atom.dec` do.
//! Float addition rounds to nearest even; f32 addition flushes subnormal inputs and results to zero
//! with their sign, as PTX documents for f32 reductions on global memory. Float minimum and maximum
//! return the number when one operand is NaN. Source: PTX ISA, `cp.reduce.async.bulk`, `red`.
#![expect(
    clippy::cast_possible_truncation,
    reason = "elements stand in the low bits of 64-bit words"
)]

use super::convert;
use super::map::DataType;
use crate::error::FaultKind;

/// Operation of a reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum ReduceOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
}

/// An operation on a type that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reduction {
    op: ReduceOp,
    data_type: DataType,
}

impl Reduction {
    /// Checks that the type has the operation.
    ///
    /// # Errors
    /// `IllegalInstruction` for a combination that PTX does not have.
    pub fn new(op: ReduceOp, data_type: DataType) -> Result<Self, FaultKind> {
        use DataType::{BF16, F16, F32, F32Ftz, F64, S32, S64, TF32, TF32Ftz, U8, U16, U32, U64};
        let valid = match data_type {
            U8 | U16 => false,
            // Sums of TF32 tensors are not documented.
            TF32 | TF32Ftz => {
                let what = format!("reduction {op:?} of {data_type:?}");
                return Err(FaultKind::Unsupported { what });
            }
            F32 | F32Ftz | F64 => op == ReduceOp::Add,
            F16 | BF16 => matches!(op, ReduceOp::Add | ReduceOp::Min | ReduceOp::Max),
            U32 => true,
            S32 | U64 | S64 => !matches!(op, ReduceOp::Inc | ReduceOp::Dec),
        };
        if !valid {
            return Err(FaultKind::IllegalInstruction {
                what: format!("reduction {op:?} of {data_type:?}"),
            });
        }
        Ok(Self { op, data_type })
    }

    /// Element type.
    #[must_use]
    pub const fn data_type(self) -> DataType {
        self.data_type
    }

    /// What memory holds after one element operation; bits in the low end of the words.
    #[must_use]
    pub fn element(self, memory: u64, operand: u64) -> u64 {
        let word = |x: u64| x as u32;
        let half = |x: u64| x as u16;
        let float = |x: u64| flush(f32::from_bits(word(x)));
        match self.data_type {
            DataType::F32 | DataType::F32Ftz | DataType::TF32 | DataType::TF32Ftz => {
                flush(float(memory) + float(operand)).to_bits().into()
            }
            DataType::F64 => (f64::from_bits(memory) + f64::from_bits(operand)).to_bits(),
            // One rounding in effect: f32 has more than twice the digits of either type.
            DataType::F16 => {
                let value = |x| convert::f32_from_f16(half(x));
                convert::f16_from_f32(self.narrow(value(memory), value(operand))).into()
            }
            DataType::BF16 => {
                let value = |x| convert::f32_from_bf16(half(x));
                convert::bf16_from_f32(self.narrow(value(memory), value(operand))).into()
            }
            DataType::S32 => {
                let signed = |x| i64::from(word(x).cast_signed());
                word(self.signed(signed(memory), signed(operand)).cast_unsigned()).into()
            }
            DataType::S64 => self
                .signed(memory.cast_signed(), operand.cast_signed())
                .cast_unsigned(),
            DataType::U32 => {
                let value = self.unsigned(word(memory).into(), word(operand).into());
                word(value).into()
            }
            DataType::U64 | DataType::U8 | DataType::U16 => self.unsigned(memory, operand),
        }
    }

    /// Applies the operation to two rows of elements.
    pub fn row(self, memory: &mut [u8], operand: &[u8]) {
        let size = self.data_type.bytes();
        let load = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        let pairs = memory
            .chunks_exact_mut(size)
            .zip(operand.chunks_exact(size));
        for (memory, operand) in pairs {
            let result = self.element(load(memory), load(operand));
            memory.copy_from_slice(&result.to_le_bytes()[..size]);
        }
    }

    /// f16 and bf16, widened.
    fn narrow(self, memory: f32, operand: f32) -> f32 {
        if self.op == ReduceOp::Add {
            return memory + operand;
        }
        if memory.is_nan() || operand.is_nan() {
            return if memory.is_nan() { operand } else { memory };
        }
        // -0 counts as below +0.
        let memory_wins = match self.op {
            ReduceOp::Min => memory.total_cmp(&operand).is_le(),
            _ => memory.total_cmp(&operand).is_ge(),
        };
        if memory_wins { memory } else { operand }
    }

    fn signed(self, memory: i64, operand: i64) -> i64 {
        match self.op {
            ReduceOp::Min => memory.min(operand),
            ReduceOp::Max => memory.max(operand),
            _ => self
                .unsigned(memory.cast_unsigned(), operand.cast_unsigned())
                .cast_signed(),
        }
    }

    fn unsigned(self, memory: u64, operand: u64) -> u64 {
        match self.op {
            ReduceOp::Add => memory.wrapping_add(operand),
            ReduceOp::Min => memory.min(operand),
            ReduceOp::Max => memory.max(operand),
            ReduceOp::Inc => {
                if memory >= operand {
                    0
                } else {
                    memory + 1
                }
            }
            ReduceOp::Dec => {
                if memory == 0 || memory > operand {
                    operand
                } else {
                    memory - 1
                }
            }
            ReduceOp::And => memory & operand,
            ReduceOp::Or => memory | operand,
            ReduceOp::Xor => memory ^ operand,
        }
    }
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}
