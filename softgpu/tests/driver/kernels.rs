//! Kernels compiled by nvcc, with checked results.

use std::ffi::c_void;

use cudarc::driver::sys::{CUfunction_attribute, CUresult};

use crate::support::{
    BASIC, Context, DEFAULT, alloc, assert_same, download, function, module, upload,
};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

#[test]
fn vectors_are_added() {
    let _context = Context::new(0);
    let add = function(module(BASIC), "vector_add");
    let n = 10_007i32;
    let count = usize::try_from(n).unwrap();
    let a: Vec<f32> = (0u16..10_007).map(|i| f32::from(i) * 0.5).collect();
    let b: Vec<f32> = a.iter().map(|x| 1.0 - 3.0 * x).collect();
    let (da, db, dc) = (upload(&a), upload(&b), alloc::<f32>(count));
    assert_eq!(
        launch!(add, [40, 1, 1], [256, 1, 1], 0, DEFAULT, [da, db, dc, n]),
        OK
    );
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_same(&download::<f32>(dc, count), &expected);
}

#[test]
fn sums_meet_in_an_atomic() {
    let _context = Context::new(1);
    let sum = function(module(BASIC), "sum_atomic");
    let values: Vec<u32> = (0..50_000u32)
        .map(|i| i.wrapping_mul(2_654_435_761))
        .collect();
    let (data, total) = (upload(&values), upload(&[0u64]));
    assert_eq!(
        launch!(
            sum,
            [17, 1, 1],
            [160, 1, 1],
            0,
            DEFAULT,
            [data, 50_000i32, total]
        ),
        OK
    );
    let expected: u64 = values.iter().map(|&v| u64::from(v)).sum();
    assert_eq!(download::<u64>(total, 1), [expected]);
}

#[test]
fn variables_are_initialised_and_relocated() {
    let _context = Context::new(0);
    let module = module(BASIC);
    let out = alloc::<f32>(4);
    let read = function(module, "read_globals");
    assert_eq!(launch!(read, [1; 3], [4, 1, 1], 0, DEFAULT, [out]), OK);
    assert_eq!(download::<f32>(out, 4), [1002.5, 1025.0, 1250.0, 3500.0]);
    let (mut at, mut bytes) = (0, 0);
    cu!(cuModuleGetGlobal_v2(
        &mut at,
        &mut bytes,
        module,
        c"table".as_ptr()
    ));
    assert_eq!(bytes, 16);
    cu!(cuMemsetD32_v2(at, 2, 4));
    assert_eq!(launch!(read, [1; 3], [4, 1, 1], 0, DEFAULT, [out]), OK);
    assert_eq!(download::<f32>(out, 4), [7.0; 4]);
    // A variable is the module's: to free it would leave its code with a dangling address.
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(code!(cuMemFree_v2(at)), invalid);
    assert_eq!(code!(cuMemFreeAsync(at, DEFAULT)), invalid);
    assert_eq!(launch!(read, [1; 3], [4, 1, 1], 0, DEFAULT, [out]), OK);
    assert_eq!(download::<f32>(out, 4), [7.0; 4]);
    assert_eq!(
        code!(cuModuleGetGlobal_v2(
            &mut at,
            &mut bytes,
            module,
            c"nothing".as_ptr()
        )),
        CUresult::CUDA_ERROR_NOT_FOUND
    );
}

#[repr(C)]
struct Odd {
    tag: i8,
    value: f64,
    pair: [i16; 3],
}

