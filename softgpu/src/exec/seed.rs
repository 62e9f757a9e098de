//! Random numbers for schedules: splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
//! number generators").

/// A generator. Without a seed it always answers with the fixed choice.
#[derive(Debug, Clone)]
pub(super) struct Choice(Option<u64>);

impl Choice {
    /// A generator for stream `stream` of a seed.
    pub(super) fn new(seed: Option<u64>, stream: u64) -> Self {
        Self(seed.map(|seed| mix(seed ^ mix(stream.wrapping_add(1)))))
    }

    /// Whether there is a seed.
    pub(super) fn is_seeded(&self) -> bool {
        self.0.is_some()
    }

    /// A number below `limit` (at least 1), or `fixed` without a seed.
    pub(super) fn below(&mut self, limit: u64, fixed: u64) -> u64 {
        let Some(state) = &mut self.0 else {
            return fixed;
        };
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(*state) % limit.max(1)
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}
