//! Structures of `cuda.h` 13.0, field for field.

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Memcpy2d {
    pub(super) src_x: u64,
    pub(super) src_y: u64,
    pub(super) src_type: u32,
    pub(super) src_host: u64,
    pub(super) src_device: u64,
    pub(super) src_array: u64,
    pub(super) src_pitch: u64,
    pub(super) dst_x: u64,
    pub(super) dst_y: u64,
    pub(super) dst_type: u32,
    pub(super) dst_host: u64,
    pub(super) dst_device: u64,
    pub(super) dst_array: u64,
    pub(super) dst_pitch: u64,
    pub(super) width: u64,
    pub(super) height: u64,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER` (whose contexts stand in the reserved fields).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Memcpy3d {
    pub(super) src_x: u64,
    pub(super) src_y: u64,
    pub(super) src_z: u64,
    pub(super) src_lod: u64,
    pub(super) src_type: u32,
    pub(super) src_host: u64,
    pub(super) src_device: u64,
    pub(super) src_array: u64,
    pub(super) src_context: u64,
    pub(super) src_pitch: u64,
    pub(super) src_height: u64,
    pub(super) dst_x: u64,
    pub(super) dst_y: u64,
    pub(super) dst_z: u64,
    pub(super) dst_lod: u64,
    pub(super) dst_type: u32,
    pub(super) dst_host: u64,
    pub(super) dst_device: u64,
    pub(super) dst_array: u64,
    pub(super) dst_context: u64,
    pub(super) dst_pitch: u64,
    pub(super) dst_height: u64,
    pub(super) width: u64,
    pub(super) height: u64,
    pub(super) depth: u64,
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemLocation {
    pub(super) kind: u32,
    pub(super) id: i32,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct AllocationProp {
    pub(super) kind: u32,
    pub(super) handle_types: u32,
    pub(super) location: MemLocation,
    pub(super) win32: u64,
    pub(super) compression: u8,
    pub(super) rdma: u8,
    pub(super) usage: u16,
    pub(super) reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct AccessDesc {
    pub(super) location: MemLocation,
    pub(super) flags: u32,
}

/// `CUmulticastObjectProp`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MulticastProp {
    pub(super) devices: u32,
    pub(super) size: u64,
    pub(super) handle_types: u64,
    pub(super) flags: u64,
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolProps {
    pub(super) kind: u32,
    pub(super) handle_types: u32,
    pub(super) location: MemLocation,
    pub(super) win32: u64,
    pub(super) max_size: u64,
    pub(super) usage: u16,
    pub(super) reserved: [u8; 54],
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LaunchConfig {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) stream: u64,
    pub(super) attributes: u64,
    pub(super) attribute_count: u32,
}

/// `CUlaunchAttribute`; the value is a union of 64 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LaunchAttribute {
    pub(super) id: u32,
    pub(super) pad: u32,
    pub(super) words: [u32; 16],
}

/// `CUstreamBatchMemOpParams`, as 64-bit words: operation, address, value, flags, alias.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchMemOp {
    pub(super) operation: u64,
    pub(super) address: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
    pub(super) alias: u64,
    pub(super) pad: u64,
}

/// `CUdevprop`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceProp {
    pub(super) max_threads_per_block: i32,
    pub(super) max_threads_dim: [i32; 3],
    pub(super) max_grid_size: [i32; 3],
    pub(super) shared_per_block: i32,
    pub(super) constant_memory: i32,
    pub(super) warp_size: i32,
    pub(super) max_pitch: i32,
    pub(super) registers_per_block: i32,
    pub(super) clock_rate: i32,
    pub(super) texture_align: i32,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use cudarc::driver::sys;

    use super::*;

    /// Size, and offsets of some fields, of a structure here and in cudarc's bindings.
    macro_rules! assert_layout {
        ($ours:ident = $theirs:ident { $($field:ident => $name:ident),* $(,)? }) => {
            assert_eq!(size_of::<$ours>(), size_of::<sys::$theirs>(), stringify!($ours));
            $(assert_eq!(
                offset_of!($ours, $field),
                offset_of!(sys::$theirs, $name),
                "{}.{}", stringify!($ours), stringify!($field)
            );)*
        };
    }

    #[test]
    fn layouts_are_those_of_cuda_h() {
        assert_layout!(Memcpy2d = CUDA_MEMCPY2D_st {
            src_y => srcY, src_type => srcMemoryType, src_host => srcHost,
            src_device => srcDevice, src_pitch => srcPitch, dst_x => dstXInBytes,
            dst_type => dstMemoryType, dst_host => dstHost, dst_device => dstDevice,
            dst_pitch => dstPitch, width => WidthInBytes, height => Height,
        });
        assert_layout!(Memcpy3d = CUDA_MEMCPY3D_PEER_st {
            src_lod => srcLOD, src_type => srcMemoryType, src_host => srcHost,
            src_device => srcDevice, src_context => srcContext, src_pitch => srcPitch,
            src_height => srcHeight, dst_x => dstXInBytes, dst_type => dstMemoryType,
            dst_host => dstHost, dst_device => dstDevice, dst_context => dstContext,
            dst_pitch => dstPitch, dst_height => dstHeight, width => WidthInBytes,
            height => Height, depth => Depth,
        });
        assert_layout!(Memcpy3d = CUDA_MEMCPY3D_st {
            src_context => reserved0, dst_context => reserved1, depth => Depth,
        });
        assert_layout!(MemLocation = CUmemLocation_st {
            kind => type_, id => id,
        });
        assert_layout!(AllocationProp = CUmemAllocationProp_st {
            handle_types => requestedHandleTypes, location => location,
            win32 => win32HandleMetaData, compression => allocFlags,
        });
        assert_layout!(AccessDesc = CUmemAccessDesc_st {
            location => location, flags => flags,
        });
        assert_layout!(MulticastProp = CUmulticastObjectProp_st {
            devices => numDevices, size => size, handle_types => handleTypes, flags => flags,
        });
        assert_layout!(PoolProps = CUmemPoolProps_st {
            handle_types => handleTypes, location => location, max_size => maxSize,
            usage => usage,
        });
        assert_layout!(LaunchConfig = CUlaunchConfig_st {
            grid => gridDimX, block => blockDimX, shared_bytes => sharedMemBytes,
            stream => hStream, attributes => attrs, attribute_count => numAttrs,
        });
        assert_layout!(LaunchAttribute = CUlaunchAttribute_st {
            id => id, words => value,
        });
        assert_layout!(DeviceProp = CUdevprop_st {
            max_threads_dim => maxThreadsDim, max_grid_size => maxGridSize,
            warp_size => SIMDWidth, texture_align => textureAlign,
        });
        assert_eq!(
            size_of::<BatchMemOp>(),
            size_of::<sys::CUstreamBatchMemOpParams>()
        );
    }
}
