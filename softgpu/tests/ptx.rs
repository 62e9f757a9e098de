//! PTX texts as tests: those in `tests/ptx/pass` must lower, those in `tests/ptx/fail` must not.
//!
//! A text says what is expected in comments: `//| …` lines are the dump of its functions (optional),
//! `// error: line:column: message` is the error. `SOFTGPU_BLESS=1` rewrites both; read the
//! difference before committing it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use softgpu::error::PtxError;
use softgpu::ir::lower::lower;
use softgpu::ir::{Class, Function, Operand, Reg};
use softgpu::ptx::parse;

/// Where every global symbol stands.
const GLOBAL: u64 = 0x0200_0000_1000;

fn texts(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/ptx")
        .join(folder);
    let mut found: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no texts in {}", folder.display());
    found
}

fn load(text: &str) -> Result<Vec<Function>, PtxError> {
    lower(&parse(text)?, &|_| Some(GLOBAL))
}

fn bless() -> bool {
    std::env::var_os("SOFTGPU_BLESS").is_some()
}

/// Compares what was found with the lines of a text that have the prefix, or rewrites those.
fn compare(path: &Path, text: &str, prefix: &str, found: &str) {
    let expected: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(prefix))
        .collect();
    let found: Vec<&str> = found.lines().map(str::trim_end).collect();
    if expected == found {
        return;
    }
    if bless() {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        lines.extend(
            found
                .iter()
                .map(|line| format!("{prefix}{line}").trim_end().to_owned()),
        );
        fs::write(path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let at = (0..).find(|&i| expected.get(i) != found.get(i)).unwrap();
    panic!(
        "{}, expected line {}:\n  expected {:?}\n  found    {:?}",
        path.display(),
        at + 1,
        expected.get(at),
        found.get(at)
    );
}

#[test]
fn texts_that_must_load() {
    for path in texts("pass") {
        let text = fs::read_to_string(&path).unwrap();
        let functions = load(&text).unwrap_or_else(|e| panic!("{}:{e}", path.display()));
        functions.iter().for_each(|f| check_registers(&path, f));
        if text.lines().any(|line| line.starts_with("//|")) {
            let dump: String = functions.iter().map(ToString::to_string).collect();
            compare(&path, &text, "//| ", dump.trim_end());
        }
    }
}

#[test]
fn texts_that_must_not_load() {
    for path in texts("fail") {
        let text = fs::read_to_string(&path).unwrap();
        match load(&text) {
            Ok(_) => panic!("{} loads", path.display()),
            Err(error) => compare(&path, &text, "// error: ", &error.to_string()),
        }
    }
}

/// Slots within the file, aligned, and never shared between a result and a source.
fn check_registers(path: &Path, function: &Function) {
    for instr in function.blocks.iter().flat_map(|block| &block.instrs) {
        let at = || format!("{}:{}: {instr}", path.display(), instr.line);
        let sources: Vec<Reg> = instr
            .src
            .iter()
            .filter_map(|src| match src {
                Operand::Reg(reg) | Operand::NotPred(reg) => Some(*reg),
                Operand::Imm(_) => None,
            })
            .collect();
        for reg in instr.dst.iter().chain(&sources) {
            let size = match reg.class {
                Class::Pred => {
                    assert!(reg.slot < function.preds, "{}", at());
                    continue;
                }
                Class::B32 => 1,
                Class::B64 => 2,
                Class::B128 => 4,
            };
            assert_eq!(reg.slot % size, 0, "{}", at());
            assert!(reg.slot + size <= function.slots, "{}", at());
        }
        for dst in &instr.dst {
            assert!(
                sources.iter().all(|src| src == dst || !overlap(*src, *dst)),
                "{}",
                at()
            );
        }
    }
}

fn overlap(a: Reg, b: Reg) -> bool {
    let range = |reg: Reg| match reg.class {
        Class::Pred => None,
        Class::B32 => Some((reg.slot, reg.slot + 1)),
        Class::B64 => Some((reg.slot, reg.slot + 2)),
        Class::B128 => Some((reg.slot, reg.slot + 4)),
    };
    match (range(a), range(b)) {
        (Some(a), Some(b)) => a.0 < b.1 && b.0 < a.1,
        (None, None) => a.slot == b.slot,
        _ => false,
    }
}

fn mutated() -> impl Strategy<Value = String> {
    let all: Vec<String> = texts("pass")
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let edit = (any::<prop::sample::Index>(), 0..6usize, any::<u8>());
    (prop::sample::select(all), prop::collection::vec(edit, 1..8)).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..(at + 1 + byte as usize % 16).min(bytes.len()))),
                2 => bytes.insert(at, byte & 0x7f),
                3 => bytes[at] = b"{}[]();,.%:@!|+-0 "[byte as usize % 18],
                4 => {
                    let end = (at + byte as usize).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => bytes[at] = byte,
            }
            if bytes.is_empty() {
                bytes.push(b' ');
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Nanoseconds of processor time of this thread.
fn processor_time() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Every level of nested loops costs a pass over the rest: half a minute for this text, were there
/// no limit.
#[test]
fn jumps_in_all_directions_take_no_time() {
    const LABELS: u32 = 20_000;
    let mut text = String::from(".version 9.0\n.target sm_90a\n.address_size 64\n");
    text.push_str(".visible .entry k()\n{\n.reg .pred %p;\n");
    for label in 0..LABELS {
        let target = label.wrapping_mul(7919) % LABELS;
        text.push_str(&format!("L{label}: @%p bra L{target};\n"));
    }
    // And many ways back to one place.
    for label in 0..LABELS {
        text.push_str(&format!("M{label}: @%p bra M0;\n"));
    }
    text.push_str("ret;\n}\n");
    let start = processor_time();
    load(&text).unwrap();
    let seconds = (processor_time() - start) / 1_000_000_000;
    assert!(seconds < 8, "{seconds} s");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "[ -~\\n\\t\u{e9}]{0,200}") {
        let _ = load(&text);
        let _ = load(&format!(".version 9.0\n.target sm_90a\n.entry k(){{{text}}}"));
    }

    #[test]
    fn damaged_texts_never_panic(text in mutated()) {
        let _ = load(&text);
    }
}
