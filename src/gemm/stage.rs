//! The model of one pipeline stage of a tile, in SM cycles. (The static report shares this file.)

/// Cycles of a warpgroup's stage in which none of its instructions can issue: barrier, shared
/// memory, and the tail of the last `wgmma`.
pub const LATENCY: f64 = 90.0;

/// A tile, as far as one stage of it (128 bytes of K) is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageShape {
    /// Extent along the 64 rows of a `wgmma`.
    pub long: u32,
    /// Extent along its other side.
    pub short: u32,
    /// Row blocks of 64 of each consumer warpgroup.
    pub blocks: u32,
    /// Instructions of a consumer warp.
    pub instructions: f64,
}

/// Cycles of one stage of one tile, by what they are spent on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageModel {
    /// Tensor pipe.
    pub tensor: f64,
    /// Shared-memory operand reads.
    pub shared: f64,
    /// Issue slots of a scheduler.
    pub issue: f64,
    /// One warpgroup's serial work.
    pub chain: f64,
}

impl StageModel {
    /// The model of a tile.
    #[must_use]
    pub fn of(shape: &StageShape) -> Self {
        let (long, short) = (f64::from(shape.long), f64::from(shape.short));
        let tensor = long * short / 32.0;
        let consumers = long / 64.0 / f64::from(shape.blocks);
        let instructions = shape.instructions;
        Self {
            tensor,
            shared: long / 64.0 * (64.0 + short),
            issue: instructions * consumers,
            chain: LATENCY * f64::from(shape.blocks) + tensor / consumers + instructions,
        }
    }

    /// Cycles.
    #[must_use]
    pub fn cycles(&self) -> f64 {
        self.tensor.max(self.shared).max(self.issue).max(self.chain)
    }

    /// What the stage waits for.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        let cycles = self.cycles();
        let limits = [
            (self.tensor, "tensor pipe"),
            (self.shared, "shared memory"),
            (self.issue, "issue slots"),
            (self.chain, "one warpgroup's chain"),
        ];
        let limit = limits.into_iter().find(|&(value, _)| value >= cycles);
        limit.map_or("", |(_, name)| name)
    }
}

impl StageShape {
    /// Modelled cycles per 128³ of FP8 (128 × 128 × 64 of BF16).
    #[must_use]
    pub fn per_step(&self) -> f64 {
        let area = f64::from(self.long) * f64::from(self.short);
        StageModel::of(self).cycles() * (128.0 * 128.0) / area
    }
}
