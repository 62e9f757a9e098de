//! Classes of GEMM tiles, and the best public kernel of each as a baseline: DeepGEMM
//! (github.com/deepseek-ai/DeepGEMM), compiled with ptxas 13.0 for fixed N and K; instructions per
//! warp of its innermost loop with matrix instructions, per share of 64 × 128 × 128.

use super::stage::StageShape;

/// A class of tiles.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: &'static str,
    /// The instance that stands for it.
    pub(super) kernel: &'static str,
    pub(super) baseline: Option<Baseline>,
}

/// The loop of a public kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Baseline {
    /// Instructions per share.
    pub(super) per_step: f64,
    /// Its tile, m and n, and row blocks per warpgroup.
    tile: [u32; 3],
}

impl Baseline {
    const fn new(per_step: f64, m: u32, n: u32, blocks: u32) -> Option<Self> {
        Some(Self {
            per_step,
            tile: [m, n, blocks],
        })
    }

    /// Modelled cycles per 128³.
    pub(super) fn cycles(&self) -> f64 {
        let [long, short, blocks] = self.tile;
        StageShape {
            long,
            short,
            blocks,
            instructions: self.per_step * f64::from(short * blocks) / 128.0,
        }
        .per_step()
    }
}

/// All classes.
pub(super) const CLASSES: [Class; 8] = [
    class(
        "1d2d-128x128",
        "gemm_1d2d_e4m3_128x128",
        Baseline::new(106.6, 128, 128, 1),
    ),
    class(
        "1d2d-256x128",
        "gemm_1d2d_e4m3_256x128",
        Baseline::new(95.9, 256, 128, 2),
    ),
    class(
        "1d2d-64x128",
        "gemm_1d2d_e4m3_64x128",
        Baseline::new(94.9, 64, 128, 1),
    ),
    class(
        "1d2d-grouped-128x192",
        "gemm_1d2d_e4m3_128x192",
        Baseline::new(91.0, 128, 192, 1),
    ),
    class(
        "1d2d-masked-64x192",
        "gemm_1d2d_e4m3_64x192",
        Baseline::new(94.4, 64, 192, 1),
    ),
    class(
        "1d1d-128x128",
        "gemm_1d1d_e4m3_128x128",
        Baseline::new(183.5, 128, 128, 1),
    ),
    class(
        "1d1d-kgrouped",
        "gemm_1d1d_e5m2_128x128",
        Baseline::new(207.2, 128, 152, 1),
    ),
    class("1d2d-large", "gemm_1d2d_e4m3_128x192", None),
];

const fn class(name: &'static str, kernel: &'static str, baseline: Option<Baseline>) -> Class {
    Class {
        name,
        kernel,
        baseline,
    }
}
