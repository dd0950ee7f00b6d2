//! What tensor cores, TMA and mbarriers compute, apart from any machine: numbers in, numbers out.
//!
//! Nothing here knows warps, schedules or memory; the machine fetches the words and stores the
//! results. So each rule (how products are added, where an element of a fragment or of a swizzled
//! tile lives, when a phase completes) is one function with a test of its own.
//!
//! | module | what it says |
//! |---|---|
//! | [`element`] | bf16, f16 and tf32: their values, significands and exponents |
//! | [`accumulate`] | D = A·B + C by a named model: `ieee`, `ampere`, `hopper` |
//! | [`fragment`] | which lane and register holds which element of `mma.sync` and `ldmatrix` |
//! | [`descriptor`] | shared-memory descriptors of `wgmma`, swizzles, operand addresses |
//! | [`wgmma`] | shapes, accumulator layout, the product itself |
//! | [`map`] | tensor maps: encoding, limits |
//! | [`tma`] | the elements of a box: global address, out of bounds, shared address |
//! | [`mbarrier`] | the 64-bit barrier object: arrivals, transaction bytes, phases |

pub mod accumulate;
pub mod descriptor;
pub mod element;
pub mod fragment;
pub mod map;
pub mod mbarrier;
pub mod tma;
pub mod wgmma;

pub use accumulate::Accumulation;
pub use element::Element;
