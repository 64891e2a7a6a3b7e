//! A table read in the order of a key, part by part, so that what dies goes on where it stopped.
//!
//! Each part is a snapshot of its own: rows that change meanwhile may be seen as they were or as
//! they are. Only a key whose values stay makes every row come once; the reply says so. After each
//! part, its objects and its last key are written down.

use std::io;
use std::path::{Path, PathBuf};

use brahman_card::interface::catalog::{Column, Object};
use brahman_storage::checked::{self, CheckedContent, CheckedError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dsn::Dsn;
use crate::run::Progress;
use crate::sink::Place;
use crate::table::{ReadError, ReadOptions, TableRead, TableSource};
use crate::window::{Reach, Window};

/// Rows a part unless said: some seconds' work.
pub const CHUNK_ROWS: u64 = 500_000;

/// Where an unfinished read stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The run that it belongs to.
    pub run_id: String,
    /// Table and key, as asked for.
    pub asked: String,
    /// Where it reads, as the server says; empty before the first part.
    input: String,
    last: Option<String>,
    objects: Vec<Object>,
    columns: Vec<Column>,
}

impl Checkpoint {
    /// Nothing is read yet.
    #[must_use]
    pub fn begin(run_id: String, asked: String) -> Self {
        Self { run_id, asked, ..Self::default() }
    }
}

/// That where an unfinished read stood cannot be used.
#[derive(Debug, Error)]
#[error("where an unfinished read stood could not be used: read from the beginning; {} {}", .path.display(), outcome(.aside))]
pub struct CheckpointError {
    /// The file that says so.
    pub path: PathBuf,
    /// What that is kept as now, or why it is not.
    pub aside: io::Result<PathBuf>,
    /// What is wrong with it.
    #[source]
    pub flaw: CheckpointFlaw,
}

fn outcome(aside: &io::Result<PathBuf>) -> String {
    match aside {
        Ok(aside) => format!("was kept as {}", aside.display()),
        Err(error) => format!("cannot be moved ({error})"),
    }
}

/// What is wrong with a checkpoint.
#[derive(Debug, Error)]
pub enum CheckpointFlaw {
    /// It is not what was written, or a newer version has written it.
    #[error(transparent)]
    File(#[from] CheckedError),
    /// It is no checkpoint.
    #[error(transparent)]
    Damaged(#[from] serde_json::Error),
    /// An object of the read is not there any more.
    #[error("{key} is gone")]
    ObjectGone {
        /// Its key.
        key: String,
    },
}

/// Why a read does not go on from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeysetError {
    /// It is of another table.
    #[error(
        "the unfinished read is of {was}, this one is of {now}: start again with another dataset or mode"
    )]
    OtherTable {
        /// What it is of.
        was: String,
        /// What would be read.
        now: String,
    },
    /// Parts of one dataset have the same columns.
    #[error("the table's columns changed between two parts: start again")]
    ColumnsChanged,
}

impl From<KeysetError> for ReadError {
    fn from(error: KeysetError) -> Self {
        Self::bad(error)
    }
}

/// The checkpoint of a dataset.
#[derive(Clone, Debug, Default)]
pub struct Book(PathBuf);

impl Book {
    /// In a module's state directory.
    #[must_use]
    pub fn of(state: &Path, dataset: &str) -> Self {
        Self(state.join("ingest").join("keyset").join(format!("{dataset}.json")))
    }

