//! Registers that the hardware sets.

/// Registers that the hardware sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    /// Of a cluster of one block: its id is 0, its extent 1.
    Zero,
    One,
    DynamicShared,
    TotalShared,
    /// Clocks: the warp instructions that the block has run.
    Clock,
    /// A multiprocessor's number, and how many there are.
    Smid,
    Nsmid,
}

/// The register of this name.
pub fn special(name: &str) -> Option<Special> {
    let axis = |suffix: &str| match suffix {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    Some(match name {
        "%laneid" => Special::Laneid,
        "%warpid" => Special::Warpid,
        "%nwarpid" => Special::Nwarpid,
        "%lanemask_eq" => Special::LanemaskEq,
        "%lanemask_lt" => Special::LanemaskLt,
        "%lanemask_le" => Special::LanemaskLe,
        "%lanemask_gt" => Special::LanemaskGt,
        "%lanemask_ge" => Special::LanemaskGe,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => Special::Clock,
        "%smid" => Special::Smid,
        "%nsmid" => Special::Nsmid,
        "%clock_hi" | "%globaltimer_hi" | "%gridid" => Special::Zero,
        "%cluster_ctarank" | "%cluster_ctaid.x" | "%cluster_ctaid.y" | "%cluster_ctaid.z" => {
            Special::Zero
        }
        "%cluster_nctarank" | "%cluster_nctaid.x" | "%cluster_nctaid.y" | "%cluster_nctaid.z" => {
            Special::One
        }
        _ => {
            if let Some(a) = name.strip_prefix("%tid").and_then(axis) {
                Special::Tid(a)
            } else if let Some(a) = name.strip_prefix("%ntid").and_then(axis) {
                Special::Ntid(a)
            } else if let Some(a) = name
                .strip_prefix("%ctaid")
                .or(name.strip_prefix("%clusterid"))
                .and_then(axis)
            {
                Special::Ctaid(a)
            } else if let Some(a) = name
                .strip_prefix("%nctaid")
                .or(name.strip_prefix("%nclusterid"))
                .and_then(axis)
            {
                Special::Nctaid(a)
            } else {
                return None;
            }
        }
    })
}
