//! The operand gather against an address function of one element, written from the PTX ISA's
//! description of core matrices: eight rows of 16 bytes, and how they tile an operand.

use super::operand::{Descriptor, K_BYTES, Major, Operand, gather};
use super::swizzle::Swizzle;
use crate::error::FaultKind;

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

fn bits(descriptor: Descriptor) -> u64 {
    let mode: u64 = match descriptor.swizzle {
        Swizzle::None => 0,
        Swizzle::B128 => 1,
        Swizzle::B64 => 2,
        Swizzle::B32 => 3,
    };
    u64::from(descriptor.start >> 4)
        | u64::from(descriptor.leading >> 4) << 16
        | u64::from(descriptor.stride >> 4) << 32
        | u64::from(descriptor.base_offset) << 49
        | mode << 62
}

/// Chunk index XOR row index within the pattern of `width` bytes × 8 rows of 128 bytes.
fn swizzled(swizzle: Swizzle, address: usize) -> usize {
    let (chunk, line) = (address / 16 % 8, address / 128 % 8);
    let mask = match swizzle {
        Swizzle::None => 0,
        Swizzle::B32 => 1,
        Swizzle::B64 => 3,
        Swizzle::B128 => 7,
    };
    address / 128 * 128 + (chunk ^ (line & mask)) * 16 + address % 16
}

/// Shared address of byte `byte` of element (`row`, `k`).
fn address(d: &Descriptor, operand: &Operand, row: usize, k: usize, byte: usize) -> usize {
    let (start, leading, stride) = (d.start as usize, d.leading as usize, d.stride as usize);
    let width = d.swizzle.width() as usize;
    let linear = match (operand.major, d.swizzle) {
        (Major::K, Swizzle::None) => {
            // Core matrices of 8 rows × 16 bytes: `leading` to the next along K, `stride` along M/N.
            let along = k * operand.element_bytes + byte;
            let core = start + row / 8 * stride + along / 16 * leading;
            core + row % 8 * 16 + along % 16
        }
        (Major::K, _) => {
            // Atoms of 8 rows × one swizzle width; `stride` to the next along M/N.
            start + row / 8 * stride + row % 8 * width + k * operand.element_bytes + byte
        }
        (Major::Mn, Swizzle::None) => {
            // Core matrices of 8 k × 8 elements; `stride` along M/N, `leading` along K.
            start + row / 8 * stride + k / 8 * leading + k % 8 * 16 + row % 8 * 2 + byte
        }
        (Major::Mn, _) => {
            // Atoms of 8 k × one swizzle width; `leading` along M/N, `stride` along K.
            let per_atom = width / 2;
            let atom = start + row / per_atom * leading + k / 8 * stride;
            atom + k % 8 * width + row % per_atom * 2 + byte
        }
    };
    swizzled(d.swizzle, linear)
}

