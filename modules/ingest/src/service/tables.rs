//! Tables of servers: one or several, whole, by what is new, or piece by piece.

use std::time::Duration;

use brahman_card::Fault;
use brahman_card::interface::WireError as _;
use brahman_card::interface::catalog::Watermark;
use brahman_card::interface::ingest::{
    self, IngestOut, IngestSummary, IngestedDataset, Quarantine, TableIn,
};
use brahman_sidecar::{Call, Reply, chain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{IngestService, bounded};
use crate::dsn::Dsn;
use crate::keyset::{self, Book, Checkpoint, Keyset, Reader};
use crate::run::{Job, Predecessor, Progress, ReadOutcome, cancelled, rate};
use crate::sink::Place;
use crate::table::{
    AskError, HeldTables, ReadError, ReadOptions, TableRead, TableSet, TableSource,
};
use crate::window::{Reach, Window};
use crate::{merge, mock};

/// Most workers of one read.
const PARALLEL_MAX: u64 = 64;
/// How long a snapshot is held unless the caller says otherwise: it keeps the server from cleaning
/// up behind it.
const DEADLINE_S: u64 = 3600;
/// How long the server may send nothing unless the caller says otherwise: a query may sort for
/// minutes before its first row.
const STALL_S: u64 = 300;
/// Most tables of one call.
const TABLES_MAX: usize = 1000;
/// Most rows of one part.
const CHUNK_ROWS_MAX: u64 = 100_000_000;
/// Longest of both.
pub(super) const SECONDS_MAX: u64 = 7 * 86_400;

/// How one kind of server is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// One table.
    pub(super) read: Reader,
    /// Finds several, and holds a snapshot of them all if it can.
    pub(super) hold:
        fn(&Dsn, &ReadOptions, &TableSet, &CancellationToken) -> Result<HeldTables, ReadError>,
}

pub(super) const MOCK: Server = Server { read: mock::read, hold: mock::hold };

impl IngestService {
    pub(super) async fn table(
        &self,
        call: &Call,
        schemes: &[&str],
        server: Server,
    ) -> Result<Reply, Fault> {
        let ask: TableIn = call.parameters()?;
        let (dsn, how) = connection(call, &ask, schemes)?;
        let mode = Mode::of(&ask)?;
        if ask.tables.is_some() || ask.schema.is_some() {
            return Reply::of(&IngestOut::Done(
                self.several(call, ask, mode, server, dsn, how).await?,
            ));
        }
        let read = server.read;
        let what = match (ask.table, ask.query) {
            (Some(table), None) => TableSource::Table(table),
            (None, Some(query)) if matches!(mode, Mode::Full) => TableSource::Query(query),
            (None, Some(_)) => {
                return Err(Fault::invalid_parameter(
                    "query",
                    "a query is read with mode full; expected a table",
                ));
            }
            _ => {
                return Err(Fault::invalid_parameter(
                    "table, query",
                    "expected exactly one of them",
                ));
            }
        };
        let job = Job {
            dataset: ask.dataset,
            bucket: ask.bucket,
            pii: ask.pii.unwrap_or(true),
            ..Job::default()
        };
        let done = match mode {
            Mode::Full => {
                let read = move |place: &Place, progress: &_, cancel: &_| {
                    Ok(as_read(
                        read(&dsn, &what, &how, place, progress, cancel).map_err(failed)?,
                        "full",
                    ))
                };
                self.runs.carry_out(Some(call), job, read).await?
            }
            Mode::Incremental { cursor, key, lag } => {
                self.incremental(call, job, read, (dsn, what, how), (cursor, key, lag)).await?
            }
            Mode::Keyset { key, rows } => {
                self.keyset(
                    call,
                    job,
                    Keyset { read, dsn, what, how, key, rows, book: Book::default() },
                )
                .await?
            }
        };
        Reply::of(&IngestOut::Done(done))
    }

