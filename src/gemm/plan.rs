//! `GemmDesc -> GemmPlan`: which kernel, tile, cluster, grid and order. Pure; no device is asked.
//!
//! Every tile that can compute the problem is weighed by its modelled time ([`super::model`]), alone
//! and in pairs that share an operand; the fastest wins.

use std::fmt::Write;

use super::desc::{Form, GROUP_ALIGNMENT, GemmDesc, MOST};
use super::error::{OperandError, range};
use super::model::{DeviceModel, Estimate};
use super::tile::Tile;

/// Rows that CTAs at work at one time should share: bands of so many along m are computed together.
const BAND_ROWS: u32 = 2048;

/// How a problem is executed. For reading: [`Gemm::new`](super::Gemm::new) refuses one whose fields are
/// not those that [`Self::with_tile`] gives.
///
/// ```
/// use hadal::gemm::{Arithmetic, Form, GemmDesc, GemmPlan, OperandError, Output};
///
/// let form = Form::Contiguous { rows: 8192, groups: 4 };
/// let (arithmetic, output) = (Arithmetic::E4M3_1D2D, Output::Bf16);
/// let desc = GemmDesc { form, n: 4096, k: 7168, arithmetic, output, sms: 132 };
/// let plan = GemmPlan::new(desc)?;
/// // Leave 20 SMs to communication.
/// let fewer = GemmPlan::new(GemmDesc { sms: 112, ..desc })?;
/// assert!(fewer.grid <= 112 && plan.grid <= 132);
///
/// let error = GemmPlan::new(GemmDesc { k: 7160, ..desc }).unwrap_err();
/// assert_eq!(error, OperandError::Multiple { what: "K", value: 7160, of: 16 });
/// # Ok::<(), OperandError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GemmPlan {
    /// The problem.
    pub desc: GemmDesc,
    /// The tile, and the kernel that computes it.
    pub tile: Tile,
    /// CTAs of a cluster along m (they share B) and n (they share A); one of the two is 1.
    pub cluster: [u32; 2],
    /// Clusters' tiles along m that are computed together.
    pub band: u32,
    /// Most tiles there can be.
    pub tiles: u32,
    /// CTAs, a multiple of the cluster: each takes every `grid`-th tile. 0 when there is nothing to
    /// do.
    pub grid: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Modelled time on an H100.
    pub estimate: Estimate,
}

impl GemmPlan {
    /// Plans `desc` with the tile and cluster that are modelled fastest.
    ///
    /// ```
    /// use hadal::gemm::{Arithmetic, Form, GemmDesc, GemmPlan, Output};
    ///
    /// let desc = GemmDesc {
    ///     form: Form::Dense { rows: 4096 },
    ///     n: 7168,
    ///     k: 2048,
    ///     arithmetic: Arithmetic::E4M3_1D2D,
    ///     output: Output::Bf16,
    ///     sms: 132,
    /// };
    /// let plan = GemmPlan::new(desc)?;
    /// assert!(plan.grid <= 132);
    /// println!("{}", plan.explain());
    /// # Ok::<(), hadal::gemm::OperandError>(())
    /// ```
    ///
    /// # Errors
    /// [`OperandError::Multiple`] when N or K is no multiple of 16 (K of 128 when grouped),
    /// [`OperandError::Range`] when a size is 0 or too large, [`OperandError::NoTile`] when no
    /// kernel is compiled for the formats and scales in the form.
    pub fn new(desc: GemmDesc) -> Result<Self, OperandError> {
        desc.check()?;
        let mut best: Option<Self> = None;
        for tile in Tile::candidates(desc.arithmetic, desc.form) {
            for cluster in [[1, 1], [2, 1], [1, 2]] {
                if !fits(&desc, &tile, cluster) {
                    continue;
                }
                let plan = Self::with_tile(desc, tile, cluster)?;
                if best.is_none_or(|best| plan.cost() < best.cost()) {
                    best = Some(plan);
                }
            }
        }
        best.ok_or(OperandError::NoTile {
            arithmetic: desc.arithmetic,
            form: desc.form.name(),
        })
    }

