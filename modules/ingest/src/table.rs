//! What is common to tables of any server: what is asked for, how it is read, what comes of it.

use std::error::Error;
use std::time::{Duration, Instant};

use arrow_schema::{FieldRef, Schema};
use brahman_card::interface::catalog::{Column, Object};
use brahman_sidecar::Backoff;
use thiserror::Error;

use crate::window::{Reach, Window, WindowError};

/// What is to be read.
#[derive(Clone, Debug)]
pub enum TableSource {
    /// A table, as it would be written in SQL.
    Table(String),
    /// A SELECT.
    Query(String),
}

/// How it is to be read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// How many workers at most.
    pub parallel: usize,
    /// How long the snapshot may be held: it keeps the server from cleaning up.
    pub deadline: Duration,
    /// How long the server may send nothing.
    pub stall: Duration,
    /// A snapshot that somebody holds.
    pub snapshot: Option<String>,
    /// A part of the table only.
    pub window: Option<Window>,
}

/// Why a read failed. Every message is free of passwords, and so are those of its causes.
#[derive(Debug, Error)]
pub enum ReadError {
    /// What was asked for is not there or not allowed, or the connection's text is wrong.
    #[error(transparent)]
    Bad(Box<dyn Error + Send + Sync>),
    /// The server or the way to it.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The caller ended it.
    #[error("cancelled")]
    Cancelled,
    /// Our own side: writing Parquet.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Bytes that make no sense.
    #[error(transparent)]
    Malformed(Box<dyn Error + Send + Sync>),
}

impl ReadError {
    /// What is wrong with what was asked for.
    #[must_use]
    pub fn bad(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Bad(Box::new(error))
    }

    /// What is wrong with bytes.
    #[must_use]
    pub fn malformed(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Malformed(Box::new(error))
    }
}

/// What is wrong with what was asked for: of this the server knows nothing, or it is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// There is no such table.
    #[error("{address} has no table `{table}`; it has {there}")]
    NoTable {
        /// The server.
        address: String,
        /// As it was asked for.
        table: String,
        /// Some of those that there are, in words.
        there: String,
    },
    /// There is no such schema or database, or it is empty.
    #[error("{address} has no tables in a {kind} `{name}`")]
    NoTables {
        /// The server.
        address: String,
        /// `schema` or `database`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A table without columns.
    #[error("{input} has no columns")]
    NoColumns {
        /// The table.
        input: String,
    },
    /// There is no such column.
    #[error("{input} has no column `{column}`")]
    NoColumn {
        /// The table.
        input: String,
        /// The column.
        column: String,
    },
    /// Two columns of a query have one name.
    #[error("the query has two columns `{column}`: give one another name with AS")]
    TwoColumns {
        /// The name.
        column: String,
    },
    /// What was asked is no question.
    #[error("{address}: the query gives no rows: expected a SELECT")]
    NoRows {
        /// The server.
        address: String,
    },
    /// What a dataset is to go on with is not what it was read from.
    #[error("the dataset was read from {was}, this is {now}: give it another dataset")]
    OtherTable {
        /// What it was read from.
        was: String,
        /// What it would be read from.
        now: String,
    },
}

impl From<AskError> for ReadError {
    fn from(error: AskError) -> Self {
        Self::bad(error)
    }
}

impl From<WindowError> for ReadError {
    fn from(error: WindowError) -> Self {
        Self::bad(error)
    }
}

/// What a server did not do. The driver's own error is not kept, only its words without passwords:
/// it may show what was sent.
#[derive(Debug, Error)]
pub enum ServerError {
    /// It, or the driver, said why.
    #[error("{address}: {doing}: {words}")]
    Said {
        /// The server, without user and password.
        address: String,
        /// What it was to do.
        doing: &'static str,
        /// Its words, with every password covered.
        words: String,
    },
    /// It has not said anything.
    #[error("{address}: the server has sent nothing for {seconds} s")]
    Silent {
        /// The server.
        address: String,
        /// For so long.
        seconds: u64,
    },
    /// The time of a snapshot is up.
    #[error(
        "{address}: the snapshot's deadline of {seconds} s has passed; give it longer, or read less at once"
    )]
    Deadline {
        /// The server.
        address: String,
        /// That time.
        seconds: u64,
    },
    /// It stopped sending.
    #[error("{address}: the copy ended in the middle of a row")]
    CutOff {
        /// The server.
        address: String,
    },
    /// It was asked several times.
    #[error("tried {attempts} times")]
    Tried {
        /// So often.
        attempts: u32,
        /// What became of the last time.
        #[source]
        last: Box<Self>,
    },
}

