//! PostgreSQL: one exported snapshot, ranges of pages in parallel, binary COPY decoded straight
//! into Arrow.
//!
//! [`shape`] maps types, [`decode`] reads COPY, `plan` finds out what is to be read, `copy` reads
//! it, `server` is the way there; this file runs.
//!
//! A coordinator opens a REPEATABLE READ transaction, takes the table's weakest lock (so that it is
//! neither altered nor dropped meanwhile), exports its snapshot and keeps it; workers import it and
//! copy ranges of ctid, the last one open-ended, so every row of the snapshot is read once. What
//! has no pages of its own (views, foreign tables, queries, servers before 14) is read by one plain
//! COPY in the coordinator's own transaction.

mod copy;
pub mod decode;
mod plan;
mod server;
pub mod shape;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use brahman_card::interface::catalog::Object;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::dsn::Dsn;
use crate::run::Progress;
use crate::sink::Place;
use crate::table::{
    self, AskError, HeldTables, ReadError, ReadOptions, ServerError, TableName, TableRead,
    TableSet, TableSource,
};
use copy::{CopyOutcome, Crew, Worker};
use plan::{plan, quoted};
use server::{STOP_TIMEOUT, Server};

/// Finds tables, and holds a snapshot that reads of all of them can join. Blocks; a thread of its
/// own keeps it.
///
/// # Errors
/// If the server cannot be reached, or a schema has no tables.
pub fn hold(
    dsn: &Dsn,
    how: &ReadOptions,
    which: &TableSet,
    cancel: &CancellationToken,
) -> Result<HeldTables, ReadError> {
    let server = Server::new(dsn)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, found) = std::sync::mpsc::sync_channel(1);
    let (end, ended) = tokio::sync::oneshot::channel();
    let (how, which, cancel) = (how.clone(), which.clone(), cancel.clone());
    let keep = move || {
        runtime.block_on(async {
            let begin = async {
                let session = server.connected(how.stall, &cancel).await?;
                let found = server
                    .patiently(
                        &session.client,
                        how.stall,
                        &cancel,
                        export(&server, &session.client, &how, &which),
                    )
                    .await??;
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
                    let _ =
                        tokio::time::timeout(STOP_TIMEOUT, session.client.batch_execute("COMMIT"))
                            .await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    std::thread::Builder::new().name("ingest-hold".into()).spawn(keep)?;
    let (tables, snapshot) = found.recv().map_err(|_| {
        std::io::Error::other("the snapshot's connection stopped without a result")
    })??;
    Ok(HeldTables { tables, snapshot: Some(snapshot), end: Some(end) })
}

async fn export(
    server: &Server,
    client: &Client,
    how: &ReadOptions,
    which: &TableSet,
) -> Result<(Vec<TableName>, String), ReadError> {
    let said = |doing: &'static str| move |e: tokio_postgres::Error| server.said(doing, &e);
    let ms = how.deadline.as_millis();
    let begin = format!(
        "SET idle_in_transaction_session_timeout = {ms}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    );
    client.batch_execute(&begin).await.map_err(said("beginning a snapshot"))?;
    let tables = match which {
        TableSet::Tables(tables) => tables.iter().map(|table| TableName::of(table)).collect(),
        TableSet::Schema(schema) => {
            let list = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition ORDER BY 1";
            let rows =
                client.query(list, &[schema]).await.map_err(said("listing the schema's tables"))?;
            let names = rows.iter().map(|row| row.get::<_, String>(0));
            names
                .map(|name| TableName {
                    table: format!("{}.{}", quoted(schema), quoted(&name)),
                    name,
                })
                .collect::<Vec<_>>()
        }
    };
    if let (TableSet::Schema(schema), true) = (which, tables.is_empty()) {
        return Err(AskError::NoTables {
            address: server.address(),
            kind: "schema",
            name: schema.clone(),
        }
        .into());
    }
    let row = client
        .query_one("SELECT pg_export_snapshot()", &[])
        .await
        .map_err(said("exporting the snapshot"))?;
    Ok((tables, row.get(0)))
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
                let (address, seconds) = (server.address(), how.deadline.as_secs());
                Err(ServerError::Deadline { address, seconds }.into())
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
    let mut add = |(object, made): CopyOutcome| {
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
        // Whatever ends this function ends the workers, and waits for them: they write into the
        // run's folder.
        let mut crew = Crew { stop: cancel.child_token(), threads: Vec::new() };
        for part in 0..workers {
            let (worker, sender, stop) = (job(part), sender.clone(), crew.stop.clone());
            let run = move || {
                let work = AssertUnwindSafe(|| worker.on_own_connection(&stop, deadline));
                let panicked = |_| {
                    Err(ReadError::Io(std::io::Error::other("a worker panicked; the log has more")))
                };
                let _ = sender.blocking_send(catch_unwind(work).unwrap_or_else(panicked));
            };
            crew.threads.push(std::thread::Builder::new().name("ingest-copy".into()).spawn(run)?);
        }
        drop(sender);
        for _ in 0..workers {
            match finished.recv().await {
                Some(outcome) => add(outcome?),
                None => {
                    return Err(ReadError::Io(std::io::Error::other(
                        "a worker stopped without a result",
                    )));
                }
            }
        }
    }
    let ending = server.patiently(
        &session.client,
        how.stall,
        cancel,
        session.client.batch_execute("COMMIT"),
    );
    ending.await?.map_err(|e| server.said("ending the snapshot", &e))?;
    objects.sort_by(|a: &Object, b| a.key.cmp(&b.key));
    Ok(TableRead {
        objects,
        columns: table::columns(&plan.schema, &plan.source_types, &nulls_made),
        notes: plan.notes.clone(),
        input: plan.input.clone(),
        parallel: workers,
        reach: plan.reach.clone(),
    })
}
