//! Ranks as threads, patterns, and comparisons that name the first difference.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hadal::device::{Buffer, Context, Stream};
use hadal::memory::Bootstrap;
use hadal::transfer::nvlink::{
    Change, CopyPlan, Desc, Endpoint, Form, NvLinkError, Place, Source, Until, Wait,
};

/// The context of a rank's device; contexts stay for the process, so kernels are loaded once.
pub(crate) fn context(rank: u32) -> Arc<Context> {
    static ALL: [OnceLock<Arc<Context>>; 8] = [const { OnceLock::new() }; 8];
    Arc::clone(ALL[rank as usize].get_or_init(|| Context::new(rank).unwrap()))
}

/// Runs `body` once per rank, together, and returns what each returned. A panic of one is passed on
/// after all have ended.
///
/// One at a time: freeing memory waits for the whole device.
pub(crate) fn on_ranks<T: Send>(ranks: u32, desc: Desc, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    static DEVICES: Mutex<()> = Mutex::new(());
    let _alone = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let sides = Bootstrap::in_process(ranks).unwrap();
    std::thread::scope(|scope| {
        let body = &body;
        let start = |side: Bootstrap| {
            let context = context(side.rank());
            body(Rank::new(&desc, side, &context))
        };
        let threads: Vec<_> = sides
            .into_iter()
            .map(|side| scope.spawn(move || start(side)))
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        let unwrap = |result: Result<T, _>| match result {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        results.into_iter().map(unwrap).collect()
    })
}

/// One rank.
pub(crate) struct Rank {
    pub(crate) rank: u32,
    pub(crate) ranks: u32,
    pub(crate) stream: Stream,
    pub(crate) endpoint: Endpoint,
    pub(crate) side: Bootstrap,
}

impl Rank {
    pub(crate) fn new(desc: &Desc, mut side: Bootstrap, context: &Arc<Context>) -> Self {
        let endpoint = Endpoint::new(desc, &mut side, context).unwrap();
        Self {
            rank: side.rank(),
            ranks: side.ranks(),
            stream: Stream::new(context).unwrap(),
            endpoint,
            side,
        }
    }

    pub(crate) fn right(&self) -> u32 {
        (self.rank + 1) % self.ranks
    }

    pub(crate) fn left(&self) -> u32 {
        (self.rank + self.ranks - 1) % self.ranks
    }

    pub(crate) fn put_signal(&self, source: Source<'_>, to: Place, plan: CopyPlan, signal: u32) {
        let with = (signal, Change::Add(1));
        let put = self
            .endpoint
            .put_signal(&self.stream, source, to, plan, with);
        put.unwrap();
    }

    /// Waits for one more addition of `peer`.
    pub(crate) fn wait_next(&self, peer: u32, signal: u32) {
        self.wait(peer, signal, Until::Count(1)).unwrap();
    }

    pub(crate) fn wait(&self, peer: u32, signal: u32, until: Until) -> Result<(), NvLinkError> {
        let wait = Wait {
            peer,
            signal,
            until,
            limit: None,
        };
        self.endpoint.wait(&self.stream, wait)
    }

    /// Bytes of a window.
    pub(crate) fn read(&self, from: Place, bytes: usize) -> Vec<u8> {
        let mut got = Buffer::<u8>::zeroed(&self.stream, bytes).unwrap();
        let plan = CopyPlan::new(Form::Vector, bytes as u64);
        let get = self
            .endpoint
            .get(&self.stream, from, (&mut got).into(), plan);
        get.unwrap();
        self.synchronize();
        got.to_vec(&self.stream).unwrap()
    }

    pub(crate) fn synchronize(&self) {
        if let Err(error) = self.endpoint.synchronize(&self.stream) {
            panic!("rank {}: {error}", self.rank);
        }
    }
}

/// Byte `index` of the data of `rank` in `round`.
pub(crate) fn byte(rank: u32, round: u64, index: u64) -> u8 {
    let mixed = (index + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((u64::from(rank) << 32 | round).wrapping_mul(0xd6e8_feb8_6659_fd93));
    (mixed ^ mixed >> 29).to_le_bytes()[4]
}

pub(crate) fn pattern(rank: u32, round: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| byte(rank, round, i)).collect()
}

/// Fails at the first difference.
pub(crate) fn assert_same(what: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let differs = found.iter().zip(expected).position(|(f, e)| f != e);
    if let Some(at) = differs {
        let count = found.iter().zip(expected).filter(|(f, e)| f != e).count();
        panic!(
            "{what}: byte {at} is {}, expected {} ({count} of {} bytes differ)",
            found[at],
            expected[at],
            found.len()
        );
    }
}
