//! Execution: warps, CTAs, clusters, scheduling.

pub mod access;
pub mod inst;
pub mod lanes;
pub mod regs;
