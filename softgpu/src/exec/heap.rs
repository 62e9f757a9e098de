//! The heap of `malloc` and `free` in device code: one region of device memory, first fit.

use std::collections::BTreeMap;

use crate::mem::AddressSpace;

/// `CU_LIMIT_MALLOC_HEAP_SIZE` of a device.
const HEAP_BYTES: u64 = 8 << 20;
/// Alignment of what `malloc` gives.
const ALIGN: u64 = 16;

#[derive(Debug)]
pub(super) struct Heap {
    device: u32,
    size: u64,
    /// First address; 0 until the first `malloc`.
    base: u64,
    /// Free ranges: offset to length. No two touch.
    free: BTreeMap<u64, u64>,
    /// Allocations: offset to length.
    used: BTreeMap<u64, u64>,
}

impl Heap {
    pub(super) fn new(device: u32) -> Self {
        Self {
            device,
            size: HEAP_BYTES,
            base: 0,
            free: BTreeMap::new(),
            used: BTreeMap::new(),
        }
    }

    pub(super) fn set_size(&mut self, bytes: u64) {
        if self.base == 0 {
            self.size = bytes;
        }
    }

    /// The address of new memory; 0 if there is none.
    pub(super) fn malloc(&mut self, bytes: u64) -> u64 {
        if self.base == 0 {
            let region = AddressSpace::global().alloc_device(self.device, self.size.max(1));
            let Ok(region) = region else {
                return 0;
            };
            self.base = region.base;
            self.free.insert(0, self.size / ALIGN * ALIGN);
        }
        if bytes == 0 || bytes > self.size {
            return 0;
        }
        let wanted = bytes.next_multiple_of(ALIGN);
        let fit = self.free.iter().find(|&(_, &length)| length >= wanted);
        let Some((&offset, &length)) = fit else {
            return 0;
        };
        self.free.remove(&offset);
        if length > wanted {
            self.free.insert(offset + wanted, length - wanted);
        }
        self.used.insert(offset, wanted);
        self.base + offset
    }

    /// Gives memory back; `false` if `malloc` did not give it or it is free already.
    pub(super) fn free(&mut self, address: u64) -> bool {
        if address == 0 {
            return true;
        }
        let Some(mut offset) = address.checked_sub(self.base) else {
            return false;
        };
        let Some(mut length) = self.used.remove(&offset) else {
            return false;
        };
        if let Some((&before, &more)) = self.free.range(..offset).next_back()
            && before + more == offset
        {
            self.free.remove(&before);
            offset = before;
            length += more;
        }
        if let Some(more) = self.free.remove(&(offset + length)) {
            length += more;
        }
        self.free.insert(offset, length);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Heap;

    #[test]
    fn memory_is_given_out_once_and_joined_when_free() {
        let mut heap = Heap::new(0);
        heap.set_size(4096);
        let blocks: Vec<u64> = (0..4).map(|_| heap.malloc(1000)).collect();
        assert!(blocks.iter().all(|&at| at != 0 && at.is_multiple_of(16)));
        for pair in blocks.windows(2) {
            assert!(pair[1] - pair[0] >= 1000);
        }
        assert_eq!(heap.malloc(1000), 0, "the heap is full");
        for at in [blocks[1], blocks[3], blocks[2], blocks[0]] {
            assert!(heap.free(at));
        }
        assert!(!heap.free(blocks[0]), "twice");
        assert!(heap.free(0));
        assert_eq!(heap.malloc(4096), blocks[0]);
        assert_eq!(heap.malloc(0), 0);
    }
}
