//! The driver API, loaded at run time.
//!
//! # Safety
//!
//! Signatures are those of `cuda.h` (handles and device addresses are 64 bits wide). Every pointer
//! that the methods pass comes from a reference or slice that outlives the call.

#![expect(unsafe_code, reason = "the driver API is C")]

use std::ffi::{CStr, CString, c_char, c_void};

use libloading::Library;

/// A result code that is not success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),*);)*) => {
        /// The functions.
        #[expect(non_snake_case, reason = "named as in cuda.h")]
        struct Symbols { $($name: unsafe extern "C" fn($($ty),*) -> u32,)* }

        impl Symbols {
            #[expect(non_snake_case, reason = "named as in cuda.h")]
            fn load(library: &Library) -> Result<Self, String> {
                $(
                    // SAFETY: the type is the function's in cuda.h.
                    let found = unsafe { library.get(stringify!($name)) };
                    let $name = *found.map_err(|e| format!("{}: {e}", stringify!($name)))?;
                )*
                Ok(Self { $($name,)* })
            }
        }
    };
}

api! {
    fn cuInit(flags: u32);
    fn cuDeviceGet(device: *mut i32, ordinal: i32);
    fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32);
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: i32);
    fn cuCtxSetCurrent(context: u64);
    fn cuCtxSynchronize();
    fn cuModuleLoadDataEx(module: *mut u64, image: *const c_void, count: u32, keys: *mut u32, values: *mut *mut c_void);
    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char);
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char);
    fn cuFuncSetAttribute(function: u64, attribute: i32, value: i32);
    fn cuFuncGetParamInfo(function: u64, index: usize, offset: *mut usize, size: *mut usize);
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize);
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize);
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize);
    fn cuStreamCreate(stream: *mut u64, flags: u32);
    fn cuLaunchKernelEx(config: *const Config, function: u64, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    fn cuTensorMapEncodeTiled(
        map: *mut TensorMap, data_type: u32, rank: u32, address: u64, dims: *const u64,
        strides: *const u64, boxes: *const u32, elements: *const u32, interleave: u32,
        swizzle: u32, l2: u32, fill: u32
    );
    fn cuGetErrorName(code: u32, name: *mut *const c_char);
}

/// `CUtensorMap`.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorMap(pub(crate) [u8; 128]);

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

impl Attribute {
    fn new(id: u32, words: &[u32]) -> Self {
        let mut value = [0; 16];
        value[..words.len()].copy_from_slice(words);
        Self { id, pad: 0, value }
    }

    pub(crate) fn cooperative() -> Self {
        Self::new(2, &[1])
    }

    pub(crate) fn cluster(shape: [u32; 3]) -> Self {
        Self::new(4, &shape)
    }

    /// Programmatic stream serialisation.
    pub(crate) fn programmatic() -> Self {
        Self::new(6, &[1])
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
    pub(crate) stream: u64,
    attributes: *const Attribute,
    count: u32,
}

impl Config {
    pub(crate) fn new(shape: [[u32; 3]; 2], shared: u32, stream: u64) -> Self {
        let [grid, block] = shape;
        let (attributes, count) = (std::ptr::null(), 0);
        Self {
            grid,
            block,
            shared,
            stream,
            attributes,
            count,
        }
    }
}

/// A loaded driver.
pub(crate) struct Driver {
    symbols: Symbols,
    library: Library,
}

fn checked(code: u32) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

macro_rules! call {
    ($self:ident.$name:ident($($arg:expr),* $(,)?)) => {{
        // SAFETY: see the head of this file.
        checked(unsafe { ($self.symbols.$name)($($arg),*) })
    }};
}

impl Driver {
    /// Loads a library by path or name.
    pub(crate) fn open(path: &str) -> Result<Self, String> {
        // SAFETY: a driver's initialisers may run; whoever names the library trusts it.
        let library = unsafe { Library::new(path) };
        let library = library.map_err(|e| format!("cannot load {path}: {e}"))?;
        let symbols = Symbols::load(&library)?;
        Ok(Self { symbols, library })
    }

