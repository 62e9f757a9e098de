//! Ranks as threads.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hadal::device::Context;
use hadal::memory::Bootstrap;

/// The context of a rank's device; contexts stay for the process, so kernels are loaded once.
pub(crate) fn context(rank: u32) -> Arc<Context> {
    static ALL: [OnceLock<Arc<Context>>; 8] = [const { OnceLock::new() }; 8];
    Arc::clone(ALL[rank as usize].get_or_init(|| Context::new(rank).unwrap()))
}

/// Runs `body` once per rank, together, and returns what each returned. A panic of one is passed on
/// after all have ended.
///
/// One at a time: freeing memory waits for the whole device, so two communicators on the same devices could
/// wait for each other through it.
pub(crate) fn on_ranks<T: Send>(ranks: u32, body: impl Fn(Bootstrap) -> T + Sync) -> Vec<T> {
    static DEVICES: Mutex<()> = Mutex::new(());
    let _alone = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let sides = Bootstrap::in_process(ranks).unwrap();
    std::thread::scope(|scope| {
        let body = &body;
        let threads = sides
            .into_iter()
            .map(|side| scope.spawn(move || body(side)));
        let threads: Vec<_> = threads.collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        let unwrap = |result: Result<T, _>| match result {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        results.into_iter().map(unwrap).collect()
    })
}
