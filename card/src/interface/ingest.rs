//! `org.brahman.Ingest`: files into Parquet, committed to the catalog.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;
use super::catalog::{Column, Object, PiiReport};

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Ingest",
    idempotent: &["Runs", "Watch", "Unwatch", "Watches"],
    idl: "# Reads sources into Parquet and commits them to the catalog as one dataset generation.
interface org.brahman.Ingest

type Object (bucket: string, key: string, url: string, rows: int, bytes: int, sha256: string, path: ?string)

type Column (name: string, arrow_type: string, source_type: string, nulls_made: int)

# What a column's name and a sample of its values say about personal data. `status` is found, possible (a name alone, or finds in
# prose), clean, or insufficient_sample. `shapes` are values with letters and digits masked.
type PiiColumn (
  column: string,
  status: string,
  findings: []PiiFinding,
  free_text: []PiiDensity,
  shapes: []string,
  sampled: int,
  distinct: int
)

# `matched` of the distinct values; `checksum`: they have a check digit that is right.
type PiiFinding (entity: string, confidence: float, matched: int, checksum: bool, name_hit: bool)

type PiiDensity (entity: string, per_1000: float)

type PiiReport (detector: string, columns: []PiiColumn)

# A file or a row that was left out, and why. Of many, the first hundred are named and all are counted.
type Quarantine (source: string, row: ?int, reason: string)

# A column that is not as in the generation before; without `was` it is new, without `now` it is gone.
type Drift (column: string, was: ?string, now: ?string)

type Run (run_id: string, dataset: string, state: string, rows: int, bytes: int, started_ms: int, seconds: float, error: ?string)

# One of several datasets that one call made.
type Made (dataset: string, generation: int, rows: int, bytes: int)

# Reads text, Markdown, HTML (its text, as Markdown) and source files (a row a file), CSV or JSONL (a row a record; gzip and zstd are undone), or Parquet;
# folders are walked, and what their .gitignore names is passed over. Called with `more` it reports progress first. Relative paths are refused; wildcards
# (`*`, `**`, `?`, `{a,b}`) stand for what they match.
# Columns are looked at for personal data unless `pii` is false. `bucket` is where the dataset is to lie; where it lies already, or
# `primary`, unless said.
method Files(dataset: string, paths: []string, format: ?string, pii: ?bool, bucket: ?string) -> (
  phase: string,
  rows: int,
  bytes: int,
  rows_per_s: float,
  run_id: ?string,
  dataset: ?string,
  generation: ?int,
  objects: ?[]Object,
  columns: ?[]Column,
  quarantined: ?int,
  quarantine: ?[]Quarantine,
  pii: ?PiiReport,
  datasets: ?[]Made,
  mode: ?string,
  parallel: ?int,
  notes: ?[]string,
  drift: ?[]Drift,
  seconds: ?float
)

# Reads a table or a query in one snapshot. `dsn` is a URL, with an sslmode as libpq knows it, or secret:NAME. Several workers
# read ranges of pages where the server can; `notes` says why not. With `more` it reports progress first.
# `tables`, or all tables of a `schema`, become datasets `<dataset>.<table>`, of PostgreSQL in one snapshot of them all; `datasets` in
# the last reply names them.
# `mode` is full; incremental: rows whose `cursor` is above that of the last run, taking the place of rows with the same `key`, and
# `lag` seconds or units before it read again; or keyset: in parts of `chunk_rows` in the order of one `key`, not one snapshot, and
# going on where a run that died stopped.
method Postgres(
  dataset: string,
  dsn: string,
  table: ?string,
  query: ?string,
  tables: ?[]string,
  schema: ?string,
  mode: ?string,
  cursor: ?string,
  key: ?[]string,
  lag: ?int,
  chunk_rows: ?int,
  parallel: ?int,
  deadline_s: ?int,
  stall_s: ?int,
  pii: ?bool,
  bucket: ?string
) -> (
  phase: string,
  rows: int,
  bytes: int,
  rows_per_s: float,
  run_id: ?string,
  dataset: ?string,
  generation: ?int,
  objects: ?[]Object,
  columns: ?[]Column,
  quarantined: ?int,
  quarantine: ?[]Quarantine,
  pii: ?PiiReport,
  datasets: ?[]Made,
  mode: ?string,
  parallel: ?int,
  notes: ?[]string,
  drift: ?[]Drift,
  seconds: ?float
)

