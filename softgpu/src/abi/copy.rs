//! Copies and fills.
//!
//! # Safety
//!
//! Host addresses reach [`Rect::submit`] on the word of the C caller.

#![expect(
    unsafe_code,
    reason = "exported C functions; host memory on the caller's word"
)]

use super::pointers::{In, Out};
use super::types::{Memcpy2d, Memcpy3d};
use crate::driver::context::{DefaultStream, by_handle, stream};
use crate::driver::status::{Result, Status};
use crate::driver::transfer::{Fill, Memory, Mode, Rect, Side};

use Memory::{Device, Host, Unified};
use Mode::{Async, Sync};

fn submit(rect: Rect, on: u64, default: DefaultStream, mode: Mode) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    // SAFETY: the caller of the C function vouches for host addresses.
    unsafe { rect.submit(&context, &stream, mode) }
}

fn linear(dst: (Memory, u64), src: (Memory, u64), bytes: u64) -> Rect {
    Rect::linear(
        Side::linear(dst.0, dst.1),
        Side::linear(src.0, src.1),
        bytes,
    )
}

/// A side from its `CUmemorytype`, host and device addresses.
fn side(kind: u32, host: u64, device: u64) -> Result<(Memory, u64)> {
    match kind {
        1 => Ok((Host, host)),
        2 => Ok((Device, device)),
        4 => Ok((Unified, device)),
        3 => Err(Status::NOT_SUPPORTED),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// Moves a side to its first byte.
fn place(
    (memory, base): (Memory, u64),
    (x, y, z): (u64, u64, u64),
    (pitch, rows): (u64, u64),
) -> Result<Side> {
    let rows_before = z.checked_mul(rows).and_then(|r| r.checked_add(y));
    let address = rows_before
        .and_then(|r| r.checked_mul(pitch))
        .and_then(|b| b.checked_add(x))
        .and_then(|b| b.checked_add(base))
        .ok_or(Status::INVALID_VALUE)?;
    Ok(Side {
        memory,
        address,
        pitch,
        rows,
    })
}

fn rect_2d(copy: In<Memcpy2d>) -> Result<Rect> {
    let c = copy.get()?;
    let pitch = |pitch: u64| if pitch == 0 { c.width } else { pitch };
    let src = side(c.src_type, c.src_host, c.src_device)?;
    let dst = side(c.dst_type, c.dst_host, c.dst_device)?;
    Ok(Rect {
        src: place(src, (c.src_x, c.src_y, 0), (pitch(c.src_pitch), c.height))?,
        dst: place(dst, (c.dst_x, c.dst_y, 0), (pitch(c.dst_pitch), c.height))?,
        width: c.width,
        height: c.height,
        depth: 1,
    })
}

pub(super) fn rect_3d(copy: In<Memcpy3d>) -> Result<Rect> {
    let c = copy.get()?;
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    let src = side(c.src_type, c.src_host, c.src_device)?;
    let dst = side(c.dst_type, c.dst_host, c.dst_device)?;
    let src_rows = (or(c.src_pitch, c.width), or(c.src_height, c.height));
    let dst_rows = (or(c.dst_pitch, c.width), or(c.dst_height, c.height));
    Ok(Rect {
        src: place(src, (c.src_x, c.src_y, c.src_z), src_rows)?,
        dst: place(dst, (c.dst_x, c.dst_y, c.dst_z), dst_rows)?,
        width: c.width,
        height: c.height,
        depth: c.depth,
    })
}

/// A copy as the client would describe it.
pub(super) fn raw_3d(rect: &Rect) -> Memcpy3d {
    let end = |side: &Side| match side.memory {
        Host => (1, side.address, 0),
        Device => (2, 0, side.address),
        Unified => (4, 0, side.address),
    };
    let (src_type, src_host, src_device) = end(&rect.src);
    let (dst_type, dst_host, dst_device) = end(&rect.dst);
    Memcpy3d {
        src_x: 0,
        src_y: 0,
        src_z: 0,
        src_lod: 0,
        src_type,
        src_host,
        src_device,
        src_array: 0,
        src_context: 0,
        src_pitch: rect.src.pitch,
        src_height: rect.src.rows,
        dst_x: 0,
        dst_y: 0,
        dst_z: 0,
        dst_lod: 0,
        dst_type,
        dst_host,
        dst_device,
        dst_array: 0,
        dst_context: 0,
        dst_pitch: rect.dst.pitch,
        dst_height: rect.dst.rows,
        width: rect.width,
        height: rect.height,
        depth: rect.depth,
    }
}

fn rect_3d_peer(copy: In<Memcpy3d>) -> Result<Rect> {
    let c = copy.get()?;
    by_handle(c.src_context)?;
    by_handle(c.dst_context)?;
    rect_3d(copy)
}

fn peer(dst: u64, dst_context: u64, src: u64, src_context: u64, bytes: u64) -> Result<Rect> {
    by_handle(dst_context)?;
    by_handle(src_context)?;
    Ok(linear((Device, dst), (Device, src), bytes))
}

fn fill(
    (address, pitch): (u64, u64),
    pattern: &[u8],
    (count, height): (u64, u64),
    (on, default): (u64, DefaultStream),
    mode: Mode,
) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    let unit = pattern.len() as u64;
    let fill = Fill {
        address,
        pitch,
        pattern: pattern.to_vec(),
        width: count.checked_mul(unit).ok_or(Status::INVALID_VALUE)?,
        height,
    };
    fill.submit(&context, &stream, mode)
}

/// Queues copies one after another; which one failed, if one did. Their order is not promised, so
/// the order of the list will do.
fn copy_batch(
    (dsts, srcs): (In<u64>, In<u64>),
    sizes: In<u64>,
    count: u64,
    (on, default): (u64, DefaultStream),
) -> std::result::Result<(), (u64, Status)> {
    // The legacy stream takes no batches.
    if count == 0 || on == 0 && default == DefaultStream::Legacy || on == 1 {
        return Err((u64::MAX, Status::INVALID_VALUE));
    }
    for index in 0..count {
        let copy = || {
            let i = usize::try_from(index).map_err(|_| Status::INVALID_VALUE)?;
            let (dst, src, bytes) = (dsts.get_at(i)?, srcs.get_at(i)?, sizes.get_at(i)?);
            submit(
                linear((Unified, dst), (Unified, src), bytes),
                on,
                default,
                Async,
            )
        };
        copy().map_err(|status| (index, status))?;
    }
    Ok(())
}

entries! { call:
    fn cuMemcpy | cuMemcpy_ptds, default (dst: u64, src: u64, bytes: u64) {
        submit(linear((Unified, dst), (Unified, src), bytes), 0, default, Sync)
    }
    fn cuMemcpyAsync | cuMemcpyAsync_ptsz, default (dst: u64, src: u64, bytes: u64, on: u64) {
        submit(linear((Unified, dst), (Unified, src), bytes), on, default, Async)
    }
    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds, default (dst: u64, src: u64, bytes: u64) {
        submit(linear((Device, dst), (Host, src), bytes), 0, default, Sync)
    }
    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds, default (dst: u64, src: u64, bytes: u64) {
        submit(linear((Host, dst), (Device, src), bytes), 0, default, Sync)
    }
    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds, default (dst: u64, src: u64, bytes: u64) {
        submit(linear((Device, dst), (Device, src), bytes), 0, default, Sync)
    }
    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz, default (
        dst: u64, src: u64, bytes: u64, on: u64
    ) {
        submit(linear((Device, dst), (Host, src), bytes), on, default, Async)
    }
    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz, default (
        dst: u64, src: u64, bytes: u64, on: u64
    ) {
        submit(linear((Host, dst), (Device, src), bytes), on, default, Async)
    }
    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz, default (
        dst: u64, src: u64, bytes: u64, on: u64
    ) {
        submit(linear((Device, dst), (Device, src), bytes), on, default, Async)
    }
    fn cuMemcpyPeer | cuMemcpyPeer_ptds, default (
        dst: u64, dst_context: u64, src: u64, src_context: u64, bytes: u64
    ) {
        submit(peer(dst, dst_context, src, src_context, bytes)?, 0, default, Sync)
    }
    fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz, default (
        dst: u64, dst_context: u64, src: u64, src_context: u64, bytes: u64, on: u64
    ) {
        submit(peer(dst, dst_context, src, src_context, bytes)?, on, default, Async)
    }
    fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds, default (copy: In<Memcpy2d>) {
        submit(rect_2d(copy)?, 0, default, Sync)
    }
    fn cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds, default (copy: In<Memcpy2d>) {
        submit(rect_2d(copy)?, 0, default, Sync)
    }
    fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz, default (copy: In<Memcpy2d>, on: u64) {
        submit(rect_2d(copy)?, on, default, Async)
    }
    fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds, default (copy: In<Memcpy3d>) {
        submit(rect_3d(copy)?, 0, default, Sync)
    }
    fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz, default (copy: In<Memcpy3d>, on: u64) {
        submit(rect_3d(copy)?, on, default, Async)
    }
    fn cuMemcpy3DPeer | cuMemcpy3DPeer_ptds, default (copy: In<Memcpy3d>) {
        submit(rect_3d_peer(copy)?, 0, default, Sync)
    }
    fn cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz, default (copy: In<Memcpy3d>, on: u64) {
        submit(rect_3d_peer(copy)?, on, default, Async)
    }
    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds, default (at: u64, value: u8, count: u64) {
        fill((at, 0), &[value], (count, 1), (0, default), Sync)
    }
    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds, default (at: u64, value: u16, count: u64) {
        fill((at, 0), &value.to_le_bytes(), (count, 1), (0, default), Sync)
    }
    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds, default (at: u64, value: u32, count: u64) {
        fill((at, 0), &value.to_le_bytes(), (count, 1), (0, default), Sync)
    }
    fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds, default (
        at: u64, pitch: u64, value: u8, width: u64, height: u64
    ) {
        fill((at, pitch), &[value], (width, height), (0, default), Sync)
    }
    fn cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds, default (
        at: u64, pitch: u64, value: u16, width: u64, height: u64
    ) {
        fill((at, pitch), &value.to_le_bytes(), (width, height), (0, default), Sync)
    }
    fn cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds, default (
        at: u64, pitch: u64, value: u32, width: u64, height: u64
    ) {
        fill((at, pitch), &value.to_le_bytes(), (width, height), (0, default), Sync)
    }
    fn cuMemsetD8Async | cuMemsetD8Async_ptsz, default (at: u64, value: u8, count: u64, on: u64) {
        fill((at, 0), &[value], (count, 1), (on, default), Async)
    }
    fn cuMemsetD16Async | cuMemsetD16Async_ptsz, default (
        at: u64, value: u16, count: u64, on: u64
    ) {
        fill((at, 0), &value.to_le_bytes(), (count, 1), (on, default), Async)
    }
    fn cuMemsetD32Async | cuMemsetD32Async_ptsz, default (
        at: u64, value: u32, count: u64, on: u64
    ) {
        fill((at, 0), &value.to_le_bytes(), (count, 1), (on, default), Async)
    }
    fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz, default (
        at: u64, pitch: u64, value: u8, width: u64, height: u64, on: u64
    ) {
        fill((at, pitch), &[value], (width, height), (on, default), Async)
    }
    fn cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz, default (
        at: u64, pitch: u64, value: u16, width: u64, height: u64, on: u64
    ) {
        fill((at, pitch), &value.to_le_bytes(), (width, height), (on, default), Async)
    }
    fn cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz, default (
        at: u64, pitch: u64, value: u32, width: u64, height: u64, on: u64
    ) {
        fill((at, pitch), &value.to_le_bytes(), (width, height), (on, default), Async)
    }
    fn cuMemcpyBatchAsync_v2 | cuMemcpyBatchAsync_v2_ptsz, default (
        dsts: In<u64>, srcs: In<u64>, sizes: In<u64>, count: u64, attributes: In<u64>,
        places: In<u64>, attribute_count: u64, on: u64
    ) {
        if attribute_count == 0 || attributes.is_null() || places.get()? != 0 {
            return Err(Status::INVALID_VALUE);
        }
        copy_batch((dsts, srcs), sizes, count, (on, default)).map_err(|(_, status)| status)
    }
    fn cuMemcpyBatchAsync | cuMemcpyBatchAsync_ptsz, default (
        dsts: In<u64>, srcs: In<u64>, sizes: In<u64>, count: u64, attributes: In<u64>,
        places: In<u64>, attribute_count: u64, failed: Out<u64>, on: u64
    ) {
        if attribute_count == 0 || attributes.is_null() || places.get()? != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let done = copy_batch((dsts, srcs), sizes, count, (on, default));
        done.map_err(|(index, status)| {
            failed.set_if(index);
            status
        })
    }
}
