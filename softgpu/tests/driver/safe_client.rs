//! cudarc's safe layer, as most Rust clients use it.

#![expect(unsafe_code, reason = "cudarc's launches are unsafe")]

use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::support::{BASIC, assert_same, library};

#[test]
fn the_safe_layer_works_unmodified() -> Result<(), DriverError> {
    library();
    let context = CudaContext::new(2)?;
    assert_eq!(context.ordinal(), 2);
    assert_eq!(context.compute_capability()?, (9, 0));
    let module = context.load_module(Ptx::from_src(BASIC))?;
    let add = module.load_function("vector_add")?;
    let (stream, other) = (context.new_stream()?, context.new_stream()?);
    let a: Vec<f32> = (0u16..3000).map(f32::from).collect();
    let device_a = stream.clone_htod(&a)?;
    let device_b = stream.clone_htod(&vec![0.5f32; 3000])?;
    let mut sum = stream.alloc_zeros::<f32>(3000)?;
    let n = 3000i32;
    let mut launch = stream.launch_builder(&add);
    launch.arg(&device_a).arg(&device_b).arg(&mut sum).arg(&n);
    // SAFETY: the arguments are those of `vector_add`, each buffer has `n` elements.
    unsafe { launch.launch(LaunchConfig::for_num_elems(3000)) }?;
    // The other stream waits for the first by an event.
    let event = stream.record_event(None)?;
    other.wait(&event)?;
    let copy = other.clone_dtod(&sum)?;
    let expected: Vec<f32> = a.iter().map(|x| x + 0.5).collect();
    assert_same(&other.clone_dtoh(&copy)?, &expected);
    assert!(module.load_function("no_such_kernel").is_err());
    Ok(())
}
