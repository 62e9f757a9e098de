//! Outcomes of tests, and their comparison with what is expected.

use std::collections::{BTreeMap, BTreeSet};

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

/// The outcomes of a suite by the test's name.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    tests: BTreeMap<String, Outcome>,
}

impl Outcomes {
    pub(super) fn len(&self) -> usize {
        self.tests.len()
    }

    /// Sets the outcome of a test; a failure stays.
    pub(super) fn set(&mut self, test: &str, outcome: Outcome) {
        let entry = self.tests.entry(test.to_owned()).or_insert(Outcome::Passed);
        if !matches!(entry, Outcome::Failed(_)) {
            *entry = outcome;
        }
    }

    /// Adds what a process wrote: lines `plan`, `pass`, `skip` or `fail`, a name and a reason,
    /// divided by tabs. A test that was planned and has no outcome failed because of `end`.
    pub(super) fn record(&mut self, text: &str, end: &str) -> usize {
        let mut open = BTreeSet::new();
        let mut failures = 0;
        for line in text.lines() {
            let mut fields = line.splitn(3, '\t');
            let (Some(kind), Some(test)) = (fields.next(), fields.next()) else {
                continue;
            };
            if kind == "plan" {
                open.insert(test);
                continue;
            }
            open.remove(test);
            let outcome = match kind {
                "pass" => Outcome::Passed,
                "skip" => Outcome::Skipped,
                _ => Outcome::Failed(fields.next().unwrap_or_default().to_owned()),
            };
            failures += usize::from(matches!(outcome, Outcome::Failed(_)));
            self.set(test, outcome);
        }
        failures += open.len();
        for test in open {
            self.set(test, Outcome::Failed(format!("did not end: {end}")));
        }
        failures
    }
}

/// A suite's outcomes against the list.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) passed: usize,
    skipped: usize,
    /// Failed as the list says.
    pub(super) listed: Vec<String>,
    /// Failed though not listed, with why.
    unexpected: Vec<(String, String)>,
    /// Listed, but it passes, or there is no such test.
    stale: Vec<String>,
}

impl Verdict {
    /// Without a restriction to `only` some tests, a listed test without outcome is gone.
    pub(super) fn new(
        outcomes: &Outcomes,
        listed: &BTreeMap<&str, bool>,
        only: Option<&str>,
    ) -> Self {
        let mut verdict = Self {
            passed: 0,
            skipped: 0,
            listed: Vec::new(),
            unexpected: Vec::new(),
            stale: Vec::new(),
        };
        for (test, outcome) in &outcomes.tests {
            let may_pass = listed.get(test.as_str());
            match outcome {
                Outcome::Passed => verdict.passed += 1,
                Outcome::Skipped => verdict.skipped += 1,
                Outcome::Failed(_) if may_pass.is_some() => verdict.listed.push(test.clone()),
                Outcome::Failed(why) => verdict.unexpected.push((test.clone(), why.clone())),
            }
            if may_pass == Some(&false) && *outcome == Outcome::Passed {
                verdict.stale.push(test.clone());
            }
        }
        let all = listed.keys().copied();
        let gone = all.filter(|&test| !outcomes.tests.contains_key(test));
        if only.is_none() {
            verdict.stale.extend(gone.map(str::to_owned));
        }
        verdict
    }

    /// Tests that were not skipped.
    pub(super) fn ran(&self) -> usize {
        self.passed + self.listed.len() + self.unexpected.len()
    }

    /// What speaks against the suite.
    pub(super) fn failed(&self) -> usize {
        self.unexpected.len() + self.stale.len()
    }

    #[expect(clippy::print_stdout, reason = "prints its results")]
    pub(super) fn print(&self, suite: &str, seconds: u64) {
        for (test, why) in &self.unexpected {
            println!("{suite}: FAILED {test}: {why}");
        }
        for test in &self.stale {
            println!("{suite}: LISTED, but it passes or does not exist: {test}");
        }
        println!(
            "{suite}: {} passed, {} failed, {} failed as listed, {} skipped in {seconds} s",
            self.passed,
            self.failed(),
            self.listed.len(),
            self.skipped
        );
    }

    pub(super) fn json(&self, suite: &str, seconds: u64) -> String {
        format!(
            "{{\"suite\":\"{suite}\",\"passed\":{},\"failed\":{},\"listed\":{},\"skipped\":{},\
             \"seconds\":{seconds}}}",
            self.passed,
            self.failed(),
            self.listed.len(),
            self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_without_end_failed() {
        let mut outcomes = Outcomes::default();
        let text = "plan\ta\nplan\tb\nplan\tc\npass\ta\nfail\tc\twhy\npass\tc\n";
        assert_eq!(outcomes.record(text, "signal 11"), 2);
        assert_eq!(outcomes.tests["a"], Outcome::Passed);
        assert_eq!(
            outcomes.tests["b"],
            Outcome::Failed("did not end: signal 11".into())
        );
        assert_eq!(outcomes.tests["c"], Outcome::Failed("why".into()));
    }

    #[test]
    fn the_list_is_exact() {
        let mut outcomes = Outcomes::default();
        outcomes.record("pass\ta\nfail\tb\tx\nfail\tc\ty\nskip\td\n", "");
        let listed = BTreeMap::from([("a", false), ("b", false), ("e", false)]);
        let verdict = Verdict::new(&outcomes, &listed, None);
        assert_eq!((verdict.passed, verdict.skipped, verdict.ran()), (1, 1, 3));
        assert_eq!(verdict.listed, ["b"]);
        assert_eq!(verdict.unexpected, [("c".to_owned(), "y".to_owned())]);
        assert_eq!(verdict.stale, ["a", "e"]);
        assert_eq!(verdict.failed(), 3);
        assert_eq!(Verdict::new(&outcomes, &listed, Some("a")).stale, ["a"]);
    }
}
