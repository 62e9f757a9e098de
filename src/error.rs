//! The crate's error: one variant per layer.

use crate::device::DeviceError;

/// Any error of this crate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Finding a device, or using it.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
