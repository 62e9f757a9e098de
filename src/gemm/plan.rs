//! `GemmDesc -> GemmPlan`: which kernel, tile and grid. Pure; no device is asked.
//!
//! The choice of tile weighs *modelled* cycles (instruction counts and tensor-pipe rates, nothing
//! measured): CTAs work through whole tiles, so the time is waves × (K blocks × cycles per block +
//! epilogue). The small tile wins when it fills the SMs better; the large one is denser, because
//! its two consumer warpgroups hide each other's promotion.

use super::error::{OperandError, multiple, range};

/// Columns of every tile, and edge of the scale blocks.
pub const BLOCK: u32 = 128;

/// Rows at multiples of which groups begin in the contiguous form: a multiple of every tile.
pub const GROUP_ALIGNMENT: u32 = 128;

/// Scales per row of M-major storage: `rows` rounded up so that rows begin at multiples of 16
/// bytes.
#[must_use]
pub const fn scale_stride(rows: u32) -> u32 {
    rows.next_multiple_of(4)
}

/// What the rows of A mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// One matrix.
    Dense {
        /// Rows of A; 0 is allowed.
        rows: u32,
    },
    /// The rows of all groups one after another. Each group begins at a multiple of
    /// [`GROUP_ALIGNMENT`]; rows of group −1 are padding and stay unwritten.
    Contiguous {
        /// Rows of A, padding included; 0 is allowed.
        rows: u32,
        /// Groups (experts).
        groups: u32,
    },
    /// A slot of equal size per group, of which the first rows are in use; how many is read on the
    /// device.
    Masked {
        /// Rows of one slot; 0 is allowed.
        slot_rows: u32,
        /// Groups (experts).
        groups: u32,
        /// Rows in use that a group is expected to have: a hint for the tile, no bound.
        expected_rows: u32,
    },
}

impl Form {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::Contiguous { .. } => "contiguous",
            Self::Masked { .. } => "masked",
        }
    }

    /// Groups; one in the dense form.
    #[must_use]
    pub const fn groups(self) -> u32 {
        match self {
            Self::Dense { .. } => 1,
            Self::Contiguous { groups, .. } | Self::Masked { groups, .. } => groups,
        }
    }

    /// Rows of A (of one slot, in the masked form).
    #[must_use]
    pub const fn rows(self) -> u32 {
        match self {
            Self::Dense { rows } | Self::Contiguous { rows, .. } => rows,
            Self::Masked { slot_rows, .. } => slot_rows,
        }
    }

    /// Matrices that A consists of: slots of the masked form, else one.
    #[must_use]
    pub const fn slots(self) -> u32 {
        match self {
            Self::Dense { .. } | Self::Contiguous { .. } => 1,
            Self::Masked { groups, .. } => groups,
        }
    }
}

/// A problem: `D[rows, n] = A[rows, k] · B[group, n, k]ᵀ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmDesc {
    /// Rows and groups.
    pub form: Form,
    /// Columns of D: a positive multiple of 128.
    pub n: u32,
    /// Inner dimension: a positive multiple of 128.
    pub k: u32,
    /// Most SMs to use, at least 1: the device's, or fewer to leave room for communication.
    pub sms: u32,
}

/// Rows of a tile; its columns are [`BLOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tile {
    /// One consumer warpgroup.
    M64,
    /// Two consumer warpgroups.
    M128,
}

impl Tile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::M64, Self::M128];

    /// Rows.
    #[must_use]
    pub const fn rows(self) -> u32 {
        match self {
            Self::M64 => 64,
            Self::M128 => 128,
        }
    }

    /// Threads: a producer warpgroup and one consumer warpgroup per 64 rows.
    #[must_use]
    pub const fn threads(self) -> u32 {
        128 + self.rows() * 2
    }

    /// Stages of the pipeline: what fits into 227 KB.
    #[must_use]
    pub const fn stages(self) -> u32 {
        match self {
            Self::M64 => 8,
            Self::M128 => 6,
        }
    }

    /// Dynamic shared memory: stages of A, B and scales, two barriers each; output staging of 32
    /// bytes per row and warp of 16 rows (2 KB a warp).
    #[must_use]
    pub const fn shared_bytes(self) -> u32 {
        let stage = (self.rows() + BLOCK) * BLOCK + self.rows() * 4 + 16;
        self.stages() * stage + self.rows() * 128
    }

    /// Modelled cycles of one K block: the tensor pipe's 512 (256) per 128³ (64×128×128), plus
    /// what is not hidden of ~100 instructions and the latencies around them.
    const fn block_cycles(self) -> u64 {
        match self {
            Self::M64 => 420,
            Self::M128 => 560,
        }
    }
}

