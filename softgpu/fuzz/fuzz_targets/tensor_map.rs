//! Tensor maps: encoded ones, and the arguments of `cuTensorMapEncodeTiled`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use softgpu::tensor::map::{BYTES, TensorMap, TiledArguments};

type Input = (
    [u8; BYTES],
    [u8; 6],
    u64,
    [u64; 5],
    [u64; 4],
    [u32; 5],
    [u32; 5],
);

fuzz_target!(|input: Input| {
    let (encoded, choices, address, dims, strides, boxes, elements) = input;
    if let Ok(map) = TensorMap::decode(&encoded) {
        let _ = (map.counts(), map.inner_bytes(), map.box_bytes());
        assert_eq!(TensorMap::decode(&map.encode()).as_ref(), Ok(&map));
    }
    let [data_type, rank, interleave, swizzle, l2_promotion, fill] = choices.map(u32::from);
    let arguments = TiledArguments {
        data_type,
        rank,
        address,
        dims: &dims,
        strides: &strides,
        box_dims: &boxes,
        element_strides: &elements,
        interleave,
        swizzle,
        l2_promotion,
        fill,
    };
    if let Ok(map) = TensorMap::tiled(&arguments) {
        assert_eq!(TensorMap::decode(&map.encode()).as_ref(), Ok(&map));
    }
});
