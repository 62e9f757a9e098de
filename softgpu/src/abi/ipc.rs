//! Memory and events of other processes.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::Out;
use crate::driver::context::healthy;
use crate::driver::event::Event;
use crate::driver::ipc::{self, Handle};
use crate::driver::status::{Result, Status};

const LAZY_PEER_ACCESS: u32 = 1;

fn open(pointer: Out<u64>, handle: &Handle, flags: u32) -> Result<()> {
    let context = healthy()?;
    if pointer.is_null() || flags != LAZY_PEER_ACCESS {
        return Err(Status::INVALID_VALUE);
    }
    pointer.set(ipc::open_memory(&context, handle)?)
}

entries! { call:
    fn cuIpcGetMemHandle(handle: Out<Handle>, pointer: u64) {
        healthy()?;
        handle.set(ipc::memory_handle(pointer)?)
    }
    fn cuIpcOpenMemHandle(pointer: Out<u64>, handle: Passed, flags: u32) {
        open(pointer, &handle.0, flags)
    }
    fn cuIpcOpenMemHandle_v2(pointer: Out<u64>, handle: Passed, flags: u32) {
        open(pointer, &handle.0, flags)
    }
    fn cuIpcCloseMemHandle(pointer: u64) {
        healthy()?;
        ipc::close_memory(pointer)
    }
    fn cuIpcGetEventHandle(handle: Out<Handle>, event: u64) {
        healthy()?;
        let event = Event::get(event)?;
        handle.set(event.shared().ok_or(Status::INVALID_VALUE)?.handle()?)
    }
    fn cuIpcOpenEventHandle(event: Out<u64>, handle: Passed) {
        let context = healthy()?;
        if event.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        event.set(Event::open(&context, &handle.0)?)
    }
}

/// A handle passed by value, as C passes a structure of 64 bytes: in memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct Passed(Handle);
