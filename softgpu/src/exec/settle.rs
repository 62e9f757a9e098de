//! Under a seed the machine stands still while host threads run, so that what reaches the engine
//! comes between the same turns in every run.
//!
//! Protocol: a launch that comes, lets its successor start or ends *disturbs* the host, because it
//! gives threads something to do. Before its next turn the worker then waits until all other
//! threads of the process sleep, as the system tells. From there on only the worker can wake them,
//! so nothing else has to be counted: not what a thread waits for, nor who waits. Launches that
//! came meanwhile arrive together, by device and stream; those of one stream as they came.
//!
//! Timers, other processes and words of memory at which a sleeping thread looks now and then wake
//! threads too, and a thread may compute for longer than the worker has patience: such runs need
//! not replay. Patience bounds every wait, so nothing hangs. It falls to a quarter when it was in
//! vain and grows by a quarter when it was not, so that a host which often polls costs little.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::hosts;

const LEAST: Duration = Duration::from_millis(2);
const MOST: Duration = Duration::from_millis(200);
/// Between two looks at the threads, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_micros(10);
const LONGEST_PAUSE: Duration = Duration::from_micros(320);

static DISTURBED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static STREAM: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread launches what is queued in a stream.
pub fn serve(stream: u64) {
    STREAM.set(stream);
}

/// The stream for which the calling thread launches; 0 for none.
pub(super) fn stream() -> u64 {
    STREAM.get()
}

/// Other threads have got something to do.
pub(super) fn disturb() {
    DISTURBED.store(true, Ordering::Relaxed);
}

/// Whether they have since the worker last waited for them.
pub(super) fn is_disturbed() -> bool {
    DISTURBED.load(Ordering::Relaxed)
}

/// How the only worker of a machine with a seed waits for the other threads of the process.
#[derive(Debug)]
pub(super) struct Settling {
    patience: Duration,
    /// The worker.
    own: i32,
}

impl Settling {
    /// By the calling thread.
    pub(super) fn new() -> Self {
        Self {
            patience: MOST,
            own: hosts::thread_id(),
        }
    }

    /// Waits until all other threads sleep. The caller holds no lock: a thread that sleeps because
    /// it wants the lock has something to do.
    pub(super) fn settle(&mut self) {
        let end = Instant::now() + self.patience;
        let mut pause = PAUSE;
        while !self.is_settled() {
            if Instant::now() > end {
                self.patience = (self.patience / 4).max(LEAST);
                DISTURBED.store(false, Ordering::Relaxed);
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.patience = (self.patience * 5 / 4).min(MOST);
        DISTURBED.store(false, Ordering::Relaxed);
    }

    /// Whether all sleep at one moment: each slept when it was looked at, and the second look finds
    /// that none has run since the first.
    fn is_settled(&self) -> bool {
        let first = self.sleepers();
        first.is_some() && first == self.sleepers()
    }

    /// The other threads and how often each has gone to sleep; `None` if one does not sleep.
    fn sleepers(&self) -> Option<Vec<(i32, u64)>> {
        let mut sleepers = Vec::new();
        for entry in std::fs::read_dir("/proc/self/task").ok()? {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            if id != self.own {
                let text = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).ok()?;
                sleepers.push((id, sleeps(&text)?));
            }
        }
        Some(sleepers)
    }
}

/// How often a thread has gone to sleep, by its status; `None` if it does not sleep. Waits for
/// memory or a disk (`D`) end by themselves, so they count as running.
fn sleeps(status: &str) -> Option<u64> {
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let runs = value("State:")?.trim_start().starts_with(['R', 'D']);
    let switches = value("voluntary_ctxt_switches:")?;
    (!runs).then(|| switches.trim().parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::sleeps;

    #[test]
    fn the_state_of_a_thread_is_understood() {
        let status = |state: &str| {
            format!(
                "Name:\tx State: y\nState:\t{state}\nTgid:\t7\n\
                 voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n"
            )
        };
        assert_eq!(sleeps(&status("S (sleeping)")), Some(150));
        assert_eq!(sleeps(&status("t (tracing stop)")), Some(150));
        assert_eq!(sleeps(&status("R (running)")), None);
        assert_eq!(sleeps(&status("D (disk sleep)")), None);
        assert_eq!(sleeps(""), None);
    }
}
