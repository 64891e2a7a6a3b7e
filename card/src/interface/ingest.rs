//! `org.brahman.Ingest`: files into Parquet, committed to the catalog.

use std::collections::BTreeMap;

use brahman_card_derive::wire;

use super::catalog::{Column, Object, PiiReport};

interface! {
    /// Reads sources into Parquet and commits them to the catalog as one dataset generation.
    ///
    /// Columns are looked at for personal data unless `pii` is false. `bucket` is where the dataset
    /// is to lie; where it lies already, or `primary`, unless said.
    "org.brahman.Ingest"
    methods {
        /// Reads text, Markdown, HTML (its text, as Markdown) and source files (one row per file),
        /// CSV or JSONL (one row per record; gzip and zstd are undone), or Parquet; folders are
        /// walked, and what their .gitignore names is passed over. Called with `more` it reports
        /// progress first. Relative paths are refused; wildcards (`*`, `**`, `?`, `{a,b}`) stand
        /// for what they match.
        Files(FilesIn) -> IngestOut: whole_dataset;
        /// Reads the same and writes nothing: what is guessed of each file, which types the columns
        /// get and why, what would be left out, and the first rows.
        Explain(FilesIn) -> ExplainOut: idempotent, whole_dataset, reads;
        /// Reads a table or a query in one snapshot. Several workers read ranges of pages where the
        /// server can; `notes` says why not. With `more` it reports progress first. `tables`, or
        /// all tables of a `schema`, become datasets `<dataset>.<table>`, of PostgreSQL in one
        /// snapshot of them all; `datasets` in the last reply names them.
        ///
        /// `mode` is full; incremental: rows whose `cursor` is above that of the last run, taking
        /// the place of rows with the same `key`, and `lag` seconds or units before it read again;
        /// or keyset: in parts of `chunk_rows` in the order of one `key`, not one snapshot, and
        /// going on where a run that died stopped.
        Postgres(TableIn) -> IngestOut: whole_dataset;
        /// The same from MySQL or MariaDB: one consistent snapshot, streamed by one worker; by
        /// several, a large table of MariaDB whose primary key begins with a whole number, if
        /// nobody writes to it for some milliseconds in which they all begin.
        Mysql(TableIn) -> IngestOut: whole_dataset;
        /// Watches folders from now on, restarts included; what is there is ingested first. A
        /// change is ingested once nothing has moved for `debounce_ms`, and every `reconcile_s`
        /// there is a look without a reason.
        Watch(WatchIn) -> WatchOut: idempotent;
        Unwatch(UnwatchIn) -> UnwatchOut: idempotent;
        Watches() -> WatchesOut: idempotent, reads;
        /// Recent runs.
        Runs() -> RunsOut: idempotent, reads;
        /// Stops a run; nothing of it is published.
        Cancel(CancelIn) -> CancelOut;
    }
    errors {
        /// No rows could be read; nothing was published.
        NothingToRead {}
        BadSource { source: String }
        /// The server, or the way to it, or the disk, failed in the middle; nothing was published.
        SourceFailed { source: String }
        Cancelled {}
    }
}

#[wire]
pub struct FilesIn {
    pub dataset: String,
    /// Absolute, of files and folders, or with wildcards.
    pub paths: Vec<String>,
    /// `documents`, `csv`, `jsonl` or `parquet`; by the files' endings unless said.
    pub format: Option<String>,
    /// How CSV is written; what is not said is guessed, and `notes` says what was.
    pub csv: Option<CsvFormat>,
    pub pii: Option<bool>,
    pub bucket: Option<String>,
    /// What a .gitignore names, and hidden files, are read as well; false unless said.
    pub no_ignore: Option<bool>,
    /// Whether columns of several tables meet by name, with NULL where a file has none of them. If
    /// it is false the files must have the same columns, in whatever order; unless said, they must
    /// have one in common.
    pub union_by_name: Option<bool>,
}

/// What `Files` would make of its files.
#[wire]
pub struct ExplainOut {
    /// `documents`, `csv`, `jsonl` or `parquet`.
    pub format: String,
    /// Files that would be read.
    pub files: u64,
    /// How the first of them are written, if they are CSV.
    pub dialects: Vec<CsvDialect>,
    pub columns: Vec<Column>,
    /// Of all files.
    pub rows: u64,
    /// The first ten rows as text; null is NULL, and long values are cut.
    pub sample: Vec<Vec<Option<String>>>,
    /// Files and rows that would be left out.
    pub quarantined: u64,
    /// The first hundred of them.
    pub quarantine: Vec<Quarantine>,
    /// Why each column has its type, and what else was chosen.
    pub notes: Vec<String>,
}

/// How one CSV file is written, as it was guessed or said.
#[wire(Eq)]
pub struct CsvDialect {
    /// Path of the file.
    pub source: String,
    pub encoding: String,
    pub delimiter: String,
    /// Absent if nothing stands around fields.
    pub quote: Option<String>,
    /// Absent if a quote within a field is doubled.
    pub escape: Option<String>,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Words that are NULL.
    pub nulls: Vec<String>,
    /// What was guessed against the custom.
    pub guesses: Vec<String>,
}

