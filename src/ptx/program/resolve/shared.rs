//! Where a block's shared arrays lie.

use super::SHARED_START;
use crate::ptx::parse::Variable;

/// Bytes around a shared array that belong to nothing.
const GAP: u32 = 16;

/// Where shared arrays lie. A gap that belongs to nothing is before and behind each.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Static arrays: name, start, bytes.
    pub arrays: Vec<(String, u32, u32)>,
    /// Bytes that a launch is charged for.
    pub static_bytes: u32,
    /// Where dynamic shared memory starts.
    pub dynamic_start: u32,
}

impl Layout {
    /// Lays arrays out: static ones in order, then those that are as large as the launch says.
    /// `found` is told where each starts.
    pub fn new<'a>(variables: &[&Variable<'a>], mut found: impl FnMut(&'a str, u32)) -> Layout {
        let mut layout = Layout::default();
        let mut next = SHARED_START;
        let mut charged = 0u32;
        for variable in variables.iter().filter(|v| !v.open) {
            let start = place(next, variable.align);
            next = start.saturating_add(variable.bytes);
            charged = charged
                .next_multiple_of(variable.align)
                .saturating_add(variable.bytes);
            layout
                .arrays
                .push((variable.name.to_string(), start, variable.bytes));
            found(variable.name, start);
        }
        layout.static_bytes = charged;
        let open: Vec<_> = variables.iter().filter(|v| v.open).collect();
        let align = open.iter().map(|v| v.align).max().unwrap_or(16).max(16);
        // Without static arrays dynamic memory starts the block's, at a multiple of 1024: kernels
        // rely on it for swizzles whatever alignment they declare.
        layout.dynamic_start = match layout.arrays.is_empty() {
            true => SHARED_START,
            false => next.saturating_add(GAP).next_multiple_of(align),
        };
        for variable in open {
            found(variable.name, layout.dynamic_start);
        }
        layout
    }
}

/// The next start behind a gap that has this alignment and, below 16, no more than this.
fn place(from: u32, align: u32) -> u32 {
    let start = from.saturating_add(GAP).next_multiple_of(align);
    match align < 16 && start.is_multiple_of(2 * align) {
        true => start + align,
        false => start,
    }
}
