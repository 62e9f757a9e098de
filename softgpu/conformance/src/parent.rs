//! Runs test files in processes of their own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::file::TestFile;
use crate::run::{Bless, Extras, run};

/// Names the file that a child process runs.
const CHILD: &str = "SOFTGPU_ISA_CHILD";
/// Names the driver library.
const LIBRARY: &str = "SOFTGPU_ISA_LIBRARY";
/// Asks for expected values to be rewritten.
const BLESS: &str = "SOFTGPU_BLESS";
/// Names the file for recorded buffers.
const RECORD: &str = "SOFTGPU_ISA_RECORD";
/// Asks the child for the device's name only.
const PROBE: &str = "SOFTGPU_ISA_PROBE";
/// A child's exit code for a file that it skips.
const SKIPPED: u8 = 77;
/// What a real driver has no use for.
const SEED: &str = "SOFTGPU_SEED";
/// Where the software GPU notes executed opcodes.
const COVERAGE: &str = "SOFTGPU_COVERAGE";

/// How to run files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The driver library: a path, or a name to search for.
    pub library: String,
    /// A run that takes longer has hung.
    pub limit: Duration,
    /// A folder for one coverage file per test.
    pub coverage: Option<PathBuf>,
    /// A file for the buffers that the test records.
    pub record: Option<PathBuf>,
    /// Whether to run under the seeds that files ask for: a real device has none.
    pub seeds: Seeds,
}

/// Which schedules a file runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeds {
    /// The fixed one.
    Fixed,
    /// The fixed one and those of all seeds that the file asks for.
    All,
}

/// A device, as its driver presents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Whether it is the software GPU.
    pub software: bool,
}

/// How one file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// It says nothing about this device.
    Skipped,
    /// Otherwise, and how.
    Failed(String),
}

/// The child's side: if this process is to run one test file, runs it and says how it ended.
#[must_use]
pub fn child_main() -> Option<ExitCode> {
    let library = std::env::var(LIBRARY).unwrap_or_else(|_| "libcuda.so.1".into());
    let ended = if std::env::var_os(PROBE).is_some() {
        present(&library)
    } else {
        child(Path::new(&std::env::var_os(CHILD)?), &library)
    };
    Some(ended.unwrap_or_else(|why| {
        eprintln!("{why}");
        ExitCode::FAILURE
    }))
}

fn child(path: &Path, library: &str) -> Result<ExitCode, String> {
    let bless = std::env::var(BLESS).is_ok_and(|v| v != "0");
    let extras = Extras {
        bless: if bless { Bless::Yes } else { Bless::No },
        record: std::env::var_os(RECORD).map(PathBuf::from),
    };
    let file = TestFile::read(path)?;
    let driver = Driver::open(library)?;
    if file.only_softgpu && driver.last_fault().is_none() {
        return Ok(ExitCode::from(SKIPPED));
    }
    run(&driver, &file, &extras)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what [`probe`] wants to know.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn present(library: &str) -> Result<ExitCode, String> {
    let driver = Driver::open(library)?;
    let started = driver.start(0).and_then(|()| driver.name());
    let name = started.map_err(|code| driver.error_name(code))?;
    let kind = driver.last_fault().map_or("hardware", |_| "software");
    println!("{kind} {name}");
    Ok(ExitCode::SUCCESS)
}

/// The device that a driver library offers.
///
/// # Errors
///
/// Why there is none.
pub fn probe(library: &str) -> Result<Device, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(this);
    let output = command.env(PROBE, "1").env(LIBRARY, library).output();
    let output = output.map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (kind, name) = match text(&output.stdout).split_once(' ') {
        Some((kind, name)) if output.status.success() => (kind.to_owned(), name.to_owned()),
        _ => return Err(text(&output.stderr)),
    };
    let software = kind == "software";
    Ok(Device { name, software })
}

/// Runs a file under the fixed schedule and under all seeds that it asks for.
#[must_use]
pub fn run_isolated(file: &TestFile, settings: &Settings) -> Outcome {
    let given = std::env::var(SEED).ok();
    let count = match settings.seeds {
        Seeds::Fixed => 0,
        Seeds::All => file.seeds,
    };
    let seeds = (0..count).map(|seed| Some(seed.to_string()));
    for seed in std::iter::once(given).chain(seeds) {
        match run_once(file, settings, seed.as_deref()) {
            Ok(Outcome::Passed) => {}
            Ok(other) => return other,
            Err(why) => {
                let seed = seed.map_or(String::new(), |s| format!("{SEED}={s}: "));
                return Outcome::Failed(format!("{seed}{why}"));
            }
        }
    }
    Outcome::Passed
}

fn run_once(file: &TestFile, settings: &Settings, seed: Option<&str>) -> Result<Outcome, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(this);
    command
        .env(CHILD, &file.path)
        .env(LIBRARY, &settings.library)
        .envs(file.environment.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match seed {
        // Only the fixed schedule blesses.
        Some(seed) => command.env(SEED, seed).env_remove(BLESS),
        None => command.env_remove(SEED),
    };
    if let (Some(folder), Some(stem)) = (&settings.coverage, file.path.file_stem()) {
        command.env(COVERAGE, folder.join(stem));
    }
    if let Some(path) = &settings.record {
        command.env(RECORD, path);
    }
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, settings.limit);
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Err(why) => return Err(format!("{why}\n{stderr}")),
        Ok(status) if status.code() == Some(SKIPPED.into()) => return Ok(Outcome::Skipped),
        Ok(status) if !status.success() => return Err(format!("{status}\n{stderr}")),
        Ok(_) => {}
    }
    let wanted = file.stdout.as_deref().unwrap_or_default();
    if stdout == wanted {
        Ok(Outcome::Passed)
    } else {
        Err(format!("prints {stdout:?}, expected {wanted:?}"))
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What cannot be read is missing in the comparison.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Err(error) => return Err(error.to_string()),
            Ok(None) if start.elapsed() > limit => {
                // It may have ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no end within {limit:?}"));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
