//! The compiled tiles: which kernel computes which part of D at a time, and what that takes.

use super::desc::{Arithmetic, Form, Format, GROUP_ALIGNMENT};
use super::stage::StageShape;

/// Which operand fills the 64 rows of a `wgmma`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// A.
    Rows,
    /// B: for few rows of A.
    Swapped,
}

/// One compiled tile (`csrc/gemm/config.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Formats and scales.
    pub arithmetic: Arithmetic,
    /// Rows of D.
    pub m: u32,
    /// Columns of D.
    pub n: u32,
    /// Stages of the pipeline.
    pub stages: u32,
    /// Row blocks of 64 of each consumer warpgroup.
    pub blocks: u32,
    /// Order of the operands.
    pub order: Order,
    /// Instructions that a consumer warp issues per stage, epilogue and scheduling aside: from the
    /// static report.
    pub instructions: u32,
    /// Entry point.
    pub kernel: &'static str,
}

const E4M3_1D2D: Arithmetic = Arithmetic::Fp8Block1d2d { a: Format::E4m3 };
const E5M2_1D2D: Arithmetic = Arithmetic::Fp8Block1d2d { a: Format::E5m2 };
const E4M3_1D1D: Arithmetic = Arithmetic::Fp8Block1d1d { a: Format::E4m3 };
const E5M2_1D1D: Arithmetic = Arithmetic::Fp8Block1d1d { a: Format::E5m2 };
const E4M3_CHANNEL: Arithmetic = Arithmetic::Fp8Channel { a: Format::E4m3 };
const E5M2_CHANNEL: Arithmetic = Arithmetic::Fp8Channel { a: Format::E5m2 };

const fn tile(
    arithmetic: Arithmetic,
    [m, n]: [u32; 2],
    stages: u32,
    instructions: u32,
    kernel: &'static str,
) -> Tile {
    Tile {
        arithmetic,
        m,
        n,
        stages,
        blocks: 1,
        order: Order::Rows,
        instructions,
        kernel,
    }
}

const fn swapped(tile: Tile) -> Tile {
    Tile {
        order: Order::Swapped,
        ..tile
    }
}

const fn two_blocks(tile: Tile) -> Tile {
    Tile { blocks: 2, ..tile }
}

impl Tile {
    /// All of them.
    pub const ALL: [Self; 19] = [
        tile(E4M3_1D2D, [64, 128], 8, 89, "gemm_1d2d_e4m3_64x128"),
        tile(E4M3_1D2D, [128, 128], 5, 90, "gemm_1d2d_e4m3_128x128"),
        tile(E4M3_1D2D, [192, 128], 4, 90, "gemm_1d2d_e4m3_192x128"),
        two_blocks(tile(
            E4M3_1D2D,
            [256, 128],
            3,
            179,
            "gemm_1d2d_e4m3_256x128",
        )),
        tile(E4M3_1D2D, [64, 192], 6, 130, "gemm_1d2d_e4m3_64x192"),
        tile(E4M3_1D2D, [128, 192], 4, 132, "gemm_1d2d_e4m3_128x192"),
        swapped(tile(
            E4M3_1D2D,
            [8, 64],
            16,
            34,
            "gemm_1d2d_e4m3_swapped_8x64",
        )),
        swapped(tile(
            E4M3_1D2D,
            [16, 64],
            16,
            43,
            "gemm_1d2d_e4m3_swapped_16x64",
        )),
        swapped(tile(
            E4M3_1D2D,
            [32, 128],
            9,
            50,
            "gemm_1d2d_e4m3_swapped_32x128",
        )),
        swapped(tile(
            E4M3_1D2D,
            [64, 128],
            8,
            78,
            "gemm_1d2d_e4m3_swapped_64x128",
        )),
        tile(E5M2_1D2D, [128, 128], 5, 90, "gemm_1d2d_e5m2_128x128"),
        tile(E4M3_1D1D, [64, 128], 8, 165, "gemm_1d1d_e4m3_64x128"),
        tile(E4M3_1D1D, [128, 128], 5, 167, "gemm_1d1d_e4m3_128x128"),
        tile(E5M2_1D1D, [128, 128], 5, 167, "gemm_1d1d_e5m2_128x128"),
        tile(E4M3_CHANNEL, [64, 128], 8, 84, "gemm_channel_e4m3_64x128"),
        tile(E4M3_CHANNEL, [128, 128], 5, 84, "gemm_channel_e4m3_128x128"),
        tile(E5M2_CHANNEL, [128, 128], 5, 84, "gemm_channel_e5m2_128x128"),
        tile(Arithmetic::Bf16, [64, 128], 8, 20, "gemm_bf16_64x128"),
        tile(Arithmetic::Bf16, [128, 128], 5, 21, "gemm_bf16_128x128"),
    ];

    /// The tiles that can compute a form with an arithmetic, smallest first. Groups along K need the
    /// scales of both operands along K: 1d1d.
    pub fn candidates(arithmetic: Arithmetic, form: Form) -> impl Iterator<Item = Self> {
        let fits = move |tile: &Self| {
            let whole = GROUP_ALIGNMENT.is_multiple_of(tile.m);
            let possible = match form {
                Form::Contiguous { .. } => whole,
                Form::KGrouped { .. } => matches!(arithmetic, Arithmetic::Fp8Block1d1d { .. }),
                _ => true,
            };
            tile.arithmetic == arithmetic && possible
        };
        Self::ALL.into_iter().filter(fits)
    }

    /// Extent along the 64 rows of a `wgmma`, and along its other side.
    #[must_use]
    pub const fn sides(&self) -> [u32; 2] {
        match self.order {
            Order::Rows => [self.m, self.n],
            Order::Swapped => [self.n, self.m],
        }
    }

    /// What the model of one stage depends on.
    #[must_use]
    pub fn stage(&self) -> StageShape {
        let [long, short] = self.sides();
        StageShape {
            long,
            short,
            blocks: self.blocks,
            instructions: self.instructions.into(),
        }
    }

    /// Consumer warpgroups.
    #[must_use]
    pub const fn consumers(&self) -> u32 {
        self.sides()[0] / (64 * self.blocks)
    }

    /// Threads: a producer warpgroup and the consumers.
    #[must_use]
    pub const fn threads(&self) -> u32 {
        128 * (self.consumers() + 1)
    }

    /// Bytes of one stage: 128 bytes of K of both operands, and the scales that are staged.
    #[must_use]
    pub const fn stage_bytes(&self) -> u32 {
        let (a, b) = match self.arithmetic {
            Arithmetic::Fp8Block1d2d { .. } => (self.m, 0),
            Arithmetic::Fp8Block1d1d { .. } => (self.m, self.n),
            _ => (0, 0),
        };
        let scales = (a * 4).next_multiple_of(128) + (b * 4).next_multiple_of(128);
        (self.m + self.n) * 128 + scales
    }

    /// Dynamic shared memory: stages with two barriers each, and the consumer warps' way out.
    #[must_use]
    pub const fn shared_bytes(&self) -> u32 {
        let warp = match self.order {
            Order::Rows => 2 * 16 * 128,
            Order::Swapped => self.m * 32,
        };
        self.stages * (self.stage_bytes() + 16) + self.consumers() * 4 * warp
    }
}
