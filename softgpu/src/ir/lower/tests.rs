//! Block order and slot allocation, checked by executing random programs before and after.
//!
//! The programs have toy semantics: every instruction mixes the values that it reads into those it
//! writes, stores append to a trace, and branches follow a fixed pattern. A wgmma reads and writes
//! only at the wait that ends it, as an asynchronous unit may.

use std::cell::Cell;
use std::ops::RangeInclusive;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use smallvec::smallvec;

use super::raw::{Raw, Term};
use super::{VReg, allocate, order, simplify};
use crate::ir::cfg::{post_dominators, successors};
use crate::ir::{
    Access, Block, Class, FloatMod, Guard, Instr, IntOp, MmaTy, Op, Operand, Order, Reg, Scope,
    Space, Ty, Wgmma,
};

const REGISTERS: usize = 24;

/// Registers 0..12 have 32 bits, 12..20 have 64, 20..24 are predicates.
fn registers() -> Vec<VReg> {
    (0..REGISTERS)
        .map(|number| {
            VReg::of(match number {
                0..12 => Ty::U32,
                12..20 => Ty::U64,
                _ => Ty::Pred,
            })
        })
        .collect()
}

fn reg(number: u32) -> Reg {
    Reg {
        class: registers()[number as usize].class,
        slot: number,
    }
}

fn instr(op: Op, dst: &[u32], src: &[u32]) -> Instr {
    Instr {
        op,
        guard: None,
        dst: dst.iter().map(|&d| reg(d)).collect(),
        src: src.iter().map(|&s| Operand::Reg(reg(s))).collect(),
        line: 0,
    }
}

fn store() -> Op {
    Op::St(Access {
        space: Space::Global,
        ty: Ty::U32,
        vec: 1,
        order: Order::Weak,
        scope: Scope::Cta,
        offset: 0,
    })
}

fn wgmma() -> Op {
    Op::Wgmma(Wgmma {
        n: 8,
        k: 16,
        d: MmaTy::F32,
        a: MmaTy::F16,
        b: MmaTy::F16,
        a_regs: true,
        negate_a: false,
        negate_b: false,
        transpose_a: false,
        transpose_b: false,
        saturate: false,
    })
}

fn convert() -> Op {
    Op::Cvt {
        to: Ty::U64,
        from: Ty::U32,
        modifiers: FloatMod::default(),
        satfinite: false,
        relu: false,
    }
}

/// One random instruction from four random numbers.
fn random_instr(kind: u8, a: u32, b: u32, c: u32) -> Instr {
    let (w, x, y) = (a % 12, b % 12, c % 12);
    let (d, e) = (12 + a % 8, 12 + b % 8);
    let p = 20 + c % 4;
    let mut out = match kind % 16 {
        0 | 1 => instr(Op::Mov, &[w], &[x]),
        2 => instr(Op::Mov, &[d], &[e]),
        3 => instr(Op::Mov, &[p], &[20 + a % 4]),
        4 | 5 => instr(Op::Int(IntOp::Add, Ty::U32), &[w], &[x, y]),
        6 => instr(convert(), &[d], &[x]),
        7 => instr(
            Op::Unpack {
                part: Ty::B32,
                sink: 0,
            },
            &[w, x],
            &[e],
        ),
        8 | 12 | 13 | 14 => instr(store(), &[], &[e, y]),
        9 => instr(
            Op::Setp {
                cmp: crate::ir::Cmp::Lt,
                ty: Ty::U32,
                combine: None,
                ftz: false,
            },
            &[p],
            &[x, y],
        ),
        10 => instr(wgmma(), &[w, (w + 1) % 12], &[(w + 2) % 12, (w + 3) % 12]),
        _ => instr(Op::WgmmaWait(0), &[], &[]),
    };
    let guarded = b.is_multiple_of(3) && !matches!(out.op, Op::Wgmma(_) | Op::WgmmaWait(_));
    out.guard = guarded.then_some(Guard {
        slot: 20 + b % 4,
        negated: c.is_multiple_of(2),
    });
    out
}

