//! Compiles the kernels: every row of `csrc/instances.toml` becomes PTX (what softgpu executes)
//! and an `sm_90a` cubin (what a GPU executes), and a Rust table that embeds both.
//!
//! Rows are compiled in parallel and only when their inputs changed. A kernel that spills, or about
//! which ptxas makes a C75xx remark, is an error.

mod cache;
mod compile;
mod emit;
mod error;
mod report;
pub mod table;
pub mod toolchain;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

pub use error::BuildError;
pub use report::Resources;
pub use table::Row;
pub use toolchain::Places;

/// The instance table, below the workspace root.
const TABLE: &str = "csrc/instances.toml";

/// Where things are.
#[derive(Debug, Clone)]
pub struct Config {
    /// Workspace root: holds `csrc/` and `ptx/`.
    pub workspace: PathBuf,
    /// Where to look for the compiler.
    pub places: Places,
    /// Compiled rows by content; may be shared by several builds.
    pub cache: PathBuf,
    /// Scratch folder of this build, and place of `kernels.rs`.
    pub work: PathBuf,
    /// Rows compiled at once.
    pub jobs: usize,
}

/// One compiled row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The row.
    pub row: Row,
    /// What it takes on a device.
    pub resources: Resources,
    /// The `compute_90a` PTX text.
    pub ptx: PathBuf,
    /// The `sm_90a` machine code.
    pub cubin: PathBuf,
}

/// Compiles every row of the table below `config.workspace`, in table order.
///
/// # Errors
/// A broken table, no compiler, or the first row that does not compile or is not accepted.
pub fn compile(config: &Config) -> Result<Vec<Image>, BuildError> {
    let rows = table::read(&config.workspace.join(TABLE))?;
    let found = toolchain::find(&config.places)?;
    let compiler = compile::Compiler::new(config, found)?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..config.jobs.clamp(1, rows.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, row)) = take(&next, &rows) {
                    let result = compiler.row(row);
                    results
                        .lock()
                        .unwrap_or_else(|e| e.into_inner())
                        .push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(index, _)| *index);
    let images = rows.into_iter().zip(results).map(|(row, (_, result))| {
        let cache::Artifacts {
            ptx,
            cubin,
            resources,
        } = result?;
        Ok(Image {
            row,
            resources,
            ptx,
            cubin,
        })
    });
    images.collect()
}

fn take<'a>(next: &AtomicUsize, rows: &'a [Row]) -> Option<(usize, &'a Row)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    rows.get(index).map(|row| (index, row))
}

/// Compiles every row and writes `kernels.rs` into `config.work`.
///
/// # Errors
/// As [`compile()`], and an unwritable folder.
pub fn build(config: &Config) -> Result<Vec<Image>, BuildError> {
    let images = compile(config)?;
    emit::write(&config.work, &images)?;
    Ok(images)
}

/// The settings of a build script of the workspace's root package, from cargo's environment.
///
/// # Errors
/// [`BuildError::Io`] when a variable that cargo sets is absent.
pub fn config_from_cargo() -> Result<Config, BuildError> {
    let folder = |name: &'static str| {
        let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "set by cargo only");
        std::env::var_os(name)
            .map(PathBuf::from)
            .ok_or(BuildError::Io {
                operation: "read the environment variable",
                path: name.into(),
                source: missing,
            })
    };
    let work = folder("OUT_DIR")?;
    // OUT_DIR is <target>/<profile>/build/<package>/out: profiles share the cache.
    let target = work.ancestors().nth(4).unwrap_or(&work);
    let jobs = std::env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let cache = target.join("kernel-cache");
    let workspace = folder("CARGO_MANIFEST_DIR")?;
    let places = Places::from_env(&workspace);
    Ok(Config {
        workspace,
        places,
        cache,
        work,
        jobs,
    })
}

/// The whole of the root build script: compiles, embeds, and tells cargo what to watch.
///
/// # Errors
/// As [`build`].
pub fn build_script() -> Result<(), BuildError> {
    let config = config_from_cargo()?;
    for watched in ["csrc", "ptx"] {
        instruct(&format!(
            "rerun-if-changed={}",
            config.workspace.join(watched).display()
        ));
    }
    // Another compiler than last time. A change of PATH alone is not watched: cargo within cargo
    // changes it every time.
    for variable in ["CUDA_HOME", "CXX"] {
        instruct(&format!("rerun-if-env-changed={variable}"));
    }
    build(&config)?;
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "cargo reads a build script's instructions from stdout"
)]
fn instruct(line: &str) {
    println!("cargo:{line}");
}

/// Root of the workspace: where cargo runs a program of it, else where this crate was compiled.
#[must_use]
pub fn workspace_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let running = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let package = running.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let is_root = |folder: &&Path| folder.join(TABLE).is_file();
        package
            .ancestors()
            .find(is_root)
            .unwrap_or(&package)
            .to_owned()
    })
}
