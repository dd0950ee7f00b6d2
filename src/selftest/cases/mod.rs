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