#[test]
fn parameters_of_all_sizes_arrive() {
    let _context = Context::new(0);
    let pack = function(module(BASIC), "pack");
    let out = alloc::<f64>(7);
    let odd = Odd {
        tag: -3,
        value: 2.5,
        pair: [1, 2, -300],
    };
    let expected = [-7.0, 1234.0, -3.0, 2.5, -300.0, 99_999.0, -1e12];
    let params = (-7i8, 1234i16, 99_999i32, -1_000_000_000_000i64);
    let launched = launch!(
        pack,
        [1; 3],
        [1; 3],
        0,
        DEFAULT,
        [out, params.0, params.1, odd, params.2, params.3]
    );
    assert_eq!(launched, OK);
    assert_eq!(download::<f64>(out, 7), expected);
    // The same through a buffer; offsets as the function says.
    let mut buffer = vec![0u8; 256];
    let mut put = |index: usize, bytes: &[u8]| {
        let (mut offset, mut size) = (0, 0);
        cu!(cuFuncGetParamInfo(pack, index, &mut offset, &mut size));
        assert!(bytes.len() <= size, "parameter {index}");
        buffer[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &out.to_le_bytes());
    put(1, &params.0.to_le_bytes());
    put(2, &params.1.to_le_bytes());
    let mut tag = [0u8; 24];
    tag[0] = 0xFD;
    tag[8..16].copy_from_slice(&2.5f64.to_le_bytes());
    tag[20..22].copy_from_slice(&(-300i16).to_le_bytes());
    put(3, &tag);
    put(4, &params.2.to_le_bytes());
    put(5, &params.3.to_le_bytes());
    cu!(cuMemsetD8_v2(out, 0, 56));
    let mut size = buffer.len();
    let mut extra: [*mut c_void; 5] = [
        std::ptr::without_provenance_mut(1),
        buffer.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(2),
        (&raw mut size).cast(),
        std::ptr::null_mut(),
    ];
    let none = std::ptr::null_mut();
    cu!(cuLaunchKernel(
        pack,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        DEFAULT,
        none,
        extra.as_mut_ptr()
    ));
    assert_eq!(download::<f64>(out, 7), expected);
}

#[test]
fn shared_memory_needs_the_opt_in() {
    let _context = Context::new(0);
    let reverse = function(module(BASIC), "reverse_shared");
    let data: Vec<i32> = (0..50_000).collect();
    let at = upload(&data);
    let bytes = 200_000u32;
    let go = || {
        launch!(
            reverse,
            [1; 3],
            [1024, 1, 1],
            bytes,
            DEFAULT,
            [at, 50_000i32]
        )
    };
    assert_eq!(go(), INVALID);
    use CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
    assert_eq!(code!(cuFuncSetAttribute(reverse, LIMIT, 232_449)), INVALID);
    cu!(cuFuncSetAttribute(reverse, LIMIT, 200_000));
    assert_eq!(go(), OK);
    let expected: Vec<i32> = data.iter().rev().copied().collect();
    assert_same(&download::<i32>(at, 50_000), &expected);
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let _context = Context::new(0);
    let module = module(BASIC);
    let bounded = function(module, "bounded");
    let out = alloc::<i32>(1024);
    let go = |grid, block| launch!(bounded, grid, block, 0, DEFAULT, [out]);
    assert_eq!(go([1; 3], [64, 1, 1]), OK);
    assert_eq!(go([1; 3], [65, 1, 1]), INVALID);
    assert_eq!(go([1; 3], [0, 1, 1]), INVALID);
    assert_eq!(go([0, 1, 1], [1; 3]), INVALID);
    assert_eq!(go([1, 65_536, 1], [1; 3]), INVALID);
    let add = function(module, "vector_add");
    assert_eq!(
        launch!(add, [1; 3], [1025, 1, 1], 0, DEFAULT, [out, out, out, 0i32]),
        INVALID
    );
    let mut list: [*mut c_void; 1] = [(&raw const out).cast_mut().cast()];
    let too_large = code!(cuLaunchCooperativeKernel(
        bounded,
        32 * 132 + 1,
        1,
        1,
        64,
        1,
        1,
        0,
        DEFAULT,
        list.as_mut_ptr()
    ));
    assert_eq!(too_large, CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    let mut blocks = 0;
    cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut blocks,
        bounded,
        64,
        0
    ));
    assert_eq!(blocks, 32);
    cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut blocks,
        add,
        256,
        100 << 10
    ));
    assert_eq!(blocks, 2);
    let mut value = 0;
    let max = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    cu!(cuFuncGetAttribute(&mut value, max, bounded));
    assert_eq!(value, 64);
    cu!(cuCtxSynchronize());
}