/// A random program: some registers are set in block 0, and every block may go anywhere.
fn program() -> impl Strategy<Value = Vec<Raw>> {
    let line = (any::<u8>(), any::<u32>(), any::<u32>(), any::<u32>())
        .prop_map(|(kind, a, b, c)| random_instr(kind, a, b, c));
    let block = (
        prop::collection::vec(line, 0..24),
        any::<u8>(),
        any::<u32>(),
        any::<u32>(),
    );
    let set = any::<u32>();
    (prop::collection::vec(block, 1..9), set).prop_map(|(blocks, set)| {
        let count = u32::try_from(blocks.len()).unwrap();
        let mut raw = vec![Raw {
            instrs: (0..24)
                .filter(|number| !set.is_multiple_of(3) || set >> number & 1 != 0)
                .map(|number| Instr {
                    src: smallvec![Operand::Imm(u64::from(number) + 1)],
                    ..instr_immediate(number)
                })
                .collect(),
            term: Some(Term::Jump(1)),
        }];
        raw.extend(blocks.into_iter().map(|(instrs, kind, a, b)| Raw {
            instrs,
            term: Some(match kind % 12 {
                0 => Term::End(instr(Op::Exit, &[], &[])),
                1 | 2 => Term::Jump(1 + a % count),
                _ => Term::Branch {
                    guard: Guard {
                        slot: 20 + kind as u32 % 4,
                        negated: kind.is_multiple_of(3),
                    },
                    taken: 1 + a % count,
                    next: 1 + b % count,
                    line: 0,
                },
            }),
        }));
        raw
    })
}

/// Not a `mov`, so that the constant is not propagated.
fn instr_immediate(number: u32) -> Instr {
    instr(Op::Special(crate::ir::Special::Smid), &[number], &[])
}

const STEPS: usize = 600;

/// Slots as 32-bit words; a 64-bit value is two of them.
struct Machine {
    words: Vec<u32>,
    preds: Vec<u32>,
    flying: Vec<Instr>,
    trace: Vec<u64>,
    /// Virtual registers are kept apart: register `n` has words `4n`.
    scale: usize,
}

impl Machine {
    fn new(words: usize, preds: usize, scale: usize) -> Self {
        Self {
            words: vec![0xdead_beef; words],
            preds: vec![0; preds],
            flying: Vec::new(),
            trace: Vec::new(),
            scale,
        }
    }

    fn read(&self, reg: Reg) -> u64 {
        let at = reg.slot as usize * self.scale;
        match reg.class {
            Class::Pred => u64::from(self.preds[reg.slot as usize]),
            Class::B64 => u64::from(self.words[at]) | u64::from(self.words[at + 1]) << 32,
            _ => u64::from(self.words[at]),
        }
    }

    fn write(&mut self, reg: Reg, value: u64) {
        let at = reg.slot as usize * self.scale;
        let [low, high] = [value & 0xffff_ffff, value >> 32].map(|v| u32::try_from(v).unwrap());
        match reg.class {
            Class::Pred => self.preds[reg.slot as usize] = low & 1,
            Class::B64 => {
                self.words[at] = low;
                self.words[at + 1] = high;
            }
            _ => self.words[at] = low,
        }
    }

    fn value(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Reg(reg) => self.read(reg),
            Operand::NotPred(reg) => self.read(reg) ^ 1,
            Operand::Imm(bits) => bits,
        }
    }

    fn holds(&self, guard: Guard) -> bool {
        (self.preds[guard.slot as usize] != 0) != guard.negated
    }

    /// Reads sources one by one and writes each destination at once, so that a destination that
    /// shares a slot with a source yet to be read shows.
    fn apply(&mut self, instr: &Instr) {
        if let (Op::Mov, [dst], [src]) = (&instr.op, instr.dst.as_slice(), instr.src.as_slice()) {
            let value = self.value(*src);
            self.write(*dst, value);
            return;
        }
        for (index, &dst) in (1..).zip(&instr.dst) {
            let mut mixed: u64 = index;
            if matches!(instr.op, Op::Wgmma(_)) {
                mixed ^= self.read(dst);
            }
            for &src in &instr.src {
                mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.value(src);
                mixed ^= mixed >> 29;
            }
            self.write(dst, mixed);
        }
        if matches!(instr.op, Op::St(_)) {
            for &src in &instr.src {
                self.trace.push(self.value(src));
            }
        }
    }

    fn step(&mut self, instr: &Instr) {
        if instr.guard.is_some_and(|guard| !self.holds(guard)) {
            return;
        }
        match instr.op {
            Op::Wgmma(_) => self.flying.push(instr.clone()),
            Op::WgmmaWait(0) => {
                for flying in std::mem::take(&mut self.flying) {
                    self.apply(&flying);
                }
            }
            _ => self.apply(instr),
        }
    }
}

