//! The linker. It takes one PTX input and hands it back; PTX modules are not merged.

use std::ffi::{CStr, CString};
use std::sync::OnceLock;

use super::image::Image;
use super::report;
use super::status::{Result, Status};

/// A link in progress.
#[derive(Debug, Default)]
pub struct Link {
    input: OnceLock<CString>,
}

impl Link {
    /// Adds the only input.
    ///
    /// # Errors
    ///
    /// `NOT_SUPPORTED` for a second one, `INVALID_PTX` for text with a NUL inside.
    pub fn add(&self, image: &Image) -> Result<()> {
        let text = CString::new(image.ptx.as_str()).map_err(|_| Status::INVALID_PTX)?;
        self.input.set(text).map_err(|_| {
            report::complaint("softgpu links one PTX module only");
            Status::NOT_SUPPORTED
        })
    }

    /// The result: PTX text, valid as long as the link.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if nothing was added.
    pub fn complete(&self) -> Result<&CStr> {
        let text = self.input.get().ok_or(Status::INVALID_VALUE)?;
        Ok(text.as_c_str())
    }
}
