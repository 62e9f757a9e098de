//! Loading code: errors with their place, libraries, the linker.

use std::ffi::{CString, c_void};

use cudarc::driver::sys::{CUfunction_attribute, CUjit_option, CUjitInputType, CUresult};

use crate::support::{BASIC, Context, DEFAULT, alloc, download, function, module, try_module};

fn none<T>() -> *mut T {
    std::ptr::null_mut()
}

/// A module that is fine but for one line.
fn with_line(line: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry bad()\n{{\n.reg .b32 r<4>;\n{line}\nret;\n}}\n"
    )
}

fn load_log(ptx: &str) -> (CUresult, String) {
    let text = CString::new(ptx).unwrap();
    let mut log = vec![0u8; 500];
    let mut keys = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values: [*mut c_void; 2] = [
        log.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(log.len()),
    ];
    let mut module = std::ptr::null_mut();
    let result = code!(cuModuleLoadDataEx(
        &mut module,
        text.as_ptr().cast(),
        2,
        keys.as_mut_ptr(),
        values.as_mut_ptr(),
    ));
    log.truncate(values[1].addr());
    (result, String::from_utf8(log).unwrap())
}

#[test]
fn unsupported_instructions_are_refused_at_load_with_their_line() {
    let _context = Context::new(0);
    let (result, log) = load_log(&with_line("tcgen05.wait::ld.sync.aligned;"));
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(
        log.contains("7:") && log.contains("unsupported") && log.contains("tcgen05"),
        "{log}"
    );
    let (result, log) = load_log(&with_line("add.s32 r1 r2, r3;"));
    assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(log.contains("7:"), "{log}");
    assert_eq!(
        load_log(&with_line("add.s32 r1, r2, r3;")),
        (CUresult::CUDA_SUCCESS, String::new())
    );
}

#[test]
fn machine_code_is_refused() {
    let _context = Context::new(0);
    let mut module = std::ptr::null_mut();
    let elf = b"\x7fELF\x02\x01\x01\0";
    let result = code!(cuModuleLoadData(&mut module, elf.as_ptr().cast()));
    assert_eq!(result, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(
        try_module("not PTX at all").err(),
        Some(CUresult::CUDA_ERROR_INVALID_PTX)
    );
}

#[test]
fn unloaded_modules_are_gone() {
    let _context = Context::new(0);
    let module = module(BASIC);
    let write = function(module, "write_at");
    cu!(cuModuleUnload(module));
    let handle = CUresult::CUDA_ERROR_INVALID_HANDLE;
    assert_eq!(code!(cuModuleUnload(module)), handle);
    assert_eq!(
        launch!(write, [1; 3], [1; 3], 0, DEFAULT, [0u64, 0i32]),
        handle
    );
}

#[test]
fn kernels_of_a_library_run_in_every_context() {
    let _context = Context::new(0);
    let text = CString::new(BASIC).unwrap();
    let (mut library, mut kernel) = (std::ptr::null_mut(), std::ptr::null_mut());
    cu!(cuLibraryLoadData(
        &mut library,
        text.as_ptr().cast(),
        none(),
        none(),
        0,
        none(),
        none(),
        0
    ));
    cu!(cuLibraryGetKernel(
        &mut kernel,
        library,
        c"write_at".as_ptr()
    ));
    for device in [0, 3] {
        let _context = Context::new(device);
        let word = alloc::<i32>(1);
        // A kernel handle may stand for a function of the current context.
        assert_eq!(
            launch!(kernel.cast(), [1; 3], [1; 3], 0, DEFAULT, [word, device]),
            CUresult::CUDA_SUCCESS
        );
        assert_eq!(download::<i32>(word, 1), [device]);
    }
    cu!(cuLibraryUnload(library));
    assert_eq!(
        code!(cuLibraryUnload(library)),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn the_linker_passes_ptx_through() {
    let _context = Context::new(0);
    let mut link = std::ptr::null_mut();
    cu!(cuLinkCreate_v2(0, none(), none(), &mut link));
    let mut text = CString::new(BASIC).unwrap().into_bytes_with_nul();
    cu!(cuLinkAddData_v2(
        link,
        CUjitInputType::CU_JIT_INPUT_PTX,
        text.as_mut_ptr().cast(),
        text.len(),
        c"basic".as_ptr(),
        0,
        none(),
        none(),
    ));
    let (mut image, mut bytes) = (std::ptr::null_mut(), 0);
    cu!(cuLinkComplete(link, &mut image, &mut bytes));
    let mut module = std::ptr::null_mut();
    cu!(cuModuleLoadData(&mut module, image));
    cu!(cuLinkDestroy(link));
    assert!(bytes > 1000 && !function(module, "vector_add").is_null());
}

#[test]
fn constant_memory_of_the_module_is_an_attribute() {
    let _context = Context::new(0);
    let module = module(
        ".version 9.0\n.target sm_90a\n.address_size 64\n\
         .const .align 8 .b8 table[80];\n.const .u32 one = 1;\n.global .b8 other[100];\n\
         .visible .entry reads()\n{\nret;\n}\n",
    );
    let reads = function(module, "reads");
    let mut bytes = 0;
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES;
    cu!(cuFuncGetAttribute(&mut bytes, attribute, reads));
    assert_eq!(bytes, 84);
}
