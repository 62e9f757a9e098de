//! Linking several PTX modules.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUjit_option as Option, CUjitInputType_enum as Input, CUresult};

use crate::support::{Context, DEFAULT, alloc, download, function, upload};

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

/// Declares a result of `store`, which has none, and none of `swap`, which has one.
const DISAGREES: &CStr = c".version 8.0
.target sm_90
.address_size 64
.extern .func (.param .b64 func_retval0) store
(
    .param .b64 store_param_0,
    .param .b32 store_param_1
)
;
.extern .func swap(.param .b64 _);
.visible .entry run(.param .u64 out)
{
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    { .param .b64 a; .param .b32 b; .param .b64 r;
    st.param.b64 [a], %rd1;
    st.param.b32 [b], 7;
    call.uni (r), store, (a, b);
    ld.param.b64 %rd2, [r]; }
    { .param .b64 a;
    st.param.b64 [a], %rd1;
    call.uni swap, (a); }
    ret;
}
";

const AGREES: &CStr = c".version 8.0
.target sm_90
.address_size 64
.visible .func store(.param .b64 p, .param .b32 v)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.b64 %rd1, [p];
    ld.param.b32 %r1, [v];
    st.global.u32 [%rd1], %r1;
    ret;
}
.visible .func (.param .b32 r) swap(.param .b64 p)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.b64 %rd1, [p];
    ld.global.u32 %r1, [%rd1];
    ld.global.u32 %r2, [%rd1+4];
    st.global.u32 [%rd1+4], %r1;
    st.global.u32 [%rd1], %r2;
    st.param.b32 [r], %r1;
    ret;
}
";

