//! Test files: the directives of one PTX module.

use std::path::{Path, PathBuf};

use crate::syntax::{Wanted, call, dimensions, elements, numbers, split_outside};
use crate::value::Type;

/// Where a buffer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Device memory between guard bytes.
    Guarded,
    /// Device memory of exactly its size.
    Exact,
    /// A variable of the module.
    Global,
}

/// A buffer and what it holds at first.
#[derive(Debug, Clone)]
pub(crate) struct Buffer {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) count: usize,
    pub(crate) place: Place,
    /// `None`: filled with a byte that no test expects (or, for a variable, left alone).
    pub(crate) initial: Option<Vec<u64>>,
}

/// What a buffer holds in the end.
#[derive(Debug, Clone)]
pub(crate) struct Expectation {
    pub(crate) buffer: usize,
    pub(crate) ulps: u64,
    pub(crate) sorted: bool,
    pub(crate) wanted: Vec<Wanted>,
    /// Lines of the file that hold it, for blessing.
    pub(crate) lines: std::ops::Range<usize>,
    /// The text before the colon.
    pub(crate) head: String,
}

impl Expectation {
    /// Whether it says nothing: a place for values to be blessed.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.iter().all(|w| *w == Wanted::Anything)
    }
}

/// One argument of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    /// Address within a buffer.
    Address(usize, u64),
    /// A tensor map by value.
    Map(usize),
    /// Address of a copy of a tensor map in device memory.
    MapAddress(usize),
    Bytes(Vec<u8>),
}

/// A launch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    pub(crate) kernel: String,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) cluster: Option<[u32; 3]>,
    pub(crate) cooperative: bool,
    pub(crate) pdl: bool,
    pub(crate) stream: usize,
}

/// Arguments of `cuTensorMapEncodeTiled`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Map {
    pub(crate) name: String,
    pub(crate) data_type: u32,
    pub(crate) buffer: usize,
    pub(crate) offset: u64,
    pub(crate) dims: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    pub(crate) boxes: Vec<u32>,
    pub(crate) elements: Vec<u32>,
    pub(crate) interleave: u32,
    pub(crate) swizzle: u32,
    pub(crate) l2: u32,
    pub(crate) fill: u32,
}

/// How the run must end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Without a fault, buffers as expected.
    #[default]
    Results,
    /// With this fault.
    Fault { code: String, text: String },
    /// With a refusal to load whose log has this text.
    Refused { text: String },
    /// Refused as not implemented, at load or launch. Says nothing about hardware.
    Unsupported { text: String },
}

/// A parsed test file.
#[derive(Debug, Clone, Default)]
pub struct TestFile {
    /// Its path.
    pub path: PathBuf,
    /// The PTX text, directives included.
    pub(crate) text: String,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) maps: Vec<Map>,
    pub(crate) launches: Vec<Launch>,
    pub(crate) expectations: Vec<Expectation>,
    pub(crate) ending: Ending,
    pub(crate) stdout: Option<String>,
    /// Seeds to run under beyond the fixed schedule.
    pub(crate) seeds: u64,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) only_softgpu: bool,
    /// Buffers whose final content is to be recorded.
    pub(crate) records: Vec<usize>,
}

/// A directive with its continuation lines.
struct Directive {
    text: String,
    lines: std::ops::Range<usize>,
}

fn directives(text: &str) -> Result<Vec<Directive>, String> {
    let mut list: Vec<Directive> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(body) = line.strip_prefix("//@") else {
            continue;
        };
        if let Some(more) = body.strip_prefix('+') {
            let last = list.last_mut().filter(|d| d.lines.end == index);
            let last = last.ok_or(format!("{}: continues nothing", index + 1))?;
            last.text.push(' ');
            last.text.push_str(more.trim());
            last.lines.end = index + 1;
        } else {
            let text = body.trim().to_owned();
            let lines = index..index + 1;
            list.push(Directive { text, lines });
        }
    }
    Ok(list)
}

