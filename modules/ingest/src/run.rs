//! A run: its progress, its place in a bucket, what it read, and the commit at its end. What is
//! read is the reader's affair.
//!
//! [`ends`] tells of their ends, [`earlier`] keeps those that nobody told of.

mod earlier;
mod ends;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::WireError;
use brahman_card::interface::catalog::{
    self, AbandonIn, Column, CommitIn, CommitOut, Dataset, LocationIn, LocationOut, Object,
    PiiReport, Watermark,
};
use brahman_card::interface::ingest::error::Cancelled;
use brahman_card::interface::ingest::{
    Drift, HiddenFiles, IngestOut, IngestProgress, IngestSummary, Quarantine, Run,
};
use brahman_sidecar::{Backoff, Call, CallOptions, Client, ClientError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pii;
use crate::pii::sample::Samples;
use crate::sink::Place;
use earlier::EarlierRuns;
use ends::{Ends, RunEnd, hold};

/// Runs remembered.
const RUNS_MAX: usize = 100;
/// Between two progress replies.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Who makes datasets, in their lineage.
const PRODUCER: &str = concat!("brahman-ingest/", env!("CARGO_PKG_VERSION"));
const MOCK_PRODUCER: &str = concat!("ingest-mock/", env!("CARGO_PKG_VERSION"));

/// Runs, the newest first, and how each is cancelled.
type RunList = Arc<Mutex<VecDeque<(Run, CancellationToken)>>>;

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// `scan`, `read`, `merge` or `commit`.
    pub phase: &'static str,
    /// Rows written by this run so far.
    pub rows: u64,
    /// Source bytes so far.
    pub bytes: u64,
}

/// A run that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Name of the dataset to write.
    pub dataset: String,
    /// Bucket to write to; where the dataset lies unless said.
    pub bucket: Option<String>,
    /// Whether personal data is looked for.
    pub pii: bool,
    /// The run that this goes on with, whose objects are there already, also for the next try if
    /// this one fails.
    pub resumes: Option<String>,
    /// The dataset that this builds on: its objects that are kept may be among those read.
    pub onto: Option<Predecessor>,
}

/// What a run builds on.
#[derive(Clone, Debug, Default)]
pub struct Predecessor {
    /// Generation, 0 if there is none.
    pub generation: u64,
    /// Its run: numbers repeat where a dataset is deleted and made again.
    pub run_id: Option<String>,
    /// Whether rows of it stay.
    pub stays: bool,
    /// What was said of the personal data in those.
    pub pii: Option<PiiReport>,
}

/// What a run has read.
#[derive(Debug, Default)]
pub struct ReadOutcome {
    /// Durable, in row order.
    pub objects: Vec<Object>,
    /// Columns of what was read.
    pub columns: Vec<Column>,
    /// For the lineage; never a user or a password.
    pub inputs: Vec<String>,
    /// Rows and files left out.
    pub quarantined: u64,
    /// The first of them.
    pub quarantine: Vec<Quarantine>,
    /// Files that rules kept from being found.
    pub hidden: Vec<HiddenFiles>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Workers, of a table.
    pub parallel: Option<u64>,
    /// How a table was read.
    pub mode: Option<String>,
    /// How far, if it is read by and by.
    pub watermark: Option<Watermark>,
}

/// The runs, and who carries them out.
#[derive(Debug)]
pub struct Runs {
    client: Client,
    ends: Arc<Ends>,
    /// This module's, by which the catalog knows whose runs are whose.
    label: String,
    /// Whether what is read is made up: it goes where no real dataset is.
    mock: bool,
    all: RunList,
}

/// What a run that was ended by its caller answers.
#[must_use]
pub fn cancelled() -> Fault {
    Fault::of(&Cancelled {}, false, "the run was cancelled; nothing was published")
}

impl Runs {
    /// None of this life; commits go through this client. Those that earlier lives were in the
    /// middle of are kept in a file, if there is one.
    #[must_use]
    pub fn new(client: Client, label: &str, file: Option<PathBuf>) -> Self {
        let earlier = file.map(EarlierRuns::open).unwrap_or_default();
        let ends = Arc::new(Ends::new(client.clone(), earlier));
        Self { client, ends, label: label.to_owned(), mock: false, all: RunList::default() }
    }

    /// Those of a mock.
    #[must_use]
    pub fn of_a_mock(self) -> Self {
        Self { mock: true, ..self }
    }

