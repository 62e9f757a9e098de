//! One rank of either mode, with rounds that are checked whoever takes part.

use std::time::Duration;

use hadal::ep::EpError;
use hadal::ep::latency::{LatencyDesc, LatencyPlan, Payload};
use hadal::ep::throughput::{Reduce, ThroughputDesc, ThroughputPlan};
use hadal::memory::{Bootstrap, Members};

use crate::cases::Routing;
use crate::latency::harness as latency_harness;
use crate::latency::model as latency_model;
use crate::throughput::harness as throughput_harness;
use crate::throughput::model as throughput_model;

pub(crate) const RANKS: u32 = 3;
/// Uneven: ranks own 3, 2 and 2.
const EXPERTS: u32 = 7;
const TOKENS: [u32; RANKS as usize] = [6, 4, 5];

/// What a communicator is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Latency(Payload),
    Throughput(Reduce),
}

impl Mode {
    pub(crate) const ALL: [Self; 4] = [
        Self::Latency(Payload::Bf16),
        Self::Latency(Payload::Fp8),
        Self::Throughput(Reduce::PerExpert),
        Self::Throughput(Reduce::PerRank),
    ];
}

/// The tokens of a round in which the ranks of `masked` take no part.
fn tokens(masked: &[u32]) -> Vec<u32> {
    let of = |rank: u32| {
        if masked.contains(&rank) {
            0
        } else {
            TOKENS[rank as usize]
        }
    };
    (0..RANKS).map(of).collect()
}

/// A case lives as long as the test.
pub(crate) fn latency_case(
    combine: Payload,
    seed: u64,
    masked: &[u32],
) -> &'static latency_model::Case {
    Box::leak(Box::new(latency_model::Case {
        ranks: RANKS,
        experts: EXPERTS,
        topk: 3,
        hidden: 256,
        payload: Payload::Fp8,
        combine,
        routing: latency_model::Routing::Spread,
        tokens: tokens(masked),
        rounds: 1,
        seed,
        tight: false,
    }))
}

pub(crate) fn throughput_case(
    reduce: Reduce,
    seed: u64,
    masked: &[u32],
) -> &'static throughput_model::Case {
    Box::leak(Box::new(throughput_model::Case {
        experts: EXPERTS,
        topk: 3,
        hidden: 256,
        payload: Payload::Fp8,
        reduce,
        routing: Routing::Random,
        alignment: 1,
        tokens: tokens(masked),
        seed,
    }))
}

pub(crate) enum Communicator {
    Latency(Payload, latency_harness::Rank<'static>),
    Throughput(Reduce, throughput_harness::Rank),
}

/// The step that a round comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Dispatched,
    Combined,
}

impl Communicator {
    pub(crate) fn open(mode: Mode, timeout: Duration, side: &mut Bootstrap) -> Self {
        match mode {
            Mode::Latency(combine) => {
                let case = latency_case(combine, 0, &[]);
                let desc = LatencyDesc {
                    timeout,
                    ..case.desc()
                };
                let plan = LatencyPlan::new(desc).unwrap();
                Self::Latency(combine, latency_harness::Rank::with_plan(case, &plan, side))
            }
            Mode::Throughput(reduce) => {
                let case = throughput_case(reduce, 0, &[]);
                let desc = ThroughputDesc {
                    timeout,
                    ..case.desc()
                };
                let plan = ThroughputPlan::new(desc).unwrap();
                Self::Throughput(reduce, throughput_harness::Rank::new(&plan, side))
            }
        }
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        match self {
            Self::Latency(_, at) => at.buffers.set_timeout(timeout),
            Self::Throughput(_, at) => at.buffers.set_timeout(timeout),
        }
    }

    pub(crate) fn members(&self) -> Members {
        match self {
            Self::Latency(_, at) => at.buffers.members(),
            Self::Throughput(_, at) => at.buffers.members(),
        }
    }

    pub(crate) fn masked(&self) -> Vec<u32> {
        let members = self.members();
        (0..RANKS).filter(|&rank| !members.contains(rank)).collect()
    }

    pub(crate) fn recover(&self, side: &mut Bootstrap) -> Result<(), EpError> {
        match self {
            Self::Latency(_, at) => at.buffers.recover(side),
            Self::Throughput(_, at) => at.buffers.recover(side),
        }
    }

    pub(crate) fn rejoin(&self, side: &mut Bootstrap) -> Result<(), EpError> {
        match self {
            Self::Latency(_, at) => at.buffers.rejoin(side),
            Self::Throughput(_, at) => at.buffers.rejoin(side),
        }
    }

    pub(crate) fn check(&self) -> Result<(), EpError> {
        match self {
            Self::Latency(_, at) => at.buffers.check(),
            Self::Throughput(_, at) => at.buffers.check(),
        }
    }

    pub(crate) fn synchronize(&self) {
        match self {
            Self::Latency(_, at) => at.buffers.synchronize(&at.stream),
            Self::Throughput(_, at) => at.buffers.synchronize(&at.stream),
        }
        .unwrap();
    }

    /// The ranks that the device says take no part.
    pub(crate) fn stats_masked(&self) -> Vec<u32> {
        let stats = match self {
            Self::Latency(_, at) => at.buffers.stats(&at.stream),
            Self::Throughput(_, at) => at.buffers.stats(&at.stream),
        };
        let masked = stats.unwrap().peers.into_iter().filter(|peer| peer.masked);
        masked.map(|peer| peer.peer).collect()
    }

    /// A round, checked against the model for the ranks that take part. One that is only dispatched is left like that, as by
    /// a thread that has died.
    pub(crate) fn round(&self, seed: u64, until: Until) -> Result<(), EpError> {
        let masked = self.masked();
        match self {
            Self::Latency(combine, at) => {
                let case = latency_case(*combine, seed, &masked);
                let mut data = at.round_of(case);
                let handle = data.dispatch()?;
                at.buffers.synchronize(&at.stream)?;
                data.check_received(&handle);
                if until == Until::Dispatched {
                    std::mem::forget(handle);
                    return Ok(());
                }
                data.combine(handle)?;
                at.buffers.synchronize(&at.stream)?;
                let desc = case.desc();
                let owns = |rank: u32, expert| {
                    let first = desc.first_expert(rank);
                    (first..first + desc.local_experts(rank)).contains(&expert)
                };
                data.check_sums(|expert| !masked.iter().any(|&rank| owns(rank, expert)));
            }
            Self::Throughput(reduce, at) => {
                let case = throughput_case(*reduce, seed, &masked);
                let mut data = at.round(case);
                let handle = data.dispatch()?;
                at.buffers.synchronize(&at.stream)?;
                data.check_received(&handle);
                if until == Until::Dispatched {
                    std::mem::forget(handle);
                    return Ok(());
                }
                data.combine(handle)?;
                at.buffers.synchronize(&at.stream)?;
                data.check_sums(|rank| !masked.contains(&rank));
            }
        }
        Ok(())
    }

    /// A round that is dispatched; the rest of it is what is returned.
    pub(crate) fn begin(&self, seed: u64) -> Box<dyn FnOnce() -> Result<(), EpError> + '_> {
        let masked = self.masked();
        match self {
            Self::Latency(combine, at) => {
                let mut data = at.round_of(latency_case(*combine, seed, &masked));
                let handle = data.dispatch().unwrap();
                Box::new(move || data.combine(handle))
            }
            Self::Throughput(reduce, at) => {
                let mut data = at.round(throughput_case(*reduce, seed, &masked));
                let handle = data.dispatch().unwrap();
                Box::new(move || data.combine(handle))
            }
        }
    }
}
