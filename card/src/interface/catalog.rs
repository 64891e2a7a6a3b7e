//! `org.brahman.Catalog`: datasets, their objects, columns and generations. One writer of all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Catalog",
    idempotent: &["List", "Get", "Commit", "MarkStale", "ClearStale", "Watch", "Lineage", "Sample"],
    idl: "# Datasets: what objects they are made of, and which indexes they feed.
interface org.brahman.Catalog

# One immutable Parquet object. `url` opens in pyarrow; `path`, which only the catalog tells, is where it can be read on this machine: of
# an object in S3 a copy, of one that is `borrowed` (`Get`) its copy in `rescue`.
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

# How far a table was read: the last value of its cursor, as the server prints it.
type Watermark (column: string, bound: string, source: string)

# `stale` lists indexes that are older than the dataset. `lineage` has the run and its inputs. `run_id` is the run that made this
# generation: a generation is told by it, for numbers may repeat after a restore. `mock` and `maker` name a mock that made it. `state`
# is absent of one that is whole; else damaged, lost or refused, and `reason` says why.
type Dataset (
  name: string,
  generation: int,
  rows: int,
  bytes: int,
  objects: []Object,
  columns: []Column,
  pii: ?PiiReport,
  stale: []string,
  lineage: Origin,
  watermark: ?Watermark,
  committed_ms: int,
  run_id: ?string,
  mock: ?bool,
  maker: ?string,
  state: ?string,
  reason: ?string
)

type Origin (run_id: string, inputs: []string, producer: string)

type Version (generation: int, run_id: string, rows: int, bytes: int, committed_ms: int)

# Mocks write apart: no real dataset is changed, hidden from real providers or deleted by what a mock does. A provider says with `mock`
# whether it is one. One that is reads the mocks' datasets, and real ones where no mock made one of that name; one that is not reads
# real ones only. Who says nothing is taken for whoever would answer org.brahman.Ingest in the call's context.
# `apart` lists what this caller would not read under its name: the mocks' datasets, or real ones behind a mock's. `notes` tells of
# what could not be read, and therefore is not tidied. `strangers` are runs, as bucket/dataset/run, whose objects lie in the buckets and
# of which this catalog's journal says nothing: another catalog's, or an earlier one's. They are never deleted here; a hundred at most.
method List(mock: ?bool) -> (datasets: []Dataset, apart: ?[]Dataset, notes: ?[]string, strangers: ?[]string)

# `history` has the last hundred generations, newest first. Every object is compared with its SHA-256, once for each change of its file.
# `rescued` names objects that had gone from their bucket, or were damaged, and have just come back, whole, from `rescue`; `fetched`
# those whose copy here had gone or was damaged and has just come from their own bucket; `borrowed` those whose bucket is away, and whose
# `path` is a copy in `rescue`, or one fetched from there: compared, and nothing was written to the bucket; `missing` those that are gone,
# or cut, and did not come back. One whose length is right and whose bytes are not, with no good copy anywhere, is `BadObject`: nobody is to read it.
method Get(name: string, mock: ?bool) -> (
  dataset: Dataset,
  history: []Version,
  rescued: ?[]string,
  fetched: ?[]string,
  borrowed: ?[]string,
  missing: ?[]string
)

# `expect` is the generation that the commit builds on, 0 for none, `expect_run` its run: another is refused. Objects that are all there already are no
# new generation.
# Publishes a generation: every object is verified first. The same run_id committed twice is one commit.
# Objects of a bucket in S3 are put there, then a manifest under the generation's number, which no other may have taken.
# `copies` is there where a bucket `rescue` is: how many objects have yet to be copied there, and how many of them failed when last tried.
method Commit(
  name: string,
  run_id: string,
  objects: []Object,
  columns: []Column,
  inputs: []string,
  producer: string,
  pii: ?PiiReport,
  watermark: ?Watermark,
  expect: ?int,
  expect_run: ?string,
  mock: ?bool,
  maker: ?string
) -> (generation: int, stale: []string, copies: ?Copies)

