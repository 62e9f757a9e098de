//! The wait-for graph of warps that cannot go on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::access::transfer::Mode;
use super::cluster::Cluster;
use super::cta::{Arrived, Env, LaunchState, Origin};
use super::mbar;
use super::regs::Slot;
use super::split::{Split, Wait};
use super::warp::Warp;
use super::watch::Word;
use crate::error::{Fault, FaultKind};
use crate::ir::Class;

/// Lines of a report; the rest is counted.
const MOST: usize = 64;

/// One split of a warp, and what it waits for.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) text: String,
}

/// Joins the lines of a report.
pub(super) fn join(waits: &[Waiting]) -> String {
    let mut text = String::new();
    for waiting in waits.iter().take(MOST) {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&waiting.text);
    }
    if waits.len() > MOST {
        let _ = write!(text, "; and {} more", waits.len() - MOST);
    }
    text
}

/// The clusters of stopped devices, by their first CTA: one part of the report per launch.
pub(super) fn stopped<'a>(
    clusters: impl Iterator<Item = (&'a LaunchState, [u32; 3])>,
) -> Vec<String> {
    let mut launches: BTreeMap<u64, (&LaunchState, Vec<[u32; 3]>)> = BTreeMap::new();
    for (launch, cta) in clusters {
        let entry = launches
            .entry(launch.number())
            .or_insert((launch, Vec::new()));
        entry.1.push(cta);
    }
    let line = |(id, (launch, mut ctas)): (u64, (&LaunchState, Vec<[u32; 3]>))| {
        ctas.sort_by_key(|[x, y, z]| [*z, *y, *x]);
        let more = ctas.len().saturating_sub(MOST);
        ctas.truncate(MOST);
        let places: Vec<_> = ctas
            .iter()
            .map(|[x, y, z]| format!("({x},{y},{z})"))
            .collect();
        let rest = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "kernel {} launch {id} device {}, stopped by fault injection: clusters at CTA {}{rest}",
            launch.kernel.name(),
            launch.device,
            places.join(" "),
        )
    };
    launches.into_iter().map(line).collect()
}

fn by(env: &Env, arrived: Option<Arrived>) -> String {
    arrived.map_or_else(
        || "nobody has arrived".to_owned(),
        |Arrived { rank, warp, line }| {
            let line = env.place(line);
            format!("last arrival by rank {rank} warp {warp} at PTX line {line}")
        },
    )
}

impl Cluster {
    /// The waits of all warps.
    pub(super) fn waits(&self) -> Vec<Waiting> {
        let env = &*self.env;
        let mut found: Vec<_> = self.reads().into_iter().collect();
        for warp in &self.warps {
            let cta = self.cta(warp);
            for split in warp.splits.iter() {
                let line = env.launch.kernel.code[split.pc as usize].line;
                let what = self.describe(env, warp, split);
                let (index, mask) = (warp.index, split.mask);
                let at = env.place(line);
                let text = format!("{cta} warp {index} lanes {mask:#x} line {at}: {what}");
                let origin = warp.origin(split.mask.trailing_zeros(), line);
                found.push(Waiting { origin, text });
            }
        }
        found
    }

    /// The fault of a cluster that can never go on.
    pub(super) fn deadlock(&self) -> Fault {
        let waits = join(&self.waits());
        self.stuck(FaultKind::Deadlock { waits })
    }

    /// A fault of the first warp that waits.
    pub(super) fn stuck(&self, kind: FaultKind) -> Fault {
        let origin = self.waits().first().map_or(
            Origin {
                rank: 0,
                warp: 0,
                lane: 0,
                line: 0,
            },
            |waiting| waiting.origin,
        );
        self.env.fault(origin, kind)
    }

