//! A model of how long a GEMM takes: *modelled* figures, nothing measured.
//!
//! **One stage of a tile** (128 bytes of K) takes the longest of
//!
//! * *tensor*: `m·n·128 / 4096` cycles, the rate of FP8 `wgmma` (BF16: half the elements at half the
//!   rate);
//! * *shared*: what `wgmma` reads from shared memory, at 128 bytes a cycle: of each row block of 64,
//!   its own rows and all of the other side;
//! * *issue*: instructions of all consumer warps over four schedulers;
//! * *chain*: what one warpgroup does one after another: the latencies of a wait, of the scales and
//!   of `wgmma`'s end ([`LATENCY`]), its own products, its own instructions. The other warpgroups
//!   work meanwhile, so it counts once.
//!
//! **The problem** takes the longest of
//!
//! * *compute*: waves of tiles × (stages × the above + [`EPILOGUE`]) + [`PROLOGUE`]; the epilogue's
//!   stores drain behind the next tile;
//! * *L2*: the operands of all tiles, less what a cluster shares;
//! * *HBM*: every operand once, and D.
//!
//! The tensor pipe's and shared memory's rates are NVIDIA's (H100 data sheet, Hopper tuning guide).
//! What a device sustains (clock, L2, HBM) and the three latencies are set so that the model comes near
//! the figures that are published for FP8 GEMMs; how near, the table of plans says
//! (`tests/gemm/plans.txt`).

use super::desc::{Form, GemmDesc, Output};
pub use super::stage::{LATENCY, StageModel, StageShape};
use super::tile::Tile;

/// Cycles of a tile's way out that the next tile's products do not hide.
pub const EPILOGUE: f64 = 1500.0;

/// Cycles of a launch until the first stage has arrived, and from the last store to the end.
pub const PROLOGUE: f64 = 5000.0;

/// What of a device the model uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceModel {
    /// SM clock under such a load, in GHz.
    pub clock: f64,
    /// HBM bandwidth that is reached, in GB/s.
    pub hbm: f64,
    /// L2 bandwidth in bytes per SM cycle, of all SMs together.
    pub l2: f64,
}

impl DeviceModel {
    /// H100 and H800 SXM, which differ in NVLink and FP64 only: 1.5 GHz of at most 1.98, as the power
    /// limit allows; 80 % of 3350 GB/s.
    pub const H100: Self = Self {
        clock: 1.5,
        hbm: 2680.0,
        l2: 4900.0,
    };
}

/// Modelled time of a problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Tiles that hold rows in use.
    pub tiles: u64,
    /// Rounds in which CTAs take tiles.
    pub waves: u64,
    /// Cycles of one stage.
    pub stage: StageModel,
    /// Seconds by the SMs' work.
    pub compute: f64,
    /// Seconds by L2 traffic.
    pub l2: f64,
    /// Seconds by HBM traffic.
    pub hbm: f64,
}

impl Estimate {
    /// The model of a problem on `device`, computed with `tile` in clusters of `cluster` (m, n).
    #[must_use]
    pub fn of(desc: &GemmDesc, tile: &Tile, cluster: [u32; 2], device: &DeviceModel) -> Self {
        let stage = StageModel::of(&tile.stage());
        let work = Work::of(desc, tile, cluster);
        let ctas = cluster[0] * cluster[1];
        let slots = u64::from(desc.sms / ctas).max(1);
        let waves = work.super_tiles.div_ceil(slots);
        let stages = work.k_blocks;
        let cycles = waves as f64 * (stages * stage.cycles() + EPILOGUE) + PROLOGUE;
        let bytes = f64::from(desc.arithmetic.element_bytes());
        let hertz = device.clock * 1e9;
        // Of the tile's two operands the shared one is loaded once per cluster.
        let [a, b] = [tile.m / cluster[1], tile.n / cluster[0]].map(f64::from);
        let tiles = (work.super_tiles * u64::from(ctas)) as f64;
        let out = if desc.output == Output::Bf16 {
            2.0
        } else {
            4.0
        };
        let out = out
            * if desc.output == Output::AddF32 {
                2.0
            } else {
                1.0
            };
        let d = work.rows * f64::from(desc.n) * out;
        let operands = (work.rows + work.b_rows) * work.k * bytes;
        Self {
            tiles: work.super_tiles * u64::from(ctas),
            waves,
            stage,
            compute: cycles / hertz,
            l2: (tiles * stages * (a + b) * 128.0 + d) / (device.l2 * hertz),
            hbm: (operands + d) / (device.hbm * 1e9),
        }
    }

    /// Seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.compute.max(self.l2).max(self.hbm)
    }

    /// What the problem waits for.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        let seconds = self.seconds();
        if self.compute >= seconds {
            self.stage.bound()
        } else if self.l2 >= seconds {
            "L2"
        } else {
            "HBM"
        }
    }
}

/// How much there is to do.
struct Work {
    super_tiles: u64,
    /// Stages of one tile.
    k_blocks: f64,
    /// Rows of A that are read, and of D that are written.
    rows: f64,
    /// Rows of B that are read.
    b_rows: f64,
    /// Columns of K that a row is read for.
    k: f64,
}

impl Work {
    fn of(desc: &GemmDesc, tile: &Tile, cluster: [u32; 2]) -> Self {
        let (m, n) = (tile.m * cluster[0], tile.n * cluster[1]);
        let groups = u64::from(desc.form.groups());
        let columns = u64::from(desc.n.div_ceil(n));
        let wide = u64::from;
        let (row_tiles, rows) = match desc.form {
            Form::Dense { rows } | Form::Contiguous { rows, .. } => {
                (wide(rows.div_ceil(m)), wide(rows))
            }
            // Each group's last tile is half full on average.
            Form::Offsets { rows, .. } => {
                let partial = groups.min(wide(rows)) / 2;
                (wide(rows.div_ceil(m)) + partial, wide(rows))
            }
            Form::Batched { rows, .. } | Form::KGrouped { rows, .. } => {
                (groups * wide(rows.div_ceil(m)), groups * wide(rows))
            }
            Form::Masked {
                slot_rows,
                expected_rows,
                ..
            } => {
                let rows = expected_rows.min(slot_rows);
                (groups * wide(rows.div_ceil(m)), groups * wide(rows))
            }
        };
        let grouped_k = matches!(desc.form, Form::KGrouped { .. });
        let share = if grouped_k { groups as f64 } else { 1.0 };
        let read = if grouped_k {
            wide(desc.form.rows())
        } else {
            rows
        };
        Self {
            super_tiles: row_tiles * columns,
            k_blocks: f64::from(desc.k_blocks()) / share,
            rows: read as f64,
            b_rows: (wide(desc.form.b_slots()) * wide(desc.n)) as f64,
            k: f64::from(desc.k),
        }
    }
}
