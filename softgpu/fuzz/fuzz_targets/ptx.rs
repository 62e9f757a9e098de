//! From PTX text to decoded kernels, as loading a module does it. A good corpus:
//! `cargo fuzz run ptx fuzz/corpus/ptx tests/isa tests/ptx/pass tests/ptx/fail`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(module) = softgpu::ptx::parse(text) else {
        return;
    };
    let address = |_: &str| Some(0x0200_0000_1000);
    let Ok(functions) = softgpu::ir::lower::lower(&module, &address) else {
        return;
    };
    for function in functions {
        let _ = softgpu::exec::Kernel::new(function);
    }
});
