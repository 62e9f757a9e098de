//! Environment variables, read once.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::device::DeviceError;

/// Which device library to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU if the driver reports one, else the software GPU.
    #[default]
    Auto,
    /// A GPU, or an error.
    Cuda,
    /// The software GPU, or an error.
    Soft,
}

/// Every variable that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Env {
    /// `HADAL_DEVICE`: `auto` (default), `cuda` or `soft`.
    pub device: DeviceChoice,
    /// `HADAL_SOFTGPU`: path of the software GPU's library. Wrong is an error.
    pub softgpu: Option<PathBuf>,
}

impl Env {
    /// The variables as they were at the first call.
    ///
    /// # Errors
    /// [`DeviceError::Variable`] for a value that is not one of those listed.
    pub fn get() -> Result<&'static Self, DeviceError> {
        static ENV: OnceLock<Result<Env, DeviceError>> = OnceLock::new();
        ENV.get_or_init(Self::read).as_ref().map_err(Clone::clone)
    }

    fn read() -> Result<Self, DeviceError> {
        let value = std::env::var_os("HADAL_DEVICE");
        let device = parse_choice(&value.unwrap_or_default().to_string_lossy())?;
        let softgpu = std::env::var_os("HADAL_SOFTGPU").filter(|value| !value.is_empty());
        Ok(Self {
            device,
            softgpu: softgpu.map(PathBuf::from),
        })
    }
}

fn parse_choice(value: &str) -> Result<DeviceChoice, DeviceError> {
    match value {
        "" | "auto" => Ok(DeviceChoice::Auto),
        "cuda" => Ok(DeviceChoice::Cuda),
        "soft" => Ok(DeviceChoice::Soft),
        _ => Err(DeviceError::Variable {
            name: "HADAL_DEVICE",
            value: value.to_owned(),
            expected: "auto, cuda or soft",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_choices() {
        assert_eq!(parse_choice("").unwrap(), DeviceChoice::Auto);
        assert_eq!(parse_choice("auto").unwrap(), DeviceChoice::Auto);
        assert_eq!(parse_choice("cuda").unwrap(), DeviceChoice::Cuda);
        assert_eq!(parse_choice("soft").unwrap(), DeviceChoice::Soft);
        let error = parse_choice("Soft").unwrap_err().to_string();
        assert_eq!(error, "HADAL_DEVICE = `Soft`, expected auto, cuda or soft");
    }
}