/// A linker goes by names: a result that nobody sets or nobody reads does no harm on a device.
#[test]
fn modules_may_disagree_about_a_result() {
    let _context = Context::new(0);
    for inputs in [[DISAGREES, AGREES], [AGREES, DISAGREES]] {
        let mut log = Log::new();
        let state = log.link();
        for ptx in inputs {
            assert_eq!(add(state, ptx, c"input"), CUresult::CUDA_SUCCESS);
        }
        let (mut image, mut bytes, mut module) = (null_mut(), 0, null_mut());
        cu!(cuLinkComplete(state, &mut image, &mut bytes));
        cu!(cuModuleLoadData(&mut module, image.cast_const()));
        cu!(cuLinkDestroy(state));
        let out = upload(&[1u32, 2]);
        let launched = launch!(function(module, "run"), [1; 3], [1; 3], 0, DEFAULT, [out]);
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
        cu!(cuCtxSynchronize());
        assert_eq!(download::<u32>(out, 2), [2, 7]);
    }
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

/// A member is named `b.ptx` and stands behind one that is machine code.
fn archive(ptx: &CStr) -> Vec<u8> {
    let members = [
        ("a.o/", &b"\x7fELF\x02"[..]),
        ("b.ptx/", ptx.to_bytes_with_nul()),
    ];
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, member) in members {
        let size = member.len();
        bytes.extend(format!("{name:<16}{:<32}{size:<10}`\n", "0").bytes());
        bytes.extend(member);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

/// Every thread asks for its rank and the grid's size; between barriers of the grid it adds its
/// rank + 1 to one of two sums, and reads what all have added.
const GRID: &CStr = c".version 8.0
.target sm_90
.address_size 64
.extern .func (.param .b64 r) cudaCGGetIntrinsicHandle(.param .b32 scope);
.extern .func (.param .b32 r) cudaCGSynchronize(.param .b64 handle, .param .b32 flags);
.extern .func (.param .b32 r) cudaCGGetSize(.param .b64 a, .param .b64 b, .param .b64 handle);
.extern .func (.param .b32 r) cudaCGGetRank(.param .b64 a, .param .b64 b, .param .b64 handle);
.visible .global .align 4 .u32 sums[2];
.visible .entry run(.param .u64 out)
{
    .reg .b32 %r<9>;
    .reg .b64 %rd<9>;
    .local .align 4 .b8 words[8];
    .param .b64 handle; .param .b32 scope; .param .b32 error; .param .b32 flags;
    .param .b64 first; .param .b64 second;
    st.param.b32 [scope], 1;
    call.uni (handle), cudaCGGetIntrinsicHandle, (scope);
    ld.param.b64 %rd1, [handle];
    st.param.b64 [handle], %rd1;
    mov.u64 %rd2, words;
    cvta.local.u64 %rd2, %rd2;
    mov.b32 %r2, 0;
    st.local.u32 [words], %r2;
    st.local.u32 [words+4], %r2;
    st.param.b64 [first], %rd2;
    st.param.b64 [second], 0;
    call.uni (error), cudaCGGetRank, (first, second, handle);
    ld.param.b32 %r1, [error];
    ld.local.u32 %r2, [words];
    add.u64 %rd3, %rd2, 4;
    st.param.b64 [first], %rd3;
    call.uni (error), cudaCGGetSize, (first, second, handle);
    ld.param.b32 %r3, [error];
    ld.local.u32 %r4, [words+4];
    or.b32 %r1, %r1, %r3;
    add.u32 %r5, %r2, 1;
    red.global.add.u32 [sums], %r5;
    st.param.b32 [flags], 0;
    call.uni (error), cudaCGSynchronize, (handle, flags);
    ld.param.b32 %r3, [error];
    or.b32 %r1, %r1, %r3;
    ld.global.u32 %r6, [sums];
    red.global.add.u32 [sums+4], %r6;
    call.uni (error), cudaCGSynchronize, (handle, flags);
    ld.param.b32 %r3, [error];
    or.b32 %r1, %r1, %r3;
    ld.global.u32 %r7, [sums+4];
    ld.param.u64 %rd4, [out];
    mul.wide.u32 %rd5, %r2, 16;
    add.u64 %rd4, %rd4, %rd5;
    st.global.v4.u32 [%rd4], {%r1, %r4, %r6, %r7};
    ret;
}
";

#[test]
fn an_archive_brings_cooperative_groups() {
    let _context = Context::new(0);
    let run = |archive: &[u8], inputs: &[&CStr]| {
        let mut log = Log::new();
        let state = log.link();
        for input in inputs {
            assert_eq!(add(state, input, c"input"), CUresult::CUDA_SUCCESS);
        }
        cu!(cuLinkAddData_v2(
            state,
            Input::CU_JIT_INPUT_LIBRARY,
            archive.as_ptr().cast_mut().cast(),
            archive.len(),
            c"library.a".as_ptr(),
            0,
            null_mut(),
            null_mut(),
        ));
        let (mut image, mut bytes, mut module) = (null_mut(), 0, null_mut());
        cu!(cuLinkComplete(state, &mut image, &mut bytes));
        cu!(cuModuleLoadData(&mut module, image.cast_const()));
        cu!(cuLinkDestroy(state));
        function(module, "run")
    };
    // The archive has a member that defines what the input refers to.
    run(&archive(MAKER), &[USER]);

    let function = run(&archive(MAKER), &[GRID]);
    let threads = 2 * 3 * 5 * 4 * 2;
    let out = alloc::<u32>(4 * threads as usize);
    let start = || {
        let mut parameters = [std::ptr::from_ref(&out).cast_mut().cast::<c_void>()];
        code!(cuLaunchCooperativeKernel(
            function,
            2,
            3,
            5,
            4,
            2,
            1,
            0,
            DEFAULT,
            parameters.as_mut_ptr()
        ))
    };
    assert_eq!(start(), CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    let sum = threads * (threads + 1) / 2;
    let expected = [0, threads, sum, sum * threads];
    let results = download::<u32>(out, 4 * threads as usize);
    for (rank, found) in results.chunks(4).enumerate() {
        assert_eq!(found, expected, "thread {rank}");
    }
    // Without a cooperative launch there is no grid to wait for: invalid value, and no sum of all.
    let launched = launch!(function, [1; 3], [1; 3], 0, DEFAULT, [out]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(out, 1)[0], 1);
}