    /// Several tables, one after the other, each a dataset, of one snapshot where the server can
    /// hold it.
    async fn several(
        &self,
        call: &Call,
        ask: TableIn,
        mode: Mode,
        server: Server,
        dsn: Dsn,
        how: ReadOptions,
    ) -> Result<IngestSummary, Fault> {
        let one =
            |what: &'static str, why: &str| Err(Fault::invalid_parameter(what, why.to_owned()));
        let is_schema = ask.schema.is_some();
        let which = match (ask.tables, ask.schema) {
            (Some(tables), None) if (1..=TABLES_MAX).contains(&tables.len()) => {
                TableSet::Tables(tables)
            }
            (Some(_), None) => {
                return one("tables", &format!("expected 1 to {TABLES_MAX} of them"));
            }
            (None, Some(schema)) => TableSet::Schema(schema),
            _ => return one("tables, schema", "expected one of them"),
        };
        if ask.table.is_some() || ask.query.is_some() {
            return one("table, query", "expected none beside tables or schema");
        }
        if !matches!(mode, Mode::Full) {
            return one("mode", "several tables are read with mode full");
        }
        let cancel = CancellationToken::new();
        let _cancel_on_drop = cancel.clone().drop_guard();
        let (to, with) = (dsn.clone(), how.clone());
        let held =
            tokio::task::spawn_blocking(move || (server.hold)(&to, &with, &which, &cancel)).await;
        let held = held.map_err(|e| Fault::internal(chain(&e)))?.map_err(failed)?;
        let mut names = std::collections::BTreeMap::new();
        for table in &held.tables {
            if let Some(other) = names.insert(table.dataset(&ask.dataset), table) {
                let both = format!(
                    "`{}` and `{}` would both be dataset {}",
                    other.table,
                    table.table,
                    table.dataset(&ask.dataset)
                );
                return one("tables", &format!("{both}: read one of them by itself"));
            }
        }
        let how = ReadOptions { snapshot: held.snapshot.clone(), ..how };
        let (mut made, mut left_out): (Vec<IngestedDataset>, Vec<Quarantine>) =
            (Vec::new(), Vec::new());
        let mut sum = IngestSummary {
            dataset: ask.dataset.clone(),
            mode: Some("full".into()),
            ..IngestSummary::default()
        };
        let started = std::time::Instant::now();
        for table in &held.tables {
            let (dsn, how, what) =
                (dsn.clone(), how.clone(), TableSource::Table(table.table.clone()));
            let read = move |place: &Place, progress: &_, cancel: &_| {
                Ok(as_read(
                    (server.read)(&dsn, &what, &how, place, progress, cancel).map_err(failed)?,
                    "full",
                ))
            };
            let (dataset, bucket) = (table.dataset(&ask.dataset), ask.bucket.clone());
            let job = Job { dataset, bucket, pii: ask.pii.unwrap_or(true), ..Job::default() };
            let done = match self.runs.carry_out(Some(call), job, read).await {
                Ok(done) => done,
                // Of a schema, a table that may not be read, or cannot be, says nothing of the
                // others.
                Err(fault) if is_schema && fault.name == ingest::error::BadSource::NAME => {
                    tracing::warn!(table = table.table, "left out: {}", fault.message());
                    let reason = fault.message().to_owned();
                    left_out.push(Quarantine { source: table.table.clone(), row: None, reason });
                    continue;
                }
                Err(fault) => {
                    let before =
                        made.iter().map(|m| m.dataset.as_str()).collect::<Vec<_>>().join(", ");
                    let before = if before.is_empty() { "no table".to_owned() } else { before };
                    let words = format!(
                        "table {}: {}; committed before it: {before}",
                        table.table,
                        fault.message()
                    );
                    return Err(Fault::new(fault.name.clone(), fault.retryable(), words)
                        .with("source", table.table.clone()));
                }
            };
            (sum.rows, sum.bytes) = (sum.rows + done.rows, sum.bytes + done.bytes);
            let (dataset, generation) = (done.dataset, done.generation.unwrap_or_default());
            made.push(IngestedDataset { dataset, generation, rows: done.rows, bytes: done.bytes });
        }
        if made.is_empty()
            && let Some(first) = left_out.first()
        {
            let words = format!(
                "none of {} tables could be read; first {}: {}",
                left_out.len(),
                first.source,
                first.reason
            );
            return Err(Fault::of(
                &ingest::error::BadSource { source: first.source.clone() },
                false,
                words,
            ));
        }
        let elapsed = started.elapsed();
        let tables =
            if made.len() == 1 { "1 table".to_owned() } else { format!("{} tables", made.len()) };
        let note = match held.snapshot {
            Some(_) => format!("{tables} in one snapshot"),
            None => format!(
                "{tables}, each in a snapshot of its own: this server cannot hold one for several connections"
            ),
        };
        let mut notes = vec![note];
        notes.extend(
            left_out.iter().map(|of| format!("table {} was left out: {}", of.source, of.reason)),
        );
        let quarantined = Some(left_out.len() as u64).filter(|count| *count > 0);
        Ok(IngestSummary {
            rows_per_s: rate(sum.rows, elapsed),
            seconds: elapsed.as_secs_f64(),
            notes,
            quarantined,
            quarantine: quarantined.map(|_| left_out),
            datasets: Some(made),
            ..sum
        })
    }

