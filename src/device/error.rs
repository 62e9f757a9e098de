//! Errors of the device layer: each names the operation, the value and what was expected.

use std::path::PathBuf;
use std::time::Duration;

/// Why a device could not be found or used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// An environment variable has no valid value.
    #[error("{name} = `{value}`, expected {expected}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// The valid values.
        expected: &'static str,
    },
    /// No device library was found.
    #[error("no device: {looked_for}")]
    NoDevice {
        /// Each place that was looked at, with what was found there.
        looked_for: String,
    },
    /// A library exists, but cannot be used as the device.
    #[error("device library {}: {message}", library.display())]
    Library {
        /// The library.
        library: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A driver function failed.
    #[error("{call}: {name} ({code}): {text}{}", fault.as_deref().map_or(String::new(), |f| format!("; {f}")))]
    Driver {
        /// The function.
        call: &'static str,
        /// `CUresult`.
        code: u32,
        /// Its name, such as `CUDA_ERROR_ILLEGAL_ADDRESS`.
        name: String,
        /// Its description.
        text: String,
        /// What the software GPU says about the fault, if it is the device.
        fault: Option<String>,
    },
    /// Work on a stream did not complete in time. It is still queued.
    #[error("{operation}: not complete after {waited:?}")]
    Timeout {
        /// What was waited for.
        operation: &'static str,
        /// How long.
        waited: Duration,
    },
    /// No compiled kernel has this name.
    #[error("no kernel `{name}` is compiled in (csrc/instances.toml)")]
    UnknownKernel {
        /// The name.
        name: String,
    },
    /// A launch does not fit the kernel.
    #[error("launch of `{kernel}`: {field} is {value}, expected {expected}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        field: &'static str,
        /// Its value.
        value: String,
        /// What the kernel demands.
        expected: String,
    },
    /// Host and device lengths differ, or a range is out of bounds.
    #[error("{operation}: {found} elements, expected {expected}")]
    Length {
        /// The operation.
        operation: &'static str,
        /// Elements given.
        found: usize,
        /// Elements demanded.
        expected: usize,
    },
    /// A tensor map's description breaks a rule of the hardware.
    #[error("tensor map: {field} is {value}, expected {expected}")]
    TensorMap {
        /// The field of the description.
        field: &'static str,
        /// Its value.
        value: String,
        /// The rule.
        expected: String,
    },
    /// A text for the driver contains a NUL byte.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// The text.
        what: &'static str,
    },
    /// Two objects belong to different contexts.
    #[error("{operation}: the {what} belongs to another context")]
    WrongContext {
        /// The operation.
        operation: &'static str,
        /// The object.
        what: &'static str,
    },
}
