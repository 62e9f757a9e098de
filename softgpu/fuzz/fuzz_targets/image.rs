//! Code images: fat binaries, compressed texts, ELF files.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = softgpu::driver::image::Image::from_bytes(bytes);
});
