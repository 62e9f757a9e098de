//! Runs test files on a `libcuda`: the software GPU or a real driver.
//!
//! A test file is a PTX module with directives in comments; `softgpu/tests/isa.rs` describes them.
//! Everything goes through the driver API, loaded at run time, so that the same files judge
//! hardware. Each run is a process of its own: faults, hangs, seeds and output stay apart.

mod bless;
mod compare;
mod driver;
mod file;
mod parent;
mod run;
mod suite;
mod syntax;
mod value;

pub use file::TestFile;
pub use parent::{Device, Outcome, Seeds, Settings, child_main, probe, run_isolated};
pub use suite::{Summary, files, run_folder};
