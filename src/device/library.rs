//! Chooses the library behind the CUDA driver API: a GPU's, or the software GPU's.
//!
//! `HADAL_DEVICE=auto` (the default) asks the real driver first and takes it when it reports a
//! device. The software GPU is looked for at `HADAL_SOFTGPU`, beside the executable, in `deps/`
//! beside it, then in the build's own target folder. Whatever is chosen is opened before the first
//! call through cudarc, and afterwards it is checked that cudarc's calls really go there.
//!
//! # Safety
//! Opening a library runs its initialisers: only a CUDA driver, or the file that the user or the
//! build names as the software GPU, is opened. Libraries stay open for the life of the process.
#![expect(
    unsafe_code,
    reason = "opens the device library and calls its C functions"
)]

use std::ffi::{c_char, c_int};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW, Symbol};

use super::{DeviceError, alias};
use crate::env::{DeviceChoice, Env};

/// File name of the software GPU's library.
const SOFTGPU: &str = "libsoftgpu.so";
/// Names of a real driver.
const DRIVERS: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
/// A function that only the software GPU exports: the text of the last fault.
const LAST_FAULT: &str = "softgpuLastFault";

/// What executes the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A GPU.
    Cuda,
    /// The software GPU, which executes PTX only.
    Soft,
}

/// The chosen device library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// What it is.
    pub kind: DeviceKind,
    /// Its path, or the name under which the system's linker finds it.
    pub library: PathBuf,
    /// Devices it reports.
    pub devices: u32,
    /// Name of device 0.
    pub name: String,
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            library,
            devices,
            name,
        } = self;
        let kind = match kind {
            DeviceKind::Cuda => "GPU",
            DeviceKind::Soft => "software GPU",
        };
        write!(f, "{kind}: {devices} x {name} ({})", library.display())
    }
}

/// The device library of this process, chosen at the first call.
///
/// # Errors
/// [`DeviceError::NoDevice`] naming every place that was looked at, [`DeviceError::Library`] for a
/// library that cannot be used, [`DeviceError::Variable`] for a wrong environment.
pub fn selected() -> Result<&'static Selected, DeviceError> {
    static SELECTED: OnceLock<Result<Selected, DeviceError>> = OnceLock::new();
    SELECTED
        .get_or_init(|| select(Env::get()?))
        .as_ref()
        .map_err(Clone::clone)
}

/// Set when the chosen library is the software GPU.
static FAULT: OnceLock<Symbol<LastFault>> = OnceLock::new();

/// Writes the NUL-terminated text into a buffer of the given size, cut off to fit, and answers its
/// whole length.
type LastFault = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// What the software GPU says about its last fault.
pub(super) fn last_fault() -> Option<String> {
    let function = FAULT.get()?;
    let mut text = vec![0u8; 4096];
    // SAFETY: the buffer is writable and has the size that is told.
    let length = unsafe { function(text.as_mut_ptr().cast(), text.len()) };
    text.truncate(length.min(text.len() - 1));
    let text = String::from_utf8_lossy(&text)
        .trim_end_matches('\0')
        .to_owned();
    (!text.is_empty()).then_some(text)
}

fn select(env: &Env) -> Result<Selected, DeviceError> {
    let mut looked_for = Vec::new();
    if env.device != DeviceChoice::Soft {
        match real_driver() {
            Ok((library, name)) => return finish(library, name.into(), DeviceKind::Cuda),
            Err(reason) => looked_for.push(reason),
        }
    }
    if env.device != DeviceChoice::Cuda {
        match software_library(env.softgpu.as_deref())? {
            Ok(path) => return finish(open_software(&path)?, path, DeviceKind::Soft),
            Err(places) => looked_for.push(places),
        }
    }
    Err(DeviceError::NoDevice {
        looked_for: looked_for.join("; "),
    })
}

/// A driver that reports a device, or why there is none.
fn real_driver() -> Result<(Library, &'static str), String> {
    let mut reasons = Vec::new();
    for name in DRIVERS {
        // SAFETY: the initialisers of a CUDA driver have no preconditions.
        let Ok(library) = (unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }) else {
            reasons.push(format!("{name} not found"));
            continue;
        };
        match probe(&library) {
            Ok(()) => match open_alias(Path::new(name)) {
                Ok(()) => return Ok((library, name)),
                Err(error) => reasons.push(format!("{name}: cannot alias it: {error}")),
            },
            Err(reason) => reasons.push(format!("{name}: {reason}")),
        }
    }
    Err(format!("no GPU ({})", reasons.join(", ")))
}

fn probe(library: &Library) -> Result<(), String> {
    type Init = unsafe extern "C" fn(u32) -> u32;
    type Count = unsafe extern "C" fn(*mut c_int) -> u32;
    // SAFETY: this is the type of cuInit in cuda.h.
    let init: Symbol<Init> = unsafe { library.get(b"cuInit") }.map_err(|_| "it has no cuInit")?;
    // SAFETY: flags must be 0.
    let code = unsafe { init(0) };
    if code != 0 {
        return Err(format!("cuInit answers {code}"));
    }
    // SAFETY: this is the type of cuDeviceGetCount in cuda.h.
    let count: Symbol<Count> =
        unsafe { library.get(b"cuDeviceGetCount") }.map_err(|e| e.to_string())?;
    let mut devices = 0;
    // SAFETY: `devices` is a valid place for the answer.
    let code = unsafe { count(&raw mut devices) };
    if code != 0 || devices < 1 {
        return Err(format!(
            "cuDeviceGetCount answers {code} with {devices} devices"
        ));
    }
    Ok(())
}

