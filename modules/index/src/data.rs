//! Which data an index has: a name that is the same for the same rows with the same vectors, in whatever order and files they lie.
//!
//! The name is made of a sum over the rows, so that a refresh adds what is new and takes away what is gone, and a promotion or a
//! compaction changes nothing. Names of versions before were made of files' checksums: they are known again where a manifest still tells
//! which files those were. Pure.

use std::collections::HashSet;
use std::io;

use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};

use crate::generation::Manifest;
use crate::rows::Row;

/// Characters of a name: 128 bits.
const NAME_CHARS: usize = 32;
/// Characters of a name as it was made of files.
const FILES_NAME_CHARS: usize = 16;
/// Why generations are made whose rows and vectors are those of the one before.
const SAME_DATA: [&str; 3] = ["compaction", "repair", "promotion"];

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
        let read = parts.and_then(|(sum, rows)| Some(Self { sum: u128::from_str_radix(sum, 16).ok()?, rows: rows.parse().ok()? }));
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
    pub fn of<'a>(rows: impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>>) -> io::Result<Self> {
        Self::default().with(rows)
    }

    /// With more rows.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn with<'a>(mut self, rows: impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>>) -> io::Result<Self> {
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
    pub fn without<'a>(self, rows: impl Iterator<Item = io::Result<(Row<'a>, &'a [f32])>>) -> io::Result<Self> {
        let gone = Self::of(rows)?;
        Ok(Self { sum: self.sum.wrapping_sub(gone.sum), rows: self.rows.wrapping_sub(gone.rows) })
    }

    /// The name of data of these rows, whose vectors a model made.
    #[must_use]
    pub fn name(self, model: &str) -> String {
        hex(&sha256(format!("{model} {:032x} {}", self.sum, self.rows).as_bytes()))[..NAME_CHARS].to_owned()
    }
}

/// The name that versions before gave to a generation's data: of its files.
#[must_use]
pub fn name_by_files(manifest: &Manifest) -> String {
    let segments = manifest.base.iter().map(|b| b.segment.sha256.as_str());
    let files: Vec<&str> = segments.chain(manifest.segments.iter().map(|s| s.file.sha256.as_str())).collect();
    let dead = manifest.dead.as_ref().map_or("", |dead| dead.sha256.as_str());
    hex(&sha256(format!("{} {} {dead}", manifest.model.fingerprint, files.join(" ")).as_bytes()))[..FILES_NAME_CHARS].to_owned()
}

/// Whether a version before gave a name, which only a manifest of that time can explain.
#[must_use]
pub fn is_by_files(name: &str) -> bool {
    name.len() == FILES_NAME_CHARS
}

/// All names of one data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNames {
    /// Its name now.
    pub now: String,
    before: HashSet<String>,
}

impl DataNames {
    /// The names of a generation's data, which is called `now`: its own, and those of generations that are there and have the same data.
    #[must_use]
    pub fn new<'a>(now: String, folder: &str, manifests: impl IntoIterator<Item = (&'a str, &'a Manifest)>) -> Self {
        let all: Vec<(&str, &Manifest)> = manifests.into_iter().collect();
        let mut before = HashSet::new();
        let mut at = Some(folder);
        // Back to where the data last changed. None is its own ancestor, but a file may say so.
        for _ in 0..all.len() {
            let Some((_, manifest)) = at.and_then(|at| all.iter().find(|(name, _)| *name == at)) else { break };
            before.insert(name_by_files(manifest));
            at = manifest.parent.as_deref().filter(|_| SAME_DATA.contains(&manifest.reason.as_str()));
        }
        for (_, manifest) in &all {
            if manifest.rows_sum.is_some_and(|sum| sum.name(&manifest.model.fingerprint) == now) {
                before.insert(name_by_files(manifest));
            }
        }
        Self { now, before }
    }

    /// Whether a name is one of this data.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.now == name || self.before.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use flat_hnsw::build::Parameters;
    use proptest::prelude::*;

    use super::*;
    use crate::embedder::Model;
    use crate::files::FileRef;
    use crate::generation::SegmentRef;

    type MadeRow = (String, u32, Vec<f32>);

    fn sum(rows: &[MadeRow]) -> RowSum {
        RowSum::of(rows.iter().map(|row| Ok(of(row)))).expect("nothing is read")
    }

    fn of((id, chunk, vector): &MadeRow) -> (Row<'_>, &[f32]) {
        (Row { doc_id: id, content_hash: &[0; 32], chunk: *chunk, start: 0, line: 1, context: "", text: "" }, vector)
    }

    fn rows() -> impl Strategy<Value = Vec<MadeRow>> {
        prop::collection::vec(("[a-c]{0,3}", 0_u32..3, prop::collection::vec(-1.0_f32..1.0, 2)), 0..12)
    }

    proptest! {
        #[test]
        fn the_order_does_not_count_and_what_is_taken_away_again_was_never_there(rows in rows(), more in rows(), by in any::<usize>()) {
            let mut turned = rows.clone();
            turned.rotate_left(by % rows.len().max(1));
            prop_assert_eq!(sum(&turned), sum(&rows));
            let grown = sum(&rows).with(more.iter().map(|row| Ok(of(row)))).expect("read");
            prop_assert_eq!(grown, sum(&[rows.clone(), more.clone()].concat()));
            prop_assert_eq!(grown.without(more.iter().map(|row| Ok(of(row)))).expect("read"), sum(&rows));
            prop_assert_eq!(RowSum::try_from(String::from(grown)).expect("as it is written"), grown);
        }

        #[test]
        fn another_vector_id_chunk_or_model_is_other_data(rows in rows().prop_filter("some", |rows| !rows.is_empty()), at in any::<prop::sample::Index>()) {
            let at = at.index(rows.len());
            let changes: [fn(&mut MadeRow); 3] = [|row| row.0.push('x'), |row| row.1 += 7, |row| row.2[0] += 3.0];
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

    #[test]
    fn names_of_before_are_known_again_as_far_as_the_data_is_the_same() {
        let model = Model { name: "m".into(), fingerprint: "f".into(), dim: 1, mock: false };
        let first = Manifest::first(model, "exact".into(), Parameters { m: 8, ef_construction: 32, seed: 0 }, 64);
        let with = |manifest: Manifest, file: &str| Manifest {
            segments: vec![SegmentRef { rows: 1, file: FileRef { path: file.into(), bytes: 1, sha256: file.into() } }],
            ..manifest
        };
        let refreshed = with(first.after("gen-0", 2, "refresh"), "b");
        let all = [
            ("gen-0", with(first.clone(), "a")),
            ("gen-1", refreshed.clone()),
            ("gen-2", with(refreshed.after("gen-1", 3, "compaction"), "c")),
            ("gen-3", with(refreshed.after("gen-2", 4, "promotion"), "d")),
        ];
        let names = DataNames::new("now".into(), "gen-3", all.iter().map(|(name, manifest)| (*name, manifest)));
        let known: Vec<bool> = all.iter().map(|(_, manifest)| names.has(&name_by_files(manifest))).collect();
        assert_eq!(known, [false, true, true, true], "a refresh brought other data");
        assert!(names.has("now") && !names.has("other") && is_by_files(&name_by_files(&all[0].1)));
    }
}
