//! Modules, libraries and the linker.

#![expect(unsafe_code, reason = "exported C functions; images are bare pointers")]

use std::ffi::c_char;
use std::sync::Arc;

use super::pointers::{In, Out};
use crate::driver::context::healthy;
use crate::driver::image::Image;
use crate::driver::library::{KernelRef, Library};
use crate::driver::link::Link;
use crate::driver::machine::driver;
use crate::driver::module::{LoadError, Module};
use crate::driver::report;
use crate::driver::status::{Result, Status};

/// `CUjit_option` with its values; only the log buffers and, for links, the register limit mean
/// something to softgpu.
#[derive(Clone, Copy)]
struct Options {
    count: u32,
    keys: In<u32>,
    values: In<u64>,
}

impl Options {
    const MAX_REGISTERS: u32 = 0;
    const WALL_TIME: u32 = 2;
    const INFO_LOG: u32 = 3;
    const ERROR_LOG: u32 = 5;
    const ERROR_LOG_SIZE: u32 = 6;
    const INFO_LOG_SIZE: u32 = 4;

    fn find(self, key: u32) -> Result<Option<(usize, u64)>> {
        for i in 0..self.count as usize {
            if self.keys.get_at(i)? == key {
                return Ok(Some((i, self.values.get_at(i)?)));
            }
        }
        Ok(None)
    }

    /// Writes the logs where the client wants them, and their sizes back into the options.
    fn give_log(self, errors: &str, infos: &str) -> Result<()> {
        let logs = [
            (Self::ERROR_LOG, Self::ERROR_LOG_SIZE, errors),
            (Self::INFO_LOG, Self::INFO_LOG_SIZE, infos),
        ];
        for (buffer, size, log) in logs {
            let Some((i, room)) = self.find(size)? else {
                continue;
            };
            // Sizes are unsigned int in pointer-sized slots.
            let room = room & u64::from(u32::MAX);
            if let Some((_, buffer)) = self.find(buffer)? {
                let room = usize::try_from(room).unwrap_or(0);
                Out::<u8>::at(buffer).set_text(log.as_bytes(), room);
            }
            let at = self.values.address() + 8 * i as u64;
            Out::<u64>::at(at).set(room.min(log.len() as u64))?;
        }
        Ok(())
    }

    /// Writes the time where the client wants it.
    fn give_time(self, milliseconds: f32) -> Result<()> {
        if let Some((i, _)) = self.find(Self::WALL_TIME)? {
            let at = self.values.address() + 8 * i as u64;
            Out::<f32>::at(at).set(milliseconds)?;
        }
        Ok(())
    }

    fn report<T>(self, loaded: std::result::Result<T, LoadError>) -> Result<T> {
        match loaded {
            Ok(value) => {
                self.give_log("", "")?;
                Ok(value)
            }
            Err(error) => {
                self.give_log(&error.log, "")?;
                Err(error.status)
            }
        }
    }
}

fn read_image(image: In<u8>) -> std::result::Result<Image, LoadError> {
    // SAFETY: the C caller vouches for the image.
    unsafe { Image::read(image.raw()) }.map_err(LoadError::from)
}

fn bytes_of(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        report::complaint(&format!("{path}: {error}"));
        Status::FILE_NOT_FOUND
    })
}

fn read_file(path: In<c_char>) -> Result<Image> {
    Image::from_bytes(&bytes_of(&path.text()?)?)
}

fn load_module(handle: Out<u64>, image: In<u8>, options: Options) -> Result<()> {
    let context = healthy()?;
    if handle.is_null() || image.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    let loaded = read_image(image).and_then(|image| Module::load(&context, &image.ptx));
    handle.set(options.report(loaded)?.handle)
}

fn load_library(handle: Out<u64>, image: Result<Image>, options: Options) -> Result<()> {
    if handle.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    let image = image.map_err(LoadError::from);
    let loaded = image.and_then(|image| Library::load(image.ptx));
    handle.set(options.report(loaded)?.handle)
}

fn none() -> Options {
    Options {
        count: 0,
        keys: In::at(0),
        values: In::at(0),
    }
}

fn library_module(library: u64) -> Result<Arc<Module>> {
    let loaded = Library::get(library)?.module(&*healthy()?);
    loaded.map_err(|error| error.status)
}

