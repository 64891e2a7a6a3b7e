//! Sets of queries with known answers, by which graphs are measured: how they are made, kept, and
//! found again.
//!
//! Queries are rows moved a little in a random direction, of which the row itself is no answer; or
//! they are given, with answers or without. Truth is an exact search. The halves of a set are
//! disjoint: *tune* chooses, *holdout* judges. A set has a name and belongs to one data
//! ([`crate::data`]). Invariants: a set is used on its own data only; of other data it is made
//! anew, or, where its answers were given, refused. The same rows, seed and numbers give the same
//! queries, in whatever order the rows lie.
//!
//! [`sets`] keeps them.

mod sets;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::interface::index::EvalInfo;
use brahman_sidecar::chain;
use flat_hnsw::build::{in_parallel, mix};
use flat_hnsw::kernel::dot;

use crate::data::DataNames;
use crate::generation::{Generation, SearchOptions};
use crate::trials::Query;
use sets::{SetContent, SetError, SetRecord, examined, keep, kept, numbers};

/// Length of the random step, of 1: near enough that the row's neighbours are the query's, far
/// enough that the order is not.
const STEP: f32 = 0.3;
/// Name of the set that is used where none is named.
pub const DEFAULT: &str = "default";
/// Name of the set of live searches that a promotion failed.
pub const LIVE: &str = "live";
/// Longest name.
const NAME_MAX: usize = 64;
/// Queries of each half where nobody says how many.
pub const QUERIES: usize = 500;
/// Neighbours of each where nobody says how many.
pub const NEIGHBOURS: usize = 10;

/// Where a set's queries come from.
const ROWS: &str = "rows";
const GIVEN: &str = "given";

/// A set with its truth on one generation.
#[derive(Clone, Debug)]
pub struct Eval {
    /// What is told of it.
    pub info: EvalInfo,
    /// Queries by which parameters are chosen.
    pub tune: Vec<Query>,
    /// Queries by which the chosen are judged.
    pub holdout: Vec<Query>,
}

impl Eval {
    /// Neighbours of each query.
    #[must_use]
    pub fn k(&self) -> usize {
        usize::try_from(self.info.k).unwrap_or(NEIGHBOURS)
    }
}

/// A query of somebody's own.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnQuery {
    /// Its direction, with a length of 1.
    pub vector: Vec<f32>,
    /// Ids of the documents that answer it; none if an exact search says.
    pub answers: Vec<String>,
}

/// Why there is no set to measure with.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Nobody has made one of this name.
    #[error("there is no eval set `{name}`; there is {}", listed(.there))]
    NoSuch {
        /// The name or id that was asked for.
        name: String,
        /// Names of those there are.
        there: Vec<String>,
    },
    /// Its answers were given for other data.
    #[error(
        "the eval set `{name}` has known answers, and the data has changed since they were given"
    )]
    Stale {
        /// Its name.
        name: String,
    },
    /// A document that is to be an answer is not there.
    #[error("query {query} is to be answered by `{document}`, which is no document of the index")]
    NoSuchDocument {
        /// The query's place, from 0.
        query: usize,
        /// Id of the document.
        document: String,
    },
    /// The folder cannot be read or written, or there are too few rows.
    #[error("the eval set")]
    Disk(#[from] io::Error),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A name that no set can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}`, expected 1 to {NAME_MAX} of a-z, 0-9, `.`, `_` and `-`, the first a letter or a digit", .0.escape_debug())]
pub struct NameError(String);

/// Looks whether a set can have a name.
///
/// # Errors
/// [`NameError`].
pub fn check_name(name: &str) -> Result<(), NameError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_right = name.starts_with(is_plain)
        && name.len() <= NAME_MAX
        && name.chars().all(|c| is_plain(c) || "._-".contains(c));
    if is_right { Ok(()) } else { Err(NameError(name.to_owned())) }
}

fn folder(index: &Path) -> PathBuf {
    index.join("evals")
}

fn name_of(info: &EvalInfo) -> &str {
    info.name.as_deref().unwrap_or(DEFAULT)
}

/// What a new set is to be like.
#[derive(Clone, Copy, Debug)]
pub struct NewSet<'a> {
    /// Its name.
    pub name: &'a str,
    /// Name of the data that it belongs to.
    pub data: &'a str,
    /// Neighbours of each query.
    pub k: usize,
}