impl TestFile {
    /// Reads a test file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with path and line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let place = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| place(&e))?;
        Self::parse(path, text).map_err(|e| place(&e))
    }

    fn parse(path: &Path, text: String) -> Result<Self, String> {
        let list = directives(&text)?;
        let path = path.to_owned();
        let mut file = Self {
            path,
            text,
            ..Self::default()
        };
        for directive in &list {
            let line = directive.lines.start + 1;
            file.directive(directive)
                .map_err(|e| format!("{line}: {e}"))?;
        }
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let results = self.ending == Ending::Results;
        if results && self.launches.is_empty() {
            return Err("launches nothing".into());
        }
        for (i, buffer) in self.buffers.iter().enumerate() {
            let expected =
                self.expectations.iter().any(|e| e.buffer == i) || self.records.contains(&i);
            if results && buffer.initial.is_none() && !expected {
                return Err(format!("nothing is expected of `{}`", buffer.name));
            }
        }
        Ok(())
    }

    fn directive(&mut self, directive: &Directive) -> Result<(), String> {
        let text = directive.text.as_str();
        let (word, rest) = text.split_once([' ', ':']).unwrap_or((text, ""));
        let rest = rest.trim();
        match word {
            "buffer" => self.buffer(rest, Place::Guarded),
            "global" => self.buffer(rest, Place::Global),
            "tensormap" => self.map(rest),
            "launch" => self.launch(rest),
            "expect" => self.expect(rest, directive),
            "fault" => {
                let (code, text) = rest.split_once(':').unwrap_or((rest, ""));
                let (code, text) = (code.trim().into(), text.trim().into());
                self.ending = Ending::Fault { code, text };
                Ok(())
            }
            "error" => {
                self.ending = Ending::Refused { text: rest.into() };
                Ok(())
            }
            "unsupported" => {
                self.ending = Ending::Unsupported { text: rest.into() };
                Ok(())
            }
            "stdout" => {
                let all = self.stdout.get_or_insert_default();
                all.push_str(rest);
                all.push('\n');
                Ok(())
            }
            "seeds" => {
                self.seeds = rest.parse().map_err(|_| format!("`{rest}` seeds"))?;
                Ok(())
            }
            "env" => {
                let (name, value) = rest.split_once('=').ok_or("env NAME=VALUE")?;
                self.environment.push((name.into(), value.into()));
                Ok(())
            }
            "record" => {
                self.records.push(self.buffer_named(rest)?);
                Ok(())
            }
            "only" if rest == "softgpu" => {
                self.only_softgpu = true;
                Ok(())
            }
            _ => Err(format!("no directive `{word}`")),
        }
    }

    fn buffer_named(&self, name: &str) -> Result<usize, String> {
        let found = self.buffers.iter().position(|b| b.name == name);
        found.ok_or(format!("no buffer `{name}`"))
    }

    fn contents(&self, name: &str) -> Option<(Type, Vec<u64>)> {
        let buffer = self.buffers.iter().find(|b| b.name == name)?;
        Some((buffer.ty, buffer.initial.clone()?))
    }

    /// `NAME: TYPE[COUNT] [exact] [= ITEMS]`
    fn buffer(&mut self, text: &str, place: Place) -> Result<(), String> {
        let (head, items) = match text.split_once('=') {
            Some((head, items)) => (head, Some(items)),
            None => (text, None),
        };
        let (name, shape) = head.split_once(':').ok_or("buffer NAME: TYPE[COUNT]")?;
        let (name, mut shape) = (name.trim().to_owned(), shape.trim());
        let mut place = place;
        if let Some(rest) = shape.strip_suffix("exact") {
            (shape, place) = (rest.trim(), Place::Exact);
        }
        let (ty, count) = shape.split_once('[').ok_or("buffer NAME: TYPE[COUNT]")?;
        let ty = Type::parse(ty)?;
        let count = count.strip_suffix(']').and_then(|n| n.parse().ok());
        let count = count.ok_or(format!("`{shape}`: no count"))?;
        let exact = |wanted: Wanted| match wanted {
            Wanted::Bits(bits) if bits.len() == 1 => Ok(bits[0]),
            _ => Err("an initial content is one value per element".to_owned()),
        };
        let initial = match items {
            None => None,
            Some(items) => {
                let list = elements(ty, count, items, &|name| self.contents(name))?;
                Some(list.into_iter().map(exact).collect::<Result<_, _>>()?)
            }
        };
        if self.buffer_named(&name).is_ok() {
            return Err(format!("`{name}` exists"));
        }
        let buffer = Buffer {
            name,
            ty,
            count,
            place,
            initial,
        };
        self.buffers.push(buffer);
        Ok(())
    }

    /// `NAME [ulp N] [sorted]: ITEMS`
    fn expect(&mut self, text: &str, directive: &Directive) -> Result<(), String> {
        let (head, items) = text.split_once(':').ok_or("expect NAME: VALUES")?;
        let mut words = head.split_whitespace();
        let buffer = self.buffer_named(words.next().unwrap_or_default())?;
        let (mut ulps, mut sorted) = (0, false);
        while let Some(word) = words.next() {
            match word {
                "ulp" => {
                    let n = words.next().and_then(|n| n.parse().ok());
                    ulps = n.ok_or("ulp N")?;
                }
                "sorted" => sorted = true,
                _ => return Err(format!("no option `{word}`")),
            }
        }
        let Buffer { ty, count, .. } = self.buffers[buffer];
        // Values that are yet to be blessed.
        let items = if items.trim().is_empty() { "_*" } else { items };
        let wanted = elements(ty, count, items, &|name| self.contents(name))?;
        if sorted
            && wanted
                .iter()
                .any(|w| !matches!(w, Wanted::Bits(b) if b.len() == 1))
        {
            return Err("sorted values are single literals".into());
        }
        let lines = directive.lines.clone();
        let head = head.trim().to_owned();
        let expectation = Expectation {
            buffer,
            ulps,
            sorted,
            wanted,
            lines,
            head,
        };
        self.expectations.push(expectation);
        Ok(())
    }

    /// `KERNEL<<<GRID, BLOCK[, SHARED]>>>(ARGUMENTS) OPTIONS`
    fn launch(&mut self, text: &str) -> Result<(), String> {
        const FORM: &str = "launch KERNEL<<<GRID, BLOCK[, SHARED]>>>(ARGUMENTS)";
        let (kernel, rest) = text.split_once("<<<").ok_or(FORM)?;
        let (shape, rest) = rest.split_once(">>>").ok_or(FORM)?;
        let close = rest.rfind(')').ok_or(FORM)?;
        let arguments = rest[..close].trim().strip_prefix('(').ok_or(FORM)?;
        let shape: Vec<&str> = shape.split(',').map(str::trim).collect();
        let mut launch = Launch {
            kernel: kernel.trim().into(),
            grid: dimensions(shape.first().ok_or(FORM)?)?,
            block: dimensions(shape.get(1).ok_or(FORM)?)?,
            ..Launch::default()
        };
        if let Some(bytes) = shape.get(2) {
            launch.shared = bytes.parse().map_err(|_| FORM)?;
        }
        for argument in split_outside(arguments, |c| c == ',') {
            launch.arguments.push(self.argument(argument)?);
        }
        let mut words = rest[close + 1..].split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "cluster" => launch.cluster = Some(dimensions(words.next().ok_or(FORM)?)?),
                "cooperative" => launch.cooperative = true,
                "pdl" => launch.pdl = true,
                "stream" => {
                    let n = words.next().and_then(|n| n.parse().ok());
                    launch.stream = n.ok_or("stream N")?;
                }
                _ => return Err(format!("no option `{word}`")),
            }
        }
        self.launches.push(launch);
        Ok(())
    }

    fn argument(&self, text: &str) -> Result<Argument, String> {
        if let Some((ty, values)) = call(text) {
            let ty = Type::parse(ty)?;
            let values = split_outside(values, |c| c == ',');
            let values: Result<Vec<_>, _> = values.iter().map(|v| ty.literal(v)).collect();
            return Ok(Argument::Bytes(ty.join(&values?)));
        }
        let map = |name: &str| self.maps.iter().position(|m| m.name == name);
        if let Some(name) = text.strip_prefix('&') {
            let map = map(name).ok_or(format!("no tensor map `{name}`"))?;
            return Ok(Argument::MapAddress(map));
        }
        if let Some(map) = map(text) {
            return Ok(Argument::Map(map));
        }
        let (buffer, offset) = self.place(text)?;
        Ok(Argument::Address(buffer, offset))
    }

    /// `NAME` or `NAME+BYTES`.
    fn place(&self, text: &str) -> Result<(usize, u64), String> {
        let (name, offset) = match text.split_once('+') {
            Some((name, offset)) => {
                let wrong = |_| format!("`{text}`: no offset");
                (name, offset.parse().map_err(wrong)?)
            }
            None => (text, 0),
        };
        Ok((self.buffer_named(name)?, offset))
    }

    /// `NAME: TYPE BUFFER[+BYTES] dims AxB strides S box CxD [elements ExF] …`
    fn map(&mut self, text: &str) -> Result<(), String> {
        const TYPES: [&str; 13] = [
            "u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", "f32_ftz",
            "tf32", "tf32_ftz",
        ];
        let (name, rest) = text
            .split_once(':')
            .ok_or("tensormap NAME: TYPE BUFFER …")?;
        let mut words = rest.split_whitespace();
        let ty = words.next().unwrap_or_default();
        let data_type = TYPES.iter().position(|t| *t == ty);
        let data_type = data_type.ok_or(format!("no tensor element type `{ty}`"))?;
        let (buffer, offset) = self.place(words.next().unwrap_or_default())?;
        let mut map = Map {
            name: name.trim().into(),
            data_type: u32::try_from(data_type).unwrap_or_default(),
            buffer,
            offset,
            ..Map::default()
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or(format!("`{word}` has no value"))?;
            let choice = |names: &[&str]| {
                let found = names.iter().position(|n| *n == value);
                let found = found.and_then(|i| u32::try_from(i).ok());
                found.ok_or(format!("`{word} {value}`"))
            };
            match word {
                "dims" => map.dims = numbers(value)?,
                "strides" => map.strides = numbers(value)?,
                "box" => map.boxes = numbers(value)?,
                "elements" => map.elements = numbers(value)?,
                "interleave" => map.interleave = choice(&["none", "16", "32"])?,
                "swizzle" => map.swizzle = choice(&["none", "32", "64", "128"])?,
                "l2" => map.l2 = choice(&["none", "64", "128", "256"])?,
                "fill" => map.fill = choice(&["none", "nan"])?,
                _ => return Err(format!("no option `{word}`")),
            }
        }
        if map.elements.is_empty() {
            map.elements = vec![1; map.dims.len()];
        }
        let rank = map.dims.len();
        if map.strides.len() + 1 != rank || map.boxes.len() != rank || map.elements.len() != rank {
            return Err("dims, strides (one fewer), box and elements disagree".into());
        }
        self.maps.push(map);
        Ok(())
    }
}
