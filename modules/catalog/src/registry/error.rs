//! Why the registry of datasets refuses: each reason names the dataset or the object, and what to
//! do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why the registry refuses.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// There is no such dataset.
    #[error("no dataset is called `{0}`")]
    NoSuchDataset(String),
    /// It was deleted, or has another name, since the run began that would publish it.
    #[error(
        "dataset `{0}` was deleted or renamed after this run had begun; nothing was published: a new run makes it anew"
    )]
    DeletedMeanwhile(String),
    /// The name will not do.
    #[error(
        "`{0}` is no name for a dataset: expected 1 to 128 of a-z A-Z 0-9 . _ - not starting with a dot"
    )]
    BadName(String),
    /// The name is one of our own files'.
    #[error("`{0}` is the name of a file of the catalog's own: give the dataset another name")]
    Reserved(String),
    /// A mock made it.
    #[error(
        "dataset `{name}` was made up by the mock `{maker}`: it is no real one; delete it, or ingest it anew"
    )]
    MadeByMock {
        /// Dataset.
        name: String,
        /// Label of the mock.
        maker: String,
    },
    /// What was found is not what there was.
    #[error("dataset `{name}` cannot be put together again: {why}; nothing was published")]
    Incomplete {
        /// Dataset.
        name: String,
        /// What is wrong, and what to do.
        why: String,
        /// Objects that cannot be placed.
        keys: Vec<String>,
        /// Rows found.
        rows: u64,
        /// Rows there were.
        expected_rows: u64,
    },
    /// An object is not what the commit says.
    #[error("object {key}: {why}")]
    BadObject {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// An object cannot be read, or not to its end.
    #[error("nothing was published: object {key} cannot be read to its end")]
    Unreadable {
        /// Its key.
        key: String,
        /// Cause.
        source: io::Error,
    },
    /// There is no such bucket, or datasets cannot lie in it.
    #[error(
        "no bucket for datasets is called `{name}`; there are {there}; `brahman buckets add` makes one"
    )]
    NoSuchBucket {
        /// Name.
        name: String,
        /// Those there are.
        there: String,
    },
    /// The run was given up, or never began.
    #[error("run {0} has not begun, or was given up; nothing was published")]
    GivenUp(String),
    /// Something else was published before.
    #[error(
        "dataset `{name}` is at generation {is}, what was to be published builds on {expected}; nothing was published: run it again"
    )]
    Moved {
        /// Dataset.
        name: String,
        /// Generation now, and its run.
        is: String,
        /// Generation that was expected, and its run.
        expected: String,
    },
    /// There is a dataset where a new one was to be.
    #[error(
        "there is a dataset `{0}` already: choose another name, or delete it first; nothing was changed"
    )]
    Exists(String),
    /// It is known by its name elsewhere.
    #[error(
        "dataset `{name}` feeds {}, which know it by its name: delete them first, or `brahman datasets copy` it; nothing was changed",
        .indexes.join(", ")
    )]
    InUse {
        /// Dataset.
        name: String,
        /// The indexes that it feeds.
        indexes: Vec<String>,
    },
    /// Somebody wants it kept.
    #[error("dataset `{name}` is pinned ({}): `brahman datasets unpin {name}` first; nothing was changed", .pins.join(", "))]
    Pinned {
        /// Dataset.
        name: String,
        /// The names of its pins.
        pins: Vec<String>,
    },
    /// It has as many pins as there may be.
    #[error("dataset `{name}` has {count} pins, and may have no more: take some away")]
    TooManyPins {
        /// Dataset.
        name: String,
        /// How many pins it has.
        count: usize,
    },
    /// A generation is not there any more.
    #[error(
        "dataset `{name}` has no generation {generation} any more: the present and the previous one are kept, and those that are pinned"
    )]
    NoSuchGeneration {
        /// Dataset.
        name: String,
        /// The number that was asked for.
        generation: u64,
    },
    /// A dataset's file does not match its checksum, or is no dataset.
    #[error("the file of dataset `{name}` is damaged ({why}); it was left as it is")]
    Damaged {
        /// Dataset.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The disk refused.
    #[error("{path}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}
