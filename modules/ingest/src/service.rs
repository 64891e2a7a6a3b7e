//! `org.brahman.Ingest`: which reader a call wants.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brahman_card::interface::ingest::{
    self, CancelIn, CancelOut, FilesIn, RunsOut, TableIn, UnwatchIn, UnwatchOut, WatchIn, WatchOut, WatchesOut,
};
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Client, Reply, Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dsn::Dsn;
use crate::files::{self, bad_source};
use crate::run::{Place, Progress, Read, Runs, cancelled};
use crate::source::Format;
use crate::table::{Done, How, ReadError, What};
use crate::watches::Watches;
use crate::{mock, mysql, postgres};

/// Most workers of one read.
const PARALLEL_MAX: u64 = 64;
/// How long a snapshot is held unless the caller says otherwise: it keeps the server from cleaning up behind it.
const DEADLINE_S: u64 = 3600;
/// How long the server may send nothing unless the caller says otherwise: a query may sort for minutes before its first row.
const STALL_S: u64 = 300;
/// Longest time for a change to come to rest.
const DEBOUNCE_MS_MAX: u64 = 3_600_000;
/// Longest of both.
const SECONDS_MAX: u64 = 7 * 86_400;

/// The service.
#[derive(Debug)]
pub struct IngestService {
    runs: Arc<Runs>,
    postgres: Reader,
    mysql: Reader,
    watches: Option<Arc<Watches>>,
}

impl IngestService {
    /// A service that commits through this client, under this label, and keeps its watches in this state directory.
    ///
    /// # Errors
    /// If the watches cannot be read.
    pub fn new(client: Client, label: &str, state: &Path) -> io::Result<Self> {
        let runs = Arc::new(Runs::new(client, label));
        let watches = Some(Watches::open(Arc::clone(&runs), state)?);
        Ok(Self { runs, postgres: postgres::read, mysql: mysql::read, watches })
    }

    /// One whose tables are synthetic, and which watches nothing.
    #[must_use]
    pub fn synthetic(client: Client, label: &str) -> Self {
        Self { runs: Arc::new(Runs::new(client, label)), postgres: mock::read, mysql: mock::read, watches: None }
    }

    /// Ends, in the lineage, what this module had begun when it last died.
    pub async fn bury(&self) {
        self.runs.bury().await;
    }

    fn watches(&self) -> Result<&Arc<Watches>, Fault> {
        let none = || Fault::invalid_parameter("context", "the mock watches nothing: expected a context in which ingest is real");
        self.watches.as_ref().ok_or_else(none)
    }

    fn watch(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: WatchIn = call.parameters()?;
        call.allow_paths()?;
        if ask.paths.is_empty() {
            return Err(Fault::invalid_parameter("paths", "expected at least one folder"));
        }
        bounded("debounce_ms", ask.debounce_ms, DEBOUNCE_MS_MAX, 1)?;
        bounded("reconcile_s", ask.reconcile_s, SECONDS_MAX, 1)?;
        Reply::of(&WatchOut { watching: self.watches()?.watch(ask)? })
    }

    async fn files(&self, call: &Call) -> Result<Reply, Fault> {
        let FilesIn { dataset, paths, format, pii } = call.parameters()?;
        call.allow_paths()?;
        if paths.is_empty() {
            return Err(Fault::invalid_parameter("paths", "expected at least one file or folder"));
        }
        let format = Format::of(format.as_deref(), &paths).map_err(bad_source)?;
        let read = move |place: &Place, progress: &_, cancel: &_| files::read(&paths, format, place, progress, cancel);
        Reply::of(&self.runs.carry_out(Some(call), &dataset, pii.unwrap_or(true), read).await?)
    }