/// A number that depends on what a row is and not on where it lies.
fn row_key(seed: u64, doc_id: &str, chunk: u32) -> u64 {
    let bytes = doc_id.as_bytes().chunks(8);
    let words =
        bytes.map(|part| part.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte)));
    words.fold(mix(seed ^ mix(u64::from(chunk) + 1)), |key, word| mix(key ^ word))
}

/// Makes a set out of a generation's rows and keeps it.
///
/// # Errors
/// If there are too few rows, or as the file system gives them.
pub fn autogen(
    index: &Path,
    generation: &Generation,
    new: &NewSet<'_>,
    queries: usize,
    seed: u64,
) -> io::Result<EvalInfo> {
    let mut rows: Vec<(u64, u32)> = Vec::new();
    for number in generation.live_rows() {
        let row = generation.row(number)?;
        rows.push((row_key(seed, row.doc_id, row.chunk), number));
    }
    rows.sort_unstable();
    rows.truncate(2 * queries);
    let half = rows.len() / 2;
    if half == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an index of one row has no neighbours to find",
        ));
    }
    rows.truncate(2 * half);
    let dim = generation.manifest.model.dim;
    let (mut vectors, mut sources) = (Vec::new(), Vec::new());
    for (key, row) in rows {
        let step: Vec<f32> = (0..dim as u64)
            .map(|i| (mix(key ^ mix(i)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0)
            .collect();
        let length = dot(&step, &step).sqrt().max(f32::MIN_POSITIVE);
        let moved: Vec<f32> =
            generation.vector(row).iter().zip(&step).map(|(x, s)| x + STEP * s / length).collect();
        let norm = dot(&moved, &moved).sqrt().max(f32::MIN_POSITIVE);
        vectors.extend(moved.iter().map(|x| x / norm));
        let source = generation.row(row)?;
        sources.push((source.doc_id.to_owned(), source.chunk));
    }
    let halves = (half as u64, half as u64);
    let queries = Some(queries);
    keep(
        index,
        new,
        SetContent {
            vectors,
            dim,
            sources,
            answers: Vec::new(),
            seed,
            queries,
            halves,
            source: ROWS,
            exact: None,
        },
    )
}

/// Keeps queries that somebody gave: by turns for choosing and for judging. Each vector is of the
/// generation's dimension.
///
/// # Errors
/// If an answer is no document of the index, or as the file system gives them.
pub fn given(
    index: &Path,
    generation: &Generation,
    new: &NewSet<'_>,
    queries: &[OwnQuery],
    is_live: bool,
) -> Result<EvalInfo, EvalError> {
    let by_turns = || queries.iter().step_by(2).chain(queries.iter().skip(1).step_by(2));
    for (query, one) in queries.iter().enumerate() {
        if let Some(document) = one.answers.iter().find(|id| generation.of_document(id).is_empty())
        {
            return Err(EvalError::NoSuchDocument { query, document: document.clone() });
        }
    }
    let has_answers = queries.iter().any(|query| !query.answers.is_empty());
    let answers: Vec<Vec<String>> =
        by_turns().filter(|_| has_answers).map(|query| query.answers.clone()).collect();
    let vectors: Vec<f32> = by_turns().flat_map(|query| query.vector.iter().copied()).collect();
    let exact = has_answers.then(|| found_exactly(generation, queries, new.k));
    let halves = (queries.len().div_ceil(2) as u64, (queries.len() / 2) as u64);
    let (dim, source) = (generation.manifest.model.dim, if is_live { LIVE } else { GIVEN });
    Ok(keep(
        index,
        new,
        SetContent {
            vectors,
            dim,
            sources: Vec::new(),
            answers,
            seed: 0,
            queries: None,
            halves,
            source,
            exact,
        },
    )?)
}

/// The share of the named answers that comparing all rows finds.
fn found_exactly(generation: &Generation, queries: &[OwnQuery], k: usize) -> f64 {
    let allowed = generation.allowed(None);
    let how = SearchOptions { k, exact: true, threads: 1, ..SearchOptions::default() };
    let shares: Vec<f64> = queries
        .iter()
        .filter(|query| !query.answers.is_empty())
        .map(|query| {
            let found = generation.search(&query.vector, &how, &allowed);
            let is_found = |id: &&String| {
                generation.of_document(id).iter().any(|row| found.iter().any(|f| f.row == *row))
            };
            query.answers.iter().filter(is_found).count() as f64 / query.answers.len() as f64
        })
        .collect();
    crate::better::mean(&shares)
}

/// All sets, the newest first, and files of sets that are damaged. Where the names of the data are
/// known, those of other data say so.
#[must_use]
pub fn list(index: &Path, data: Option<&DataNames>) -> (Vec<EvalInfo>, Vec<String>) {
    let (sets, damaged) = examined(index);
    let told = |set: SetRecord| {
        let stale = data.is_some_and(|data| !data.has(&set.info.fingerprint)).then_some(true);
        EvalInfo { name: Some(name_of(&set.info).to_owned()), stale, ..set.info }
    };
    (sets.into_iter().map(told).collect(), damaged.iter().map(|error| chain(error)).collect())
}

/// Gives the files of damaged sets names under which nobody looks for them; which.
///
/// # Errors
/// As the file system gives them.
pub fn put_aside(index: &Path) -> io::Result<Vec<String>> {
    let mut aside = Vec::new();
    for file in examined(index).1.into_iter().filter_map(|error| error.file) {
        for extension in ["json", "f32"] {
            let from = folder(index).join(Path::new(&file).with_extension(extension));
            if from.exists() {
                fs::rename(&from, from.with_extension(format!("{extension}.damaged")))?;
                aside.push(format!("evals/{}", from.file_name().unwrap_or_default().display()));
            }
        }
    }
    Ok(aside)
}

/// Whether a set is called so: by its name, or by its id.
fn is_called(info: &EvalInfo, wanted: &str) -> bool {
    name_of(info) == wanted || info.id == wanted
}

/// Id of the set that [`wanted`] would find on this data without making one.
#[must_use]
pub fn current_id(index: &Path, data: &DataNames, name: Option<&str>) -> Option<String> {
    let name = name.unwrap_or(DEFAULT);
    kept(index)
        .0
        .into_iter()
        .find(|set| is_called(&set.info, name) && data.has(&set.info.fingerprint))
        .map(|set| set.info.id)
}

/// The newest set of a name (or the one of an id) with its truth on a generation of this data. Of
/// other data it is made anew, by the same numbers; one whose files are damaged is passed over.
/// `aside` is called between two queries.
///
/// # Errors
/// [`EvalError`]: there is none of this name, or it cannot be made anew.
pub fn wanted(
    index: &Path,
    generation: &Generation,
    data: &DataNames,
    name: Option<&str>,
    threads: usize,
    aside: &(dyn Fn() + Sync),
) -> Result<Eval, EvalError> {
    let name = name.unwrap_or(DEFAULT);
    let (sets, damaged) = kept(index);
    let passed_over = |error: &SetError| {
        tracing::warn!("{}; an older eval set is used, or a new one generated", chain(error));
    };
    damaged.iter().for_each(passed_over);
    let dim = generation.manifest.model.dim;
    let called: Vec<&SetRecord> = sets.iter().filter(|set| is_called(&set.info, name)).collect();
    let mut own = called.iter().filter(|set| set.dim == dim && data.has(&set.info.fingerprint));
    let found =
        own.find_map(|set| Some((*set, numbers(index, set).inspect_err(passed_over).ok()?)));
    if let Some((set, vectors)) = found {
        return Ok(with_truth(set, &vectors, generation, threads, aside));
    }
    let new = |k: usize| NewSet { name, data: &data.now, k };
    let made = match called.first() {
        Some(set) if set.info.id == name || !set.answers.is_empty() => {
            return Err(EvalError::Stale { name: name_of(&set.info).to_owned() });
        }
        Some(set) => {
            let (k, queries) = (
                usize::try_from(set.info.k).unwrap_or(NEIGHBOURS),
                usize::try_from(set.info.tune).unwrap_or(QUERIES),
            );
            tracing::info!("the eval set `{name}` belongs to data of before and is made anew");
            let again =
                numbers(index, set).ok().filter(|_| set.sources.is_empty() && set.dim == dim);
            match again {
                Some(vectors) => {
                    let own: Vec<OwnQuery> = interleaved(&vectors, dim, queries);
                    given(
                        index,
                        generation,
                        &new(k),
                        &own,
                        set.info.source.as_deref() == Some(LIVE),
                    )?
                }
                // Vectors of another model ask nothing of this one.
                None if set.sources.is_empty() => {
                    return Err(EvalError::Stale { name: name.to_owned() });
                }
                None => {
                    autogen(index, generation, &new(k), set.queries.unwrap_or(queries), set.seed)?
                }
            }
        }
        None if name == DEFAULT => autogen(index, generation, &new(NEIGHBOURS), QUERIES, 0)?,
        None => {
            let mut there: Vec<String> =
                sets.iter().map(|set| name_of(&set.info).to_owned()).collect();
            there.sort_unstable();
            there.dedup();
            return Err(EvalError::NoSuch { name: name.to_owned(), there });
        }
    };
    let set = kept(index).0.into_iter().find(|set| set.info.id == made.id);
    let set =
        set.ok_or_else(|| io::Error::other(format!("evals/{}.json is gone again", made.id)))?;
    let vectors = numbers(index, &set).map_err(io::Error::other)?;
    Ok(with_truth(&set, &vectors, generation, threads, aside))
}

/// Queries in the order in which they were given: those for choosing come first in the file.
fn interleaved(vectors: &[f32], dim: usize, tune: usize) -> Vec<OwnQuery> {
    let all: Vec<&[f32]> = vectors.chunks_exact(dim.max(1)).collect();
    let (tune, holdout) = all.split_at(tune.min(all.len()));
    let place = |n: usize| if n.is_multiple_of(2) { tune.get(n / 2) } else { holdout.get(n / 2) };
    (0..all.len())
        .filter_map(place)
        .map(|vector| OwnQuery { vector: vector.to_vec(), answers: Vec::new() })
        .collect()
}

fn with_truth(
    set: &SetRecord,
    vectors: &[f32],
    generation: &Generation,
    threads: usize,
    aside: &(dyn Fn() + Sync),
) -> Eval {
    let by_source: HashMap<(&str, u32), u32> = match set.sources.is_empty() {
        true => HashMap::new(),
        false => {
            let place = |number: u32| {
                generation.row(number).ok().map(|row| ((row.doc_id, row.chunk), number))
            };
            generation.live_rows().filter_map(place).collect()
        }
    };
    let k = usize::try_from(set.info.k).unwrap_or(NEIGHBOURS);
    let vectors: Vec<&[f32]> = vectors.chunks_exact(set.dim.max(1)).collect();
    let allowed = generation.allowed(None);
    let how = SearchOptions { k: k + 1, exact: true, threads: 1, ..SearchOptions::default() };
    let queries = in_parallel(
        vectors.len(),
        threads,
        || (),
        |(), i| {
            aside();
            let not = set
                .sources
                .get(i)
                .and_then(|(id, chunk)| by_source.get(&(id.as_str(), *chunk)).copied());
            let mut truth = generation.search(vectors[i], &how, &allowed);
            truth.retain(|found| Some(found.row) != not);
            truth.truncate(k);
            let floor = truth.last().map_or(f32::INFINITY, |f| f.score);
            let named = set.answers.get(i).filter(|answers| !answers.is_empty());
            let right = named.map(|answers| {
                let rows: Vec<u32> =
                    answers.iter().flat_map(|id| generation.of_document(id)).collect();
                truth
                    .iter()
                    .map(|found| found.row)
                    .filter(|row| rows.contains(row))
                    .collect::<Vec<u32>>()
            });
            let truth = right.as_ref().map_or(truth.len(), Vec::len);
            Query { vector: vectors[i].to_vec(), not, floor, truth, right }
        },
    );
    let half = usize::try_from(set.info.tune).unwrap_or(0).min(queries.len());
    // What not even comparing all rows finds says nothing of a graph.
    let is_asking = |query: &&Query| query.right.as_ref().is_none_or(|right| !right.is_empty());
    let asking =
        |part: &[Query]| -> Vec<Query> { part.iter().filter(is_asking).cloned().collect() };
    let info = EvalInfo { name: Some(name_of(&set.info).to_owned()), ..set.info.clone() };
    Eval { info, tune: asking(&queries[..half]), holdout: asking(&queries[half..]) }
}

#[cfg(test)]
mod tests;
