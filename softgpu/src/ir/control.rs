//! Functions that are called for real, what softgpu provides in place of external ones, and other
//! parts of control.
//!
//! A call that is not expanded in place jumps to a *routine*: blocks of the same [`Function`] with
//! registers of their own. Every thread has a stack in its local memory; a routine's frame holds
//! its parameters, its results and its `.local` variables, at offsets from the frame's base.
//! `ret` leads every thread back to where it came from, so threads of one warp may be in different
//! activations at once.
//!
//! [`Function`]: super::Function

use super::{BlockId, Reg};

/// A function that other code of the kernel calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routine {
    /// Name, for reports.
    pub name: String,
    /// What `mov` of the function's name gives.
    pub address: u64,
    /// Where it begins.
    pub block: BlockId,
    /// Bytes of its frame, a multiple of 16.
    pub frame_bytes: u32,
    /// Alignment of its frame, at least 16.
    pub frame_align: u32,
}

/// Whom a call calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    /// A routine, by index.
    Routine(u32),
    /// The routine whose address is `src[0]`.
    Indirect,
}

/// A value that a call moves between the frames of caller and callee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Offset in the caller's frame.
    pub caller: u32,
    /// Offset in the callee's frame.
    pub callee: u32,
    /// Bytes.
    pub bytes: u32,
}

/// One place where a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSite {
    /// Whom it calls.
    pub callee: Callee,
    /// Copied to the callee's frame before it begins.
    pub arguments: Vec<Transfer>,
    /// Copied back when it returns.
    pub results: Vec<Transfer>,
    /// Registers that the callee may overwrite, as it may call the caller again: saved and
    /// restored around the call.
    pub saved: Vec<Reg>,
}

/// What calls of a kernel need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls {
    /// Routines.
    pub routines: Vec<Routine>,
    /// Sites, as [`Op::Call`](super::Op::Call) numbers them.
    pub sites: Vec<CallSite>,
    /// Stack per thread.
    pub stack: Stack,
}

/// How much stack the threads of a kernel need above their own variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// At most so many bytes.
    Bytes(u32),
    /// Recursion or `alloca` decide at run time.
    Unknown,
}

impl Default for Stack {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

/// Functions that the driver provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// `vprintf`: `dst` = arguments printed; `src` = format, pointer to the arguments.
    Printf,
    /// `__assertfail`: `src` = message, file, line, function, size of a character.
    AssertFail,
    /// `malloc`: `dst` = address; `src` = bytes.
    Malloc,
    /// `free`: `src` = address.
    Free,
}

impl Builtin {
    /// The function of that name, which an `.extern .func` declares.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "vprintf" => Self::Printf,
            "__assertfail" => Self::AssertFail,
            "malloc" => Self::Malloc,
            "free" => Self::Free,
            _ => return None,
        })
    }

    /// Sizes of its parameters and of its result (0: none).
    #[must_use]
    pub const fn signature(self) -> (&'static [u32], u32) {
        match self {
            Self::Printf => (&[8, 8], 4),
            Self::AssertFail => (&[8, 8, 4, 8, 8], 0),
            Self::Malloc => (&[8], 8),
            Self::Free => (&[8], 0),
        }
    }
}

/// What the `%reserved_smem_offset` registers tell of the shared memory that belongs to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum ReservedSmem {
    Begin,
    End,
    Cap,
    Offset0,
    Offset1,
}

/// Addresses of functions lie above those of every memory window. The low half counts the
/// functions of a module.
pub const FUNCTION_WINDOW: u64 = (1 << 48) + (3 << 32);

/// The address of the `index`-th function of a module.
#[must_use]
pub fn function_address(index: usize) -> u64 {
    FUNCTION_WINDOW + 16 * (index as u64 + 1)
}
