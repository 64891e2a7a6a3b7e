//! PostgreSQL: one exported snapshot, ranges of pages in parallel, binary COPY decoded straight into Arrow.
//!
//! [`shape`] maps types, [`decode`] reads COPY, this file plans and runs.
//!
//! A coordinator opens a REPEATABLE READ transaction, takes the table's weakest lock (so that it is neither altered nor
//! dropped meanwhile), exports its snapshot and keeps it; workers import it and copy ranges of ctid, the last one
//! open-ended, so every row of the snapshot is read once. What has no pages of its own (views, foreign tables, queries,
//! servers before 14) is read by one plain COPY in the coordinator's own transaction.

pub mod decode;
pub mod shape;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow_schema::{Field, Schema, SchemaRef};
use brahman_card::interface::catalog::Object;
use brahman_sidecar::chain;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use crate::dsn::{Dsn, DsnError, Tls};
use crate::run::Progress;
use crate::sink::{Place, Sink};
use crate::table::{self, AskError, HeldTables, ReadError, ReadOptions, ServerError, TableName, TableRead, TableSet, TableSource};
use crate::tls;
use crate::window::Dialect;
use decode::Rows;
use shape::Shape;

/// Fewer pages are read by one worker: another connection costs as much as reading 16 MB.
const RANGE_PAGES_MIN: u32 = 2048;
/// Ranges for each worker, so that one which draws the denser pages does not work alone at the end.
const RANGES_PER_WORKER: u32 = 4;
/// Servers that scan a range of ctid without reading the whole table.
const TID_RANGE_VERSION: i32 = 140_000;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long asking the server to stop, or to end a snapshot, may take: whoever waits for that has an error to tell.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A way to the server.
#[derive(Clone)]
struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    dsn: Dsn,
}

/// A connection, and the task that drives it.
struct Session {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Server {
    fn new(dsn: &Dsn) -> Result<Self, ReadError> {
        // The parser's message may quote the text.
        let bad = || {
            ReadError::bad(DsnError::Bad(
                "not a PostgreSQL URL: expected postgres://user:password@host:port/database?option=value, each part percent-encoded",
            ))
        };
        let mut config: Config = dsn.url().parse().map_err(|_| bad())?;
        if let Some(password) = dsn.password() {
            config.password(password);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path("/var/run/postgresql");
        }
        config.connect_timeout(CONNECT_TIMEOUT).application_name("brahman-ingest");
        let tls = match &dsn.tls {
            Tls::Disable => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            mode => {
                config.ssl_mode(if *mode == Tls::Prefer { SslMode::Prefer } else { SslMode::Require });
                Some(MakeRustlsConnect::new(tls::client(mode).map_err(ReadError::bad)?))
            }
        };
        Ok(Self { config, tls, dsn: dsn.clone() })
    }

    /// The server's address, without user and password.
    fn address(&self) -> String {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => format!("postgres://{host}:{port}"),
            Some(Host::Unix(path)) => format!("postgres://{}:{port}", path.display()),
            None => format!("postgres://{}:{port}", self.config.get_hostaddrs().first().map_or_else(String::new, ToString::to_string)),
        }
    }

    /// An error of the driver in words that hold no password.
    fn said(&self, doing: &'static str, error: &tokio_postgres::Error) -> ReadError {
        let mut words = match error.as_db_error() {
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => chain(error),
        };
        if let Some(hint) = error.as_db_error().and_then(|db| db.hint()) {
            words.push_str(&format!("; {hint}"));
        }
        let said = ServerError::Said { address: self.address(), doing, words: self.dsn.redact(&words) };
        let bad = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::SYNTAX_ERROR,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        match error.code() {
            Some(code) if bad.contains(code) => ReadError::bad(said),
            _ => said.into(),
        }
    }

