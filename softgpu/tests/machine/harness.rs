//! Compiling PTX text, device memory, launches.
#![expect(
    unsafe_code,
    reason = "tests read and write guest memory from the host"
)]

use std::sync::Arc;

use softgpu::error::Fault;
use softgpu::exec::{Config, Counters, Engine, Kernel, Launch};
use softgpu::ir::lower::lower;
use softgpu::mem::{AddressSpace, Peer};
use softgpu::ptx;

/// Compiles the only entry of a module whose body is `body`; parameters are u64 named p0, p1, ….
pub(crate) fn kernel(params: usize, body: &str) -> Arc<Kernel> {
    let list: Vec<_> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    let text = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k({})\n{{\n{body}\n}}\n",
        list.join(", ")
    );
    compile(&text)
}

/// Compiles the first entry of a module.
pub(crate) fn compile(text: &str) -> Arc<Kernel> {
    let module = ptx::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let functions = lower(&module, &|_| None).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let function = functions.into_iter().next().unwrap();
    Arc::new(Kernel::new(function).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

/// An engine of two devices with `sms` SMs.
pub(crate) fn machine(sms: u32, seed: Option<u64>) -> Engine {
    Engine::new(Config {
        devices: 2,
        sms,
        device_bytes: softgpu::mem::DEVICE_BYTES,
        host_threads: 2,
        seed,
    })
}

/// Words of device memory.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) address: u64,
    len: usize,
}

impl Words {
    /// `len` zeroes on a device.
    pub(crate) fn on(device: u32, len: usize) -> Self {
        let space = AddressSpace::global();
        for (owner, from) in [(0, 1), (1, 0)] {
            space.set_peer(owner, from, Peer::Enabled).unwrap();
        }
        let region = space.alloc_device(device, len as u64 * 4).unwrap();
        let words = Self {
            address: region.base,
            len,
        };
        words.write(&vec![0; len]);
        words
    }

    fn pointer(&self) -> *mut u32 {
        std::ptr::with_exposed_provenance_mut(usize::try_from(self.address).unwrap())
    }

    pub(crate) fn write(&self, values: &[u32]) {
        assert!(values.len() <= self.len);
        // SAFETY: the allocation has `len` words and nothing runs on it now.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.pointer(), values.len()) };
    }

    pub(crate) fn read(&self) -> Vec<u32> {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len) }.to_vec()
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        AddressSpace::global().free(self.address).unwrap();
    }
}

/// A launch of `grid` CTAs of `block` threads on device 0.
pub(crate) fn launch(kernel: &Arc<Kernel>, grid: u32, block: u32, params: &[u64]) -> Launch {
    Launch {
        device: 0,
        kernel: kernel.clone(),
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        cluster: [1, 1, 1],
        dynamic_shared: 0,
        params: params.iter().flat_map(|p| p.to_le_bytes()).collect(),
        cooperative: false,
    }
}

/// Runs on a machine of its own with 4 SMs.
pub(crate) fn run(launch: Launch) -> Result<Counters, Fault> {
    machine(4, None).run(launch)
}

/// Runs without a seed and with a few.
pub(crate) fn run_seeds(launch: &Launch, check: impl Fn()) {
    for seed in [None, Some(1), Some(2), Some(3)] {
        machine(4, seed)
            .run(launch.clone())
            .unwrap_or_else(|fault| panic!("seed {seed:?}: {fault}"));
        check();
    }
}

/// Panics with the first position at which two slices differ.
pub(crate) fn assert_words(found: &[u32], expected: impl Fn(usize) -> u32) {
    for (index, &word) in found.iter().enumerate() {
        let wanted = expected(index);
        assert_eq!(
            word, wanted,
            "word {index}: {word:#x}, expected {wanted:#x}"
        );
    }
}