/// Modelled cycles of a tile's epilogue.
const EPILOGUE_CYCLES: u64 = 1000;

/// How a problem is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmPlan {
    /// The problem.
    pub desc: GemmDesc,
    /// Rows per tile.
    pub tile: Tile,
    /// Most tiles there can be.
    pub tiles: u32,
    /// CTAs: each takes every `grid`-th tile. 0 when there is nothing to do.
    pub grid: u32,
    /// Pipeline stages.
    pub stages: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Entry point.
    pub kernel: &'static str,
}

impl GemmPlan {
    /// Plans `desc` with the tile that is modelled fastest.
    ///
    /// # Errors
    /// [`OperandError::Multiple`] when N or K is no multiple of 128, [`OperandError::Range`] when a
    /// size is 0 or too large.
    pub fn new(desc: GemmDesc) -> Result<Self, OperandError> {
        let [small, large] = Tile::ALL.map(|tile| Self::with_tile(desc, tile));
        let (small, large) = (small?, large?);
        Ok(if small.cycles() <= large.cycles() {
            small
        } else {
            large
        })
    }

    /// Plans `desc` with the given tile. An output row has the same bits with either.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_tile(desc: GemmDesc, tile: Tile) -> Result<Self, OperandError> {
        check(desc)?;
        let slot_tiles =
            u64::from(desc.form.rows().div_ceil(tile.rows())) * u64::from(desc.n / BLOCK);
        let tiles = u64::from(desc.form.slots()) * slot_tiles;
        range("tiles", tiles, [0, MOST])?;
        let tiles = u32::try_from(tiles).unwrap_or(u32::MAX);
        Ok(Self {
            desc,
            tile,
            tiles,
            grid: tiles.min(desc.sms),
            stages: tile.stages(),
            shared_bytes: tile.shared_bytes(),
            kernel: kernel_name(desc.form, tile),
        })
    }

    /// Modelled cycles, with the rows that are expected to be in use.
    #[must_use]
    pub fn cycles(&self) -> u64 {
        let rows = match self.desc.form {
            Form::Masked {
                expected_rows,
                slot_rows,
                ..
            } => expected_rows.min(slot_rows),
            Form::Dense { rows } | Form::Contiguous { rows, .. } => rows,
        };
        let blocks = u64::from(rows.div_ceil(self.tile.rows())) * u64::from(self.desc.form.slots());
        let tiles = blocks * u64::from(self.desc.n / BLOCK);
        let waves = tiles.div_ceil(u64::from(self.desc.sms));
        waves * (u64::from(self.desc.k / BLOCK) * self.tile.block_cycles() + EPILOGUE_CYCLES)
    }
}

/// Coordinates of the tensor maps are signed 32-bit numbers, and tiles may reach past the last row.
const MOST: u64 = (i32::MAX as u64) - 256;

fn check(desc: GemmDesc) -> Result<(), OperandError> {
    let GemmDesc { form, n, k, sms } = desc;
    multiple("N", n.into(), BLOCK.into())?;
    multiple("K", k.into(), BLOCK.into())?;
    range("N", n.into(), [BLOCK.into(), MOST])?;
    range("K", k.into(), [BLOCK.into(), MOST])?;
    range("SMs", sms.into(), [1, MOST])?;
    range("groups", form.groups().into(), [1, MOST])?;
    let groups = u64::from(form.groups());
    range(
        "rows of A",
        u64::from(form.slots()) * u64::from(form.rows()),
        [0, MOST],
    )?;
    range("groups x N", groups * u64::from(n), [0, MOST])?;
    range("groups x K / 128", groups * u64::from(k / BLOCK), [0, MOST])
}

