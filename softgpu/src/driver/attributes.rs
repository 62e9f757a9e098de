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

/// Unlike an H100, these are 0: DMA-BUF export, unified function pointers, host memory pools.
fn modern(attribute: u32) -> Option<i32> {
    Some(match attribute {
        87 => 2,
        88 | 92..=94 | 96 | 100 | 101 | 104 | 105 | 112 | 114 => 0,
        121 | 124 | 129..=131 | 133 | 135..=138 | 142..=144 | 146 | 147 => 0,
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
        117 | 122 | 123 | 127 | 128 | 141 | 145 => 1,
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

    /// What programs that print the properties of an H100 SXM5 80 GB show, and NVIDIA's tuning
    /// guide for Hopper. An independent copy: a slip in one of the two tables shows.
    const PUBLISHED: [(&str, u32, i32); 120] = [
        ("max threads per block", 1, 1_024),
        ("block x", 2, 1_024),
        ("block y", 3, 1_024),
        ("block z", 4, 64),
        ("grid x", 5, 2_147_483_647),
        ("grid y", 6, 65_535),
        ("grid z", 7, 65_535),
        ("shared memory per block", 8, 49_152),
        ("constant memory", 9, 65_536),
        ("warp", 10, 32),
        ("pitch", 11, 2_147_483_647),
        ("registers per block", 12, 65_536),
        ("clock in kHz", 13, 1_980_000),
        ("texture alignment", 14, 512),
        ("copies overlap kernels", 15, 1),
        ("multiprocessors", 16, 132),
        ("kernel time-out", 17, 0),
        ("integrated", 18, 0),
        ("host memory can be mapped", 19, 1),
        ("compute mode", 20, 0),
        ("texture 1D", 21, 131_072),
        ("texture 2D width", 22, 131_072),
        ("texture 2D height", 23, 65_536),
        ("texture 3D width", 24, 16_384),
        ("texture 3D height", 25, 16_384),
        ("texture 3D depth", 26, 16_384),
        ("layered texture 2D width", 27, 32_768),
        ("layered texture 2D height", 28, 32_768),
        ("layered texture 2D layers", 29, 2_048),
        ("surface alignment", 30, 512),
        ("concurrent kernels", 31, 1),
        ("ECC", 32, 1),
        ("PCI bus of the first device", 33, 24),
        ("PCI device", 34, 0),
        ("TCC driver", 35, 0),
        ("memory clock in kHz", 36, 2_619_000),
        ("memory bus in bits", 37, 5_120),
        ("L2 cache", 38, 52_428_800),
        ("threads per multiprocessor", 39, 2_048),
        ("copy engines", 40, 3),
        ("unified addressing", 41, 1),
        ("layered texture 1D width", 42, 32_768),
        ("layered texture 1D layers", 43, 2_048),
        ("gather (not described)", 44, 1),
        ("gather width", 45, 32_768),
        ("gather height", 46, 32_768),
        ("alternate 3D width", 47, 8_192),
        ("alternate 3D height", 48, 8_192),
        ("alternate 3D depth", 49, 32_768),
        ("PCI domain", 50, 0),
        ("texture pitch alignment", 51, 32),
        ("cube map", 52, 32_768),
        ("layered cube map", 53, 32_768),
        ("layered cube map layers", 54, 2_046),
        ("surface 1D", 55, 32_768),
        ("surface 2D width", 56, 131_072),
        ("surface 2D height", 57, 65_536),
        ("surface 3D width", 58, 16_384),
        ("surface 3D height", 59, 16_384),
        ("surface 3D depth", 60, 16_384),
        ("layered surface 1D width", 61, 32_768),
        ("layered surface 1D layers", 62, 2_048),
        ("layered surface 2D width", 63, 32_768),
        ("layered surface 2D height", 64, 32_768),
        ("layered surface 2D layers", 65, 2_048),
        ("surface cube map", 66, 32_768),
        ("layered surface cube map", 67, 32_768),
        ("layered surface cube map layers", 68, 2_046),
        ("linear texture 1D width", 69, 268_435_456),
        ("linear texture 2D width", 70, 131_072),
        ("linear texture 2D height", 71, 65_000),
        ("linear texture 2D pitch", 72, 2_097_120),
        ("mipmapped 2D width", 73, 32_768),
        ("mipmapped 2D height", 74, 32_768),
        ("compute capability major", 75, 9),
        ("compute capability minor", 76, 0),
        ("mipmapped 1D width", 77, 32_768),
        ("stream priorities", 78, 1),
        ("L1 caches globals", 79, 1),
        ("L1 caches locals", 80, 1),
        ("shared memory per multiprocessor", 81, 233_472),
        ("registers per multiprocessor", 82, 65_536),
        ("managed memory", 83, 1),
        ("multi-GPU board", 84, 0),
        ("multi-GPU board group", 85, 0),
        ("host atomics", 86, 0),
        ("single to double ratio", 87, 2),
        ("concurrent managed access", 89, 1),
        ("compute preemption", 90, 1),
        ("registered host pointers", 91, 1),
        ("cooperative launch", 95, 1),
        ("opt-in shared memory", 97, 232_448),
        ("flush of remote writes", 98, 1),
        ("host registration", 99, 1),
        ("host page tables", 100, 0),
        ("direct managed access", 101, 0),
        ("virtual memory management", 102, 1),
        ("POSIX handles", 103, 1),
        ("Win32 handles", 104, 0),
        ("KMT handles", 105, 0),
        ("blocks per multiprocessor", 106, 32),
        ("compression", 107, 1),
        ("persisting L2", 108, 32_768_000),
        ("access policy window", 109, 134_213_632),
        ("RDMA with VMM", 110, 1),
        ("reserved shared memory", 111, 1_024),
        ("read-only registration", 113, 1),
        ("memory pools", 115, 1),
        ("RDMA", 116, 1),
        ("RDMA flush options", 117, 1),
        ("RDMA writes ordering", 118, 100),
        ("cluster launch", 120, 1),
        ("64-bit stream operations", 122, 1),
        ("NOR waits", 123, 1),
        ("event IPC", 125, 1),
        ("memory domains", 126, 4),
        ("tensor maps", 127, 1),
        ("fabric handles", 128, 1),
        ("multicast", 132, 1),
        ("PCI ids", 139, 0x2330_10de),
    ];

    /// What depends on the machine around the device, and what softgpu lacks.
    const OTHERS: [(&str, u32, i32); 27] = [
        ("pageable memory: not mapped into devices", 88, 0),
        ("first version of stream operations", 92, 0),
        ("its 64-bit operations", 93, 0),
        ("its NOR waits", 94, 0),
        ("launches on several devices", 96, 0),
        ("sparse arrays", 112, 0),
        ("timeline semaphores", 114, 0),
        ("pool handles: POSIX and not fabric", 119, 1),
        ("deferred mapping of arrays", 121, 0),
        ("DMA-BUF", 124, 0),
        ("unified function pointers", 129, 0),
        ("NUMA configuration", 130, 0),
        ("NUMA node of the memory", 131, 0),
        ("MPS", 133, 0),
        ("NUMA node of the host", 134, 0),
        ("D3D12", 135, 0),
        ("decompression", 136, 0),
        ("its length", 137, 0),
        ("Vulkan", 138, 0),
        ("PCI subsystem: the board of a DGX", 140, 0x16c1_10de),
        ("host NUMA memory by VMM", 141, 1),
        ("host NUMA pools", 142, 0),
        ("NUMA IPC", 143, 0),
        ("host pools", 144, 0),
        ("host memory by VMM", 145, 1),
        ("DMA-BUF of host memory", 146, 0),
        ("partial host atomics", 147, 0),
    ];

    #[test]
    fn every_attribute_has_its_value() {
        for (name, attribute, value) in PUBLISHED.into_iter().chain(OTHERS) {
            let got = device_attribute(0, attribute);
            assert_eq!(got, Ok(value), "{name}: attribute {attribute}");
        }
        let both = PUBLISHED.iter().chain(&OTHERS);
        let mut named: Vec<u32> = both.map(|(_, attribute, _)| *attribute).collect();
        named.sort_unstable();
        assert!(named.into_iter().eq(1..=147));
    }

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
