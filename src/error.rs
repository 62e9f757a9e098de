//! The crate's error: one variant per layer.

use crate::device::DeviceError;
use crate::ep::EpError;
use crate::gemm::GemmError;
use crate::memory::MemoryError;
use crate::transfer::nvlink::NvLinkError;

/// Any error of this crate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Finding a device, or using it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Planning or enqueuing a GEMM or a quantisation.
    #[error(transparent)]
    Gemm(#[from] GemmError),
    /// Memory shared between ranks, or their meeting.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The expert all-to-all.
    #[error(transparent)]
    Ep(#[from] EpError),
    /// Transfers over NVLink.
    #[error(transparent)]
    NvLink(#[from] NvLinkError),
}
