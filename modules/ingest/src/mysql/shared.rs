//! One snapshot for several connections, and ranges of a table for each.
//!
//! A server has no word for "the same snapshot as that connection". While nobody can write to the
//! table, all snapshots of it are one: a connection of its own locks the table against writers, the
//! readers begin, and the lock goes, after some milliseconds. It is asked for only where it can be
//! had at once (MariaDB's `NOWAIT`): a lock that is waited for stops every writer that comes after
//! it. Where it cannot be had, one connection reads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio_util::sync::CancellationToken;

use super::{Server, TableFacts, begin, quoted, settle};
use crate::table::{ReadError, ReadOptions, patiently};

/// Less of a table is read by one connection: another one costs as much.
const BYTES_MIN: u64 = 16 << 20;
/// Where others write, the lock is free between two of their transactions only. It is asked for
/// this often, at this distance.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(3);
/// What the server says where it cannot be had at once.
const LOCK_TAKEN: u16 = 1205;
/// Ranges for each connection, so that one which draws the fuller ones does not work alone at the
/// end.
const RANGES_PER_READER: i128 = 4;

/// A table whose rows can be divided by a whole number that all of them have.
#[derive(Debug)]
pub(super) struct Divisible {
    /// As SQL names it.
    table: String,
    /// First column of the primary key.
    column: String,
    /// By the server's own reckoning.
    bytes: u64,
}

/// Says whether a table can be divided.
pub(super) async fn divisible(
    server: &Server,
    conn: &mut Conn,
    found: &TableFacts,
    full: &str,
) -> Result<Option<Divisible>, ReadError> {
    let said = |e: Error| server.said("asking for its key", &e);
    let version: Option<String> = conn.query_first("SELECT version()").await.map_err(said)?;
    if !version.is_some_and(|version| version.contains("MariaDB")) {
        return Ok(None);
    }
    let facts = "SELECT c.column_name, t.data_length FROM information_schema.tables t \
        JOIN information_schema.statistics s ON s.table_schema = t.table_schema AND s.table_name = t.table_name \
        JOIN information_schema.columns c ON c.table_schema = t.table_schema AND c.table_name = t.table_name AND c.column_name = s.column_name \
        WHERE t.table_schema = ? AND t.table_name = ? AND s.index_name = 'PRIMARY' AND s.seq_in_index = 1 \
        AND c.data_type IN ('tinyint', 'smallint', 'mediumint', 'int', 'bigint')";
    let facts: Option<(String, u64)> =
        conn.exec_first(facts, (&found.schema, &found.name)).await.map_err(said)?;
    let divided = facts.filter(|(_, bytes)| *bytes >= 2 * BYTES_MIN);
    Ok(divided.map(|(column, bytes)| Divisible {
        table: full.to_owned(),
        column: quoted(&column),
        bytes,
    }))
}

/// How a table is read.
pub(super) enum Division {
    /// By all readers, in these ranges.
    Ranges(Vec<String>),
    /// By one, for there could be no others.
    Undivided(ReadError),
}

/// What the readers are made of.
pub(super) struct SharedSnapshot<'a> {
    pub(super) server: &'a Server,
    pub(super) how: &'a ReadOptions,
    pub(super) cancel: &'a CancellationToken,
    pub(super) ids: &'a Arc<Mutex<Vec<u32>>>,
}