    /// Plans `desc` with a given tile and cluster. A row of D has the same bits with any.
    ///
    /// # Errors
    /// As [`Self::new`]; [`OperandError::Cluster`] when the tile or the cluster cannot compute the
    /// problem: another arithmetic, more CTAs than SMs, more than two, two of swapped operands, or
    /// more rows together than groups are aligned to in the contiguous form.
    pub fn with_tile(desc: GemmDesc, tile: Tile, cluster: [u32; 2]) -> Result<Self, OperandError> {
        desc.check()?;
        if !fits(&desc, &tile, cluster) {
            return Err(OperandError::Cluster {
                tile: tile.kernel,
                cluster,
                form: desc.form.name(),
                sms: desc.sms,
            });
        }
        let [m, n] = [tile.m * cluster[0], tile.n * cluster[1]];
        let ctas = cluster[0] * cluster[1];
        // Groups that begin anywhere have one partly filled tile more each.
        let partial = match desc.form {
            Form::Offsets { rows, groups } => groups.min(rows),
            _ => 0,
        };
        let row_tiles = u64::from(desc.form.rows().div_ceil(m)) + u64::from(partial);
        let columns = u64::from(desc.n.div_ceil(n));
        let super_tiles = u64::from(desc.form.d_slots()) * row_tiles * columns;
        let tiles = super_tiles * u64::from(ctas);
        range("tiles", tiles, [0, MOST])?;
        let clusters = super_tiles.min(u64::from(desc.sms / ctas));
        Ok(Self {
            desc,
            tile,
            cluster,
            band: (BAND_ROWS / m).max(1),
            tiles: u32::try_from(tiles).unwrap_or(u32::MAX),
            grid: u32::try_from(clusters).unwrap_or(u32::MAX) * ctas,
            shared_bytes: tile.shared_bytes(),
            estimate: Estimate::of(&desc, &tile, cluster, &DeviceModel::H100),
        })
    }

    /// What plans are compared by: modelled time, and a little of what lies behind the bound, which
    /// is never hidden perfectly and decides between equals.
    fn cost(&self) -> f64 {
        let Estimate {
            compute, l2, hbm, ..
        } = self.estimate;
        self.estimate.seconds() + 0.05 * (compute + l2 + hbm)
    }

    /// Why this plan: its modelled figures, and those of the alternatives.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = format!("{}\n", self.line());
        let Estimate { stage, .. } = self.estimate;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "a stage: tensor {:.0}, shared {:.0}, issue {:.0}, chain {:.0} cycles: {:.0} per 128³",
            stage.tensor,
            stage.shared,
            stage.issue,
            stage.chain,
            self.tile.stage().per_step()
        );
        let _ = writeln!(
            text,
            "in all: compute {:.2}, L2 {:.2}, HBM {:.2} µs: bound by {}",
            self.estimate.compute * 1e6,
            self.estimate.l2 * 1e6,
            self.estimate.hbm * 1e6,
            self.estimate.bound()
        );
        for tile in Tile::candidates(self.desc.arithmetic, self.desc.form) {
            for cluster in [[1, 1], [2, 1], [1, 2]] {
                let other = Self::with_tile(self.desc, tile, cluster);
                if let Some(other) = other.ok().filter(|other| other != self) {
                    let _ = writeln!(text, "not {}", other.line());
                }
            }
        }
        text
    }

    fn line(&self) -> String {
        let Estimate { waves, tiles, .. } = self.estimate;
        let [m, n] = self.cluster;
        format!(
            "{} in clusters of {m}x{n}: {tiles} tiles in {waves} waves on {} CTAs, modelled {:.2} µs",
            self.tile.kernel,
            self.grid,
            self.estimate.seconds() * 1e6
        )
    }
}

fn fits(desc: &GemmDesc, tile: &Tile, cluster: [u32; 2]) -> bool {
    let ctas = match cluster {
        [1, 1] => 1,
        [2, 1] | [1, 2] => 2,
        _ => return false,
    };
    // First of all: what follows computes with the tile's fields.
    if !Tile::candidates(desc.arithmetic, desc.form).any(|other| other == *tile) {
        return false;
    }
    let alone = tile.order == super::tile::Order::Swapped;
    let aligned = !matches!(desc.form, Form::Contiguous { .. })
        || GROUP_ALIGNMENT.is_multiple_of(tile.m * cluster[0]);
    aligned && ctas <= desc.sms && (ctas == 1 || !alone)
}
