//! Launches: attributes and parameters.

#![expect(unsafe_code, reason = "exported C functions")]

use std::sync::Arc;

use super::pointers::In;
use super::types::{LaunchAttribute, LaunchConfig};
use crate::driver::context::{Context, DefaultStream, stream};
use crate::driver::event::{Event, Reach};
use crate::driver::launch::Request;
use crate::driver::library::function;
use crate::driver::module::Function;
use crate::driver::report;
use crate::driver::status::{Result, Status};
use crate::driver::stream::Stream;

/// Reads the attributes of a launch into a request.
pub(super) fn attributes(config: &LaunchConfig) -> Result<Request> {
    let mut request = Request {
        grid: config.grid,
        block: config.block,
        dynamic_shared: config.shared_bytes,
        ..Request::default()
    };
    let list = In::<LaunchAttribute>::at(config.attributes);
    for i in 0..config.attribute_count as usize {
        set_attribute(&mut request, &list.get_at(i)?)?;
    }
    Ok(request)
}

const PROGRAMMATIC_EVENT: u32 = 7;
const COMPLETION_EVENT: u32 = 12;

/// The event in the first two words of an attribute.
fn event_in(low: u32, high: u32) -> Result<Arc<Event>> {
    Event::get(u64::from(high) << 32 | u64::from(low))
}

fn check_event(low: u32, high: u32) -> Result<()> {
    let event = event_in(low, high).map_err(|_| Status::INVALID_VALUE)?;
    if event.times() || event.shared().is_some() {
        return Err(Status::INVALID_VALUE);
    }
    Ok(())
}

/// Records the events that attributes name. They may be reached late: here when the kernel ends.
fn record_events(request: &Request, context: &Context, stream: &Stream) -> Result<()> {
    for (id, [low, high, ..]) in &request.attributes {
        if matches!(*id, PROGRAMMATIC_EVENT | COMPLETION_EVENT) {
            event_in(*low, *high)?.record(context, stream, Reach::Capture)?;
        }
    }
    Ok(())
}

/// Notes an attribute. Those that only hint at scheduling or caching are accepted and change
/// nothing; those with effects that softgpu lacks are refused.
pub(super) fn set_attribute(request: &mut Request, attribute: &LaunchAttribute) -> Result<()> {
    let [x, y, z, ..] = attribute.words;
    match attribute.id {
        0 | 1 | 3 | 5 | 6 | 8..=11 | 14 | 16 => {}
        PROGRAMMATIC_EVENT | COMPLETION_EVENT => check_event(x, y)?,
        2 => request.cooperative = x != 0,
        4 => request.cluster = Some([x, y, z]),
        id => {
            report::complaint(&format!("unsupported: launch attribute {id}"));
            return Err(Status::NOT_SUPPORTED);
        }
    }
    request.attributes.insert(attribute.id, attribute.words);
    Ok(())
}

/// The value of an attribute; zeros if it was not set.
pub(super) fn attribute(request: &Request, id: u32) -> [u32; 16] {
    let set = request.attributes.get(&id).copied();
    set.unwrap_or_default()
}

/// Gathers the parameter buffer from one pointer per parameter, or from the `extra` list.
pub(super) fn parameters(
    function: &Function,
    pointers: In<u64>,
    extra: In<u64>,
) -> Result<Vec<u8>> {
    let size = function.kernel.param_bytes() as usize;
    let mut buffer = vec![0; size];
    let params = &function.kernel.function().params;
    if !extra.is_null() {
        if !pointers.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        fill_from_extra(&mut buffer, extra)?;
        return Ok(buffer);
    }
    for (i, param) in params.iter().enumerate() {
        let bytes = In::<u8>::at(pointers.get_at(i)?).all(param.size as usize)?;
        let at = param.offset as usize;
        let slot = buffer.get_mut(at..at + bytes.len());
        slot.ok_or(Status::INVALID_VALUE)?.copy_from_slice(&bytes);
    }
    Ok(buffer)
}

fn fill_from_extra(buffer: &mut [u8], extra: In<u64>) -> Result<()> {
    const BUFFER_POINTER: u64 = 1;
    const BUFFER_SIZE: u64 = 2;
    let (mut data, mut size) = (In::<u8>::at(0), 0);
    for i in 0..3 {
        match extra.get_at(2 * i)? {
            0 => break,
            BUFFER_POINTER => data = In::at(extra.get_at(2 * i + 1)?),
            BUFFER_SIZE => size = In::<u64>::at(extra.get_at(2 * i + 1)?).get()?,
            _ => return Err(Status::INVALID_VALUE),
        }
    }
    let size = usize::try_from(size).map_err(|_| Status::INVALID_VALUE)?;
    if size < buffer.len() {
        return Err(Status::INVALID_VALUE);
    }
    buffer.copy_from_slice(&data.all(buffer.len())?);
    Ok(())
}

/// Function handle, stream handle, meaning of a null stream.
type Target = (u64, u64, DefaultStream);

fn launch(target: Target, request: Request, pointers: In<u64>, extra: In<u64>) -> Result<()> {
    let (handle, on, default) = target;
    let (context, stream) = stream(on, default)?;
    let function = function(handle)?;
    let params = parameters(&function, pointers, extra)?;
    let request = Request { params, ..request };
    let has_events = request.attributes.contains_key(&PROGRAMMATIC_EVENT)
        || request.attributes.contains_key(&COMPLETION_EVENT);
    if !has_events {
        return request.submit(&context, &stream, &function);
    }
    request.clone().submit(&context, &stream, &function)?;
    record_events(&request, &context, &stream)
}

fn launch_ex(
    config: In<LaunchConfig>,
    (handle, default): (u64, DefaultStream),
    pointers: In<u64>,
    extra: In<u64>,
) -> Result<()> {
    let config = config.get()?;
    let request = attributes(&config)?;
    launch((handle, config.stream, default), request, pointers, extra)
}

fn plain(grid: [u32; 3], block: [u32; 3], dynamic_shared: u32) -> Request {
    Request {
        grid,
        block,
        dynamic_shared,
        ..Request::default()
    }
}

entries! { call:
    fn cuLaunchKernel | cuLaunchKernel_ptsz, default (
        handle: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32,
        shared: u32, on: u64, pointers: In<u64>, extra: In<u64>
    ) {
        let request = plain([gx, gy, gz], [bx, by, bz], shared);
        launch((handle, on, default), request, pointers, extra)
    }
    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz, default (
        config: In<LaunchConfig>, handle: u64, pointers: In<u64>, extra: In<u64>
    ) {
        launch_ex(config, (handle, default), pointers, extra)
    }
    fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz, default (
        handle: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32,
        shared: u32, on: u64, pointers: In<u64>
    ) {
        let request = Request {
            cooperative: true,
            ..plain([gx, gy, gz], [bx, by, bz], shared)
        };
        launch((handle, on, default), request, pointers, In::at(0))
    }
}
