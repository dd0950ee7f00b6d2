//! Which launches may have failed: those since the last wait that ended well.

use std::collections::VecDeque;

use super::diagnose::Suspects;

/// Launches since the last wait whose names are kept.
const REMEMBERED: usize = 4096;
/// How later launches of a recording are called.
pub(super) const RECORDED: &str = "a recorded step";

/// What was launched and not yet seen to have ended well.
#[derive(Default)]
pub(super) struct Launches {
    pub count: u64,
    unseen: VecDeque<(u64, &'static str)>,
}

impl Launches {
    pub fn add(&mut self, name: &'static str, count: u64) {
        self.unseen.push_back((self.count + 1, name));
        self.count += count;
        if self.unseen.len() > REMEMBERED {
            self.unseen.pop_front();
        }
    }

    /// The first `count` launches have ended well.
    pub fn seen(&mut self, count: u64) {
        while self.unseen.front().is_some_and(|(n, _)| *n <= count) {
            self.unseen.pop_front();
        }
    }

    pub fn suspects(&self) -> Option<Suspects> {
        let first = *self.unseen.front()?;
        let last = (self.count, self.unseen.back()?.1);
        Some(Suspects { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_are_remembered_until_they_are_seen_to_end() {
        let mut launches = Launches::default();
        assert_eq!(launches.suspects(), None);
        launches.add("a", 1);
        launches.add("b", 1);
        launches.seen(1);
        launches.add(RECORDED, 40);
        launches.add("c", 1);
        let suspects = launches.suspects().unwrap();
        assert_eq!(suspects.first, (2, "b"));
        assert_eq!(suspects.last, (43, "c"));
        launches.seen(43);
        assert_eq!(launches.suspects(), None);
        for _ in 0..2 * REMEMBERED {
            launches.add("d", 1);
        }
        assert_eq!(launches.unseen.len(), REMEMBERED);
    }
}
