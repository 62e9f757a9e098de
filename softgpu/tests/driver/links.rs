//! Linking several PTX modules.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUjit_option as Option, CUjitInputType_enum as Input, CUresult};

use crate::support::{Context, DEFAULT, alloc, download, function};

const USER: &CStr = c".version 8.0
.target sm_90
.address_size 64
.extern .func (.param .b32 r) twice (.param .b32 x);
.extern .global .align 4 .u32 word;
.global .align 4 .u32 secret = 1000;
.visible .entry run(.param .u64 out)
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.global.u32 %r1, [word];
    { .param .b32 a; .param .b32 b;
    st.param.b32 [a], %r1;
    call.uni (b), twice, (a);
    ld.param.b32 %r2, [b]; }
    ld.global.u32 %r3, [secret];
    add.u32 %r4, %r2, %r3;
    st.global.u32 [%rd1], %r4;
    ret;
}
";

const MAKER: &CStr = c".version 7.8
.target sm_80
.address_size 64
.visible .global .align 4 .u32 word = 21;
.global .align 4 .u32 secret = 1;
.visible .func (.param .b32 r) twice (.param .b32 x)
{
    .reg .b32 %r<5>;
    ld.param.b32 %r1, [x];
    ld.global.u32 %r2, [secret];
    add.u32 %r3, %r1, %r1;
    add.u32 %r4, %r3, %r2;
    st.param.b32 [r], %r4;
    ret;
}
";

/// Options with an error log, and the log.
struct Log {
    keys: [Option; 5],
    values: [*mut c_void; 5],
    errors: Box<[u8; 1024]>,
    _infos: Box<[u8; 64]>,
}

impl Log {
    fn new() -> Self {
        let mut errors = Box::new([0; 1024]);
        let mut infos = Box::new([0; 64]);
        let number = |n: usize| std::ptr::without_provenance_mut(n);
        Self {
            keys: [
                Option::CU_JIT_ERROR_LOG_BUFFER,
                Option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
                Option::CU_JIT_INFO_LOG_BUFFER,
                Option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
                Option::CU_JIT_WALL_TIME,
            ],
            values: [
                errors.as_mut_ptr().cast(),
                number(1024),
                infos.as_mut_ptr().cast(),
                number(64),
                number(usize::MAX),
            ],
            errors,
            _infos: infos,
        }
    }

    fn link(&mut self) -> sys::CUlinkState {
        let mut state = null_mut();
        cu!(cuLinkCreate_v2(
            5,
            self.keys.as_mut_ptr(),
            self.values.as_mut_ptr(),
            &mut state
        ));
        state
    }

    fn text(&self) -> &str {
        CStr::from_bytes_until_nul(&*self.errors)
            .unwrap()
            .to_str()
            .unwrap()
    }
}

fn add(state: sys::CUlinkState, ptx: &CStr, name: &CStr) -> CUresult {
    code!(cuLinkAddData_v2(
        state,
        Input::CU_JIT_INPUT_PTX,
        ptx.as_ptr().cast_mut().cast(),
        ptx.to_bytes_with_nul().len(),
        name.as_ptr(),
        0,
        null_mut(),
        null_mut(),
    ))
}

#[test]
fn functions_and_variables_are_found_across_modules() {
    let _context = Context::new(0);
    let mut log = Log::new();
    let state = log.link();
    assert_eq!(add(state, USER, c"user.ptx"), CUresult::CUDA_SUCCESS);
    assert_eq!(add(state, MAKER, c"maker.ptx"), CUresult::CUDA_SUCCESS);
    let (mut image, mut bytes) = (null_mut(), 0);
    cu!(cuLinkComplete(state, &mut image, &mut bytes));
    assert!(bytes > 100);
    assert_eq!(log.values[1].addr(), 0);
    // The wall time, a float in the low half of its slot.
    assert_ne!(log.values[4].addr(), usize::MAX);
    let mut module = null_mut();
    cu!(cuModuleLoadData(&mut module, image.cast_const()));
    cu!(cuLinkDestroy(state));
    let out = alloc::<u32>(1);
    let launched = launch!(function(module, "run"), [1; 3], [1; 3], 0, DEFAULT, [out]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(out, 1), [2 * 21 + 1 + 1000]);
    assert_eq!(
        code!(cuLinkDestroy(state)),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn what_cannot_be_linked_is_said_in_the_log() {
    let _context = Context::new(0);
    let (mut image, mut bytes) = (null_mut(), 0);
    for (inputs, expected) in [
        ([USER, USER], "`run` is defined in 0 and in 1"),
        (
            [USER, c".version 8.0\n.target sm_90\n.address_size 64\n"],
            "reference to `twice` in 0",
        ),
    ] {
        let mut log = Log::new();
        let state = log.link();
        for (ptx, name) in inputs.iter().zip([c"0", c"1"]) {
            assert_eq!(add(state, ptx, name), CUresult::CUDA_SUCCESS);
        }
        assert_eq!(
            code!(cuLinkComplete(state, &mut image, &mut bytes)),
            CUresult::CUDA_ERROR_INVALID_PTX
        );
        assert!(log.text().contains(expected), "{}", log.text());
        assert_eq!(log.values[1].addr(), log.text().len());
        cu!(cuLinkDestroy(state));
    }
    let mut log = Log::new();
    let state = log.link();
    assert_eq!(
        add(state, c"garbage", c"g"),
        CUresult::CUDA_ERROR_INVALID_PTX
    );
    assert!(log.text().contains("1:1"), "{}", log.text());
    assert_eq!(
        add(state, c"\x7fELF", c"cubin"),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    assert_eq!(
        code!(cuLinkComplete(state, &mut image, &mut bytes)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        code!(cuLinkAddFile_v2(
            state,
            Input::CU_JIT_INPUT_PTX,
            c"/no/such/file".as_ptr(),
            0,
            null_mut(),
            null_mut()
        )),
        CUresult::CUDA_ERROR_FILE_NOT_FOUND
    );
}