type Copies (pending: int, failed: int, why: ?string)

# Begins a run of this dataset: where it writes its objects. `producer` is who asks, so that its unfinished runs can be told. Without
# `bucket` it is the one that the dataset lies in, `primary` at first.
method Location(name: string, run_id: string, producer: ?string, bucket: ?string, mock: ?bool) -> (
  bucket: string,
  key_prefix: string,
  url_prefix: string,
  path: string
)

# Ends a run that will not be committed, or all unfinished runs of a producer.
method Abandon(run_id: ?string, producer: ?string, reason: string, cancelled: ?bool, mock: ?bool) -> (abandoned: int)

# OpenLineage run events of a dataset, oldest first; the last `limit`, 100 unless said.
method Lineage(name: string, limit: ?int, mock: ?bool) -> (events: []object)

# A few rows, values cut at 200 characters; columns that hold personal data as shapes. `notes` names what could not be shown.
method Sample(name: string, rows: ?int, mock: ?bool) -> (rows: []object, masked: []string, notes: []string)

# Reads the dataset's objects anew and, if the manifest says otherwise, is damaged or is gone, publishes what is there. Of a manifest
# that is damaged or gone the lineage says which objects, of all the runs, the last generation was made of; what does not add up to
# its rows is refused. `runs` names them where nothing was recorded. Objects that are gone or damaged come back from `rescue` first, if
# the copies are what was recorded. Bytes that are not what was committed become a generation only with `accept_damage`. A name that
# is not known here is taken up from the manifests of a bucket in S3, if one has it (`Adopt`).
method Resync(name: string, mock: ?bool, runs: ?[]string, accept_damage: ?bool) -> (
  generation: int,
  rows: int,
  changed: bool,
  notes: []string
)

type Resynced (name: string, generation: int, rows: int)

type NotResynced (name: string, reason: string)

# The same for every dataset whose objects are there and whose manifest is not, or is damaged.
method ResyncMissing(mock: ?bool) -> (resynced: []Resynced, failed: []NotResynced)

type Adopted (name: string, generation: int, rows: int)

type NotAdopted (name: string, why: string)

# Takes up datasets, or the one named, from the manifests that lie in a bucket in S3, such as those of a catalog whose state is lost.
# Every object is read, compared, and copied within the bucket, for whoever put it there may live and delete it; that one stays, and is
# never deleted by this catalog. The generation after the newest manifest's is taken: whoever put that one there can publish no further
# generation of it in this bucket, and is told so by the error of its next commit; `notes` says which catalogs those are.
method Adopt(bucket: string, name: ?string) -> (adopted: []Adopted, refused: []NotAdopted, notes: ?[]string)

# Says which index is fed by the dataset (`MarkStale`), or that it has caught up with a generation (`ClearStale`), which its run tells.
# A mock's index is not noted in a real dataset.
method MarkStale(name: string, index: string, run_id: ?string, mock: ?bool) -> ()
method ClearStale(name: string, index: string, generation: int, run_id: ?string, mock: ?bool) -> (cleared: bool)

# `notes` says which objects stay, and why. `later`: so many, in buckets in S3 and among the copies in `rescue`, go in the background.
method Delete(name: string, mock: ?bool) -> (notes: ?[]string, later: ?int)

# Call with `more`: names, generations and their runs now, then again whenever one changes.
method Watch(mock: ?bool) -> (generations: [string]int, runs: ?[string]string)

