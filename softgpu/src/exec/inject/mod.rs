//! Fault injection: what goes wrong on purpose, and when.
//!
//! Faults come from the environment (`SOFTGPU_FAULT`) and from `softgpuFault`, several separated by
//! `;`, their words by blanks:
//!
//! ```text
//! stop DEVICE                 its kernels get no more turns; all else goes on
//! kill                        SIGKILL for this process; needs a moment
//! drop FROM->TO               stores of kernels on FROM to memory of TO do not happen
//! delay FROM->TO ns=TIME      they happen so much device time later
//! corrupt FROM->TO [bit=B]    their first element has one bit wrong; one store unless n says more
//! flip ADDRESS [bit=B]        a bit of memory changes, counted from the byte at the address
//! ```
//!
//! FROM and TO are devices or `*`; `n=N` limits a fault to N stores, `skip=N` lets N go by first.
//! *One store* is one instruction of a warp as far as it goes to one peer (scalar or vector, `red`,
//! `atom`), or one bulk or tensor operation. `atom` with a result is a round trip: when dropped it
//! gives the value that it finds and changes nothing; `delay` and `corrupt` pass it by, and so they
//! do `multimem`, which can lose single replicas. Stores of `wmma` and copies of the driver are
//! never touched. A store suffers the first fault that acts on it; the next ones do not count it.
//!
//! A moment makes a fault wait: `@phase=NAME` for `softgpuPhase(NAME)`, `@launch=TEXT` for the launch
//! of a kernel whose name contains TEXT (of a stopped device: on that device); `#N` after either
//! means the N-th time. Without one a fault is in force at once.
//!
//! Stores are separate events: whatever a fault leaves alone overtakes what is delayed. A thread
//! still sees its own delayed stores, and a kernel ends when the last of them has arrived (all of
//! them do when faults are cleared). A fault is named on standard error when it first acts. If there
//! are none, a turn of a cluster reads one flag, and a launch another.

mod act;
mod parse;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::config::{Config, Tools};

/// What a fault does to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does not happen.
    Drop,
    /// It happens later.
    Delay {
        /// Nanoseconds of device time.
        ns: u64,
    },
    /// One bit is wrong.
    Corrupt {
        /// Which.
        bit: u32,
    },
}

/// Which stores a fault is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    from: Option<u32>,
    to: Option<u32>,
    effect: Effect,
    /// Stores that still go by.
    skip: u64,
    /// Stores that it may still change.
    most: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Stop(u32),
    Kill,
    Flip { address: u64, bit: u32 },
    Stores(Rule),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Phase,
    Launch,
}

/// The moment that a fault waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct When {
    moment: Moment,
    name: String,
    /// Times that it must still come.
    left: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    what: What,
    when: Option<When>,
    text: String,
    /// It has been named on standard error.
    told: bool,
}

/// What a warp or copy engine wants to do to memory of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trip {
    /// Nobody waits for an answer.
    OneWay,
    /// It is lost or happens now.
    Answered,
}

static FAULTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
/// Some fault waits for a moment.
static WAITING: AtomicBool = AtomicBool::new(false);
/// Devices whose stores some fault is about.
static SOURCES: AtomicU32 = AtomicU32::new(0);
/// Devices that are stopped.
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Adds the faults that `SOFTGPU_FAULT` asks for, the first time.
///
/// # Errors
/// As [`add`], every time.
pub fn from_environment() -> Result<(), String> {
    static ADDED: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    let first = || match &Tools::global().fault {
        Some(spec) => add(spec).map_err(|why| format!("SOFTGPU_FAULT: {why}")),
        None => Ok(()),
    };
    ADDED.get_or_init(first).clone()
}

/// Adds faults, all or none.
///
/// # Errors
/// A text that names the fault and what is wrong with it.
pub fn add(spec: &str) -> Result<(), String> {
    let new = parse::faults(spec, Config::global().devices)?;
    let mut faults = FAULTS.lock();
    let (now, later): (Vec<_>, Vec<_>) = new.into_iter().partition(|fault| fault.when.is_none());
    for fault in &now {
        if let What::Flip { address, .. } = fault.what
            && !act::is_memory(address)
        {
            let text = &fault.text;
            return Err(format!("fault {text:?}: there is no memory at the address"));
        }
    }
    for fault in now {
        begin(&mut faults, fault);
    }
    faults.extend(later);
    note(&faults);
    Ok(())
}

