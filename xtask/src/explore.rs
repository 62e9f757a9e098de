//! `explore`: runs a command under one seed after the other and stops at the first failure.
//!
//! The command runs in the caller's folder with `SOFTGPU_SEED` set, and fails when it exits with
//! anything but success, is ended by a signal, or takes longer than the time limit. The software
//! GPU replays a seed, so the line that is printed then shows the failure again.

use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

const USAGE: &str =
    "usage: cargo xtask explore [--seeds N] [--from N] [--timeout SECONDS] -- COMMAND…";
const POLL: Duration = Duration::from_millis(5);

/// Arguments of `explore`. The numbers may also stand behind the command.
#[derive(Args)]
pub(crate) struct Explore {
    /// How many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long)]
    from: Option<u64>,
    /// Seconds after which a run counts as failed
    #[arg(long)]
    timeout: Option<u64>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What to run, once the arguments have been sorted.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    first: u64,
    count: u64,
    limit: Duration,
    command: Vec<String>,
}

impl Plan {
    /// Takes the options that stand at the end of the command.
    fn new(explore: &Explore) -> Result<Self> {
        let (mut seeds, mut from, mut timeout) = (explore.seeds, explore.from, explore.timeout);
        let mut command = explore.command.clone();
        while let [.., name, value] = &command[..] {
            let slot = match name.as_str() {
                "--seeds" => &mut seeds,
                "--from" => &mut from,
                "--timeout" => &mut timeout,
                _ => break,
            };
            let Ok(number) = value.parse() else { break };
            // An option before the dashes is explore's, so the same one behind is the command's.
            if slot.is_some() {
                break;
            }
            *slot = Some(number);
            command.truncate(command.len() - 2);
        }
        if command.is_empty() {
            bail!("{USAGE}");
        }
        Ok(Self {
            first: from.unwrap_or(0),
            count: seeds.unwrap_or(100),
            limit: Duration::from_secs(timeout.unwrap_or(600)),
            command,
        })
    }

    /// The line that runs the command under a seed, for a shell.
    fn replay(&self, seed: u64) -> String {
        let words: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        format!("SOFTGPU_SEED={seed} {}", words.join(" "))
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs the command under each seed.
#[expect(clippy::print_stdout, reason = "the outcome is the command's result")]
pub(crate) fn run(explore: &Explore) -> Result<ExitCode> {
    let plan = Plan::new(explore)?;
    for seed in plan.first..plan.first.saturating_add(plan.count) {
        let why = match attempt(&plan, seed)? {
            Some(status) if status.success() => continue,
            Some(status) => status.to_string(),
            None => format!("no end after {} s", plan.limit.as_secs()),
        };
        println!("seed {seed} fails ({why}); to replay it:");
        println!("{}", plan.replay(seed));
        return Ok(ExitCode::FAILURE);
    }
    println!("{} seeds passed", plan.count);
    Ok(ExitCode::SUCCESS)
}

/// One run; `None` if it took too long.
fn attempt(plan: &Plan, seed: u64) -> Result<Option<ExitStatus>> {
    let mut child = Command::new(&plan.command[0])
        .args(&plan.command[1..])
        .env("SOFTGPU_SEED", seed.to_string())
        .spawn()
        .with_context(|| format!("cannot start {:?}", plan.command[0]))?;
    wait(&mut child, plan.limit)
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill().context("cannot end the command")?;
            child.wait().context("cannot wait for the command")?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::{Explore, Plan, quoted};

    fn plan(seeds: Option<u64>, command: &[&str]) -> Plan {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Plan::new(&Explore {
            seeds,
            from: None,
            timeout: None,
            command,
        })
        .unwrap()
    }

    #[test]
    fn options_may_stand_behind_the_command() {
        let behind = plan(None, &["prog", "-x", "--from", "5", "--seeds", "3"]);
        assert_eq!((behind.first, behind.count), (5, 3));
        assert_eq!(behind.command, ["prog", "-x"]);
        let before = plan(Some(7), &["prog", "--seeds", "3"]);
        assert_eq!((before.first, before.count), (0, 7));
        assert_eq!(before.command, ["prog", "--seeds", "3"]);
    }

    #[test]
    fn the_replay_line_is_what_a_shell_reads() {
        let plan = plan(None, &["cargo", "test", "it's", "--seeds", "1"]);
        assert_eq!(plan.replay(17), r"SOFTGPU_SEED=17 cargo test 'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
