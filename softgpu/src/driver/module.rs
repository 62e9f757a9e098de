//! Modules: PTX loaded into a context, with its variables in device memory, and functions.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::{Mutex, RwLock};

use super::capture;
use super::context::Context;
use super::machine::driver;
use super::report;
use super::status::{Result, Status};
use crate::exec::Kernel;
use crate::ir;
use crate::mem::{AddressSpace, Region};
use crate::ptx::{self, Global, GlobalSpace, Linkage};

/// Most shared memory that a block can have: what an H100 reports as the opt-in limit.
pub const MAX_SHARED: u32 = 232_448;
/// Most shared memory that a block can have without opting in.
pub const DEFAULT_SHARED: u32 = 49_152;

/// A failed load: the code, and the text for the error log buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Result code.
    pub status: Status,
    /// What went wrong and where.
    pub log: String,
}

impl From<Status> for LoadError {
    fn from(status: Status) -> Self {
        Self {
            status,
            log: report::last(),
        }
    }
}

impl From<crate::error::PtxError> for LoadError {
    fn from(error: crate::error::PtxError) -> Self {
        Self {
            status: Status::INVALID_PTX,
            log: report::refused(&error),
        }
    }
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Its handle.
    pub handle: u64,
    /// Handle of its context.
    pub context: u64,
    /// Functions in order of definition: name and handle.
    pub functions: Vec<(String, u64)>,
    /// Variables: address and size.
    globals: HashMap<String, (u64, u64)>,
}

impl Module {
    /// Loads PTX text into a context.
    ///
    /// # Errors
    ///
    /// `INVALID_PTX` for text that is not PTX or that softgpu does not implement, with line and
    /// column; `OUT_OF_MEMORY`.
    pub fn load(context: &Context, text: &str) -> std::result::Result<Arc<Self>, LoadError> {
        context.health.check()?;
        let parsed = ptx::parse(text)?;
        let mut globals = HashMap::new();
        let placed = place(context, &parsed, &mut globals);
        let functions = placed.and_then(|()| {
            let address = |name: &str| globals.get(name).map(|&(at, _)| at);
            ir::lower::lower(&parsed, &address)?
                .into_iter()
                .map(|f| Ok(Arc::new(Kernel::new(f)?)))
                .collect::<std::result::Result<Vec<_>, LoadError>>()
        });
        let kernels = functions.inspect_err(|_| free(&globals))?;
        let handle = driver().modules.reserve();
        let traits = Traits::of(&parsed);
        let functions = kernels.into_iter().map(|kernel| {
            let function = Function::new((handle, context.handle), kernel, traits);
            let entry = (function.kernel.name().to_owned(), function.handle);
            driver().functions.insert(entry.1, Arc::new(function));
            entry
        });
        let module = Arc::new(Self {
            handle,
            context: context.handle,
            functions: functions.collect(),
            globals,
        });
        driver().modules.insert(handle, Arc::clone(&module));
        Ok(module)
    }

    /// A module by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        driver().modules.get(handle).ok_or(Status::INVALID_HANDLE)
    }

    /// Unloads the module.
    ///
    /// # Errors
    ///
    /// `STREAM_CAPTURE_UNSUPPORTED` if a capture forbids it, and the module stays; the sticky fault of
    /// the context, and the module is gone even so.
    pub fn unload(&self) -> Result<()> {
        capture::refuse_unsafe()?;
        self.end()
    }

    /// The same where no capture can object.
    ///
    /// # Errors
    ///
    /// The sticky fault of the context; the module is gone even so.
    pub fn end(&self) -> Result<()> {
        let d = driver();
        let drained = d.contexts.get(self.context).map_or(Ok(()), |c| c.finish());
        d.modules.remove(self.handle);
        for &(_, function) in &self.functions {
            d.functions.remove(function);
        }
        free(&self.globals);
        drained
    }

    /// The handle of a function.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND`.
    pub fn function(&self, name: &str) -> Result<u64> {
        let found = self.functions.iter().find(|(n, _)| n == name);
        found.map(|&(_, handle)| handle).ok_or(Status::NOT_FOUND)
    }

    /// Address and size of a variable.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND`.
    pub fn global(&self, name: &str) -> Result<(u64, u64)> {
        self.globals.get(name).copied().ok_or(Status::NOT_FOUND)
    }
}