/// Stops a program from using a register while the asynchronous unit has it.
fn wait_before_use(raw: &mut [Raw]) {
    for block in raw {
        let mut instrs = Vec::new();
        let mut flying = false;
        for instr in block.instrs.drain(..) {
            if matches!(instr.op, Op::Wgmma(_)) {
                flying = true;
            } else if flying && !matches!(instr.op, Op::WgmmaWait(_)) {
                // Registers 0 to 11 may be in flight; others are free to use.
                let touches = |r: &Reg| r.class == Class::B32;
                let reads = instr
                    .src
                    .iter()
                    .any(|s| matches!(s, Operand::Reg(r) if touches(r)));
                if reads || instr.dst.iter().any(touches) {
                    instrs.push(wait());
                    flying = false;
                }
            } else {
                flying = false;
            }
            instrs.push(instr);
        }
        if flying {
            instrs.push(wait());
        }
        block.instrs = instrs;
    }
}

fn wait() -> Instr {
    instr(Op::WgmmaWait(0), &[], &[])
}

/// Which registers hold a value that a program may rely on.
struct Known([bool; REGISTERS]);

impl Known {
    fn all(&self, instr: &Instr) -> bool {
        instr.src.iter().all(|src| match src {
            Operand::Reg(reg) | Operand::NotPred(reg) => self.0[reg.slot as usize],
            Operand::Imm(_) => true,
        })
    }

    fn write(&mut self, instr: &Instr) {
        let all = self.all(instr);
        for dst in &instr.dst {
            let keeps = matches!(instr.op, Op::Wgmma(_));
            let known = &mut self.0[dst.slot as usize];
            *known = all && (*known || !keeps);
        }
    }
}

/// The trace of a program up to the first decision that rests on a register never written, and
/// `None` for values that do.
fn run_raw(raw: &[Raw]) -> Vec<Option<u64>> {
    let mut machine = Machine::new(REGISTERS * 4, REGISTERS, 4);
    let mut known = Known([false; REGISTERS]);
    let mut trace = Vec::new();
    let mut at = 0;
    for _ in 0..STEPS {
        for instr in &raw[at].instrs {
            if let Some(guard) = instr.guard
                && !known.0[guard.slot as usize]
            {
                if matches!(instr.op, Op::St(_)) {
                    return trace;
                }
                instr
                    .dst
                    .iter()
                    .for_each(|dst| known.0[dst.slot as usize] = false);
                continue;
            }
            let before = machine.trace.len();
            let flying = machine.flying.clone();
            let runs = instr.guard.is_none_or(|guard| machine.holds(guard));
            machine.step(instr);
            let all = known.all(instr);
            trace.extend(machine.trace[before..].iter().map(|v| all.then_some(*v)));
            match instr.op {
                Op::Wgmma(_) => {}
                Op::WgmmaWait(0) => flying.iter().for_each(|f| known.write(f)),
                _ if runs => known.write(instr),
                _ => {}
            }
        }
        at = match raw[at].term.as_ref().unwrap() {
            Term::Jump(target) => *target as usize,
            Term::Branch {
                guard, taken, next, ..
            } if known.0[guard.slot as usize] => {
                (if machine.holds(*guard) { *taken } else { *next }) as usize
            }
            _ => return trace,
        };
    }
    trace
}

fn run_blocks(blocks: &[Block], slots: u32, preds: u32) -> Vec<u64> {
    let mut machine = Machine::new(slots as usize, preds as usize, 1);
    let mut at = 0;
    for _ in 0..STEPS * 4 {
        let mut next = at + 1;
        for instr in &blocks[at].instrs {
            match instr.op {
                Op::Bra(target) => {
                    if instr.guard.is_none_or(|guard| machine.holds(guard)) {
                        next = target as usize;
                    }
                }
                Op::Exit => return machine.trace,
                _ => machine.step(instr),
            }
        }
        at = next;
    }
    machine.trace
}

type Graph = Vec<Vec<usize>>;

fn graph(blocks: &[Block]) -> Graph {
    let ways = |block| successors(blocks, block).into_iter();
    (0..blocks.len())
        .map(|block| ways(block).map(|b| b as usize).collect())
        .collect()
}

/// Whether every way from `block` to an exit passes `by`, from the definition.
fn post_dominates(graph: &Graph, by: usize, block: usize) -> bool {
    let mut seen = vec![false; graph.len()];
    let mut work = vec![block];
    while let Some(at) = work.pop() {
        if at == by || std::mem::replace(&mut seen[at], true) {
            continue;
        }
        if graph[at].is_empty() {
            return false;
        }
        work.extend(&graph[at]);
    }
    true
}

fn reaches_exit(graph: &Graph, block: usize) -> bool {
    !post_dominates(graph, usize::MAX, block)
}