/// How CSV files are written.
#[wire(request, Eq)]
pub struct CsvFormat {
    /// What stands between fields: one character, or `tab`.
    pub delimiter: Option<String>,
    /// What stands around them; `none` if nothing does.
    pub quote: Option<String>,
    /// What stands before a quote within a field, such as a backslash; `none` if it is doubled.
    pub escape: Option<String>,
    /// Whether the first record names the columns.
    pub header: Option<bool>,
    /// Lines left out before that.
    pub skip: Option<u64>,
    /// Words for a missing value; unless said, `NA`, `N/A`, `#N/A`, `NULL` and `\N` among values of
    /// another type than text.
    pub nulls: Option<Vec<String>>,
    /// `utf-8`, `utf-16le`, `utf-16be` or `windows-1252`.
    pub encoding: Option<String>,
    /// `guess`, or `text` for every column.
    pub types: Option<String>,
    /// Types of columns by their names, whatever `types` says: `text`, `int64`, `uint64`,
    /// `float64`, `decimal(10,2)`, `boolean`, `date`, `time`, `timestamp`, `timestamptz` or
    /// `timestamp_ns`. A row with a value that is none is left out and named.
    pub column_types: Option<BTreeMap<String, String>>,
    /// What stands before a number's fraction: `point` unless said, or `comma`.
    pub decimal: Option<String>,
    /// `iso` unless said; `day-first` for `31/12/2024`, `month-first` for `12/31/2024`.
    pub dates: Option<String>,
    /// Of a record with fewer fields than the header the others are NULL; unless said it is left
    /// out and named.
    pub null_padding: Option<bool>,
}

/// Parameters of `Postgres` and `Mysql`.
#[wire(secret)]
pub struct TableIn {
    pub dataset: String,
    /// URL, with an sslmode as libpq knows it, or `secret:NAME`.
    pub dsn: String,
    /// A table, as SQL would name it.
    pub table: Option<String>,
    /// Or a SELECT, instead of a table.
    pub query: Option<String>,
    /// Or several tables, each a dataset `<dataset>.<table>`.
    pub tables: Option<Vec<String>>,
    /// Or all tables of a schema; of MySQL, of a database.
    pub schema: Option<String>,
    /// `full`, unless said otherwise.
    pub mode: Option<String>,
    /// A column whose values only grow; of `incremental`.
    pub cursor: Option<String>,
    /// Columns by which a row is known; of `keyset`, one.
    pub key: Option<Vec<String>>,
    /// So much below the last cursor is read again: seconds or units; of `incremental`, with a key.
    pub lag: Option<u64>,
    /// Rows a part of `keyset`; 500,000 unless said.
    pub chunk_rows: Option<u64>,
    /// Workers at most; one a core unless said.
    pub parallel: Option<u64>,
    /// Seconds for which the snapshot may be held; 3,600 unless said.
    pub deadline_s: Option<u64>,
    /// Seconds for which the server may send nothing; 300 unless said.
    pub stall_s: Option<u64>,
    pub pii: Option<bool>,
    pub bucket: Option<String>,
}

impl std::fmt::Debug for TableIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The DSN may hold a password.
        f.debug_struct("TableIn")
            .field("dataset", &self.dataset)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// A column that is not as in the generation before.
#[wire(Eq)]
pub struct Drift {
    pub column: String,
    /// Arrow type before; absent if it is new.
    pub was: Option<String>,
    /// Arrow type now; absent if it is gone.
    pub now: Option<String>,
}

/// A file or a row that was left out, and why.
#[wire(Eq)]
pub struct Quarantine {
    /// Path of the file, or of the one with the row.
    pub source: String,
    /// Row number from 1, for a table.
    pub row: Option<u64>,
    pub reason: String,
}

/// What a rule has kept from being read.
#[wire(Eq)]
pub struct HiddenFiles {
    /// A file of rules with its pattern (`/notes/.gitignore: *.log`), or what names are passed
    /// over.
    pub rule: String,
    /// Files and folders that it hides; a folder counts as one.
    pub count: u64,
    /// Path of the first.
    pub first: String,
}

/// Replies of `Files`, `Postgres` and `Mysql`.
#[wire(phase)]
pub enum IngestOut {
    /// The last.
    Done(IngestSummary),
    /// `scan`, `read`, `merge` or `commit`.
    Progress(IngestProgress),
}

/// How far a run is.
#[wire]
pub struct IngestProgress {
    /// `scan`, `read`, `merge`, `commit`, or another word; `done` in the last reply.
    pub phase: String,
    /// So far, as `bytes`.
    pub rows: u64,
    /// Of the source.
    pub bytes: u64,
    pub rows_per_s: f64,
}

