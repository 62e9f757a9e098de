//! Finds the CUDA compiler: `CUDA_HOME`, then `PATH`, then `target/cuda/` of the workspace, where
//! `cargo xtask setup` installs it. The first nvcc that is recent enough wins; the others are named
//! in the error when none is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BuildError;

/// Where `cargo xtask setup` installs the wheels, below the workspace root.
pub const SETUP_FOLDER: &str = "target/cuda";
/// The toolkit inside [`SETUP_FOLDER`].
pub const SETUP_TOOLKIT: &str = "target/cuda/nvidia/cu13";

/// An nvcc release. The lowest accepted one is the first whose PTX ISA is 9.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Such as 13.
    pub major: u32,
    /// Such as 0.
    pub minor: u32,
}

/// PTX ISA 9.0 begins here.
pub const MINIMUM: Version = Version {
    major: 13,
    minor: 0,
};

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A usable CUDA compiler.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The `nvcc` driver.
    pub nvcc: PathBuf,
    /// The assembler beside it.
    pub ptxas: PathBuf,
    /// Release of `nvcc`.
    pub version: Version,
    /// The last line of `nvcc --version`: it identifies the build, so it is part of cache keys.
    pub build: String,
}

/// The places to look at, in order. A value of its own so that tests can name other places.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Value of `CUDA_HOME`.
    pub cuda_home: Option<PathBuf>,
    /// Folders of `PATH`.
    pub path: Vec<PathBuf>,
    /// Workspace root, if our own installation counts.
    pub workspace: Option<PathBuf>,
}

impl Places {
    /// Reads `CUDA_HOME` and `PATH`.
    #[must_use]
    pub fn from_env(workspace: &Path) -> Self {
        let path = std::env::var_os("PATH");
        Self {
            cuda_home: std::env::var_os("CUDA_HOME")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from),
            path: path.map_or_else(Vec::new, |p| std::env::split_paths(&p).collect()),
            workspace: Some(workspace.to_owned()),
        }
    }

    fn candidates(&self) -> Vec<(String, PathBuf)> {
        let mut all = Vec::new();
        if let Some(home) = &self.cuda_home {
            all.push((
                format!("CUDA_HOME={}", home.display()),
                home.join("bin/nvcc"),
            ));
        }
        let on_path = self
            .path
            .iter()
            .map(|folder| folder.join("nvcc"))
            .find(|p| p.is_file());
        all.push((
            "PATH".into(),
            on_path.unwrap_or_else(|| PathBuf::from("nvcc")),
        ));
        if let Some(root) = &self.workspace {
            all.push((
                SETUP_FOLDER.into(),
                root.join(SETUP_TOOLKIT).join("bin/nvcc"),
            ));
        }
        all
    }
}

/// Finds the compiler.
///
/// # Errors
/// [`BuildError::NoCompiler`], listing each place with what was found there.
pub fn find(places: &Places) -> Result<Toolchain, BuildError> {
    let mut looked_at = Vec::new();
    for (place, nvcc) in places.candidates() {
        match probe(&nvcc) {
            Ok(found) => return Ok(found),
            Err(reason) => looked_at.push(format!("{place} ({reason})")),
        }
    }
    let looked_at = looked_at.join(", ");
    Err(BuildError::NoCompiler {
        minimum: MINIMUM.to_string(),
        looked_at,
    })
}

fn probe(nvcc: &Path) -> Result<Toolchain, String> {
    // A link on PATH leads to the toolkit, which is where the other tools are.
    let nvcc = nvcc.canonicalize().map_err(|_| "no nvcc".to_string())?;
    let output = Command::new(&nvcc)
        .arg("--version")
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).ok_or("nvcc --version names no release")?;
    if version < MINIMUM {
        return Err(format!("nvcc {version} is too old"));
    }
    let ptxas = nvcc.with_file_name("ptxas");
    if !ptxas.is_file() {
        return Err(format!("nvcc {version} without ptxas"));
    }
    let build = text.trim().lines().last().unwrap_or_default().to_owned();
    Ok(Toolchain {
        nvcc,
        ptxas,
        version,
        build,
    })
}

fn parse_version(text: &str) -> Option<Version> {
    let (_, rest) = text.split_once("release ")?;
    let (major, rest) = rest.split_once('.')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(Version {
        major: major.parse().ok()?,
        minor: rest.get(..end)?.parse().ok()?,
    })
}

/// The host C++ compiler that nvcc preprocesses with, as cargo would choose it for C++.
///
/// # Errors
/// [`BuildError::HostCompiler`] when there is none.
pub(crate) fn host_compiler() -> Result<PathBuf, BuildError> {
    // nvcc runs on Linux only. Everything that cc would ask of a build script's environment is
    // given, as reports are made outside of build scripts.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let tool = cc::Build::new()
        .cpp(true)
        .opt_level(0)
        .debug(false)
        .host(&host)
        .target(&host)
        .cargo_metadata(false)
        .try_get_compiler()
        .map_err(|e| BuildError::HostCompiler {
            message: e.to_string(),
        })?;
    Ok(tool.path().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fake(folder: &Path, release: &str) {
        std::fs::create_dir_all(folder.join("bin")).unwrap();
        for tool in ["nvcc", "ptxas"] {
            let path = folder.join("bin").join(tool);
            let text = format!("#!/bin/sh\necho 'Cuda compilation tools, release {release}, V1'\n");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn versions_are_read_from_the_release_line() {
        let parsed = |text| parse_version(text).map(|v| (v.major, v.minor));
        assert_eq!(parsed("tools, release 13.0, V13.0.88"), Some((13, 0)));
        assert_eq!(parsed("tools, release 12.10"), Some((12, 10)));
        assert_eq!(parsed("tools, release thirteen"), None);
        assert_eq!(parsed(""), None);
    }

    #[test]
    fn an_old_compiler_in_cuda_home_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("old"), "12.9");
        fake(&root.path().join(SETUP_TOOLKIT), "13.0");
        let places = Places {
            cuda_home: Some(root.path().join("old")),
            path: Vec::new(),
            workspace: Some(root.path().to_owned()),
        };
        let found = find(&places).unwrap();
        assert!(
            found.nvcc.ends_with("target/cuda/nvidia/cu13/bin/nvcc"),
            "{found:?}"
        );
    }

    #[test]
    fn nothing_found_names_the_places_and_the_command() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("old"), "12.9");
        let places = Places {
            cuda_home: Some(root.path().join("old")),
            path: vec![root.path().to_owned()],
            workspace: Some(root.path().to_owned()),
        };
        let message = find(&places).unwrap_err().to_string();
        for part in [
            "cargo xtask setup",
            "nvcc 12.9 is too old",
            "PATH (no nvcc)",
            "target/cuda",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}
