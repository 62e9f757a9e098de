//! Structures of graph nodes, field for field as in `cuda.h` 13.0.

use super::types::{Memcpy3d, PoolProps};

/// `CUDA_KERNEL_NODE_PARAMS_v2` and `_v3`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct KernelParams {
    pub(super) function: u64,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) pointers: u64,
    pub(super) extra: u64,
    pub(super) kernel: u64,
    pub(super) context: u64,
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`: without the last two.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct KernelParamsV1 {
    pub(super) function: u64,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) pointers: u64,
    pub(super) extra: u64,
}

impl KernelParamsV1 {
    pub(super) fn widen(self) -> KernelParams {
        KernelParams {
            function: self.function,
            grid: self.grid,
            block: self.block,
            shared_bytes: self.shared_bytes,
            pointers: self.pointers,
            extra: self.extra,
            kernel: 0,
            context: 0,
        }
    }

    pub(super) fn narrow(wide: KernelParams) -> Self {
        Self {
            function: if wide.function == 0 {
                wide.kernel
            } else {
                wide.function
            },
            grid: wide.grid,
            block: wide.block,
            shared_bytes: wide.shared_bytes,
            pointers: wide.pointers,
            extra: wide.extra,
        }
    }
}

/// `CUDA_MEMCPY_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MemcpyParams {
    pub(super) flags: i32,
    pub(super) reserved: i32,
    pub(super) context: u64,
    pub(super) copy: Memcpy3d,
}

/// `CUDA_MEMSET_NODE_PARAMS` (v1), to which v2 adds a context.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MemsetParams {
    pub(super) dst: u64,
    pub(super) pitch: u64,
    pub(super) value: u32,
    pub(super) element: u32,
    pub(super) width: u64,
    pub(super) height: u64,
}

/// `CUDA_HOST_NODE_PARAMS`: function and argument.
pub(super) type HostParams = [u64; 2];

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct AllocParams {
    pub(super) pool: PoolProps,
    pub(super) access: u64,
    pub(super) access_count: u64,
    pub(super) bytes: u64,
    pub(super) pointer: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchParams {
    pub(super) context: u64,
    pub(super) count: u32,
    pub(super) ops: u64,
    pub(super) flags: u32,
}

/// Offset of the union in `CUgraphNodeParams`.
pub(super) const NODE_PARAMS: u64 = 16;

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct UpdateInfo {
    pub(super) result: u32,
    pub(super) node: u64,
    pub(super) from: u64,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct InstantiateParams {
    pub(super) flags: u64,
    pub(super) stream: u64,
    pub(super) node: u64,
    pub(super) result: u32,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use cudarc::driver::sys;

    use super::*;

    #[test]
    fn layouts_are_those_of_cuda_h() {
        assert_eq!(
            size_of::<KernelParams>(),
            size_of::<sys::CUDA_KERNEL_NODE_PARAMS>()
        );
        assert_eq!(
            offset_of!(KernelParams, kernel),
            offset_of!(sys::CUDA_KERNEL_NODE_PARAMS, kern)
        );
        assert_eq!(
            size_of::<KernelParamsV1>(),
            size_of::<sys::CUDA_KERNEL_NODE_PARAMS_v1>()
        );
        assert_eq!(
            size_of::<MemcpyParams>(),
            size_of::<sys::CUDA_MEMCPY_NODE_PARAMS>()
        );
        assert_eq!(
            size_of::<MemsetParams>(),
            size_of::<sys::CUDA_MEMSET_NODE_PARAMS_v1>()
        );
        assert_eq!(
            size_of::<HostParams>(),
            size_of::<sys::CUDA_HOST_NODE_PARAMS_v1>()
        );
        assert_eq!(
            size_of::<AllocParams>(),
            size_of::<sys::CUDA_MEM_ALLOC_NODE_PARAMS_v1>()
        );
        assert_eq!(
            offset_of!(AllocParams, pointer),
            offset_of!(sys::CUDA_MEM_ALLOC_NODE_PARAMS_v1, dptr)
        );
        assert_eq!(
            size_of::<BatchParams>(),
            size_of::<sys::CUDA_BATCH_MEM_OP_NODE_PARAMS_v1>()
        );
        assert_eq!(
            size_of::<UpdateInfo>(),
            size_of::<sys::CUgraphExecUpdateResultInfo>()
        );
        assert_eq!(
            size_of::<InstantiateParams>(),
            size_of::<sys::CUDA_GRAPH_INSTANTIATE_PARAMS>()
        );
        assert_eq!(size_of::<sys::CUgraphNodeParams>(), 256);
    }
}
