//! The linker: merges PTX modules into one, as text.
//!
//! A module is cut into its top-level items. Symbols without linkage directive that several modules
//! have get new names; a declaration (`.extern`) gives way to the definition; of weak definitions
//! one stays. The result is PTX again, with variables before functions and declarations before
//! both, which the loader reads like any other.

mod adapt;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::archive;
use super::image::{self, Image};
use super::module::LoadError;
use super::report;
use super::status::Status;
use crate::ir::Builtin;
use crate::ptx;
use text::{Item, Linkage, Parts, Piece, cut, pieces, rename};

/// What an archive brings of CUDA's device runtime, `libcudadevrt.a`.
const DEVICE_RUNTIME: &str = include_str!("device_runtime.ptx");

/// A link in progress.
#[derive(Debug)]
pub struct Link {
    /// Where the client wants logs: number, keys and values of options, by address.
    pub options: (u32, u64, u64),
    /// Registers per thread that the client allows.
    max_registers: Option<u32>,
    /// Names and texts.
    inputs: Mutex<Vec<(String, String)>>,
    /// An archive was added, so the functions of CUDA's device runtime can be had.
    has_archive: AtomicBool,
    output: OnceLock<CString>,
    begun: Instant,
}

impl Link {
    /// An empty link.
    #[must_use]
    pub fn new(options: (u32, u64, u64), max_registers: Option<u32>) -> Self {
        Self {
            options,
            max_registers,
            inputs: Mutex::default(),
            has_archive: AtomicBool::new(false),
            output: OnceLock::new(),
            begun: Instant::now(),
        }
    }

    /// Adds an input.
    ///
    /// # Errors
    ///
    /// `INVALID_PTX` for text that is not PTX; `INVALID_VALUE` once the link is complete.
    pub fn add(&self, image: &Image, name: &str) -> Result<(), LoadError> {
        if self.output.get().is_some() {
            return Err(Status::INVALID_VALUE.into());
        }
        ptx::parse(&image.ptx)?;
        let entry = (name.to_owned(), image.ptx.clone());
        self.inputs.lock().push(entry);
        Ok(())
    }

