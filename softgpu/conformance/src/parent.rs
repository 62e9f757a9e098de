//! Runs test files in processes of their own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::file::TestFile;
use crate::run::{Bless, run};

/// Names the file that a child process runs.
const CHILD: &str = "SOFTGPU_ISA_CHILD";
/// Names the driver library.
const LIBRARY: &str = "SOFTGPU_ISA_LIBRARY";
/// Asks for expected values to be rewritten.
const BLESS: &str = "SOFTGPU_BLESS";
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
}

/// How one file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Otherwise, and how.
    Failed(String),
}

/// The child's side: if this process is to run one test file, runs it and says how it ended.
#[must_use]
pub fn child_main() -> Option<ExitCode> {
    let path = std::env::var_os(CHILD)?;
    let library = std::env::var(LIBRARY).unwrap_or_else(|_| "libcuda.so.1".into());
    let bless = std::env::var(BLESS).is_ok_and(|v| v != "0");
    let bless = if bless { Bless::Yes } else { Bless::No };
    let ended = TestFile::read(Path::new(&path)).and_then(|file| {
        let driver = Driver::open(&library)?;
        run(&driver, &file, bless)
    });
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    })
}

/// Runs a file under the fixed schedule and under all seeds that it asks for.
#[must_use]
pub fn run_isolated(file: &TestFile, settings: &Settings) -> Outcome {
    let given = std::env::var(SEED).ok();
    let seeds = (0..file.seeds).map(|seed| Some(seed.to_string()));
    for seed in std::iter::once(given).chain(seeds) {
        if let Err(why) = run_once(file, settings, seed.as_deref()) {
            let seed = seed.map_or(String::new(), |s| format!("{SEED}={s}: "));
            return Outcome::Failed(format!("{seed}{why}"));
        }
    }
    Outcome::Passed
}

fn run_once(file: &TestFile, settings: &Settings, seed: Option<&str>) -> Result<(), String> {
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
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, settings.limit);
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Err(why) => return Err(format!("{why}\n{stderr}")),
        Ok(status) if !status.success() => return Err(format!("{status}\n{stderr}")),
        Ok(_) => {}
    }
    let wanted = file.stdout.as_deref().unwrap_or_default();
    if stdout == wanted {
        Ok(())
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
