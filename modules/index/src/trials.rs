//! Trials: sets of queries, what a graph measures on them, the journal, and which trial is best.
//!
//! Queries are rows moved a little in a random direction; the row itself does not count as an answer. Truth is an exact
//! search, and a row as near as the k-th true one counts, so ties are no misses. The halves of a set are disjoint: *tune*
//! chooses, *holdout* judges.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use brahman_card::clock::now_ms;
use brahman_card::interface::index::{EvalInfo, TrialRecord};
use brahman_sidecar::chain;
use brahman_storage::log::{Damage, Log};
use brahman_storage::writable::is_read_only;
use brahman_storage::{atomic, digest};
use serde::{Deserialize, Serialize};

use crate::generation::Generation;
use crate::sealed;
use flat_hnsw::build::{in_parallel, mix};
use flat_hnsw::kernel::dot;
use flat_hnsw::store::Neighbour;

/// Length of the random step, of 1: near enough that the row's neighbours are the query's, far enough that the order is not.
const STEP: f32 = 0.3;
/// How much lower than the k-th true score still counts as equal: the rounding of f32 sums.
pub const TIE: f32 = 1e-6;
/// Widest search tried when looking for a recall.
const EF_MAX: usize = 1024;
/// Exact searches timed.
const BRUTE_FORCE_TIMED: usize = 20;

/// One query, and its true neighbours.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its direction, with a length of 1.
    pub vector: Vec<f32>,
    /// The row that it was made from, which is no answer, if it is still there.
    pub not: Option<u32>,
    /// Score of the k-th true neighbour; what is as near is right.
    pub floor: f32,
    /// True neighbours there are, at most k.
    pub truth: usize,
}

/// A set as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SetRecord {
    info: EvalInfo,
    dim: usize,
    /// Document and chunk of each query's row.
    sources: Vec<(String, u32)>,
    sha256: String,
}

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

fn folder(index: &Path) -> PathBuf {
    index.join("evals")
}

