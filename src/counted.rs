//! Counts in sentences: `1 mask`, `3 masks`.

/// `n` with `one` behind 1 and `many` behind every other number: nouns, and verbs with them.
pub(crate) fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_singular_and_every_other_number_plural() {
        let text = |n| counted(n, "mask is", "masks are");
        assert_eq!(
            [0, 1, 2, 11].map(text),
            ["0 masks are", "1 mask is", "2 masks are", "11 masks are"]
        );
    }
}
