//! Runs one test file in this process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::bless;
use crate::compare::first_mismatch;
use crate::driver::{Attribute, Code, Config, Driver, TensorMap};
use crate::file::{Argument, Buffer, Ending, Launch, Place, TestFile};

/// Guard bytes on either side of a buffer.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xDB;
/// What a buffer without initial content holds.
const UNWRITTEN: u8 = 0xCD;

/// Whether expected values are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bless {
    No,
    Yes,
}

/// What a run does beyond comparing.
#[derive(Debug, Clone)]
pub(crate) struct Extras {
    pub(crate) bless: Bless,
    /// Where recorded buffers go: a line of name and bytes in hexadecimal for each.
    pub(crate) record: Option<PathBuf>,
}

struct Machine<'a> {
    driver: &'a Driver,
    file: &'a TestFile,
    /// Address of each buffer's first element.
    addresses: Vec<u64>,
    maps: Vec<TensorMap>,
    streams: BTreeMap<usize, u64>,
}

/// How the launches ended.
enum End {
    Done,
    Refused(Code, String),
    Fault(Code, String),
}

/// Runs `file`; the text of what went wrong.
pub(crate) fn run(driver: &Driver, file: &TestFile, extras: &Extras) -> Result<(), String> {
    driver
        .start(0)
        .map_err(|code| format!("no device: {}", driver.error_name(code)))?;
    let module = match driver.module(&file.text) {
        Ok(module) => module,
        Err((code, log)) => return ended(driver, file, End::Refused(code, log)),
    };
    let mut machine = Machine {
        driver,
        file,
        addresses: Vec::new(),
        maps: Vec::new(),
        streams: BTreeMap::from([(0, 0)]),
    };
    machine.set_up(module)?;
    match machine.launch_all(module)? {
        End::Done if file.ending == Ending::Results => {
            if let Some(path) = &extras.record {
                machine.record(path)?;
            }
            machine.check(extras.bless)
        }
        end => ended(driver, file, end),
    }
}

/// Whether the run ended as it should, where it should not end with results.
fn ended(driver: &Driver, file: &TestFile, end: End) -> Result<(), String> {
    let ours = driver.last_fault().is_some();
    let has = |log: &str, text: &str| !ours || log.contains(text);
    let (what, code, log) = match &end {
        End::Done => return Err(format!("ends well, expected {:?}", file.ending)),
        End::Refused(code, log) => ("is refused", *code, log),
        End::Fault(code, log) => ("faults", *code, log),
    };
    let name = driver.error_name(code);
    let right = match (&file.ending, &end) {
        (Ending::Refused { text }, End::Refused(..)) => has(log, text),
        (Ending::Unsupported { text }, _) => log.contains("unsupported") && has(log, text),
        (Ending::Fault { code, text }, End::Fault(..)) => *code == name && has(log, text),
        _ => false,
    };
    if right {
        Ok(())
    } else {
        Err(format!(
            "{what} with {name}: {log}; expected {:?}",
            file.ending
        ))
    }
}

