//! Every documented rule of `cuTensorMapEncodeTiled` refuses, and maps survive plain memory.

use super::map::{BYTES, DataType, Field, TensorMap, TensorMapError, TiledArguments, replace};

const VALID: TiledArguments<'static> = TiledArguments {
    data_type: 9,
    rank: 3,
    address: 0x0200_0000_0010,
    dims: &[1 << 32, 77, 5],
    strides: &[8 << 30, 1 << 39],
    box_dims: &[64, 256, 3],
    element_strides: &[1, 2, 8],
    interleave: 0,
    swizzle: 3,
    l2_promotion: 3,
    fill: 1,
};

fn refuse(change: impl Fn(&mut TiledArguments<'static>)) -> TensorMapError {
    let mut args = VALID;
    change(&mut args);
    TensorMap::tiled(&args).expect_err("a broken rule")
}

#[test]
fn every_rule_refuses() {
    use TensorMapError as E;
    assert_eq!(refuse(|a| a.rank = 0), E::Rank { rank: 0 });
    assert_eq!(refuse(|a| a.rank = 6), E::Rank { rank: 6 });
    assert_eq!(refuse(|a| a.rank = 4), E::Rank { rank: 4 });
    assert_eq!(
        refuse(|a| a.address += 8),
        E::Address {
            address: VALID.address + 8,
            align: 16,
        }
    );
    assert_eq!(
        refuse(|a| a.dims = &[64, 0, 5]),
        E::Dimension { index: 1, value: 0 }
    );
    assert_eq!(
        refuse(|a| a.dims = &[(1 << 32) + 1, 7, 5]),
        E::Dimension {
            index: 0,
            value: (1 << 32) + 1
        }
    );
}

#[test]
fn every_extent_rule_refuses() {
    use TensorMapError as E;
    assert_eq!(
        refuse(|a| a.strides = &[24, 64]),
        E::Stride {
            index: 0,
            value: 24
        }
    );
    assert_eq!(
        refuse(|a| a.strides = &[16, 1 << 40]),
        E::Stride {
            index: 1,
            value: 1 << 40
        }
    );
    assert_eq!(
        refuse(|a| a.box_dims = &[64, 257, 1]),
        E::BoxDimension {
            index: 1,
            value: 257
        }
    );
    assert_eq!(
        refuse(|a| a.box_dims = &[64, 1, 0]),
        E::BoxDimension { index: 2, value: 0 }
    );
    assert_eq!(
        refuse(|a| a.box_dims = &[12, 1, 1]),
        E::InnerExtent { bytes: 24 }
    );
    assert_eq!(
        refuse(|a| a.box_dims = &[128, 1, 1]),
        E::SwizzleExtent {
            bytes: 256,
            width: 128
        }
    );
    assert_eq!(
        refuse(|a| a.swizzle = 2),
        E::SwizzleExtent {
            bytes: 128,
            width: 64
        }
    );
    assert_eq!(
        refuse(|a| a.element_strides = &[1, 9, 1]),
        E::ElementStride { index: 1, value: 9 }
    );
    assert_eq!(
        refuse(|a| a.element_strides = &[1, 1, 0]),
        E::ElementStride { index: 2, value: 0 }
    );
}

#[test]
fn every_enumeration_refuses() {
    use TensorMapError as E;
    assert_eq!(refuse(|a| a.data_type = 1), E::NanFill);
    for (name, change) in [
        (
            "data type",
            (|a| a.data_type = 16) as fn(&mut TiledArguments<'static>),
        ),
        ("interleave", |a| a.interleave = 3),
        ("swizzle", |a| a.swizzle = 7),
        ("L2 promotion", |a| a.l2_promotion = 4),
        ("out-of-bounds fill", |a| a.fill = 2),
    ] {
        assert!(
            matches!(refuse(change), E::Enum { name: n, .. } if n == name),
            "{name}"
        );
    }
    for change in [
        (|a| a.data_type = 13) as fn(&mut TiledArguments<'static>),
        |a| (a.interleave, a.rank) = (1, 3),
        |a| a.swizzle = 4,
    ] {
        assert!(matches!(refuse(change), E::Unsupported { .. }));
    }
    assert!(TensorMap::tiled(&VALID).is_ok());
}

/// The sentences on interleaved layouts in the documentation of `cuTensorMapEncodeTiled`.
#[test]
fn the_rules_of_interleaves_come_before_the_refusal() {
    use TensorMapError as E;
    const INTERLEAVED: TiledArguments<'_> = TiledArguments {
        rank: 3,
        address: 0x2000,
        dims: &[64, 8, 8],
        strides: &[64, 512],
        box_dims: &[16, 8, 8],
        element_strides: &[1, 1, 1],
        interleave: 2,
        swizzle: 1,
        ..VALID
    };
    let refuse = |args: TiledArguments<'_>| TensorMap::tiled(&args).unwrap_err();
    assert!(matches!(refuse(INTERLEAVED), E::Unsupported { .. }));
    for (interleave, swizzle, rank) in [(1, 0, 2), (2, 1, 2), (2, 0, 3), (2, 3, 3)] {
        let error = refuse(TiledArguments {
            interleave,
            swizzle,
            rank,
            ..INTERLEAVED
        });
        let wanted = E::Interleave {
            bytes: 16 * u64::from(interleave),
            rank,
            swizzle,
        };
        assert_eq!(error, wanted);
    }
    let address = TiledArguments {
        address: 0x2010,
        ..INTERLEAVED
    };
    let error = refuse(address);
    assert!(matches!(error, E::Address { align: 32, .. }), "{error:?}");
    let stride = TiledArguments {
        strides: &[64, 528],
        ..INTERLEAVED
    };
    let index = 1;
    assert_eq!(refuse(stride), E::Stride { index, value: 528 });
    for loose in [address, stride] {
        let error = refuse(TiledArguments {
            interleave: 1,
            ..loose
        });
        assert!(matches!(error, E::Unsupported { .. }), "{error:?}");
    }
}

#[test]
fn maps_round_trip_through_memory() {
    let map = TensorMap::tiled(&VALID).unwrap();
    assert_eq!(TensorMap::decode(&map.encode()), Ok(map));
    assert_eq!(map.counts(), [64, 128, 1, 1, 1]);
    assert_eq!(map.box_bytes(), 128 * 128);
    for (data_type, rank, swizzle) in (0..13).flat_map(|t| (1..=3).map(move |r| (t, r, t % 4))) {
        let args = TiledArguments {
            data_type,
            rank,
            swizzle,
            box_dims: &[16, 256, 3],
            fill: 0,
            ..VALID
        };
        if let Ok(map) = TensorMap::tiled(&args) {
            assert_eq!(TensorMap::decode(&map.encode()), Ok(map));
        }
    }
    assert_eq!(
        TensorMap::decode(&[0; BYTES]),
        Err(TensorMapError::NotATensorMap)
    );
}

#[test]
fn replace_edits_one_field() {
    let mut bytes = TensorMap::tiled(&VALID).unwrap().encode();
    replace(&mut bytes, Field::Address, 0x4000).unwrap();
    replace(&mut bytes, Field::Dimension(0), 4096).unwrap();
    replace(&mut bytes, Field::Dimension(2), 9).unwrap();
    replace(&mut bytes, Field::Stride(0), 8192).unwrap();
    let expected = TensorMap::tiled(&TiledArguments {
        address: 0x4000,
        dims: &[4096, 77, 9],
        strides: &[8192, 1 << 39],
        ..VALID
    });
    assert_eq!(TensorMap::decode(&bytes), expected);
    // An edit that breaks a rule shows at use.
    replace(&mut bytes, Field::Address, 0x4004).unwrap();
    let broken = TensorMapError::Address {
        address: 0x4004,
        align: 16,
    };
    assert_eq!(TensorMap::decode(&bytes), Err(broken));
    assert!(replace(&mut bytes, Field::Stride(4), 16).is_err());
    assert!(replace(&mut bytes, Field::ElementStride(0), 256).is_err());
    assert!(replace(&mut [1; BYTES], Field::Address, 16).is_err());
}

#[test]
fn replace_builds_a_map_from_zeros() {
    let mut bytes = [0; BYTES];
    for (field, value) in [
        (Field::Address, 0x4000),
        (Field::Dimension(0), 640),
        (Field::BoxDimension(0), 32),
        (Field::ElementStride(0), 1),
    ] {
        replace(&mut bytes, field, value).unwrap();
    }
    let of_rank_1 = TiledArguments {
        data_type: 0,
        rank: 1,
        address: 0x4000,
        dims: &[640],
        strides: &[],
        box_dims: &[32],
        element_strides: &[1],
        interleave: 0,
        swizzle: 0,
        l2_promotion: 0,
        fill: 0,
    };
    assert_eq!(TensorMap::decode(&bytes), TensorMap::tiled(&of_rank_1));
    for (field, value) in [
        (Field::Rank, 1),
        (Field::Dimension(1), 9),
        (Field::Stride(0), 1280),
        (Field::BoxDimension(1), 8),
        (Field::ElementStride(1), 1),
        (Field::DataType, 6),
        (Field::Swizzle, 2),
    ] {
        replace(&mut bytes, field, value).unwrap();
    }
    let of_rank_2 = TiledArguments {
        data_type: 6,
        rank: 2,
        dims: &[640, 9],
        strides: &[1280],
        box_dims: &[32, 8],
        element_strides: &[1, 1],
        swizzle: 2,
        ..of_rank_1
    };
    assert_eq!(TensorMap::decode(&bytes), TensorMap::tiled(&of_rank_2));
}

#[test]
fn replace_numbers_as_ptx_does() {
    let plain = TiledArguments {
        fill: 0,
        swizzle: 0,
        ..VALID
    };
    let mut bytes = TensorMap::tiled(&plain).unwrap().encode();
    for (field, value) in [
        (Field::Rank, 1),     // one less than the rank
        (Field::DataType, 7), // f32
        (Field::BoxDimension(0), 8),
        (Field::ElementStride(1), 3),
        (Field::Swizzle, 1),
        (Field::Fill, 1),
        (Field::Interleave, 0),
    ] {
        replace(&mut bytes, field, value).unwrap();
    }
    let expected = TensorMap::tiled(&TiledArguments {
        rank: 2,
        data_type: 7,
        box_dims: &[8, VALID.box_dims[1]],
        element_strides: &[1, 3],
        swizzle: 1,
        fill: 1,
        ..plain
    });
    assert_eq!(TensorMap::decode(&bytes).map(|map| map.rank()), Ok(2));
    let found = TensorMap::decode(&bytes).unwrap();
    assert_eq!(found.strides()[0], VALID.strides[0]);
    let expected = expected.unwrap();
    assert_eq!(found.data_type(), expected.data_type());
    assert_eq!(found.box_bytes(), expected.box_bytes());
    assert_eq!(found.fill(), expected.fill());
    assert_eq!(found.swizzle(), expected.swizzle());
    // PTX's number and the driver's of the types that both have.
    for (ptx, driver) in [(8, 10), (9, 8), (10, 9), (11, 11), (12, 12)] {
        replace(&mut bytes, Field::DataType, ptx).unwrap();
        let other = TensorMap::tiled(&TiledArguments {
            data_type: driver,
            box_dims: &[4, 1, 1],
            ..plain
        });
        assert_eq!(u32::from(bytes[8]), driver, "{other:?}");
    }
    for (field, value) in [
        (Field::Rank, 5),
        (Field::DataType, 16),
        (Field::Swizzle, 4),
        (Field::Fill, 2),
        (Field::Interleave, 3),
        (Field::BoxDimension(5), 1),
    ] {
        let broken = Err(TensorMapError::Value { value });
        assert_eq!(replace(&mut bytes, field, value), broken, "{field:?}");
    }
}

#[test]
fn float_types_convert_on_load() {
    let convert = |ty: DataType, bits: u32| ty.converts().map_or(bits, |convert| convert(bits));
    for (ty, from, to) in [
        (DataType::F32, 0x0000_0001, 0x0000_0001),
        (DataType::F32Ftz, 0x807f_ffff, 0x8000_0000),
        (DataType::F32Ftz, 0x0080_0000, 0x0080_0000),
        // 1 + 2^-11 lies between two tf32 values: to the even one, below and above.
        (DataType::TF32, 0x3f80_1000, 0x3f80_0000),
        (DataType::TF32, 0x3f80_3000, 0x3f80_4000),
        (DataType::TF32, 0x3f80_1001, 0x3f80_2000),
        (DataType::TF32, 0x3f80_0fff, 0x3f80_0000),
        (DataType::TF32, 0x0000_2000, 0x0000_2000),
        (DataType::TF32, 0x7f7f_ffff, 0x7f80_0000),
        (DataType::TF32, 0xff80_0000, 0xff80_0000),
        (DataType::TF32, 0x7f80_0001, 0x7fc0_0000),
        (DataType::TF32Ftz, 0x0000_2000, 0),
    ] {
        assert_eq!(convert(ty, from), to, "{ty:?} {from:#x}");
    }
}
