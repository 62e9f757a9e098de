//! How a C function becomes a guarded call: initialisation, fork, panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::driver::status::{Result, Status};

const INITIALISED: u8 = 1;
const FORKED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(0);

extern "C" fn after_fork() {
    STATE.store(FORKED, Ordering::Relaxed);
}

/// `cuInit`. A forked child stays uninitialised for ever: the driver's threads are gone there.
pub(super) fn initialise(register_fork_handler: impl FnOnce(extern "C" fn())) -> Result<()> {
    match STATE.compare_exchange(0, INITIALISED, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            register_fork_handler(after_fork);
            Ok(())
        }
        Err(INITIALISED) => Ok(()),
        Err(_) => Err(Status::NOT_INITIALIZED),
    }
}

/// Runs the body of a function that works without `cuInit`.
pub(super) fn call_any(body: impl FnOnce() -> Result<()>) -> u32 {
    crate::exec::hosts::attend();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(status)) => status.0,
        Err(_) => Status::UNKNOWN.0,
    }
}

/// Runs the body of any other function.
pub(super) fn call(body: impl FnOnce() -> Result<()>) -> u32 {
    if STATE.load(Ordering::Relaxed) != INITIALISED {
        return Status::NOT_INITIALIZED.0;
    }
    call_any(body)
}

/// Declares C functions: `fn name(arguments) { body of type Result<()> }`. A name pair
/// `fn name | alias, default (…)` also makes the alias; `default` then names the
/// [`crate::driver::context::DefaultStream`] that a null stream stands for.
macro_rules! entries {
    ($guard:ident: $(
        fn $name:ident $(| $alias:ident, $default:ident)?
        ($($arg:ident: $ty:ty),* $(,)?) $body:block
    )*) => {
        $(entries!(@one $guard, $name, [$($alias, $default)?], [$($arg: $ty),*], $body);)*
    };
    (@one $guard:ident, $name:ident, [], [$($arg:ident: $ty:ty),*], $body:block) => {
        entries!(@fn $guard, $name, [$($arg: $ty),*], $body);
    };
    (@one
        $guard:ident, $name:ident, [$alias:ident, $default:ident], [$($arg:ident: $ty:ty),*],
        $body:block
    ) => {
        entries!(@fn $guard, $name, [$($arg: $ty),*], {
            let $default = $crate::driver::context::DefaultStream::Legacy;
            $body
        });
        entries!(@fn $guard, $alias, [$($arg: $ty),*], {
            let $default = $crate::driver::context::DefaultStream::PerThread;
            $body
        });
    };
    (@fn $guard:ident, $name:ident, [$($arg:ident: $ty:ty),*], $body:block) => {
        #[doc = concat!("`", stringify!($name), "` of the driver API.")]
        ///
        /// # Safety
        ///
        /// Pointers must be as the CUDA driver API demands.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            $crate::abi::entry::$guard(|| $body)
        }
    };
}
