//! What is to be read, and in which ranges: found out inside the snapshot that is then read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use tokio_postgres::Client;

use super::server::Server;
use super::shape::Shape;
use crate::table::{AskError, ReadError, ReadOptions, TableSource};
use crate::window::{Dialect, Reach, Standing, Window, WindowError};

/// Fewer pages are read by one worker: another connection costs as much as reading 16 MB.
const RANGE_PAGES_MIN: u32 = 2048;
/// Ranges for each worker, so that one which draws the denser pages does not work alone at the end.
const RANGES_PER_WORKER: u32 = 4;
/// Servers that scan a range of ctid without reading the whole table.
const TID_RANGE_VERSION: i32 = 140_000;

/// What the coordinator found out.
pub(super) struct Plan {
    pub(super) snapshot: String,
    /// Everything between COPY ( and ).
    pub(super) select: String,
    /// Conditions on ctid; one empty one if there are no pages to divide.
    pub(super) ranges: Vec<String>,
    pub(super) schema: SchemaRef,
    pub(super) shapes: Vec<Shape>,
    pub(super) source_types: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) input: String,
    /// How far the window goes.
    pub(super) reach: Reach,
}

/// A name as SQL writes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Begins the transaction, and finds out all that the workers have to know.
pub(super) async fn plan(
    server: &Server,
    client: &Client,
    what: &TableSource,
    how: &ReadOptions,
) -> Result<Plan, ReadError> {
    begin(server, client, how).await?;
    let origin = Origin::find(server, client, what).await?;
    let columns = Columns::ask(server, client, &origin).await?;
    // A part of a table is found by an index on its column, not by scanning pages.
    let is_part = how.window.as_ref().is_some_and(|w| w.since.is_some() || w.rows.is_some());
    let mut ranges = ranges(origin.pages.filter(|_| !is_part), how.parallel);
    let (reach, note) = match &how.window {
        Some(window) => confine(server, client, window, (&origin, &columns), &mut ranges).await?,
        None => (Reach::default(), None),
    };
    let snapshot = if let Some(held) = how.snapshot.clone() {
        held
    } else if ranges.len() > 1 {
        let row = client.query_one("SELECT pg_export_snapshot()", &[]).await;
        row.map_err(|e| server.said("exporting the snapshot", &e))?.get(0)
    } else {
        String::new()
    };
    Ok(Plan {
        snapshot,
        select: format!("SELECT {} FROM {}", columns.items.join(", "), origin.from),
        ranges,
        schema: columns.schema,
        shapes: columns.shapes,
        source_types: columns.source_types,
        notes: origin.notes.into_iter().chain(note).collect(),
        input: origin.input,
        reach,
    })
}

