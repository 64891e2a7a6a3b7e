//! A sum over rows with their vectors: the same in whatever order and files they lie, changed by
//! what is added and taken away alone.
//!
//! Pure. The length of an id comes before it, so that no id and chunk are those of another.

use std::io;

use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};

use crate::rows::Row;

/// Characters of a name: 128 bits.
const NAME_CHARS: usize = 32;

/// A sum over rows: 128 bits of the SHA-256 of each, with wrap-around, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowSum {
    sum: u128,
    rows: u64,
}

/// A sum that was kept and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no sum over rows, expected 32 hexadecimal digits, a dash and a number")]
pub struct RowSumError(String);

impl From<RowSum> for String {
    fn from(sum: RowSum) -> Self {
        format!("{:032x}-{}", sum.sum, sum.rows)
    }
}

impl TryFrom<String> for RowSum {
    type Error = RowSumError;

    fn try_from(text: String) -> Result<Self, RowSumError> {
        let parts = text.split_once('-').filter(|(sum, _)| sum.len() == NAME_CHARS);
        let read = parts.and_then(|(sum, rows)| {
            Some(Self { sum: u128::from_str_radix(sum, 16).ok()?, rows: rows.parse().ok()? })
        });
        read.ok_or(RowSumError(text))
    }
}

fn of_row(row: &Row<'_>, vector: &[f32], buffer: &mut Vec<u8>) -> u128 {
    buffer.clear();
    // Its length first: no id and chunk are those of another.
    buffer.extend_from_slice(&(row.doc_id.len() as u64).to_le_bytes());
    buffer.extend_from_slice(row.doc_id.as_bytes());
    buffer.extend_from_slice(&row.chunk.to_le_bytes());
    for number in vector {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    let digest = sha256(buffer);
    digest.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

impl RowSum {
    /// Of rows with their vectors.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn of<'a>(
        rows: impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>>,
    ) -> io::Result<Self> {
        Self::default().with(rows)
    }

    /// With more rows.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn with<'a>(
        mut self,
        rows: impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>>,
    ) -> io::Result<Self> {
        let mut buffer = Vec::new();
        for one in rows {
            let (row, vector) = one?;
            self.sum = self.sum.wrapping_add(of_row(&row, vector, &mut buffer));
            self.rows = self.rows.wrapping_add(1);
        }
        Ok(self)
    }

    /// Without rows that are in it.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn without<'a>(
        self,
        rows: impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>>,
    ) -> io::Result<Self> {
        let gone = Self::of(rows)?;
        Ok(Self { sum: self.sum.wrapping_sub(gone.sum), rows: self.rows.wrapping_sub(gone.rows) })
    }

    /// The name of data of these rows, whose vectors a model made.
    #[must_use]
    pub fn name(self, model: &str) -> String {
        hex(&sha256(format!("{model} {:032x} {}", self.sum, self.rows).as_bytes()))[..NAME_CHARS]
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type MadeRow = (String, u32, Vec<f32>);

    fn sum(rows: &[MadeRow]) -> RowSum {
        RowSum::of(rows.iter().map(|row| Ok(of(row)))).expect("nothing is read")
    }

    fn of((id, chunk, vector): &MadeRow) -> (Row<'_>, &[f32]) {
        (
            Row {
                doc_id: id,
                content_hash: &[0; 32],
                chunk: *chunk,
                start: 0,
                line: 1,
                context: "",
                text: "",
            },
            vector,
        )
    }

    fn rows() -> impl Strategy<Value = Vec<MadeRow>> {
        prop::collection::vec(
            ("[a-c]{0,3}", 0_u32..3, prop::collection::vec(-1.0_f32..1.0, 2)),
            0..12,
        )
    }

    proptest! {
        #[test]
        fn the_order_does_not_count_and_what_is_taken_away_again_was_never_there(
            rows in rows(),
            more in rows(),
            by in any::<usize>(),
        ) {
            let mut turned = rows.clone();
            turned.rotate_left(by % rows.len().max(1));
            prop_assert_eq!(sum(&turned), sum(&rows));
            let grown = sum(&rows).with(more.iter().map(|row| Ok(of(row)))).expect("read");
            prop_assert_eq!(grown, sum(&[rows.clone(), more.clone()].concat()));
            prop_assert_eq!(
                grown.without(more.iter().map(|row| Ok(of(row)))).expect("read"),
                sum(&rows)
            );
            prop_assert_eq!(
                RowSum::try_from(String::from(grown)).expect("as it is written"),
                grown
            );
        }

        #[test]
        fn another_vector_id_chunk_or_model_is_other_data(
            rows in rows().prop_filter("some", |rows| !rows.is_empty()),
            at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(rows.len());
            let changes: [fn(&mut MadeRow); 3] =
                [|row| row.0.push('x'), |row| row.1 += 7, |row| row.2[0] += 3.0];
            for change in changes {
                let mut other = rows.clone();
                change(&mut other[at]);
                prop_assert_ne!(sum(&other).name("m"), sum(&rows).name("m"));
            }
            prop_assert_ne!(sum(&rows).name("m"), sum(&rows).name("n"));
        }
    }

    #[test]
    fn a_sum_that_is_none_is_refused() {
        for text in ["", "12-3", "x", &format!("{}-x", "0".repeat(32))] {
            assert!(RowSum::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
