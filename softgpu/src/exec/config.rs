//! The machine's configuration: environment variables, read once.

use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::time::Duration;

use super::lanes::isa::Isa;
use super::visible::{MOST, Visible};
use crate::mem::DEVICE_BYTES;

/// What a software machine looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Number of devices: of those there are (`SOFTGPU_DEVICES`, 1 to 16, default 8), the ones that
    /// `CUDA_VISIBLE_DEVICES` names.
    pub devices: u32,
    /// Streaming multiprocessors per device (`SOFTGPU_SMS`, 1 to 132, default 132).
    pub sms: u32,
    /// Bytes of memory per device (`SOFTGPU_MEMORY_GIB`, 1 to 79, default those of an H100 80 GB).
    pub device_bytes: u64,
    /// Host worker threads (`SOFTGPU_THREADS`, default: the host's cores).
    pub host_threads: u32,
    /// Seed of schedules and completion orders (`SOFTGPU_SEED`). Without one the schedule is fixed
    /// round robin and every asynchronous operation completes late.
    pub seed: Option<u64>,
}

impl Config {
    /// The configuration of this process.
    pub fn global() -> &'static Self {
        static CONFIG: OnceLock<Config> = OnceLock::new();
        CONFIG.get_or_init(|| Self::from_lookup(|name| std::env::var(name).ok()))
    }

    /// Whether the environment makes sense.
    ///
    /// # Errors
    /// A text that names the variable, what is expected and what was found.
    pub fn check_environment() -> Result<(), String> {
        check(|name| {
            let value = std::env::var_os(name)?;
            Some(value.to_string_lossy().into_owned())
        })
    }

    /// The devices that this process sees.
    pub fn visible() -> &'static Visible {
        static VISIBLE: OnceLock<Visible> = OnceLock::new();
        VISIBLE.get_or_init(|| visible(&|name: &str| std::env::var(name).ok()))
    }

    /// A configuration from named values; what is absent or malformed takes its default
    /// ([`Self::check_environment`] complains).
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| lookup(name).and_then(|text| text.trim().parse::<u64>().ok());
        let small = |name: &str, default: u32, max: u32| {
            number(name)
                .and_then(|value| u32::try_from(value).ok())
                .map_or(default, |value| value.clamp(1, max))
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = u32::try_from(cores).unwrap_or(1);
        Self {
            devices: visible(&lookup).count(),
            sms: small("SOFTGPU_SMS", 132, 132),
            device_bytes: number("SOFTGPU_MEMORY_GIB")
                .map_or(DEVICE_BYTES, |gib| gib.clamp(1, DEVICE_BYTES >> 30) << 30),
            host_threads: small("SOFTGPU_THREADS", cores, 1024),
            seed: number("SOFTGPU_SEED"),
        }
    }
}

/// Variables that hold a number, and which numbers.
const NUMBERS: [(&str, RangeInclusive<u64>); 6] = [
    ("SOFTGPU_DEVICES", 1..=MOST as u64),
    ("SOFTGPU_SMS", 1..=132),
    ("SOFTGPU_MEMORY_GIB", 1..=DEVICE_BYTES >> 30),
    ("SOFTGPU_THREADS", 1..=1024),
    ("SOFTGPU_SEED", 0..=u64::MAX),
    ("SOFTGPU_DEADLOCK_SECONDS", 0..=u64::MAX),
];

/// Whether named values are what they should be. An empty one is none.
fn check(lookup: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let text = |name: &str| lookup(name).filter(|text| !text.trim().is_empty());
    for (name, range) in &NUMBERS {
        let Some(text) = text(name) else { continue };
        let value = text.trim().parse().ok();
        if !value.is_some_and(|value| range.contains(&value)) {
            let (low, high) = range.clone().into_inner();
            return Err(format!(
                "{name}: expected a number from {low} to {high}, found {text:?}"
            ));
        }
    }
    match text("SOFTGPU_ISA") {
        Some(text) if isa(&text).is_none() => Err(format!(
            "SOFTGPU_ISA: expected baseline, avx2 or avx512, found {text:?}"
        )),
        _ => Ok(()),
    }
}

fn isa(text: &str) -> Option<Isa> {
    match text.trim() {
        "baseline" => Some(Isa::Baseline),
        "avx2" => Some(Isa::Avx2),
        "avx512" => Some(Isa::Avx512),
        _ => None,
    }
}

