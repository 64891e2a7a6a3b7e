//! MySQL and MariaDB: one consistent snapshot, streamed by the binary protocol, which carries
//! numbers and dates as they are. Reading and writing have a thread each. A large table of MariaDB
//! is read by several connections, if they can be given one snapshot ([`shared`]); everything else
//! by one.
//!
//! [`plan`] cuts a table into pieces and holds the snapshot of all who read them.

pub mod decode;
mod plan;
mod shared;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use brahman_card::interface::catalog::{Column, Object};
use brahman_sidecar::chain;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dsn::{Dsn, DsnError, Tls};
use crate::run::Progress;
use crate::sink::{Place, Sink};
use crate::table::{
    self, AskError, HeldTables, ReadError, ReadOptions, ServerError, TableName, TableRead,
    TableSet, TableSource, connected, patiently,
};
use decode::{Rows, arrow_type};
use plan::{Plan, coordinate};

/// Batches read and not yet written: enough that neither thread waits for a moment's delay of the
/// other.
const BATCHES_AHEAD: usize = 4;
/// How long readers that were ended may take to notice: as long as a batch takes to be written to a
/// slow disk.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting to a server that is to stop may take: whoever waits for that has an error to
/// tell.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A way to the server.
struct Server {
    opts: Opts,
    dsn: Dsn,
}

impl Server {
    fn new(dsn: &Dsn) -> Result<Self, ReadError> {
        // The parser's message may quote the text.
        let bad = "not a MySQL URL: expected mysql://user:password@host:port/database, or mysql://user@localhost/database?socket=/path, \
                   each part percent-encoded";
        let url = dsn.url().replacen("mariadb://", "mysql://", 1);
        let opts = Opts::from_url(&url).map_err(|_| ReadError::bad(DsnError::Bad(bad)))?;
        let mut builder = OptsBuilder::from_opts(opts).prefer_socket(false);
        if let Some(password) = dsn.password() {
            builder = builder.pass(Some(password));
        }
        Ok(Self { opts: builder.into(), dsn: dsn.clone() })
    }

    fn address(&self) -> String {
        match self.opts.socket() {
            Some(path) => format!("mysql://{path}"),
            None => format!("mysql://{}:{}", self.opts.ip_or_hostname(), self.opts.tcp_port()),
        }
    }

    fn said(&self, doing: &'static str, error: &Error) -> ReadError {
        let words = match error {
            Error::Server(server) => format!("{} ({})", server.message, server.code),
            other => chain(other),
        };
        let said =
            ServerError::Said { address: self.address(), doing, words: self.dsn.redact(&words) };
        match error {
            // Access denied, no such database, table, column or function, bad syntax, not allowed
            // here.
            Error::Server(server)
                if matches!(
                    server.code,
                    1044..=1046 | 1049 | 1054 | 1064 | 1142 | 1143 | 1146 | 1305 | 1698 | 1792
                ) =>
            {
                ReadError::bad(said)
            }
            _ => said.into(),
        }
    }

    async fn connect(&self) -> Result<Conn, ReadError> {
        let with = |ssl: Option<SslOpts>| {
            Conn::new(OptsBuilder::from_opts(self.opts.clone()).ssl_opts(ssl))
        };
        let anyone = || {
            SslOpts::default()
                .with_danger_accept_invalid_certs(true)
                .with_danger_skip_domain_validation(true)
        };
        let outcome = match &self.dsn.tls {
            _ if self.opts.socket().is_some() => with(None).await,
            Tls::Disable => with(None).await,
            Tls::Prefer => match with(Some(anyone())).await {
                Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) => with(None).await,
                other => other,
            },
            Tls::Require => with(Some(anyone())).await,
            Tls::Verify(None) => with(Some(SslOpts::default())).await,
            Tls::Verify(Some(file)) => {
                let roots = vec![file.clone().into()];
                with(Some(
                    SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true),
                ))
                .await
            }
        };
        outcome.map_err(|e| self.said("connecting", &e))
    }
}

