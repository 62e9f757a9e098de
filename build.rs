//! Compiles the kernels. Everything is in the `hadal-kernel-build` crate.

fn main() {
    if let Err(error) = hadal_kernel_build::build_script() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}