/// Whether a way of at least one step leads from one block to another within a range.
fn reaches(graph: &Graph, from: usize, to: usize, range: RangeInclusive<usize>) -> bool {
    let mut seen = vec![false; graph.len()];
    let mut work = vec![from];
    while let Some(at) = work.pop() {
        for &next in graph[at].iter().filter(|next| range.contains(next)) {
            if next == to {
                return true;
            }
            if !std::mem::replace(&mut seen[next], true) {
                work.push(next);
            }
        }
    }
    false
}

#[test]
fn programs_behave_alike_before_and_after() {
    let compared = Cell::new(0usize);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&program(), |mut raw| {
        wait_before_use(&mut raw);
        let expected = run_raw(&raw);
        let mut blocks = order::order(raw);
        let mut registers = registers();
        simplify::simplify(&mut blocks, &mut registers);
        let sizes = allocate::allocate(&mut blocks, &registers, &[]).sizes;
        allocate::rebase(&mut blocks, allocate::begins(sizes));
        let [fours, pairs, words, preds] = sizes;
        let slots = fours + pairs + words;
        for instr in blocks.iter().flat_map(|b| &b.instrs) {
            for reg in &instr.dst {
                prop_assert!(reg.class != Class::B64 || reg.slot.is_multiple_of(2));
            }
        }
        // Columns of lanes are kept apart only between registers of one width.
        let mut width_of = vec![None; slots as usize];
        for reg in blocks.iter().flat_map(|b| &b.instrs).flat_map(|i| &i.dst) {
            let width = match reg.class {
                Class::Pred => continue,
                Class::B32 => 1,
                Class::B64 => 2,
                Class::B128 => 4,
            };
            for slot in reg.slot..reg.slot + width {
                let first = *width_of[slot as usize].get_or_insert(width);
                prop_assert_eq!(first, width, "slot {}", slot);
            }
        }
        let found = run_blocks(&blocks, slots, preds);
        // Both run out of steps, but at different places.
        prop_assert!(
            expected.len() <= found.len() || found.len() > 20,
            "trace cut short"
        );
        for (at, (expected, found)) in expected.iter().zip(&found).enumerate() {
            prop_assert!(
                expected.is_none_or(|e| e == *found),
                "value {} of the trace",
                at
            );
        }
        compared.set(compared.get() + expected.iter().flatten().count());
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        compared.get() > 50_000,
        "{} values compared",
        compared.get()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loops_are_contiguous_and_have_one_way_back(raw in program()) {
        let blocks = order::order(raw);
        let graph = graph(&blocks);
        let mut ends = vec![None; blocks.len()];
        for (from, ways) in graph.iter().enumerate() {
            for &to in ways.iter().filter(|to| **to <= from) {
                prop_assert!(ends[to].is_none(), "two ways back to b{}: {:?}", to, graph);
                ends[to] = Some(from);
            }
        }
        for (header, end) in ends.iter().enumerate() {
            let Some(end) = *end else { continue };
            // The second jump of a branch that falls through to neither side may leave the loop.
            let jumps = |block: &usize| matches!(blocks[*block].instrs.as_slice(), [Instr { op: Op::Bra(_), guard: None, .. }]);
            for block in (header..=end).filter(|block| !jumps(block)) {
                let inside = reaches(&graph, block, header, header..=end);
                prop_assert!(inside, "b{} is not in loop b{}: {:?}", block, header, graph);
            }
        }
    }

    #[test]
    fn post_dominators_stand_behind_their_branches(raw in program()) {
        let blocks = order::order(raw);
        let graph = graph(&blocks);
        for (index, immediate) in post_dominators(&blocks).into_iter().enumerate() {
            // Lanes that go into a loop without exit meet nobody again.
            let ways = &graph[index];
            let Some(post) = immediate.map(|post| post as usize) else { continue };
            if ways.len() < 2 || !ways.iter().all(|&way| reaches_exit(&graph, way)) {
                continue;
            }
            prop_assert!(post_dominates(&graph, post, index));
            // Immediate: no other post-dominator lies before it.
            for other in (0..blocks.len()).filter(|o| *o != index && *o != post) {
                let strict = post_dominates(&graph, other, index);
                prop_assert!(!strict || post_dominates(&graph, other, post));
            }
            // The header of a loop around the branch is the one exception.
            let around = reaches(&graph, post, index, 0..=blocks.len());
            prop_assert!(post > index || around, "b{} meets at b{}: {:?}", index, post, graph);
        }
    }
}
