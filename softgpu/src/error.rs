//! The outcomes of running guest code. They are never confused with each other: a guest fault is
//! what a real GPU would report, `Unsupported` means that softgpu lacks something and does not
//! guess, `Deadlock` is a finding about the guest, and a host bug is a panic.

use std::fmt;

/// Why a PTX text was refused at load time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PtxError {
    /// The text is not PTX.
    #[error("{line}:{column}: {message}")]
    Syntax {
        /// 1-based line in the PTX text.
        line: u32,
        /// 1-based column in the PTX text.
        column: u32,
        /// What was expected and what was found.
        message: String,
    },
    /// The text is PTX, but softgpu does not implement this part of it.
    #[error("{line}:{column}: unsupported: {what}")]
    Unsupported {
        /// 1-based line in the PTX text.
        line: u32,
        /// 1-based column in the PTX text.
        column: u32,
        /// The instruction or directive, as written.
        what: String,
    },
}

/// What went wrong in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Access to an address that is not mapped, or not accessible from this device (CUDA 700).
    IllegalAddress {
        /// Guest address.
        address: u64,
        /// Bytes accessed.
        bytes: u64,
        /// `true` for a store, an atomic or a bulk write.
        write: bool,
    },
    /// Address not a multiple of the access size (CUDA 716).
    MisalignedAddress {
        /// Guest address.
        address: u64,
        /// Required alignment.
        align: u64,
    },
    /// An instruction used against its rules, such as a malformed descriptor (CUDA 715).
    IllegalInstruction {
        /// The rule that was broken.
        what: String,
    },
    /// `trap` was executed (CUDA 719).
    Trap,
    /// A call through a register that does not hold the address of a function (CUDA 718).
    InvalidPc {
        /// The register's value.
        address: u64,
    },
    /// Calls or `alloca` took more than a thread's stack (CUDA 714).
    StackOverflow {
        /// Bytes of local memory of a thread.
        bytes: u32,
    },
    /// A device-side assertion failed (CUDA 710).
    Assert {
        /// The text of the assertion.
        message: String,
    },
    /// Nothing in the launch can run any more and nothing is in flight (reported as CUDA 719).
    Deadlock {
        /// Who waits for what.
        waits: String,
    },
    /// An instruction that softgpu does not implement (reported as CUDA 801).
    Unsupported {
        /// The instruction.
        what: String,
    },
    /// A bug of softgpu itself (reported as CUDA 999).
    Internal {
        /// What went wrong.
        what: String,
    },
}

/// A fault with the place where it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Kernel name.
    pub kernel: String,
    /// CTA index in the grid.
    pub cta: [u32; 3],
    /// Warp within the CTA.
    pub warp: u32,
    /// First lane concerned.
    pub lane: u32,
    /// 1-based PTX line; 0 if unknown.
    pub line: u32,
    /// File and line of the program, where the module tells them (`-lineinfo`).
    pub source: Option<String>,
}

/// A PTX line, with the place in the program that it comes from.
pub(crate) fn place(line: u32, source: Option<&str>) -> String {
    match source {
        Some(source) => format!("{line} ({source})"),
        None => line.to_string(),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            kernel,
            cta,
            warp,
            lane,
            line,
            source,
        } = self;
        let line = place(*line, source.as_deref());
        write!(
            f,
            "kernel {kernel}, CTA ({},{},{}), warp {warp}, lane {lane}, PTX line {line}: ",
            cta[0], cta[1], cta[2]
        )?;
        match kind {
            FaultKind::IllegalAddress {
                address,
                bytes,
                write,
            } => {
                let verb = if *write { "write" } else { "read" };
                write!(f, "illegal {verb} of {bytes} bytes at {address:#x}")
            }
            FaultKind::MisalignedAddress { address, align } => {
                write!(f, "address {address:#x} is not a multiple of {align}")
            }
            FaultKind::IllegalInstruction { what } => write!(f, "illegal instruction: {what}"),
            FaultKind::Trap => write!(f, "trap"),
            FaultKind::InvalidPc { address } => {
                write!(
                    f,
                    "call of {address:#x}, which is not a function that may be called"
                )
            }
            FaultKind::StackOverflow { bytes } => write!(
                f,
                "stack overflow: a thread has {bytes} bytes of local memory (CU_LIMIT_STACK_SIZE)"
            ),
            FaultKind::Assert { message } => write!(f, "assertion failed: {message}"),
            FaultKind::Deadlock { waits } => write!(f, "deadlock: {waits}"),
            FaultKind::Unsupported { what } => write!(f, "unsupported: {what}"),
            FaultKind::Internal { what } => write!(f, "softgpu bug: {what}"),
        }
    }
}

impl std::error::Error for Fault {}