    /// Rows above the last run's cursor, put onto the dataset as it is.
    async fn incremental(
        &self,
        call: &Call,
        job: Job,
        read: Reader,
        (dsn, what, how): (Dsn, TableSource, ReadOptions),
        (cursor, key, lag): (String, Vec<String>, u64),
    ) -> Result<IngestSummary, Fault> {
        let before = self.runs.dataset(&job.dataset).await?;
        let onto = Predecessor {
            generation: before.as_ref().map_or(0, |d| d.generation),
            run_id: before.as_ref().and_then(|d| d.run_id.clone()),
            stays: before.as_ref().is_some_and(|d| d.watermark.is_some()),
            pii: before.as_ref().and_then(|d| d.pii.clone()),
        };
        let job = Job { onto: Some(onto), ..job };
        let read = move |place: &Place,
                         progress: &watch::Sender<Progress>,
                         cancel: &CancellationToken| {
            let mark = before.as_ref().and_then(|d| d.watermark.as_ref());
            if let Some(mark) = mark.filter(|mark| mark.column != cursor) {
                let why = format!(
                    "`{cursor}`; the dataset was read by `{}`: go on with that, or read it whole with mode full",
                    mark.column
                );
                return Err(Fault::invalid_parameter("cursor", why));
            }
            let window = Window {
                column: cursor.clone(),
                since: mark.map(|m| m.bound.clone()),
                lag,
                rows: None,
                ties: mark.and_then(|m| m.ties),
                strays: mark.and_then(|m| m.strays),
                strays_sum: mark.and_then(|m| m.strays_sum.clone()),
                keyed: !key.is_empty(),
            };
            let how = ReadOptions { window: Some(window), ..how };
            let mut done = read(&dsn, &what, &how, place, progress, cancel).map_err(failed)?;
            if let Some(mark) = mark.filter(|mark| mark.source != done.input) {
                return Err(failed(
                    AskError::OtherTable { was: mark.source.clone(), now: done.input }.into(),
                ));
            }
            let rows: u64 = done.objects.iter().map(|o| o.rows).sum();
            match (&before, mark) {
                (Some(before), Some(mark)) => {
                    progress.send_modify(|p| p.phase = "merge");
                    let merged = merge::merge(
                        &before.objects,
                        std::mem::take(&mut done.objects),
                        &key,
                        place,
                        cancel,
                    )
                    .map_err(failed)?;
                    done.objects = merged.objects;
                    for (was, column) in before.columns.iter().zip(&mut done.columns) {
                        column.nulls_made += was.nulls_made;
                    }
                    let read = match lag {
                        0 => format!("{rows} rows above `{cursor}` = {}", mark.bound),
                        // None of them need be above: they are read again in case of late commits.
                        lag => format!(
                            "{rows} rows above `{cursor}` = {} less the lag of {lag}",
                            mark.bound
                        ),
                    };
                    done.notes.push(if merged.unchanged {
                        format!("{read}: nothing new, all of them are as they were")
                    } else {
                        format!(
                            "{read}: {} new, {} in the place of old ones; rows deleted at the source stay",
                            rows - merged.replaced.min(rows),
                            merged.replaced
                        )
                    });
                }
                _ => done.notes.push("read whole: the first run by this cursor".to_owned()),
            }
            let Reach { bound, ties, strays, strays_sum } = std::mem::take(&mut done.reach);
            let bound = bound.or_else(|| mark.map(|m| m.bound.clone()));
            let (column, source) = (cursor.clone(), done.input.clone());
            let watermark =
                bound.map(|bound| Watermark { column, bound, source, ties, strays, strays_sum });
            Ok(ReadOutcome { watermark, ..as_read(done, "incremental") })
        };
        self.runs.carry_out(Some(call), job, read).await
    }

    /// In parts, going on where a run that died stopped.
    async fn keyset(&self, call: &Call, job: Job, keyset: Keyset) -> Result<IngestSummary, Fault> {
        let Some(state) = &self.state else {
            return Err(Fault::invalid_parameter("mode", "the mock keeps no state: expected full"));
        };
        let book = Book::of(state, &job.dataset);
        let asked = format!("{:?} by {}", keyset.what, keyset.key);
        let (unfinished, note) = match book.unfinished(&asked) {
            Ok(unfinished) => (unfinished, None),
            Err(error) => (None, Some(chain(&error))),
        };
        note.iter().for_each(|note| tracing::warn!(dataset = job.dataset, "{note}"));
        let at = unfinished
            .unwrap_or_else(|| Checkpoint::begin(ulid::Ulid::generate().to_string(), asked));
        let job = Job { resumes: Some(at.run_id.clone()), ..job };
        let keyset = Keyset { book: book.clone(), ..keyset };
        let read =
            move |place: &Place, progress: &watch::Sender<Progress>, cancel: &CancellationToken| {
                let mut done = keyset.run(at, place, progress, cancel).map_err(failed)?;
                done.notes.extend(note);
                Ok(as_read(done, "keyset"))
            };
        let done = self.runs.carry_out(Some(call), job, read).await?;
        book.forget();
        Ok(done)
    }
}

