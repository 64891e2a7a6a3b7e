//! `org.brahman.Ingest`: runs, their progress, and the commit.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow_schema::SchemaRef;
use brahman_card::interface::catalog::{Column, CommitIn, CommitOut, LocationIn, LocationOut, Object};
use brahman_card::interface::ingest::{self, CancelIn, CancelOut, FilesIn, FilesOut, Quarantine, Run, RunsOut};
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, CallOptions, Client, Reply, Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::documents::{self, Batcher};
use crate::sink::Sink;
use crate::source::{self, File, Format, SourceError};
use crate::tables;

/// Runs remembered.
const RUNS_MAX: usize = 100;
/// Quarantined rows and files that are named; all are counted.
const NAMED_MAX: usize = 100;
/// Between two progress replies.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The service.
#[derive(Debug)]
pub struct IngestService {
    client: Client,
    runs: Arc<Mutex<VecDeque<(Run, CancellationToken)>>>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    phase: &'static str,
    rows: u64,
    bytes: u64,
}

/// What a run has read.
struct Read {
    object: Object,
    columns: Vec<Column>,
    quarantined: u64,
    quarantine: Vec<Quarantine>,
}

impl IngestService {
    /// A service that commits through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, runs: Arc::default() }
    }

    fn runs(&self) -> MutexGuard<'_, VecDeque<(Run, CancellationToken)>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn files(&self, call: &Call) -> Result<Reply, Fault> {
        let FilesIn { dataset, paths, format } = call.parameters()?;
        call.allow_paths()?;
        if paths.is_empty() {
            return Err(Fault::invalid_parameter("paths", "expected at least one file or folder"));
        }
        let run_id = ulid::Ulid::generate().to_string();
        let cancel = CancellationToken::new();
        // Dropped with this future: a hang-up cancels the run.
        let _cancel_on_drop = cancel.clone().drop_guard();
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
        let run = Run {
            run_id: run_id.clone(),
            dataset: dataset.clone(),
            state: "running".into(),
            rows: 0,
            bytes: 0,
            started_ms,
            seconds: 0.0,
            error: None,
        };
        {
            let mut runs = self.runs();
            runs.push_front((run, cancel.clone()));
            runs.truncate(RUNS_MAX);
        }
        let started = Instant::now();
        let (progress, watching) = watch::channel(Progress { phase: "scan", ..Progress::default() });
        let outcome = self.run(call, &dataset, &run_id, paths, format, &cancel, progress, watching.clone(), started).await;
        let last = *watching.borrow();
        if let Some((run, _)) = self.runs().iter_mut().find(|(run, _)| run.run_id == run_id) {
            (run.rows, run.bytes, run.seconds) = (last.rows, last.bytes, started.elapsed().as_secs_f64());
            run.state = match &outcome {
                Ok(_) => "done",
                Err(_) if cancel.is_cancelled() => "cancelled",
                Err(_) => "failed",
            }
            .into();
            run.error = outcome.as_ref().err().map(|f| f.message().to_owned());
        }
        Reply::of(&outcome?)
    }

    #[expect(clippy::too_many_arguments, reason = "one run's facts, used once")]
    async fn run(
        &self,
        call: &Call,
        dataset: &str,
        run_id: &str,
        paths: Vec<String>,
        format: Option<String>,
        cancel: &CancellationToken,
        progress: watch::Sender<Progress>,
        watching: watch::Receiver<Progress>,
        started: Instant,
    ) -> Result<FilesOut, Fault> {
        let options = CallOptions::default();
        let format = Format::of(format.as_deref(), &paths).map_err(bad_source)?;
        let place = LocationIn { name: dataset.to_owned(), run_id: run_id.to_owned() };
        let place: LocationOut = self.client.call("org.brahman.Catalog.Location", &place, &options).await?.value;
        let folder = PathBuf::from(&place.path);
        let mut inputs: Vec<String> = paths.iter().map(|p| format!("file://{p}")).collect();
        inputs.truncate(NAMED_MAX);
        let (token, prefix, target) = (cancel.clone(), place.key_prefix.clone(), folder.clone());
        let mut reading = tokio::task::spawn_blocking(move || read(&paths, format, &target, &prefix, &progress, &token));
        let read = loop {
            tokio::select! {
                done = &mut reading => break done.map_err(|e| Fault::internal(e.to_string()))?,
                () = tokio::time::sleep(PROGRESS_EVERY), if call.more => {
                    let now = *watching.borrow();
                    call.send(&report(now, started)).await?;
                }
            }
        };
        let read = read.inspect_err(|_| {
            // Nothing of it was published; the catalog clears what a crash leaves.
            let _ = std::fs::remove_dir_all(&folder);
        })?;
        let commit = CommitIn {
            name: dataset.to_owned(),
            run_id: run_id.to_owned(),
            objects: vec![read.object.clone()],
            columns: read.columns.clone(),
            inputs,
            producer: concat!("brahman-ingest/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let committed: CommitOut = self.client.call("org.brahman.Catalog.Commit", &commit, &options).await?.value;
        let now = Progress { phase: "done", ..*watching.borrow() };
        Ok(FilesOut {
            run_id: Some(run_id.to_owned()),
            dataset: Some(dataset.to_owned()),
            generation: Some(committed.generation),
            objects: Some(vec![read.object]),
            columns: Some(read.columns),
            quarantined: Some(read.quarantined),
            quarantine: Some(read.quarantine),
            pii: None,
            seconds: Some(started.elapsed().as_secs_f64()),
            ..report(now, started)
        })
    }
}

impl Service for IngestService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&ingest::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Files" => self.files(&call).await,
            "Runs" => Reply::of(&RunsOut { runs: self.runs().iter().map(|(run, _)| run.clone()).collect() }),
            "Cancel" => {
                let CancelIn { run_id } = call.parameters()?;
                let runs = self.runs();
                let found = runs.iter().find(|(run, _)| run.run_id == run_id && run.state == "running");
                if let Some((_, token)) = found {
                    token.cancel();
                }
                Reply::of(&CancelOut { cancelled: found.is_some() })
            }
            _ => Err(call.unknown()),
        }
    }
}

