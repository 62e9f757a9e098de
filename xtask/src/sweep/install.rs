//! Installs the clients under `target/clients/`, and builds the software GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{command, run as run_command};
use crate::{root, softgpu};

/// Pinned packages.
const REQUIREMENTS: &str = "softgpu/clients/requirements.txt";
/// A copy of the requirements that are installed; written last.
const MARKER: &str = "installed.txt";

/// Where things are.
pub(super) struct Places {
    /// `target/clients`.
    pub(super) folder: PathBuf,
    /// The folder of the software GPU's `libcuda.so.1`.
    driver: PathBuf,
}

impl Places {
    /// Python with the clients installed, running a script of `softgpu/clients/`.
    pub(super) fn python(&self, script: &str) -> Command {
        let python = self.folder.join("venv/bin/python");
        let mut command = command(&python.to_string_lossy());
        command.current_dir(&self.folder);
        command.arg(root().join("softgpu/clients").join(script));
        self.on_softgpu(&mut command);
        command
    }

    /// Has `command` find the software GPU, and the installed NVRTC, which only compiles.
    pub(super) fn on_softgpu(&self, command: &mut Command) {
        let mut path = self.driver.clone().into_os_string();
        if let Some(nvrtc) = self.nvrtc() {
            path.push(":");
            path.push(nvrtc);
        }
        command.env("LD_LIBRARY_PATH", path);
        command.env("TRITON_LIBCUDA_PATH", &self.driver);
        command.env("TRITON_CACHE_DIR", self.folder.join("triton-cache"));
    }

    /// The folder of `libnvrtc.so`.
    fn nvrtc(&self) -> Option<PathBuf> {
        let versions = std::fs::read_dir(self.folder.join("venv/lib")).ok()?;
        let folders = versions.filter_map(Result::ok).map(|version| {
            let packages = version.path().join("site-packages");
            packages.join("nvidia/cu13/lib")
        });
        folders.into_iter().find(|folder| folder.is_dir())
    }

    /// A folder for what a suite writes.
    pub(super) fn results(&self, suite: &str) -> Result<PathBuf> {
        let folder = self.folder.join("results").join(suite);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }
}

/// Builds the software GPU and installs what is missing.
pub(super) fn run() -> Result<Places> {
    let driver = softgpu::driver_folder()?;
    let folder = softgpu::target_directory()?.join("clients");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let wanted = std::fs::read_to_string(root().join(REQUIREMENTS))
        .with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let marker = folder.join(MARKER);
    if std::fs::read_to_string(&marker).unwrap_or_default() != wanted {
        install(&folder)?;
        std::fs::write(&marker, wanted)?;
    }
    Ok(Places { folder, driver })
}

/// A fresh environment with exactly the pinned packages.
fn install(folder: &Path) -> Result<()> {
    let venv = folder.join("venv");
    eprintln!("installing {REQUIREMENTS} into {}", venv.display());
    if venv.exists() {
        std::fs::remove_dir_all(&venv)
            .with_context(|| format!("cannot replace {}", venv.display()))?;
    }
    run_command(command("python3").args(["-m", "venv"]).arg(&venv))?;
    let python = venv.join("bin/python");
    let mut pip = command(&python.to_string_lossy());
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
    pip.args(["--disable-pip-version-check", "--only-binary", ":all:"]);
    pip.arg("--requirement").arg(root().join(REQUIREMENTS));
    run_command(&mut pip).context("pip could not install the clients; it needs a package index")?;
    Ok(())
}
