//! Client objects with counted references, destroyed by a function of the client's when the last
//! reference goes. Graphs can hold references.

use std::sync::Arc;

use parking_lot::Mutex;

use super::machine::driver;
use super::status::{Result, Status};

/// The client's destructor with its argument.
pub type Destroy = Box<dyn FnOnce() + Send>;

/// A client object.
pub struct UserObject {
    /// Its handle.
    pub handle: u64,
    state: Mutex<(u64, Option<Destroy>)>,
}

impl std::fmt::Debug for UserObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserObject")
            .field("handle", &self.handle)
            .field("references", &self.state.lock().0)
            .finish()
    }
}

impl UserObject {
    /// Creates an object with `references` references and returns its handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` without references.
    pub fn create(destroy: Destroy, references: u32) -> Result<u64> {
        if references == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let handle = driver().user_objects.reserve();
        let object = Self {
            handle,
            state: Mutex::new((u64::from(references), Some(destroy))),
        };
        driver().user_objects.insert(handle, Arc::new(object));
        Ok(handle)
    }

    /// An object by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        let object = driver().user_objects.get(handle);
        object.ok_or(Status::INVALID_VALUE)
    }

    /// Adds references.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for none.
    pub fn retain(&self, references: u32) -> Result<()> {
        if references == 0 {
            return Err(Status::INVALID_VALUE);
        }
        self.state.lock().0 += u64::from(references);
        Ok(())
    }

    /// Gives references back; the last one destroys the object.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for none or more than there are.
    pub fn release(&self, references: u64) -> Result<()> {
        let mut state = self.state.lock();
        if references == 0 || references > state.0 {
            return Err(Status::INVALID_VALUE);
        }
        state.0 -= references;
        let destroy = if state.0 == 0 { state.1.take() } else { None };
        drop(state);
        if let Some(destroy) = destroy {
            driver().user_objects.remove(self.handle);
            // The client's destructor may not call the driver, but it may take its time.
            destroy();
        }
        Ok(())
    }
}