/// The software GPU's library, or the places where it is not.
fn software_library(given: Option<&Path>) -> Result<Result<PathBuf, String>, DeviceError> {
    if let Some(path) = given {
        return match path.canonicalize() {
            Ok(path) if path.is_file() => Ok(Ok(path)),
            _ => Err(DeviceError::Library {
                library: path.to_owned(),
                message: "HADAL_SOFTGPU names it, but it is not a file".into(),
            }),
        };
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let places = places(&executable, option_env!("OUT_DIR").map(Path::new));
    let found = places
        .iter()
        .map(|folder| folder.join(SOFTGPU))
        .find(|path| path.is_file());
    Ok(found.ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        format!(
            "no software GPU ({SOFTGPU} not in {}; build it with `cargo build -p softgpu` or set \
             HADAL_SOFTGPU to its path)",
            places.join(", ")
        )
    }))
}

/// Folders that may hold the library, in order, without repetition.
fn places(executable: &Path, out_dir: Option<&Path>) -> Vec<PathBuf> {
    let beside = executable.parent().map(Path::to_owned);
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let profile = out_dir
        .and_then(|out| out.ancestors().nth(3))
        .map(Path::to_owned);
    let mut places = Vec::new();
    for folder in [beside, profile].into_iter().flatten() {
        for place in [folder.clone(), folder.join("deps")] {
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    places
}

/// Opens the software GPU so that cudarc's look-up by name finds it.
fn open_software(path: &Path) -> Result<Library, DeviceError> {
    let fail = |message: String| DeviceError::Library {
        library: path.to_owned(),
        message,
    };
    // SAFETY: the user or the build named this file as the software GPU.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|e| fail(e.to_string()))?;
    open_alias(path).map_err(|e| fail(format!("cannot alias it as libcuda.so: {e}")))?;
    probe(&library).map_err(fail)?;
    Ok(library)
}

/// Settles cudarc's look-up by name: see [`alias`].
fn open_alias(path: &Path) -> std::io::Result<()> {
    // SAFETY: a static name and a valid flag.
    let fd = unsafe { libc::memfd_create(c"libcuda.so".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nothing else owns it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&alias::image(path))?;
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the alias has no initialisers, and the library it needs is open already.
    let alias = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(std::io::Error::other)?;
    // It must outlive every look-up by name.
    std::mem::forget(alias);
    Ok(())
}

/// Checks that cudarc calls `library`, keeps it open, and describes it.
fn finish(library: Library, path: PathBuf, found_as: DeviceKind) -> Result<Selected, DeviceError> {
    let fail = |message: String| DeviceError::Library {
        library: path.clone(),
        message,
    };
    let name = b"cuInit";
    // SAFETY: only the address is used.
    let ours = unsafe { library.get::<unsafe extern "C" fn(u32) -> u32>(name) }
        .map_err(|e| fail(e.to_string()))?
        .as_raw_ptr();
    // SAFETY: it opens a library by name, which is why one is open already.
    let cudarc = unsafe { sys::culib() };
    // SAFETY: only the address is used.
    let theirs = unsafe { cudarc.get::<unsafe extern "C" fn(u32) -> u32>(name) }
        .map_err(|e| fail(e.to_string()))?;
    // SAFETY: the symbol lives as long as cudarc's library, which is static.
    let theirs = unsafe { theirs.into_raw() }.as_raw_ptr();
    if ours != theirs {
        return Err(fail(
            "another libcuda.so on the library search path hides it; see LD_LIBRARY_PATH".into(),
        ));
    }
    // A search path may offer the software GPU under the driver's name.
    // SAFETY: this is the type of the software GPU's function.
    let fault = unsafe { library.get::<LastFault>(LAST_FAULT.as_bytes()) };
    let kind = if fault.is_ok() {
        DeviceKind::Soft
    } else {
        found_as
    };
    if let Ok(symbol) = fault {
        // Only one selection happens per process.
        let _ = FAULT.set(symbol);
    }
    std::mem::forget(library);
    let (devices, name) = super::context::describe()?;
    Ok(Selected {
        kind,
        library: path,
        devices,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_beside_the_executable_then_in_the_profile_of_the_build() {
        let all = places(
            Path::new("/t/debug/examples/demo"),
            Some(Path::new("/t/debug/build/hadal-1/out")),
        );
        let expected = [
            "/t/debug/examples",
            "/t/debug/examples/deps",
            "/t/debug",
            "/t/debug/deps",
        ];
        assert_eq!(all, expected.map(PathBuf::from));
        let test = places(
            Path::new("/t/debug/deps/demo-1"),
            Some(Path::new("/t/debug/build/hadal-1/out")),
        );
        let expected = ["/t/debug/deps", "/t/debug/deps/deps", "/t/debug"];
        assert_eq!(test, expected.map(PathBuf::from));
    }

    #[test]
    fn a_wrong_path_is_an_error_not_a_fallback() {
        let error = software_library(Some(Path::new("/nonexistent"))).unwrap_err();
        let expected = "device library /nonexistent: HADAL_SOFTGPU names it, but it is not a file";
        assert_eq!(error.to_string(), expected);
    }
}
