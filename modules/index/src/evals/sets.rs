//! Sets as they lie on the disk: each with its checksum, the last few of every name.

use std::fs;
use std::io;
use std::path::Path;

use brahman_card::clock::now_ms;
use brahman_card::interface::index::EvalInfo;
use brahman_storage::{atomic, digest};
use serde::{Deserialize, Serialize};

use super::{NewSet, folder, name_of};
use crate::sealed;

/// Sets of one name that are kept: going back to data of before finds its own.
pub(super) const KEPT: usize = 3;

/// A set as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SetRecord {
    pub(super) info: EvalInfo,
    pub(super) dim: usize,
    /// Document and chunk of each query's row; none of queries that were given.
    pub(super) sources: Vec<(String, u32)>,
    pub(super) sha256: String,
    /// Of the choice of rows.
    #[serde(default)]
    pub(super) seed: u64,
    /// Queries of each half that were asked for: where there are few rows there are fewer, and more
    /// once there are more rows. Absent of those that were given, and in sets of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queries: Option<usize>,
    /// The documents that answer each query, where somebody has said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) answers: Vec<Vec<String>>,
}

/// What a new set is made of.
pub(super) struct SetContent {
    pub(super) vectors: Vec<f32>,
    pub(super) dim: usize,
    pub(super) sources: Vec<(String, u32)>,
    pub(super) answers: Vec<Vec<String>>,
    pub(super) seed: u64,
    pub(super) queries: Option<usize>,
    /// Queries for choosing and for judging.
    pub(super) halves: (u64, u64),
    pub(super) source: &'static str,
    pub(super) exact: Option<f64>,
}

pub(super) fn keep(index: &Path, new: &NewSet<'_>, made: SetContent) -> io::Result<EvalInfo> {
    let bytes: Vec<u8> = made.vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
    let info = EvalInfo {
        id: id_after(kept(index).0.first().map(|set| set.info.id.as_str())),
        created_ms: now_ms(),
        fingerprint: new.data.to_owned(),
        k: new.k as u64,
        tune: made.halves.0,
        holdout: made.halves.1,
        name: Some(new.name.to_owned()),
        source: Some(made.source.to_owned()),
        exact: made.exact,
        stale: None,
    };
    fs::create_dir_all(folder(index))?;
    let numbers = folder(index).join(format!("{}.f32", info.id));
    atomic::write(&numbers, &bytes)?;
    let sha256 = digest::hex(&digest::sha256(&bytes));
    let SetContent { dim, sources, answers, seed, queries, .. } = made;
    let record = SetRecord { info: info.clone(), dim, sources, sha256, seed, queries, answers };
    let named = sealed::to_vec(&record)
        .and_then(|text| atomic::write(&folder(index).join(format!("{}.json", info.id)), &text));
    // Numbers that nothing names are of no use.
    named.inspect_err(|_| drop(fs::remove_file(&numbers)))?;
    // What somebody has given answers for is theirs.
    let is_of_name = |set: &&SetRecord| name_of(&set.info) == new.name && set.answers.is_empty();
    for old in kept(index).0.iter().filter(is_of_name).skip(KEPT) {
        for extension in ["json", "f32"] {
            if let Err(error) =
                fs::remove_file(folder(index).join(format!("{}.{extension}", old.info.id)))
            {
                tracing::warn!(
                    "evals/{}.{extension} is of no use any more and cannot be removed: {error}",
                    old.info.id
                );
            }
        }
    }
    Ok(info)
}

/// A new id, above the newest one even if the clock has been set back: sets are ordered by it.
pub(super) fn id_after(newest: Option<&str>) -> String {
    let now = ulid::Ulid::generate();
    let newest = newest.and_then(|id| ulid::Ulid::from_string(id).ok());
    newest
        .filter(|newest| *newest >= now)
        .and_then(|newest| newest.increment().ok())
        .unwrap_or(now)
        .to_string()
}

/// A file of a set, or the folder of all sets, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("evals{}", .file.as_ref().map(|file| format!("/{file}")).unwrap_or_default())]
pub(super) struct SetError {
    /// The file, in the folder; none if it is the folder itself.
    pub(super) file: Option<String>,
    #[source]
    flaw: Flaw,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("it belongs to another set, `{}`", .id.escape_debug())]
    OfAnother { id: String },
    #[error("its checksum does not match")]
    Checksum,
}

/// All sets, the newest first, and what is wrong with those that cannot be read.
pub(super) fn kept(index: &Path) -> (Vec<SetRecord>, Vec<SetError>) {
    let (mut sets, mut damaged): (Vec<SetRecord>, Vec<SetError>) = (Vec::new(), Vec::new());
    let of_folder = |error: io::Error| SetError { file: None, flaw: error.into() };
    let entries = match fs::read_dir(folder(index)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (sets, damaged),
        Err(error) => return (sets, vec![of_folder(error)]),
        Ok(entries) => entries,
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                damaged.push(of_folder(error));
                continue;
            }
        };
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = |part: Option<&std::ffi::OsStr>| {
            part.unwrap_or_default().to_string_lossy().into_owned()
        };
        let flaw = match fs::read(&path).and_then(|bytes| sealed::from_slice::<SetRecord>(&bytes)) {
            // Its numbers are looked for by its id, which must lead nowhere else.
            Ok(set) if set.info.id != name(path.file_stem()) => Flaw::OfAnother { id: set.info.id },
            Ok(set) => {
                sets.push(set);
                continue;
            }
            Err(error) => error.into(),
        };
        damaged.push(SetError { file: Some(name(path.file_name())), flaw });
    }
    sets.sort_by(|a, b| b.info.id.cmp(&a.info.id));
    damaged.sort_by(|a, b| a.file.cmp(&b.file));
    (sets, damaged)
}

/// The numbers of a set.
pub(super) fn numbers(index: &Path, set: &SetRecord) -> Result<Vec<f32>, SetError> {
    let name = format!("{}.f32", set.info.id);
    let wrong = |flaw: Flaw| SetError { file: Some(name.clone()), flaw };
    let bytes = fs::read(folder(index).join(&name)).map_err(|e| wrong(e.into()))?;
    if digest::hex(&digest::sha256(&bytes)) != set.sha256 {
        return Err(wrong(Flaw::Checksum));
    }
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

pub(super) fn examined(index: &Path) -> (Vec<SetRecord>, Vec<SetError>) {
    let (sets, mut damaged) = kept(index);
    damaged.extend(sets.iter().filter_map(|set| numbers(index, set).err()));
    (sets, damaged)
}