fn as_read(done: TableRead, mode: &str) -> ReadOutcome {
    ReadOutcome {
        objects: done.objects,
        columns: done.columns,
        inputs: vec![done.input],
        notes: done.notes,
        parallel: Some(done.parallel as u64),
        mode: Some(mode.to_owned()),
        ..ReadOutcome::default()
    }
}

/// How much of a table is read.
enum Mode {
    Full,
    Incremental { cursor: String, key: Vec<String>, lag: u64 },
    Keyset { key: String, rows: u64 },
}

impl Mode {
    fn of(ask: &TableIn) -> Result<Self, Fault> {
        let key = ask.key.clone().unwrap_or_default();
        let only = |name: &'static str, there: bool, mode: &str| match there {
            true => Err(Fault::invalid_parameter(name, format!("is of another mode than {mode}"))),
            false => Ok(()),
        };
        let mode = ask.mode.as_deref().unwrap_or("full");
        match mode {
            "full" => {
                only("cursor", ask.cursor.is_some(), mode)?;
                only("lag", ask.lag.is_some(), mode)?;
                only("chunk_rows", ask.chunk_rows.is_some(), mode)?;
                Ok(Self::Full)
            }
            "incremental" => {
                only("chunk_rows", ask.chunk_rows.is_some(), mode)?;
                let Some(cursor) = ask.cursor.clone() else {
                    return Err(Fault::invalid_parameter(
                        "cursor",
                        "expected a column whose values only grow, such as updated_at",
                    ));
                };
                let lag = ask.lag.unwrap_or(0);
                if lag > 0 && key.is_empty() {
                    return Err(Fault::invalid_parameter(
                        "key",
                        "with a lag, rows are read again: expected the columns by which they are known",
                    ));
                }
                Ok(Self::Incremental { cursor, key, lag })
            }
            "keyset" => {
                only("cursor", ask.cursor.is_some(), mode)?;
                only("lag", ask.lag.is_some(), mode)?;
                let rows =
                    bounded("chunk_rows", ask.chunk_rows, CHUNK_ROWS_MAX, keyset::CHUNK_ROWS)?;
                match <[String; 1]>::try_from(key) {
                    Ok([key]) => Ok(Self::Keyset { key, rows }),
                    Err(_) => Err(Fault::invalid_parameter(
                        "key",
                        "expected one column, unique and never NULL, such as the primary key",
                    )),
                }
            }
            other => Err(Fault::invalid_parameter(
                "mode",
                format!("`{other}`, expected full, incremental or keyset"),
            )),
        }
    }
}

/// A table's connection and how it is to be read, checked.
fn connection(call: &Call, ask: &TableIn, schemes: &[&str]) -> Result<(Dsn, ReadOptions), Fault> {
    // Our own user's secrets and its standing with local servers are not another user's.
    call.allow_paths()?;
    let dsn =
        Dsn::new(&ask.dsn, schemes).map_err(|e| Fault::invalid_parameter("dsn", chain(&e)))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let seconds =
        |what, value, default| bounded(what, value, SECONDS_MAX, default).map(Duration::from_secs);
    let how = ReadOptions {
        parallel: usize::try_from(bounded(
            "parallel",
            ask.parallel,
            PARALLEL_MAX,
            cores.min(PARALLEL_MAX),
        )?)
        .unwrap_or(1),
        deadline: seconds("deadline_s", ask.deadline_s, DEADLINE_S)?,
        stall: seconds("stall_s", ask.stall_s, STALL_S)?,
        snapshot: None,
        window: None,
    };
    Ok((dsn, how))
}

fn failed(error: ReadError) -> Fault {
    let words = format!("{}; nothing was published", chain(&error));
    let source = String::new();
    match &error {
        ReadError::Cancelled => cancelled(),
        ReadError::Bad(_) | ReadError::Malformed(_) => {
            Fault::of(&ingest::error::BadSource { source }, false, words)
        }
        ReadError::Server(_) => Fault::of(&ingest::error::SourceFailed { source }, true, words),
        ReadError::Io(_) => Fault::of(&ingest::error::SourceFailed { source }, false, words),
    }
}
