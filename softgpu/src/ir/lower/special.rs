//! Special registers by name. Source: PTX ISA 9.0, "Special Registers".

use crate::ir::{ReservedSmem, Special};

fn axis(name: &str) -> Option<u8> {
    match name {
        "x" | "r" => Some(0),
        "y" | "g" => Some(1),
        "z" | "b" => Some(2),
        _ => None,
    }
}

/// One component of a vector; the fourth reads as zero.
fn component(vector: &str, axis: u8) -> Option<Special> {
    Some(match vector {
        "tid" => Special::Tid(axis),
        "ntid" => Special::Ntid(axis),
        "ctaid" => Special::Ctaid(axis),
        "nctaid" => Special::Nctaid(axis),
        "clusterid" => Special::Clusterid(axis),
        "nclusterid" => Special::Nclusterid(axis),
        "cluster_ctaid" => Special::ClusterCtaid(axis),
        "cluster_nctaid" => Special::ClusterNctaid(axis),
        _ => return None,
    })
}

/// `%tid` and the like, as `mov.v4` reads them.
pub(super) fn special_vector(word: &str) -> Option<[Special; 4]> {
    let name = word.strip_prefix('%')?;
    let part = |axis| component(name, axis);
    Some([part(0)?, part(1)?, part(2)?, Special::Zero])
}

fn numbered(name: &str) -> Option<Special> {
    let below = |text: &str, end: u8| text.parse().ok().filter(|&number: &u8| number < end);
    if let Some(number) = name.strip_prefix("envreg") {
        return below(number, 32).map(Special::Envreg);
    }
    let number = name.strip_prefix("pm")?;
    match number.strip_suffix("_64") {
        Some(number) => below(number, 8).map(Special::Pm64),
        None => below(number, 8).map(Special::Pm),
    }
}

/// A special register by name.
pub(super) fn special(word: &str) -> Option<Special> {
    let name = word.strip_prefix('%')?;
    if let Some((vector, part)) = name.split_once('.') {
        return match axis(part) {
            Some(axis) => component(vector, axis),
            None if matches!(part, "w" | "a") => component(vector, 0).map(|_| Special::Zero),
            None => None,
        };
    }
    if let Some(special) = numbered(name) {
        return Some(special);
    }
    Some(match name {
        "cluster_ctarank" => Special::ClusterCtarank,
        "cluster_nctarank" => Special::ClusterNctarank,
        "is_explicit_cluster" => Special::IsExplicitCluster,
        "laneid" => Special::Laneid,
        "warpid" => Special::Warpid,
        "nwarpid" => Special::Nwarpid,
        "smid" => Special::Smid,
        "nsmid" => Special::Nsmid,
        "gridid" => Special::Gridid,
        "lanemask_eq" => Special::LanemaskEq,
        "lanemask_le" => Special::LanemaskLe,
        "lanemask_lt" => Special::LanemaskLt,
        "lanemask_ge" => Special::LanemaskGe,
        "lanemask_gt" => Special::LanemaskGt,
        "clock" => Special::Clock,
        "clock_hi" => Special::ClockHi,
        "clock64" => Special::Clock64,
        "globaltimer" => Special::Globaltimer,
        "globaltimer_lo" => Special::GlobaltimerLo,
        "globaltimer_hi" => Special::GlobaltimerHi,
        "dynamic_smem_size" => Special::DynamicSmemSize,
        "total_smem_size" => Special::TotalSmemSize,
        "aggr_smem_size" => Special::AggrSmemSize,
        "reserved_smem_offset_begin" => Special::ReservedSmem(ReservedSmem::Begin),
        "reserved_smem_offset_end" => Special::ReservedSmem(ReservedSmem::End),
        "reserved_smem_offset_cap" => Special::ReservedSmem(ReservedSmem::Cap),
        "reserved_smem_offset_0" => Special::ReservedSmem(ReservedSmem::Offset0),
        "reserved_smem_offset_1" => Special::ReservedSmem(ReservedSmem::Offset1),
        "current_graph_exec" => Special::CurrentGraphExec,
        _ => return None,
    })
}

/// Bytes of a special register's value.
pub(super) fn special_bytes(special: Special) -> u32 {
    match special {
        Special::Clock64
        | Special::Globaltimer
        | Special::Gridid
        | Special::Pm64(_)
        | Special::CurrentGraphExec => 8,
        _ => 4,
    }
}
