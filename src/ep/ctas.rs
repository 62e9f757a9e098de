//! How many CTAs a kernel takes unless told otherwise. Modelled, not measured.
//!
//! A kernel that moves rows in *throughput* mode is to keep the links busy and leave the rest of the device to the GEMMs. Its rate is bounded by what its
//! loads have in flight: to fill a link of `B` bytes per second with loads that take `t`, `B · t` bytes must be under way
//! (Little's law), `c` times as many if `c` bytes are loaded per byte that crosses. A warp has one batch of its row in flight. With 450 GB/s each way
//! (NVLink 4, H100 SXM) and 467 ns (700 cycles of an L2 miss at 1.5 GHz; Luo et al., IPDPS'24) that makes 210 kB: 13 CTAs of 8 warps with
//! 2 KiB each. Links of 200 GB/s (H800) need 6.
//!
//! In *latency* mode nothing else runs and waiting decides: every expert gets a CTA, as far as there are SMs.

/// Bytes on their way that fill the links: 450 GB/s times 467 ns.
const IN_FLIGHT: u64 = 450 * 467;
/// SMs of an H100 SXM: more CTAs would queue.
pub(in crate::ep) const SMS: u32 = 132;
/// Warps of a CTA.
const WARPS: u64 = 8;

/// Bytes that a warp loads at once when it copies a row: four vectors per lane (`kCopyBatch` in csrc/ep/common.cuh).
pub(in crate::ep) const COPY_BATCH: u64 = 4 * 32 * 16;
/// The same when it sums rows: one vector per lane.
pub(in crate::ep) const SUM_BATCH: u64 = 32 * 16;

/// CTAs that keep the links busy with rows of `row` bytes, loaded `batch` bytes at a time by a warp, where `loads` rows are
/// loaded for each one that crosses.
pub(in crate::ep) fn to_fill_links(row: u64, batch: u64, loads: f64) -> u32 {
    let row = row.max(1);
    // The last batch of a row is not a full one.
    let in_flight = row as f64 / row.div_ceil(batch) as f64 * WARPS as f64;
    let wanted = IN_FLIGHT as f64 * loads;
    let enough = (1..SMS).find(|&ctas| f64::from(ctas) * in_flight >= wanted);
    enough.unwrap_or(SMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_rows_need_few_ctas_and_short_ones_all() {
        // 210150 bytes, by 8 warps with 7168 / 4 each.
        assert_eq!(to_fill_links(7168, COPY_BATCH, 1.0), 15);
        assert_eq!(to_fill_links(1 << 20, COPY_BATCH, 1.0), 13);
        assert_eq!(to_fill_links(16, COPY_BATCH, 1.0), SMS);
        assert_eq!(to_fill_links(0, COPY_BATCH, 1.0), SMS);
        // BF16 rows, a vector at a time, once and one and a half times.
        assert_eq!(to_fill_links(14336, SUM_BATCH, 1.0), 52);
        assert_eq!(to_fill_links(14336, SUM_BATCH, 1.5), 77);
    }
}