    /// Ends, in the lineage, what this module had begun when it last died, and lists it as failed.
    /// What cannot be told now is told before the next run.
    pub async fn bury(&self) {
        let reason =
            format!("{} stopped in the middle of the run; nothing was published", self.label);
        let mut ends = vec![AbandonIn {
            producer: Some(self.label.clone()),
            reason,
            mock: Some(self.mock),
            ..AbandonIn::default()
        }];
        if self.mock {
            // Earlier versions began their runs among the real ones.
            ends.push(AbandonIn { mock: Some(false), ..ends[0].clone() });
        }
        for end in ends {
            self.ends.tell(end).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Run, CancellationToken)>> {
        hold(&self.all)
    }

    /// Recent runs, newest first: those of this life, and behind them those that earlier ones were
    /// in the middle of.
    #[must_use]
    pub fn list(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = self.lock().iter().map(|(run, _)| run.clone()).collect();
        let earlier = self.ends.earlier();
        let is_of_now = |id: &str| runs.iter().any(|run| run.run_id == id);
        let others: Vec<Run> =
            earlier.all().iter().filter(|run| !is_of_now(&run.run_id)).cloned().collect();
        runs.extend(others);
        runs.truncate(RUNS_MAX);
        runs
    }

    /// Ends a run; false if no such run is running.
    pub fn cancel(&self, run_id: &str) -> bool {
        let all = self.lock();
        let found = all.iter().find(|(run, _)| run.run_id == run_id && run.state == "running");
        found.inspect(|(_, token)| token.cancel()).is_some()
    }

    /// Reads on a thread of its own while telling a caller, if there is one, how far it is; then
    /// commits. A hang-up or a cancel ends it; then, and after an error, nothing is published.
    ///
    /// # Errors
    /// The reader's fault, or the catalog's.
    pub async fn carry_out(
        &self,
        call: Option<&Call>,
        job: Job,
        read: impl FnOnce(
            &Place,
            &watch::Sender<Progress>,
            &CancellationToken,
        ) -> Result<ReadOutcome, Fault>
        + Send
        + 'static,
    ) -> Result<IngestSummary, Fault> {
        if let Some(run_id) = &job.resumes {
            self.ends.earlier().take_off(run_id);
        }
        let run_id = job.resumes.clone().unwrap_or_else(|| ulid::Ulid::generate().to_string());
        let cancel = CancellationToken::new();
        // Dropped with this future: a hang-up cancels the run.
        let _cancel_on_drop = cancel.clone().drop_guard();
        let run = Run {
            run_id: run_id.clone(),
            dataset: job.dataset.clone(),
            state: "running".into(),
            rows: 0,
            bytes: 0,
            started_ms: now_ms(),
            seconds: 0.0,
            error: None,
        };
        {
            let mut all = self.lock();
            all.push_front((run, cancel.clone()));
            all.truncate(RUNS_MAX);
        }
        let started = Instant::now();
        let (progress, watching) =
            watch::channel(Progress { phase: "scan", ..Progress::default() });
        let ended = RunEnd { runs: self, run_id: &run_id, watching: watching.clone(), started };
        let outcome = self
            .read_and_commit(call, job, &run_id, read, &cancel, progress, watching, started)
            .await;
        ended.with(match &outcome {
            Ok(_) => ("done", None),
            Err(_) if cancel.is_cancelled() => ("cancelled", None),
            Err(fault) => ("failed", Some(fault.message().to_owned())),
        });
        // What may be published yet is not given up: its objects stay until it is known, or this
        // module has ended.
        if let Err(fault) = &outcome
            && fault.name != UNKNOWN
        {
            let (cancelled, mock) = (Some(cancel.is_cancelled()), Some(self.mock));
            let reason = fault.message().to_owned();
            self.ends
                .tell(AbandonIn {
                    run_id: Some(run_id.clone()),
                    reason,
                    cancelled,
                    mock,
                    producer: None,
                })
                .await;
        }
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "one run's facts, used once")]
    async fn read_and_commit(
        &self,
        call: Option<&Call>,
        job: Job,
        run_id: &str,
        read: impl FnOnce(
            &Place,
            &watch::Sender<Progress>,
            &CancellationToken,
        ) -> Result<ReadOutcome, Fault>
        + Send
        + 'static,
        cancel: &CancellationToken,
        progress: watch::Sender<Progress>,
        watching: watch::Receiver<Progress>,
        started: Instant,
    ) -> Result<IngestSummary, Fault> {
        self.ends.tell_all().await?;
        let dataset = job.dataset.as_str();
        let place = self.place_for(&job, run_id).await?;
        let (token, target, resumed) = (cancel.clone(), place.clone(), job.resumes.is_some());
        let mut reading = tokio::task::spawn_blocking(move || {
            // Nothing of a failed run was published, nor of one whose caller has gone; the catalog
            // clears what a crash leaves.
            let written = RunFolder { folder: Some(target.folder.clone()).filter(|_| !resumed) };
            let read = read(&target, &progress, &token)?;
            let pii = target.samples.as_ref().map(|samples| pii::report(&samples.take()));
            Ok::<_, Fault>((read, pii, written))
        });
        let (mut read, pii, written) = loop {
            tokio::select! {
                done = &mut reading => break done.map_err(|e| broken(dataset, &e))?,
                () = tokio::time::sleep(PROGRESS_EVERY), if call.is_some_and(|call| call.more) => {
                    let now = *watching.borrow();
                    if let Some(call) = call {
                        call.send(&report(now, started.elapsed())).await?;
                    }
                }
            }
        }?;
        let pii = match &job.onto {
            Some(onto) if onto.stays => pii::both(onto.pii.as_ref(), pii),
            Some(_) | None => pii,
        };
        let drift = self.drift(dataset, &read.columns).await;
        if !drift.is_empty() {
            tracing::warn!(dataset, "its columns have changed: {drift:?}");
        }
        let commit = self.commit_of(&job, run_id, &mut read, pii.clone());
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let committed = self.publish(&commit, written).await?;
        let mut notes = read.notes;
        if let Some(copies) = committed.copies.filter(|copies| copies.failed > 0) {
            let why = copies.why.unwrap_or_default();
            notes.push(format!(
                "{} objects have no replica in bucket rescue yet, {} failed: {why}",
                copies.pending, copies.failed
            ));
        }
        if self.mock {
            notes.push(format!(
                "made by the mock {}: only mocks read it, and no real dataset was touched",
                self.label
            ));
        }
        let (Progress { rows, bytes, .. }, elapsed) = (*watching.borrow(), started.elapsed());
        Ok(IngestSummary {
            rows,
            bytes,
            rows_per_s: rate(rows, elapsed),
            run_id: Some(run_id.to_owned()),
            dataset: dataset.to_owned(),
            generation: Some(committed.generation),
            objects: Some(read.objects),
            columns: Some(read.columns),
            quarantined: Some(read.quarantined),
            quarantine: Some(read.quarantine),
            hidden: Some(read.hidden.iter().map(|rule| rule.count).sum())
                .filter(|count: &u64| *count > 0),
            hidden_by: Some(read.hidden).filter(|hidden| !hidden.is_empty()),
            pii,
            datasets: None,
            mode: read.mode,
            parallel: read.parallel,
            notes,
            drift: Some(drift),
            seconds: elapsed.as_secs_f64(),
        })
    }

