//! What can go wrong, by whose fault: bad input (a file, a tensor, a request) or the device.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was attempted.
        operation: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file's content is not what its format asks for.
    #[error("{}: {expectation}", path.display())]
    Format {
        /// File.
        path: PathBuf,
        /// What was expected and what was found.
        expectation: String,
    },
    /// A configuration that this crate does not implement, or that contradicts itself.
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Config {
        /// `config.json`.
        path: PathBuf,
        /// Key, with dots for nesting.
        key: &'static str,
        /// Value found.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// A tensor is missing, or not of the type or shape expected.
    #[error("{}: tensor `{tensor}`: {expectation}", path.display())]
    Tensor {
        /// File, or the checkpoint's folder where no file has it.
        path: PathBuf,
        /// Tensor name.
        tensor: String,
        /// What was expected and what was found.
        expectation: String,
    },
    /// A request that cannot be met.
    #[error("{what} is {found}, expected {expected}")]
    Request {
        /// Argument.
        what: &'static str,
        /// Value found.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// A description that the kernels cannot execute.
    #[error("{what}: {source}")]
    Plan {
        /// What was planned.
        what: &'static str,
        /// The wrapper's error, which names the number and the rule.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device or a library call failed.
    #[error("{operation}: {source}")]
    Device {
        /// What the layer was doing.
        operation: String,
        /// The wrapper's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Process exit code: 2 for bad input, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Device { .. } => 1,
            _ => 2,
        }
    }

    pub(crate) fn io(
        path: impl Into<PathBuf>,
        operation: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            path,
            operation,
            source,
        }
    }

    pub(crate) fn plan<E>(what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Plan {
            what,
            source: source.into(),
        }
    }

    pub(crate) fn device<E>(operation: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let operation = operation.into();
        move |source| Self::Device {
            operation,
            source: source.into(),
        }
    }
}

impl From<hadal::device::DeviceError> for Error {
    fn from(error: hadal::device::DeviceError) -> Self {
        Self::device("the device")(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::device("JSON of a report")(error)
    }
}
