//! Ranks as processes: the test program again, with one of its ignored tests as the body of a rank.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// What the ranks' processes prove to each other.
pub(crate) const SECRET: &str = "sixteen bytes or more";

/// A port that was free a moment ago.
pub(crate) fn port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// One rank in a process of its own; killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Runs the ignored test `body`, which finds its place in the environment and `value` in `variable`.
    pub(crate) fn start(
        body: &str,
        [variable, value]: [&str; 2],
        [rank, ranks]: [u32; 2],
        port: u16,
    ) -> Self {
        Self::start_with(body, &[[variable, value]], [rank, ranks], port)
    }

    /// The same with several variables.
    pub(crate) fn start_with(
        body: &str,
        variables: &[[&str; 2]],
        [rank, ranks]: [u32; 2],
        port: u16,
    ) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([body, "--exact", "--ignored", "--nocapture"])
            .envs(variables.iter().map(|[name, value]| (name, value)))
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", ranks.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env("HADAL_SECRET", SECRET)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// Ends with success, or its output is the panic's message.
    pub(crate) fn finish(mut self) {
        let mut text = String::new();
        let mut output = self.0.stdout.take().unwrap();
        output.read_to_string(&mut text).unwrap();
        let mut errors = self.0.stderr.take().unwrap();
        errors.read_to_string(&mut text).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success() && text.contains("1 passed"), "{text}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