# The same from MySQL or MariaDB: one consistent snapshot, streamed by one worker; by several, a large table of MariaDB whose primary
# key begins with a whole number, if nobody writes to it for some milliseconds in which they all begin.
method Mysql(
  dataset: string,
  dsn: string,
  table: ?string,
  query: ?string,
  tables: ?[]string,
  schema: ?string,
  mode: ?string,
  cursor: ?string,
  key: ?[]string,
  lag: ?int,
  chunk_rows: ?int,
  parallel: ?int,
  deadline_s: ?int,
  stall_s: ?int,
  pii: ?bool,
  bucket: ?string
) -> (
  phase: string,
  rows: int,
  bytes: int,
  rows_per_s: float,
  run_id: ?string,
  dataset: ?string,
  generation: ?int,
  objects: ?[]Object,
  columns: ?[]Column,
  quarantined: ?int,
  quarantine: ?[]Quarantine,
  pii: ?PiiReport,
  datasets: ?[]Made,
  mode: ?string,
  parallel: ?int,
  notes: ?[]string,
  drift: ?[]Drift,
  seconds: ?float
)

# A folder that is ingested again whenever it changes. `state`: starting, watching, polling (`reason` says why the kernel does not
# tell), waiting (a path is not there), or ingesting. `error` is why the last try failed; what was committed stands.
type Watching (
  dataset: string,
  paths: []string,
  state: string,
  reason: ?string,
  files: int,
  generation: ?int,
  rows: ?int,
  run_id: ?string,
  error: ?string
)

# Watches folders from now on, restarts included; what is there is ingested first. A change is ingested once nothing has moved for
# `debounce_ms` (2,000), and every `reconcile_s` (300) there is a look without a reason.
method Watch(
  dataset: string,
  paths: []string,
  format: ?string,
  pii: ?bool,
  debounce_ms: ?int,
  reconcile_s: ?int,
  bucket: ?string
) -> (watching: Watching)

method Unwatch(dataset: string) -> (stopped: bool)

method Watches() -> (watches: []Watching)

# Recent runs, newest first.
method Runs() -> (runs: []Run)

# Stops a run; nothing of it is published.
method Cancel(run_id: string) -> (cancelled: bool)

# No rows could be read; nothing was published.
error NothingToRead (message: string, retryable: bool)
error BadSource (message: string, retryable: bool, source: string)
# The server, or the way to it, or the disk, failed in the middle; nothing was published.
error SourceFailed (message: string, retryable: bool, source: string)
error Cancelled (message: string, retryable: bool)
",
};

/// Parameters of `Files`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesIn {
    /// Name of the dataset to write.
    pub dataset: String,
    /// Absolute paths of files and folders, or with wildcards.
    pub paths: Vec<String>,
    /// `documents`, `csv`, `jsonl` or `parquet`; by the files' endings unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether columns are looked at for personal data; true unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<bool>,
    /// Bucket to write to; where the dataset lies, at first `primary`, unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// Parameters of `Postgres` and `Mysql`.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableIn {
    /// Name of the dataset to write.
    pub dataset: String,
    /// URL of the database, or `secret:NAME`.
    pub dsn: String,
    /// A table, as SQL would name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Or a SELECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Or several tables, each a dataset `<dataset>.<table>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<String>>,
    /// Or all tables of a schema; of MySQL, of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// `full`, `incremental` or `keyset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// A column whose values only grow; of `incremental`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Columns by which a row is known; of `keyset`, one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// So much below the last cursor is read again: seconds or units; of `incremental`, with a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Rows a part of `keyset`; 500,000 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_rows: Option<u64>,
    /// Workers at most; one a core unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u64>,
    /// Seconds for which the snapshot may be held; 3,600 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Seconds for which the server may send nothing; 300 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_s: Option<u64>,
    /// Whether columns are looked at for personal data; true unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<bool>,
    /// Bucket to write to; where the dataset lies, at first `primary`, unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

