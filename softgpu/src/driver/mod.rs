//! The meaning of the driver API, in safe terms: devices, contexts, streams, events, memory,
//! modules, launches. The C functions in [`crate::abi`] only convert arguments.
//!
//! Order of locks: context order, stream state, timeline or marker. Nothing else is held while
//! one of them is taken.

pub mod archive;
pub mod attributes;
pub mod capture;
pub mod context;
pub mod event;
pub mod graph;
pub mod graph_exec;
pub mod graph_memory;
pub mod graph_run;
pub mod handles;
pub mod image;
pub mod ipc;
pub mod launch;
pub mod library;
pub mod link;
pub mod machine;
pub mod memory;
pub mod module;
pub mod multicast;
pub mod occupancy;
pub mod output;
pub mod overlap;
pub mod report;
pub mod status;
pub mod stream;
pub mod task;
pub mod transfer;
pub mod user_object;
pub mod virtual_memory;
pub mod words;
