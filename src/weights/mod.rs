//! Weights on disk: safetensors files that other tools can read, and PyTorch's `.pth` files.
//!
//! A network is stored tensor by tensor under the names of the authors' state dict, convolution
//! weights in PyTorch's K·C·R·S order, so a file moves between this engine and PyTorch either
//! way. A checkpoint is such a file with more in it: `student.`, `teacher.` and `velocity.` copies
//! of the network, the memory bank, and the run's counters as metadata.
//!
//! ```text
//!  flat weights ──to_disk──► Writer ──► temp file ──fsync, rename──► W.safetensors ◄─convert─► W.pth
//!  flat weights ◄─from_disk─ each_param / init_params ◄── Reader ◄────────┴───────────────────┘
//! ```

mod convert;
mod digest;
mod disk;
mod files;
mod fit;
mod order;
mod params;
mod place;
mod pth;
mod reader;
mod safe;
mod writer;

pub use convert::{Converted, convert};
pub use files::weights_of;
pub use fit::{Difference, table};
pub use order::tensor_for_disk;
#[cfg(feature = "cli")]
pub(crate) use params::explained;
pub use params::{
    InitReport, check_init, differences, each_param, init_params, read_flat, read_params, taken,
};
pub use place::Prefer;
pub use reader::Reader;
pub use writer::{Element, Writer};

/// Name prefix of the student's tensors in a checkpoint.
pub const STUDENT: &str = "student.";
/// Name prefix of the teacher's tensors in a checkpoint.
pub const TEACHER: &str = "teacher.";