fn shared(bytes: u32) -> Vec<u8> {
    // Distinct enough that a wrong address shows: a multiplicative hash of the position.
    (0..bytes)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn check(descriptor: Descriptor, operand: Operand) {
    let decoded = Descriptor::decode(bits(descriptor));
    assert_eq!(decoded, descriptor);
    let shared = shared(192 * 1024);
    let mut packed = vec![0; operand.rows * K_BYTES];
    gather(decoded, operand, &shared, &mut packed).unwrap();
    for row in 0..operand.rows {
        for k in 0..K_BYTES / operand.element_bytes {
            for byte in 0..operand.element_bytes {
                let at = address(&descriptor, &operand, row, k, byte);
                let got = packed[row * K_BYTES + k * operand.element_bytes + byte];
                assert_eq!(
                    shared[at], got,
                    "{descriptor:?} {operand:?}: row {row}, k {k}, byte {byte}, address {at}"
                );
            }
        }
    }
}

#[test]
fn k_major_agrees_with_the_address_function() {
    for swizzle in SWIZZLES {
        let width = swizzle.width();
        for rows in [8, 64, 128, 256] {
            for element_bytes in [1, 2, 4] {
                // Every K advance inside the atom, an atom-aligned and an odd 1024-byte base.
                for advance in (0..width.max(32)).step_by(32) {
                    for start in [0, 1024, 7 * 1024] {
                        let operand = Operand {
                            rows,
                            element_bytes,
                            major: Major::K,
                        };
                        let descriptor = Descriptor {
                            start: start + advance,
                            leading: 128,
                            stride: if swizzle == Swizzle::None {
                                256
                            } else {
                                8 * width
                            },
                            base_offset: 0,
                            swizzle,
                        };
                        check(descriptor, operand);
                    }
                }
            }
        }
    }
}

#[test]
fn mn_major_agrees_with_the_address_function() {
    for swizzle in SWIZZLES {
        let width = swizzle.width();
        for rows in [8, 64, 128, 256] {
            let operand = Operand {
                rows,
                element_bytes: 2,
                major: Major::Mn,
            };
            let (leading, stride) = match swizzle {
                Swizzle::None => (128, 256),
                _ => (64 * width, 8 * width),
            };
            for start in [0, 2048, 16 * 1024] {
                check(
                    Descriptor {
                        start,
                        leading,
                        stride,
                        base_offset: 0,
                        swizzle,
                    },
                    operand,
                );
            }
        }
    }
}

/// A pattern that begins at any 128-byte line: the base offset makes the swizzle count from there.
#[test]
fn base_offsets_move_the_pattern() {
    let operand = Operand {
        rows: 64,
        element_bytes: 1,
        major: Major::K,
    };
    let shared = shared(64 * 1024);
    for swizzle in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
        for base_offset in 0..8 {
            let begin = 2048 + 128 * base_offset;
            let descriptor = Descriptor {
                start: begin,
                leading: 0,
                stride: 8 * swizzle.width(),
                base_offset,
                swizzle,
            };
            let mut packed = vec![0; operand.rows * K_BYTES];
            let decoded = Descriptor::decode(bits(descriptor));
            gather(decoded, operand, &shared, &mut packed).unwrap();
            for row in 0..operand.rows {
                for byte in 0..K_BYTES {
                    let at = swizzled(swizzle, row * swizzle.width() as usize + byte);
                    let want = shared[begin as usize + at];
                    let have = packed[row * K_BYTES + byte];
                    assert_eq!(have, want, "{descriptor:?} row {row}, byte {byte}");
                }
            }
        }
    }
}

#[test]
fn descriptor_of_production_kernels() {
    // K-major, 128-byte swizzle, 1024 bytes between groups of eight rows, address 0x12340.
    let decoded = Descriptor::decode(0x4000_0040_0000_1234);
    let expected = Descriptor {
        start: 0x1_2340,
        leading: 0,
        stride: 1024,
        base_offset: 0,
        swizzle: Swizzle::B128,
    };
    assert_eq!(decoded, expected);
}

#[test]
fn faults_are_typed() {
    let descriptor = Descriptor {
        start: 1024,
        leading: 0,
        stride: 1024,
        base_offset: 0,
        swizzle: Swizzle::B128,
    };
    let operand = Operand {
        rows: 64,
        element_bytes: 1,
        major: Major::K,
    };
    let mut packed = [0; 64 * K_BYTES];
    let short = shared(1024 + 8 * 1024 - 1);
    let fault = gather(descriptor, operand, &short, &mut packed);
    assert!(matches!(
        fault,
        Err(FaultKind::IllegalAddress {
            bytes: 16,
            write: false,
            ..
        })
    ));
    let transposed = Operand {
        major: Major::Mn,
        ..operand
    };
    let fault = gather(descriptor, transposed, &shared(65536), &mut packed);
    assert!(matches!(fault, Err(FaultKind::IllegalInstruction { .. })));
}
