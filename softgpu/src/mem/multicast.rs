//! Multicast windows: addresses at which `multimem` instructions reach the same bytes of several
//! devices.
//!
//! A window is a range of addresses without memory of its own: ordinary accesses to it fault, as
//! the permission table says. It lists *replicas*, ranges of unicast addresses, one or more per
//! device; a `multimem` access needs every device of the window to have a replica of all its bytes.
//! Protocol: the driver adds a window where it maps a multicast object, binds replicas to it as
//! memory is bound to the object, and allows devices as `cuMemSetAccess` says.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use smallvec::SmallVec;

use super::{AddressSpace, MAX_DEVICES, MemError};

/// Memory of one device that belongs to a part of a multicast window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// The device that owns the memory.
    pub device: u32,
    /// Where the part begins in the window.
    pub offset: u64,
    /// Bytes of the part.
    pub bytes: u64,
    /// Unicast address of its first byte, accessible to the owning device.
    pub address: u64,
}

impl Replica {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// A unicast address and the device whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unicast {
    /// The device.
    pub device: u32,
    /// The address.
    pub address: u64,
}

#[derive(Debug)]
struct Window {
    bytes: u64,
    /// Devices that may access the window.
    allowed: u32,
    replicas: Vec<Replica>,
}

/// The windows of an address space, by first address.
#[derive(Debug, Default)]
pub(super) struct Windows(RwLock<BTreeMap<u64, Window>>);

fn invalid(value: u64, expected: &'static str) -> MemError {
    MemError::Invalid {
        operation: "multicast",
        value,
        expected,
    }
}

impl AddressSpace {
    /// Makes `[base, base + bytes)` a multicast window without replicas, accessible to no device.
    ///
    /// # Errors
    /// Zero bytes, or overlap with another window.
    pub fn add_multicast(&self, base: u64, bytes: u64) -> Result<(), MemError> {
        let end = base.checked_add(bytes).filter(|_| bytes != 0);
        let end = end.ok_or_else(|| invalid(bytes, "a range of at least one byte"))?;
        let mut windows = self.multicast.0.write();
        let before = windows.range(..end).next_back();
        if before.is_some_and(|(&at, window)| at + window.bytes > base) {
            return Err(invalid(base, "addresses of no other multicast window"));
        }
        let window = Window {
            bytes,
            allowed: 0,
            replicas: Vec::new(),
        };
        windows.insert(base, window);
        Ok(())
    }

    /// Ends [`Self::add_multicast`].
    ///
    /// # Errors
    /// No window begins at `base`.
    pub fn remove_multicast(&self, base: u64) -> Result<(), MemError> {
        let removed = self.multicast.0.write().remove(&base);
        removed
            .map(drop)
            .ok_or_else(|| invalid(base, "the first address of a multicast window"))
    }

    /// Sets which devices (one bit each) may access the window at `base`.
    ///
    /// # Errors
    /// No window begins at `base`.
    pub fn allow_multicast(&self, base: u64, devices: u32) -> Result<(), MemError> {
        let mut windows = self.multicast.0.write();
        let window = windows.get_mut(&base);
        let window =
            window.ok_or_else(|| invalid(base, "the first address of a multicast window"))?;
        window.allowed = devices;
        Ok(())
    }

    /// Binds memory of a device to a part of the window at `base`.
    ///
    /// # Errors
    /// No such window or device, a part outside of the window, or one that the device has bound.
    pub fn bind_multicast(&self, base: u64, replica: Replica) -> Result<(), MemError> {
        if replica.device >= MAX_DEVICES {
            return Err(invalid(replica.device.into(), "a device below 16"));
        }
        let mut windows = self.multicast.0.write();
        let window = windows.get_mut(&base);
        let window =
            window.ok_or_else(|| invalid(base, "the first address of a multicast window"))?;
        if replica.bytes == 0 || replica.end() > window.bytes {
            return Err(invalid(replica.offset, "a part of the multicast window"));
        }
        let overlaps = |other: &Replica| {
            other.device == replica.device
                && other.offset < replica.end()
                && replica.offset < other.end()
        };
        if window.replicas.iter().any(overlaps) {
            return Err(invalid(replica.offset, "a part not bound yet"));
        }
        window.replicas.push(replica);
        window.replicas.sort_by_key(|r| (r.device, r.offset));
        Ok(())
    }