fn link(handle: u64) -> Result<Arc<Link>> {
    driver().links.get(handle).ok_or(Status::INVALID_HANDLE)
}

fn create_link(handle: Out<u64>, options: Options) -> Result<()> {
    healthy()?;
    if handle.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // The value is an unsigned int in a pointer-sized slot; 0 is no limit.
    let limit = options.find(Options::MAX_REGISTERS)?;
    let limit = limit.and_then(|(_, value)| u32::try_from(value & u64::from(u32::MAX)).ok());
    let limit = limit.filter(|&registers| registers > 0);
    let new = driver().links.reserve();
    let options = (
        options.count,
        options.keys.address(),
        options.values.address(),
    );
    driver()
        .links
        .insert(new, Arc::new(Link::new(options, limit)));
    handle.set(new)
}

/// The options given when a link was created: they say where its logs go.
fn options_of(link: &Link) -> Options {
    let (count, keys, values) = link.options;
    Options {
        count,
        keys: In::at(keys),
        values: In::at(values),
    }
}

fn add_input(link: &Link, bytes: Result<Vec<u8>>, name: &str) -> Result<()> {
    let bytes = bytes.map_err(LoadError::from);
    let added = bytes.and_then(|bytes| link.add_bytes(&bytes, name));
    added.map_err(|error| {
        let _ = options_of(link).give_log(&error.log, "");
        error.status
    })
}

fn add_data(handle: u64, kind: u32, (data, size): (In<u8>, u64), name: In<c_char>) -> Result<()> {
    const NVVM: u32 = 5;
    let link = link(handle)?;
    if kind >= NVVM || data.is_null() || size == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let size = usize::try_from(size).map_err(|_| Status::INVALID_VALUE)?;
    let name = name.text().unwrap_or_else(|_| "<unnamed>".to_owned());
    add_input(&link, data.all(size), &name)
}

fn add_file(handle: u64, path: In<c_char>) -> Result<()> {
    let link = link(handle)?;
    let name = path.text()?;
    add_input(&link, bytes_of(&name), &name)
}

fn complete(handle: u64, image: Out<*const c_char>, bytes: Out<u64>) -> Result<()> {
    let link = link(handle)?;
    let options = options_of(&link);
    match link.complete() {
        Ok(text) => {
            options.give_log("", "linked")?;
            options.give_time(link.milliseconds())?;
            bytes.set_if(text.to_bytes_with_nul().len() as u64);
            image.set(text.as_ptr())
        }
        Err(error) => {
            options.give_log(&error.log, "")?;
            Err(error.status)
        }
    }
}

fn give_count(out: Out<u32>, handles: &[(String, u64)]) -> Result<()> {
    out.set(u32::try_from(handles.len()).map_err(|_| Status::UNKNOWN)?)
}

fn give_handles(out: Out<u64>, count: u32, handles: &[(String, u64)]) -> Result<()> {
    out.set_all(handles.iter().map(|&(_, h)| h).take(count as usize))
}

fn give_range(address: Out<u64>, bytes: Out<u64>, range: (u64, u64)) -> Result<()> {
    address.set_if(range.0);
    bytes.set_if(range.1);
    Ok(())
}