fn report(now: Progress, started: Instant) -> FilesOut {
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    FilesOut { phase: now.phase.into(), rows: now.rows, bytes: now.bytes, rows_per_s: now.rows as f64 / seconds, ..FilesOut::default() }
}

fn bad_source(error: SourceError) -> Fault {
    let SourceError::Bad { path, .. } = &error;
    let source = path.clone();
    Fault::new("org.brahman.Ingest.BadSource", false, error.to_string()).with("source", source)
}

fn failed(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::Interrupted => Fault::new("org.brahman.Ingest.Cancelled", false, "the run was cancelled; nothing was published"),
        _ => Fault::new("org.brahman.Ingest.BadSource", false, format!("{error}; nothing was published")).with("source", ""),
    }
}

/// Reads everything into one Parquet object. Blocks.
fn read(
    paths: &[String],
    format: Format,
    folder: &Path,
    prefix: &str,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<Read, Fault> {
    let files = source::files(paths).map_err(bad_source)?;
    let mut quarantined = 0;
    let mut quarantine = Vec::new();
    let mut bad = |path: &Path, row: Option<u64>, reason: String| {
        quarantined += 1;
        if quarantine.len() < NAMED_MAX {
            quarantine.push(Quarantine { source: path.display().to_string(), row, reason });
        }
    };
    progress.send_modify(|p| p.phase = "read");
    let mut sink: Option<Sink> = None;
    let mut schema: Option<SchemaRef> = None;
    let outcome = match format {
        Format::Documents => read_documents(&files, folder, prefix, progress, cancel, &mut sink, &mut |path, why| bad(path, None, why)),
        Format::Csv | Format::Jsonl => {
            let paths: Vec<&Path> = files.iter().map(|f| f.path.as_path()).collect();
            let how = if format == Format::Csv { tables::csv } else { tables::jsonl };
            let slot = std::cell::RefCell::new(&mut sink);
            how(
                &paths,
                &mut |s| {
                    **slot.borrow_mut() = Some(Sink::create(folder, prefix, s)?);
                    Ok(())
                },
                &mut |batch, bytes| {
                    if cancel.is_cancelled() {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    if let Some(sink) = slot.borrow_mut().as_mut() {
                        sink.write(&batch)?;
                        progress.send_modify(|p| (p.rows, p.bytes) = (sink.rows(), p.bytes + bytes));
                    }
                    schema.get_or_insert_with(|| batch.schema());
                    Ok(())
                },
                &mut |path, row, why| bad(path, Some(row), why),
            )
        }
    };
    outcome.map_err(|e| failed(&e))?;
    let nothing = || {
        Fault::new(
            "org.brahman.Ingest.NothingToRead",
            false,
            format!("no rows could be read from {} files; nothing was published", files.len()),
        )
    };
    let sink = sink.filter(|s| s.rows() > 0).ok_or_else(nothing)?;
    let schema = schema.unwrap_or_else(documents::schema);
    progress.send_modify(|p| p.phase = "commit");
    let object = sink.finish().map_err(|e| failed(&e))?;
    let source_type = match format {
        Format::Documents => "file",
        Format::Csv => "csv",
        Format::Jsonl => "json",
    };
    let columns = schema.fields().iter().map(|f| Column {
        name: f.name().clone(),
        arrow_type: f.data_type().to_string(),
        source_type: source_type.into(),
        nulls_made: 0,
    });
    Ok(Read { object, columns: columns.collect(), quarantined, quarantine })
}

fn read_documents(
    files: &[File],
    folder: &Path,
    prefix: &str,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
    slot: &mut Option<Sink>,
    bad: &mut dyn FnMut(&Path, String),
) -> io::Result<()> {
    let mut sink = Sink::create(folder, prefix, documents::schema())?;
    let mut batcher = Batcher::default();
    for file in files {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match documents::read(file) {
            Ok(document) => {
                progress.send_modify(|p| (p.rows, p.bytes) = (p.rows + 1, p.bytes + document.len()));
                if let Some(batch) = batcher.push(document).map_err(io::Error::other)? {
                    sink.write(&batch)?;
                }
            }
            Err(why) => bad(&file.path, why),
        }
    }
    if let Some(batch) = batcher.finish().map_err(io::Error::other)? {
        sink.write(&batch)?;
    }
    *slot = Some(sink);
    Ok(())
}
