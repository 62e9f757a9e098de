//! Every instruction that PTX text can lower to has a handler or is the machine's.

use crate::exec::inst::ConstBank;
use crate::exec::lanes::encode;
use crate::ir::{Op, lower::lower};

/// Instructions that need more than registers and memory.
fn is_the_machines(op: &Op) -> bool {
    matches!(
        op,
        Op::Special(_)
            | Op::CpAsync { .. }
            | Op::CpAsyncCommit
            | Op::CpAsyncWait(_)
            | Op::Prefetch
            | Op::Bra(_)
            | Op::BrxIdx(_)
            | Op::Exit
            | Op::Trap
            | Op::Brkpt
            | Op::Bar { .. }
            | Op::BarRed(_)
            | Op::BarWarp
            | Op::BarClusterArrive { .. }
            | Op::BarClusterWait
            | Op::Fence(_)
            | Op::Mbarrier(..)
            | Op::Bulk(_)
            | Op::TensormapReplace { .. }
            | Op::TensormapCopy
            | Op::Multimem(..)
            | Op::Createpolicy(_)
            | Op::Wgmma(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait(_)
            | Op::Setmaxnreg { .. }
            | Op::Elect { .. }
            | Op::Activemask
            | Op::Vote(_)
            | Op::Match { .. }
            | Op::Redux(..)
            | Op::Shfl(_)
            | Op::Nanosleep
            | Op::Griddep { .. }
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::Movmatrix
            | Op::Mma(_)
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_)
    )
}

#[test]
fn every_opcode_is_encoded() {
    let mut count = 0;
    for text in [
        include_str!("../../../../tests/ptx/pass/every_opcode.ptx"),
        include_str!("../../../../tests/ptx/pass/families.ptx"),
    ] {
        let module = crate::ptx::parse(text).expect("valid PTX");
        let functions = lower(&module, &|_| Some(0x200_0000_0000)).expect("supported");
        for function in functions {
            let mut consts = ConstBank::new();
            for instr in function.blocks.iter().flat_map(|block| &block.instrs) {
                let encoded = encode(instr, &mut consts).is_some();
                let line = instr.line;
                assert_eq!(
                    encoded,
                    !is_the_machines(&instr.op),
                    "line {line}: {:?}",
                    instr.op
                );
                count += 1;
            }
            assert!(
                consts.slots() <= function.slots,
                "slots of {}",
                function.name
            );
            assert!(
                consts.preds() <= function.preds,
                "predicates of {}",
                function.name
            );
        }
    }
    assert!(count > 500, "{count} instructions");
}