impl SharedSnapshot<'_> {
    async fn another(&mut self) -> Result<Conn, ReadError> {
        let mut conn =
            patiently(&self.server.address(), self.how.stall, self.cancel, self.server.connect())
                .await??;
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(conn.id());
        settle(self.server, &mut conn, self.how).await?;
        Ok(conn)
    }

    /// Gives the first reader company that sees what it sees, if it can.
    ///
    /// # Errors
    /// If the first reader cannot go on, or the caller has gone.
    pub(super) async fn join(
        &mut self,
        readers: &mut Vec<Conn>,
        table: &Divisible,
    ) -> Result<Division, ReadError> {
        let wanted = self.how.parallel.min(usize::try_from(table.bytes / BYTES_MIN).unwrap_or(1));
        let outcome = self.joined(readers, table, wanted).await;
        if self.cancel.is_cancelled() {
            return Err(ReadError::Cancelled);
        }
        let first = readers.first_mut().ok_or(ReadError::Cancelled)?;
        match outcome {
            Ok(()) => {
                let bounds = format!(
                    "SELECT CAST(MIN({0}) AS CHAR), CAST(MAX({0}) AS CHAR) FROM {1}",
                    table.column, table.table
                );
                let bounds: Option<(Option<String>, Option<String>)> = first
                    .query_first(bounds)
                    .await
                    .map_err(|e| self.server.said("asking how far its key goes", &e))?;
                let number = |text: Option<String>| {
                    text.and_then(|text| text.parse::<i128>().ok()).unwrap_or(0)
                };
                let (least, most) =
                    bounds.map_or((0, 0), |(least, most)| (number(least), number(most)));
                Ok(Division::Ranges(ranges(
                    &table.column,
                    least,
                    most,
                    wanted as i128 * RANGES_PER_READER,
                )))
            }
            Err(why) => {
                readers.truncate(1);
                let first = readers.first_mut().ok_or(ReadError::Cancelled)?;
                begin(first).await.map_err(|e| self.server.said("beginning a snapshot", &e))?;
                Ok(Division::Undivided(why))
            }
        }
    }

    async fn joined(
        &mut self,
        readers: &mut Vec<Conn>,
        table: &Divisible,
        wanted: usize,
    ) -> Result<(), ReadError> {
        let (server, stall, cancel) = (self.server, self.how.stall, self.cancel);
        for _ in readers.len()..wanted {
            let conn = self.another().await?;
            readers.push(conn);
        }
        let mut locker = self.another().await?;
        let said = |doing: &'static str| move |e: Error| server.said(doing, &e);
        let lock = format!("LOCK TABLES {} READ NOWAIT", table.table);
        let mut tries = 0..LOCK_TRIES;
        while let Err(error) =
            patiently(&server.address(), stall, cancel, locker.query_drop(&lock)).await?
        {
            let taken = matches!(&error, Error::Server(server) if server.code == LOCK_TAKEN);
            if !taken || tries.next().is_none() {
                return Err(said("a lock of some milliseconds cannot be had")(error));
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        for conn in readers {
            let beginning = async {
                begin(conn).await?;
                // From here on the table cannot be altered either.
                conn.query_drop(format!("SELECT 1 FROM {} LIMIT 0", table.table)).await
            };
            patiently(&server.address(), stall, cancel, beginning)
                .await?
                .map_err(said("beginning a snapshot"))?;
        }
        locker.query_drop("UNLOCK TABLES").await.map_err(said("unlocking the table"))?;
        let _ = locker.disconnect().await;
        Ok(())
    }
}

/// Conditions that divide all values, open at both ends, into `count` ranges or fewer.
fn ranges(column: &str, least: i128, most: i128, count: i128) -> Vec<String> {
    let step = ((most - least) / count.max(1)).max(1);
    let bounds: Vec<i128> =
        (1..count).map(|i| least + i * step).take_while(|bound| *bound <= most).collect();
    let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else {
        return vec![String::new()];
    };
    let between =
        bounds.windows(2).map(|pair| format!("{column} >= {} AND {column} < {}", pair[0], pair[1]));
    let mut all = vec![format!("{column} < {first}")];
    all.extend(between);
    all.push(format!("{column} >= {last}"));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a value is in a range, as SQL reads it.
    fn holds(range: &str, value: i128) -> bool {
        range.is_empty()
            || range.split(" AND ").all(|part| {
                let (below, bound) = (
                    part.contains(" < "),
                    part.rsplit(' ').next().and_then(|n| n.parse::<i128>().ok()).expect("a bound"),
                );
                if below { value < bound } else { value >= bound }
            })
    }

    proptest! {
        #[test]
        fn every_value_is_in_one_range(
            least in -1_000_000_i64..1_000_000,
            span in 0_i64..5_000_000,
            count in 1_i128..40,
            value in any::<i64>(),
        ) {
            let all = ranges("`id`", least.into(), (least + span).into(), count);
            prop_assert!(all.len() as i128 <= count.max(1));
            for value in [
                i128::from(value),
                i128::from(least),
                i128::from(least + span),
                i128::from(least + span / 2),
            ] {
                prop_assert_eq!(all.iter().filter(|range| holds(range, value)).count(), 1);
            }
        }

        #[test]
        fn the_widest_keys_have_ranges(count in 1_i128..40) {
            let all = ranges("`id`", i128::from(i64::MIN), i128::from(u64::MAX), count);
            prop_assert_eq!(all.len() as i128, count);
        }
    }
}
