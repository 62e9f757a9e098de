//! What the driver tells beyond result codes: messages, the last guest fault, launch statistics.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::status::Status;
use crate::error::{Fault, FaultKind, PtxError};
use crate::exec::traffic::{Link, Moved, Traffic};
use crate::exec::{Counters, Tools};

static LAST: Mutex<String> = Mutex::new(String::new());
static LAUNCHES: Mutex<BTreeMap<String, Launches>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Launches {
    count: u64,
    /// Launches whose traffic is known.
    observed: u64,
    counters: Counters,
}

impl Launches {
    fn add(&mut self, counters: &Counters) {
        self.count += 1;
        self.observed += u64::from(counters.traffic.is_some());
        self.counters += counters;
    }
}

/// Whether `SOFTGPU_LOG` asks for messages about failing calls.
fn verbose() -> bool {
    static VERBOSE: OnceLock<bool> = OnceLock::new();
    *VERBOSE.get_or_init(|| std::env::var_os("SOFTGPU_LOG").is_some_and(|v| v != "0"))
}

/// Prints why a call fails, if `SOFTGPU_LOG` is set.
pub fn note(message: &dyn Display) {
    if verbose() {
        eprintln!("softgpu: {message}");
    }
}

/// Records a guest fault as the last one. Findings that no real device would make (unsupported,
/// deadlock, a bug of softgpu) are always printed, others if `SOFTGPU_LOG` is set.
pub fn fault(fault: &Fault) {
    let text = fault.to_string();
    let ours = matches!(
        fault.kind,
        FaultKind::Unsupported { .. } | FaultKind::Deadlock { .. } | FaultKind::Internal { .. }
    );
    if ours || verbose() {
        eprintln!("softgpu: {text}");
    }
    if let FaultKind::Assert { message } = &fault.kind {
        eprintln!("{message}");
    }
    *LAST.lock() = text;
}

/// Records why a module was refused, and returns the text. Unsupported PTX is always printed.
pub fn refused(error: &PtxError) -> String {
    let text = format!("PTX {error}");
    if matches!(error, PtxError::Unsupported { .. }) || verbose() {
        eprintln!("softgpu: {text}");
    }
    LAST.lock().clone_from(&text);
    text
}

/// Records a message about an image or argument as the last one; printed if `SOFTGPU_LOG` is set.
pub fn complaint(text: &str) {
    note(&text);
    text.clone_into(&mut LAST.lock());
}

/// Prints a mistake in what a tool asks for and records it as the last message; the status.
pub fn mistake(text: &str) -> Status {
    eprintln!("softgpu: {text}");
    text.clone_into(&mut LAST.lock());
    Status::INVALID_VALUE
}

/// The text of the last fault or refusal; empty if there was none.
#[must_use]
pub fn last() -> String {
    LAST.lock().clone()
}

/// Names of the classes of instructions, in the order of their numbers.
const CLASS_NAMES: [&str; crate::exec::CLASSES] = [
    "alu", "load", "store", "atomic", "control", "warp", "sync", "async",
];

/// Counters as one JSON object.
fn json(kernel: &str, launches: &Launches) -> String {
    let counters = &launches.counters;
    let mut text = format!("{{\"kernel\":{kernel:?},\"launches\":{}", launches.count);
    for (name, value) in named(counters) {
        let _ = write!(text, ",\"{name}\":{value}");
    }
    let bytes = &counters.bytes;
    let spaces = [
        ("generic", bytes.generic),
        ("global", bytes.global),
        ("shared", bytes.shared),
        ("local", bytes.local),
        ("param", bytes.param),
    ];
    let classes = CLASS_NAMES.iter().copied().zip(counters.warp_instructions);
    let _ = write!(text, ",\"instructions\":{}", object(classes));
    let _ = write!(text, ",\"bytes\":{}", object(spaces.into_iter()));
    let moved = &counters.moved;
    let ways = [
        ("load", moved.load),
        ("multicast", moved.multicast),
        ("store", moved.store),
        ("reduce", moved.reduce),
        ("cluster", moved.cluster),
        ("cp_async", moved.cp_async),
    ];
    let _ = write!(text, ",\"async\":{}", object(ways.into_iter()));
    if let Some(traffic) = &counters.traffic {
        let traffic = traffic_json(launches.observed, traffic);
        let _ = write!(text, ",\"traffic\":{traffic}");
    }
    let _ = write!(text, ",\"schedule\":\"{:016x}\"}}", counters.schedule);
    text
}

