//! Bounded fuzzing of everything that reads input from outside: PTX text, code images, tensor maps.
//! No input may panic, hang or take much memory. Seeds are fixed; `SOFTGPU_FUZZ=N` multiplies the
//! number of inputs by N and shifts the seeds. `softgpu/fuzz` has the same targets for cargo-fuzz.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod hostile;
mod limits;
mod text;

use std::path::{Path, PathBuf};

use softgpu::error::PtxError;
use softgpu::exec::Kernel;
use softgpu::ir::lower::lower;
use softgpu::ptx::parse;

/// Where every global symbol stands.
const GLOBAL: u64 = 0x0200_0000_1000;

/// From text to decoded kernels, as loading a module does it.
fn load(text: &str) -> Result<usize, PtxError> {
    let functions = lower(&parse(text)?, &|_| Some(GLOBAL))?;
    let count = functions.len();
    for function in functions {
        Kernel::new(function)?;
    }
    Ok(count)
}

/// Loads under the limits; a broken one names the input.
fn survive(what: &str, text: &str) -> bool {
    limits::watch(what, text, || load(text).is_ok())
}

/// The committed PTX files.
fn corpus() -> Vec<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folders = ["isa", "ptx/pass", "ptx/fail"];
    let mut paths: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(tests.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    // Directives and other comments are not what is to be tested.
    let code = |text: String| {
        let bare = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
        text.lines().map(bare).collect::<Vec<_>>().join("\n")
    };
    paths.iter().map(read).map(code).collect()
}

/// Inputs per unit of work, from the environment.
fn effort() -> u64 {
    let given = std::env::var("SOFTGPU_FUZZ").ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// splitmix64 (Steele, Lea, Flood).
struct Random(u64);

impl Random {
    fn new(stream: u64) -> Self {
        Self(stream.wrapping_mul(0xD134_2543_DE82_EF95) ^ effort())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let value = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ value >> 31
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &'a [&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}
