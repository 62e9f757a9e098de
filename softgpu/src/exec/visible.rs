//! Which devices this process sees, and in which order: `CUDA_VISIBLE_DEVICES`.

/// Devices of a machine at most.
pub(super) const MOST: u32 = 16;

/// The devices that a process sees; the ordinal is the place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visible {
    ids: [u8; MOST as usize],
    count: u8,
}

impl Visible {
    /// Of `all` devices, those that the variable names: indices divided by commas, until the first
    /// that is not the index of a device. A device that is named twice leaves none. UUIDs are not
    /// known.
    pub(super) fn new(variable: Option<&str>, all: u32) -> Self {
        let all: Vec<u8> = (0..MOST.min(all))
            .filter_map(|id| id.try_into().ok())
            .collect();
        let mut list = Self {
            ids: [0; MOST as usize],
            count: 0,
        };
        let Some(text) = variable else {
            all.into_iter().for_each(|id| list.push(id));
            return list;
        };
        for word in text.split(',') {
            let id = word.trim().parse().ok().filter(|id| all.contains(id));
            let Some(id) = id else { break };
            if list.ids().contains(&id) {
                list.count = 0;
                break;
            }
            list.push(id);
        }
        list
    }

    fn push(&mut self, id: u8) {
        if let Some(slot) = self.ids.get_mut(usize::from(self.count)) {
            *slot = id;
            self.count += 1;
        }
    }

    fn ids(&self) -> &[u8] {
        &self.ids[..usize::from(self.count)]
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.into()
    }

    /// The machine's number of the device with this ordinal.
    #[must_use]
    pub fn id(&self, ordinal: u32) -> u32 {
        let at = usize::try_from(ordinal).unwrap_or(usize::MAX);
        self.ids().get(at).map_or(ordinal, |&id| id.into())
    }
}

#[cfg(test)]
mod tests {
    use super::Visible;

    fn ids(variable: Option<&str>) -> Vec<u8> {
        Visible::new(variable, 4).ids().to_vec()
    }

    #[test]
    fn the_variable_chooses_and_orders() {
        assert_eq!(ids(None), [0, 1, 2, 3]);
        assert_eq!(ids(Some("2, 0")), [2, 0]);
        assert_eq!(ids(Some("3,4,1")), [3]);
        assert_eq!(ids(Some("1,-1,2")), [1]);
        for none in ["", "-1", "x", "1,1"] {
            assert_eq!(ids(Some(none)), [0u8; 0], "{none}");
        }
        let two = Visible::new(Some("2,0"), 4);
        assert_eq!((two.count(), two.id(0), two.id(1)), (2, 2, 0));
    }
}
