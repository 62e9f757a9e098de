//! The expected failures: the tables of `docs/softgpu-clients.md`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::root;

const FILE: &str = "docs/softgpu-clients.md";

/// A reason that begins so is one of wall time: the test may pass as well.
const TIMING: &str = "Timing:";

/// What the document lists: suite, test, and whether it may pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected(Vec<(String, String, bool)>);

impl Expected {
    pub(super) fn read() -> Result<Self> {
        let text = std::fs::read_to_string(root().join(FILE))
            .with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(&text)
    }

    /// Reads rows of the form "| suite | `test` | reason |".
    fn parse(text: &str) -> Result<Self> {
        let mut rows = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('|')) {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [suite, test, reason] = cells[..] else {
                bail!("{FILE}: `{line}` has not three cells");
            };
            let Some(test) = test.strip_prefix('`').and_then(|t| t.strip_suffix('`')) else {
                continue;
            };
            if reason.is_empty() {
                bail!("{FILE}: {test} is listed without a reason");
            }
            rows.push((
                suite.to_owned(),
                test.to_owned(),
                reason.starts_with(TIMING),
            ));
        }
        Ok(Self(rows))
    }

    /// The tests of `suite`, and whether they may pass.
    pub(super) fn of(&self, suite: &str) -> BTreeMap<&str, bool> {
        let rows = self.0.iter().filter(|(of, ..)| of == suite);
        rows.map(|(_, test, may_pass)| (test.as_str(), *may_pass))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Expected;

    #[test]
    fn rows_are_read_and_need_a_reason() {
        let text = "# A\n\n| suite | test | reason |\n|---|---|---|\n| numba | `a.b` | none |\n";
        let expected = Expected::parse(text).unwrap();
        assert!(!expected.of("numba")["a.b"]);
        assert!(expected.of("triton").is_empty());
        assert!(Expected::parse("| numba | `a.b` |  |").is_err());
    }

    #[test]
    fn the_document_can_be_read() {
        Expected::read().unwrap();
    }
}