    /// Adds the content of a file: PTX, a fat binary, or an archive of such.
    ///
    /// Members of an archive that hold machine code only are passed over: a reference to what
    /// they define is reported when the link is completed, unless it is to a function of CUDA's
    /// device runtime that [`DEVICE_RUNTIME`] has.
    ///
    /// # Errors
    ///
    /// As [`Self::add`] and [`Image::from_bytes`].
    pub fn add_bytes(&self, bytes: &[u8], name: &str) -> Result<(), LoadError> {
        if !archive::is_archive(bytes) {
            return self.add(&Image::from_bytes(bytes)?, name);
        }
        if self.output.get().is_some() {
            return Err(Status::INVALID_VALUE.into());
        }
        for member in archive::members(bytes)? {
            if member.starts_with(&image::ELF_MAGIC) {
                continue;
            }
            match Image::from_bytes(member) {
                Ok(image) => self.add(&image, name)?,
                Err(Status::NO_BINARY_FOR_GPU) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.has_archive.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Milliseconds since the link began.
    #[must_use]
    pub fn milliseconds(&self) -> f32 {
        self.begun.elapsed().as_secs_f32() * 1e3
    }

    /// The result: PTX text, valid as long as the link.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if nothing was added, `INVALID_PTX` for symbols that are defined twice or
    /// nowhere.
    pub fn complete(&self) -> Result<&CStr, LoadError> {
        if self.output.get().is_none() {
            let mut inputs = self.inputs.lock().clone();
            if self.has_archive.load(Ordering::Relaxed) && needs_runtime(&inputs) {
                inputs.push(("device runtime".to_owned(), DEVICE_RUNTIME.to_owned()));
            }
            let text = match inputs.as_slice() {
                [] => return Err(Status::INVALID_VALUE.into()),
                [(_, only)] => {
                    let parts = cut(only);
                    check(&[parts], &inputs)?;
                    only.clone()
                }
                _ => merge(&inputs)?,
            };
            let text = match self.max_registers {
                Some(most) => with_register_limit(&text, most),
                None => text,
            };
            let text = CString::new(text).map_err(|_| Status::INVALID_PTX)?;
            let _ = self.output.set(text);
        }
        let text = self.output.get().ok_or(Status::UNKNOWN)?;
        Ok(text.as_c_str())
    }
}

/// Whether the inputs declare, and do not define, a function that [`DEVICE_RUNTIME`] defines.
fn needs_runtime(inputs: &[(String, String)]) -> bool {
    let is_definition = |item: &Item| item.is_definition && !item.name.is_empty();
    let runtime = cut(DEVICE_RUNTIME);
    let offered = runtime.items.iter().filter(|item| is_definition(item));
    let offered: BTreeSet<&str> = offered.map(|item| item.name.as_str()).collect();
    let modules: Vec<Parts> = inputs.iter().map(|(_, text)| cut(text)).collect();
    let all = || modules.iter().flat_map(|m| &m.items);
    let defined = all().filter(|item| is_definition(item));
    let defined: BTreeSet<&str> = defined.map(|item| item.name.as_str()).collect();
    let mut declared = all().filter(|item| !item.is_definition);
    declared.any(|item| {
        let name = item.name.as_str();
        offered.contains(name) && !defined.contains(name)
    })
}

/// The text with a limit for the entries that have none of their own.
fn with_register_limit(text: &str, most: u32) -> String {
    let mut limited = String::with_capacity(text.len());
    let (mut depth, mut is_entry) = (0u32, false);
    for piece in pieces(text) {
        match piece {
            Piece::Mark("{") if depth == 0 && is_entry => {
                let _ = writeln!(limited, ".maxnreg {most}");
                is_entry = false;
                depth = 1;
            }
            Piece::Mark("{" | "(") => depth += 1,
            Piece::Mark("}" | ")") => depth = depth.saturating_sub(1),
            Piece::Word(".entry") if depth == 0 => is_entry = true,
            Piece::Word(".maxnreg") | Piece::Mark(";") if depth == 0 => is_entry = false,
            _ => {}
        }
        limited.push_str(piece.text());
    }
    limited
}

fn refuse(log: String) -> LoadError {
    report::complaint(&log);
    let status = Status::INVALID_PTX;
    LoadError { status, log }
}

/// Says which symbols are defined twice or nowhere.
fn check(modules: &[Parts], inputs: &[(String, String)]) -> Result<(), LoadError> {
    let mut defined: BTreeMap<&str, usize> = BTreeMap::new();
    let mut declared: BTreeMap<&str, usize> = BTreeMap::new();
    let mut log = String::new();
    let name_of = |i: usize| inputs.get(i).map_or("?", |(name, _)| name);
    for (i, module) in modules.iter().enumerate() {
        for item in module.items.iter().filter(|item| !item.name.is_empty()) {
            if !item.is_definition {
                declared.entry(&item.name).or_insert(i);
            } else if item.linkage == Linkage::Visible
                && let Some(first) = defined.insert(&item.name, i)
            {
                let (first, second) = (name_of(first), name_of(i));
                let name = &item.name;
                let _ = writeln!(log, "error: `{name}` is defined in {first} and in {second}");
            }
        }
    }
    let any = |name: &str| {
        let mut all = modules.iter().flat_map(|m| &m.items);
        all.any(|item| item.is_definition && item.name == name)
    };
    for (name, module) in declared {
        if !any(name) && Builtin::named(name).is_none() && !is_dynamic(modules, name) {
            let module = name_of(module);
            let _ = writeln!(log, "error: undefined reference to `{name}` in {module}");
        }
    }
    if log.is_empty() {
        Ok(())
    } else {
        Err(refuse(log))
    }
}

/// `.extern .shared` arrays are not defined anywhere; their size comes with the launch.
fn is_dynamic(modules: &[Parts], name: &str) -> bool {
    let mut all = modules.iter().flat_map(|m| &m.items);
    all.any(|item| item.name == name && item.text.contains(".shared"))
}

fn merge(inputs: &[(String, String)]) -> Result<String, LoadError> {
    let mut modules: Vec<Parts> = inputs.iter().map(|(_, text)| cut(text)).collect();
    separate(&mut modules);
    check(&modules, inputs)?;
    adapt::adapt(&mut modules);
    let version = modules.iter().map(|m| m.version).max().unwrap_or((8, 0));
    let targets = modules.iter().map(|m| m.target.as_str());
    // `sm_90a` is longer than, and sorts behind, `sm_90`.
    let target = targets.max_by_key(|t| (t.len(), *t)).unwrap_or("sm_90a");
    let mut text = format!(
        ".version {}.{}\n.target {target}\n.address_size 64\n",
        version.0, version.1
    );
    for item in chosen(&modules) {
        text.push_str(&item);
        text.push('\n');
    }
    Ok(text)
}

/// Gives symbols without linkage, of which others have the name too, new names.
fn separate(modules: &mut [Parts]) {
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (i, module) in modules.iter().enumerate() {
        for item in &module.items {
            owners.entry(item.name.clone()).or_default().insert(i);
        }
    }
    for (i, module) in modules.iter_mut().enumerate() {
        let is_internal = |item: &&Item| item.linkage == Linkage::Internal;
        // A forward declaration may lack the directive that the definition has.
        let exported: BTreeSet<&str> = module
            .items
            .iter()
            .filter(|item| !is_internal(item))
            .map(|item| item.name.as_str())
            .collect();
        let renamed: BTreeMap<String, String> = module
            .items
            .iter()
            .filter(is_internal)
            .filter(|item| !exported.contains(item.name.as_str()))
            .filter(|item| owners.get(&item.name).is_some_and(|o| o.len() > 1))
            .map(|item| (item.name.clone(), format!("{}$link{i}", item.name)))
            .collect();
        if renamed.is_empty() {
            continue;
        }
        for item in &mut module.items {
            item.text = rename(&item.text, &renamed);
            if let Some(name) = renamed.get(&item.name) {
                item.name.clone_from(name);
            }
        }
    }
}

/// The texts that stay, in order.
fn chosen(modules: &[Parts]) -> Vec<String> {
    let all = || modules.iter().flat_map(|m| &m.items);
    // The strongest definition, the first of equals.
    let mut best: BTreeMap<&str, (Linkage, usize)> = BTreeMap::new();
    for (i, item) in all().enumerate() {
        if item.is_definition && !item.name.is_empty() {
            let rank = best.entry(&item.name).or_insert((item.linkage, i));
            if item.linkage > rank.0 {
                *rank = (item.linkage, i);
            }
        }
    }
    let (mut declarations, mut variables, mut functions) = (Vec::new(), Vec::new(), Vec::new());
    let mut declared = BTreeSet::new();
    for (i, item) in all().enumerate() {
        if item.name.is_empty() {
            functions.push(item.text.clone());
        } else if item.is_definition {
            if best.get(item.name.as_str()).is_some_and(|(_, at)| *at == i) {
                let list = if item.is_function {
                    &mut functions
                } else {
                    &mut variables
                };
                list.push(item.text.clone());
            }
        } else if (item.is_function || !best.contains_key(item.name.as_str()))
            && declared.insert(&item.name)
        {
            declarations.push(declaration(item, best.get(item.name.as_str())));
        }
    }
    declarations.extend(variables);
    declarations.extend(functions);
    declarations
}

/// A declaration that agrees with the definition, if there is one.
fn declaration(item: &Item, definition: Option<&(Linkage, usize)>) -> String {
    let directive = match definition.map(|(linkage, _)| linkage) {
        None => return item.text.clone(),
        Some(Linkage::Visible) => ".visible ",
        Some(Linkage::Weak) => ".weak ",
        Some(_) => "",
    };
    let bare = [".extern", ".visible", ".weak", ".common"];
    let text = item.text.trim_start();
    let bare = bare.iter().find_map(|d| text.strip_prefix(d));
    format!("{directive}{}", bare.unwrap_or(text).trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(ptx: &str) -> Image {
        Image {
            ptx: format!(".version 8.0 // newest\n.target sm_90\n.address_size 64\n{ptx}"),
        }
    }

    fn link(inputs: &[&str]) -> Result<String, LoadError> {
        let link = Link::new((0, 0, 0), None);
        for (i, input) in inputs.iter().enumerate() {
            link.add(&image(input), &format!("input{i}"))?;
        }
        Ok(link.complete()?.to_str().unwrap().to_owned())
    }

    const USER: &str = "/* { */ .extern .func (.param .b32 r) twice (.param .b32 x);
.extern .global .align 4 .u32 shared_word;
.global .align 4 .b8 hidden[4] = {1, 2, 3, 4};
.visible .entry main() { ret; }";
    const MAKER: &str = ".visible .func (.param .b32 r) twice (.param .b32 x) { ret; }
.visible .global .align 4 .u32 shared_word = 5;
.global .align 4 .b8 hidden[8];
.weak .func helper() { ret; }";

    #[test]
    fn declarations_give_way_and_private_names_are_kept_apart() {
        let text = link(&[USER, MAKER]).unwrap();
        assert_eq!(text.matches("shared_word").count(), 1, "{text}");
        assert!(!text.contains(".extern"), "{text}");
        assert!(text.contains("hidden$link0[4] = {1, 2, 3, 4};"), "{text}");
        assert!(text.contains("hidden$link1[8]"), "{text}");
        assert!(ptx::parse(&text).is_ok(), "{text}");
        // Weak functions: one of them stays, and a strong one wins.
        let text = link(&[
            ".weak .func helper() { ret; }",
            ".weak .func helper() { ret; }",
            ".visible .func helper() { bar.sync 0; ret; }",
        ])
        .unwrap();
        assert_eq!(text.matches("helper").count(), 1, "{text}");
        assert!(text.contains("bar.sync"), "{text}");
    }

    #[test]
    fn a_register_limit_reaches_entries_without_one() {
        let entries = ".visible .entry a(.param .b32 x) .maxntid 32 { { ret; } }
.func f() { ret; }
.visible .entry b() .maxnreg 40 { ret; }";
        let link = Link::new((0, 0, 0), Some(24));
        link.add(&image(entries), "only").unwrap();
        let text = link.complete().unwrap().to_str().unwrap().to_owned();
        assert_eq!(text.matches(".maxnreg").count(), 2, "{text}");
        assert!(text.contains(".maxntid 32 .maxnreg 24\n{ {"), "{text}");
        assert!(ptx::parse(&text).is_ok(), "{text}");
    }

    #[test]
    fn what_is_defined_twice_or_nowhere_is_named() {
        let twice = link(&[MAKER, MAKER]).unwrap_err();
        assert_eq!(twice.status, Status::INVALID_PTX);
        assert!(
            twice
                .log
                .contains("`twice` is defined in input0 and in input1")
        );
        let nowhere = link(&[USER, ".visible .func other() { ret; }"]).unwrap_err();
        assert!(
            nowhere
                .log
                .contains("undefined reference to `twice` in input0")
        );
        assert!(nowhere.log.contains("undefined reference to `shared_word`"));
        assert_eq!(link(&[]).unwrap_err().status, Status::INVALID_VALUE);
        assert_eq!(link(&["nonsense"]).unwrap_err().status, Status::INVALID_PTX);
        // What the driver provides and dynamic shared memory need no definition.
        let provided = ".extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.extern .shared .align 16 .b8 buffer[];";
        assert!(link(&[provided, MAKER]).is_ok());
    }
}