impl Server {
    /// A connection, after some tries if it must be.
    async fn connected(
        &self,
        how: &ReadOptions,
        cancel: &CancellationToken,
    ) -> Result<Conn, ReadError> {
        connected(cancel, async || {
            patiently(&self.address(), how.stall, cancel, self.connect()).await?
        })
        .await
    }
}

/// A name as SQL writes it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Writes batches on a thread of its own. Dropped before its end, it writes no further, and its
/// thread is waited for.
struct Writer {
    batches: Option<SyncSender<(RecordBatch, u64)>>,
    thread: Option<JoinHandle<std::io::Result<Object>>>,
    /// Set before `batches` goes where that is no end of the table.
    given_up: Arc<AtomicBool>,
}

impl Writer {
    fn start(
        place: &Place,
        part: usize,
        schema: SchemaRef,
        progress: watch::Sender<Progress>,
    ) -> std::io::Result<Self> {
        let (batches, incoming) = sync_channel::<(RecordBatch, u64)>(BATCHES_AHEAD);
        let mut sink = Sink::create(place, part, schema)?;
        let given_up = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&given_up);
        let write = move || {
            for (batch, bytes) in incoming {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                sink.write(&batch)?;
                let rows = batch.num_rows() as u64;
                progress.send_modify(|p| (p.rows, p.bytes) = (p.rows + rows, p.bytes + bytes));
            }
            match ended.load(Ordering::Relaxed) {
                true => Err(std::io::ErrorKind::Interrupted.into()),
                false => sink.finish(),
            }
        };
        let thread = std::thread::Builder::new().name("ingest-write".into()).spawn(write)?;
        Ok(Self { batches: Some(batches), thread: Some(thread), given_up })
    }

    /// Hands rows over; false if the writer has ended, of which [`Self::finish`] tells.
    fn send(&self, batch: (RecordBatch, u64)) -> bool {
        self.batches.as_ref().is_some_and(|batches| batches.send(batch).is_ok())
    }

    fn finish(mut self) -> std::io::Result<Object> {
        self.batches = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(Result::ok).unwrap_or_else(|| {
            Err(std::io::Error::other("the writer stopped without a result; the log has more"))
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // Nobody asks what became of it.
            let _ = thread.join();
        }
    }
}

