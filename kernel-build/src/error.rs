//! Why kernels could not be built. Every message says what was tried and what to do.

use std::path::PathBuf;

/// Errors of finding the compiler, reading the instance table and compiling its rows.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No usable CUDA compiler anywhere.
    #[error(
        "no CUDA compiler (nvcc >= {minimum}) found; looked at: {looked_at}. \
         Run `cargo xtask setup` to install one under target/cuda/, or set CUDA_HOME"
    )]
    NoCompiler {
        /// Lowest accepted version.
        minimum: String,
        /// Each place with what was found there.
        looked_at: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was attempted, such as `read`.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The instance table is not valid TOML or lacks a field.
    #[error("{}: {message}", path.display())]
    TableSyntax {
        /// The table.
        path: PathBuf,
        /// The parser's message with line and column.
        message: String,
    },
    /// A row of the instance table breaks a rule.
    #[error("instance `{row}`: {message}")]
    Row {
        /// The row's name.
        row: String,
        /// The value and what was expected.
        message: String,
    },
    /// The host C++ compiler that nvcc preprocesses with was not found.
    #[error("no host C++ compiler for nvcc: {message}; install one or set CXX")]
    HostCompiler {
        /// The finder's message.
        message: String,
    },
    /// A compiler could not be started.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The compiler.
        program: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A compiler rejected a row.
    #[error("instance `{row}`: {tool} failed ({status})\n{output}")]
    Compile {
        /// The row's name.
        row: String,
        /// `nvcc` or `ptxas`.
        tool: &'static str,
        /// Exit status.
        status: String,
        /// Everything the compiler printed.
        output: String,
    },
    /// The compiler's report lacks an expected line.
    #[error("instance `{row}`: no `{missing}` in the output of ptxas -v:\n{output}")]
    Report {
        /// The row's name.
        row: String,
        /// What was looked for.
        missing: &'static str,
        /// The report.
        output: String,
    },
    /// Registers were spilled to local memory.
    #[error(
        "instance `{row}` spills: {stores} bytes of spill stores, {loads} bytes of spill loads \
         ({registers} registers); no spill is accepted"
    )]
    Spills {
        /// The row's name.
        row: String,
        /// Bytes of spill stores.
        stores: u32,
        /// Bytes of spill loads.
        loads: u32,
        /// Registers per thread.
        registers: u32,
    },
    /// ptxas serialised wgmma or dropped a register request.
    #[error("instance `{row}`: remark {code} is not accepted: {text}")]
    Remark {
        /// The row's name.
        row: String,
        /// Such as `C7510`.
        code: String,
        /// The whole line.
        text: String,
    },
}

impl BuildError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}