    /// Where the catalog has a run's objects written.
    async fn place_for(&self, job: &Job, run_id: &str) -> Result<Place, Fault> {
        let (name, run_id, bucket) = (job.dataset.clone(), run_id.to_owned(), job.bucket.clone());
        let ask = LocationIn {
            name,
            run_id,
            producer: Some(self.label.clone()),
            bucket,
            mock: Some(self.mock),
        };
        let found = self
            .client
            .call_method::<catalog::method::Location>(&ask, &CallOptions::default())
            .await?
            .value;
        let LocationOut { bucket, key_prefix: prefix, url_prefix, path } = found;
        let samples = job.pii.then(Arc::<Samples>::default);
        Ok(Place {
            folder: PathBuf::from(&path),
            bucket,
            prefix,
            url_prefix,
            samples,
            first_part: 0,
        })
    }

    /// What the catalog is told of a run that has read all.
    fn commit_of(
        &self,
        job: &Job,
        run_id: &str,
        read: &mut ReadOutcome,
        pii: Option<PiiReport>,
    ) -> CommitIn {
        CommitIn {
            name: job.dataset.clone(),
            run_id: run_id.to_owned(),
            objects: read.objects.clone(),
            columns: read.columns.clone(),
            inputs: std::mem::take(&mut read.inputs),
            producer: if self.mock { MOCK_PRODUCER } else { PRODUCER }.to_owned(),
            pii,
            watermark: read.watermark.take(),
            expect: job.onto.as_ref().map(|onto| onto.generation),
            expect_run: job.onto.as_ref().and_then(|onto| onto.run_id.clone()),
            mock: Some(self.mock),
            maker: self.mock.then(|| self.label.clone()),
        }
    }

    /// Has a run published. From here on it may be, whatever becomes of the answer: only a refusal
    /// says that it was not, and takes what was written with it. What may be either is the
    /// catalog's to clear away.
    async fn publish(
        &self,
        commit: &CommitIn,
        mut written: RunFolder,
    ) -> Result<CommitOut, ClientError> {
        let folder = written.keep();
        let committed = self.commit(commit).await;
        if let Err(ClientError::Fault(fault)) = &committed
            && was_refused(&fault.name)
        {
            written.folder = folder;
        }
        committed
    }