/// Ends all faults; stopped devices go on.
pub fn clear() {
    let mut faults = FAULTS.lock();
    faults.clear();
    note(&faults);
}

/// A client begins a phase of its work.
pub fn phase(name: &str) {
    if WAITING.load(Ordering::Relaxed) {
        pass(Moment::Phase, &|_, wanted| wanted == name);
    }
}

/// A kernel is launched on a device.
pub(super) fn launching(kernel: &str, device: u32) {
    if WAITING.load(Ordering::Relaxed) {
        pass(Moment::Launch, &|fault, wanted| {
            let elsewhere = matches!(fault.what, What::Stop(other) if other != device);
            kernel.contains(wanted) && !elsewhere
        });
    }
}

/// A moment comes: begins the faults that have waited for it.
fn pass(moment: Moment, is_meant: &dyn Fn(&Fault, &str) -> bool) {
    let mut faults = FAULTS.lock();
    for mut fault in std::mem::take(&mut *faults) {
        let meant = |when: &When| when.moment == moment && is_meant(&fault, &when.name);
        if fault.when.as_ref().is_some_and(meant)
            && let Some(when) = &mut fault.when
        {
            when.left -= 1;
            if when.left == 0 {
                fault.when = None;
                begin(&mut faults, fault);
                continue;
            }
        }
        faults.push(fault);
    }
    note(&faults);
}

/// A fault comes into force.
fn begin(faults: &mut Vec<Fault>, mut fault: Fault) {
    match fault.what {
        What::Kill => {
            tell(&mut fault);
            act::kill();
        }
        What::Flip { address, bit } => {
            tell(&mut fault);
            if !act::flip(address, bit) {
                eprintln!("softgpu: fault injection: there is no memory at {address:#x}");
            }
        }
        What::Stop(_) => {
            tell(&mut fault);
            faults.push(fault);
        }
        What::Stores(_) => faults.push(fault),
    }
}

fn tell(fault: &mut Fault) {
    if !std::mem::replace(&mut fault.told, true) {
        eprintln!("softgpu: fault injection: {}", fault.text);
    }
}

/// Puts into the flags what is in force.
fn note(faults: &[Fault]) {
    let (mut sources, mut stopped, mut waiting) = (0, 0, false);
    for fault in faults {
        match &fault.what {
            _ if fault.when.is_some() => waiting = true,
            What::Stop(device) => stopped |= 1 << device,
            What::Stores(rule) => sources |= rule.from.map_or(u32::MAX, |device| 1 << device),
            What::Kill | What::Flip { .. } => {}
        }
    }
    WAITING.store(waiting, Ordering::Relaxed);
    SOURCES.store(sources, Ordering::Relaxed);
    STOPPED.store(stopped, Ordering::Relaxed);
}

/// Whether a device is stopped.
#[inline]
pub(super) fn is_stopped(device: u32) -> bool {
    STOPPED.load(Ordering::Relaxed) >> device & 1 != 0
}

/// Whether some fault is about stores of a device.
#[inline]
pub(super) fn concerns(device: u32) -> bool {
    SOURCES.load(Ordering::Relaxed) >> device & 1 != 0
}

/// What is to become of a store from one device to another; counts it.
pub(super) fn judge(from: u32, to: u32, trip: Trip) -> Option<Effect> {
    if from == to {
        return None;
    }
    let mut faults = FAULTS.lock();
    for fault in faults.iter_mut().filter(|fault| fault.when.is_none()) {
        let What::Stores(rule) = &mut fault.what else {
            continue;
        };
        let meant = |side: Option<u32>, device| side.is_none_or(|side| side == device);
        let able = rule.effect == Effect::Drop || trip == Trip::OneWay;
        if !meant(rule.from, from) || !meant(rule.to, to) || !able {
            continue;
        }
        if rule.skip > 0 {
            rule.skip -= 1;
            continue;
        }
        match &mut rule.most {
            Some(0) => continue,
            Some(most) => *most -= 1,
            None => {}
        }
        let effect = rule.effect;
        tell(fault);
        return Some(effect);
    }
    None
}