/// What functions have from their module.
#[derive(Debug, Clone, Copy)]
struct Traits {
    ptx_version: u32,
    /// Of all `.const` variables: which of them a function uses is not looked at.
    const_bytes: u64,
}

impl Traits {
    fn of(module: &ptx::Module) -> Self {
        let (major, minor) = module.version();
        let constants = module
            .globals()
            .iter()
            .filter(|g| g.space == GlobalSpace::Const);
        Self {
            ptx_version: major * 10 + minor,
            const_bytes: constants.map(|g| g.size).sum(),
        }
    }
}

/// The allocations that hold variables of modules: address and identity.
static VARIABLES: LazyLock<RwLock<HashMap<u64, u64>>> = LazyLock::new(RwLock::default);

/// Whether an allocation holds a variable of a module, which is not the program's to free.
pub fn holds_variable(region: &Region) -> bool {
    VARIABLES.read().get(&region.base) == Some(&region.id)
}

fn free(globals: &HashMap<String, (u64, u64)>) {
    for &(at, _) in globals.values() {
        VARIABLES.write().remove(&at);
        // It may have died with its context.
        let _ = AddressSpace::global().free(at);
    }
}

/// Allocates the variables of a module and gives them their initial content.
fn place(
    context: &Context,
    module: &ptx::Module,
    globals: &mut HashMap<String, (u64, u64)>,
) -> std::result::Result<(), LoadError> {
    let space = AddressSpace::global();
    for global in module.globals() {
        if global.linkage == Linkage::External {
            let log = format!("variable `{}` is declared but not defined", global.name);
            report::complaint(&log);
            let status = Status::INVALID_PTX;
            return Err(LoadError { status, log });
        }
        let region = space
            .alloc_device(context.device, global.size.max(1))
            .map_err(Status::from)?;
        VARIABLES.write().insert(region.base, region.id);
        globals.insert(global.name.clone(), (region.base, global.size));
    }
    for global in module.globals() {
        let address = |name: &str| {
            let variable = globals.get(name).map(|&(at, _)| at);
            variable.or_else(|| module.function_address(name))
        };
        let content = content(global, &address)?;
        let at = globals.get(&global.name).map_or(0, |&(at, _)| at);
        if let Some(span) = space.span(at, global.size) {
            span.write(&content);
        }
    }
    Ok(())
}

/// The initial bytes of a variable with the addresses of other variables and functions filled in.
fn content(
    global: &Global,
    address: &dyn Fn(&str) -> Option<u64>,
) -> std::result::Result<Vec<u8>, LoadError> {
    let mut bytes = global.init.clone();
    for relocation in &global.relocations {
        let wrong = |what: &str| {
            let log = format!("variable `{}`: {what} `{}`", global.name, relocation.symbol);
            report::complaint(&log);
            let status = Status::INVALID_PTX;
            LoadError { status, log }
        };
        let target = address(&relocation.symbol);
        let target = target.ok_or_else(|| wrong("unsupported: the address of"))?;
        let address = target.wrapping_add_signed(relocation.addend);
        let at = usize::try_from(relocation.offset).map_err(|_| wrong("misplaced address of"))?;
        let end = at + relocation.bytes;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        let part = address >> relocation.shift;
        let (Some(slot), Some(part)) = (
            bytes.get_mut(at..end),
            part.to_le_bytes()
                .get(..relocation.bytes)
                .map(<[u8]>::to_vec),
        ) else {
            return Err(wrong("misplaced address of"));
        };
        slot.copy_from_slice(&part);
    }
    Ok(bytes)
}

