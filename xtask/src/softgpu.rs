//! The software GPU as a drop-in `libcuda.so.1` for other programs:
//! `LD_LIBRARY_PATH=$(cargo xtask softgpu --print-dir) PROGRAM`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, output, run};

/// Builds the library and prints a folder in which it has the driver's name.
#[expect(clippy::print_stdout, reason = "the folder is the command's result")]
pub(crate) fn print_dir() -> Result<()> {
    println!("{}", driver_folder()?.display());
    Ok(())
}

/// Builds the library; the folder in which it has the driver's name.
pub(crate) fn driver_folder() -> Result<PathBuf> {
    run(cargo().args(["build", "--quiet", "--release", "--package", "softgpu"]))?;
    let release = target_directory()?.join("release");
    let library = release.join("libsoftgpu.so");
    if !library.is_file() {
        bail!("cargo built no {}", library.display());
    }
    let folder = release.join("softgpu-driver");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let link = folder.join("libcuda.so.1");
    // A link, as a copy would be a second instance with state of its own.
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link)
            .with_context(|| format!("cannot replace {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&library, &link)
        .with_context(|| format!("cannot link {}", link.display()))?;
    Ok(folder)
}

/// Cargo's target folder.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let marker = "\"target_directory\":\"";
    let (_, rest) = metadata
        .split_once(marker)
        .context("cargo metadata names no target folder")?;
    let (path, _) = rest.split_once('"').context("cargo metadata is cut off")?;
    Ok(path.into())
}
