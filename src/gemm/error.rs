//! Errors of the GEMM and quantisation wrappers: each names the operand, the number and the rule.

use std::ops::Range;

use crate::device::DeviceError;

/// An operand or a problem size breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperandError {
    /// A size must be a multiple.
    #[error("{what} = {value} is not a multiple of {of}")]
    Multiple {
        /// The size.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it must be a multiple of.
        of: u64,
    },
    /// A size is out of range.
    #[error("{what} = {value}, expected {least} to {most}")]
    Range {
        /// The size.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Smallest valid value.
        least: u64,
        /// Largest valid value.
        most: u64,
    },
    /// Memory has another length than the shape demands.
    #[error("{what}: {found} elements, expected {expected}")]
    Length {
        /// The operand.
        what: &'static str,
        /// Elements it has.
        found: u64,
        /// Elements its shape demands.
        expected: u64,
    },
    /// An address is not aligned.
    #[error("{what}: address {address:#x} is not a multiple of {of}")]
    Alignment {
        /// The operand.
        what: &'static str,
        /// Its device address.
        address: u64,
        /// The alignment.
        of: u64,
    },
    /// An operand has another shape than the plan.
    #[error("{what} = {found}, but the plan has {expected}")]
    Shape {
        /// The size.
        what: &'static str,
        /// The operand's.
        found: u64,
        /// The plan's.
        expected: u64,
    },
    /// An operand has another format or scaling than the plan.
    #[error("{what} has {found}, expected {expected}")]
    Kind {
        /// The operand.
        what: &'static str,
        /// What it has.
        found: &'static str,
        /// What the plan has.
        expected: &'static str,
    },
    /// Memory without an address.
    #[error("{what}: address 0 for {len} elements")]
    Null {
        /// The operand.
        what: &'static str,
        /// Elements that are needed there.
        len: u64,
    },
    /// An output overlaps another operand.
    #[error(
        "{output} at {:#x}..{:#x} overlaps {what} at {:#x}..{:#x}",
        written.start, written.end, bytes.start, bytes.end
    )]
    Overlap {
        /// The output.
        output: &'static str,
        /// Its device addresses.
        written: Range<u64>,
        /// The other operand.
        what: &'static str,
        /// Its device addresses.
        bytes: Range<u64>,
    },
    /// No kernel is compiled for these formats and scales in this form.
    #[error("no kernel for {arithmetic:?} in the {form} form")]
    NoTile {
        /// Formats and scales.
        arithmetic: super::Arithmetic,
        /// The form.
        form: &'static str,
    },
    /// A tile or cluster cannot compute the problem.
    #[error("{tile} in clusters of {cluster:?} cannot compute the {form} form on {sms} SMs")]
    Cluster {
        /// Kernel of the tile.
        tile: &'static str,
        /// CTAs along m and n.
        cluster: [u32; 2],
        /// The form.
        form: &'static str,
        /// SMs.
        sms: u32,
    },
    /// A plan's fields do not belong together.
    #[error("the plan was changed: its fields are not those that its constructor gave")]
    PlanChanged,
    /// The row-to-group operand does not belong to the plan's form.
    #[error("groups given as {found}, but the plan's form is {form}")]
    Form {
        /// What was given.
        found: &'static str,
        /// The form.
        form: &'static str,
    },
    /// A part of a view lies outside it.
    #[error("elements {start}..{end} of a view of {len}")]
    Slice {
        /// First element.
        start: usize,
        /// One past the last.
        end: usize,
        /// Elements of the view.
        len: usize,
    },
    /// Memory of another context than the stream's.
    #[error("{what} belongs to another context than the stream")]
    WrongContext {
        /// The operand.
        what: &'static str,
    },
}

/// Why a GEMM or a quantisation could not be planned or enqueued.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GemmError {
    /// An operand breaks a rule.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// The device layer failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

pub(crate) fn multiple(what: &'static str, value: u64, of: u64) -> Result<(), OperandError> {
    if value.is_multiple_of(of) {
        return Ok(());
    }
    Err(OperandError::Multiple { what, value, of })
}

pub(crate) fn range(
    what: &'static str,
    value: u64,
    [least, most]: [u64; 2],
) -> Result<(), OperandError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(OperandError::Range {
        what,
        value,
        least,
        most,
    })
}

/// Fails when an output shares a byte with another operand; each is a name and device addresses.
pub(crate) fn disjoint(
    (output, written): (&'static str, &Range<u64>),
    (what, bytes): (&'static str, &Range<u64>),
) -> Result<(), OperandError> {
    let empty = written.is_empty() || bytes.is_empty();
    if empty || bytes.start >= written.end || written.start >= bytes.end {
        return Ok(());
    }
    Err(OperandError::Overlap {
        output,
        written: written.clone(),
        what,
        bytes: bytes.clone(),
    })
}
