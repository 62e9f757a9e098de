//! What a device says about itself: the values of an H100 SXM5 80 GB, except where softgpu lacks
//! the feature. Numbers are those of `CUdevice_attribute` in `cuda.h` 13.0.

use super::status::{Result, Status};
use crate::exec::Config;

/// The name that devices report.
pub const NAME: &str = "softgpu H100 80GB HBM3";

/// PCI bus number of the first device; the others follow.
pub const FIRST_BUS: u32 = 0x18;

/// An attribute of a device.
///
/// # Errors
///
/// `INVALID_VALUE` for an unknown attribute.
pub fn device_attribute(device: u32, attribute: u32) -> Result<i32> {
    let value = match attribute {
        1..=49 => classic(device, attribute),
        50..=86 => middle(device, attribute),
        87..=147 => modern(attribute),
        _ => None,
    };
    value.ok_or(Status::INVALID_VALUE)
}

fn classic(device: u32, attribute: u32) -> Option<i32> {
    Some(match attribute {
        1..=3 => 1024,
        4 => 64,
        5 | 11 => i32::MAX,
        6 | 7 => 65_535,
        8 => 49_152,
        9 | 12 => 65_536,
        10 => 32,
        13 => 1_980_000,
        14 | 30 => 512,
        15 | 19 | 31 | 32 | 41 | 44 => 1,
        16 => i32::try_from(Config::global().sms).ok()?,
        17 | 18 | 20 | 34 | 35 => 0,
        21 | 22 => 131_072,
        23 => 65_536,
        24..=26 => 16_384,
        27 | 28 | 42 | 45 | 46 => 32_768,
        29 | 39 | 43 => 2048,
        33 => i32::try_from(bus(device)).ok()?,
        36 => 2_619_000,
        37 => 5120,
        38 => 52_428_800,
        40 => 3,
        47 | 48 => 8192,
        49 => 32_768,
        _ => return None,
    })
}

fn middle(device: u32, attribute: u32) -> Option<i32> {
    Some(match attribute {
        50 | 84 | 86 => 0,
        51 => 32,
        52 | 53 | 55 | 61 | 63 | 64 | 66 | 67 | 73 | 74 | 77 => 32_768,
        54 | 68 => 2046,
        56 | 70 => 131_072,
        57 | 82 => 65_536,
        58..=60 => 16_384,
        62 | 65 => 2048,
        69 => 268_435_456,
        71 => 65_000,
        72 => 2_097_120,
        75 => 9,
        76 => 0,
        78..=80 | 83 => 1,
        81 => 233_472,
        85 => i32::try_from(device).ok()?,
        _ => return None,
    })
}

/// Unlike an H100, these are 0: DMA-BUF export, fabric handles, unified function pointers, host
/// memory pools.
fn modern(attribute: u32) -> Option<i32> {
    Some(match attribute {
        87 => 2,
        88 | 92..=94 | 96 | 100 | 101 | 104 | 105 | 112 | 114 => 0,
        121 | 124 | 128..=131 | 133 | 135..=138 | 142..=144 | 146 | 147 => 0,
        89..=91
        | 95
        | 98
        | 99
        | 102
        | 103
        | 107
        | 110
        | 113
        | 115
        | 116
        | 119
        | 120
        | 125
        | 132 => 1,
        117 | 122 | 123 | 127 | 141 | 145 => 1,
        97 => 232_448,
        106 => 32,
        108 => 32_768_000,
        109 => 134_213_632,
        111 => 1024,
        118 => 100,
        126 => 4,
        134 => 0,
        139 => 0x2330_10de,
        140 => 0x16c1_10de,
        _ => return None,
    })
}

/// A UUID that differs between devices and is the same in every process.
#[must_use]
pub fn uuid(device: u32) -> [u8; 16] {
    let mut uuid = *b"softgpu-H100\0\0\0\0";
    let id = Config::visible().id(device);
    uuid[12..].copy_from_slice(&id.to_be_bytes());
    uuid
}

/// `domain:bus:device.function`.
#[must_use]
pub fn pci_bus_id(device: u32) -> String {
    format!("0000:{:02X}:00.0", bus(device))
}

fn bus(device: u32) -> u32 {
    FIRST_BUS + Config::visible().id(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_of_the_header_has_a_value() {
        for attribute in 1..=147 {
            assert!(
                device_attribute(0, attribute).is_ok(),
                "attribute {attribute}"
            );
        }
        assert_eq!(device_attribute(0, 0), Err(Status::INVALID_VALUE));
        assert_eq!(device_attribute(0, 148), Err(Status::INVALID_VALUE));
        assert_eq!(device_attribute(2, 75), Ok(9));
        assert_eq!(device_attribute(2, 97), Ok(227 * 1024));
    }
}