    /// What a cluster reads in which the warps go round together, and none spins by itself.
    fn reads(&self) -> Option<Waiting> {
        let mut splits = self.warps.iter().flat_map(|warp| warp.splits.iter());
        if self.reads.is_empty() || splits.any(|split| split.spin.hot) {
            return None;
        }
        let warp = self.warps.first()?;
        let split = warp.splits.iter().next()?;
        let line = self.env.launch.kernel.code[split.pc as usize].line;
        let mut text = format!("{} goes round", self.cta(warp));
        for Word { address, value, .. } in &self.reads {
            let _ = write!(text, ", reads {address:#x} and sees {value:#x}");
        }
        let origin = warp.origin(split.mask.trailing_zeros(), line);
        Some(Waiting { origin, text })
    }

    /// The CTA of a warp, in words.
    fn cta(&self, warp: &Warp) -> String {
        let (env, launch) = (&*self.env, &self.env.launch);
        let [x, y, z] = env.positions[warp.rank as usize].cta;
        let (name, id, device) = (launch.kernel.name(), launch.number(), launch.device);
        format!("kernel {name} launch {id} device {device} CTA ({x},{y},{z})")
    }

    fn describe(&self, env: &Env, warp: &Warp, split: &Split) -> String {
        let cta = &self.st.ctas[warp.rank as usize];
        match split.wait {
            Wait::Run if split.spin.hot => polled(env, warp, split),
            Wait::Run => "runnable".to_owned(),
            Wait::Converge => format!("other lanes of the warp (live {:#x})", warp.live),
            Wait::WarpBarrier { members } => format!("bar.warp.sync of {members:#x}"),
            Wait::Barrier { id, .. } => {
                let (arrived, count) = cta.barriers[usize::from(id)].progress();
                let count = count.unwrap_or(cta.live);
                let last = by(env, cta.last_at_barrier[usize::from(id)]);
                format!("barrier {id}: {arrived} of {count} threads arrived, {last}")
            }
            Wait::Cluster { phase } => {
                let arrived = self.st.barrier.arrived();
                let live = self.st.live;
                format!("cluster barrier phase {phase}: {arrived} of {live} threads")
            }
            Wait::Mbarrier { offset, parity, .. } => {
                let state = mbar::describe(env, (warp.rank, offset));
                let last = by(env, cta.last_at_mbarrier(offset));
                format!("mbarrier at shared {offset:#x}, phase of parity {parity}: {state}, {last}")
            }
            Wait::Bulk { pending, .. } => format!("bulk groups, at most {pending}"),
            Wait::CpAsync { pending } => format!("cp.async groups, at most {pending}"),
            Wait::WgmmaDone { number } => format!("wgmma {number} of the warpgroup"),
            Wait::Wgmma { pending } => format!("wgmma groups, at most {pending}"),
            Wait::Sleep { .. } => "sleep".to_owned(),
            Wait::Grid => "griddepcontrol.wait: the grid before this one".to_owned(),
        }
    }
}

/// What a spinning split polls: the polls of the loop, with the addresses and values of its first
/// lane.
fn polled(env: &Env, warp: &Warp, split: &Split) -> String {
    let kernel = &env.launch.kernel;
    let lane = split.mask.trailing_zeros();
    let mut text = "spins".to_owned();
    for pc in split.pc..=split.spin.branch {
        let (inst, info) = (&kernel.code[pc as usize], kernel.access[pc as usize]);
        if info.poll == 0 {
            continue;
        }
        let class = if inst.c.0 & Mode::WIDE != 0 {
            Class::B64
        } else {
            Class::B32
        };
        let base = warp.regs.value_u64(inst.a, class, lane);
        let address = base.wrapping_add(inst.imm);
        let seen = kernel.polls[info.poll as usize - 1].first();
        let seen = seen.map_or(0, |reg| {
            warp.regs.value_u64(Slot(reg.slot), reg.class, lane)
        });
        let _ = write!(
            text,
            ", polls {address:#x} and sees {seen:#x} at PTX line {}",
            env.place(inst.line)
        );
    }
    text
}
