//! Every case of the suite, a file per family of operations.
//!
//! Small integers where the result must be the same bits, random numbers with a stated tolerance
//! elsewhere; shapes that tile nothing evenly always among them.

mod augment;
mod contrast;
mod conv;
mod elementwise;
mod entropy;
mod loss;
mod metrics;
mod mix;
mod norm;
mod optimizer;
mod pool;
mod resize;

use super::Case;

/// The whole suite, of data that `seed` decides.
pub fn all(seed: u64) -> Vec<Case> {
    let families = [
        elementwise::cases,
        optimizer::cases,
        conv::cases,
        norm::cases,
        pool::cases,
        resize::cases,
        augment::cases,
        mix::cases,
        entropy::cases,
        loss::cases,
        contrast::cases,
        metrics::cases,
    ];
    families.iter().flat_map(|cases| cases(seed)).collect()
}

/// Every operation that cases can be of.
pub const OPERATIONS: &[&str] = &[
    "fill",
    "copy",
    "lerp",
    "augment",
    "mix",
    "conv",
    "conv_batch_norm_eval",
    "conv_moments",
    "conv_dgrad",
    "conv_wgrad",
    "batch_norm",
    "batch_norm_merge",
    "batch_norm_eval",
    "batch_norm_backward",
    "relu",
    "relu_backward",
    "max_pool",
    "max_pool_backward",
    "global_avg_pool",
    "global_avg_pool_backward",
    "resize",
    "resize_backward",
    "dropout2d",
    "softmax_entropy",
    "percentile",
    "keep_reliable",
    "cross_entropy",
    "cross_entropy_backward",
    "target_probability",
    "ohem_threshold",
    "partition",
    "compact",
    "memory_bank",
    "prototype",
    "info_nce",
    "info_nce_backward",
    "sgd_ema",
    "confusion",
    "label_confusion",
    "add_scores",
    "finish_scores",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_of_a_known_operation_and_well_formed() {
        let mut names = std::collections::HashSet::new();
        for case in all(1) {
            let id = format!("{} {:?} {}", case.family, case.math, case.name);
            assert!(OPERATIONS.contains(&case.family), "{id}");
            assert_eq!(case.outs.len(), case.tolerance.len(), "{id}");
            assert!(
                names.insert(format!("{id} {}", case.shapes())),
                "twice: {id}"
            );
            for (i, out) in case.outs.iter().enumerate() {
                let added = case.accumulate >> i & 1 == 1;
                let read = added || case.op.reads_output(i);
                assert!(!added || case.op.can_accumulate(i), "{id}: output {i}");
                assert!(
                    !read || out.data.is_some() || case.alias(i).is_some(),
                    "{id}: output {i} is read but has no contents"
                );
            }
            for pair in &case.aliases {
                assert!(case.op.in_place().contains(pair), "{id}: {pair:?}");
            }
        }
    }
}