impl std::fmt::Debug for TableIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The DSN may hold a password.
        f.debug_struct("TableIn").field("dataset", &self.dataset).field("table", &self.table).finish_non_exhaustive()
    }
}

/// A column that is not as in the generation before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drift {
    /// Its name.
    pub column: String,
    /// Arrow type before; absent if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Arrow type now; absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

/// A file or a row that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quarantine {
    /// Path.
    pub source: String,
    /// Row number from 1, for a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// Why.
    pub reason: String,
}

/// Replies of `Files`, `Postgres` and `Mysql`: progress has the first four fields, the last reply all.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IngestOut {
    /// `scan`, `read`, `commit` or `done`.
    pub phase: String,
    /// Rows so far.
    pub rows: u64,
    /// Source bytes so far.
    pub bytes: u64,
    /// Rows a second so far.
    pub rows_per_s: f64,
    /// ULID of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Its new generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Vec<Object>>,
    /// Columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<Column>>,
    /// Files and rows left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<u64>,
    /// The first hundred of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Vec<Quarantine>>,
    /// What columns hold personal data, if that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<PiiReport>,
    /// Of several tables, what each became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datasets: Option<Vec<Made>>,
    /// How a table was read: `full`, `incremental` or `keyset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Workers that read a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u64>,
    /// What a person should know: why one worker read what several could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
    /// Columns that are not as in the generation before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Vec<Drift>>,
    /// From call to committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// One of several datasets that one call made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Made {
    /// Its name.
    pub dataset: String,
    /// Its generation.
    pub generation: u64,
    /// Rows.
    pub rows: u64,
    /// Source bytes.
    pub bytes: u64,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// ULID.
    pub run_id: String,
    /// Dataset.
    pub dataset: String,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// Rows so far.
    pub rows: u64,
    /// Source bytes so far.
    pub bytes: u64,
    /// Unix time.
    pub started_ms: u64,
    /// How long it ran.
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Reply of `Runs`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunsOut {
    /// Newest first.
    pub runs: Vec<Run>,
}

/// Parameters of `Watch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchIn {
    /// Name of the dataset to write.
    pub dataset: String,
    /// Absolute paths of folders.
    pub paths: Vec<String>,
    /// `documents`, `csv`, `jsonl` or `parquet`; documents unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether columns are looked at for personal data; true unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<bool>,
    /// A change has come to rest when nothing has moved for this long; 2,000 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce_ms: Option<u64>,
    /// Between looks without a reason; 300 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconcile_s: Option<u64>,
    /// Bucket to write to; where the dataset lies, at first `primary`, unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// A watch as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Watching {
    /// Dataset.
    pub dataset: String,
    /// Folders.
    pub paths: Vec<String>,
    /// `starting`, `watching`, `polling`, `waiting` or `ingesting`.
    pub state: String,
    /// Why it polls or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Files at the last look.
    pub files: u64,
    /// Last committed since the module started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Rows of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Reply of `Watch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchOut {
    /// As it begins.
    pub watching: Watching,
}

/// Parameters of `Unwatch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnwatchIn {
    /// Dataset.
    pub dataset: String,
}

/// Reply of `Unwatch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UnwatchOut {
    /// False if it was not watched.
    pub stopped: bool,
}

/// Reply of `Watches`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchesOut {
    /// By dataset.
    pub watches: Vec<Watching>,
}

/// Parameters of `Cancel`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelIn {
    /// ULID of the run.
    pub run_id: String,
}

/// Reply of `Cancel`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CancelOut {
    /// False if no such run is running.
    pub cancelled: bool,
}
