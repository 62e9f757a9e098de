//! The grammar of faults. The module above documents it.

use super::{Effect, Fault, Moment, Rule, What, When};

/// Devices and bits are small numbers.
const BITS: u64 = 128;

/// Parses faults separated by `;`. Empty ones are skipped.
///
/// # Errors
/// A text that names the fault and what is wrong with it.
pub(super) fn faults(spec: &str, devices: u32) -> Result<Vec<Fault>, String> {
    let texts = spec
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    texts
        .map(|text| fault(text, devices).map_err(|why| format!("fault {text:?}: {why}")))
        .collect()
}

fn fault(text: &str, devices: u32) -> Result<Fault, String> {
    let mut words = text.split_whitespace();
    let action = words.next().unwrap_or_default();
    let subject = match action {
        "kill" => "",
        _ => words.next().unwrap_or_default(),
    };
    let mut options = Options::default();
    for word in words {
        options.add(word)?;
    }
    let what = match action {
        "stop" => What::Stop(device(subject, devices)?),
        "kill" => What::Kill,
        "flip" => What::Flip {
            address: number(subject)?,
            bit: options.bit.take().unwrap_or(0),
        },
        "drop" => options.rule(subject, devices, Effect::Drop)?,
        "delay" => {
            let ns = options.ns.take().ok_or("it needs ns=TIME")?;
            options.rule(subject, devices, Effect::Delay { ns })?
        }
        "corrupt" => {
            let bit = options.bit.take().unwrap_or(0);
            options.n.get_or_insert(1);
            options.rule(subject, devices, Effect::Corrupt { bit })?
        }
        _ => {
            return Err(format!(
                "expected stop, kill, drop, delay, corrupt or flip, found {action:?}"
            ));
        }
    };
    let when = options.when.take();
    options.all_used()?;
    if what == What::Kill && when.is_none() {
        return Err("it needs @phase=NAME or @launch=NAME".to_owned());
    }
    Ok(Fault {
        what,
        when,
        text: text.to_owned(),
        told: false,
    })
}

/// The words after an action and its subject.
#[derive(Debug, Default)]
struct Options {
    n: Option<u64>,
    skip: Option<u64>,
    bit: Option<u32>,
    ns: Option<u64>,
    when: Option<When>,
}

impl Options {
    fn add(&mut self, word: &str) -> Result<(), String> {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("expected NAME=VALUE, found {word:?}"))?;
        let twice = match name {
            "n" => self.n.replace(number(value)?).is_some(),
            "skip" => self.skip.replace(number(value)?).is_some(),
            "ns" => self.ns.replace(number(value)?).is_some(),
            "bit" => {
                let bit = number(value)?;
                let bit = u32::try_from(bit).ok().filter(|_| bit < BITS);
                let bit = bit.ok_or_else(|| format!("{word:?}: bits go from 0 to 127"))?;
                self.bit.replace(bit).is_some()
            }
            "@phase" => self.when.replace(when(Moment::Phase, value)?).is_some(),
            "@launch" => self.when.replace(when(Moment::Launch, value)?).is_some(),
            _ => return Err(format!("{word:?}: there is no option {name:?}")),
        };
        if twice {
            return Err(format!("{word:?}: a second value of one kind"));
        }
        Ok(())
    }

    fn rule(&mut self, subject: &str, devices: u32, effect: Effect) -> Result<What, String> {
        let pair = subject.split_once("->");
        let (from, to) =
            pair.ok_or_else(|| format!("expected FROM->TO (devices or *), found {subject:?}"))?;
        let side = |text: &str| match text {
            "*" => Ok(None),
            _ => device(text, devices).map(Some),
        };
        let (from, to) = (side(from)?, side(to)?);
        if from.is_some() && from == to {
            return Err(format!("{subject:?}: a device is no peer of its own"));
        }
        Ok(What::Stores(Rule {
            from,
            to,
            effect,
            skip: self.skip.take().unwrap_or(0),
            most: self.n.take(),
        }))
    }

    /// Whether all options have been taken by somebody.
    fn all_used(&self) -> Result<(), String> {
        let left = [
            ("n", self.n.is_some()),
            ("skip", self.skip.is_some()),
            ("bit", self.bit.is_some()),
            ("ns", self.ns.is_some()),
        ];
        match left.iter().find(|(_, left)| *left) {
            Some((name, _)) => Err(format!("the option {name:?} means nothing to it")),
            None => Ok(()),
        }
    }
}