impl Machine<'_> {
    fn said<T>(&self, what: &str, result: Result<T, Code>) -> Result<T, String> {
        result.map_err(|code| {
            let why = self.driver.last_fault().unwrap_or_default();
            format!("{what}: {}: {why}", self.driver.error_name(code))
        })
    }

    fn set_up(&mut self, module: u64) -> Result<(), String> {
        for buffer in &self.file.buffers {
            let address = self.place(module, buffer)?;
            self.addresses.push(address);
        }
        for map in &self.file.maps {
            let address = self.addresses[map.buffer] + map.offset;
            let encoded = self.driver.encode(map, address);
            self.maps
                .push(self.said(&format!("tensor map `{}`", map.name), encoded)?);
        }
        Ok(())
    }

    /// Allocates and fills a buffer.
    fn place(&self, module: u64, buffer: &Buffer) -> Result<u64, String> {
        let what = format!("buffer `{}`", buffer.name);
        let bytes = buffer.count * buffer.ty.bytes();
        let unwritten = || vec![UNWRITTEN; bytes];
        let initial = buffer.initial.as_ref().map(|list| buffer.ty.join(list));
        let address = match buffer.place {
            Place::Global => {
                let found = self.driver.variable(module, &buffer.name);
                let (address, size) = self.said(&what, found)?;
                if size != bytes {
                    return Err(format!("{what} has {size} bytes, not {bytes}"));
                }
                let Some(initial) = initial else {
                    return Ok(address);
                };
                self.said(&what, self.driver.write(address, &initial))?;
                return Ok(address);
            }
            Place::Exact => self.said(&what, self.driver.allocate(bytes))?,
            Place::Guarded => {
                let all = self.driver.allocate(bytes + 2 * GUARD);
                let all = self.said(&what, all)?;
                let guard = vec![GUARD_BYTE; bytes + 2 * GUARD];
                self.said(&what, self.driver.write(all, &guard))?;
                all + GUARD as u64
            }
        };
        let content = initial.unwrap_or_else(unwritten);
        self.said(&what, self.driver.write(address, &content))?;
        Ok(address)
    }

    fn launch_all(&mut self, module: u64) -> Result<End, String> {
        for launch in &self.file.launches {
            let stream = self.stream(launch.stream)?;
            if let Err(code) = self.launch(module, launch, stream)? {
                let why = self.driver.last_fault().unwrap_or_default();
                return Ok(End::Fault(code, why));
            }
        }
        if let Err(code) = self.driver.synchronize() {
            let why = self.driver.last_fault().unwrap_or_default();
            return Ok(End::Fault(code, why));
        }
        Ok(End::Done)
    }

    fn stream(&mut self, number: usize) -> Result<u64, String> {
        if let Some(&stream) = self.streams.get(&number) {
            return Ok(stream);
        }
        let stream = self.said("stream", self.driver.stream())?;
        self.streams.insert(number, stream);
        Ok(stream)
    }

    fn launch(
        &self,
        module: u64,
        launch: &Launch,
        stream: u64,
    ) -> Result<Result<(), Code>, String> {
        const MAX_DYNAMIC_SHARED: i32 = 8;
        const NON_PORTABLE_CLUSTER: i32 = 14;
        let name = &launch.kernel;
        let function = self.said(name, self.driver.function(module, name))?;
        let set = |id, value| self.said(name, self.driver.set_attribute(function, id, value));
        if launch.shared > 0 {
            set(MAX_DYNAMIC_SHARED, launch.shared.cast_signed())?;
        }
        let mut attributes = Vec::new();
        if let Some(shape) = launch.cluster {
            set(NON_PORTABLE_CLUSTER, 1)?;
            attributes.push(Attribute::cluster(shape));
        }
        if launch.cooperative {
            attributes.push(Attribute::cooperative());
        }
        if launch.pdl {
            attributes.push(Attribute::programmatic());
        }
        let parameters = launch.arguments.iter().map(|a| self.argument(a));
        let parameters = parameters.collect::<Result<Vec<_>, String>>()?;
        let sizes: Vec<usize> = parameters.iter().map(Vec::len).collect();
        let declared = self.driver.parameter_sizes(function);
        if sizes != declared {
            return Err(format!(
                "`{name}` has parameters of {declared:?} bytes, the launch gives {sizes:?}"
            ));
        }
        let config = Config::new([launch.grid, launch.block], launch.shared, stream);
        Ok(self
            .driver
            .launch(function, config, &attributes, &parameters))
    }

    fn argument(&self, argument: &Argument) -> Result<Vec<u8>, String> {
        Ok(match argument {
            Argument::Address(buffer, offset) => {
                (self.addresses[*buffer] + offset).to_le_bytes().to_vec()
            }
            Argument::Map(map) => self.maps[*map].0.to_vec(),
            Argument::MapAddress(map) => {
                let address = self.said("tensor map", self.driver.allocate(128))?;
                let written = self.driver.write(address, &self.maps[*map].0);
                self.said("tensor map", written)?;
                address.to_le_bytes().to_vec()
            }
            Argument::Bytes(bytes) => bytes.clone(),
        })
    }

    fn elements(&self, index: usize) -> Result<Vec<u64>, String> {
        let buffer = &self.file.buffers[index];
        let bytes = buffer.count * buffer.ty.bytes();
        let read = self.driver.read(self.addresses[index], bytes);
        Ok(buffer.ty.split(&self.said(&buffer.name, read)?))
    }

    /// Writes the recorded buffers to a file.
    fn record(&self, path: &Path) -> Result<(), String> {
        let mut text = String::new();
        for &index in &self.file.records {
            let buffer = &self.file.buffers[index];
            text.push_str(&buffer.name);
            text.push(' ');
            for byte in buffer.ty.join(&self.elements(index)?) {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Compares all buffers and guards.
    fn check(&self, bless: Bless) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (i, buffer) in self.file.buffers.iter().enumerate() {
            if buffer.place == Place::Guarded {
                wrong.extend(self.guard(i, buffer)?);
            }
            let expected = self.file.expectations.iter().any(|e| e.buffer == i);
            if let (false, Some(initial)) = (expected, &buffer.initial) {
                let found = self.elements(i)?;
                let at = found.iter().zip(initial).position(|(a, b)| a != b);
                wrong.extend(at.map(|at| {
                    let (now, old) = (buffer.ty.show(found[at]), buffer.ty.show(initial[at]));
                    format!("{}[{at}] became {now}, was {old}", buffer.name)
                }));
            }
        }
        let mut stale = Vec::new();
        for expectation in &self.file.expectations {
            let found = self.elements(expectation.buffer)?;
            let buffer = &self.file.buffers[expectation.buffer];
            let yet_to_bless = bless == Bless::Yes && expectation.is_empty();
            let mismatch = first_mismatch(buffer, expectation, &found);
            if mismatch.is_some() && bless == Bless::No {
                wrong.extend(mismatch);
            } else if mismatch.is_some() || yet_to_bless {
                stale.push((expectation, found));
            }
        }
        if !stale.is_empty() {
            bless::rewrite(self.file, &stale)?;
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }

    /// The first guard byte that changed.
    fn guard(&self, index: usize, buffer: &Buffer) -> Result<Option<String>, String> {
        let bytes = buffer.count * buffer.ty.bytes();
        let all = self
            .driver
            .read(self.addresses[index] - GUARD as u64, bytes + 2 * GUARD);
        let all = self.said(&buffer.name, all)?;
        let outside = |at: &usize| *at < GUARD || *at >= GUARD + bytes;
        let changed = (0..all.len())
            .filter(outside)
            .find(|&at| all[at] != GUARD_BYTE);
        Ok(changed.map(|at| {
            let (offset, byte) = (at as i128 - GUARD as i128, all[at]);
            format!(
                "{}: byte {offset} outside of it became {byte:#04x}",
                buffer.name
            )
        }))
    }
}
