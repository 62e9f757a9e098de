//! Instructions: one test per file of `tests/isa/`, and what only a real GPU can answer, in
//! `tests/hardware/` (`cargo xtask gpu`). `cargo test -p softgpu --test isa FILTER` runs
//! those whose name contains FILTER; `SOFTGPU_BLESS=1` rewrites expected values that differ (check
//! every one of them by other means). Each file runs in a process of its own through the driver
//! API, so that the same files judge a real GPU.
//!
//! A file is a PTX module. Lines that begin with `//@` are directives, `//@+` continues one:
//!
//! ```text
//! //@ buffer a: u32[64] = iota(0,3)      device memory with content, between 256 guard bytes
//! //@ buffer out: f32[64]                filled with bytes 0xCD
//! //@ buffer e: u8[24] exact = 0*        without guards: an access beyond it may fault
//! //@ global table: u32[4] [= 1 2 3 4]   a variable of the module, given new content if any
//! //@ tensormap m: f32 a[+BYTES] dims 64x32 strides 256 box 32x8 [elements 1x1]
//! //@+   [interleave 16|32] [swizzle 32|64|128] [l2 64|128|256] [fill nan]
//! //@ launch k<<<2x1x1, 32, 1024>>>(a, out+16, m, &m, u32(5), f32(1.5,2)) [cluster 2x1x1]
//! //@+   [cooperative] [pdl] [stream 1]  grid, block, dynamic shared bytes; in order
//! //@ expect out: 0 3 0x6 1.5 nan _ 1|2  whole content in the end; lines of values with `//@+`
//! //@ expect out ulp 2: 1.5*64           within 2 units of the last place
//! //@ expect out sorted: 1 2 3           in any order, values ascending as unsigned numbers
//! //@ stdout: text                       a line that the run prints
//! //@ fault CUDA_ERROR_ILLEGAL_ADDRESS: part of softgpuLastFault
//! //@ error 3:4: part of the log         the module is refused
//! //@ unsupported: part of the message   refused, at load or launch, as not implemented
//! //@ seeds 16                           also under SOFTGPU_SEED = 0 to 15
//! //@ env SOFTGPU_SMS=2                  an environment variable
//! //@ record out                         the final content goes to the results of a hardware run
//! //@ only softgpu                       says nothing about hardware
//! ```
//!
//! Types: `u8 … u64`, `b8 … b64`, `s8 … s64`, `f16`, `bf16`, `f32`, `f64`. Values: decimal, `0x…` (the
//! bits, of floats too), `inf`, `nan` (any NaN; expected only), `_` (anything), `a|b` (either).
//! Items: `value`, `value*4`, `value*` (all that remain) and generators, which fill what remains
//! or `*n` elements: `iota(start,step)`, `random(seed)` (bits), `uniform(seed)` (floats in [-1, 1)),
//! `pick(seed,a,b,…)` (one of the values), `wide(seed,m,low,high)` (bits of a float of m mantissa
//! bits with a biased exponent from low to high), `copy(buffer,from)` (initial content). Arguments: a buffer's address, `m` a tensor map by value,
//! `&m` the address of one in device memory, `type(values)` bytes. Their sizes must be those of the
//! parameters. A buffer with content and without `expect` must not change; an `expect` without
//! values waits for SOFTGPU_BLESS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use softgpu_conformance::{Outcome, Seeds, Settings, TestFile, child_main, files, run_isolated};

/// No file needs a tenth of it, even on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

fn trial((name, path): (String, PathBuf), settings: Settings) -> Trial {
    Trial::test(name, move || {
        let file = TestFile::read(&path)?;
        match run_isolated(&file, &settings) {
            Outcome::Passed => Ok(()),
            Outcome::Skipped => Err(Failed::from("skipped")),
            Outcome::Failed(why) => Err(Failed::from(why)),
        }
    })
}

/// A file that must fail: its first line says how, so that a test that cannot fail is noticed.
fn must_fail((name, path): (String, PathBuf), settings: Settings) -> Trial {
    Trial::test(format!("wrong/{name}"), move || {
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted = text.lines().next().unwrap();
        let wanted = wanted.strip_prefix("// fails: ").unwrap();
        let why = match TestFile::read(&path) {
            Ok(file) => match run_isolated(&file, &settings) {
                Outcome::Failed(why) => why,
                other => return Err(Failed::from(format!("{other:?}"))),
            },
            Err(why) => why,
        };
        if why.contains(wanted) {
            Ok(())
        } else {
            Err(Failed::from(format!("fails with {why}")))
        }
    })
}

fn main() -> ExitCode {
    if let Some(code) = child_main() {
        return code;
    }
    let library = std::env::current_exe().unwrap();
    let library = library.with_file_name("libsoftgpu.so");
    let settings = Settings {
        library: library.to_string_lossy().into_owned(),
        limit: LIMIT,
        record: None,
        seeds: Seeds::All,
        coverage: std::env::var_os("SOFTGPU_COVERAGE_DIR").map(PathBuf::from),
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut trials: Vec<Trial> = ["tests/isa", "tests/hardware"]
        .iter()
        .flat_map(|folder| files(&here.join(folder)))
        .map(|file| trial(file, settings.clone()))
        .collect();
    // Not under SOFTGPU_BLESS, which would make them right.
    if std::env::var_os("SOFTGPU_BLESS").is_none() {
        let wrong = files(&here.join("testdata/wrong")).into_iter();
        trials.extend(wrong.map(|file| must_fail(file, settings.clone())));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
