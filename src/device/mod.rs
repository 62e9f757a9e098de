//! Devices, thin over the CUDA driver API: contexts, streams, memory, kernels, tensor maps.
//!
//! The library behind the API is chosen once ([`selected`]): a GPU's driver or the software GPU.
//! Nothing above knows which; the only difference is the image that is loaded.

mod alias;
mod buffer;
mod context;
pub(crate) mod driver;
mod error;
mod graph;
mod kernel;
mod library;
mod stream;
mod survey;
mod tensor_map;

pub use buffer::Buffer;
pub use context::{Context, device_count};
pub use error::DeviceError;
pub use graph::Graph;
pub use kernel::{Kernel, LaunchConfig};
pub use library::{DeviceKind, Selected, selected};
pub use stream::{DEFAULT_WAIT, Event, Stream};
pub use survey::{DeviceSurvey, survey};
pub use tensor_map::{Element, MAX_RANK, Swizzle, TensorMapDesc};