/// The traffic of so many launches.
fn traffic_json(launches: u64, traffic: &Traffic) -> String {
    let bytes = &traffic.bytes;
    let places = [
        ("global", bytes.global),
        ("shared", bytes.shared),
        ("dsmem", bytes.dsmem),
        ("local", bytes.local),
        ("param", bytes.param),
    ];
    let link = |(&(from, to), moved): (&Link, &Moved)| {
        let to = to.map_or_else(|| "host".to_owned(), |device| device.to_string());
        let moved = [
            ("read", moved.read),
            ("written", moved.written),
            ("atomic", moved.atomic),
        ];
        format!("\"{from}->{to}\":{}", object(moved.into_iter()))
    };
    let links: Vec<_> = traffic.links.iter().map(link).collect();
    format!(
        "{{\"launches\":{launches},\"shared_passes\":{},\"bank_conflicts\":{},\
         \"bytes\":{},\"links\":{{{}}}}}",
        traffic.shared_passes,
        traffic.bank_conflicts,
        object(places.into_iter()),
        links.join(","),
    )
}

fn object(fields: impl Iterator<Item = (&'static str, u64)>) -> String {
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// Appends a line to a file that a tool asked for; a file that cannot be written is named once.
fn append(file: Option<&String>, line: impl FnOnce() -> String) {
    use std::io::Write as _;
    static COMPLAINED: OnceLock<()> = OnceLock::new();
    let Some(path) = file else { return };
    let opened = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    let written = opened.and_then(|mut file| file.write_all(format!("{}\n", line()).as_bytes()));
    if let Err(error) = written {
        COMPLAINED.get_or_init(|| eprintln!("softgpu: {path}: {error}"));
    }
}

/// The counters of all kernels since the start or the last [`clear_launches`], as a JSON array of
/// objects.
#[must_use]
pub fn counters_json() -> String {
    let launches = LAUNCHES.lock();
    let kernels = launches.iter();
    let kernels: Vec<_> = kernels.map(|(name, entry)| json(name, entry)).collect();
    format!("[{}]", kernels.join(","))
}

/// Counts a finished launch.
pub fn launched(kernel: &str, counters: &Counters) {
    let tools = Tools::global();
    let mut one = Launches::default();
    one.add(counters);
    append(tools.counters.as_ref(), || json(kernel, &one));
    append(tools.trace.as_ref(), || {
        let hash = counters.schedule;
        format!("{{\"kernel\":{kernel:?},\"schedule\":\"{hash:016x}\"}}")
    });
    let mut launches = LAUNCHES.lock();
    match launches.get_mut(kernel) {
        Some(entry) => entry.add(counters),
        None => {
            launches.insert(kernel.to_owned(), one);
        }
    }
}

/// One line per kernel launched since the start or the last [`clear_launches`]: name, number of
/// launches, then `counter=value` pairs, separated by tabs.
#[must_use]
pub fn launches() -> String {
    let mut text = String::new();
    for (kernel, entry) in LAUNCHES.lock().iter() {
        let _ = write!(text, "{kernel}\tlaunches={}", entry.count);
        for (name, value) in named(&entry.counters) {
            let _ = write!(text, "\t{name}={value}");
        }
        text.push('\n');
    }
    text
}

/// The counters by name.
fn named(counters: &Counters) -> [(&'static str, u64); 9] {
    [
        ("warp_instructions", counters.instructions()),
        ("lane_instructions", counters.lane_instructions),
        ("wgmma_macs", counters.wgmma_macs),
        ("mma_macs", counters.mma_macs),
        (
            "global_bytes",
            counters.bytes.generic + counters.bytes.global,
        ),
        ("shared_bytes", counters.bytes.shared),
        ("async_bytes", counters.moved.total()),
        ("barrier_waits", counters.barrier_waits),
        ("ctas", counters.ctas),
    ]
}

/// Forgets all launches.
pub fn clear_launches() {
    LAUNCHES.lock().clear();
}
