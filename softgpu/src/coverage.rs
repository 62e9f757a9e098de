//! Which opcodes run: with `SOFTGPU_COVERAGE=FILE` set, every opcode string is appended to FILE
//! the first time that an instruction so written runs with at least one active lane.
//!
//! Lowering puts an [`Op::Cover`](crate::ir::Op::Cover) under the same guard before each PTX
//! instruction, and simplifies nothing, so that each runs as written. Without the variable no such
//! instruction exists.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use parking_lot::Mutex;

#[derive(Debug)]
struct Coverage {
    file: File,
    numbers: HashMap<String, u32>,
    /// By number; empty once written.
    names: Vec<String>,
}

fn coverage() -> Option<&'static Mutex<Coverage>> {
    static COVERAGE: OnceLock<Option<Mutex<Coverage>>> = OnceLock::new();
    COVERAGE
        .get_or_init(|| {
            let path = std::env::var_os("SOFTGPU_COVERAGE")?;
            let opened = File::options().create(true).append(true).open(&path);
            // A record that silently stays empty would look like missing tests.
            let file = opened
                .inspect_err(|e| eprintln!("softgpu: SOFTGPU_COVERAGE: {}: {e}", path.display()))
                .ok()?;
            Some(Mutex::new(Coverage {
                file,
                numbers: HashMap::new(),
                names: Vec::new(),
            }))
        })
        .as_ref()
}

/// Whether executed opcodes are recorded.
#[must_use]
pub fn enabled() -> bool {
    coverage().is_some()
}

/// The number of an opcode, where opcodes are recorded.
#[must_use]
pub fn number(opcode: &str) -> Option<u32> {
    let mut coverage = coverage()?.lock();
    if let Some(&number) = coverage.numbers.get(opcode) {
        return Some(number);
    }
    let number = u32::try_from(coverage.names.len()).ok()?;
    coverage.numbers.insert(opcode.to_owned(), number);
    coverage.names.push(opcode.to_owned());
    Some(number)
}

/// Notes that an opcode runs.
pub fn executed(number: u32) {
    let Some(coverage) = coverage() else {
        return;
    };
    let mut coverage = coverage.lock();
    let name = coverage.names.get_mut(number as usize);
    let name = name.map(std::mem::take).unwrap_or_default();
    if name.is_empty() {
        return;
    }
    // One write, as several processes may append to one file.
    if let Err(error) = coverage.file.write_all(format!("{name}\n").as_bytes()) {
        eprintln!("softgpu: SOFTGPU_COVERAGE: {error}");
    }
}