error NoSuchDataset (message: string, retryable: bool, name: string)
# An object is missing or its checksum differs; nothing was published.
error BadObject (message: string, retryable: bool, key: string)
# The run was given up by `Abandon`, or never began by `Location`.
error GivenUp (message: string, retryable: bool, run_id: string)
error NoSuchBucket (message: string, retryable: bool, name: string)
# A bucket could not be written to; nothing was published.
error BucketFailed (message: string, retryable: bool, name: string)
# Every answer to the commit's last request was lost: it may be published or not, and its objects stay. The same commit said again
# settles it.
error Unknown (message: string, retryable: bool, name: string, run_id: string)
# The dataset is at another generation than the commit builds on, or somebody else has put that generation into the bucket.
error Moved (message: string, retryable: bool, name: string)
# The dataset's own file is damaged.
error Damaged (message: string, retryable: bool, name: string)
# A mock made the dataset, or would have: it is no real one.
error MadeByMock (message: string, retryable: bool, name: string, maker: string)
# The objects that can be found do not make up the dataset; `keys` cannot be placed.
error Incomplete (message: string, retryable: bool, name: string, keys: []string, rows: int, expected_rows: int)
# Nothing can be written to the state: what is there is served.
error ReadOnly (message: string, retryable: bool, path: string)
",
};

/// One immutable Parquet object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Object {
    /// Bucket name.
    pub bucket: String,
    /// Key in the bucket.
    pub key: String,
    /// `file://…` or `s3://…`
    pub url: String,
    /// Rows.
    pub rows: u64,
    /// Length.
    pub bytes: u64,
    /// Of the bytes, in hex.
    pub sha256: String,
    /// Where it can be read on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Object {
    /// Where it lies on this machine.
    #[must_use]
    pub fn local(&self) -> PathBuf {
        PathBuf::from(self.path.as_deref().unwrap_or_else(|| self.url.trim_start_matches("file://")))
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Arrow type.
    pub arrow_type: String,
    /// Type at the source.
    pub source_type: String,
    /// Values that the Arrow type cannot hold and that became NULL.
    pub nulls_made: u64,
}

/// What columns hold personal data. Never holds a value of theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PiiReport {
    /// Name and version of the rules.
    pub detector: String,
    /// Every column that was looked at: text, whole numbers and dates.
    pub columns: Vec<PiiColumn>,
}

/// One column's personal data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PiiColumn {
    /// Its name.
    pub column: String,
    /// `found`, `possible`, `clean` or `insufficient_sample`.
    pub status: String,
    /// Surest first.
    pub findings: Vec<PiiFinding>,
    /// What stands in prose.
    pub free_text: Vec<PiiDensity>,
    /// Most frequent shapes, by [`masked`].
    pub shapes: Vec<String>,
    /// Values looked at.
    pub sampled: u64,
    /// Distinct values kept and tested.
    pub distinct: u64,
}

/// One kind of personal data in a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PiiFinding {
    /// `email`, `phone`, `credit_card`, …
    pub entity: String,
    /// 0 to 1: 0.4 for the name, 0.6 for the share of values.
    pub confidence: f64,
    /// Of the distinct values.
    pub matched: u64,
    /// Their check digits are right.
    pub checksum: bool,
    /// The column's name says so.
    pub name_hit: bool,
}

/// How often something stands in prose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PiiDensity {
    /// What.
    pub entity: String,
    /// Texts that hold one, of a thousand.
    pub per_1000: f64,
}

/// Longest shape: the rest of a value adds nothing to its kind.
const SHAPE_CHARS: usize = 40;

/// A value's shape: letters as `a` or `A`, digits as `9`, the rest as it is, cut after 40 characters.
#[must_use]
pub fn masked(value: &str) -> String {
    let mask = |c: char| match c {
        _ if c.is_numeric() => '9',
        _ if c.is_uppercase() => 'A',
        _ if c.is_alphabetic() => 'a',
        _ if c.is_ascii() && !c.is_control() => c,
        _ => '?',
    };
    let mut shape: String = value.chars().take(SHAPE_CHARS).map(mask).collect();
    if value.chars().nth(SHAPE_CHARS).is_some() {
        shape.push('…');
    }
    shape
}

