//! Folders that are ingested again whenever they change, and are still watched after a restart.
//!
//! What the kernel tells is only ever a reason to look: the truth is a listing of paths, sizes and
//! times ([`listing`]). [`settle`] decides when a change has come to rest. So a lost event, an
//! overflowing queue, an editor that saves by renaming and ten thousand files at once are one case;
//! and every few minutes there is a look without a reason.

mod events;
mod folders;
mod hidden;
pub mod listing;
mod record;
pub mod settle;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_schema::SchemaRef;
use brahman_card::Fault;
use brahman_card::interface::WireError as _;
use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::catalog::error::NoSuchDataset;
use brahman_card::interface::ingest::{WatchIn, WatchStatus};
use brahman_card::interface::profiles::error::Forbidden;
use brahman_sidecar::chain;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::csv::TextOptions;
use crate::files;
use crate::rules::{self, walk_rules};
use crate::run::{Job, Runs};
use crate::sink::Place;
use crate::source::{Flaw, Format, SourceError, WalkRules};
use events::{tellers, untold};
use folders::{in_mesh, overlap, within};
use listing::Listing;
use record::{Commit, WatchRecord, WatchesError, read, resting, write};
use settle::{Settle, Verdict};

/// Most watches.
const WATCHES_MAX: usize = 256;
/// A change has come to rest when nothing has moved for this long: longer than an editor's pauses
/// between its steps.
const DEBOUNCE_MS: u64 = 2000;
/// What never comes to rest, a log that is written to all day, is read as it is after this many of
/// those.
const PATIENCE: u32 = 30;
/// Between looks without a reason.
const RECONCILE_S: u64 = 300;
/// Between looks where the kernel tells nothing.
const POLL: Duration = Duration::from_secs(10);
/// Between looks for a folder that is not there: one question to the kernel.
const ABSENT: Duration = Duration::from_secs(2);
/// Longest that whoever asks how watches stand waits for the catalog's word on their datasets.
const NOTICE: Duration = Duration::from_secs(1);
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// One watch and the task that carries it out.
#[derive(Debug)]
struct Watch {
    kept: WatchRecord,
    told: WatchStatus,
    task: Option<JoinHandle<()>>,
    /// A reason to look.
    changed: Arc<Notify>,
    /// Whether a profile kept the last try from its dataset.
    is_hidden: bool,
}