/// One snapshot for all that follows: the one that is held, or a new one.
async fn begin(server: &Server, client: &Client, how: &ReadOptions) -> Result<(), ReadError> {
    let ms = how.deadline.as_millis();
    let begin = format!(
        "SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}; \
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    );
    client.batch_execute(&begin).await.map_err(|e| server.said("beginning a snapshot", &e))?;
    if let Some(held) = &how.snapshot {
        let join = format!("SET TRANSACTION SNAPSHOT '{held}'");
        client.batch_execute(&join).await.map_err(|e| server.said("joining the snapshot", &e))?;
    }
    Ok(())
}

/// Where rows come from.
struct Origin {
    /// As SQL has it behind FROM.
    from: String,
    /// As people and lineage have it.
    input: String,
    /// Pages that can be divided among workers.
    pages: Option<u32>,
    notes: Vec<String>,
}

impl Origin {
    async fn find(server: &Server, client: &Client, what: &TableSource) -> Result<Self, ReadError> {
        let said = |doing: &'static str| move |e: tokio_postgres::Error| server.said(doing, &e);
        let facts = "SELECT current_database(), current_setting('server_version_num')::int, current_setting('block_size')::int8, pg_is_in_recovery()";
        let row = client.query_one(facts, &[]).await.map_err(said("asking who it is"))?;
        let (database, version, page): (String, i32, i64) = (row.get(0), row.get(1), row.get(2));
        match what {
            TableSource::Query(query) => {
                let query = query.trim().trim_end_matches(';');
                Ok(Self {
                    from: format!("({query}\n) AS brahman_query"),
                    input: format!("{}/{database}?query", server.address()),
                    pages: None,
                    notes: vec!["a query is read by one worker".to_owned()],
                })
            }
            TableSource::Table(table) => {
                let found = table_of(server, client, table).await?;
                let from = format!("{}.{}", quoted(&found.schema), quoted(&found.name));
                let lock = format!("LOCK TABLE {from} IN ACCESS SHARE MODE");
                // Views and foreign tables can be locked only by newer servers; a table must be.
                if found.is_table() {
                    client
                        .batch_execute(&lock)
                        .await
                        .map_err(said("locking the table against changes of its columns"))?;
                }
                let pages = u32::try_from(found.bytes / page).unwrap_or(u32::MAX);
                let why = found.why_whole(version);
                let notes = why
                    .map(|why| format!("{}.{} {why}: read by one worker", found.schema, found.name))
                    .into_iter()
                    .collect();
                let input =
                    format!("{}/{database}.{}.{}", server.address(), found.schema, found.name);
                Ok(Self {
                    from,
                    input,
                    pages: if why.is_none() { Some(pages) } else { None },
                    notes,
                })
            }
        }
    }
}

/// What a row is made of.
struct Columns {
    /// As SQL selects each.
    items: Vec<String>,
    shapes: Vec<Shape>,
    /// As the server names each type.
    source_types: Vec<String>,
    schema: SchemaRef,
}

impl Columns {
    async fn ask(server: &Server, client: &Client, origin: &Origin) -> Result<Self, ReadError> {
        let said = |doing: &'static str| move |e: tokio_postgres::Error| server.said(doing, &e);
        let asked = client
            .prepare(&format!("SELECT * FROM {} LIMIT 0", origin.from))
            .await
            .map_err(said("reading its columns"))?;
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
                    items.push(format!(
                        "CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END"
                    ));
                }
            }
        }
        if shapes.is_empty() {
            return Err(AskError::NoColumns { input: origin.input.clone() }.into());
        }
        let (oids, modifiers): (Vec<u32>, Vec<i32>) =
            asked.columns().iter().map(|c| (c.type_().oid(), c.type_modifier())).unzip();
        let named = "SELECT format_type(o, m) FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS t(o, m, i) ORDER BY i";
        let named =
            client.query(named, &[&oids, &modifiers]).await.map_err(said("naming its types"))?;
        let source_types: Vec<String> = named.iter().map(|row| row.get(0)).collect();
        let fields = asked.columns().iter().zip(&shapes).zip(&source_types).map(
            |((column, shape), source)| {
                Field::new(column.name(), shape.arrow(), true)
                    .with_metadata(HashMap::from([("source_type".to_owned(), source.clone())]))
            },
        );
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { items, shapes, source_types, schema })
    }
}

/// Confines all ranges to a window of the table; gives how far it goes, and what a person should
/// know.
async fn confine(
    server: &Server,
    client: &Client,
    window: &Window,
    (origin, columns): (&Origin, &Columns),
    ranges: &mut [String],
) -> Result<(Reach, Option<String>), ReadError> {
    let Some(at) = columns.schema.fields().iter().position(|field| *field.name() == window.column)
    else {
        return Err(AskError::NoColumn {
            input: origin.input.clone(),
            column: window.column.clone(),
        }
        .into());
    };
    let (column, kind) = (quoted(&window.column), &columns.source_types[at]);
    let (dialect, said) =
        (Dialect::Postgres, |e: tokio_postgres::Error| server.said("asking how far to read", &e));
    window.check(dialect, kind)?;
    let mut counts = [0; 3];
    for (count, query) in
        counts.iter_mut().zip(window.standing_queries(dialect, &column, kind, &origin.from))
    {
        if let Some(query) = query {
            *count = counted(&client.query_one(&query, &[]).await.map_err(said)?);
        }
    }
    let [strays, far, ties] = counts;
    let strays_sum: Option<String> = match window
        .sum_query(dialect, (column.as_str(), kind.as_str()), &origin.from, &[])
        .filter(|_| strays > 0)
    {
        Some(query) => client.query_one(&query, &[]).await.map_err(said)?.get(0),
        None => None,
    };
    let standing = Standing { strays, far, ties, strays_sum };
    let cut = window.cut(&standing)?;
    let row = client
        .query_opt(&window.bound_query(dialect, &column, kind, &origin.from, &cut), &[])
        .await
        .map_err(said)?;
    let bound: Option<String> = row.and_then(|row| row.get(0));
    let ties = match &bound {
        None => window.since.as_ref().map(|_| ties),
        Some(bound) => {
            let equal = counted(
                &client
                    .query_one(
                        &window.equals_query(dialect, &column, kind, &origin.from, bound),
                        &[],
                    )
                    .await
                    .map_err(said)?,
            );
            if equal == 0 {
                return Err(WindowError::Inexact {
                    column: window.column.clone(),
                    bound: bound.clone(),
                }
                .into());
            }
            Some(equal)
        }
    };
    let condition = window.condition(dialect, &column, kind, bound.as_deref(), &cut);
    for range in ranges {
        *range = match range.strip_prefix(" WHERE ") {
            Some(pages) => format!(" WHERE ({condition}) AND {pages}"),
            None => format!(" WHERE {condition}"),
        };
    }
    Ok((Reach { bound, ties, strays: Some(strays), strays_sum: standing.strays_sum }, cut.note))
}

