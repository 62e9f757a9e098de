//! Every documented rule of `cuTensorMapEncodeTiled` refuses, and maps survive plain memory.

use super::map::{BYTES, Field, TensorMap, TensorMapError, TiledArguments, replace};

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
            address: VALID.address + 8
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
        (|a| a.data_type = 11) as fn(&mut TiledArguments<'static>),
        |a| a.interleave = 2,
        |a| a.swizzle = 4,
    ] {
        assert!(matches!(refuse(change), E::Unsupported { .. }));
    }
    assert!(TensorMap::tiled(&VALID).is_ok());
}

#[test]
fn maps_round_trip_through_memory() {
    let map = TensorMap::tiled(&VALID).unwrap();
    assert_eq!(TensorMap::decode(&map.encode()), Ok(map));
    assert_eq!(map.counts(), [64, 128, 1, 1, 1]);
    assert_eq!(map.box_bytes(), 128 * 128);
    for (data_type, rank, swizzle) in (0..10).flat_map(|t| (1..=3).map(move |r| (t, r, t % 4))) {
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
    let broken = TensorMapError::Address { address: 0x4004 };
    assert_eq!(TensorMap::decode(&bytes), Err(broken));
    assert!(replace(&mut bytes, Field::Stride(4), 16).is_err());
    assert!(replace(&mut bytes, Field::ElementStride(0), 256).is_err());
    assert!(replace(&mut [0; BYTES], Field::Address, 16).is_err());
}
