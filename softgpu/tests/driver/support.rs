//! Opening the library, contexts of a test's own, modules, buffers.

#![expect(unsafe_code, reason = "the driver API is C")]

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUcontext, CUfunction, CUmodule, CUresult, CUstream};

/// PTX of `testdata/kernels/basic.cu`.
pub(crate) const BASIC: &str = include_str!("../../testdata/kernels/basic.ptx");
/// PTX of `testdata/kernels/hopper.cu`.
pub(crate) const HOPPER: &str = include_str!("../../testdata/kernels/hopper.ptx");

/// Calls a driver function and gives its result code.
macro_rules! code {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        $crate::support::library();
        #[expect(unsafe_code, reason = "the driver API is C")]
        // SAFETY: the test passes what the function asks for, or checks how it is refused.
        let result = unsafe { cudarc::driver::sys::$name($($arg),*) };
        result
    }};
}

/// Calls a driver function that must succeed.
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        let result = code!($name($($arg),*));
        let success = cudarc::driver::sys::CUresult::CUDA_SUCCESS;
        let why = $crate::support::last_fault();
        assert_eq!(result, success, "{}: {why}", stringify!($name));
    }};
}

/// Launches a function on a stream; the parameters are any values.
macro_rules! launch {
    ($f:expr, $grid:expr, $block:expr, $shared:expr, $stream:expr, [$($param:expr),* $(,)?]) => {{
        let (grid, block): ([u32; 3], [u32; 3]) = ($grid, $block);
        // The array stands in the call, so that parameters that are temporaries live as long.
        code!(cuLaunchKernel(
            $f, grid[0], grid[1], grid[2], block[0], block[1], block[2], $shared, $stream,
            [$(std::ptr::from_ref(&$param).cast_mut().cast::<std::ffi::c_void>()),*].as_mut_ptr(),
            std::ptr::null_mut(),
        ))
    }};
}

/// The library, opened so that cudarc finds it by its SONAME.
pub(crate) fn library() -> &'static libloading::Library {
    static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let path = test.with_file_name("libsoftgpu.so");
        // SAFETY: the library's initialisers do nothing.
        let library = unsafe { libloading::Library::new(&path) };
        let library = library.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // SAFETY: the signature is cuda.h's.
        let init = unsafe { library.get::<unsafe extern "C" fn(u32) -> u32>(b"cuInit") };
        // SAFETY: no pointers.
        assert_eq!(unsafe { init.unwrap()(0) }, 0);
        library
    })
}

/// The text that one of softgpu's own entry points gives.
pub(crate) fn text_of(name: &[u8]) -> String {
    type Text = unsafe extern "C" fn(*mut c_char, usize) -> usize;
    // SAFETY: the signature is the library's.
    let give = unsafe { library().get::<Text>(name) }.unwrap();
    // SAFETY: null is allowed with size 0.
    let length = unsafe { give(std::ptr::null_mut(), 0) };
    let mut text = vec![0u8; length + 1];
    // SAFETY: the buffer is as long as said.
    unsafe { give(text.as_mut_ptr().cast(), text.len()) };
    text.truncate(text.iter().position(|&b| b == 0).unwrap());
    String::from_utf8(text).unwrap()
}

/// `softgpuLastFault`. Tests run side by side, so another test may have written it.
pub(crate) fn last_fault() -> String {
    text_of(b"softgpuLastFault")
}

/// A context of the test's own, current in this thread until dropped.
#[derive(Debug)]
pub(crate) struct Context(pub(crate) CUcontext);

impl Context {
    /// On a device.
    pub(crate) fn new(device: i32) -> Self {
        library();
        let mut context = std::ptr::null_mut();
        cu!(cuCtxCreate_v4(
            &mut context,
            std::ptr::null_mut(),
            0,
            device
        ));
        Self(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let gone = code!(cuCtxDestroy_v2(self.0));
        assert!(gone == CUresult::CUDA_SUCCESS || std::thread::panicking());
    }
}

/// Loads PTX text.
pub(crate) fn try_module(ptx: &str) -> Result<CUmodule, CUresult> {
    let text = CString::new(ptx).unwrap();
    let mut module = std::ptr::null_mut();
    match code!(cuModuleLoadData(&mut module, text.as_ptr().cast())) {
        CUresult::CUDA_SUCCESS => Ok(module),
        error => Err(error),
    }
}

/// Loads PTX text that must load.
pub(crate) fn module(ptx: &str) -> CUmodule {
    try_module(ptx).unwrap_or_else(|e| panic!("{e:?}: {}", last_fault()))
}

/// A function of a module.
pub(crate) fn function(module: CUmodule, name: &str) -> CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = std::ptr::null_mut();
    cu!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

/// Types that are plain bytes.
pub(crate) trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}

/// Allocates device memory for `count` values.
pub(crate) fn alloc<T: Plain>(count: usize) -> sys::CUdeviceptr {
    let mut pointer = 0;
    cu!(cuMemAlloc_v2(&mut pointer, count * size_of::<T>()));
    pointer
}

/// Copies a slice to new device memory.
pub(crate) fn upload<T: Plain>(values: &[T]) -> sys::CUdeviceptr {
    let pointer = alloc::<T>(values.len());
    let bytes = size_of_val(values);
    cu!(cuMemcpyHtoD_v2(
        pointer,
        values.as_ptr().cast::<c_void>(),
        bytes
    ));
    pointer
}

/// Copies device memory back.
pub(crate) fn download<T: Plain>(pointer: sys::CUdeviceptr, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let bytes = count * size_of::<T>();
    cu!(cuMemcpyDtoH_v2(
        values.as_mut_ptr().cast::<c_void>(),
        pointer,
        bytes
    ));
    values
}

/// The null stream.
pub(crate) const DEFAULT: CUstream = std::ptr::null_mut();

/// A stream of the current context.
pub(crate) fn stream(flags: u32) -> CUstream {
    let mut stream = std::ptr::null_mut();
    cu!(cuStreamCreate(&mut stream, flags));
    stream
}

/// Compares and names the first difference.
pub(crate) fn assert_same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(i) = differs {
        panic!(
            "element {i}: found {:?}, expected {:?}",
            found[i], expected[i]
        );
    }
}
