//! Limits of memory and time for one input.
//!
//! # Safety
//!
//! The allocator only counts; the system's one does the work.

#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// No input, all of which are below 3 MB, may have more than this at once.
const MEMORY: usize = 1 << 30;
/// No input takes a hundredth of it.
const TIME: Duration = Duration::from_mins(2);

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn grown(bytes: usize) -> bool {
    let count = |now: &Cell<usize>| {
        now.set(now.get().saturating_add(bytes));
        now.get()
    };
    // Threads that end count no more.
    let now = NOW.try_with(count).unwrap_or(0);
    let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    now < 4 * MEMORY
}

fn shrunk(bytes: usize) {
    let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(bytes)));
}

// SAFETY: every request goes to the system's allocator, or is refused with null.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grown(layout.size()) {
            shrunk(layout.size());
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !grown(layout.size()) {
            shrunk(layout.size());
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) };
    }
}

/// Runs `body` and panics with the input if it takes too much memory; ends the process if it takes
/// too much time. An input that panics is written to a file.
pub(crate) fn watch<T>(
    what: &str,
    input: &(impl AsRef<[u8]> + ?Sized),
    body: impl FnOnce() -> T,
) -> T {
    let before = NOW.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let guard = Guard {
        what,
        input: input.as_ref(),
    };
    let (done, wait) = channel::<()>();
    let result = TIMER.with(|timer| {
        timer.send((what.to_owned(), wait)).unwrap();
        body()
    });
    drop(done);
    let peak = PEAK.with(Cell::get).saturating_sub(before);
    assert!(peak < MEMORY, "{peak} bytes");
    std::mem::forget(guard);
    result
}

/// Tells which input was at work when something panicked.
struct Guard<'a> {
    what: &'a str,
    input: &'a [u8],
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-input");
        let written = std::fs::write(&path, self.input);
        eprintln!(
            "{}: the input is in {}: {written:?}",
            self.what,
            path.display()
        );
    }
}

thread_local! {
    static TIMER: std::sync::mpsc::Sender<(String, Receiver<()>)> = {
        let (sender, inputs) = channel::<(String, Receiver<()>)>();
        std::thread::spawn(move || {
            for (what, done) in inputs {
                if done.recv_timeout(TIME) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("{what}: no end within {TIME:?}");
                    std::process::abort();
                }
            }
        });
        sender
    };
}
