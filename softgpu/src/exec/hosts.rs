//! Host threads that use the driver, as far as a deadlock of the device is concerned: could one of
//! them still do something that lets a kernel go on?
//!
//! Rule: nobody can help when at least one thread waits in a synchronising call and every other
//! thread that ever called the driver waits in one too, or has slept without using any processor
//! time while the device was idle, and no process that shares memory with this one is left
//! (`mem/sharing.rs`): what those may do, this process cannot know. This is an approximation: a
//! thread that sleeps for longer than the limit and then writes a flag is taken for helpless.

use std::cell::OnceCell;
use std::collections::HashMap;

use parking_lot::Mutex;

use crate::mem;

static THREADS: Mutex<Vec<(i32, u32)>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: OnceCell<Registration> = const { OnceCell::new() };
}

/// An entry of the list of threads; it leaves with the thread.
struct Registration(i32);

impl Registration {
    fn new() -> Self {
        let id = thread_id();
        THREADS.lock().push((id, 0));
        Self(id)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        THREADS.lock().retain(|(id, _)| *id != self.0);
    }
}

/// The calling thread uses the driver.
pub fn attend() {
    // A thread that is ending has nothing to wait for any more.
    let _ = OWN.try_with(|own| own.get_or_init(Registration::new).0);
}

fn count(change: impl Fn(&mut u32)) {
    let _ = OWN.try_with(|own| {
        let mine = own.get_or_init(Registration::new).0;
        let mut threads = THREADS.lock();
        let waits = threads.iter_mut().find(|(id, _)| *id == mine);
        if let Some((_, waits)) = waits {
            change(waits);
        }
    });
}

/// Runs what waits for the device.
pub fn waiting<R>(wait: impl FnOnce() -> R) -> R {
    count(|waits| *waits += 1);
    let result = wait();
    count(|waits| *waits -= 1);
    result
}

/// What threads have done so far: processor time of those that do not wait.
#[derive(Debug, Default)]
pub(super) struct Sample(Option<HashMap<i32, u64>>);

impl Sample {
    /// The state of this moment.
    pub(super) fn take() -> Self {
        if mem::may_others_help() {
            return Self(None);
        }
        let threads = THREADS.lock().clone();
        let someone = threads.iter().any(|(_, waits)| *waits > 0);
        let others = threads.iter().filter(|(_, waits)| *waits == 0);
        let times = others.map(|(id, _)| Some((*id, processor_time(*id)?)));
        Self(someone.then(|| times.collect()).flatten())
    }

    /// Whether nobody could have helped since, nor can now.
    pub(super) fn is_helpless(&self) -> bool {
        let (Some(before), Some(now)) = (&self.0, Self::take().0) else {
            return false;
        };
        now.iter().all(|(id, time)| before.get(id) == Some(time))
    }
}

/// The system's number of the calling thread; 0 if it does not tell.
pub(super) fn thread_id() -> i32 {
    let link = std::fs::read_link("/proc/thread-self").ok();
    let name = link.as_ref().and_then(|link| link.file_name()?.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// Nanoseconds that a thread has run.
fn processor_time(id: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}
