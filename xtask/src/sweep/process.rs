//! A process with a time limit, whose output goes to a file.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const POLL: Duration = Duration::from_millis(50);

/// Runs `command` with its output in `log`; how it ended, unless that was success.
pub(super) fn limited(
    command: &mut Command,
    limit: Duration,
    log: &Path,
) -> Result<Option<String>> {
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| status.to_string()));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("no end after {} s", limit.as_secs())));
        }
        std::thread::sleep(POLL);
    }
}