/// A count as the server gives it.
fn counted(row: &tokio_postgres::Row) -> u64 {
    u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)
}

/// What the server knows of a table.
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

    /// Why its pages are not divided among workers, if they are not.
    fn why_whole(&self, version: i32) -> Option<&'static str> {
        match self.kind.as_str() {
            _ if self.foreign_parts => Some("has foreign partitions"),
            "r" | "p" | "m" if version < TID_RANGE_VERSION => Some("is on a server before 14"),
            "r" | "p" | "m" => None,
            "v" => Some("is a view"),
            "f" => Some("is a foreign table"),
            _ => Some("has no pages of its own"),
        }
    }
}

/// Looks a table up by the name that was given, as SQL would, or else exactly.
async fn table_of(server: &Server, client: &Client, table: &str) -> Result<TableFacts, ReadError> {
    let said = |e: tokio_postgres::Error| server.said("looking for the table", &e);
    // A name that SQL cannot read (spaces, capitals) may still be a table's own.
    let exactly = table
        .split_once('.')
        .map_or_else(|| quoted(table), |(s, t)| format!("{}.{}", quoted(s), quoted(t)));
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
        let there: Vec<String> =
            client.query(like, &[]).await.map_err(said)?.iter().map(|row| row.get(0)).collect();
        let there = if there.is_empty() { "no tables".to_owned() } else { there.join(", ") };
        return Err(AskError::NoTable {
            address: server.address(),
            table: table.to_owned(),
            there,
        }
        .into());
    };
    // Pages of partitions are counted from 0 in each: the largest decides, and the last range is
    // open-ended.
    let facts = "SELECT n.nspname, c.relname, c.relkind::text, \
         coalesce((SELECT max(pg_relation_size(t.relid)) FROM pg_partition_tree(c.oid) t), pg_relation_size(c.oid), 0)::int8, \
         coalesce((SELECT bool_or(p.relkind = 'f') FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid AND p.oid <> c.oid), false) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = client.query_one(facts, &[&oid]).await.map_err(said)?;
    Ok(TableFacts {
        schema: row.get(0),
        name: row.get(1),
        kind: row.get(2),
        bytes: row.get(3),
        foreign_parts: row.get(4),
    })
}

/// Conditions on ctid that together let every row through once.
fn ranges(pages: Option<u32>, parallel: usize) -> Vec<String> {
    let Some(pages) = pages.filter(|pages| *pages >= 2 * RANGE_PAGES_MIN && parallel > 1) else {
        return vec![String::new()];
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_pages_leave_nothing_out_and_overlap_nowhere() {
        assert_eq!(ranges(None, 8), [""]);
        assert_eq!(ranges(Some(100), 8), [""], "a small table is read by one worker");
        assert_eq!(ranges(Some(1 << 20), 1), [""]);
        let all = ranges(Some(100_000), 3);
        let bound = |text: &str, sign: &str| {
            text.split(sign).nth(1).map(|t| t.split([',', '(']).nth(1).expect("a page").to_owned())
        };
        for (one, two) in all.iter().zip(&all[1..]) {
            assert_eq!(bound(one, "ctid < "), bound(two, "ctid >= "), "{one} | {two}");
        }
        assert!(
            bound(&all[0], ">=").is_none() && bound(all.last().expect("some"), "< ").is_none(),
            "both ends are open"
        );
        assert_eq!(ranges(Some(u32::MAX), 16).len(), 64 + 1);
    }
}