fn visible(lookup: &impl Fn(&str) -> Option<String>) -> Visible {
    let all = lookup("SOFTGPU_DEVICES").and_then(|text| text.trim().parse::<u64>().ok());
    let all = all.and_then(|all| u32::try_from(all).ok());
    let all = all.map_or(8, |all| all.clamp(1, MOST));
    Visible::new(lookup("CUDA_VISIBLE_DEVICES").as_deref(), all)
}

/// What tools ask for beside the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    /// Idleness after which the machine is searched for a deadlock (`SOFTGPU_DEADLOCK_SECONDS`,
    /// default 10, never with 0).
    pub deadlock: Option<Duration>,
    /// File that gets a JSON line with the schedule's hash per launch (`SOFTGPU_TRACE`).
    pub trace: Option<String>,
    /// File that gets a JSON line with all counters per launch (`SOFTGPU_COUNTERS`).
    pub counters: Option<String>,
    /// The widest vector extension of the host to use (`SOFTGPU_ISA`: `baseline`, `avx2`, `avx512`);
    /// the best there is by default.
    pub isa: Option<Isa>,
    /// Faults to inject (`SOFTGPU_FAULT`; the module on fault injection has the grammar).
    pub fault: Option<String>,
}

impl Tools {
    /// What the environment of this process asks for.
    pub fn global() -> &'static Self {
        static TOOLS: OnceLock<Tools> = OnceLock::new();
        TOOLS.get_or_init(|| Self::from_lookup(|name| std::env::var(name).ok()))
    }

    /// From named values.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| lookup(name).filter(|text| !text.is_empty());
        let seconds = text("SOFTGPU_DEADLOCK_SECONDS").and_then(|text| text.trim().parse().ok());
        let deadlock = Some(Duration::from_secs(seconds.unwrap_or(10)));
        Self {
            deadlock: deadlock.filter(|limit| !limit.is_zero()),
            trace: text("SOFTGPU_TRACE"),
            counters: text("SOFTGPU_COUNTERS"),
            isa: text("SOFTGPU_ISA").and_then(|text| isa(&text)),
            fault: text("SOFTGPU_FAULT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, check};

    #[test]
    fn values_are_clamped_and_defaults_kept() {
        let config = Config::from_lookup(|name| match name {
            "SOFTGPU_DEVICES" => Some("99".into()),
            "SOFTGPU_SMS" => Some("0".into()),
            "SOFTGPU_MEMORY_GIB" => Some("16".into()),
            "SOFTGPU_SEED" => Some("12345678901".into()),
            "SOFTGPU_THREADS" => Some("three".into()),
            _ => None,
        });
        assert_eq!(config.devices, 16);
        assert_eq!(config.sms, 1);
        assert_eq!(config.device_bytes, 17_179_869_184);
        let most = |gib: &'static str| {
            Config::from_lookup(|name| (name == "SOFTGPU_MEMORY_GIB").then(|| gib.into()))
                .device_bytes
        };
        assert_eq!(
            ["0", "1000", "all"].map(most),
            [1 << 30, 79 << 30, 85_029_158_912]
        );
        assert_eq!(config.seed, Some(12_345_678_901));
        assert!(config.host_threads >= 1);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let checked = |variable: &str, value: &str| {
            check(|name| (name == variable).then(|| value.to_owned()))
        };
        for (variable, value, expected) in [
            ("SOFTGPU_DEVICES", "17", "a number from 1 to 16"),
            ("SOFTGPU_DEVICES", "0", "a number from 1 to 16"),
            ("SOFTGPU_SMS", "all", "a number from 1 to 132"),
            ("SOFTGPU_MEMORY_GIB", "80", "a number from 1 to 79"),
            ("SOFTGPU_THREADS", "-1", "a number from 1 to 1024"),
            (
                "SOFTGPU_SEED",
                "0x5",
                "a number from 0 to 18446744073709551615",
            ),
            ("SOFTGPU_DEADLOCK_SECONDS", "1.5", "a number from 0 to"),
            ("SOFTGPU_ISA", "sse", "baseline, avx2 or avx512"),
        ] {
            let found = checked(variable, value).unwrap_err();
            let begin = format!("{variable}: expected {expected}");
            assert!(found.starts_with(&begin), "{found}");
            assert!(found.ends_with(&format!("found {value:?}")), "{found}");
        }
        for (variable, value) in [
            ("SOFTGPU_DEVICES", "16"),
            ("SOFTGPU_SMS", ""),
            ("SOFTGPU_SEED", " 18446744073709551615 "),
            ("SOFTGPU_ISA", "avx2"),
        ] {
            assert_eq!(checked(variable, value), Ok(()), "{variable}={value}");
        }
    }
}