/// What a run committed. What only one dataset has is absent if several were made.
#[wire]
pub struct IngestSummary {
    /// So far, as `bytes`.
    pub rows: u64,
    /// Of the source.
    pub bytes: u64,
    pub rows_per_s: f64,
    /// ULID; of the last reply alone, as all that follow.
    pub run_id: Option<String>,
    pub dataset: String,
    pub generation: Option<u64>,
    pub objects: Option<Vec<Object>>,
    pub columns: Option<Vec<Column>>,
    /// Files and rows left out.
    pub quarantined: Option<u64>,
    /// The first hundred of them.
    pub quarantine: Option<Vec<Quarantine>>,
    /// Files and folders that rules have hidden; absent if there are none.
    pub hidden: Option<u64>,
    /// By which rules, those first that hide most.
    pub hidden_by: Option<Vec<HiddenFiles>>,
    /// Absent if it was not looked for.
    pub pii: Option<PiiReport>,
    /// Of several tables, what each became.
    pub datasets: Option<Vec<IngestedDataset>>,
    /// How a table was read.
    pub mode: Option<String>,
    /// By how many workers.
    pub parallel: Option<u64>,
    /// What a person should know: why one worker read what several could have; what was guessed of
    /// a file, and which columns have a type that nobody expects, with a count and an example.
    pub notes: Vec<String>,
    pub drift: Option<Vec<Drift>>,
    /// From call to committed.
    pub seconds: f64,
}

/// One of several datasets that one call made.
#[wire(Eq)]
pub struct IngestedDataset {
    pub dataset: String,
    pub generation: u64,
    pub rows: u64,
    /// Bytes read of the source.
    pub bytes: u64,
}

/// A run as it stands, or as it ended.
#[wire]
pub struct Run {
    /// ULID by which it is cancelled.
    pub run_id: String,
    pub dataset: String,
    /// `running`, `done`, `failed` or `cancelled`. One that was cut off by the module's own end has
    /// failed, and `error` says so: of how far it was nothing is known.
    pub state: String,
    /// How many were read so far.
    pub rows: u64,
    /// Of the source, so far.
    pub bytes: u64,
    /// Unix time of its beginning in milliseconds.
    pub started_ms: u64,
    pub seconds: f64,
    pub error: Option<String>,
}

#[wire]
pub struct RunsOut {
    /// Those that are kept, the newest first.
    pub runs: Vec<Run>,
}

#[wire]
pub struct WatchIn {
    pub dataset: String,
    /// Absolute paths, of folders only.
    pub paths: Vec<String>,
    /// `documents`, `csv`, `jsonl` or `parquet`; unless said, as of `Files` by what lies there,
    /// decided once there is something. Then it stays, and files of another kind are left out and
    /// named.
    pub format: Option<String>,
    /// How CSV is written; what is not said is guessed.
    pub csv: Option<CsvFormat>,
    pub pii: Option<bool>,
    /// A change has come to rest when nothing has moved for this long; 2,000 unless said.
    pub debounce_ms: Option<u64>,
    /// Between looks without a reason; 300 unless said.
    pub reconcile_s: Option<u64>,
    pub bucket: Option<String>,
    /// What a .gitignore names, and hidden files, are read as well; false unless said.
    pub no_ignore: Option<bool>,
    /// As of `Files`.
    pub union_by_name: Option<bool>,
}

/// A folder that is ingested again whenever it changes.
#[wire]
pub struct WatchStatus {
    pub dataset: String,
    pub paths: Vec<String>,
    /// `starting`, `watching`, `polling` (`reason` says why the kernel does not tell), `waiting` (a
    /// path is not there), or `ingesting`.
    pub state: String,
    pub reason: Option<String>,
    /// What is made of it: `documents` (one row per file), or a table of `csv`, `jsonl` or
    /// `parquet`. Absent until it is decided.
    pub format: Option<String>,
    /// Files at the last look.
    pub files: u64,
    /// Last committed by this watch, before a restart as well; absent before, and where the dataset
    /// was deleted since.
    pub generation: Option<u64>,
    /// Rows of that generation.
    pub rows: Option<u64>,
    pub run_id: Option<String>,
    /// Why the last try failed; what was committed stands.
    pub error: Option<String>,
    /// As of `Files`, of the last ingest since the module started: which types columns keep, and
    /// what a new dataset would have.
    pub notes: Option<Vec<String>>,
    /// Columns that the last ingest has added, removed, or given another type.
    pub drift: Option<Vec<Drift>>,
}

#[wire]
pub struct WatchOut {
    /// How the watch stands as it begins.
    pub watching: WatchStatus,
}

#[wire]
pub struct UnwatchIn {
    pub dataset: String,
}

#[wire]
pub struct UnwatchOut {
    /// False if it was not watched.
    pub stopped: bool,
}

#[wire]
pub struct WatchesOut {
    /// In the order of their datasets.
    pub watches: Vec<WatchStatus>,
}

#[wire]
pub struct CancelIn {
    /// ULID of the run to end.
    pub run_id: String,
}

#[wire]
pub struct CancelOut {
    /// False if no such run is running.
    pub cancelled: bool,
}
