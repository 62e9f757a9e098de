//! Multicast: the windows of all ranks behind one range of addresses, where the devices and their switch have it.
//!
//! Rank 0 creates the object; every rank adds its device, binds its window, and maps the object for itself, with a meeting
//! after each step. What fails on one rank leaves all of them without, and with the reason.
//!
//! # Safety
//! A multicast object is a handle as physical memory is, released by [`Physical`]. Memory that is bound
//! to it stays until the object is gone, which every mapping holds: ranks may end in any order, and nothing is unbound while
//! a peer may still use it.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::os::fd::AsFd;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute, CUmemAllocationHandleType, CUmulticastGranularity_flags,
    CUmulticastObjectProp,
};

use super::bootstrap::Brought;
use super::{Bootstrap, MemoryError, Physical, Reservation};
use crate::device::Context;
use crate::device::driver::call;

/// All windows at once.
#[derive(Debug)]
pub(super) struct Multicast {
    reservation: Reservation,
    /// Bound to the object that is mapped.
    _window: Arc<Physical>,
}

impl Multicast {
    /// Puts `window` of every rank, all of one size, behind one range of addresses. All ranks call it together; the inner error
    /// says why there is no such range, on all ranks alike.
    pub(super) fn new(
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
        window: &Arc<Physical>,
    ) -> Result<Result<Self, String>, MemoryError> {
        match create(bootstrap, context, window.bytes())? {
            Ok(object) => join(bootstrap, context, (object, window)),
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Address of the windows' first byte.
    pub(super) fn address(&self) -> u64 {
        self.reservation.address()
    }
}

/// The object, on every rank.
fn create(
    bootstrap: &mut Bootstrap,
    context: &Arc<Context>,
    bytes: u64,
) -> Result<Result<Physical, String>, MemoryError> {
    let operation = "multicast: create";
    let own = supported(context, bootstrap.ranks(), bytes).and_then(|()| {
        if bootstrap.rank() != 0 {
            return Ok(None);
        }
        let object = Physical::multicast(context, bootstrap.ranks(), bytes);
        let exported = object.and_then(|object| Ok((object.export()?, object)));
        exported.map(Some).map_err(|e| e.to_string())
    });
    let (said, file, object) = match own {
        Ok(Some((file, object))) => (None, Some(file), Some(object)),
        Ok(None) => (None, None, None),
        Err(reason) => (Some(reason), None, None),
    };
    let all: Vec<Brought<Option<String>>> = bootstrap.all_gather_files(operation, said, file)?;
    let reasons = all
        .iter()
        .map(|brought| (brought.rank, brought.value.as_ref()));
    if let Some(reason) = first_reason(reasons) {
        return Ok(Err(reason));
    }
    let file = all.first().and_then(|brought| brought.file.as_ref());
    let object = match (object, file) {
        (Some(object), _) => Ok(object),
        (None, Some(file)) => Physical::import(context, file.as_fd(), bytes),
        (None, None) => Err(MemoryError::OtherHost {
            what: "multicast object",
            rank: 0,
        }),
    };
    settle(bootstrap, "multicast: import", object)
}

/// Adds the device, binds the window, maps the object.
fn join(
    bootstrap: &mut Bootstrap,
    context: &Arc<Context>,
    (object, window): (Physical, &Arc<Physical>),
) -> Result<Result<Multicast, String>, MemoryError> {
    // Nothing is bound before the last device is there.
    let joined = object.add_own_device();
    if let Err(reason) = settle(bootstrap, "multicast: join", joined)? {
        return Ok(Err(reason));
    }
    let bound = object.bind_all_of(window);
    let mapped = bound.and_then(|()| {
        let mut reservation = Reservation::new(context, object.bytes())?;
        reservation.map(0, &Arc::new(object))?;
        Ok(Multicast {
            reservation,
            _window: Arc::clone(window),
        })
    });
    // Nothing is used before the last window is there.
    settle(bootstrap, "multicast: map", mapped)
}

/// Why multicast cannot be on this rank.
fn supported(context: &Context, ranks: u32, bytes: u64) -> Result<(), String> {
    if ranks < 2 {
        return Err("there is one rank".to_owned());
    }
    let which = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED;
    if context.attribute(which).map_err(|e| e.to_string())? == 0 {
        return Err("the device has no multicast objects".to_owned());
    }
    let unit = granularity(context, ranks, bytes).map_err(|e| e.to_string())?;
    if !bytes.is_multiple_of(unit.max(1)) {
        return Err(format!(
            "windows of {bytes} bytes are no multiple of {unit}"
        ));
    }
    Ok(())
}

fn properties(ranks: u32, bytes: u64) -> CUmulticastObjectProp {
    CUmulticastObjectProp {
        numDevices: ranks,
        size: usize::try_from(bytes).unwrap_or(usize::MAX),
        handleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
            .0
            .into(),
        flags: 0,
    }
}

fn granularity(context: &Context, ranks: u32, bytes: u64) -> Result<u64, MemoryError> {
    context.bind()?;
    let properties = properties(ranks, bytes);
    let option = CUmulticastGranularity_flags::CU_MULTICAST_GRANULARITY_MINIMUM;
    let mut unit = 0;
    // SAFETY: a valid place for the answer and valid properties.
    unsafe {
        call!(cuMulticastGetGranularity(
            &raw mut unit,
            &raw const properties,
            option
        ))
    }?;
    Ok(unit as u64)
}

impl Physical {
    /// A multicast object for the memory of `ranks` devices.
    fn multicast(context: &Arc<Context>, ranks: u32, bytes: u64) -> Result<Self, MemoryError> {
        context.bind()?;
        let properties = properties(ranks, bytes);
        let mut handle = 0;
        // SAFETY: a valid place for the answer and valid properties.
        unsafe { call!(cuMulticastCreate(&raw mut handle, &raw const properties)) }?;
        Ok(Self::from_handle(context, handle, bytes))
    }

    fn add_own_device(&self) -> Result<(), MemoryError> {
        self.context().bind()?;
        let device = self.context().device();
        // SAFETY: the handle is alive and a multicast object's, or the driver refuses it.
        unsafe { call!(cuMulticastAddDevice(self.handle(), device)) }?;
        Ok(())
    }

    fn bind_all_of(&self, window: &Physical) -> Result<(), MemoryError> {
        self.context().bind()?;
        let size = usize::try_from(window.bytes()).unwrap_or(usize::MAX);
        // SAFETY: both handles are alive, and the window is as long as the object.
        unsafe {
            call!(cuMulticastBindMem(
                self.handle(),
                0,
                window.handle(),
                0,
                size,
                0
            ))
        }?;
        Ok(())
    }
}

/// The value if all ranks have one, else the first reason why not.
fn settle<T>(
    bootstrap: &mut Bootstrap,
    operation: &'static str,
    result: Result<T, MemoryError>,
) -> Result<Result<T, String>, MemoryError> {
    let said = result.as_ref().err().map(ToString::to_string);
    let all = bootstrap.all_gather(operation, said)?;
    Ok(
        match (
            first_reason(all.iter().map(|(rank, said)| (*rank, said.as_ref()))),
            result,
        ) {
            (None, Ok(value)) => Ok(value),
            (None, Err(error)) => Err(error.to_string()),
            (Some(reason), _) => Err(reason),
        },
    )
}

fn first_reason<'a>(mut all: impl Iterator<Item = (u32, Option<&'a String>)>) -> Option<String> {
    all.find_map(|(rank, reason)| Some(format!("rank {rank}: {}", reason?)))
}
