//! Counts in words, as people read them.

/// A count and what it is of: `1 row`, `2 rows`. What follows may be part of both words, such as a
/// verb.
#[must_use]
pub fn counted(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_of_a_thing_is_one() {
        let rows = |count| counted(count, "row is", "rows are");
        assert_eq!([rows(0), rows(1), rows(2)], ["0 rows are", "1 row is", "2 rows are"]);
    }
}
