//! Kernels of a stream one after another, and neighbours that may overlap: programmatic dependent
//! launch.
//!
//! A kernel launched with programmatic stream serialisation starts when every CTA of the kernel
//! right before it has triggered or ended. At most two kernels of a stream overlap: the second is
//! the first's only successor until the first is over, so a stream still completes in order.

use std::sync::Arc;

use parking_lot::Mutex;

use super::launch::start_after;
use super::stream::{Op, Queue};
use crate::exec::{Chain, Launch};

/// Whether a kernel may overlap with the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serialization {
    /// It starts when the one before is over.
    Full,
    /// It starts when the one before lets it.
    Programmatic,
}

/// A kernel as a stream's operation.
#[derive(Debug)]
pub struct Kernel {
    /// What to launch.
    pub launch: Launch,
    /// How it stands to the one before.
    pub serialization: Serialization,
}

#[derive(Debug, Default)]
struct Progress {
    over: bool,
    triggered: bool,
}

/// A kernel that the engine executes.
struct Running {
    id: u64,
    ticket: u64,
    progress: Arc<Mutex<Progress>>,
}

impl Queue {
    /// Runs a kernel to its end, and those that may overlap with it and each other.
    pub(super) fn run_kernels(self: &Arc<Self>, first: Kernel, ticket: u64) {
        let mut current = self.start(first, ticket, None);
        loop {
            let next = self.wait_or_next(&current);
            let next = next.map(|(kernel, ticket)| self.start(kernel, ticket, Some(current.id)));
            if next.is_some() {
                self.wait(&current);
            }
            self.timeline.advance(current.ticket);
            match next {
                Some(next) => current = next,
                None => return,
            }
        }
    }

    fn start(self: &Arc<Self>, kernel: Kernel, ticket: u64, predecessor: Option<u64>) -> Running {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let note = |change: fn(&mut Progress)| {
            let (queue, progress) = (Arc::clone(self), Arc::clone(&progress));
            Box::new(move || {
                change(&mut progress.lock());
                queue.nudge();
            })
        };
        let chain = Chain {
            predecessor,
            trigger: Some(note(|progress| progress.triggered = true)),
        };
        let finished = note(|progress| progress.over = true);
        let id = start_after(kernel.launch, chain, &self.health, finished);
        Running {
            id,
            ticket,
            progress,
        }
    }

    /// Waits until the kernel is over, or the next may start: that one then.
    fn wait_or_next(&self, running: &Running) -> Option<(Kernel, u64)> {
        self.wait_for(|ops| {
            let progress = running.progress.lock();
            if progress.over {
                return Some(None);
            }
            let ready = |op: &Op| match op {
                Op::Kernel(kernel) => kernel.serialization == Serialization::Programmatic,
                _ => false,
            };
            let front = ops
                .front()
                .filter(|next| progress.triggered && ready(&next.op));
            if front.is_none_or(|next| !next.after.iter().all(|point| point.is_reached())) {
                return None;
            }
            let next = ops.pop_front()?;
            match next.op {
                Op::Kernel(kernel) => Some(Some((*kernel, next.ticket))),
                _ => None,
            }
        })
    }

    fn wait(&self, running: &Running) {
        self.wait_for(|_| running.progress.lock().over.then_some(()));
    }
}
