//! Control flow of an entry: basic blocks, where diverged lanes meet again, which registers are
//! alive where, and with it how few rows hold them all.

use super::program::resolve::{Arg, Line, Width};

/// No such place: lanes that diverge here never meet again.
pub const NEVER: u32 = u32::MAX;

/// Most words of a set of registers for each basic block.
const MOST_WORDS: usize = 1 << 25;

/// Basic blocks over the lines of an entry.
pub struct Flow {
    /// First line of each block; the last entry is the number of lines.
    starts: Vec<usize>,
    successors: Vec<Vec<usize>>,
    /// Block of each line.
    of: Vec<usize>,
}

impl Flow {
    /// `targets[i]` is the line that line `i` branches to.
    pub fn new(lines: &[Line<'_>], targets: &[Option<usize>]) -> Flow {
        let n = lines.len();
        let mut leader = vec![false; n + 1];
        leader[0] = true;
        leader[n] = true;
        for (i, line) in lines.iter().enumerate() {
            if let Some(target) = targets[i] {
                leader[target] = true;
                leader[i + 1] = true;
            }
            if line.ends() {
                leader[i + 1] = true;
            }
        }
        let starts: Vec<usize> = (0..=n).filter(|i| leader[*i]).collect();
        let mut of = vec![0; n + 1];
        for (b, pair) in starts.windows(2).enumerate() {
            of[pair[0]..pair[1]].fill(b);
        }
        let blocks = starts.len() - 1;
        of[n] = blocks;
        // Block number `blocks` is the exit.
        let mut successors = vec![Vec::new(); blocks + 1];
        for b in 0..blocks {
            let last = starts[b + 1] - 1;
            let line = &lines[last];
            let falls = !((line.ends() || targets[last].is_some()) && line.guard.is_none());
            if let Some(target) = targets[last] {
                successors[b].push(of[target]);
            } else if line.ends() {
                successors[b].push(blocks);
            }
            if falls && !successors[b].contains(&(b + 1)) {
                successors[b].push(b + 1);
            }
        }
        Flow {
            starts,
            successors,
            of,
        }
    }

    /// For each block the block that all its paths to the exit pass next.
    fn post_dominators(&self) -> Vec<Option<usize>> {
        let exit = self.successors.len() - 1;
        let mut predecessors = vec![Vec::new(); exit + 1];
        for (b, next) in self.successors.iter().enumerate() {
            for s in next {
                predecessors[*s].push(b);
            }
        }
        // Postorder of the reversed graph from the exit (Cooper, Harvey, Kennedy 2001).
        let mut order = Vec::new();
        let mut number = vec![usize::MAX; exit + 1];
        let mut seen = vec![false; exit + 1];
        let mut stack = vec![(exit, 0)];
        seen[exit] = true;
        while let Some((b, child)) = stack.pop() {
            if let Some(next) = predecessors[b].get(child) {
                stack.push((b, child + 1));
                if !seen[*next] {
                    seen[*next] = true;
                    stack.push((*next, 0));
                }
            } else {
                number[b] = order.len();
                order.push(b);
            }
        }
        let mut found: Vec<Option<usize>> = vec![None; exit + 1];
        found[exit] = Some(exit);
        let mut changed = true;
        while changed {
            changed = false;
            for &b in order.iter().rev().skip(1) {
                let mut meet: Option<usize> = None;
                for &s in &self.successors[b] {
                    if found[s].is_none() {
                        continue;
                    }
                    meet = Some(match meet {
                        None => s,
                        Some(other) => common(other, s, &found, &number),
                    });
                }
                if meet != found[b] {
                    found[b] = meet;
                    changed = true;
                }
            }
        }
        found
    }

    /// For each line that branches: the line where its lanes meet again.
    pub fn meetings(&self, targets: &[Option<usize>]) -> Vec<u32> {
        let exit = self.successors.len() - 1;
        let dominators = self.post_dominators();
        targets
            .iter()
            .enumerate()
            .map(|(i, target)| match (target, dominators[self.of[i]]) {
                (Some(_), Some(meet)) if meet != exit => self.starts[meet] as u32,
                _ => NEVER,
            })
            .collect()
    }

    /// A row for each virtual register, so that two which are alive at the same time never share
    /// one, and the number of rows by [`Width`]. Lanes write under their mask, so what holds for
    /// one lane's path holds for the row.
    ///
    /// `None` where that would take more memory than a kernel is worth.
    pub fn rows(&self, lines: &[Line<'_>], widths: &[Width]) -> Option<(Vec<u32>, [u32; 3])> {
        let count = widths.len();
        let words = count.div_ceil(64);
        let blocks = self.starts.len() - 1;
        if words.saturating_mul(blocks) > MOST_WORDS {
            return None;
        }
        let mut uses = vec![vec![0u64; words]; blocks];
        let mut kills = vec![vec![0u64; words]; blocks];
        for b in 0..blocks {
            for line in &lines[self.starts[b]..self.starts[b + 1]] {
                line.each(&mut |v, defines| {
                    let (word, bit) = (v as usize / 64, 1u64 << (v % 64));
                    if !defines && kills[b][word] & bit == 0 {
                        uses[b][word] |= bit;
                    }
                });
                line.each(&mut |v, defines| {
                    let (word, bit) = (v as usize / 64, 1u64 << (v % 64));
                    if defines {
                        // Under a guard the old value may stay.
                        if line.guard.is_none() {
                            kills[b][word] |= bit;
                        } else if kills[b][word] & bit == 0 {
                            uses[b][word] |= bit;
                        }
                    }
                });
            }
        }
        let mut alive = uses.clone();
        alive.push(vec![0; words]);
        let mut changed = true;
        while changed {
            changed = false;
            for b in (0..blocks).rev() {
                for word in 0..words {
                    let out = self.successors[b]
                        .iter()
                        .fold(0, |bits, s| bits | alive[*s][word]);
                    let new = uses[b][word] | (out & !kills[b][word]);
                    if new != alive[b][word] {
                        alive[b][word] = new;
                        changed = true;
                    }
                }
            }
        }
        let mut first = vec![usize::MAX; count];
        let mut last = vec![0usize; count];
        let mut extend = |v: usize, at: usize| {
            first[v] = first[v].min(at);
            last[v] = last[v].max(at);
        };
        for b in 0..blocks {
            let (start, end) = (self.starts[b], self.starts[b + 1]);
            for (word, live) in alive[b].iter().enumerate() {
                let out = self.successors[b]
                    .iter()
                    .fold(0, |bits, s| bits | alive[*s][word]);
                for (mut bits, at) in [(*live, start), (out, end)] {
                    while bits != 0 {
                        extend(word * 64 + bits.trailing_zeros() as usize, at);
                        bits &= bits - 1;
                    }
                }
            }
            for (i, line) in lines[start..end].iter().enumerate() {
                line.each(&mut |v, _| extend(v as usize, start + i));
                // wgmma writes its accumulators at a time of its own: nobody else gets their rows.
                if let (["wgmma", "mma_async", ..], Some(sums)) =
                    (line.parts.as_slice(), line.args.first())
                {
                    registers(sums, &mut |v| {
                        extend(v as usize, 0);
                        extend(v as usize, lines.len());
                    });
                }
            }
        }
        Some(assign(&first, &last, widths))
    }
}

fn common(a: usize, b: usize, found: &[Option<usize>], number: &[usize]) -> usize {
    let (mut a, mut b) = (a, b);
    while a != b {
        while number[a] < number[b] {
            a = found[a].unwrap_or(b);
        }
        while number[b] < number[a] {
            b = found[b].unwrap_or(a);
        }
    }
    a
}

/// Linear scan. A row is given back only after the line of its last use, so that no instruction
/// writes a row that it reads under another name.
fn assign(first: &[usize], last: &[usize], widths: &[Width]) -> (Vec<u32>, [u32; 3]) {
    let mut order: Vec<usize> = (0..widths.len())
        .filter(|v| first[*v] != usize::MAX)
        .collect();
    order.sort_by_key(|v| first[*v]);
    let mut rows = vec![0; widths.len()];
    let mut counts = [0u32; 3];
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut active: std::collections::BinaryHeap<std::cmp::Reverse<(usize, usize)>> =
        Default::default();
    for v in order {
        while let Some(std::cmp::Reverse((end, old))) = active.peek().copied() {
            if end >= first[v] {
                break;
            }
            active.pop();
            free[widths[old] as usize].push(rows[old]);
        }
        let kind = widths[v] as usize;
        rows[v] = free[kind].pop().unwrap_or_else(|| {
            counts[kind] += 1;
            counts[kind] - 1
        });
        active.push(std::cmp::Reverse((last[v], v)));
    }
    (rows, counts)
}

/// The registers of an argument, in order.
pub fn registers(arg: &Arg<'_>, found: &mut impl FnMut(u32)) {
    match arg {
        Arg::Reg(v) | Arg::Not(v) => found(*v),
        Arg::Pair(a, b) => {
            registers(a, found);
            registers(b, found);
        }
        Arg::Vector(parts) | Arg::List(parts) => {
            parts.iter().for_each(|part| registers(part, found));
        }
        Arg::Address(base, _, coordinates) => {
            registers(base, found);
            coordinates.iter().for_each(|part| registers(part, found));
        }
        _ => {}
    }
}
