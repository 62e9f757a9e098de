//! Ranks that are lost, masked, and come back.

pub(crate) mod communicator;
mod processes;
mod threads;
