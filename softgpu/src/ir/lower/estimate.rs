//! An estimate of the registers that machine code would take: softgpu has none.

use crate::ir::{Block, FloatBin, FloatUn, Op, Param, Rounding, Ty};
use crate::ptx::ast;

const MIN_REGISTERS: u32 = 16;
const MAX_REGISTERS: u32 = 255;
/// Registers per thread come in eights.
const UNIT: u32 = 8;
/// Registers, for 32 lanes each, of each of the four parts of a multiprocessor.
const PART_REGISTERS: u32 = 512;

/// Registers per thread that a compiler would allocate, as far as one can tell: what the slots ask
/// for and what [`scratch`] adds, within what the directives allow. `.maxntid` and `.minnctapersm`
/// promise that so many CTAs of that size fit into a multiprocessor, so each thread gets its share of
/// the registers at most.
///
/// Too many would refuse launches that the hardware accepts, so parameters, which machine code
/// reads from constant memory, do not count, and of the others three quarters: compilers recompute
/// addresses and keep uniform values elsewhere. Chosen by comparison with what `ptxas` of CUDA 13.0
/// allocates for some 320 kernels; it is an estimate, and low on purpose.
pub(super) fn registers(
    source: &ast::Function,
    params: &[Param],
    slots: u32,
    blocks: &[Block],
) -> u32 {
    let limit = source.max_registers.unwrap_or(MAX_REGISTERS);
    let extent = source.req_threads.or(source.max_threads);
    let threads = extent.map(|extent| extent.iter().fold(1u32, |all, &n| all.saturating_mul(n)));
    let share = threads.map(|threads| {
        let warps = threads.div_ceil(32).max(1);
        let resident = warps.saturating_mul(source.min_ctas.unwrap_or(1).max(1));
        let per_thread = PART_REGISTERS / resident.div_ceil(4).min(PART_REGISTERS);
        (per_thread / UNIT * UNIT).max(MIN_REGISTERS)
    });
    let limit = limit.min(share.unwrap_or(MAX_REGISTERS));
    // Larger alignments are those of tensor maps, which no register holds.
    let scalars = params.iter().filter(|param| param.align <= 16);
    let in_memory: u32 = scalars.map(|param| param.size / 4).sum();
    let wanted = (slots.saturating_sub(in_memory) + scratch(blocks)) * 3 / 4;
    wanted.clamp(MIN_REGISTERS, limit.clamp(MIN_REGISTERS, MAX_REGISTERS))
}

/// Registers of what is one instruction of PTX and a sequence of machine code: `ptxas` of CUDA 13.0
/// adds 16 to 18 to a loop that keeps 8 to 100 values alive if it divides `f64`, and 8 to 12 if it
/// takes exact roots or reciprocals. The sequences run one at a time, so the largest counts.
fn scratch(blocks: &[Block]) -> u32 {
    let instrs = blocks.iter().flat_map(|block| &block.instrs);
    let sequences = instrs.map(|instr| match instr.op {
        Op::Float(FloatBin::Div, Ty::F64, _) => 16,
        Op::FloatUnary(FloatUn::Rcp | FloatUn::Sqrt, Ty::F64, modifiers)
            if modifiers.rounding != Rounding::Approx =>
        {
            8
        }
        _ => 0,
    });
    sequences.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::ir::lower::lower;

    /// The estimate of a kernel in which `live` values of 32 bits live at a time.
    fn estimate(directives: &str, live: u32) -> u32 {
        estimate_with(directives, live, "")
    }

    /// The estimate of such a kernel that also executes `instructions` while they live.
    fn estimate_with(directives: &str, live: u32, instructions: &str) -> u32 {
        let mut text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p) \
             {directives} {{ .reg .b64 d; .reg .f64 f; .reg .b32 r<{live}>; ld.param.u64 d, [p];\n"
        );
        for i in 0..live {
            writeln!(text, "ld.volatile.global.u32 r{i}, [d+{}];", 4 * i).unwrap();
        }
        text.push_str(instructions);
        for i in 0..live {
            writeln!(text, "st.volatile.global.u32 [d+{}], r{i};", 4 * i).unwrap();
        }
        text.push_str("ret; }");
        let module = crate::ptx::parse(&text).unwrap();
        lower(&module, &|_| None).unwrap()[0].registers
    }

    #[test]
    fn sequences_of_machine_code_take_registers_of_their_own() {
        let with = |operation: &str| {
            let text = format!(
                "ld.volatile.global.f64 f, [d]; {operation}; st.volatile.global.f64 [d], f;\n"
            );
            estimate_with("", 40, &text)
        };
        let plain = with("add.rn.f64 f, f, f");
        // Both counts are at most those that `ptxas` of CUDA 13.0 finds here.
        assert_eq!(with("div.rn.f64 f, f, f"), plain + 12);
        assert_eq!(with("sqrt.rn.f64 f, f"), plain + 6);
        assert_eq!(with("rsqrt.approx.f64 f, f"), plain);
    }

    #[test]
    fn directives_bound_the_estimate() {
        // 240 values and a pair for the address, less the parameter's pair; three quarters.
        assert_eq!(estimate("", 240), 180);
        assert_eq!(estimate("", 8), 16);
        assert_eq!(estimate("", 400), 255);
        // The largest counts with which so many blocks fit by `cuda_occupancy.h`. `ptxas` of CUDA
        // 13.0 reaches those of 64, 96, 128 (two blocks of 256) and 168 and never exceeds one.
        for (directives, limit) in [
            (".maxntid 256", 180),
            (".maxntid 288", 168),
            (".maxntid 384", 168),
            (".maxntid 128, 3", 168),
            (".reqntid 512", 128),
            (".maxntid 1024", 64),
            (".maxntid 256 .minnctapersm 2", 128),
            (".maxntid 256 .minnctapersm 4", 64),
            (".maxntid 128 .minnctapersm 5", 96),
            (".maxnreg 40", 40),
            (".maxntid 384 .maxnreg 96", 96),
        ] {
            assert_eq!(estimate(directives, 240), limit, "{directives}");
        }
    }
}
