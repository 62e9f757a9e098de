//! The counters of the software GPU, added up over the kernels of a phase.

use std::ffi::c_char;

use libloading::os::unix::Library;
use serde_json::Value;

use crate::Result;

/// What the kernels of a phase did, on all ranks together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    /// Bytes that devices read from, wrote to and changed in memory of other devices.
    pub(crate) bytes: u64,
    /// Warp instructions.
    pub(crate) instructions: u64,
    /// Most CTAs of a launch.
    pub(crate) ctas: u32,
}

/// Counts from here on.
pub(crate) fn begin() -> Result<()> {
    let this = Library::this();
    // SAFETY: this is the type of the software GPU's function.
    let switch = unsafe { this.get::<unsafe extern "C" fn(i32)>(b"softgpuCountTraffic") }
        .map_err(|_| "the wire is counted by the software GPU, which is not the selected device")?;
    // SAFETY: the function takes no pointer.
    unsafe { switch(1) };
    // SAFETY: this is the type of the software GPU's function.
    let reset = unsafe { this.get::<unsafe extern "C" fn()>(b"softgpuLaunchLogReset") }?;
    // SAFETY: the function takes no argument.
    unsafe { reset() };
    Ok(())
}

/// What was counted since [`begin`].
pub(crate) fn end() -> Result<Counted> {
    let mut sum = Counted::default();
    let kernels: Vec<Value> = serde_json::from_str(&text()?)?;
    for kernel in &kernels {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let launches = number(&kernel["launches"]).max(1);
        let ctas = number(&kernel["ctas"]) / launches;
        sum.ctas = sum.ctas.max(u32::try_from(ctas)?);
        let classes = kernel["instructions"].as_object();
        sum.instructions += classes
            .into_iter()
            .flat_map(|all| all.values())
            .map(number)
            .sum::<u64>();
        let links = kernel["traffic"]["links"].as_object();
        for (link, moved) in links.into_iter().flatten() {
            let crosses = link
                .split_once("->")
                .is_some_and(|(from, to)| from != to && to != "host");
            if crosses {
                let moved = moved.as_object().into_iter().flat_map(|all| all.values());
                sum.bytes += moved.map(number).sum::<u64>();
            }
        }
    }
    Ok(sum)
}

/// The counters of all kernels, as JSON.
fn text() -> Result<String> {
    type Counters = unsafe extern "C" fn(*mut c_char, u64) -> u64;
    let this = Library::this();
    // SAFETY: this is the type of the software GPU's function.
    let counters = unsafe { this.get::<Counters>(b"softgpuCounters") }?;
    let mut text = vec![0u8; 1 << 20];
    // SAFETY: the buffer is writable and has the size that is told.
    let len = unsafe { counters(text.as_mut_ptr().cast(), text.len() as u64) };
    text.truncate(usize::try_from(len)?.min(text.len()));
    Ok(String::from_utf8(text)?)
}
