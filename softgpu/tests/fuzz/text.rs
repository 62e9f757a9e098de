//! Damaged and random PTX.

use crate::{Random, corpus, effort, survive};

/// Words, numbers and punctuation; white space is dropped.
fn tokens(text: &str) -> Vec<&str> {
    let mut list = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let wordy = |c: char| c.is_alphanumeric() || "_.%$:".contains(c);
        let end = if wordy(first) {
            rest.find(|c| !wordy(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        list.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    list
}

const STRANGE: [&str; 32] = [
    "0",
    "-1",
    "4294967295",
    "18446744073709551615",
    "0x80000000",
    "0f7fc00000",
    "0dfff0000000000000",
    "%r1",
    "%p1",
    "%tid.x",
    "%laneid",
    "%clock64",
    "_",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ";",
    ",",
    "@",
    "!",
    "|",
    "+",
    ".reg",
    ".param",
    ".shared",
    ".b128",
    ".v4",
    "call",
    "bra",
];

#[test]
fn damaged_bytes() {
    let corpus = corpus();
    for round in 0..2500 * effort() {
        let mut random = Random::new(round);
        let mut bytes = corpus[random.below(corpus.len())].clone().into_bytes();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(6) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] ^= 1 << random.below(7),
                2 => bytes.insert(at, b"{}[]();,.%:@!|+-0 \"/*\n"[random.below(22)]),
                3 => drop(bytes.drain(at..(at + 1 + random.below(40)).min(bytes.len()))),
                4 => {
                    let end = (at + random.below(300)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let to = random.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
                _ => bytes[at] = b"0123456789abcdefx.-"[random.below(19)],
            }
            if bytes.is_empty() {
                bytes.push(b'.');
            }
        }
        survive(
            &format!("damaged bytes {round}"),
            &String::from_utf8_lossy(&bytes),
        );
    }
}

/// The tokens of a statement, from after one `;` to the next.
fn statement(random: &mut Random, list: &[&str]) -> std::ops::Range<usize> {
    let at = random.below(list.len());
    let start = list[..at].iter().rposition(|t| *t == ";");
    let end = list[at..].iter().position(|t| *t == ";");
    start.map_or(0, |s| s + 1)..end.map_or(list.len(), |e| at + e + 1)
}

/// Moves or repeats a statement, or changes a register for another.
fn reorder(random: &mut Random, list: &mut Vec<&str>) {
    let some = statement(random, list);
    match random.below(3) {
        0 => {
            let to = statement(random, list).start;
            let copy = list[some].to_vec();
            list.splice(to..to, copy);
        }
        1 => drop(list.drain(some)),
        _ => {
            let registers: Vec<usize> = (0..list.len())
                .filter(|&i| list[i].starts_with('%'))
                .collect();
            if !registers.is_empty() {
                let from = list[registers[random.below(registers.len())]];
                list[registers[random.below(registers.len())]] = from;
            }
        }
    }
    if list.is_empty() {
        list.push(";");
    }
}

fn damage<'t>(random: &mut Random, list: &mut Vec<&'t str>, other: &[&'t str]) {
    let at = random.below(list.len());
    match random.below(7) {
        0 => list[at] = other[random.below(other.len())],
        1 => list[at] = random.pick(&STRANGE),
        2 => drop(list.remove(at)),
        3 => list.insert(at, random.pick(&STRANGE)),
        4 => {
            let to = random.below(list.len());
            list.swap(at, to);
        }
        // A statement of another file.
        5 => {
            let some = other[statement(random, other)].to_vec();
            list.splice(at..at, some);
        }
        // An operand or opcode of the same one.
        _ => list[at] = list[random.below(list.len())],
    }
    if list.is_empty() {
        list.push(";");
    }
}

#[test]
fn damaged_tokens() {
    let corpus = corpus();
    let parsed: Vec<Vec<&str>> = corpus.iter().map(|text| tokens(text)).collect();
    let mut loads = 0;
    for round in 0..4000 * effort() {
        let mut random = Random::new(1 << 32 | round);
        let mut list = parsed[random.below(parsed.len())].clone();
        for _ in 0..=random.below(4) {
            let other = &parsed[random.below(parsed.len())];
            // Half of them stay plausible.
            if random.below(2) == 0 {
                reorder(&mut random, &mut list);
            } else {
                damage(&mut random, &mut list, other);
            }
        }
        loads += u32::from(survive(&format!("damaged tokens {round}"), &list.join(" ")));
    }
    // Mutants that all fail in the first line would test nothing.
    assert!(loads > 100, "{loads} mutants load");
}

/// Registers that the random statements use.
const REGISTERS: &str = ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .f32 %f<4>; .reg .b64 %d<4>; .reg .f64 %e<4>; .reg .b128 %q<2>;\n.shared .align 16 .b8 sh[64]; .local .align 16 .b8 lo[64];";
const OPERANDS: [&str; 36] = [
    "%p1",
    "%h1",
    "%r1",
    "%r2",
    "%f1",
    "%d1",
    "%d2",
    "%e1",
    "%q1",
    "1",
    "-1",
    "0",
    "31",
    "0x80000000",
    "0f3f800000",
    "0d3ff0000000000000",
    "[%d1]",
    "[%d1+8]",
    "[%r1]",
    "[%r1+-4]",
    "[sh]",
    "[sh+4]",
    "[p]",
    "[lo]",
    "sh",
    "p",
    "_",
    "!%p1",
    "%r1|%p1",
    "{%r1, %r2}",
    "{%f1, %f1, %f1, %f1}",
    "{%d1, %d2}",
    "%tid.x",
    "-1",
    "L",
    "(%r1)",
];

#[test]
fn random_statements() {
    let corpus = corpus();
    let mut opcodes: Vec<&str> = corpus
        .iter()
        .flat_map(|text| tokens(text))
        .filter(|t| t.contains('.') && t.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    opcodes.sort_unstable();
    opcodes.dedup();
    let parts: Vec<&str> = opcodes.iter().flat_map(|o| o.split('.')).collect();
    let mut loads = 0;
    for round in 0..6000 * effort() {
        let mut random = Random::new(2 << 32 | round);
        let mut body = String::new();
        for _ in 0..=random.below(6) / 4 {
            body.push_str(random.pick(&["", "", "", "@%p1 ", "@!%p2 "]));
            let mut opcode = random.pick(&opcodes).to_owned();
            if random.below(4) == 0 {
                opcode.push('.');
                opcode.push_str(random.pick(&parts));
            }
            body.push_str(&opcode);
            // Most operands are of one width, as in most instructions.
            let same = random.pick(&["%h1", "%r1", "%r2", "%f1", "%d1", "%e1", "%p1"]);
            for i in 0..random.below(6) {
                body.push_str(if i == 0 { " " } else { ", " });
                let other = random.below(8) == 0;
                body.push_str(if other { random.pick(&OPERANDS) } else { same });
            }
            body.push_str(";\n");
        }
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n{REGISTERS}\nL:\n{body}ret;\n}}\n"
        );
        loads += u32::from(survive(&format!("random statements {round}"), &text));
    }
    assert!(loads > 20, "{loads} random texts load");
}