    async fn connect(&self) -> Result<Session, ReadError> {
        let failed = |e: tokio_postgres::Error| self.said("connecting", &e);
        let (client, driver) = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await.map_err(failed)?;
                (client, tokio::spawn(connection.map(drop)))
            }
            None => {
                let (client, connection) = self.config.connect(tokio_postgres::NoTls).await.map_err(failed)?;
                (client, tokio::spawn(connection.map(drop)))
            }
        };
        Ok(Session { client, driver })
    }

    /// Waits for the server, but not for ever, and not for a caller who has gone.
    async fn patiently<T>(
        &self,
        client: &Client,
        stall: Duration,
        cancel: &CancellationToken,
        what: impl Future<Output = T>,
    ) -> Result<T, ReadError> {
        let error = match table::patiently(&self.address(), stall, cancel, what).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        self.stop(client).await;
        Err(error)
    }

    /// Asks the server to stop what a session does.
    async fn stop(&self, client: &Client) {
        let token = client.cancel_token();
        let asking = async {
            match &self.tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(tokio_postgres::NoTls).await,
            }
        };
        let _ = tokio::time::timeout(STOP_TIMEOUT, asking).await;
    }

    /// A connection, after some tries if it must be; one that is taken and then not answered is given up like any other silence.
    async fn connected(&self, stall: Duration, cancel: &CancellationToken) -> Result<Session, ReadError> {
        table::connected(cancel, async || table::patiently(&self.address(), stall, cancel, self.connect()).await?).await
    }
}

