//! Tensor copies, mbarriers, wgmma and clusters.

use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUresult, CUtensorMap, CUtensorMapDataType,
    CUtensorMapSwizzle,
};

use crate::support::{
    Context, DEFAULT, HOPPER, alloc, assert_same, download, function, module, upload,
};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// A tensor map over a row-major matrix.
fn map_2d(
    (data, swizzle): (CUtensorMapDataType, CUtensorMapSwizzle),
    at: u64,
    (columns, rows, pitch): (u64, u64, u64),
    tile: [u32; 2],
) -> (CUresult, CUtensorMap) {
    let mut map = CUtensorMap { opaque: [0; 16] };
    let result = code!(cuTensorMapEncodeTiled(
        &mut map,
        data,
        2,
        std::ptr::without_provenance_mut(usize::try_from(at).unwrap()),
        [columns, rows].as_ptr(),
        [pitch].as_ptr(),
        tile.as_ptr(),
        [1, 1].as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
        sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    ));
    (result, map)
}

const FLOATS: (CUtensorMapDataType, CUtensorMapSwizzle) = (
    CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
);
const BYTES: (CUtensorMapDataType, CUtensorMapSwizzle) = (
    CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
    CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
);

#[test]
fn tiles_arrive_and_edges_read_zero() {
    let _context = Context::new(0);
    let copy = function(module(HOPPER), "tile_copy");
    let (columns, rows) = (50u16, 13u16);
    let pitch = 52usize;
    let mut data = vec![f32::NAN; pitch * usize::from(rows)];
    for row in 0..rows {
        for column in 0..columns {
            data[usize::from(row) * pitch + usize::from(column)] = f32::from(row * 100 + column);
        }
    }
    let at = upload(&data);
    let shape = (u64::from(columns), u64::from(rows), 4 * pitch as u64);
    let (made, map) = map_2d(FLOATS, at, shape, [32, 8]);
    assert_eq!(made, OK);
    let out = alloc::<f32>(64 * 16);
    cu!(cuMemsetD8_v2(out, 0xFF, 64 * 16 * 4));
    assert_eq!(
        launch!(copy, [2, 2, 1], [32, 1, 1], 0, DEFAULT, [map, out]),
        OK
    );
    let expected: Vec<f32> = (0..16u16)
        .flat_map(|row| (0..64u16).map(move |column| (row, column)))
        .map(|(r, c)| {
            if r < rows && c < columns {
                f32::from(r * 100 + c)
            } else {
                0.0
            }
        })
        .collect();
    assert_same(&download::<f32>(out, 64 * 16), &expected);
    let (refused, _) = map_2d(FLOATS, at + 4, shape, [32, 8]);
    assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE);
    let (refused, _) = map_2d(FLOATS, at, shape, [32, 257]);
    assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE);
}

/// The value of an e4m3 code, by the definition of the format.
fn e4m3(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match exponent {
        0 => fraction / 8.0 * 2f64.powi(-6),
        e => (1.0 + fraction / 8.0) * 2f64.powi(e - 7),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Operands with two mantissa bits and exponents close together: every product and partial sum
/// fits the 13 fraction bits of Hopper's FP8 accumulation, so the result must be exact.
#[test]
fn wgmma_multiplies_exactly_where_sums_are_short() {
    let _context = Context::new(0);
    let kernel = function(module(HOPPER), "wgmma_e4m3");
    let code = |seed: usize| -> u8 {
        let mix = seed.wrapping_mul(0x9E37_79B9).wrapping_add(seed >> 3) >> 7;
        let sign = if mix & 1 == 0 { 0 } else { 0x80 };
        match mix >> 1 & 3 {
            0 => 0,
            n => sign | 0x38 | u8::try_from(n - 1).unwrap() << 2,
        }
    };
    let a: Vec<u8> = (0..64 * 128).map(code).collect();
    let b: Vec<u8> = (0..8 * 128).map(|i| code(i + 1_000_003)).collect();
    let (da, db, d) = (upload(&a), upload(&b), alloc::<f32>(64 * 8));
    let (made_a, map_a) = map_2d(BYTES, da, (128, 64, 128), [128, 64]);
    let (made_b, map_b) = map_2d(BYTES, db, (128, 8, 128), [128, 8]);
    assert_eq!((made_a, made_b), (OK, OK));
    assert_eq!(
        launch!(kernel, [1; 3], [128, 1, 1], 0, DEFAULT, [map_a, map_b, d]),
        OK
    );
    let found = download::<f32>(d, 64 * 8);
    let mut nonzero = 0;
    for row in 0..64 {
        for column in 0..8 {
            let product = |k: usize| e4m3(a[row * 128 + k]) * e4m3(b[column * 128 + k]);
            let expected: f64 = (0..128).map(product).sum();
            let value = f64::from(found[row * 8 + column]);
            assert_eq!(value, expected, "D[{row}, {column}]");
            nonzero += usize::from(expected != 0.0);
        }
    }
    assert!(nonzero > 400, "{nonzero} of 512 elements are not zero");
}

#[test]
fn clusters_share_memory() {
    let _context = Context::new(0);
    let kernel = function(module(HOPPER), "cluster_ranks");
    let out = alloc::<u32>(12);
    let go = |grid: u32, cluster: u32| {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { pad: [0; 64] },
        };
        attribute.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
            x: cluster,
            y: 1,
            z: 1,
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: DEFAULT,
            attrs: &mut attribute,
            numAttrs: 1,
        };
        let mut list = [(&raw const out).cast_mut().cast()];
        code!(cuLaunchKernelEx(
            &config,
            kernel,
            list.as_mut_ptr(),
            std::ptr::null_mut()
        ))
    };
    assert_eq!(go(12, 4), OK);
    let expected: Vec<u32> = (0..12).map(|block| (block + 3) % 4 + 400).collect();
    assert_same(&download::<u32>(out, 12), &expected);
    assert_eq!(go(10, 4), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(go(16, 16), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
}