/// Where a generation came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lineage {
    /// The run that wrote it.
    pub run_id: String,
    /// What the run read; never a user name or a password.
    pub inputs: Vec<String>,
    /// Program and version.
    pub producer: String,
}

/// How far a table was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Watermark {
    /// The cursor.
    pub column: String,
    /// Its last value, as the server prints it.
    pub bound: String,
    /// Which table of which server.
    pub source: String,
}

/// A dataset at one generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Grows with every commit, from 1.
    pub generation: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of all objects.
    pub bytes: u64,
    /// In row order.
    pub objects: Vec<Object>,
    /// In column order.
    pub columns: Vec<Column>,
    /// What columns hold personal data, if that was looked for.
    #[serde(default)]
    pub pii: Option<PiiReport>,
    /// Indexes that are older than the dataset.
    pub stale: Vec<String>,
    /// Where it came from.
    pub lineage: Lineage,
    /// How far a table was read, if it is read by and by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// Unix time of the commit.
    pub committed_ms: u64,
    /// The run that made this generation, by which it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Whether a mock made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
    /// Label of the mock that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<String>,
    /// `damaged`, `lost` or `refused`; absent of one that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it is in that state, and what mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Parameters of `List`, `ResyncMissing` and `Watch`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RealmIn {
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `List`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListOut {
    /// By name.
    pub datasets: Vec<Dataset>,
    /// What this caller would not read under its name: the mocks', or real ones behind a mock's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Vec<Dataset>>,
    /// What could not be read, and therefore is not tidied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
    /// Runs, as bucket/dataset/run, of which the journal says nothing; they are never deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers: Option<Vec<String>>,
}

/// Parameters of `Get` and `Delete`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameIn {
    /// Dataset.
    pub name: String,
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Parameters of `Resync`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResyncIn {
    /// Dataset.
    pub name: String,
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
    /// The runs that it is made of, in the order of their rows, where nothing recorded says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<String>>,
    /// Bytes that are not what was committed may become the next generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_damage: Option<bool>,
}

/// Parameters of `Adopt`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptIn {
    /// Bucket in S3 whose manifests are read.
    pub bucket: String,
    /// One dataset; all that are not here yet unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A dataset that was taken up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Adopted {
    /// Dataset.
    pub name: String,
    /// The generation that it is here.
    pub generation: u64,
    /// Rows.
    pub rows: u64,
}

/// A dataset that was not taken up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotAdopted {
    /// Dataset.
    pub name: String,
    /// What does not add up.
    pub why: String,
}

/// Reply of `Adopt`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct AdoptOut {
    /// Here now.
    pub adopted: Vec<Adopted>,
    /// Left as they are.
    pub refused: Vec<NotAdopted>,
    /// Which other catalogs can put no further generation there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
}

/// Reply of `Delete`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DeleteOut {
    /// Which objects stay, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
    /// Objects in S3, and copies, that are removed after this answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<u64>,
}

/// A generation that a dataset had or has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// From 1.
    pub generation: u64,
    /// The run that wrote it.
    pub run_id: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of all objects.
    pub bytes: u64,
    /// Unix time of the commit.
    pub committed_ms: u64,
}

/// Reply of `Get`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GetOut {
    /// The dataset.
    pub dataset: Dataset,
    /// Newest first.
    pub history: Vec<Version>,
    /// Keys of objects that were gone or damaged and came back from the bucket `rescue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescued: Option<Vec<String>>,
    /// Keys of objects whose copy on this machine was gone or damaged and came from their bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<Vec<String>>,
    /// Keys of objects whose bucket is away, and whose `path` is that of a copy in `rescue`, or of one fetched from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowed: Option<Vec<String>>,
    /// Keys of objects that are gone, or cut, and have no copy that is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
}

/// Parameters of `Abandon`: one of the first two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbandonIn {
    /// One run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Or all unfinished runs of a producer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// Why; never a password.
    pub reason: String,
    /// Somebody wanted it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<bool>,
    /// Runs of mocks, or of others; of both unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `Abandon`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AbandonOut {
    /// Runs ended.
    pub abandoned: u64,
}

