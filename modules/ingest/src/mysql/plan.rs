//! How a table is read: by whom, in which pieces, and under which snapshot.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use brahman_sidecar::chain;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::shared::Division;
use super::{Reader, Server, begin, done, quoted, settle, shared, table_of};
use crate::run::Progress;
use crate::sink::Place;
use crate::table::{AskError, ReadError, ReadOptions, TableRead, TableSource};
use crate::window::{Dialect, Reach, Standing, WindowError};

/// What is read, and by how many.
pub(super) struct Plan {
    /// Everything before a condition.
    pub(super) select: String,
    /// Conditions, by which the rows are divided; one empty one if they are not.
    pub(super) ranges: Vec<String>,
    pub(super) input: String,
    /// As the server writes them, by column.
    pub(super) source_types: HashMap<String, String>,
    pub(super) notes: Vec<String>,
    /// How far the window goes.
    pub(super) reach: Reach,
    /// How the table could be divided.
    divisible: Option<shared::Divisible>,
}

pub(super) async fn plan(
    server: &Server,
    conn: &mut Conn,
    what: &TableSource,
    how: &ReadOptions,
) -> Result<Plan, ReadError> {
    let address = server.address();
    let said = |doing: &'static str| move |e: Error| server.said(doing, &e);
    let database: Option<String> = conn
        .query_first("SELECT database()")
        .await
        .map_err(said("asking for its database"))?
        .flatten();
    let table = match what {
        TableSource::Query(query) => {
            return Ok(Plan {
                select: query.trim().trim_end_matches(';').to_owned(),
                ranges: vec![String::new()],
                input: format!("{address}/{}?query", database.unwrap_or_default()),
                source_types: HashMap::new(),
                notes: Vec::new(),
                reach: Reach::default(),
                divisible: None,
            });
        }
        TableSource::Table(table) => table,
    };
    let found = table_of(server, conn, database.as_deref(), table).await?;
    let types = "SELECT column_name, column_type FROM information_schema.columns WHERE table_schema = ? AND table_name = ?";
    let types: Vec<(String, String)> = conn
        .exec(types, (&found.schema, &found.name))
        .await
        .map_err(said("reading its columns"))?;
    let unsafe_engine =
        found.engine.as_deref().filter(|engine| !engine.eq_ignore_ascii_case("InnoDB"));
    let note = unsafe_engine.map(|engine| {
        format!(
            "{}.{} is stored by {engine}, which has no snapshots: rows written during the read may be among those read",
            found.schema, found.name
        )
    });
    let full = format!("{}.{}", quoted(&found.schema), quoted(&found.name));
    let mut notes: Vec<String> = note.iter().cloned().collect();
    let (mut reach, mut condition) = (Reach::default(), String::new());
    if let Some(window) = &how.window {
        let Some((name, kind)) = types.iter().find(|(name, _)| *name == window.column) else {
            let input = format!("{}.{}", found.schema, found.name);
            return Err(AskError::NoColumn { input, column: window.column.clone() }.into());
        };
        let (dialect, doing) = (Dialect::Mysql, "asking how far to read");
        window.check(dialect, kind)?;
        let column = quoted(name);
        let mut counts = [0_u64; 3];
        for (count, query) in
            counts.iter_mut().zip(window.standing_queries(dialect, &column, kind, &full))
        {
            if let Some(query) = query {
                *count = conn.query_first(query).await.map_err(said(doing))?.unwrap_or(0);
            }
        }
        let [strays, far, ties] = counts;
        let all: Vec<(String, String)> =
            types.iter().map(|(name, kind)| (quoted(name), kind.clone())).collect();
        let mut strays_sum: Option<String> = None;
        if let Some(query) = window
            .sum_query(dialect, (column.as_str(), kind.as_str()), &full, &all)
            .filter(|_| strays > 0)
        {
            let summed: Result<Option<Option<String>>, Error> = conn.query_first(query).await;
            // What cannot be summed up (a type that is no text to this server) is read again, or
            // refused, as what has changed is.
            strays_sum = summed.ok().flatten().flatten();
        }
        let standing = Standing { strays, far, ties, strays_sum };
        let cut = window.cut(&standing)?;
        let last: Option<Option<String>> = conn
            .query_first(window.bound_query(dialect, &column, kind, &full, &cut))
            .await
            .map_err(said(doing))?;
        let bound = last.flatten();
        let ties = match &bound {
            None => window.since.as_ref().map(|_| ties),
            Some(bound) => {
                let equal = window.equals_query(dialect, &column, kind, &full, bound);
                let equal: Option<u64> = conn.query_first(equal).await.map_err(said(doing))?;
                let inexact =
                    || WindowError::Inexact { column: window.column.clone(), bound: bound.clone() };
                Some(equal.filter(|equal| *equal > 0).ok_or_else(inexact)?)
            }
        };
        condition = window.condition(dialect, &column, kind, bound.as_deref(), &cut);
        notes.extend(cut.note);
        reach = Reach { bound, ties, strays: Some(strays), strays_sum: standing.strays_sum };
    }
    let divisible = match found.engine.is_some()
        && note.is_none()
        && how.window.is_none()
        && how.parallel > 1
    {
        true => shared::divisible(server, conn, &found, &full).await?,
        false => None,
    };
    Ok(Plan {
        select: format!("SELECT * FROM {full}"),
        ranges: vec![condition],
        input: format!("{address}/{}.{}", found.schema, found.name),
        source_types: types.into_iter().collect(),
        notes,
        reach,
        divisible,
    })
}

pub(super) async fn coordinate(
    server: &Arc<Server>,
    what: &TableSource,
    how: &ReadOptions,
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
    ids: &Arc<Mutex<Vec<u32>>>,
) -> Result<TableRead, ReadError> {
    let mut conn = server.connected(how, cancel).await?;
    ids.lock().unwrap_or_else(PoisonError::into_inner).push(conn.id());
    settle(server, &mut conn, how).await?;
    begin(&mut conn).await.map_err(|e| server.said("beginning a snapshot", &e))?;
    let mut plan = plan(server, &mut conn, what, how).await?;
    let mut readers = vec![conn];
    if let Some(divisible) = plan.divisible.take() {
        let mut several = shared::SharedSnapshot { server, how, cancel, ids };
        match several.join(&mut readers, &divisible).await? {
            Division::Ranges(ranges) => plan.ranges = ranges,
            Division::Undivided(why) => {
                plan.notes.push(format!("read by one connection: {}", chain(&why)));
            }
        }
    }
    progress.send_modify(|p| p.phase = "read");
    let (parallel, plan, next) = (readers.len(), Arc::new(plan), Arc::new(AtomicUsize::new(0)));
    let mut working = JoinSet::new();
    for (part, conn) in readers.into_iter().enumerate() {
        let reader = Reader {
            server: Arc::clone(server),
            plan: Arc::clone(&plan),
            next: Arc::clone(&next),
            place: place.clone(),
            part,
            stall: how.stall,
            progress: progress.clone(),
            cancel: cancel.clone(),
        };
        if parallel == 1 {
            let outcome = reader.run(conn).await?;
            return Ok(done(&plan, vec![outcome], parallel));
        }
        working.spawn(reader.run(conn));
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = working.join_next().await {
        match outcome.map_err(|e| ReadError::Io(std::io::Error::other(e))).flatten() {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                // The others are ended and waited for.
                working.shutdown().await;
                return Err(error);
            }
        }
    }
    Ok(done(&plan, outcomes, parallel))
}
