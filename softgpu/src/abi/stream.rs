//! Streams and host functions.

#![expect(
    unsafe_code,
    reason = "exported C functions; callbacks into the client"
)]

use std::ffi::c_void;
use std::sync::Arc;

use super::pointers::{In, Out};
use crate::driver::capture;
use crate::driver::context::{self, DefaultStream, healthy};
use crate::driver::event::Event;
use crate::driver::status::{Result, Status};
use crate::driver::stream::{Op, StreamKind};
use crate::driver::task::{HostCall, Task};
use crate::driver::transfer::Mode;

/// The numerically lowest priority.
pub(super) const GREATEST_PRIORITY: i32 = -5;

const NON_BLOCKING: u32 = 1;

/// `CUhostFn`.
pub(super) type HostFn = Option<unsafe extern "C" fn(data: *mut c_void)>;
/// `CUstreamCallback`.
type StreamCallback = Option<unsafe extern "C" fn(stream: u64, status: u32, data: *mut c_void)>;

/// A client's pointer on its way to a callback.
struct Data(*mut c_void);

// SAFETY: the pointer is only passed through; the client expects it on another thread.
unsafe impl Send for Data {}

impl Data {
    fn into_inner(self) -> *mut c_void {
        self.0
    }
}

fn create(handle: Out<u64>, flags: u32, priority: i32) -> Result<()> {
    let context = healthy()?;
    if handle.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let kind = if flags == NON_BLOCKING {
        StreamKind::NonBlocking
    } else {
        StreamKind::Blocking
    };
    let stream = context.create_stream(kind, priority.clamp(GREATEST_PRIORITY, 0));
    handle.set(stream.handle)
}

fn destroy(handle: u64) -> Result<()> {
    if handle <= 2 {
        return Err(Status::INVALID_HANDLE);
    }
    let (context, stream) = context::stream(handle, DefaultStream::Legacy)?;
    context.destroy_stream(&stream);
    Ok(())
}

/// A host function as work.
pub(super) fn host_call(
    function: unsafe extern "C" fn(data: *mut c_void),
    data: *mut c_void,
) -> HostCall {
    let address = function as *const c_void;
    let at = data.expose_provenance();
    HostCall {
        call: Arc::new(move || {
            // SAFETY: the client vouches for the function and its data.
            unsafe { function(std::ptr::with_exposed_provenance_mut(at)) }
        }),
        function: address.expose_provenance() as u64,
        data: at as u64,
    }
}

/// Attributes that are valid for streams: access policy window, synchronisation policy, priority,
/// memory synchronisation domains.
fn check_attribute(id: u32) -> Result<()> {
    match id {
        1 | 3 | 8..=10 => Ok(()),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// An attribute that was not set.
fn default_attribute(id: u32, priority: i32) -> [u32; 16] {
    const AUTO: u32 = 1;
    let mut words = [0; 16];
    let first = match id {
        3 => AUTO,
        8 => priority.cast_unsigned(),
        // The default and the remote domain are 0 and 1, one byte each.
        9 => 0x100,
        _ => 0,
    };
    let [word, ..] = &mut words;
    *word = first;
    words
}

entries! { call:
    fn cuStreamCreate(handle: Out<u64>, flags: u32) {
        create(handle, flags, 0)
    }
    fn cuStreamCreateWithPriority(handle: Out<u64>, flags: u32, priority: i32) {
        create(handle, flags, priority)
    }
    fn cuStreamDestroy(handle: u64) {
        destroy(handle)
    }
    fn cuStreamDestroy_v2(handle: u64) {
        destroy(handle)
    }
    fn cuStreamGetPriority | cuStreamGetPriority_ptsz, default (on: u64, priority: Out<i32>) {
        priority.set(context::stream(on, default)?.1.priority)
    }
    fn cuStreamGetFlags | cuStreamGetFlags_ptsz, default (on: u64, flags: Out<u32>) {
        let (_, stream) = context::stream(on, default)?;
        flags.set(u32::from(stream.kind == StreamKind::NonBlocking))
    }
    fn cuStreamGetId | cuStreamGetId_ptsz, default (on: u64, id: Out<u64>) {
        id.set(context::stream(on, default)?.1.handle)
    }
    fn cuStreamGetDevice | cuStreamGetDevice_ptsz, default (on: u64, device: Out<i32>) {
        let (context, _) = context::stream(on, default)?;
        device.set(i32::try_from(context.device).map_err(|_| Status::UNKNOWN)?)
    }
    fn cuStreamGetCtx | cuStreamGetCtx_ptsz, default (on: u64, handle: Out<u64>) {
        handle.set(context::stream(on, default)?.0.handle)
    }
    fn cuStreamGetCtx_v2 | cuStreamGetCtx_v2_ptsz, default (
        on: u64, handle: Out<u64>, green: Out<u64>
    ) {
        green.set_if(0);
        handle.set(context::stream(on, default)?.0.handle)
    }
    fn cuStreamSetAttribute | cuStreamSetAttribute_ptsz, default (
        on: u64, id: u32, value: In<[u32; 16]>
    ) {
        let (_, stream) = context::stream(on, default)?;
        check_attribute(id)?;
        stream.attributes.lock().insert(id, value.get()?);
        Ok(())
    }
    fn cuStreamGetAttribute | cuStreamGetAttribute_ptsz, default (
        on: u64, id: u32, value: Out<[u32; 16]>
    ) {
        let (_, stream) = context::stream(on, default)?;
        check_attribute(id)?;
        let set = stream.attributes.lock().get(&id).copied();
        value.set(set.unwrap_or_else(|| default_attribute(id, stream.priority)))
    }
    fn cuStreamCopyAttributes | cuStreamCopyAttributes_ptsz, default (dst: u64, src: u64) {
        let (_, to) = context::stream(dst, default)?;
        let (_, from) = context::stream(src, default)?;
        let copied = from.attributes.lock().clone();
        *to.attributes.lock() = copied;
        Ok(())
    }
    fn cuStreamSynchronize | cuStreamSynchronize_ptsz, default (on: u64) {
        let (context, stream) = context::stream(on, default)?;
        context.synchronize_stream(&stream)
    }
    fn cuStreamQuery | cuStreamQuery_ptsz, default (on: u64) {
        let (context, stream) = context::stream(on, default)?;
        context.query_stream(&stream)
    }
    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz, default (on: u64, event: u64, flags: u32) {
        let reach = super::event::reach(flags)?;
        let (context, stream) = context::stream(on, default)?;
        Event::get(event)?.hold(&context, &stream, reach)
    }
    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz, default (
        on: u64, function: HostFn, data: *mut c_void
    ) {
        let (context, stream) = context::stream(on, default)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        let host = host_call(function, data);
        Task::Host(host).submit(&context, &stream, Mode::Async)
    }
    fn cuStreamAddCallback | cuStreamAddCallback_ptsz, default (
        on: u64, function: StreamCallback, data: *mut c_void, flags: u32
    ) {
        let (context, stream) = context::stream(on, default)?;
        let function = function.filter(|_| flags == 0).ok_or(Status::INVALID_VALUE)?;
        capture::refuse_waiting(&stream)?;
        let data = Data(data);
        let work = Box::new(move || {
            // SAFETY: the client vouches for the function and its data.
            unsafe { function(on, Status::SUCCESS.0, data.into_inner()) }
        });
        context.enqueue(&stream, Op::Work(work)).map(drop)
    }
}
