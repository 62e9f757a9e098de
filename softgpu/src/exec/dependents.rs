//! Programmatic dependent launch: a grid that may start before its predecessor in the stream ends.
//!
//! Protocol: the successor is submitted once every CTA of the predecessor has executed
//! `griddepcontrol.launch_dependents` or ended. Its `griddepcontrol.wait` blocks until the
//! predecessor is over; memory is then visible, since stores are done when they execute or at the
//! latest when their CTA ends. A grid without a predecessor never waits.
//! Source: PTX ISA, `griddepcontrol`; CUDA programming guide, programmatic dependent launch.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::cta::LaunchState;

/// Called when successors may start.
pub type Trigger = Box<dyn FnOnce() + Send>;

/// How a launch stands to its neighbours in the stream.
#[derive(Default)]
pub(super) struct Dependence {
    /// The grid that it may overlap with.
    predecessor: Option<Arc<LaunchState>>,
    /// CTAs that have neither triggered nor ended.
    left: AtomicU64,
    trigger: Mutex<Option<Trigger>>,
    over: AtomicBool,
}

impl fmt::Debug for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependence")
            .field("left", &self.left)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Dependence {
    /// Of a grid of `ctas` CTAs.
    pub(super) fn new(
        predecessor: Option<Arc<LaunchState>>,
        ctas: u64,
        trigger: Option<Trigger>,
    ) -> Self {
        Self {
            predecessor,
            left: AtomicU64::new(ctas),
            trigger: Mutex::new(trigger),
            over: AtomicBool::new(false),
        }
    }

    /// `ctas` CTAs do not hold successors back any more.
    pub(super) fn release(&self, ctas: u64) {
        if ctas != 0 && self.left.fetch_sub(ctas, Ordering::AcqRel) == ctas {
            let trigger = self.trigger.lock().take();
            if let Some(trigger) = trigger {
                super::settle::disturb();
                trigger();
            }
        }
    }

    /// The predecessor, unless it is over.
    pub(super) fn pending(&self) -> Option<&Arc<LaunchState>> {
        let open = |launch: &&Arc<LaunchState>| !launch.dependence.is_over();
        self.predecessor.as_ref().filter(open)
    }

    /// Whether the launch is over.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The launch is over: all its stores are done.
    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::Release);
    }
}
