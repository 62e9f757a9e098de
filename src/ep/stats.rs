//! What a rank has had to do with its peers: waits, rows, and when its kernels worked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::params::{EpPeerStats, EpState, HADAL_EP_WAIT_BINS};

/// Since the communicator began, or its members changed, by this rank's device. As JSON: `serde_json::to_string`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpStats {
    /// This rank.
    pub rank: u32,
    /// By rank, this one included.
    pub peers: Vec<PeerStats>,
    /// The kernels of the last 32 rounds, by operation, then epoch.
    pub spans: Vec<Span>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStats {
    /// The rank.
    pub peer: u32,
    /// It takes no part.
    pub masked: bool,
    /// How often a thread waited for a word of the peer, by the time of the device's global timer: `waits[0]` found it
    /// there, `waits[b]` waited 2^(b-1) ns or more and less than 2^b; the last has all longer ones.
    pub waits: [u64; HADAL_EP_WAIT_BINS as usize],
    /// What was dispatched to it.
    pub dispatched: Sent,
    /// What was returned to it.
    pub combined: Sent,
}

/// Rows that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Their number.
    pub rows: u64,
    /// Their bytes, payload and scales.
    pub bytes: u64,
}

/// One kernel in one round. Clocks of different devices need not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The kernel.
    pub operation: Operation,
    /// The round.
    pub epoch: u64,
    /// When its first CTA began, by the device's global timer.
    pub begin: Duration,
    /// When its last CTA had done its work.
    pub end: Duration,
}

impl EpStats {
    pub(in crate::ep) fn new(
        (rank, ranks): (u32, u32),
        state: &EpState,
        [dispatched, combined]: [u64; 2],
    ) -> Self {
        let peer = |(peer, stats): (u32, &EpPeerStats)| PeerStats {
            peer,
            masked: state.live >> peer & 1 == 0,
            waits: stats.waits,
            dispatched: sent(stats.dispatched, dispatched),
            combined: sent(stats.combined, combined),
        };
        let all = Operation::IN_ORDER.into_iter();
        let spans = all.flat_map(|operation| spans(state, operation)).collect();
        Self {
            rank,
            peers: (0..ranks).zip(&state.peers).map(peer).collect(),
            spans,
        }
    }

    /// The spans of all ranks as a trace for Perfetto or `chrome://tracing`: a process per rank, a row per operation.
    ///
    /// # Errors
    /// None that [`serde_json`] has for numbers and names.
    pub fn trace(ranks: &[Self]) -> Result<String, serde_json::Error> {
        let event = |rank: u32, span: &Span| Event {
            name: span.operation.to_string(),
            cat: "all-to-all",
            ph: "X",
            ts: microseconds(span.begin),
            dur: microseconds(span.end.saturating_sub(span.begin)),
            pid: rank,
            tid: span.operation as u32,
            args: Args { epoch: span.epoch },
        };
        let of_rank = |stats: &Self| {
            let rank = stats.rank;
            let events = stats.spans.iter().map(move |span| event(rank, span));
            events.collect::<Vec<_>>()
        };
        let events: Vec<_> = ranks.iter().flat_map(of_rank).collect();
        serde_json::to_string(&events)
    }
}

/// A complete event of the trace format.
#[derive(Serialize)]
struct Event {
    name: String,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
    args: Args,
}

#[derive(Serialize)]
struct Args {
    epoch: u64,
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn sent(rows: u64, bytes: u64) -> Sent {
    Sent {
        rows,
        bytes: rows * bytes,
    }
}

/// The rounds that `operation` has ended, oldest first.
fn spans(state: &EpState, operation: Operation) -> Vec<Span> {
    let kept = state.spans.get(operation.kernel() as usize);
    let ended = kept.into_iter().flatten();
    let ended = ended.filter(|span| span.epoch != 0 && span.end_ns >= span.begin_ns);
    let mut spans: Vec<_> = ended
        .map(|span| Span {
            operation,
            epoch: span.epoch,
            begin: Duration::from_nanos(span.begin_ns),
            end: Duration::from_nanos(span.end_ns),
        })
        .collect();
    spans.sort_unstable_by_key(|span| span.epoch);
    spans
}
