//! The written cases, in both modes, on ranks that are threads and on ranks that are processes.

use std::time::Duration;

use hadal::memory::{Bootstrap, Rendezvous};
use serde::Deserialize;

use crate::process::{Process, port};
use crate::ranks::on_ranks;
use crate::{latency, throughput};

const VARIABLE: &str = "EP_TEST_CASES";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Written>,
    /// For the sweep.
    large: Vec<Written>,
}

/// One written case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// Tokens by rank.
    pub(crate) tokens: Vec<u32>,
    pub(crate) experts: u32,
    pub(crate) topk: u32,
    pub(crate) hidden: u32,
    pub(crate) routing: Routing,
}

/// How tokens choose experts; always different ones, as many as there are, the rest dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Routing {
    /// Drawn evenly.
    Random,
    /// Choice 0 is the last expert for every token; the others are dropped.
    AllToOne,
    /// Few experts get most tokens.
    Zipf,
    /// As `Random`, then each entry is dropped with probability 1/3.
    Drops,
}

fn cases() -> Cases {
    toml::from_str(include_str!("cases.toml")).expect("cases.toml")
}

/// Both modes, each with both payloads; the same on every rank.
fn run(side: &mut Bootstrap, seed: u64, written: &Written) {
    throughput::cases::run_written(side, seed, written);
    latency::rounds::run_written(side, seed, written);
}

#[test]
fn as_threads() {
    for (seed, written) in (0..).zip(cases().case) {
        on_ranks(written.tokens.len() as u32, |mut side| {
            run(&mut side, seed, &written);
        });
    }
}

#[test]
#[ignore = "called by as_processes in a process of its own"]
fn child() {
    assert!(std::env::var_os(VARIABLE).is_some(), "called by the parent");
    let place = Rendezvous::from_env().unwrap();
    let place = place.with_deadline(Duration::from_secs(120));
    let mut side = place.connect().unwrap();
    for (seed, written) in (0..).zip(cases().case) {
        if written.tokens.len() as u32 == side.ranks() {
            run(&mut side, seed, &written);
        }
    }
}

#[test]
fn as_processes() {
    for ranks in [1, 2, 3, 4, 8] {
        let port = port();
        let start = |rank| Process::start("cases::child", [VARIABLE, "1"], [rank, ranks], port);
        let processes: Vec<_> = (0..ranks).map(start).collect();
        processes.into_iter().for_each(Process::finish);
    }
}

#[test]
#[ignore = "minutes: the sweep runs it"]
fn large() {
    for (seed, written) in (0..).zip(cases().large) {
        on_ranks(written.tokens.len() as u32, |mut side| {
            run(&mut side, seed, &written);
        });
    }
}

/// Every value that the list must have, it has.
#[test]
fn the_list_is_complete() {
    let cases = cases().case;
    let has = |what: &str, values: &[u32], of: &dyn Fn(&Written) -> Vec<u32>| {
        for value in values {
            let found = cases.iter().any(|case| of(case).contains(value));
            assert!(found, "no case has {what} {value}");
        }
    };
    has("ranks", &[1, 2, 3, 4, 8], &|case| {
        vec![case.tokens.len() as u32]
    });
    has("tokens", &[0, 1, 17, 128, 512], &|case| case.tokens.clone());
    has("hidden", &[128, 512, 2048, 7168], &|case| vec![case.hidden]);
    has("experts", &[8, 32, 256], &|case| vec![case.experts]);
    has("top-k", &[1, 2, 4, 8, 16], &|case| vec![case.topk]);
    for routing in [
        Routing::Random,
        Routing::AllToOne,
        Routing::Zipf,
        Routing::Drops,
    ] {
        assert!(
            cases.iter().any(|case| case.routing == routing),
            "{routing:?}"
        );
    }
    let uneven = |case: &Written| case.tokens.iter().any(|tokens| *tokens != case.tokens[0]);
    assert!(cases.iter().any(uneven));
}
