//! Operands of video instructions: registers with a minus and with the parts that are meant.

use crate::error::PtxError;
use crate::ir::Ty;
use crate::ir::decode::Lane;
use crate::ptx::ast::Operand;

use super::operand::Gather;

/// Reads `b1`, `h10`, `b7654`: the digits from the last one on.
fn parse(text: &str) -> Option<Lane> {
    let (head, digits) = text.split_at_checked(1)?;
    let halves = match head {
        "h" => true,
        "b" => false,
        _ => return None,
    };
    let mut lane = Lane {
        halves,
        ..Lane::default()
    };
    for (slot, digit) in lane.index.iter_mut().zip(digits.bytes().rev()) {
        *slot = digit.checked_sub(b'0').filter(|&digit| digit < 8)?;
    }
    lane.count = u8::try_from(digits.len())
        .ok()
        .filter(|&n| (1..=4).contains(&n))?;
    Some(lane)
}

impl Gather<'_, '_, '_> {
    /// A source of which parts may be meant.
    pub(super) fn lane_source(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let operand = self.lane(operand)?;
        self.source(&operand, Ty::U32)
    }

    /// A destination of which parts may be meant.
    pub(super) fn lane_destination(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let operand = self.lane(operand)?;
        self.destination(&operand, Ty::U32)
    }

    /// Notes the parts and returns the operand without them.
    fn lane(&mut self, operand: &Operand) -> Result<Operand, PtxError> {
        let Operand::Part {
            name,
            negated,
            part,
        } = operand
        else {
            self.fixed.lanes.push(Lane::default());
            return Ok(operand.clone());
        };
        let mut lane = Lane::default();
        if let Some(part) = part {
            let text = self.word(*part);
            lane = parse(text).ok_or_else(|| {
                self.pos
                    .syntax(format!("`{text}` does not name parts of a register"))
            })?;
        }
        lane.negated = *negated;
        self.fixed.lanes.push(lane);
        Ok(Operand::Name(*name))
    }
}
