//! Installs the pinned wheels that are missing into `target/cuda/`: nothing outside `target/`.
//!
//! The wheels unpack into a temporary folder that is renamed when complete, so an interrupted run
//! leaves nothing that looks installed.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use hadal_kernel_build::toolchain::{self, Places};

use crate::process::{command, run};
use crate::root;

/// The compiler: one release, as the front end and the assembler must match.
const COMPILER: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// Disassemblers for reports and libclang for the parameter structs. The wheels of the former
/// begin at 13.2; they read cubins of every earlier release.
const TOOLS: [&str; 3] = [
    "nvidia-cuda-cuobjdump==13.5.37",
    "nvidia-cuda-nvdisasm==13.5.37",
    "libclang==18.1.1",
];
/// Lists the installed pins; written last.
const MARKER: &str = "installed.txt";

/// Where everything is installed.
pub(crate) fn folder() -> PathBuf {
    root().join(toolchain::SETUP_FOLDER)
}

/// Folder of `libclang.so`: `LIBCLANG_PATH`, or the installed wheel.
pub(crate) fn libclang() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LIBCLANG_PATH").filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    let installed = folder().join("clang/native");
    if installed.join("libclang.so").is_file() {
        return Ok(installed);
    }
    bail!("no libclang: run `cargo xtask setup`, or set LIBCLANG_PATH to the folder that holds it")
}

/// Installs what is missing.
pub(crate) fn run_setup() -> Result<()> {
    let compiler = toolchain::find(&elsewhere());
    let mut wanted = TOOLS.to_vec();
    match &compiler {
        Ok(found) => eprintln!("using nvcc {} at {}", found.version, found.nvcc.display()),
        Err(_) => wanted.extend(COMPILER),
    }
    let installed = std::fs::read_to_string(folder().join(MARKER)).unwrap_or_default();
    if !wanted
        .iter()
        .all(|pin| installed.lines().any(|line| line == *pin))
    {
        install(&wanted)?;
    }
    let found = toolchain::find(&Places::from_env(root()))?;
    eprintln!("CUDA compiler {} ({})", found.version, found.nvcc.display());
    Ok(())
}

/// The places of a compiler other than our own installation.
fn elsewhere() -> Places {
    let mut places = Places::from_env(root());
    places.workspace = None;
    places
}

fn install(wanted: &[&str]) -> Result<()> {
    let target = folder();
    let part = target.with_extension(format!("part{}", std::process::id()));
    eprintln!(
        "installing {} wheels into {}",
        wanted.len(),
        target.display()
    );
    let mut pip = command("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    // As root, pip advises a virtual environment; with --target nothing of the system changes.
    pip.env("PIP_ROOT_USER_ACTION", "ignore");
    pip.args(["--only-binary", ":all:", "--target"])
        .arg(&part)
        .args(wanted);
    let installed = run(&mut pip).context(
        "pip could not install the CUDA compiler; `cargo xtask setup` needs Python 3 with pip and \
         access to a package index, or set CUDA_HOME to a CUDA toolkit >= 13.0",
    );
    if let Err(error) = installed {
        // What matters is the error of pip; a folder left over is harmless.
        let _ = std::fs::remove_dir_all(&part);
        return Err(error);
    }
    std::fs::write(part.join(MARKER), wanted.join("\n") + "\n")?;
    if target.exists() {
        std::fs::remove_dir_all(&target)
            .with_context(|| format!("cannot replace {}", target.display()))?;
    }
    std::fs::rename(&part, &target)
        .with_context(|| format!("cannot rename {} to {}", part.display(), target.display()))
}