/// Finds tables, and holds a snapshot that reads of all of them can join. Blocks; a thread of its own keeps it.
///
/// # Errors
/// If the server cannot be reached, or a schema has no tables.
pub fn hold(dsn: &Dsn, how: &ReadOptions, which: &TableSet, cancel: &CancellationToken) -> Result<HeldTables, ReadError> {
    let server = Server::new(dsn)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, found) = std::sync::mpsc::sync_channel(1);
    let (end, ended) = tokio::sync::oneshot::channel();
    let (how, which, cancel) = (how.clone(), which.clone(), cancel.clone());
    let keep = move || {
        runtime.block_on(async {
            let begin = async {
                let session = server.connected(how.stall, &cancel).await?;
                let found = server.patiently(&session.client, how.stall, &cancel, export(&server, &session.client, &how, &which)).await??;
                Ok::<_, ReadError>((session, found))
            };
            match begin.await {
                Ok((session, found)) => {
                    let _ = ready.send(Ok(found));
                    // Until every table has been read, or whoever reads them is gone.
                    tokio::select! {
                        _ = ended => {}
                        () = tokio::time::sleep(how.deadline) => {}
                    }
                    let _ = tokio::time::timeout(STOP_TIMEOUT, session.client.batch_execute("COMMIT")).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    std::thread::Builder::new().name("ingest-hold".into()).spawn(keep)?;
    let (tables, snapshot) = found.recv().map_err(|_| std::io::Error::other("the snapshot's connection stopped without a result"))??;
    Ok(HeldTables { tables, snapshot: Some(snapshot), end: Some(end) })
}

async fn export(server: &Server, client: &Client, how: &ReadOptions, which: &TableSet) -> Result<(Vec<TableName>, String), ReadError> {
    let said = |doing: &'static str| move |e: tokio_postgres::Error| server.said(doing, &e);
    let ms = how.deadline.as_millis();
    let begin = format!("SET idle_in_transaction_session_timeout = {ms}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    client.batch_execute(&begin).await.map_err(said("beginning a snapshot"))?;
    let tables = match which {
        TableSet::Tables(tables) => tables.iter().map(|table| TableName::of(table)).collect(),
        TableSet::Schema(schema) => {
            let list = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition ORDER BY 1";
            let rows = client.query(list, &[schema]).await.map_err(said("listing the schema's tables"))?;
            let names = rows.iter().map(|row| row.get::<_, String>(0));
            names.map(|name| TableName { table: format!("{}.{}", quoted(schema), quoted(&name)), name }).collect::<Vec<_>>()
        }
    };
    if let (TableSet::Schema(schema), true) = (which, tables.is_empty()) {
        return Err(AskError::NoTables { address: server.address(), kind: "schema", name: schema.clone() }.into());
    }
    let row = client.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(said("exporting the snapshot"))?;
    Ok((tables, row.get(0)))
}

/// A name as SQL writes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the coordinator found out.
struct Plan {
    snapshot: String,
    /// Everything between COPY ( and ).
    select: String,
    /// Conditions on ctid; one empty one if there are no pages to divide.
    ranges: Vec<String>,
    schema: SchemaRef,
    shapes: Vec<Shape>,
    source_types: Vec<String>,
    notes: Vec<String>,
    input: String,
    /// The last value of the window, if it has rows.
    bound: Option<String>,
}

/// Reads into Parquet objects. Blocks; runs threads of its own.
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
    let server = Server::new(dsn)?;
    let deadline = Instant::now() + how.deadline;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let reading = coordinate(&server, what, how, place, progress, cancel, deadline);
        tokio::select! {
            done = reading => done,
            () = tokio::time::sleep(how.deadline) => {
                Err(ServerError::Deadline { address: server.address(), seconds: how.deadline.as_secs() }.into())
            }
        }
    })
}

async fn coordinate(
    server: &Server,
    what: &TableSource,
    how: &ReadOptions,
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
    deadline: Instant,
) -> Result<TableRead, ReadError> {
    let session = server.connected(how.stall, cancel).await?;
    let planning = plan(server, &session.client, what, how);
    let plan = Arc::new(server.patiently(&session.client, how.stall, cancel, planning).await??);
    progress.send_modify(|p| p.phase = "read");
    let workers = how.parallel.clamp(1, plan.ranges.len());
    let next = Arc::new(AtomicUsize::new(0));
    let (mut objects, mut nulls_made) = (Vec::new(), vec![0; plan.shapes.len()]);
    let mut add = |(object, made): (Option<Object>, Vec<u64>)| {
        objects.extend(object);
        nulls_made.iter_mut().zip(made).for_each(|(sum, n)| *sum += n);
    };
    let job = |part: usize| Worker {
        server: server.clone(),
        plan: Arc::clone(&plan),
        next: Arc::clone(&next),
        place: place.clone(),
        part,
        stall: how.stall,
        progress: progress.clone(),
        cancel: cancel.child_token(),
    };
    if workers == 1 {
        add(job(0).copy(&session.client).await?);
    } else {
        let (sender, mut finished) = tokio::sync::mpsc::channel(workers);
        // Whatever ends this function ends the workers, and waits for them: they write into the run's folder.
        let mut crew = Crew { stop: cancel.child_token(), threads: Vec::new() };
        for part in 0..workers {
            let (worker, sender, stop) = (job(part), sender.clone(), crew.stop.clone());
            let run = move || {
                let work = AssertUnwindSafe(|| worker.on_own_connection(&stop, deadline));
                let panicked = |_| Err(ReadError::Io(std::io::Error::other("a worker panicked; the log has more")));
                let _ = sender.blocking_send(catch_unwind(work).unwrap_or_else(panicked));
            };
            crew.threads.push(std::thread::Builder::new().name("ingest-copy".into()).spawn(run)?);
        }
        drop(sender);
        for _ in 0..workers {
            match finished.recv().await {
                Some(outcome) => add(outcome?),
                None => return Err(ReadError::Io(std::io::Error::other("a worker stopped without a result"))),
            }
        }
    }
    let ending = server.patiently(&session.client, how.stall, cancel, session.client.batch_execute("COMMIT"));
    ending.await?.map_err(|e| server.said("ending the snapshot", &e))?;
    objects.sort_by(|a: &Object, b| a.key.cmp(&b.key));
    Ok(TableRead {
        objects,
        columns: table::columns(&plan.schema, &plan.source_types, &nulls_made),
        notes: plan.notes.clone(),
        input: plan.input.clone(),
        parallel: workers,
        bound: plan.bound.clone(),
    })
}

async fn plan(server: &Server, client: &Client, what: &TableSource, how: &ReadOptions) -> Result<Plan, ReadError> {
    let said = |doing: &'static str| move |e: tokio_postgres::Error| server.said(doing, &e);
    let ms = how.deadline.as_millis();
    let begin = format!(
        "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}; \
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    );
    client.batch_execute(&begin).await.map_err(said("beginning a snapshot"))?;
    if let Some(held) = &how.snapshot {
        client.batch_execute(&format!("SET TRANSACTION SNAPSHOT '{held}'")).await.map_err(said("joining the snapshot"))?;
    }
    let facts =
        "SELECT current_database(), current_setting('server_version_num')::int, current_setting('block_size')::int8, pg_is_in_recovery()";
    let row = client.query_one(facts, &[]).await.map_err(said("asking who it is"))?;
    let (database, version, page): (String, i32, i64) = (row.get(0), row.get(1), row.get(2));
    let mut notes = Vec::new();
    let (from, input, pages) = match what {
        TableSource::Query(query) => {
            let query = query.trim().trim_end_matches(';');
            notes.push("a query is read by one worker".to_owned());
            (format!("({query}\n) AS brahman_query"), format!("{}/{database}?query", server.address()), None)
        }
        TableSource::Table(table) => {
            let found = table_of(server, client, table).await?;
            let full = format!("{}.{}", quoted(&found.schema), quoted(&found.name));
            let lock = format!("LOCK TABLE {full} IN ACCESS SHARE MODE");
            // Views and foreign tables can be locked only by newer servers; a table must be.
            if found.is_table() {
                client.batch_execute(&lock).await.map_err(said("locking the table against changes of its columns"))?;
            }
            let pages = u32::try_from(found.bytes / page).unwrap_or(u32::MAX);
            let why = match found.kind.as_str() {
                _ if found.foreign_parts => Some("has foreign partitions"),
                "r" | "p" | "m" if version < TID_RANGE_VERSION => Some("is on a server before 14"),
                "r" | "p" | "m" => None,
                "v" => Some("is a view"),
                "f" => Some("is a foreign table"),
                _ => Some("has no pages of its own"),
            };
            notes.extend(why.map(|why| format!("{}.{} {why}: read by one worker", found.schema, found.name)));
            let input = format!("{}/{database}.{}.{}", server.address(), found.schema, found.name);
            (full, input, if why.is_none() { Some(pages) } else { None })
        }
    };
    let asked = client.prepare(&format!("SELECT * FROM {from} LIMIT 0")).await.map_err(said("reading its columns"))?;
    let (mut shapes, mut items, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for column in asked.columns() {
        if !seen.insert(column.name()) {
            return Err(AskError::TwoColumns { column: column.name().to_owned() }.into());
        }
        let name = quoted(column.name());
        match Shape::of(column.type_(), column.type_modifier()) {
            Some(shape) => {
                shapes.push(shape);
                items.push(name);
            }
            None => {
                shapes.push(Shape::Text);
                // As the type prints itself; a cast to text may differ (inet).
                items.push(format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END"));
            }
        }
    }
    if shapes.is_empty() {
        return Err(AskError::NoColumns { input }.into());
    }
    let (oids, modifiers): (Vec<u32>, Vec<i32>) = asked.columns().iter().map(|c| (c.type_().oid(), c.type_modifier())).unzip();
    let named = "SELECT format_type(o, m) FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS t(o, m, i) ORDER BY i";
    let named = client.query(named, &[&oids, &modifiers]).await.map_err(said("naming its types"))?;
    let source_types: Vec<String> = named.iter().map(|row| row.get(0)).collect();
    let fields = asked.columns().iter().zip(&shapes).zip(&source_types).map(|((column, shape), source)| {
        Field::new(column.name(), shape.arrow(), true).with_metadata(HashMap::from([("source_type".to_owned(), source.clone())]))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut ranges = ranges(pages.filter(|_| how.window.as_ref().is_none_or(|w| w.since.is_none() && w.rows.is_none())), how.parallel);
    let mut bound = None;
    if let Some(window) = &how.window {
        let column = asked.columns().iter().position(|c| c.name() == window.column);
        let Some(at) = column else {
            return Err(AskError::NoColumn { input, column: window.column.clone() }.into());
        };
        window.check(Dialect::Postgres, &source_types[at])?;
        let (column, kind) = (quoted(&window.column), &source_types[at]);
        let row = client.query_one(&window.bound_query(Dialect::Postgres, &column, kind, &from), &[]).await;
        bound = row.map_err(said("asking how far to read"))?.get(0);
        let condition = window.condition(Dialect::Postgres, &column, kind, bound.as_deref());
        for range in &mut ranges {
            *range = match range.strip_prefix(" WHERE ") {
                Some(pages) => format!(" WHERE ({condition}) AND {pages}"),
                None => format!(" WHERE {condition}"),
            };
        }
    }
    let snapshot = if let Some(held) = how.snapshot.clone() {
        held
    } else if ranges.len() > 1 {
        let row = client.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(said("exporting the snapshot"))?;
        row.get(0)
    } else {
        String::new()
    };
    Ok(Plan {
        snapshot,
        select: format!("SELECT {} FROM {from}", items.join(", ")),
        ranges,
        schema,
        shapes,
        source_types,
        notes,
        input,
        bound,
    })
}

struct TableFacts {
    schema: String,
    name: String,
    kind: String,
    /// Of the largest part.
    bytes: i64,
    foreign_parts: bool,
}

impl TableFacts {
    fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p")
    }
}

/// Looks a table up by the name that was given, as SQL would, or else exactly.
async fn table_of(server: &Server, client: &Client, table: &str) -> Result<TableFacts, ReadError> {
    let said = |e: tokio_postgres::Error| server.said("looking for the table", &e);
    // A name that SQL cannot read (spaces, capitals) may still be a table's own.
    let exactly = table.split_once('.').map_or_else(|| quoted(table), |(s, t)| format!("{}.{}", quoted(s), quoted(t)));
    let mut oid: Option<u32> = None;
    for name in [table, &exactly] {
        // A savepoint, for a name that is no name ends the transaction.
        client.batch_execute("SAVEPOINT lookup").await.map_err(said)?;
        match client.query_one("SELECT to_regclass($1)::oid", &[&name]).await {
            Ok(row) => oid = oid.or(row.get(0)),
            Err(error) if error.as_db_error().is_some() => {
                client.batch_execute("ROLLBACK TO SAVEPOINT lookup").await.map_err(said)?;
            }
            Err(error) => return Err(said(error)),
        }
        // Released, for a snapshot cannot be exported from inside.
        client.batch_execute("RELEASE SAVEPOINT lookup").await.map_err(said)?;
    }
    let Some(oid) = oid else {
        let like = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT 20";
        let there: Vec<String> = client.query(like, &[]).await.map_err(said)?.iter().map(|row| row.get(0)).collect();
        let there = if there.is_empty() { "no tables".to_owned() } else { there.join(", ") };
        return Err(AskError::NoTable { address: server.address(), table: table.to_owned(), there }.into());
    };
    // Pages of partitions are counted from 0 in each: the largest decides, and the last range is open-ended.
    let facts = "SELECT n.nspname, c.relname, c.relkind::text, \
         coalesce((SELECT max(pg_relation_size(t.relid)) FROM pg_partition_tree(c.oid) t), pg_relation_size(c.oid), 0)::int8, \
         coalesce((SELECT bool_or(p.relkind = 'f') FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid AND p.oid <> c.oid), false) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = client.query_one(facts, &[&oid]).await.map_err(said)?;
    Ok(TableFacts { schema: row.get(0), name: row.get(1), kind: row.get(2), bytes: row.get(3), foreign_parts: row.get(4) })
}

/// Conditions on ctid that together let every row through once.
fn ranges(pages: Option<u32>, parallel: usize) -> Vec<String> {
    let Some(pages) = pages.filter(|pages| *pages >= 2 * RANGE_PAGES_MIN && parallel > 1) else { return vec![String::new()] };
    let wanted = u32::try_from(parallel).unwrap_or(1).saturating_mul(RANGES_PER_WORKER);
    let step = (pages / wanted).max(RANGE_PAGES_MIN);
    let count = pages.div_ceil(step);
    let range = |i: u32| {
        let from = (i > 0).then(|| format!("ctid >= '({},0)'::tid", i * step));
        let to = (i + 1 < count).then(|| format!("ctid < '({},0)'::tid", (i + 1) * step));
        format!(" WHERE {}", [from, to].into_iter().flatten().collect::<Vec<_>>().join(" AND "))
    };
    if count < 2 { vec![String::new()] } else { (0..count).map(range).collect() }
}

/// The workers of one read. Dropped, they are stopped and waited for.
struct Crew {
    stop: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // What it had to say was said by its channel.
            let _ = thread.join();
        }
    }
}

/// One that copies ranges into one object.
struct Worker {
    server: Server,
    plan: Arc<Plan>,
    /// The range that nobody has taken yet.
    next: Arc<AtomicUsize>,
    place: Place,
    part: usize,
    stall: Duration,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

impl Worker {
    fn on_own_connection(&self, stop: &CancellationToken, deadline: Instant) -> Result<(Option<Object>, Vec<u64>), ReadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let copying = async {
                let session = self.server.connected(self.stall, &self.cancel).await?;
                let ms = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
                let begin = format!(
                    "SET statement_timeout = {ms}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
                    self.plan.snapshot
                );
                session.client.batch_execute(&begin).await.map_err(|e| self.server.said("joining the snapshot", &e))?;
                self.copy(&session.client).await
            };
            tokio::select! {
                done = copying => done,
                () = stop.cancelled() => Err(ReadError::Cancelled),
            }
        })
    }

    /// Copies ranges until there are none; gives the object, if there were rows, and the NULLs made by column.
    async fn copy(&self, client: &Client) -> Result<(Option<Object>, Vec<u64>), ReadError> {
        let mut rows = Rows::new(Arc::clone(&self.plan.schema), &self.plan.shapes);
        let mut sink: Option<Sink> = None;
        while let Some(range) = self.plan.ranges.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            rows.begin();
            let copy = format!("COPY ({}{range}) TO STDOUT (FORMAT binary)", self.plan.select);
            let beginning = self.server.patiently(client, self.stall, &self.cancel, client.copy_out(&copy));
            let stream = beginning.await?.map_err(|e| self.server.said("beginning to copy", &e))?;
            let mut stream = pin!(stream);
            loop {
                // What has come is taken without a timer; only for what has not is there a wait.
                let piece = match stream.next().now_or_never() {
                    Some(piece) => piece,
                    None => self.server.patiently(client, self.stall, &self.cancel, stream.next()).await?,
                };
                let Some(piece) = piece else { break };
                rows.take(&piece.map_err(|e| self.server.said("copying", &e))?)?;
                if rows.is_full() {
                    self.write(&mut rows, &mut sink)?;
                    if self.cancel.is_cancelled() {
                        self.server.stop(client).await;
                        return Err(ReadError::Cancelled);
                    }
                }
            }
            if !rows.is_whole() {
                return Err(ServerError::CutOff { address: self.server.address() }.into());
            }
        }
        self.write(&mut rows, &mut sink)?;
        // An empty table is a dataset of no rows: its columns are worth having.
        if sink.is_none() && self.part == 0 {
            sink = Some(self.open()?);
        }
        Ok((sink.map(Sink::finish).transpose()?, rows.nulls_made))
    }

    fn open(&self) -> std::io::Result<Sink> {
        Sink::create(&self.place, self.part, Arc::clone(&self.plan.schema))
    }

    fn write(&self, rows: &mut Rows, sink: &mut Option<Sink>) -> Result<(), ReadError> {
        let Some((batch, bytes)) = rows.batch()? else { return Ok(()) };
        let sink = match sink {
            Some(sink) => sink,
            None => sink.insert(self.open()?),
        };
        sink.write(&batch)?;
        let count = batch.num_rows() as u64;
        self.progress.send_modify(|p| (p.rows, p.bytes) = (p.rows + count, p.bytes + bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_pages_leave_nothing_out_and_overlap_nowhere() {
        assert_eq!(ranges(None, 8), [""]);
        assert_eq!(ranges(Some(100), 8), [""], "a small table is read by one worker");
        assert_eq!(ranges(Some(1 << 20), 1), [""]);
        let all = ranges(Some(100_000), 3);
        let bound = |text: &str, sign: &str| text.split(sign).nth(1).map(|t| t.split([',', '(']).nth(1).expect("a page").to_owned());
        for (one, two) in all.iter().zip(&all[1..]) {
            assert_eq!(bound(one, "ctid < "), bound(two, "ctid >= "), "{one} | {two}");
        }
        assert!(bound(&all[0], ">=").is_none() && bound(all.last().expect("some"), "< ").is_none(), "both ends are open");
        assert_eq!(ranges(Some(u32::MAX), 16).len(), 64 + 1);
    }
}
