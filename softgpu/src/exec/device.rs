//! What a device keeps for its kernels beyond memory: limits, the `printf` buffer, the heap.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::heap::Heap;
use super::printf::Fifo;

/// Devices that may exist.
const DEVICES: usize = 16;
/// `CU_LIMIT_PRINTF_FIFO_SIZE` of an H100.
const FIFO_BYTES: usize = 1 << 20;
/// Stack per thread where nothing bounds it: more than the 1 KiB of a device, so that a program
/// that does not need `CU_LIMIT_STACK_SIZE` there does not need it here.
const STACK_BYTES: u32 = 16 << 10;

/// State of one device.
#[derive(Debug)]
pub struct Services {
    stack: AtomicU32,
    printf: Mutex<Fifo>,
    pub(super) heap: Mutex<Heap>,
}

impl Services {
    fn new(device: u32) -> Self {
        Self {
            stack: AtomicU32::new(STACK_BYTES),
            printf: Mutex::new(Fifo::new(FIFO_BYTES)),
            heap: Mutex::new(Heap::new(device)),
        }
    }

    /// Stack per thread of kernels that do not bound it.
    #[must_use]
    pub fn stack_bytes(&self) -> u32 {
        self.stack.load(Ordering::Relaxed)
    }

    /// `CU_LIMIT_STACK_SIZE`; a value below the default changes nothing.
    pub fn set_stack_bytes(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.stack.store(bytes.max(STACK_BYTES), Ordering::Relaxed);
    }

    /// `CU_LIMIT_PRINTF_FIFO_SIZE`.
    pub fn set_printf_bytes(&self, bytes: usize) {
        self.printf.lock().set_limit(bytes);
    }

    /// `CU_LIMIT_MALLOC_HEAP_SIZE`; without effect once the heap is in use.
    pub fn set_heap_bytes(&self, bytes: usize) {
        self.heap.lock().set_size(bytes as u64);
    }

    pub(super) fn print(&self, text: Vec<u8>) {
        self.printf.lock().push(text);
    }

    /// The output of kernels since the last call, in the order in which they printed.
    #[must_use]
    pub fn take_output(&self) -> Vec<u8> {
        self.printf.lock().take()
    }
}

/// The state of a device.
#[must_use]
pub fn services(device: u32) -> &'static Services {
    static ALL: OnceLock<Vec<Services>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..).take(DEVICES).map(Services::new).collect());
    &all[device as usize % DEVICES]
}
