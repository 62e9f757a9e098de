//! Execution: warps, CTAs, clusters, scheduling.
//!
//! [`Kernel::new`] decodes a lowered function into one array of instructions. [`Engine::submit`]
//! takes a [`Launch`]; worker threads run its clusters in turns until all CTAs have ended.
//!
//! | module | what |
//! |---|---|
//! | [`engine`], `scheduler`, `residency` | launches, worker threads, who runs next, what fits |
//! | [`hosts`], [`settle`] | what host threads are doing |
//! | `cluster`, `cta` | one cluster: its warps, memory, barriers, operations in flight |
//! | `warp`, `split`, `waits` | one warp: the interpreter's loop, independent thread scheduling |
//! | `watch`, `dependents` | parked spins, programmatic dependent launch |
//! | `system`, `warpops`, `mbar`, `bulk`, `wgmma` | instructions of the machine |
//! | `call`, `builtin`, [`device`], [`printf`] | calls, and the functions that the driver provides |
//! | `inflight`, `group`, `transfer` | asynchronous operations and their completion |
//! | [`inject`], `held` | fault injection |
//! | `counters`, [`traffic`] | what a launch executed and moved |
//! | [`mbarrier`], [`barrier`], `clock` | pure state |
//! | [`lanes`], [`access`], [`regs`], [`inst`] | handlers of registers and memory |

pub mod access;
pub mod barrier;
mod block;
mod builtin;
mod bulk;
mod call;
mod clock;
mod cluster;
mod config;
mod counters;
mod cta;
mod dependents;
pub mod device;
pub mod engine;
mod group;
mod heap;
mod held;
pub mod hosts;
mod inflight;
pub mod inject;
pub mod inst;
mod kernel;
pub mod lanes;
mod matrix;
mod mbar;
pub mod mbarrier;
mod multimem;
mod parking;
pub mod printf;

pub mod regs;
mod report;
mod residency;
mod round;
mod scheduler;
mod seed;
pub mod settle;
mod split;
mod straight;
mod system;
mod tensormap;
mod touch;
pub mod traffic;
mod transfer;
mod visibility;
mod visible;
mod waits;
mod warp;
mod warpops;
mod watch;
mod wgmma;

pub use block::POISON;
pub use clock::CYCLES_PER_MICROSECOND;
pub use config::{Config, Tools};
pub use counters::{AsyncBytes, CLASSES, Counters, InstrClass, SpaceBytes};
pub use dependents::Trigger;
pub use engine::{Chain, Done, Engine, Launch};
pub use kernel::Kernel;
pub use lanes::isa::Isa;
pub(crate) use residency::Need;
