//! The expected failures: the tables of `docs/softgpu-clients.md`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::root;

const FILE: &str = "docs/softgpu-clients.md";

/// What the document lists: suite and test.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected(Vec<(String, String)>);

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
            rows.push((suite.to_owned(), test.to_owned()));
        }
        Ok(Self(rows))
    }

    /// The tests of `suite`.
    pub(super) fn of(&self, suite: &str) -> BTreeSet<&str> {
        let rows = self.0.iter().filter(|(of, _)| of == suite);
        rows.map(|(_, test)| test.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Expected;

    #[test]
    fn rows_are_read_and_need_a_reason() {
        let text = "# A\n\n| suite | test | reason |\n|---|---|---|\n| numba | `a.b` | none |\n";
        let expected = Expected::parse(text).unwrap();
        assert!(expected.of("numba").contains("a.b"));
        assert!(expected.of("triton").is_empty());
        assert!(Expected::parse("| numba | `a.b` |  |").is_err());
    }

    #[test]
    fn the_document_can_be_read() {
        Expected::read().unwrap();
    }
}
