//! Moves, packing, predicates, comparisons, selections, carries.

use super::{Shape, random};
use crate::ir::{Class, Op};

#[test]
fn moves() {
    for class in [Class::Pred, Class::B32, Class::B64, Class::B128] {
        let bits = match class {
            Class::Pred => 1,
            Class::B32 => 32,
            _ => 64,
        };
        Shape::new(Op::Mov, &[class], &[class]).check(bits, random(64, 1, 1), |case| case[0]);
    }
}