entries! { call:
    fn cuModuleLoad(handle: Out<u64>, path: In<c_char>) {
        let context = healthy()?;
        let image = read_file(path)?;
        handle.set(Module::load(&context, &image.ptx).map_err(|e| e.status)?.handle)
    }
    fn cuModuleLoadData(handle: Out<u64>, image: In<u8>) {
        load_module(handle, image, none())
    }
    fn cuModuleLoadDataEx(
        handle: Out<u64>, image: In<u8>, count: u32, keys: In<u32>, values: In<u64>
    ) {
        load_module(handle, image, Options { count, keys, values })
    }
    fn cuModuleLoadFatBinary(handle: Out<u64>, image: In<u8>) {
        load_module(handle, image, none())
    }
    fn cuModuleUnload(handle: u64) {
        Module::get(handle)?.unload()
    }
    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        const EAGER: u32 = 1;
        mode.set(EAGER)
    }
    fn cuModuleGetFunction(function: Out<u64>, module: u64, name: In<c_char>) {
        function.set(Module::get(module)?.function(&name.text()?)?)
    }
    fn cuModuleGetFunctionCount(count: Out<u32>, module: u64) {
        give_count(count, &Module::get(module)?.functions)
    }
    fn cuModuleEnumerateFunctions(functions: Out<u64>, count: u32, module: u64) {
        give_handles(functions, count, &Module::get(module)?.functions)
    }
    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<u64>, module: u64, name: In<c_char>) {
        give_range(address, bytes, Module::get(module)?.global(&name.text()?)?)
    }
    fn cuLibraryLoadData(
        handle: Out<u64>, image: In<u8>, keys: In<u32>, values: In<u64>, count: u32,
        _library_keys: In<u32>, _library_values: In<u64>, _library_count: u32
    ) {
        let image = read_image(image).map_err(|error| error.status);
        load_library(handle, image, Options { count, keys, values })
    }
    fn cuLibraryLoadFromFile(
        handle: Out<u64>, path: In<c_char>, keys: In<u32>, values: In<u64>, count: u32,
        _library_keys: In<u32>, _library_values: In<u64>, _library_count: u32
    ) {
        load_library(handle, read_file(path), Options { count, keys, values })
    }
    fn cuLibraryUnload(library: u64) {
        Library::get(library)?.unload()
    }
    fn cuLibraryGetKernel(kernel: Out<u64>, library: u64, name: In<c_char>) {
        kernel.set(Library::get(library)?.kernel(&name.text()?)?)
    }
    fn cuLibraryGetKernelCount(count: Out<u32>, library: u64) {
        give_count(count, &Library::get(library)?.kernels)
    }
    fn cuLibraryEnumerateKernels(kernels: Out<u64>, count: u32, library: u64) {
        give_handles(kernels, count, &Library::get(library)?.kernels)
    }
    fn cuLibraryGetModule(module: Out<u64>, library: u64) {
        module.set(library_module(library)?.handle)
    }
    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<u64>, library: u64, name: In<c_char>) {
        give_range(address, bytes, library_module(library)?.global(&name.text()?)?)
    }
    fn cuLibraryGetManaged(
        _address: Out<u64>, _bytes: Out<u64>, library: u64, name: In<c_char>
    ) {
        // PTX for Hopper declares managed variables like others; the runtime marks them.
        Library::get(library)?;
        name.text()?;
        Err(Status::NOT_FOUND)
    }
    fn cuKernelGetFunction(function: Out<u64>, kernel: u64) {
        function.set(KernelRef::get(kernel)?.function(&*healthy()?)?.handle)
    }
    fn cuKernelGetLibrary(library: Out<u64>, kernel: u64) {
        library.set(KernelRef::get(kernel)?.library)
    }
    fn cuKernelGetName(name: Out<*const c_char>, kernel: u64) {
        name.set(KernelRef::get(kernel)?.name.as_ptr())
    }
    fn cuLinkCreate(count: u32, keys: In<u32>, values: In<u64>, handle: Out<u64>) {
        create_link(handle, Options { count, keys, values })
    }
    fn cuLinkCreate_v2(count: u32, keys: In<u32>, values: In<u64>, handle: Out<u64>) {
        create_link(handle, Options { count, keys, values })
    }
    fn cuLinkAddData(
        handle: u64, kind: u32, data: In<u8>, size: u64, name: In<c_char>,
        _count: u32, _keys: In<u32>, _values: In<u64>
    ) {
        add_data(handle, kind, (data, size), name)
    }
    fn cuLinkAddData_v2(
        handle: u64, kind: u32, data: In<u8>, size: u64, name: In<c_char>,
        _count: u32, _keys: In<u32>, _values: In<u64>
    ) {
        add_data(handle, kind, (data, size), name)
    }
    fn cuLinkAddFile(
        handle: u64, _kind: u32, path: In<c_char>, _count: u32, _keys: In<u32>, _values: In<u64>
    ) {
        add_file(handle, path)
    }
    fn cuLinkAddFile_v2(
        handle: u64, _kind: u32, path: In<c_char>, _count: u32, _keys: In<u32>, _values: In<u64>
    ) {
        add_file(handle, path)
    }
    fn cuLinkComplete(handle: u64, image: Out<*const c_char>, bytes: Out<u64>) {
        complete(handle, image, bytes)
    }
    fn cuLinkDestroy(handle: u64) {
        let gone = driver().links.remove(handle);
        gone.map(drop).ok_or(Status::INVALID_HANDLE)
    }
}