/// Parameters of `Lineage`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineageIn {
    /// Dataset.
    pub name: String,
    /// Events at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `Lineage`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LineageOut {
    /// OpenLineage run events, oldest first.
    pub events: Vec<serde_json::Value>,
}

/// Parameters of `Sample`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleIn {
    /// Dataset.
    pub name: String,
    /// Rows at most, to 100; 5 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `Sample`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SampleOut {
    /// By column.
    pub rows: Vec<serde_json::Value>,
    /// Columns of which only shapes are shown.
    pub masked: Vec<String>,
    /// What could not be shown.
    pub notes: Vec<String>,
}

/// Reply of `Resync`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResyncOut {
    /// As it is now.
    pub generation: u64,
    /// Rows.
    pub rows: u64,
    /// Whether the manifest said otherwise.
    pub changed: bool,
    /// What was found.
    pub notes: Vec<String>,
}

/// A dataset that has a manifest again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Resynced {
    /// Dataset.
    pub name: String,
    /// As it is now.
    pub generation: u64,
    /// Rows.
    pub rows: u64,
}

/// A dataset that has none.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NotResynced {
    /// Dataset.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Reply of `ResyncMissing`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResyncMissingOut {
    /// With a manifest again.
    pub resynced: Vec<Resynced>,
    /// Without.
    pub failed: Vec<NotResynced>,
}

/// Parameters of `Commit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitIn {
    /// Dataset.
    pub name: String,
    /// ULID of the run.
    pub run_id: String,
    /// All objects of the new generation.
    pub objects: Vec<Object>,
    /// Columns.
    pub columns: Vec<Column>,
    /// What was read.
    pub inputs: Vec<String>,
    /// Program and version.
    pub producer: String,
    /// What columns hold personal data, if that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<PiiReport>,
    /// How far a table was read, if it is read by and by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// The generation that this builds on, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<u64>,
    /// Its run; where both are known, this decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_run: Option<String>,
    /// Whether the caller is a mock, which writes apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
    /// The mock's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<String>,
}

/// Reply of `Commit`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CommitOut {
    /// The generation published.
    pub generation: u64,
    /// Indexes that are stale now.
    pub stale: Vec<String>,
    /// How the copies stand; absent where there is no bucket `rescue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<Copies>,
}

/// How the copies in `rescue` stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Copies {
    /// Objects, of all datasets, that have yet to be copied.
    pub pending: u64,
    /// Those of them that failed when last tried.
    pub failed: u64,
    /// Why the first of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Parameters of `Location`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocationIn {
    /// Dataset.
    pub name: String,
    /// ULID of the run.
    pub run_id: String,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// Where to; where the dataset lies unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Whether the caller is a mock, which writes apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `Location`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LocationOut {
    /// Bucket name.
    pub bucket: String,
    /// Keys start with this.
    pub key_prefix: String,
    /// URLs start with this.
    pub url_prefix: String,
    /// Absolute directory, created.
    pub path: String,
}

/// Parameters of `MarkStale`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkStaleIn {
    /// Dataset.
    pub name: String,
    /// Index fed by it.
    pub index: String,
    /// The run whose generation the index has, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Parameters of `ClearStale`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClearStaleIn {
    /// Dataset.
    pub name: String,
    /// Index that has caught up.
    pub index: String,
    /// With which generation.
    pub generation: u64,
    /// That generation's run; where both are known, this decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Whether the caller is a mock; by the context if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<bool>,
}

/// Reply of `ClearStale`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClearStaleOut {
    /// False if the dataset has moved on meanwhile.
    pub cleared: bool,
}

/// Replies of `Watch`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchOut {
    /// By dataset.
    pub generations: BTreeMap<String, u64>,
    /// The run of each generation, by dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<BTreeMap<String, String>>,
}