/// Reads into Parquet objects, one a connection. Blocks; runs threads of its own.
///
/// # Errors
/// [`ReadError`]; nothing is then published.
pub fn read(
    dsn: &Dsn,
    what: &TableSource,
    how: &ReadOptions,
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<TableRead, ReadError> {
    let server = Arc::new(Server::new(dsn)?);
    let several = how.parallel > 1 && how.window.is_none() && matches!(what, TableSource::Table(_));
    let runtime = match several {
        true => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(how.parallel)
            .enable_all()
            .build()?,
        false => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let ids = Arc::new(Mutex::new(Vec::new()));
    let outcome = runtime.block_on(async {
        let outcome = tokio::select! {
            done = coordinate(&server, what, how, place, progress, cancel, &ids) => done,
            () = tokio::time::sleep(how.deadline) => {
                let (address, seconds) = (server.address(), how.deadline.as_secs());
                Err(ServerError::Deadline { address, seconds }.into())
            }
        };
        let ids = ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if outcome.is_err() && !ids.is_empty() {
            // The rest of the results would have to be read before these connections could say
            // anything.
            let stopping = async {
                let mut other = server.connect().await?;
                for id in ids {
                    let _ = other.query_drop(format!("KILL {id}")).await;
                }
                let _ = other.disconnect().await;
                Ok::<_, ReadError>(())
            };
            let _ = tokio::time::timeout(STOP_TIMEOUT, stopping).await;
        }
        outcome
    });
    // Readers that were left in the middle end with their writers, which write into the run's
    // folder.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

/// Finds tables. A snapshot is one connection's here: none can be held for several. Blocks.
///
/// # Errors
/// If the server cannot be reached, or a database has no tables.
pub fn hold(
    dsn: &Dsn,
    how: &ReadOptions,
    which: &TableSet,
    cancel: &CancellationToken,
) -> Result<HeldTables, ReadError> {
    let schema = match which {
        TableSet::Tables(tables) => {
            return Ok(HeldTables {
                tables: tables.iter().map(|table| TableName::of(table)).collect(),
                snapshot: None,
                end: None,
            });
        }
        TableSet::Schema(schema) => schema,
    };
    let server = Server::new(dsn)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names: Vec<String> = runtime.block_on(async {
        let mut conn = server.connected(how, cancel).await?;
        let list = "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 1";
        let names = conn.exec(list, (schema,)).await.map_err(|e| server.said("listing the database's tables", &e))?;
        let _ = conn.disconnect().await;
        Ok::<_, ReadError>(names)
    })?;
    if names.is_empty() {
        return Err(AskError::NoTables {
            address: server.address(),
            kind: "database",
            name: schema.clone(),
        }
        .into());
    }
    let tables = names
        .into_iter()
        .map(|name| TableName { table: format!("{schema}.{name}"), name })
        .collect();
    Ok(HeldTables { tables, snapshot: None, end: None })
}

/// Makes a connection's times and patience those of this read.
async fn settle(server: &Server, conn: &mut Conn, how: &ReadOptions) -> Result<(), ReadError> {
    for set in [
        "SET time_zone = '+00:00'".to_owned(),
        // CHAR columns as they are everywhere else; commas that are left between two words mean
        // nothing.
        "SET SESSION sql_mode = (SELECT REPLACE(@@SESSION.sql_mode, 'PAD_CHAR_TO_FULL_LENGTH', ''))".to_owned(),
        format!("SET net_write_timeout = {}", how.deadline.as_secs()),
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ".to_owned(),
    ] {
        conn.query_drop(set).await.map_err(|e| server.said("beginning", &e))?;
    }
    Ok(())
}

async fn begin(conn: &mut Conn) -> Result<(), Error> {
    conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await
}

/// What the readers' work comes to.
fn done(plan: &Plan, mut outcomes: Vec<Outcome>, parallel: usize) -> TableRead {
    outcomes.retain(|outcome| outcome.object.is_some());
    outcomes.sort_by_key(|outcome| outcome.part);
    let mut columns: Vec<Column> = Vec::new();
    for outcome in &mut outcomes {
        match columns.is_empty() {
            true => columns = std::mem::take(&mut outcome.columns),
            false => columns
                .iter_mut()
                .zip(&outcome.columns)
                .for_each(|(sum, column)| sum.nulls_made += column.nulls_made),
        }
    }
    let objects = outcomes.into_iter().filter_map(|outcome| outcome.object).collect();
    TableRead {
        objects,
        columns,
        notes: plan.notes.clone(),
        input: plan.input.clone(),
        parallel,
        reach: plan.reach.clone(),
    }
}

/// One connection's part of a read.
struct Reader {
    server: Arc<Server>,
    plan: Arc<Plan>,
    /// The next range that nobody reads yet.
    next: Arc<AtomicUsize>,
    place: Place,
    part: usize,
    stall: Duration,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

/// What one connection read.
struct Outcome {
    part: usize,
    /// None if the others had taken all ranges.
    object: Option<Object>,
    columns: Vec<Column>,
}

/// Where a reader's rows go.
struct Target {
    rows: Rows,
    sources: Vec<String>,
    schema: SchemaRef,
    writer: Writer,
}

impl Reader {
    /// Reads ranges for as long as there are any.
    async fn run(self, mut conn: Conn) -> Result<Outcome, ReadError> {
        let mut target = None;
        while let Some(range) = self.plan.ranges.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.read(&mut conn, range, &mut target).await?;
        }
        let address = self.server.address();
        let ending = patiently(&address, self.stall, &self.cancel, conn.query_drop("COMMIT"));
        ending.await?.map_err(|e| self.server.said("ending the snapshot", &e))?;
        let Some(Target { rows, sources, schema, writer }) = target else {
            return Ok(Outcome { part: self.part, object: None, columns: Vec::new() });
        };
        let object = writer.finish()?;
        let columns = table::columns(&schema, &sources, &rows.nulls_made);
        Ok(Outcome { part: self.part, object: Some(object), columns })
    }

    /// Opens what rows of these columns go to.
    fn target(&self, columns: &[mysql_async::Column]) -> Result<Target, ReadError> {
        let (mut fields, mut sources, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for column in columns {
            let name = column.name_str().into_owned();
            if !seen.insert(name.clone()) {
                return Err(AskError::TwoColumns { column: name }.into());
            }
            let known = self.plan.source_types.get(&name).cloned();
            let source = known.unwrap_or_else(|| {
                format!("{:?}", column.column_type())
                    .trim_start_matches("MYSQL_TYPE_")
                    .to_lowercase()
            });
            let metadata = HashMap::from([("source_type".to_owned(), source.clone())]);
            fields.push(Field::new(name, arrow_type(column), true).with_metadata(metadata));
            sources.push(source);
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let writer =
            Writer::start(&self.place, self.part, Arc::clone(&schema), self.progress.clone())?;
        Ok(Target { rows: Rows::new(Arc::clone(&schema)), sources, schema, writer })
    }

    async fn read(
        &self,
        conn: &mut Conn,
        range: &str,
        target: &mut Option<Target>,
    ) -> Result<(), ReadError> {
        let address = self.server.address();
        let said = |doing: &'static str| move |e: Error| self.server.said(doing, &e);
        let select = match range {
            "" => self.plan.select.clone(),
            range => format!("{} WHERE {range}", self.plan.select),
        };
        let beginning = patiently(&address, self.stall, &self.cancel, conn.exec_iter(select, ()));
        let mut result = beginning.await?.map_err(said("beginning to read"))?;
        let columns =
            result.columns().ok_or_else(|| AskError::NoRows { address: address.clone() })?;
        let Target { rows, writer, .. } = match target {
            Some(target) => target,
            None => target.insert(self.target(&columns)?),
        };
        let mut ended = false;
        while !ended {
            // What has come is taken without a timer; only for what has not is there a wait.
            let mut next = pin!(result.next());
            let row = match std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                Poll::Ready(row) => row,
                Poll::Pending => patiently(&address, self.stall, &self.cancel, next).await?,
            };
            match row.map_err(said("reading"))? {
                Some(row) => rows.take(&row),
                None => ended = true,
            }
            if ended || rows.is_full() {
                if self.cancel.is_cancelled() {
                    return Err(ReadError::Cancelled);
                }
                if let Some(batch) = rows.batch().map_err(ReadError::malformed)?
                    && !writer.send(batch)
                {
                    let Some(target) = target.take() else { return Ok(()) };
                    // It ended before it was told to: that is an error, and which.
                    let early = || std::io::Error::other("the writer stopped early");
                    return Err(ReadError::Io(target.writer.finish().err().unwrap_or_else(early)));
                }
            }
        }
        Ok(())
    }
}

struct TableFacts {
    schema: String,
    name: String,
    /// Absent for a view.
    engine: Option<String>,
}

/// Looks a table up by `table` or `database.table`, with or without backticks.
async fn table_of(
    server: &Server,
    conn: &mut Conn,
    database: Option<&str>,
    table: &str,
) -> Result<TableFacts, ReadError> {
    let said = |e: Error| server.said("looking for the table", &e);
    let plain = |part: &str| {
        part.strip_prefix('`')
            .and_then(|p| p.strip_suffix('`'))
            .map_or_else(|| part.to_owned(), |p| p.replace("``", "`"))
    };
    let mut candidates: Vec<(String, String)> =
        database.map(|db| (db.to_owned(), plain(table))).into_iter().collect();
    candidates.extend(table.split_once('.').map(|(db, name)| (plain(db), plain(name))));
    for (schema, name) in candidates {
        let facts = "SELECT table_schema, table_name, engine FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
        let found: Option<(String, String, Option<String>)> =
            conn.exec_first(facts, (&schema, &name)).await.map_err(said)?;
        if let Some((schema, name, engine)) = found {
            return Ok(TableFacts { schema, name, engine });
        }
    }
    let like = "SELECT concat(table_schema, '.', table_name) FROM information_schema.tables \
                WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1 LIMIT 20";
    let there: Vec<String> = conn.query(like).await.map_err(said)?;
    let there = if there.is_empty() { "no tables".to_owned() } else { there.join(", ") };
    Err(AskError::NoTable { address: server.address(), table: table.to_owned(), there }.into())
}
