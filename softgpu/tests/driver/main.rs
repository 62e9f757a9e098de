//! The driver API as a client sees it: through cudarc, which opens the library that cargo built
//! beside this test under the name `libcuda.so.1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
mod support;

mod captures;
mod code;
mod control;
mod dependents;
mod fabric;
mod faults;
mod graphs;
mod hopper;
mod kernels;
mod links;
mod memory;
mod multi_device;
mod patience;
mod processes;
mod replay;
mod safe_client;
mod streams;
mod symbols;
mod texts;
mod virtual_memory;