    async fn table(&self, call: &Call, schemes: &[&str], read: Reader) -> Result<Reply, Fault> {
        let ask: TableIn = call.parameters()?;
        let (dsn, how) = connection(call, &ask, schemes)?;
        let what = match (ask.table, ask.query) {
            (Some(table), None) => What::Table(table),
            (None, Some(query)) => What::Query(query),
            _ => return Err(Fault::invalid_parameter("table, query", "expected exactly one of them")),
        };
        let read = move |place: &Place, progress: &_, cancel: &_| {
            let done = read(&dsn, &what, &how, place, progress, cancel).map_err(failed)?;
            Ok(Read {
                objects: done.objects,
                columns: done.columns,
                inputs: vec![done.input],
                notes: done.notes,
                parallel: Some(done.parallel as u64),
                mode: Some("full".into()),
                ..Read::default()
            })
        };
        Reply::of(&self.runs.carry_out(Some(call), &ask.dataset, ask.pii.unwrap_or(true), read).await?)
    }
}

/// Reads a table of one kind of server.
type Reader = fn(&Dsn, &What, &How, &Place, &watch::Sender<Progress>, &CancellationToken) -> Result<Done, ReadError>;

fn bounded(what: &str, value: Option<u64>, most: u64, default: u64) -> Result<u64, Fault> {
    match value.unwrap_or(default) {
        n if (1..=most).contains(&n) => Ok(n),
        n => Err(Fault::invalid_parameter(what, format!("{n}, expected 1 to {most}"))),
    }
}

/// A table's connection and how it is to be read, checked.
fn connection(call: &Call, ask: &TableIn, schemes: &[&str]) -> Result<(Dsn, How), Fault> {
    // Our own user's secrets and its standing with local servers are not another user's.
    call.allow_paths()?;
    if let Some(mode) = ask.mode.as_deref().filter(|mode| *mode != "full") {
        return Err(Fault::invalid_parameter("mode", format!("`{mode}`, expected full")));
    }
    let dsn = Dsn::new(&ask.dsn, schemes).map_err(|e| Fault::invalid_parameter("dsn", e))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let seconds = |what, value, default| bounded(what, value, SECONDS_MAX, default).map(Duration::from_secs);
    let how = How {
        parallel: usize::try_from(bounded("parallel", ask.parallel, PARALLEL_MAX, cores.min(PARALLEL_MAX))?).unwrap_or(1),
        deadline: seconds("deadline_s", ask.deadline_s, DEADLINE_S)?,
        stall: seconds("stall_s", ask.stall_s, STALL_S)?,
    };
    Ok((dsn, how))
}

fn failed(error: ReadError) -> Fault {
    let source =
        |name: &'static str, retryable: bool| Fault::new(name, retryable, format!("{error}; nothing was published")).with("source", "");
    match &error {
        ReadError::Cancelled => cancelled(),
        ReadError::Bad(_) | ReadError::Malformed(_) => source("org.brahman.Ingest.BadSource", false),
        ReadError::Server(_) => source("org.brahman.Ingest.SourceFailed", true),
        ReadError::Io(_) => source("org.brahman.Ingest.SourceFailed", false),
    }
}

impl Service for IngestService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&ingest::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Files" => self.files(&call).await,
            "Postgres" => self.table(&call, &["postgres", "postgresql"], self.postgres).await,
            "Mysql" => self.table(&call, &["mysql", "mariadb"], self.mysql).await,
            "Watch" => self.watch(&call),
            "Unwatch" => {
                let UnwatchIn { dataset } = call.parameters()?;
                call.allow_paths()?;
                Reply::of(&UnwatchOut { stopped: self.watches()?.unwatch(&dataset)? })
            }
            "Watches" => Reply::of(&WatchesOut { watches: self.watches.as_ref().map(|w| w.list()).unwrap_or_default() }),
            "Runs" => Reply::of(&RunsOut { runs: self.runs.list() }),
            "Cancel" => {
                let CancelIn { run_id } = call.parameters()?;
                Reply::of(&CancelOut { cancelled: self.runs.cancel(&run_id) })
            }
            _ => Err(call.unknown()),
        }
    }
}
