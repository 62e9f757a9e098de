//! Events.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::Out;
use crate::driver::context::{DefaultStream, healthy, stream};
use crate::driver::event::{Event, Reach};
use crate::driver::machine::driver;
use crate::driver::status::{Result, Status};

/// What `CU_EVENT_RECORD_EXTERNAL` or `CU_EVENT_WAIT_EXTERNAL` say.
pub(super) fn reach(flags: u32) -> Result<Reach> {
    match flags {
        0 => Ok(Reach::Capture),
        1 => Ok(Reach::External),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn record(event: u64, on: u64, default: DefaultStream, reach: Reach) -> Result<()> {
    let event = Event::get(event)?;
    let (context, stream) = stream(on, default)?;
    event.record(&context, &stream, reach)
}

fn destroy(event: u64) -> Result<()> {
    let gone = driver().events.remove(event);
    gone.map(drop).ok_or(Status::INVALID_HANDLE)
}

fn elapsed(milliseconds: Out<f32>, start: u64, end: u64) -> Result<()> {
    milliseconds.set(Event::get(start)?.elapsed(&*Event::get(end)?)?)
}

entries! { call:
    fn cuEventCreate(event: Out<u64>, flags: u32) {
        let context = healthy()?;
        if event.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        event.set(Event::create(&context, flags)?)
    }
    fn cuEventDestroy(event: u64) {
        destroy(event)
    }
    fn cuEventDestroy_v2(event: u64) {
        destroy(event)
    }
    fn cuEventRecord | cuEventRecord_ptsz, default (event: u64, on: u64) {
        record(event, on, default, Reach::Capture)
    }
    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz, default (
        event: u64, on: u64, flags: u32
    ) {
        record(event, on, default, reach(flags)?)
    }
    fn cuEventQuery(event: u64) {
        Event::get(event)?.query()
    }
    fn cuEventSynchronize(event: u64) {
        Event::get(event)?.synchronize()
    }
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: u64, end: u64) {
        elapsed(milliseconds, start, end)
    }
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: u64, end: u64) {
        elapsed(milliseconds, start, end)
    }
}