impl Watch {
    /// One that nobody carries out yet.
    fn new(kept: WatchRecord) -> Self {
        let told = kept.status();
        Self { kept, told, task: None, changed: Arc::default(), is_hidden: false }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// All watches, and the file that keeps them.
#[derive(Debug)]
pub struct Watches {
    runs: Arc<Runs>,
    file: PathBuf,
    all: Mutex<BTreeMap<String, Watch>>,
    /// How often another profile became active; changed with the lock of `all` held.
    profiles: AtomicU64,
    /// Why the file cannot be read, if it cannot: it is left as it is, and nothing is watched.
    damaged: Option<WatchesError>,
}

impl Watches {
    /// Reads which watches there were, from a module's state directory.
    ///
    /// # Errors
    /// If the file cannot be read; it is then left as it is.
    pub fn open(runs: Arc<Runs>, state: &Path) -> io::Result<Arc<Self>> {
        let folder = state.join("ingest");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("watches.json");
        let (kept, damaged) = match read(&file) {
            Ok((kept, is_old)) => {
                if is_old && let Err(error) = write(&file, &kept.iter().collect::<Vec<_>>()) {
                    tracing::warn!("{}: {error}: it has no checksum yet", file.display());
                }
                (kept, None)
            }
            Err(error) => {
                tracing::error!("nothing is watched: {}", chain(&error));
                (Vec::new(), Some(error))
            }
        };
        let (all, profiles) = (Mutex::default(), AtomicU64::new(0));
        let watches = Arc::new(Self { runs, file, all, profiles, damaged });
        for kept in kept {
            watches.begin(kept.decided());
        }
        Ok(watches)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watch>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, all: &BTreeMap<String, Watch>) -> io::Result<()> {
        let kept: Vec<&WatchRecord> = all.values().map(|w| &w.kept).collect();
        write(&self.file, &kept)
    }

    /// Whether something can be watched.
    ///
    /// # Errors
    /// If a path will not do, or it is not known what is watched.
    pub fn check(&self, ask: &WatchIn) -> Result<(), Fault> {
        self.usable()?;
        Format::of(ask.format.as_deref(), &ask.paths).map_err(files::bad_source)?;
        for path in &ask.paths {
            let bad = |flaw: Flaw| files::bad_source(SourceError { given: path.clone(), flaw });
            if !Path::new(path).is_absolute() {
                return Err(bad(Flaw::Relative));
            }
            // A file is replaced by editors, and its watch would go with it; a folder stays.
            match std::fs::metadata(path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(bad(Flaw::NoFolder)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(bad(Flaw::Absent));
                }
                Err(error) => return Err(bad(error.into())),
            }
        }
        if let Some(own) =
            self.file.parent().and_then(Path::parent).and_then(|state| within(state, &ask.paths))
        {
            return Err(Fault::invalid_parameter(
                "paths",
                format!(
                    "{own} is within the mesh's own state, where every ingest makes files: expected a folder of yours"
                ),
            ));
        }
        if let Some(own) = in_mesh(&ask.paths) {
            return Err(Fault::invalid_parameter(
                "paths",
                format!(
                    "{own} is within a bucket or the state of a mesh, where every ingest makes files: expected a folder of yours"
                ),
            ));
        }
        if let Some((one, other)) = overlap(&ask.paths) {
            let apart = || format!("{one} is below {other}, or is the same folder");
            let words = if one == other { format!("{one} is named twice") } else { apart() };
            return Err(Fault::invalid_parameter(
                "paths",
                format!("{words}: its files would be read twice, expected folders apart"),
            ));
        }
        Ok(())
    }

    /// Watches from now on what was checked; what is there is ingested first, as this format or as
    /// the one that is found once there is something. A watch of the same dataset is replaced.
    ///
    /// # Errors
    /// If there are too many watches, or they cannot be kept.
    pub fn watch(
        self: &Arc<Self>,
        ask: WatchIn,
        format: Option<Format>,
    ) -> Result<WatchStatus, Fault> {
        let dataset = ask.dataset.clone();
        {
            let mut all = self.lock();
            if all.len() >= WATCHES_MAX && !all.contains_key(&dataset) {
                return Err(Fault::invalid_parameter(
                    "dataset",
                    format!(
                        "there are {WATCHES_MAX} watches already, the maximum: end one with `brahman ingest unwatch`"
                    ),
                ));
            }
            let kept = WatchRecord {
                ask,
                ingested: None,
                format: format.map(|format| format.name().to_owned()),
                rests: false,
                committed: None,
            };
            let before = all.insert(dataset.clone(), Watch::new(kept));
            if let Err(error) = self.save(&all) {
                match before {
                    Some(before) => drop(all.insert(dataset, before)),
                    None => drop(all.remove(&dataset)),
                }
                return Err(Fault::internal(format!(
                    "{}: {error}; the watch was not added",
                    self.file.display()
                )));
            }
        }
        let kept = self.lock().get(&dataset).map(|w| w.kept.clone());
        kept.into_iter().for_each(|kept| self.begin(kept));
        self.lock()
            .get(&dataset)
            .map(|w| w.told.clone())
            .ok_or_else(|| Fault::internal("the watch was ended in the meantime"))
    }

    /// Watches no longer; false if that was so already.
    ///
    /// # Errors
    /// If it cannot be kept so; it is then watched on.
    pub fn unwatch(&self, dataset: &str) -> Result<bool, Fault> {
        self.usable()?;
        let mut all = self.lock();
        let Some(gone) = all.remove(dataset) else { return Ok(false) };
        if let Err(error) = self.save(&all) {
            all.insert(dataset.to_owned(), gone);
            return Err(Fault::internal(format!(
                "{}: {error}; it is still watched",
                self.file.display()
            )));
        }
        Ok(true)
    }

    /// How all of them stand, by dataset.
    ///
    /// # Errors
    /// If it is not known which there are.
    pub fn list(&self) -> Result<Vec<WatchStatus>, Fault> {
        self.usable()?;
        Ok(self.lock().values().map(|w| w.told.clone()).collect())
    }

    /// What is to be said of the module while the file is damaged.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damaged.as_ref().map(|error| format!("nothing is watched: {}", chain(error)))
    }

    fn usable(&self) -> Result<(), Fault> {
        let Some(damage) = self.damage() else { return Ok(()) };
        Err(Fault::internal(format!(
            "{damage}: repair the file, or move it away, then `brahman restart ingest`; it was not changed"
        )))
    }

    fn begin(self: &Arc<Self>, kept: WatchRecord) {
        let dataset = kept.ask.dataset.clone();
        let mut watch = Watch::new(kept.clone());
        let changed = Arc::clone(&watch.changed);
        watch.task = Some(tokio::spawn(follow_on(Arc::clone(self), kept, changed)));
        self.lock().insert(dataset, watch);
    }

    fn tell(&self, dataset: &str, change: impl FnOnce(&mut WatchStatus)) {
        if let Some(watch) = self.lock().get_mut(dataset) {
            change(&mut watch.told);
        }
    }

    /// As what a watch is read: as it was decided, else by what lies there now, from now on.
    async fn format(&self, ask: &WatchIn) -> Result<Format, Fault> {
        let decided = self.lock().get(&ask.dataset).and_then(|watch| watch.kept.format.clone());
        if let Some(name) = decided {
            return Format::of(Some(&name), &[]).map_err(files::bad_source);
        }
        let Some(format) =
            rules::format_of(ask.format.clone(), ask.paths.clone(), ask.no_ignore == Some(true))
                .await?
        else {
            return Ok(Format::Documents);
        };
        let mut all = self.lock();
        if let Some(watch) = all.get_mut(&ask.dataset) {
            watch.kept.format = Some(format.name().to_owned());
            watch.told.format.clone_from(&watch.kept.format);
        }
        if let Err(error) = self.save(&all) {
            tracing::warn!(
                dataset = ask.dataset,
                "{}: {error}: after a restart it is decided again what the folder is",
                self.file.display()
            );
        }
        Ok(format)
    }

    /// Whether the dataset of a watch has been there since it was begun.
    fn has_ingested(&self, dataset: &str) -> bool {
        self.lock().get(dataset).is_some_and(|watch| watch.kept.ingested.is_some())
    }

    fn rests(&self, dataset: &str) -> bool {
        self.lock().get(dataset).is_some_and(|watch| watch.kept.rests)
    }

    /// The dataset of a watch was deleted: what somebody has deleted does not come back by a change
    /// of a file, nor by a restart.
    fn rest(&self, dataset: &str) {
        let mut all = self.lock();
        if let Some(watch) = all.get_mut(dataset) {
            // The digest of no listing.
            watch.kept.ingested.get_or_insert_with(String::new);
            (watch.kept.rests, watch.kept.committed) = (true, None);
            tracing::warn!("{}", resting(dataset));
            // What it has told of the dataset is of none that there is.
            watch.told = WatchStatus {
                state: watch.told.state.clone(),
                reason: watch.told.reason.clone(),
                files: watch.told.files,
                ..watch.kept.status()
            };
        }
        if let Err(error) = self.save(&all) {
            tracing::warn!(dataset, "{}: {error}", self.file.display());
        }
    }

    /// Has watches rest whose datasets were deleted since they committed, as their next change
    /// would: whoever asks how they stand is told now. Without the catalog nobody knows.
    pub async fn notice_deletions(&self) {
        let has_committed = |watch: &Watch| watch.kept.committed.is_some();
        let committed: Vec<String> = self
            .lock()
            .iter()
            .filter(|(_, watch)| has_committed(watch))
            .map(|(dataset, _)| dataset.clone())
            .collect();
        let looking = async {
            for dataset in &committed {
                let is_gone = matches!(self.runs.dataset(dataset).await, Ok(None));
                // It may have been begun again meanwhile.
                if is_gone && self.lock().get(dataset).is_some_and(has_committed) {
                    self.rest(dataset);
                }
            }
        };
        let _ = tokio::time::timeout(NOTICE, looking).await;
    }

    /// Notes what was ingested, so that a restart does not ingest it again, and what it became.
    fn ingested(&self, dataset: &str, digest: &str, committed: Option<Commit>) {
        let mut all = self.lock();
        if let Some(watch) = all.get_mut(dataset) {
            (watch.kept.ingested, watch.kept.committed) = (Some(digest.to_owned()), committed);
        }
        if let Err(error) = self.save(&all) {
            tracing::warn!(
                dataset,
                "{}: {error}: after a restart the folder is ingested again",
                self.file.display()
            );
        }
    }
}

/// Follows one watch for as long as it lasts, and begins anew should that break off: what is said
/// to be watched is.
async fn follow_on(watches: Arc<Watches>, kept: WatchRecord, changed: Arc<Notify>) {
    let dataset = kept.ask.dataset.clone();
    loop {
        let following =
            AssertUnwindSafe(follow(Arc::clone(&watches), kept.clone(), Arc::clone(&changed)))
                .catch_unwind()
                .await;
        let why = match following {
            Ok(why) => why,
            Err(_) => "the watch panicked; the log has more".to_owned(),
        };
        tracing::error!(dataset, "the watch stopped: {why}");
        let words = format!("{why}; it starts again in {} s", RETRY.as_secs());
        watches.tell(&dataset, |w| (w.state, w.reason) = ("waiting".into(), Some(words)));
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows one watch; gives why it cannot go on.
async fn follow(watches: Arc<Watches>, kept: WatchRecord, changed: Arc<Notify>) -> String {
    let ask = kept.ask;
    let dataset = ask.dataset.clone();
    let debounce = Duration::from_millis(ask.debounce_ms.unwrap_or(DEBOUNCE_MS));
    let reconcile = Duration::from_secs(ask.reconcile_s.unwrap_or(RECONCILE_S));
    // Where nobody tells.
    let poll = POLL.min(reconcile);
    let mut settle = Settle::new(debounce, debounce * PATIENCE, kept.ingested);
    // The first look needs no event.
    settle.changed(Instant::now());
    let mut teller = None;
    loop {
        if teller.is_none() {
            // Anew after every failure: the folder may be back.
            let asked = {
                let (paths, changed) = (ask.paths.clone(), Arc::clone(&changed));
                tokio::task::spawn_blocking(move || {
                    // It may have become a bucket since it is watched.
                    let own = in_mesh(&paths)
                        .map(|own| SourceError { given: own.to_owned(), flaw: Flaw::OfMesh });
                    (tellers(&paths, &changed), own)
                })
            };
            match asked.await {
                Ok((_, Some(own))) => {
                    watches.tell(&dataset, |w| {
                        (w.state, w.reason) = ("waiting".into(), Some(chain(&own)));
                    });
                }
                Ok((Ok(watcher), None)) => {
                    teller = Some(watcher);
                    watches.tell(&dataset, |w| (w.state, w.reason) = ("watching".into(), None));
                }
                Ok((Err(error), None)) => {
                    let (state, why) = untold(&error, poll);
                    watches.tell(&dataset, |w| (w.state, w.reason) = (state, Some(why)));
                }
                Err(error) => return format!("setting up the kernel's notifications: {error}"),
            }
        }
        let idle = if teller.is_some() { reconcile } else { poll };
        let look = async {
            match settle.due() {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = look => {}
            () = changed.notified() => { settle.changed(Instant::now()); continue; }
            () = tokio::time::sleep(idle) => settle.changed(Instant::now()),
        }
        let (paths, no_ignore) = (ask.paths.clone(), ask.no_ignore == Some(true));
        let looked = tokio::task::spawn_blocking(move || Listing::of(&paths, no_ignore)).await;
        let listing = match looked {
            Ok(Ok(listing)) => listing,
            Ok(Err(error)) => {
                // Unmounted, or renamed: what was committed stands until there is something to put
                // in its place.
                teller = None;
                settle.failed(Instant::now() + ABSENT);
                watches.tell(&dataset, |w| {
                    (w.state, w.reason) = ("waiting".into(), Some(chain(&error)));
                });
                continue;
            }
            Err(error) => return format!("listing the folders: {error}"),
        };
        let files = listing.files;
        watches.tell(&dataset, |w| w.files = files);
        if settle.look(Instant::now(), &listing.digest) != Verdict::Ingest {
            continue;
        }
        ingest(&watches, &ask, &mut settle, &listing).await;
    }
}

/// The columns that a dataset has now, or why they are not known.
fn columns_now(dataset: Result<Option<Dataset>, Fault>) -> (Option<SchemaRef>, Option<String>) {
    let missed = |why: &str| {
        Some(format!(
            "which columns it had could not be read, so their types may have changed: {why}"
        ))
    };
    match dataset {
        Ok(None) => (None, None),
        Ok(Some(dataset)) => match files::columns_of(&dataset) {
            Ok(columns) => (columns, None),
            Err(error) => (None, missed(&chain(&error))),
        },
        Err(fault) => (None, missed(fault.message())),
    }
}

async fn ingest(watches: &Watches, ask: &WatchIn, settle: &mut Settle, listing: &Listing) {
    let dataset = ask.dataset.as_str();
    let since = watches.profiles.load(Ordering::Relaxed);
    // What reads it relies on its columns: they stay as they are while they hold what is there.
    let now = watches.runs.dataset(dataset).await;
    if watches.rests(dataset) {
        settle.failed(Instant::now() + RETRY);
        return;
    }
    if matches!(now, Ok(None)) && watches.has_ingested(dataset) {
        settle.failed(Instant::now() + RETRY);
        watches.rest(dataset);
        return;
    }
    let before = watches.lock().get(dataset).map(|w| w.told.state.clone()).unwrap_or_default();
    watches.tell(dataset, |w| w.state = "ingesting".into());
    let (paths, said, union) =
        (ask.paths.clone(), ask.csv.clone().unwrap_or_default(), ask.union_by_name);
    let format = watches.format(ask).await;
    // That there is none is the run's failure, and told with that.
    let walked = *format.as_ref().unwrap_or(&Format::Documents);
    let (rules, note) =
        walk_rules(&watches.runs, dataset, walked, ask.no_ignore == Some(true)).await;
    let rules = WalkRules { of_kind: ask.format.is_none(), ..rules };
    let read = move |place: &Place, progress: &_, cancel: &_| {
        let (kept, missed) = columns_now(now);
        let how =
            TextOptions { csv: files::csv_options(&said)?, kept, union, ..files::by_all_cores() };
        let mut done = files::read(&paths, &rules, format?, &how, place, progress, cancel)?;
        done.notes.extend(note.into_iter().chain(missed.filter(|_| walked != Format::Documents)));
        Ok(done)
    };
    let (bucket, pii) = (ask.bucket.clone(), ask.pii.unwrap_or(true));
    let done = watches
        .runs
        .carry_out(None, Job { dataset: dataset.to_owned(), bucket, pii, ..Job::default() }, read)
        .await;
    let is_hidden = done.as_ref().is_err_and(|fault| fault.name == Forbidden::NAME);
    let was_deleted = done.as_ref().is_err_and(|fault| fault.name == NoSuchDataset::NAME);
    match &done {
        Ok(out) => {
            settle.ingested(&listing.digest);
            watches.ingested(dataset, &listing.digest, Commit::of(out));
            tracing::info!(
                dataset,
                rows = out.rows,
                generation = out.generation,
                "ingested the changes"
            );
        }
        Err(fault) => {
            settle.failed(Instant::now() + RETRY);
            tracing::warn!(dataset, "could not be ingested: {fault}");
        }
    }
    watches.tell(dataset, |w| {
        w.state = before;
        match done {
            Ok(out) => {
                // What was left out is told as long as it is.
                let left_out = out.quarantined.filter(|n| *n > 0).map(|n| {
                    let first = out
                        .quarantine
                        .iter()
                        .flatten()
                        .next()
                        .map(|q| format!(", first {}: {}", q.source, q.reason));
                    format!("{n} left out{}", first.unwrap_or_default())
                });
                (w.run_id, w.generation, w.rows, w.error) =
                    (out.run_id, out.generation, Some(out.rows), left_out);
                (w.notes, w.drift) = (
                    Some(out.notes).filter(|notes| !notes.is_empty()),
                    out.drift.filter(|drift| !drift.is_empty()),
                );
            }
            Err(fault) => w.error = Some(fault.message().to_owned()),
        }
    });
    watches.hidden(dataset, is_hidden, since);
    if was_deleted {
        watches.rest(dataset);
    }
}

#[cfg(test)]
mod tests;
