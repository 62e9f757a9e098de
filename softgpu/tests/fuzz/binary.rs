//! Damaged code images and tensor maps.

use softgpu::driver::image::Image;
use softgpu::tensor::map::{BYTES, TensorMap, TiledArguments};

use crate::{Random, effort, limits};

/// A fat binary of a PTX entry and a machine code entry.
fn fat_binary(flags: u64, payload: &[u8], size: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for kind in [2u16, 1] {
        let mut entry = vec![0; 64];
        entry[0..2].copy_from_slice(&kind.to_le_bytes());
        entry[2..4].copy_from_slice(&0x101u16.to_le_bytes());
        entry[4..8].copy_from_slice(&64u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        entry[16..20].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        entry[28..32].copy_from_slice(&90u32.to_le_bytes());
        entry[40..48].copy_from_slice(&flags.to_le_bytes());
        entry[56..64].copy_from_slice(&size.to_le_bytes());
        entry.extend_from_slice(payload);
        all.extend(entry);
    }
    let mut head = 0xBA55_ED50u32.to_le_bytes().to_vec();
    head.extend(1u16.to_le_bytes());
    head.extend(16u16.to_le_bytes());
    head.extend((all.len() as u64).to_le_bytes());
    head.extend(all);
    head
}

/// Raw blocks in a zstd frame (RFC 8878) of one segment.
fn zstd(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0b1010_0000];
    frame.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    let header = u32::try_from(text.len() << 3 | 1).unwrap().to_le_bytes();
    frame.extend(&header[..3]);
    frame.extend(text);
    frame
}

/// A frame of blocks that each repeat one byte 128 KiB: 2 GB from 60 KB.
fn zstd_bomb() -> Vec<u8> {
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0b0000_0000, 0x58];
    for last in (0..16_384u32).rev() {
        let header = (128 << 10) << 3 | 1 << 1 | u32::from(last == 0);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(b' ');
    }
    frame
}

const TEXT: &[u8] =
    b".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k() { ret; }\n\0";

fn read(what: &str, bytes: &[u8]) -> bool {
    limits::watch(what, bytes, || Image::from_bytes(bytes).is_ok())
}

#[test]
fn images() {
    let (plain, packed) = (
        fat_binary(0, TEXT, 0),
        fat_binary(0x8000, &zstd(TEXT), TEXT.len() as u64),
    );
    assert!(read("plain", &plain) && read("packed", &packed) && read("text", TEXT));
    let mut elf = b"\x7fELF\x02\x01\x01\x33\x07".to_vec();
    elf.resize(200, 3);
    for lz4 in [0x2000, 0xA000] {
        read("lz4", &fat_binary(lz4, &zstd(TEXT), u64::MAX));
    }
    read("bomb", &fat_binary(0x8000, &zstd_bomb(), u64::MAX));
    read("bomb", &fat_binary(0x8000, &zstd_bomb(), 1 << 31));
    let seeds = [
        plain,
        packed,
        fat_binary(0x2000, TEXT, 4096),
        elf,
        TEXT.to_vec(),
    ];
    for round in 0..20_000 * effort() {
        let mut random = Random::new(3 << 32 | round);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(5) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes.truncate(at.max(4)),
                1 => bytes[at] = random.next().to_le_bytes()[0],
                // The interesting fields are at the front.
                2 => {
                    let at = random.below(bytes.len().min(96));
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                }
                _ => {
                    let at = random.below(bytes.len().min(96));
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill([0, 0xff][random.below(2)]);
                }
            }
        }
        read(&format!("image {round}"), &bytes);
    }
}

/// Small and plausible mostly, sometimes extreme.
fn number(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => u64::MAX >> random.below(64),
        2 => 1 << random.below(64),
        3 => 0,
        4 => random.next() % 8,
        5 => 16 * (random.next() % 64),
        _ => random.next() % 256,
    }
}

#[test]
fn tensor_maps() {
    let mut accepted = 0;
    for round in 0..60_000 * effort() {
        let mut random = Random::new(4 << 32 | round);
        let mut word = |limit: u64| {
            let wild = random.below(24) == 0;
            let value = number(&mut random);
            u32::try_from(if wild {
                value & 0xffff_ffff
            } else {
                value % limit
            })
            .unwrap()
        };
        let (data_type, rank, interleave, swizzle) = (word(13), word(6), word(3), word(4));
        let (l2_promotion, fill) = (word(4), word(2));
        let lengths: Vec<usize> = (0..4)
            .map(|_| 5 - usize::from(random.below(40) == 0))
            .collect();
        let wide = |random: &mut Random, n| (0..n).map(|_| number(random)).collect::<Vec<u64>>();
        let narrow = |random: &mut Random, n: usize, limit: u64| {
            let one = |random: &mut Random| number(random) % limit;
            (0..n)
                .map(|_| u32::try_from(one(random)).unwrap())
                .collect::<Vec<u32>>()
        };
        let (dims, strides) = (wide(&mut random, lengths[0]), wide(&mut random, lengths[1]));
        let (boxes, elements) = (
            narrow(&mut random, lengths[2], 300),
            narrow(&mut random, lengths[3], 9),
        );
        let arguments = TiledArguments {
            data_type,
            rank,
            address: number(&mut random) & !15,
            dims: &dims,
            strides: &strides,
            box_dims: &boxes,
            element_strides: &elements,
            interleave,
            swizzle,
            l2_promotion,
            fill,
        };
        let shown = format!("{arguments:?}");
        let map = limits::watch(&format!("tensor map {round}"), &shown, || {
            let map = TensorMap::tiled(&arguments).ok()?;
            // What is accepted survives its encoding.
            assert_eq!(
                TensorMap::decode(&map.encode()).as_ref(),
                Ok(&map),
                "{shown}"
            );
            let _ = (map.counts(), map.inner_bytes(), map.box_bytes());
            Some(map)
        });
        accepted += u32::from(map.is_some());
    }
    assert!(accepted > 100, "{accepted} maps are accepted");
}

#[test]
fn damaged_tensor_maps() {
    let map = TensorMap::tiled(&TiledArguments {
        data_type: 7,
        rank: 3,
        address: 0x0200_0000_1000,
        dims: &[64, 32, 4],
        strides: &[256, 8192],
        box_dims: &[32, 8, 2],
        element_strides: &[1, 1, 1],
        interleave: 0,
        swizzle: 3,
        l2_promotion: 2,
        fill: 0,
    });
    let good = map.unwrap().encode();
    for round in 0..40_000 * effort() {
        let mut random = Random::new(5 << 32 | round);
        let mut bytes = good;
        for _ in 0..=random.below(6) {
            bytes[random.below(BYTES)] = random.next().to_le_bytes()[0];
        }
        limits::watch(&format!("encoded map {round}"), &bytes, || {
            if let Ok(map) = TensorMap::decode(&bytes) {
                let _ = (
                    map.counts(),
                    map.inner_bytes(),
                    map.box_bytes(),
                    map.encode(),
                );
                let _ = map.with_address(random.next());
            }
        });
    }
}