/// `NAME` or `NAME#N`.
fn when(moment: Moment, text: &str) -> Result<When, String> {
    let (name, nth) = match text.rsplit_once('#') {
        Some((name, nth)) => (name, number(nth)?),
        None => (text, 1),
    };
    if name.is_empty() || nth == 0 {
        return Err(format!(
            "expected NAME or NAME#N with N from 1, found {text:?}"
        ));
    }
    Ok(When {
        moment,
        name: name.to_owned(),
        left: nth,
    })
}

fn device(text: &str, devices: u32) -> Result<u32, String> {
    let device = text.parse().ok().filter(|&device| device < devices);
    device.ok_or_else(|| format!("expected a device below {devices}, found {text:?}"))
}

/// A decimal or hexadecimal number.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("expected a number, found {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::faults;
    use crate::exec::inject::{Effect, Moment, Rule, What, When};

    #[test]
    fn every_fault_and_option_is_understood() {
        let spec = "stop 3 @phase=a#2;; drop 0->* n=3 skip=0x10; delay *->1 ns=500;\
            corrupt 2->1 bit=7; flip 0x1000 bit=3; kill @launch=ring ;";
        let found = faults(spec, 4).unwrap();
        let whats: Vec<_> = found.iter().map(|fault| fault.what.clone()).collect();
        let rule = |from, to, effect, skip, most| {
            What::Stores(Rule {
                from,
                to,
                effect,
                skip,
                most,
            })
        };
        let expected = [
            What::Stop(3),
            rule(Some(0), None, Effect::Drop, 16, Some(3)),
            rule(None, Some(1), Effect::Delay { ns: 500 }, 0, None),
            rule(Some(2), Some(1), Effect::Corrupt { bit: 7 }, 0, Some(1)),
            What::Flip {
                address: 0x1000,
                bit: 3,
            },
            What::Kill,
        ];
        assert_eq!(whats, expected);
        let when = |moment, name: &str, left| {
            Some(When {
                moment,
                name: name.to_owned(),
                left,
            })
        };
        assert_eq!(found[0].when, when(Moment::Phase, "a", 2));
        assert_eq!(found[5].when, when(Moment::Launch, "ring", 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            ("stop", "expected a device below 4, found \"\""),
            ("stop 4", "expected a device below 4"),
            ("halt 1", "expected stop, kill, drop"),
            ("drop 0-1", "expected FROM->TO"),
            ("drop 1->1", "no peer of its own"),
            ("drop 0->1 ns=5", "option \"ns\" means nothing"),
            ("drop 0->1 n=1 n=2", "a second value"),
            ("drop 0->1 count=1", "no option \"count\""),
            ("drop 0->1 fast", "expected NAME=VALUE"),
            ("delay 0->1", "needs ns=TIME"),
            ("delay 0->1 ns=-1", "expected a number, found \"-1\""),
            ("corrupt 0->1 bit=128", "bits go from 0 to 127"),
            ("flip x", "expected a number, found \"x\""),
            ("kill", "needs @phase=NAME"),
            ("kill @phase=", "expected NAME or NAME#N"),
            ("kill @launch=a#0", "N from 1"),
        ];
        for (spec, expected) in wrong {
            let found = faults(spec, 4).unwrap_err();
            assert!(found.contains(expected), "{spec}: {found}");
            assert!(found.contains(&format!("{spec:?}")), "{spec}: {found}");
        }
    }
}
