//! What a disassembly tells: instructions, registers, the main loop.

use std::collections::HashMap;

/// What the machine code of a kernel tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sass {
    pub(super) instructions: usize,
    pub(super) highest_register: u32,
    pub(super) main_loop: Loop,
}

/// A loop: from a label to a branch back to it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) instructions: usize,
    /// Matrix instructions.
    pub(super) mma: usize,
    /// Columns of the last `wgmma`; 0 without.
    pub(super) columns: u32,
    pub(super) ffma: usize,
    pub(super) fmul: usize,
    pub(super) fadd: usize,
}

impl Loop {
    fn new(code: &[&str], start: usize, end: usize) -> Self {
        let body = code.get(start..=end).unwrap_or_default();
        let count = |name: &str| body.iter().filter(|line| opcode(line) == name).count();
        Self {
            instructions: body.len(),
            mma: body.iter().filter(|line| is_mma(line)).count(),
            columns: body
                .iter()
                .filter_map(|line| columns(line))
                .next_back()
                .unwrap_or(0),
            ffma: count("FFMA"),
            fmul: count("FMUL"),
            fadd: count("FADD"),
        }
    }

    /// How many shares of 64 × 128 × 128 bytes of K it computes: one is four `wgmma` of 128 columns.
    pub(super) fn steps(&self) -> f64 {
        self.mma as f64 * f64::from(self.columns) / 512.0
    }
}

/// Reads `nvdisasm -c` output: labels, and instructions behind a `/*address*/`.
///
/// The main loop is the one with the largest share of matrix instructions, and of equals the one
/// with the most; without matrix instructions the longest loop. (A wait's second and later attempts
/// lie behind the kernel's end and branch back into the loop: what lies between them is no loop, but
/// looks like one that has a small share.)
pub(super) fn parse(text: &str) -> Sass {
    let mut code: Vec<&str> = Vec::new();
    let mut labels: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, code.len());
        } else if let Some((_, instruction)) = line
            .strip_prefix("/*")
            .and_then(|rest| rest.split_once("*/"))
        {
            code.push(instruction.trim());
        }
    }
    let back_edge = |(end, line): (usize, &&str)| {
        let start = *labels.get(branch_target(line)?)?;
        (start < end).then(|| Loop::new(&code, start, end))
    };
    let loops: Vec<Loop> = code.iter().enumerate().filter_map(back_edge).collect();
    let main_loop = loops
        .iter()
        .max_by(|a, b| (a.mma * b.instructions, a.mma).cmp(&(b.mma * a.instructions, b.mma)))
        .filter(|l| l.mma > 0)
        .or_else(|| loops.iter().max_by_key(|l| l.instructions));
    let registers = code.iter().filter_map(|line| highest_register(line));
    Sass {
        instructions: code.len(),
        highest_register: registers.max().unwrap_or(0),
        main_loop: main_loop.copied().unwrap_or_default(),
    }
}

/// The operation without its modifiers: `FFMA` of `@P0 FFMA.FTZ R1, …`.
fn opcode(instruction: &str) -> &str {
    let mut words = instruction.split_whitespace();
    let first = words.next().unwrap_or_default();
    let word = if first.starts_with('@') {
        words.next().unwrap_or_default()
    } else {
        first
    };
    word.split('.').next().unwrap_or_default()
}

/// The label of `BRA `(.L_x_1)`.
fn branch_target(instruction: &str) -> Option<&str> {
    let (before, rest) = instruction.split_once("`(")?;
    before
        .contains("BRA")
        .then(|| rest.split_once(')').map(|(label, _)| label))?
}

/// `HFMA2.MMA` is a plain instruction in spite of its name.
fn is_mma(instruction: &str) -> bool {
    let is_matrix = |op: &str| op.ends_with("GMMA") || matches!(op, "HMMA" | "IMMA" | "DMMA");
    instruction.split([' ', '.']).any(is_matrix)
}

/// N of `QGMMA.64xNxK.F32…`.
fn columns(instruction: &str) -> Option<u32> {
    let (_, shape) = instruction.split_once("GMMA.64x")?;
    let (columns, _) = shape.split_once('x')?;
    columns.parse().ok()
}

/// The highest register index of an instruction, with the whole range of wide operands. The
/// accumulators of a `wgmma` are 64 × N over 128 threads.
fn highest_register(instruction: &str) -> Option<u32> {
    let wide = columns(instruction)
        .map(|columns| columns / 2)
        .or_else(|| access_width(instruction))
        .unwrap_or(1);
    let words = instruction.split(|c: char| !c.is_ascii_alphanumeric());
    let first = words
        .filter_map(|word| word.strip_prefix('R')?.parse::<u32>().ok())
        .max()?;
    Some(first + wide - 1)
}

/// Registers of a 64- or 128-bit load or store.
fn access_width(instruction: &str) -> Option<u32> {
    let memory = ["LD", "ST"].iter().any(|op| instruction.contains(op));
    let widths = [(".128", 4), (".64", 2)];
    widths
        .iter()
        .find(|(suffix, _)| memory && instruction.contains(suffix))
        .map(|&(_, n)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "\
\t.target\tsm_90a
kernel:
.text.kernel:
        /*0000*/                   S2R R21, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_4:
        /*0018*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*001a*/               @P0 BRA `(.L_x_4) ;
.L_x_2:
        /*0020*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*0028*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*0030*/              @!P1 FADD.FTZ R1, R2, R3 ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
        /*0050*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*0060*/                   BRA `(.L_x_3) ;
.L_x_5:
        /*0070*/                   BRA `(.L_x_4) ;
";

    #[test]
    fn the_main_loop_has_the_largest_share_of_matrix_instructions() {
        let sass = parse(CODE);
        assert_eq!((sass.instructions, sass.highest_register), (11, 24 + 63));
        let found = sass.main_loop;
        assert_eq!((found.instructions, found.mma, found.fadd), (4, 2, 1));
        assert_eq!((found.columns, found.steps()), (128, 0.5));
    }

    #[test]
    fn without_matrix_instructions_it_is_the_longest_and_no_trap_at_the_end() {
        let sass = parse(&CODE.replace("QGMMA", "NOP"));
        assert_eq!((sass.main_loop.instructions, sass.main_loop.mma), (9, 0));
        let end = "kernel:\n/*0000*/ EXIT ;\n.L_x_3:\n/*0010*/ BRA `(.L_x_3) ;\n";
        assert_eq!(parse(end).main_loop.instructions, 0);
    }

    #[test]
    fn wide_operands_count_in_full() {
        assert_eq!(highest_register("LDG.E.128 R4, desc[UR4][R2.64]"), Some(7));
        assert_eq!(highest_register("ST.E.64 desc[UR4][R2.64], R6"), Some(7));
        assert_eq!(highest_register("FADD R1, R200, RZ"), Some(200));
        assert_eq!(highest_register("UMOV UR4, 0x400"), None);
    }
}