    /// Commits; says it again for a while if whether it was published is not known.
    async fn commit(&self, commit: &CommitIn) -> Result<CommitOut, ClientError> {
        let mut pauses = PAUSES;
        for _ in 1..COMMITS_MAX {
            match self
                .client
                .call_method::<catalog::method::Commit>(commit, &CallOptions::default())
                .await
            {
                Err(ClientError::Fault(fault)) if fault.name == UNKNOWN => {
                    tracing::warn!(
                        dataset = commit.name,
                        run_id = commit.run_id,
                        "{}",
                        fault.message()
                    );
                    pauses.wait().await;
                }
                other => return other.map(|answer| answer.value),
            }
        }
        let last = self
            .client
            .call_method::<catalog::method::Commit>(commit, &CallOptions::default())
            .await;
        last.map(|answer| answer.value)
    }

    /// The dataset as it is, if there is one.
    ///
    /// # Errors
    /// If the catalog cannot be asked, or the dataset's file is damaged.
    pub async fn dataset(&self, name: &str) -> Result<Option<Dataset>, Fault> {
        let ask = catalog::NameIn { name: name.to_owned(), mock: Some(self.mock) };
        match self.client.call_method::<catalog::method::Get>(&ask, &CallOptions::default()).await {
            // A mock may read a real dataset, but never builds on it.
            Ok(found) => Ok(Some(found.value.dataset)
                .filter(|dataset| (dataset.mock == Some(true)) == self.mock)),
            Err(ClientError::Fault(fault)) if fault.name == catalog::error::NoSuchDataset::NAME => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How the columns differ from those of the generation before, if there is one.
    async fn drift(&self, dataset: &str, now: &[Column]) -> Vec<Drift> {
        let before = self.dataset(dataset).await;
        before.ok().flatten().map_or_else(Vec::new, |before| drift(&before.columns, now))
    }
}

/// What a commit answers of which it is not known whether it was published.
const UNKNOWN: &str = catalog::error::Unknown::NAME;
/// How often such a commit is said, and how long after the first time it is said again; doubled
/// each time. The catalog tries for a while by itself.
const COMMITS_MAX: u32 = 4;
const PAUSES: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(4));

/// Whether a fault of a commit says that this run was never published: a call whose answer was lost
/// is said again, and one that is unknown by then, or whose dataset cannot be read, may have been.
fn was_refused(fault: &str) -> bool {
    let may_be_published = [catalog::error::GivenUp::NAME, catalog::error::Damaged::NAME, UNKNOWN];
    let of_catalog =
        fault.rsplit_once('.').is_some_and(|(interface, _)| interface == catalog::INTERFACE.name);
    of_catalog && !may_be_published.contains(&fault)
}

/// What a run has written, which goes with this unless it is kept.
#[derive(Debug)]
struct RunFolder {
    folder: Option<PathBuf>,
}

impl RunFolder {
    fn keep(&mut self) -> Option<PathBuf> {
        self.folder.take()
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take()
            && let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}: the catalog will remove it", folder.display());
        }
    }
}

/// A reader that panicked.
fn broken(dataset: &str, error: &tokio::task::JoinError) -> Fault {
    tracing::error!(dataset, "reading failed: {error}");
    Fault::internal(format!(
        "dataset `{dataset}`: reading failed in the middle; nothing was published; the log has more"
    ))
}

/// Columns that came, went, or changed their type.
fn drift(before: &[Column], now: &[Column]) -> Vec<Drift> {
    let of = |columns: &[Column], name: &str| {
        columns.iter().find(|c| c.name == name).map(|c| c.arrow_type.clone())
    };
    let names =
        before.iter().chain(now.iter().filter(|c| of(before, &c.name).is_none())).map(|c| &c.name);
    let all =
        names.map(|name| Drift { column: name.clone(), was: of(before, name), now: of(now, name) });
    all.filter(|d| d.was != d.now).collect()
}

fn report(now: Progress, elapsed: Duration) -> IngestOut {
    let Progress { phase, rows, bytes } = now;
    IngestOut::Progress(IngestProgress {
        phase: phase.to_owned(),
        rows,
        bytes,
        rows_per_s: rate(rows, elapsed),
    })
}

/// Rows a second.
pub(crate) fn rate(rows: u64, elapsed: Duration) -> f64 {
    rows as f64 / elapsed.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests;