    /// What was left of a read of this, if all its objects are still there.
    ///
    /// # Errors
    /// [`CheckpointError`]: what was left was put aside, and reading begins anew.
    pub fn unfinished(&self, asked: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        // One of an earlier version has no checksum.
        let text = match checked::read(&self.0) {
            Ok(Some(CheckedContent { bytes, .. })) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.aside(error.into())),
        };
        let found: Checkpoint =
            serde_json::from_slice(&text).map_err(|error| self.aside(error.into()))?;
        if found.asked != asked {
            return Ok(None);
        }
        let there = |o: &&Object| !std::fs::metadata(o.local()).is_ok_and(|m| m.len() == o.bytes);
        match found.objects.iter().find(there) {
            Some(gone) => Err(self.aside(CheckpointFlaw::ObjectGone { key: gone.key.clone() })),
            None => Ok(Some(found)),
        }
    }

    /// Keeps what cannot be used beside, and says so.
    fn aside(&self, flaw: CheckpointFlaw) -> CheckpointError {
        let aside = self.0.with_extension("json.damaged");
        let aside = std::fs::rename(&self.0, &aside).map(|()| aside);
        CheckpointError { path: self.0.clone(), aside, flaw }
    }

    fn write(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder)?;
        }
        checked::write(&self.0, &serde_json::to_vec(checkpoint)?)
    }

    /// The read is finished: the next one begins anew.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Reads one part: [`crate::postgres::read`] or [`crate::mysql::read`].
pub type Reader = fn(
    &Dsn,
    &TableSource,
    &ReadOptions,
    &Place,
    &watch::Sender<Progress>,
    &CancellationToken,
) -> Result<TableRead, ReadError>;

/// What to read and in what parts.
#[derive(Debug)]
pub struct Keyset {
    /// Reads one part of a table.
    pub read: Reader,
    /// Server that has the table.
    pub dsn: Dsn,
    /// Table that is read in parts.
    pub what: TableSource,
    /// How each part is read.
    pub how: ReadOptions,
    /// The key, one column.
    pub key: String,
    /// How many rows a part has.
    pub rows: u64,
    /// Where it is noted how far it came.
    pub book: Book,
}

impl Keyset {
    /// Goes on from a checkpoint to the table's end.
    ///
    /// # Errors
    /// As the reader's; what was written down stays for the next try.
    pub fn run(
        &self,
        mut at: Checkpoint,
        place: &Place,
        progress: &watch::Sender<Progress>,
        cancel: &CancellationToken,
    ) -> Result<TableRead, ReadError> {
        let mut notes = vec![format!(
            "read in parts by `{}`, not in one snapshot: rows that changed meanwhile may be old or new",
            self.key
        )];
        if let Some(last) = &at.last {
            notes.push(format!(
                "went on after `{}` = {last}, with {} objects that were there already",
                self.key,
                at.objects.len()
            ));
            let rows = at.objects.iter().map(|o| o.rows).sum();
            progress.send_modify(|p| p.rows = rows);
        }
        loop {
            let window = Window {
                column: self.key.clone(),
                since: at.last.clone(),
                lag: 0,
                rows: Some(self.rows),
                ..Window::default()
            };
            let how = ReadOptions { window: Some(window), parallel: 1, ..self.how.clone() };
            let part = Place { first_part: at.objects.len(), ..place.clone() };
            let done = (self.read)(&self.dsn, &self.what, &how, &part, progress, cancel)?;
            if !at.input.is_empty() && at.input != done.input {
                return Err(KeysetError::OtherTable { was: at.input, now: done.input }.into());
            }
            let first = at.columns.is_empty();
            let made = |old: &Column| {
                done.columns.iter().find(|c| c.name == old.name).map_or(0, |c| c.nulls_made)
            };
            if !first
                && !at
                    .columns
                    .iter()
                    .map(|c| (&c.name, &c.arrow_type))
                    .eq(done.columns.iter().map(|c| (&c.name, &c.arrow_type)))
            {
                self.book.forget();
                return Err(KeysetError::ColumnsChanged.into());
            }
            at.columns = match first {
                true => done.columns.clone(),
                false => at
                    .columns
                    .iter()
                    .map(|c| Column { nulls_made: c.nulls_made + made(c), ..c.clone() })
                    .collect(),
            };
            at.input = done.input;
            // A table without rows is one object all the same.
            at.objects.extend(done.objects.into_iter().filter(|o| o.rows > 0 || first));
            let Some(bound) = done.reach.bound else {
                let reach = Reach::default();
                return Ok(TableRead {
                    objects: at.objects,
                    columns: at.columns,
                    notes,
                    input: at.input,
                    parallel: 1,
                    reach,
                });
            };
            at.last = Some(bound);
            self.book.write(&at)?;
        }
    }
}