    /// Initialises and makes the device's primary context current.
    pub(crate) fn start(&self, ordinal: i32) -> Result<(), Code> {
        call!(self.cuInit(0))?;
        let (mut device, mut context) = (0, 0);
        call!(self.cuDeviceGet(&raw mut device, ordinal))?;
        call!(self.cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        call!(self.cuCtxSetCurrent(context))
    }

    /// The name of device 0.
    pub(crate) fn name(&self) -> Result<String, Code> {
        let mut name = [0u8; 256];
        call!(self.cuDeviceGetName(name.as_mut_ptr().cast(), 255, 0))?;
        let text = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    /// The name of a result code.
    pub(crate) fn error_name(&self, code: Code) -> String {
        let mut name = std::ptr::null();
        if call!(self.cuGetErrorName(code.0, &raw mut name)).is_err() || name.is_null() {
            return format!("code {}", code.0);
        }
        // SAFETY: the driver gave a string that it never frees.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_string_lossy().into_owned()
    }

    /// `softgpuLastFault`, where the library has it.
    pub(crate) fn last_fault(&self) -> Option<String> {
        type Text = unsafe extern "C" fn(*mut c_char, usize) -> usize;
        // SAFETY: the type is the function's in softgpu.
        let give = unsafe { self.library.get::<Text>("softgpuLastFault") }.ok()?;
        let mut text = vec![0u8; 16384];
        // SAFETY: the buffer is as long as said.
        unsafe { give(text.as_mut_ptr().cast(), text.len()) };
        let text = CStr::from_bytes_until_nul(&text).ok()?;
        Some(text.to_string_lossy().into_owned())
    }

    /// Loads PTX text; the driver's log with the error.
    pub(crate) fn module(&self, text: &str) -> Result<u64, (Code, String)> {
        const ERROR_LOG: u32 = 5;
        const ERROR_LOG_BYTES: u32 = 6;
        let mut log = vec![0u8; 16384];
        let mut keys = [ERROR_LOG, ERROR_LOG_BYTES];
        let mut values = [
            log.as_mut_ptr().cast::<c_void>(),
            std::ptr::without_provenance_mut(log.len()),
        ];
        let text = CString::new(text).map_err(|e| (Code(1), e.to_string()))?;
        let mut module = 0;
        let loaded = call!(self.cuModuleLoadDataEx(
            &raw mut module,
            text.as_ptr().cast(),
            2,
            keys.as_mut_ptr(),
            values.as_mut_ptr(),
        ));
        loaded.map_err(|code| {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
            (code, log.to_string_lossy().into_owned())
        })?;
        Ok(module)
    }

    /// A function of a module.
    pub(crate) fn function(&self, module: u64, name: &str) -> Result<u64, Code> {
        let (mut function, name) = (0, CString::new(name).unwrap_or_default());
        call!(self.cuModuleGetFunction(&raw mut function, module, name.as_ptr()))?;
        Ok(function)
    }

    /// Address and size of a variable.
    pub(crate) fn variable(&self, module: u64, name: &str) -> Result<(u64, usize), Code> {
        let (mut address, mut bytes) = (0, 0);
        let name = CString::new(name).unwrap_or_default();
        let (at, size) = (&raw mut address, &raw mut bytes);
        call!(self.cuModuleGetGlobal_v2(at, size, module, name.as_ptr()))?;
        Ok((address, bytes))
    }

    /// Sets a function attribute.
    pub(crate) fn set_attribute(&self, function: u64, id: i32, value: i32) -> Result<(), Code> {
        call!(self.cuFuncSetAttribute(function, id, value))
    }

    /// The size of each parameter.
    pub(crate) fn parameter_sizes(&self, function: u64) -> Vec<usize> {
        let (mut sizes, mut offset, mut size) = (Vec::new(), 0, 0);
        let (at, bytes) = (&raw mut offset, &raw mut size);
        while call!(self.cuFuncGetParamInfo(function, sizes.len(), at, bytes)).is_ok() {
            sizes.push(size);
        }
        sizes
    }

    /// Allocates device memory.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<u64, Code> {
        let mut address = 0;
        call!(self.cuMemAlloc_v2(&raw mut address, bytes))?;
        Ok(address)
    }

    /// Writes device memory.
    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Code> {
        call!(self.cuMemcpyHtoD_v2(to, bytes.as_ptr().cast(), bytes.len()))
    }

    /// Reads device memory.
    pub(crate) fn read(&self, from: u64, bytes: usize) -> Result<Vec<u8>, Code> {
        let mut list = vec![0; bytes];
        call!(self.cuMemcpyDtoH_v2(list.as_mut_ptr().cast(), from, bytes))?;
        Ok(list)
    }

    /// A stream that does not wait for the default one.
    pub(crate) fn stream(&self) -> Result<u64, Code> {
        const NON_BLOCKING: u32 = 1;
        let mut stream = 0;
        call!(self.cuStreamCreate(&raw mut stream, NON_BLOCKING))?;
        Ok(stream)
    }

    /// Launches; one byte string per parameter.
    pub(crate) fn launch(
        &self,
        function: u64,
        mut config: Config,
        attributes: &[Attribute],
        parameters: &[Vec<u8>],
    ) -> Result<(), Code> {
        config.attributes = attributes.as_ptr();
        config.count = u32::try_from(attributes.len()).unwrap_or_default();
        let pointer = |p: &Vec<u8>| p.as_ptr().cast_mut().cast::<c_void>();
        let mut pointers: Vec<_> = parameters.iter().map(pointer).collect();
        let (list, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
        call!(self.cuLaunchKernelEx(&raw const config, function, list, none))
    }

    /// Waits for everything.
    pub(crate) fn synchronize(&self) -> Result<(), Code> {
        call!(self.cuCtxSynchronize())
    }

    /// Encodes a tensor map for an address.
    pub(crate) fn encode(&self, map: &crate::file::Map, address: u64) -> Result<TensorMap, Code> {
        let mut encoded = TensorMap([0; 128]);
        call!(self.cuTensorMapEncodeTiled(
            &raw mut encoded,
            map.data_type,
            u32::try_from(map.dims.len()).unwrap_or_default(),
            address,
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.boxes.as_ptr(),
            map.elements.as_ptr(),
            map.interleave,
            map.swizzle,
            map.l2,
            map.fill,
        ))?;
        Ok(encoded)
    }
}