/// What a read gave.
#[derive(Debug)]
pub struct TableRead {
    /// One object a worker.
    pub objects: Vec<Object>,
    /// Columns of what was read.
    pub columns: Vec<Column>,
    /// What a person should know: fall-backs.
    pub notes: Vec<String>,
    /// What was read, for the lineage: no user, no password.
    pub input: String,
    /// How many workers read it.
    pub parallel: usize,
    /// How far the window went.
    pub reach: Reach,
}

/// Columns as the catalog knows them.
#[must_use]
pub fn columns(schema: &Schema, source_types: &[String], nulls_made: &[u64]) -> Vec<Column> {
    let column = |((field, source_type), nulls_made): ((&FieldRef, &String), &u64)| Column {
        name: field.name().clone(),
        arrow_type: field.data_type().to_string(),
        source_type: source_type.clone(),
        nulls_made: *nulls_made,
    };
    schema.fields().iter().zip(source_types).zip(nulls_made).map(column).collect()
}

/// A table, and the name that its dataset gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// As SQL names it.
    pub table: String,
    /// Its own name, without the schema's.
    pub name: String,
}

impl TableName {
    /// Of a table as it was given.
    #[must_use]
    pub fn of(table: &str) -> Self {
        let name = table.rsplit('.').next().unwrap_or(table).trim_matches(['"', '`']);
        Self { table: table.to_owned(), name: name.to_owned() }
    }

    /// Its dataset's name: what a name must not have becomes `_`.
    #[must_use]
    pub fn dataset(&self, of: &str) -> String {
        let plain =
            |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
        format!("{of}.{}", self.name.chars().map(plain).collect::<String>())
    }
}

/// Several tables, and the snapshot that is held for them until this is dropped.
#[derive(Debug)]
pub struct HeldTables {
    /// In the order of their names, or as they were given.
    pub tables: Vec<TableName>,
    /// If the server can hold one for several connections.
    pub snapshot: Option<String>,
    /// Dropped, it ends the snapshot.
    pub end: Option<tokio::sync::oneshot::Sender<()>>,
}

/// Which tables are to be read together.
#[derive(Clone, Debug)]
pub enum TableSet {
    /// These.
    Tables(Vec<String>),
    /// All of a schema.
    Schema(String),
}

/// For how long a connection is tried, and the pauses between tries; each is twice as long as the
/// one before. A server that is starting, or has no place just now, is there by then or is an
/// outage; one that did not answer in that time is not asked again.
const CONNECT_PATIENCE: Duration = Duration::from_millis(3500);
const CONNECT_PAUSES: Backoff = Backoff::doubling(Duration::from_millis(100), CONNECT_PATIENCE);

/// Connects, and tries again if the server or the way to it failed: nothing has been read yet. What
/// a second try would not mend (a wrong password, no such database) is told at once.
///
/// # Errors
/// As the last try gives them.
pub async fn connected<T>(
    cancel: &tokio_util::sync::CancellationToken,
    mut connect: impl AsyncFnMut() -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let (mut pauses, until) = (CONNECT_PAUSES, Instant::now() + CONNECT_PATIENCE);
    for attempts in 1_u32.. {
        // A server may take a connection and then say nothing.
        let outcome = tokio::select! {
            outcome = connect() => outcome,
            () = cancel.cancelled() => break,
        };
        match outcome {
            Err(ReadError::Server(last)) if Instant::now() + pauses.peek() > until => {
                return Err(ServerError::Tried { attempts, last: Box::new(last) }.into());
            }
            Err(ReadError::Server(_)) => {}
            outcome => return outcome,
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            () = pauses.wait() => {}
        }
    }
    Err(ReadError::Cancelled)
}

/// Waits for a server, but not for ever.
///
/// # Errors
/// If it says nothing for `stall`, or the caller has gone.
pub async fn patiently<T>(
    address: &str,
    stall: Duration,
    cancel: &tokio_util::sync::CancellationToken,
    what: impl Future<Output = T>,
) -> Result<T, ReadError> {
    tokio::select! {
        done = what => Ok(done),
        () = cancel.cancelled() => Err(ReadError::Cancelled),
        () = tokio::time::sleep(stall) => {
            let (address, seconds) = (address.to_owned(), stall.as_secs());
            Err(ServerError::Silent { address, seconds }.into())
        }
    }
}