/// What clients may set on a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Dynamic shared memory limit.
    pub max_dynamic_shared: u32,
    /// Preferred carve-out in percent, -1 for the default.
    pub carveout: i32,
    /// Cluster shape set by attribute; zeros if none.
    pub cluster: [u32; 3],
    /// Clusters above 8 blocks allowed.
    pub non_portable_cluster: bool,
    /// Cluster scheduling preference.
    pub cluster_policy: i32,
}

/// An entry of a loaded module.
#[derive(Debug)]
pub struct Function {
    /// Its handle.
    pub handle: u64,
    /// Handle of its module.
    pub module: u64,
    /// Handle of its context.
    pub context: u64,
    /// The decoded kernel.
    pub kernel: Arc<Kernel>,
    /// Attributes that clients set.
    pub settings: Mutex<Settings>,
    traits: Traits,
    /// The name as a C string, for `cuFuncGetName`.
    pub c_name: std::ffi::CString,
}

impl Function {
    fn new((module, context): (u64, u64), kernel: Arc<Kernel>, traits: Traits) -> Self {
        let static_shared = kernel.function().static_shared;
        Self {
            handle: driver().functions.reserve(),
            module,
            context,
            settings: Mutex::new(Settings {
                max_dynamic_shared: DEFAULT_SHARED.saturating_sub(static_shared),
                carveout: -1,
                cluster: [0; 3],
                non_portable_cluster: false,
                cluster_policy: 0,
            }),
            traits,
            c_name: std::ffi::CString::new(kernel.name()).unwrap_or_default(),
            kernel,
        }
    }

    /// Most threads per block.
    #[must_use]
    pub fn max_threads(&self) -> u32 {
        let f = self.kernel.function();
        let declared = f.req_threads.or(f.max_threads);
        declared.map_or(1024, |[x, y, z]| x * y * z)
    }

    /// The cluster shape that PTX or an attribute demands.
    #[must_use]
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        let set = self.settings.lock().cluster;
        let declared = self.kernel.function().req_cluster;
        declared.or((set != [0; 3]).then_some(set))
    }

    /// An attribute by its `CUfunction_attribute` number. Registers are an estimate: softgpu runs
    /// no machine code.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for an unknown attribute.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
        let settings = *self.settings.lock();
        let f = self.kernel.function();
        let cluster = self.required_cluster().unwrap_or([0; 3]);
        let value = match attribute {
            0 => self.max_threads(),
            1 => f.static_shared,
            2 => u32::try_from(self.traits.const_bytes).map_err(|_| Status::INVALID_VALUE)?,
            3 => f.local_bytes,
            4 => f.registers,
            5 => self.traits.ptx_version,
            6 => 90,
            7 => 0,
            8 => settings.max_dynamic_shared,
            9 => return Ok(settings.carveout),
            10 => u32::from(f.req_cluster.is_some()),
            11 => cluster[0],
            12 => cluster[1],
            13 => cluster[2],
            14 => u32::from(settings.non_portable_cluster),
            15 => return Ok(settings.cluster_policy),
            _ => return Err(Status::INVALID_VALUE),
        };
        i32::try_from(value).map_err(|_| Status::INVALID_VALUE)
    }

    /// Sets an attribute.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for one that cannot be set or a value out of range.
    pub fn set_attribute(&self, attribute: u32, value: i32) -> Result<()> {
        let natural = u32::try_from(value).map_err(|_| Status::INVALID_VALUE);
        let static_shared = self.kernel.function().static_shared;
        let mut settings = self.settings.lock();
        match attribute {
            8 => {
                let limit = MAX_SHARED.saturating_sub(static_shared);
                let fits = natural?;
                if fits > limit {
                    return Err(Status::INVALID_VALUE);
                }
                settings.max_dynamic_shared = fits;
            }
            9 if (-1..=100).contains(&value) => settings.carveout = value,
            11 => settings.cluster[0] = natural?,
            12 => settings.cluster[1] = natural?,
            13 => settings.cluster[2] = natural?,
            14 => settings.non_portable_cluster = natural? != 0,
            15 => settings.cluster_policy = value,
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
}
