//! What will run on this machine, and why not the faster path.

use crate::error::{Error, Result};
use comfy_table::{Table, presets};
use hadal::device::{self, DeviceKind, DeviceSurvey};
use serde::Serialize;
use std::path::Path;

/// Compute capability of the kernels: `sm_90a` is of this one only.
const CAPABILITY: [u32; 2] = [9, 0];

/// How a finding bears on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The best path.
    Good,
    /// Something works, but a slower path is taken, or fewer ranks are possible.
    Limited,
    /// Nothing can run.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// How it bears on a run.
    pub verdict: Verdict,
    /// What follows from it.
    pub consequence: String,
}

/// Looks at the machine. That something is missing is a finding, not an error.
///
/// # Errors
///
/// The driver fails.
pub fn examine() -> Result<Vec<Finding>> {
    let selected = match device::selected() {
        Ok(selected) => selected,
        Err(error) => {
            return Ok(vec![finding(
                ("device library", error.to_string()),
                Verdict::Missing,
                "nothing can run",
            )]);
        }
    };
    let (verdict, consequence) = match selected.kind {
        DeviceKind::Cuda => (Verdict::Good, "kernels run on GPUs, from embedded cubins"),
        DeviceKind::Soft => (
            Verdict::Limited,
            "kernels run on the software GPU, from embedded PTX; times say nothing of a GPU",
        ),
    };
    let library = ("device library", selected.to_string());
    let mut findings = vec![finding(library, verdict, consequence)];
    let devices = device::survey().map_err(Error::device("survey of the devices"))?;
    findings.push(capability(&devices));
    findings.push(sharing(&devices));
    findings.push(peers(&devices));
    findings.push(multicast(&devices));
    findings.push(rdma(Path::new("/sys/class/infiniband")));
    Ok(findings)
}

/// Whether a layer can run at all.
#[must_use]
pub fn can_run(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.verdict != Verdict::Missing)
}

fn finding(
    (subject, found): (&'static str, impl Into<String>),
    verdict: Verdict,
    consequence: impl Into<String>,
) -> Finding {
    Finding {
        subject,
        found: found.into(),
        verdict,
        consequence: consequence.into(),
    }
}

fn capability(devices: &[DeviceSurvey]) -> Finding {
    let able = devices
        .iter()
        .filter(|device| device.capability == CAPABILITY)
        .count();
    let sizes = devices.first().map_or_else(String::new, |device| {
        let gib = device.memory >> 30;
        format!(", {} SMs and {gib} GiB each", device.multiprocessors)
    });
    let found = (
        "devices",
        format!("{able} of {} are sm_90{sizes}", devices.len()),
    );
    match able {
        0 => finding(found, Verdict::Missing, "the kernels are for sm_90a only"),
        _ if able < devices.len() => finding(
            found,
            Verdict::Limited,
            format!("at most {able} ranks, on those"),
        ),
        _ => finding(found, Verdict::Good, format!("up to {able} ranks")),
    }
}

fn sharing(devices: &[DeviceSurvey]) -> Finding {
    let files = devices.iter().all(|device| device.file_handles);
    let fabric = devices.iter().all(|device| device.fabric_handles);
    let subject = "memory handles";
    match (files, fabric) {
        (true, true) => finding(
            (subject, "files and fabric"),
            Verdict::Good,
            "ranks may be processes, also of other hosts of the NVLink domain",
        ),
        (true, false) => finding(
            (subject, "files"),
            Verdict::Good,
            "ranks may be processes of this host",
        ),
        (false, true) => finding(
            (subject, "fabric"),
            Verdict::Good,
            "ranks may be processes of the NVLink domain",
        ),
        (false, false) => finding(
            (subject, "none"),
            Verdict::Missing,
            "windows cannot be shared between devices",
        ),
    }
}

fn peers(devices: &[DeviceSurvey]) -> Finding {
    let apart = devices.iter().find_map(|device| {
        let peer = device.peers.iter().position(|&reaches| !reaches)?;
        Some((device.ordinal, peer))
    });
    let subject = "peer access";
    match apart {
        None if devices.len() < 2 => finding(
            (subject, "one device"),
            Verdict::Limited,
            "one rank: nothing crosses a link",
        ),
        None => finding(
            (subject, "every device reaches every other"),
            Verdict::Good,
            "rows go straight into the peers' memory",
        ),
        Some((from, to)) => finding(
            (subject, format!("device {from} does not reach device {to}")),
            Verdict::Limited,
            "only ranks on devices that reach each other can exchange rows",
        ),
    }
}

fn multicast(devices: &[DeviceSurvey]) -> Finding {
    let able = devices.len() > 1 && devices.iter().all(|device| device.multicast);
    let subject = "multicast";
    if able {
        return finding(
            (subject, "on all devices"),
            Verdict::Good,
            "all-reduce and broadcast in the switch, between ranks of one host",
        );
    }
    finding(
        (subject, "not on all devices, or one device"),
        Verdict::Limited,
        "all-reduce and broadcast by loads and stores of each peer",
    )
}

fn rdma(folder: &Path) -> Finding {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let found = if names.is_empty() {
        "no device".to_owned()
    } else {
        names.join(", ")
    };
    finding(
        ("InfiniBand", found),
        Verdict::Limited,
        "not used by this version: ranks are in one NVLink domain",
    )
}

/// The findings as a table.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "",
        "found",
        "verdict",
        "consequence",
    ]);
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Limited => "limited",
            Verdict::Missing => "missing",
        };
        table.add_row([
            finding.subject,
            &finding.found,
            verdict,
            &finding.consequence,
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ordinal: u32) -> DeviceSurvey {
        DeviceSurvey {
            ordinal,
            name: "a device".into(),
            capability: CAPABILITY,
            multiprocessors: 132,
            memory: 80 << 30,
            file_handles: true,
            fabric_handles: false,
            multicast: true,
            peers: vec![true; 2],
        }
    }

    #[test]
    fn what_is_missing_is_told_apart_from_what_is_slower() {
        let mut devices = vec![device(0), device(1)];
        assert_eq!(capability(&devices).verdict, Verdict::Good);
        assert_eq!(peers(&devices).verdict, Verdict::Good);
        assert_eq!(multicast(&devices).verdict, Verdict::Good);
        devices[1].capability = [8, 0];
        devices[1].multicast = false;
        devices[0].peers[1] = false;
        assert_eq!(capability(&devices).verdict, Verdict::Limited);
        assert!(
            peers(&devices)
                .found
                .contains("device 0 does not reach device 1")
        );
        assert_eq!(multicast(&devices).verdict, Verdict::Limited);
        devices[0].capability = [8, 0];
        assert!(!can_run(&[capability(&devices)]));
        devices[0].file_handles = false;
        assert_eq!(sharing(&devices).verdict, Verdict::Missing);
        let none = rdma(Path::new("/nonexistent"));
        assert_eq!(
            (none.found.as_str(), none.verdict),
            ("no device", Verdict::Limited)
        );
    }
}
