//! All files of a folder on one device, with a line of JSON for each.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::file::TestFile;
use crate::parent::{Device, Outcome, Seeds, Settings, run_isolated};

/// What a run over a folder comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that ended as they should.
    pub passed: usize,
    /// Files that say nothing about the device.
    pub skipped: usize,
    /// Files that did not, and why.
    pub failed: Vec<String>,
    /// Recorded buffers that are exactly as predicted.
    pub as_predicted: usize,
    /// Recorded buffers that are not: name, differing bytes, all bytes.
    pub otherwise: Vec<(String, usize, usize)>,
}

/// All test files below a folder, sorted; named by their path from there, without the extension.
#[must_use]
pub fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "ptx") {
                let name = path.strip_prefix(folder).unwrap_or(&path);
                let name = name.with_extension("").to_string_lossy().into_owned();
                found.push((name, path));
            }
        }
    }
    found.sort();
    found
}

/// Records by test and buffer, as an earlier run wrote them.
type Predictions = HashMap<String, String>;

/// Reads the records of an earlier results file. The format is ours, so a real JSON reader is not
/// needed: `"buffer":"bytes"` pairs behind `"records":`.
fn predictions(path: &Path) -> Predictions {
    let mut all = Predictions::new();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        let name = line
            .strip_prefix("{\"test\":\"")
            .and_then(|l| l.split_once('"'));
        let records = line.split_once("\"records\":{").map(|(_, records)| records);
        if let (Some((name, _)), Some(records)) = (name, records) {
            for pair in records.trim_end_matches('}').split(',') {
                if let Some((buffer, bytes)) = pair.split_once(':') {
                    let key = format!("{name} {}", buffer.trim_matches('"'));
                    all.insert(key, bytes.trim_matches('"').to_owned());
                }
            }
        }
    }
    all
}

/// Runs all files below `folder` and writes a line of JSON for each to `output`. Records are
/// compared with those of an earlier run in `predicted`, if that file exists.
///
/// # Errors
///
/// If the results cannot be written.
pub fn run_folder(
    folder: &Path,
    (library, device): (&str, &Device),
    output: &Path,
    predicted: &Path,
) -> std::io::Result<Summary> {
    let predictions = predictions(predicted);
    let mut summary = Summary::default();
    if let Some(parent) = output.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut results = std::fs::File::create(output)?;
    let software = device.software;
    writeln!(
        results,
        "{{\"device\":{},\"software\":{software}}}",
        quoted(&device.name)
    )?;
    let settings = Settings {
        library: library.to_owned(),
        limit: std::time::Duration::from_mins(5),
        coverage: None,
        record: Some(output.with_extension("record")),
        seeds: if software { Seeds::All } else { Seeds::Fixed },
    };
    // A real device has one test at a time: they are to be alone on it.
    let jobs = if software {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    } else {
        1
    };
    for (name, outcome, records) in run_all(&files(folder), &settings, jobs) {
        compare(&mut summary, &predictions, &name, &records);
        writeln!(results, "{}", line(&name, &outcome, &records))?;
        match outcome {
            Outcome::Passed => summary.passed += 1,
            Outcome::Skipped => summary.skipped += 1,
            Outcome::Failed(why) => summary.failed.push(format!("{name}: {why}")),
        }
    }
    Ok(summary)
}

/// A file's name, how it ended and what it recorded.
type Ended = (String, Outcome, String);

/// Runs files, several at a time; their ends in the order of the files.
fn run_all(files: &[(String, PathBuf)], settings: &Settings, jobs: usize) -> Vec<Ended> {
    let next = AtomicUsize::new(0);
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(index) else { break };
                    let end = run_one(file, index, settings);
                    let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                    ended.push((index, end));
                }
            });
        }
    });
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|(index, _)| *index);
    ended.into_iter().map(|(_, end)| end).collect()
}

fn run_one((name, path): &(String, PathBuf), index: usize, settings: &Settings) -> Ended {
    let record = settings.record.as_ref();
    let record = record.map(|path| path.with_extension(format!("record{index}")));
    let settings = Settings {
        record: record.clone(),
        ..settings.clone()
    };
    let outcome = match TestFile::read(path) {
        Ok(file) => run_isolated(&file, &settings),
        Err(why) => Outcome::Failed(why),
    };
    let mut records = String::new();
    if let Some(path) = record {
        // A file that records nothing leaves none.
        records = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
    }
    (name.clone(), outcome, records)
}

/// Counts the records that are as predicted.
fn compare(summary: &mut Summary, predictions: &Predictions, name: &str, records: &str) {
    for (buffer, bytes) in records.lines().filter_map(|line| line.split_once(' ')) {
        let key = format!("{name} {buffer}");
        let Some(wanted) = predictions.get(&key) else {
            continue;
        };
        let pairs = bytes.as_bytes().chunks(2).zip(wanted.as_bytes().chunks(2));
        let differ = pairs.filter(|(a, b)| a != b).count();
        if differ == 0 && bytes.len() == wanted.len() {
            summary.as_predicted += 1;
        } else {
            summary.otherwise.push((key, differ, bytes.len() / 2));
        }
    }
}

fn line(name: &str, outcome: &Outcome, records: &str) -> String {
    let (word, why) = match outcome {
        Outcome::Passed => ("passed", ""),
        Outcome::Skipped => ("skipped", ""),
        Outcome::Failed(why) => ("failed", why.as_str()),
    };
    let mut text = format!("{{\"test\":{},\"outcome\":\"{word}\"", quoted(name));
    if !why.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(text, ",\"why\":{}", quoted(why));
    }
    let pairs: Vec<String> = records
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(buffer, bytes)| format!("{}:\"{bytes}\"", quoted(buffer)))
        .collect();
    if !pairs.is_empty() {
        let _ = write!(text, ",\"records\":{{{}}}", pairs.join(","));
    }
    text.push('}');
    text
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
