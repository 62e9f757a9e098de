//! Libraries: code that is loaded into a context when a kernel is first wanted there.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use parking_lot::Mutex;

use super::capture;
use super::context::{self, Context};
use super::machine::driver;
use super::module::{Function, LoadError, Module};
use super::status::{Result, Status};
use crate::ptx;

/// A loaded library.
#[derive(Debug)]
pub struct Library {
    /// Its handle.
    pub handle: u64,
    /// Kernels in order of definition: name and handle.
    pub kernels: Vec<(String, u64)>,
    text: String,
    modules: Mutex<HashMap<u64, Arc<Module>>>,
}

/// A kernel of a library: a name, resolved in the context where it is used.
#[derive(Debug)]
pub struct KernelRef {
    /// Its handle.
    pub handle: u64,
    /// Handle of its library.
    pub library: u64,
    /// Its name.
    pub name: CString,
    /// Attributes set before the kernel was loaded, by device and attribute.
    settings: Mutex<HashMap<(u32, u32), i32>>,
}

impl Library {
    /// Reads PTX text.
    ///
    /// # Errors
    ///
    /// As [`Module::load`]; instructions are checked when the library is first used in a context.
    pub fn load(text: String) -> std::result::Result<Arc<Self>, LoadError> {
        let parsed = ptx::parse(&text)?;
        let d = driver();
        let handle = d.libraries.reserve();
        let kernel = |name: &str| {
            let kernel = KernelRef {
                handle: d.kernels.reserve(),
                library: handle,
                name: CString::new(name).unwrap_or_default(),
                settings: Mutex::default(),
            };
            let entry = (name.to_owned(), kernel.handle);
            d.kernels.insert(entry.1, Arc::new(kernel));
            entry
        };
        let kernels = parsed.entries().map(kernel).collect();
        let library = Arc::new(Self {
            handle,
            kernels,
            text,
            modules: Mutex::default(),
        });
        d.libraries.insert(handle, Arc::clone(&library));
        Ok(library)
    }

    /// A library by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        driver().libraries.get(handle).ok_or(Status::INVALID_HANDLE)
    }

    /// The library's module in a context, loaded when first asked for.
    ///
    /// # Errors
    ///
    /// As [`Module::load`].
    pub fn module(&self, context: &Context) -> std::result::Result<Arc<Module>, LoadError> {
        let mut modules = self.modules.lock();
        if let Some(module) = modules.get(&context.handle) {
            return Ok(Arc::clone(module));
        }
        let module = Module::load(context, &self.text)?;
        modules.insert(context.handle, Arc::clone(&module));
        Ok(module)
    }

    /// The handle of a kernel.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND`.
    pub fn kernel(&self, name: &str) -> Result<u64> {
        let found = self.kernels.iter().find(|(n, _)| n == name);
        found.map(|&(_, handle)| handle).ok_or(Status::NOT_FOUND)
    }

    /// Unloads the library from all contexts.
    ///
    /// # Errors
    ///
    /// `STREAM_CAPTURE_UNSUPPORTED` if a capture forbids it, and the library stays; the sticky fault of
    /// a context, and the library is gone even so.
    pub fn unload(&self) -> Result<()> {
        capture::refuse_unsafe()?;
        driver().libraries.remove(self.handle);
        for &(_, kernel) in &self.kernels {
            driver().kernels.remove(kernel);
        }
        let modules = std::mem::take(&mut *self.modules.lock());
        let ended = modules.values().map(|module| module.end());
        ended.fold(Ok(()), Result::and)
    }

    /// Drops what belongs to a context that is being destroyed.
    pub fn forget_context(&self, context: u64) {
        self.modules.lock().remove(&context);
    }
}

impl KernelRef {
    /// A kernel by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        driver().kernels.get(handle).ok_or(Status::INVALID_HANDLE)
    }

    /// The kernel as a function of a context.
    ///
    /// # Errors
    ///
    /// As [`Module::load`].
    pub fn function(&self, context: &Context) -> Result<Arc<Function>> {
        let library = Library::get(self.library)?;
        let module = library.module(context).map_err(|error| error.status)?;
        let name = self.name.to_str().map_err(|_| Status::NOT_FOUND)?;
        let handle = module.function(name)?;
        let function = driver().functions.get(handle).ok_or(Status::NOT_FOUND)?;
        for (&(device, attribute), &value) in &*self.settings.lock() {
            if device == context.device {
                function.set_attribute(attribute, value)?;
            }
        }
        Ok(function)
    }

    /// Sets an attribute for a device; checked when the kernel is loaded there.
    pub fn set_attribute(&self, device: u32, attribute: u32, value: i32) {
        self.settings.lock().insert((device, attribute), value);
    }
}

/// A function by its handle or that of a kernel, which then is meant in the current context.
///
/// # Errors
///
/// `INVALID_HANDLE`; as [`Module::load`].
pub fn function(handle: u64) -> Result<Arc<Function>> {
    if let Some(function) = driver().functions.get(handle) {
        return Ok(function);
    }
    KernelRef::get(handle)?.function(&*context::healthy()?)
}