const fn kernel_name(form: Form, tile: Tile) -> &'static str {
    match (form, tile) {
        (Form::Dense { .. }, Tile::M64) => "fp8_gemm_1d2d_dense_64x128",
        (Form::Dense { .. }, Tile::M128) => "fp8_gemm_1d2d_dense_128x128",
        (Form::Contiguous { .. }, Tile::M64) => "fp8_gemm_1d2d_contiguous_64x128",
        (Form::Contiguous { .. }, Tile::M128) => "fp8_gemm_1d2d_contiguous_128x128",
        (Form::Masked { .. }, Tile::M64) => "fp8_gemm_1d2d_masked_64x128",
        (Form::Masked { .. }, Tile::M128) => "fp8_gemm_1d2d_masked_128x128",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    /// DeepSeek-V3: hidden 7168, intermediate 2048, so gate+up is N 4096 × K 7168 and down is
    /// N 7168 × K 2048.
    const GATE_UP: [u32; 2] = [4096, 7168];
    const DOWN: [u32; 2] = [7168, 2048];

    fn summary(form: Form, [n, k]: [u32; 2], sms: u32) -> String {
        let plan = GemmPlan::new(GemmDesc { form, n, k, sms }).unwrap();
        let GemmPlan {
            tile, tiles, grid, ..
        } = plan;
        format!("{} {tile:?} tiles {tiles} grid {grid}", plan.kernel)
    }

    #[test]
    fn plans_of_known_shapes() {
        let dense = |rows| Form::Dense { rows };
        let contiguous = |rows, groups| Form::Contiguous { rows, groups };
        let masked = |slot_rows, groups, expected_rows| Form::Masked {
            slot_rows,
            groups,
            expected_rows,
        };
        let cases = [
            (
                dense(4096),
                GATE_UP,
                "fp8_gemm_1d2d_dense_128x128 M128 tiles 1024 grid 132",
            ),
            (
                dense(128),
                DOWN,
                "fp8_gemm_1d2d_dense_64x128 M64 tiles 112 grid 112",
            ),
            (
                dense(64),
                GATE_UP,
                "fp8_gemm_1d2d_dense_64x128 M64 tiles 32 grid 32",
            ),
            (
                dense(1),
                DOWN,
                "fp8_gemm_1d2d_dense_64x128 M64 tiles 56 grid 56",
            ),
            (
                dense(0),
                DOWN,
                "fp8_gemm_1d2d_dense_64x128 M64 tiles 0 grid 0",
            ),
            (
                contiguous(8192, 8),
                GATE_UP,
                "fp8_gemm_1d2d_contiguous_128x128 M128 tiles 2048 grid 132",
            ),
            (
                masked(1024, 8, 16),
                GATE_UP,
                "fp8_gemm_1d2d_masked_64x128 M64 tiles 4096 grid 132",
            ),
            (
                masked(1024, 32, 512),
                DOWN,
                "fp8_gemm_1d2d_masked_128x128 M128 tiles 14336 grid 132",
            ),
        ];
        for (form, shape, expected) in cases {
            assert_eq!(summary(form, shape, 132), expected, "{form:?} {shape:?}");
        }
    }

    #[test]
    fn fewer_sms_make_a_smaller_grid() {
        let form = Form::Dense { rows: 4096 };
        assert!(summary(form, GATE_UP, 100).ends_with("grid 100"));
        assert!(summary(form, GATE_UP, 1).ends_with("grid 1"));
    }

    #[test]
    fn every_plan_matches_its_compiled_kernel() {
        let forms = [
            Form::Dense { rows: 64 },
            Form::Contiguous {
                rows: 64,
                groups: 2,
            },
            Form::Masked {
                slot_rows: 64,
                groups: 2,
                expected_rows: 1,
            },
        ];
        for form in forms {
            for tile in Tile::ALL {
                let desc = GemmDesc {
                    form,
                    n: 128,
                    k: 128,
                    sms: 1,
                };
                let plan = GemmPlan::with_tile(desc, tile).unwrap();
                let image = kernels::find(plan.kernel).unwrap();
                assert_eq!(image.threads, tile.threads(), "{}", plan.kernel);
                assert_eq!(image.shared_bytes, plan.shared_bytes, "{}", plan.kernel);
                assert_eq!(image.stack, 0, "{} has a stack", plan.kernel);
            }
        }
    }

    #[test]
    fn errors_name_the_number_and_the_rule() {
        let desc = GemmDesc {
            form: Form::Dense { rows: 1 },
            n: 128,
            k: 128,
            sms: 1,
        };
        let cases = [
            (
                GemmDesc { k: 192, ..desc },
                "K = 192 is not a multiple of 128",
            ),
            (
                GemmDesc { n: 64, ..desc },
                "N = 64 is not a multiple of 128",
            ),
            (
                GemmDesc { k: 0, ..desc },
                "K = 0, expected 128 to 2147483391",
            ),
            (
                GemmDesc { sms: 0, ..desc },
                "SMs = 0, expected 1 to 2147483391",
            ),
            (
                GemmDesc {
                    form: Form::Contiguous { rows: 1, groups: 0 },
                    ..desc
                },
                "groups = 0, expected 1 to 2147483391",
            ),
            (
                GemmDesc {
                    form: Form::Masked {
                        slot_rows: 1 << 20,
                        groups: 1 << 12,
                        expected_rows: 1,
                    },
                    ..desc
                },
                "rows of A = 4294967296, expected 0 to 2147483391",
            ),
        ];
        for (desc, expected) in cases {
            assert_eq!(GemmPlan::new(desc).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn scale_rows_begin_at_16_bytes() {
        assert_eq!([0, 1, 4, 7, 65].map(scale_stride), [0, 4, 4, 8, 68]);
    }
}