    /// Ends [`Self::bind_multicast`] for all parts of a device that begin in
    /// `[offset, offset + bytes)`.
    ///
    /// # Errors
    /// No such window, or nothing bound there.
    pub fn unbind_multicast(
        &self,
        base: u64,
        device: u32,
        (offset, bytes): (u64, u64),
    ) -> Result<(), MemError> {
        let mut windows = self.multicast.0.write();
        let window = windows.get_mut(&base);
        let window =
            window.ok_or_else(|| invalid(base, "the first address of a multicast window"))?;
        let before = window.replicas.len();
        let end = offset.saturating_add(bytes);
        let gone = |r: &Replica| r.device == device && (offset..end).contains(&r.offset);
        window.replicas.retain(|r| !gone(r));
        if window.replicas.len() == before {
            return Err(invalid(offset, "a bound part"));
        }
        Ok(())
    }

    /// The unicast addresses behind `[address, address + bytes)`, in order of devices, if `device`
    /// may access that window and every device that takes part has bound all these bytes.
    #[must_use]
    pub fn multicast(
        &self,
        device: u32,
        address: u64,
        bytes: u64,
    ) -> Option<SmallVec<[Unicast; 8]>> {
        let windows = self.multicast.0.read();
        let (&base, window) = windows.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(bytes)?;
        if end > window.bytes || window.allowed >> device & 1 == 0 {
            return None;
        }
        let team = window.replicas.iter().fold(0u32, |m, r| m | 1 << r.device);
        let here = window.replicas.iter();
        let here = here.filter(|r| r.offset <= offset && end <= r.end());
        let found: SmallVec<[Unicast; 8]> = here
            .map(|r| Unicast {
                device: r.device,
                address: r.address + (offset - r.offset),
            })
            .collect();
        let whole = found.len() == team.count_ones() as usize;
        (whole && team != 0).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::{Replica, Unicast};
    use crate::mem::AddressSpace;

    fn replica(device: u32, offset: u64, bytes: u64, address: u64) -> Replica {
        Replica {
            device,
            offset,
            bytes,
            address,
        }
    }

    #[test]
    fn windows_translate_to_every_bound_device() {
        let space = AddressSpace::global();
        let base = 0x7000_0000_0000;
        space.add_multicast(base, 0x4000).unwrap();
        assert!(space.add_multicast(base + 0x3fff, 1).is_err(), "overlap");
        assert_eq!(space.multicast(0, base, 4), None, "nobody may");
        space.allow_multicast(base, 0b11).unwrap();
        assert_eq!(space.multicast(0, base, 4), None, "nothing is bound");
        space
            .bind_multicast(base, replica(1, 0, 0x4000, 0x9000))
            .unwrap();
        space
            .bind_multicast(base, replica(0, 0, 0x2000, 0x1000))
            .unwrap();
        assert!(
            space
                .bind_multicast(base, replica(0, 0x1fff, 1, 0))
                .is_err()
        );
        assert!(
            space
                .bind_multicast(base, replica(0, 0x3000, 0x1001, 0))
                .is_err()
        );
        assert!(space.bind_multicast(base, replica(16, 0, 1, 0)).is_err());
        let pair = |a, b| {
            vec![
                Unicast {
                    device: 0,
                    address: a,
                },
                Unicast {
                    device: 1,
                    address: b,
                },
            ]
        };
        let found = space.multicast(1, base + 0x1ffc, 4).unwrap();
        assert_eq!(found.to_vec(), pair(0x2ffc, 0xaffc));
        assert_eq!(
            space.multicast(0, base + 0x1ffd, 4),
            None,
            "device 0 has bound a half"
        );
        assert_eq!(space.multicast(2, base, 4), None, "a device that may not");
        assert_eq!(space.multicast(0, base - 1, 1), None);
        space
            .bind_multicast(base, replica(0, 0x2000, 0x2000, 0x5000))
            .unwrap();
        let found = space.multicast(0, base + 0x2004, 8).unwrap();
        assert_eq!(found.to_vec(), pair(0x5004, 0xb004));
        assert_eq!(space.multicast(0, base + 0x3ffd, 4), None, "beyond the end");
        space.unbind_multicast(base, 0, (0, 0x2000)).unwrap();
        assert!(space.unbind_multicast(base, 0, (0, 0x2000)).is_err());
        assert_eq!(space.multicast(0, base, 4), None);
        space.remove_multicast(base).unwrap();
        assert!(space.remove_multicast(base).is_err());
    }
}