/// Makes a set out of a generation's rows and keeps it.
///
/// # Errors
/// If there are too few rows, or as the file system gives them.
pub fn autogen(index: &Path, generation: &Generation, fingerprint: &str, queries: usize, k: usize, seed: u64) -> io::Result<EvalInfo> {
    let mut rows: Vec<u32> = generation.live_rows().collect();
    rows.sort_unstable_by_key(|row| (mix(seed ^ mix(u64::from(*row))), *row));
    rows.truncate(2 * queries);
    let half = rows.len() / 2;
    if half == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an index of one row has no neighbours to find"));
    }
    rows.truncate(2 * half);
    let dim = generation.manifest.model.dim;
    let (mut bytes, mut sources) = (Vec::new(), Vec::new());
    for row in rows {
        let step: Vec<f32> =
            (0..dim as u64).map(|i| (mix(seed ^ mix(u64::from(row) << 20 | i)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect();
        let length = dot(&step, &step).sqrt().max(f32::MIN_POSITIVE);
        let moved: Vec<f32> = generation.vector(row).iter().zip(&step).map(|(x, s)| x + STEP * s / length).collect();
        let norm = dot(&moved, &moved).sqrt().max(f32::MIN_POSITIVE);
        bytes.extend(moved.iter().flat_map(|x| (x / norm).to_le_bytes()));
        let source = generation.row(row)?;
        sources.push((source.doc_id.to_owned(), source.chunk));
    }
    let info = EvalInfo {
        id: id_after(kept(index).0.first().map(|set| set.info.id.as_str())),
        created_ms: now_ms(),
        fingerprint: fingerprint.to_owned(),
        k: k as u64,
        tune: half as u64,
        holdout: half as u64,
    };
    fs::create_dir_all(folder(index))?;
    let numbers = folder(index).join(format!("{}.f32", info.id));
    atomic::write(&numbers, &bytes)?;
    let kept = SetRecord { info: info.clone(), dim, sources, sha256: digest::hex(&digest::sha256(&bytes)) };
    let named = sealed::to_vec(&kept).and_then(|text| atomic::write(&folder(index).join(format!("{}.json", info.id)), &text));
    // Numbers that nothing names are of no use.
    named.inspect_err(|_| drop(fs::remove_file(&numbers)))?;
    Ok(info)
}

/// A new id, above the newest one even if the clock has been set back: sets are ordered by it.
fn id_after(newest: Option<&str>) -> String {
    let now = ulid::Ulid::generate();
    let newest = newest.and_then(|id| ulid::Ulid::from_string(id).ok());
    newest.filter(|newest| *newest >= now).and_then(|newest| newest.increment().ok()).unwrap_or(now).to_string()
}

/// A file of a set, or the folder of all sets, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("evals{}", .file.as_ref().map(|file| format!("/{file}")).unwrap_or_default())]
struct SetError {
    /// The file, in the folder; none if it is the folder itself.
    file: Option<String>,
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
fn kept(index: &Path) -> (Vec<SetRecord>, Vec<SetError>) {
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
        let name = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
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
fn numbers(index: &Path, set: &SetRecord) -> Result<Vec<u8>, SetError> {
    let name = format!("{}.f32", set.info.id);
    let wrong = |flaw: Flaw| SetError { file: Some(name.clone()), flaw };
    let bytes = fs::read(folder(index).join(&name)).map_err(|e| wrong(e.into()))?;
    if digest::hex(&digest::sha256(&bytes)) == set.sha256 { Ok(bytes) } else { Err(wrong(Flaw::Checksum)) }
}

fn examined(index: &Path) -> (Vec<SetRecord>, Vec<SetError>) {
    let (sets, mut damaged) = kept(index);
    damaged.extend(sets.iter().filter_map(|set| numbers(index, set).err()));
    (sets, damaged)
}

/// All sets, the newest first, and files of sets that are damaged.
#[must_use]
pub fn list(index: &Path) -> (Vec<EvalInfo>, Vec<String>) {
    let (sets, damaged) = examined(index);
    (sets.into_iter().map(|set| set.info).collect(), damaged.iter().map(|error| chain(error)).collect())
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

/// The newest set with its truth on this generation; one whose files are damaged is passed over. `aside` is called between
/// two queries.
#[must_use]
pub fn newest(index: &Path, generation: &Generation, threads: usize, aside: &(dyn Fn() + Sync)) -> Option<Eval> {
    let by_source: std::collections::HashMap<(String, u32), u32> = generation
        .live_rows()
        .filter_map(|number| generation.row(number).ok().map(|row| ((row.doc_id.to_owned(), row.chunk), number)))
        .collect();
    let (sets, damaged) = kept(index);
    let passed_over = |error: &SetError| tracing::warn!("{}; an older eval set is used, or a new one generated", chain(error));
    damaged.iter().for_each(passed_over);
    let (set, bytes) = sets.into_iter().filter(|set| set.dim == generation.manifest.model.dim).find_map(|set| {
        let bytes = numbers(index, &set).inspect_err(passed_over).ok()?;
        Some((set, bytes))
    })?;
    let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let k = usize::try_from(set.info.k).unwrap_or(10);
    let (vectors, sources) = (floats.chunks_exact(set.dim).collect::<Vec<_>>(), &set.sources);
    let allowed = generation.allowed(None);
    let how = crate::generation::SearchOptions { k: k + 1, exact: true, threads: 1, ..Default::default() };
    let queries = in_parallel(
        vectors.len(),
        threads,
        || (),
        |(), i| {
            aside();
            let not = by_source.get(&sources[i]).copied();
            let mut truth = generation.search(vectors[i], &how, &allowed);
            truth.retain(|found| Some(found.row) != not);
            truth.truncate(k);
            Query { vector: vectors[i].to_vec(), not, floor: truth.last().map_or(f32::INFINITY, |f| f.score), truth: truth.len() }
        },
    );
    let half = usize::try_from(set.info.tune).unwrap_or(0).min(queries.len());
    Some(Eval { info: set.info, tune: queries[..half].to_vec(), holdout: queries[half..].to_vec() })
}

/// What a way of searching measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measure {
    /// Share of the true neighbours found, query by query.
    pub recalls: Vec<f64>,
    /// Microseconds a search, sorted.
    pub us: Vec<f64>,
}

impl Measure {
    /// Mean recall of all queries.
    #[must_use]
    pub fn recall(&self) -> f64 {
        self.recalls.iter().sum::<f64>() / self.recalls.len().max(1) as f64
    }

    /// The 95 % interval of the mean. Where all queries are alike the spread says nothing; then the bound is that of n
    /// perfect trials, 1 − 0.05^(1/n) of which could have failed.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        let (n, mean) = (self.recalls.len().max(1) as f64, self.recall());
        let variance = self.recalls.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        if variance == 0.0 {
            return (mean * 0.05_f64.powf(1.0 / n), mean);
        }
        let half = 1.96 * (variance / n).sqrt();
        ((mean - half).max(0.0), (mean + half).min(1.0))
    }

    /// A percentile of the latency, `share` of 1.
    #[must_use]
    pub fn latency(&self, share: f64) -> f64 {
        let at = ((self.us.len() as f64 * share) as usize).min(self.us.len().saturating_sub(1));
        self.us.get(at).copied().unwrap_or(0.0)
    }

    fn take(&mut self, query: &Query, k: usize, mut found: Vec<Neighbour>, us: f64) {
        found.retain(|f| Some(f.row) != query.not);
        let right = found.iter().take(k).filter(|f| f.score >= query.floor - TIE).count();
        self.recalls.push(if query.truth == 0 { 1.0 } else { right as f64 / query.truth as f64 });
        self.us.push(us);
    }

    fn finish(mut self) -> Self {
        self.us.sort_by(f64::total_cmp);
        self
    }
}

/// A way of searching: a vector and how many rows to find.
pub type Way<'a> = dyn Fn(&[f32], usize) -> Vec<Neighbour> + 'a;

/// The same with the candidates to keep on the way.
pub type WayWithEf<'a> = dyn Fn(&[f32], usize, usize) -> Vec<Neighbour> + 'a;

/// Asks every query of several ways of searching in turn, so that whatever disturbs the machine disturbs all alike.
pub fn measure(queries: &[Query], k: usize, ways: &[&Way<'_>]) -> Vec<Measure> {
    let mut measures = vec![Measure::default(); ways.len()];
    for query in queries {
        for (way, measure) in ways.iter().zip(&mut measures) {
            let started = Instant::now();
            let found = way(&query.vector, k + 1);
            measure.take(query, k, found, started.elapsed().as_nanos() as f64 / 1e3);
        }
    }
    measures.into_iter().map(Measure::finish).collect()
}

/// Measures of single queries as one.
#[must_use]
pub fn joined(measures: Vec<Measure>) -> Measure {
    let mut all = Measure::default();
    for one in measures {
        all.recalls.extend(one.recalls);
        all.us.extend(one.us);
    }
    all.finish()
}

/// The narrowest search that reaches a recall on these queries, by bisection; no graph is built for it.
pub fn find_ef(queries: &[Query], k: usize, target: f64, search: &WayWithEf<'_>) -> usize {
    let reaches = |ef: usize| measure(queries, k, &[&|v, k| search(v, k, ef)])[0].recall() >= target;
    let (mut low, mut high) = (k, EF_MAX.max(k));
    while low < high {
        let middle = low.midpoint(high);
        if reaches(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

/// Median time of an exact search.
#[must_use]
pub fn brute_force_us(queries: &[Query], exact: &dyn Fn(&[f32]) -> Vec<Neighbour>) -> f64 {
    let mut us: Vec<f64> = queries
        .iter()
        .take(BRUTE_FORCE_TIMED)
        .map(|query| {
            let started = Instant::now();
            std::hint::black_box(exact(&query.vector));
            started.elapsed().as_nanos() as f64 / 1e3
        })
        .collect();
    us.sort_by(f64::total_cmp);
    us.get(us.len() / 2).copied().unwrap_or(0.0)
}

/// How good a trial is: higher is better.
#[must_use]
pub fn worth(trial: &TrialRecord, by: &str) -> f64 {
    let m = &trial.metrics;
    match by {
        "recall" => m.recall_at_k,
        "latency" => -m.p95_us,
        _ => m.recall_at_k - 0.2 * (m.p95_us / 1000.0).min(1.0),
    }
}

/// The best trial on this data; of equals the older.
#[must_use]
pub fn best<'a>(trials: &'a [TrialRecord], fingerprint: &str, by: &str) -> Option<&'a TrialRecord> {
    trials.iter().filter(|t| t.fingerprint == fingerprint).rev().max_by(|a, b| worth(a, by).total_cmp(&worth(b, by)))
}

/// Why there is no journal to write to.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is one, or may be, and it cannot be read.
    #[error("{}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// There is none, and none can be made.
    #[error("{}", .path.display())]
    ReadOnly {
        /// The file that there would be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The journal of trials.
#[derive(Debug)]
pub struct Journal {
    /// Or why it cannot be used: the index answers all the same.
    log: Result<Log, Arc<JournalError>>,
    /// In the order in which they were made.
    pub trials: Vec<TrialRecord>,
}

impl Journal {
    /// Opens an index's journal.
    #[must_use]
    pub fn open(index: &Path) -> Self {
        let folder = index.join("trials");
        let path = folder.join("journal.log");
        // Not its parents: an index whose disk is not there must not come to be beside it.
        let made = match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let error = match made {
            Ok(()) => match Log::open(&path) {
                Ok((log, trials)) => {
                    let journal = Self { log: Ok(log), trials };
                    if let Some(why) = journal.shortfall() {
                        tracing::error!("{why}");
                    }
                    return journal;
                }
                Err(source) => JournalError::Unreadable { path, source },
            },
            Err(source) if is_read_only(&source) => JournalError::ReadOnly { path, source },
            Err(source) => JournalError::Unreadable { path, source },
        };
        if matches!(error, JournalError::Unreadable { .. }) {
            tracing::error!("{}", chain(&error));
        }
        Self { log: Err(Arc::new(error)), trials: Vec::new() }
    }

    fn log(&mut self) -> io::Result<&mut Log> {
        self.log.as_mut().map_err(|error| io::Error::other(Arc::clone(error)))
    }

    /// What opening found wrong.
    #[must_use]
    pub fn damage(&self) -> Damage {
        self.log.as_ref().map_or_else(|_| Damage::default(), |log| log.damage)
    }

    /// When the agent's trials ended, in milliseconds since 1970.
    pub fn agent_ms(&self) -> impl Iterator<Item = u64> {
        self.trials.iter().filter(|trial| trial.by == "agent").map(|trial| trial.at_ms)
    }

    /// Why nobody knows which trials there were: whatever is chosen by them stops, the index answers.
    #[must_use]
    pub fn trouble(&self) -> Option<&JournalError> {
        self.log.as_ref().err().map(|error| &**error).filter(|error| matches!(error, JournalError::Unreadable { .. }))
    }

    /// Why it may hold fewer trials than were made, until somebody has looked at what was set aside.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        self.log.as_ref().ok()?.shortfall()
    }

    /// Adds a trial; on return it is durable.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn add(&mut self, trial: TrialRecord) -> io::Result<()> {
        self.log()?.append(std::slice::from_ref(&trial))?;
        self.trials.push(trial);
        Ok(())
    }

    /// Keeps the newest `keep`, once each; how many were dropped.
    ///
    /// # Errors
    /// As the file system gives them; nothing is then dropped.
    pub fn compact(&mut self, keep: usize) -> io::Result<usize> {
        let mut seen = std::collections::HashSet::new();
        let mut kept: Vec<TrialRecord> = self.trials.iter().rev().filter(|t| seen.insert(t.id.clone())).take(keep).cloned().collect();
        kept.reverse();
        self.log()?.compact(&kept)?;
        let dropped = self.trials.len() - kept.len();
        self.trials = kept;
        Ok(dropped)
    }
}

#[cfg(test)]
mod tests;
