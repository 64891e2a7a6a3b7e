//! `org.brahman.Catalog`: datasets, their objects, columns and generations. One writer of all of
//! them.

mod generations;
mod runs;

pub use generations::*;
pub use runs::*;

use std::collections::BTreeMap;
use std::path::PathBuf;

use brahman_card_derive::wire;

interface! {
    /// Datasets: what objects they are made of, and which indexes they feed.
    ///
    /// Mocks write apart: no real dataset is changed, hidden from real providers or deleted by what
    /// a mock does. A provider says with `mock` whether it is one. One that is reads the mocks'
    /// datasets, and real ones where no mock made one of that name; one that is not reads real ones
    /// only. Who says nothing is taken for whoever would answer org.brahman.Ingest in the call's
    /// context.
    "org.brahman.Catalog"
    methods {
        List(RealmIn) -> ListOut: idempotent, reads;
        /// Every object is compared with its SHA-256, once for each change of its file. One whose
        /// length is right and whose bytes are not, with no good copy anywhere, is `BadObject`:
        /// nobody is to read it.
        Get(NameIn) -> GetOut: idempotent, long, reads;
        /// Publishes a generation: every object is verified first. The same run_id committed twice
        /// is one commit. Objects that are all there already are no new generation. Objects of a
        /// bucket in S3 are put there, then a manifest under the generation's number, which no
        /// other may have taken.
        Commit(CommitIn) -> CommitOut: idempotent, long;
        /// Begins a run of this dataset: where it writes its objects.
        Location(LocationIn) -> LocationOut: idempotent;
        /// Ends a run that will not be committed, or all unfinished runs of a producer.
        Abandon(AbandonIn) -> AbandonOut;
        /// OpenLineage run events of a dataset.
        Lineage(LineageIn) -> LineageOut: idempotent, reads;
        /// A few rows, values cut at 200 characters; columns that hold personal data as shapes.
        Sample(SampleIn) -> SampleOut: idempotent, reads;
        /// Reads the dataset's objects anew and, if the manifest says otherwise, is damaged or is
        /// gone, publishes what is there. Of a manifest that is damaged or gone the lineage says
        /// which objects, of all the runs, the last generation was made of; what does not add up to
        /// its rows is refused. Objects that are gone or damaged come back from `rescue` first, if
        /// the copies are what was recorded. A name that is not known here is taken up from the
        /// manifests of a bucket in S3, if one has it (`Adopt`).
        Resync(ResyncIn) -> ResyncOut: long;
        /// The same for every dataset whose objects are there and whose manifest is not, or is
        /// damaged. One whose manifest is whole and whose objects are gone is among `failed`, with
        /// what is missing.
        ResyncMissing(RealmIn) -> ResyncMissingOut: whole_dataset;
        /// Takes up datasets, or the one named, from the manifests that lie in a bucket in S3, such
        /// as those of a catalog whose state is lost. Every object is read, compared, and copied
        /// within the bucket, for whoever put it there may live and delete it; that one stays, and
        /// is never deleted by this catalog. The generation after the newest manifest's is taken:
        /// whoever put that one there can publish no further generation of it in this bucket, and
        /// is told so by the error of its next commit.
        Adopt(AdoptIn) -> AdoptOut: whole_dataset;
        /// Says which index is fed by the dataset. A mock's index is not noted in a real dataset.
        MarkStale(MarkStaleIn): idempotent;
        /// Says that an index has caught up with a generation, which its run tells.
        ClearStale(ClearStaleIn) -> ClearStaleOut: idempotent;
        /// A dataset with pins is not deleted before they are taken away.
        Delete(NameIn) -> DeleteOut: long;
        /// Makes a dataset of another name from the present generation of one, as a run of its own
        /// with all that a commit promises. Said again, and the generation is still the same, it is
        /// answered as the first time.
        Copy(CopyIn) -> CopyOut: idempotent, whole_dataset;
        /// The same under the same number, and the old name is gone. A dataset that feeds indexes
        /// keeps its name, for it is theirs, too.
        Rename(CopyIn) -> CopyOut: idempotent, whole_dataset;
        /// Keeps a generation, the present one unless said, whatever is committed after it: until
        /// `Unpin`, or for `life_s`. Of a pin that is there the life is counted anew.
        Pin(PinIn) -> PinOut: idempotent;
        /// Takes away the pins that are named by `pin` or `generation`, all of the dataset's if
        /// neither is said.
        Unpin(UnpinIn) -> UnpinOut: idempotent;
        /// For a backup: writes the catalog's own files, all as they are at one moment, into a
        /// folder on this machine, and pins the present generation of every real dataset for a
        /// while, so that its objects can be copied. Of the files written only the present
        /// generation is needed; which indexes have caught up is as `indexes` says.
        Snapshot(SnapshotIn) -> SnapshotOut: long;
        /// Call with `more`: the state now, then again whenever a dataset changes.
        Watch(RealmIn) -> WatchOut: idempotent, endless, reads;
    }
    errors {
        NoSuchDataset { name: String }
        /// An object is missing or its checksum differs; nothing was published.
        BadObject { key: String }
        /// The run was given up by `Abandon`, or never began by `Location`.
        GivenUp { run_id: String }
        NoSuchBucket { name: String }
        /// A bucket could not be written to; nothing was published.
        BucketFailed { name: String }
        /// Every answer to the commit's last request was lost: it may be published or not, and its
        /// objects stay. The same commit said again settles it.
        Unknown { name: String, run_id: String }
        /// The dataset is at another generation than the commit builds on, or somebody else has put
        /// that generation into the bucket.
        Moved { name: String }
        /// The dataset's own file is damaged.
        Damaged { name: String }
        /// A mock made the dataset, or would have: it is no real one.
        MadeByMock { name: String, maker: String }
        /// The objects that can be found do not make up the dataset; `keys` cannot be placed.
        Incomplete { name: String, keys: Vec<String>, rows: u64, expected_rows: u64 }
        /// There is a dataset of that name.
        Exists { name: String }
        /// Indexes are fed by the dataset under its name.
        InUse { name: String, indexes: Vec<String> }
        /// The dataset has pins, which are taken away by `Unpin`.
        Pinned { name: String, pins: Vec<String> }
        /// That generation is not kept any more, or has never been.
        NoSuchGeneration { name: String, generation: u64 }
        /// Nothing can be written to the state: what is there is served.
        ReadOnly { path: String }
    }
}

/// One immutable Parquet object.
#[wire(Eq)]
pub struct Object {
    pub bucket: String,
    pub key: String,
    /// `file://…` or `s3://…`; opens in pyarrow.
    pub url: String,
    pub rows: u64,
    pub bytes: u64,
    /// Of the bytes, in hex.
    pub sha256: String,
    /// Where it can be read on this machine: of an object in S3 a copy, of one that is `borrowed`
    /// its copy in `rescue`. Only the catalog tells.
    pub path: Option<String>,
}

impl Object {
    /// Where it lies on this machine.
    #[must_use]
    pub fn local(&self) -> PathBuf {
        PathBuf::from(
            self.path.as_deref().unwrap_or_else(|| self.url.trim_start_matches("file://")),
        )
    }
}

/// One column of a dataset, and where its type came from.
#[wire(Eq)]
pub struct Column {
    pub name: String,
    pub arrow_type: String,
    pub source_type: String,
    /// Values that the Arrow type cannot hold and that became NULL.
    pub nulls_made: u64,
}

/// What columns hold personal data. Never holds a value of theirs.
#[wire]
pub struct PiiReport {
    /// Name and version of the rules.
    pub detector: String,
    /// Every column, and what lies within one: fields of structs (`a.b`), items of lists (`a[]`),
    /// and both of texts that are JSON.
    pub columns: Vec<PiiColumn>,
}

/// What a column's name and a sample of its values say about personal data.
#[wire]
pub struct PiiColumn {
    pub column: String,
    /// `found`, `possible` (a name alone, some of the values, or finds in prose), `clean`,
    /// `insufficient_sample`, or `not_looked_at` of types that are not.
    pub status: String,
    /// What was found, the surest first.
    pub findings: Vec<PiiFinding>,
    /// What stands in prose.
    pub free_text: Vec<PiiDensity>,
    /// The most frequent shapes of values: letters as `a` or `A`, digits as `9`.
    pub shapes: Vec<String>,
    /// How many values were looked at.
    pub sampled: u64,
    /// Distinct values kept and tested.
    pub distinct: u64,
}

/// One kind of personal data in a column.
#[wire]
pub struct PiiFinding {
    /// `email`, `phone`, `credit_card`, …
    pub entity: String,
    /// 0 to 1: 0.4 for the name, 0.6 for the share of values.
    pub confidence: f64,
    /// Of the distinct values.
    pub matched: u64,
    /// They have a check digit that is right.
    pub checksum: bool,
    /// The column's name says so.
    pub name_hit: bool,
}

/// How often something stands in prose.
#[wire]
pub struct PiiDensity {
    pub entity: String,
    /// Texts that hold one, of a thousand.
    pub per_1000: f64,
}

/// Longest shape: the rest of a value adds nothing to its kind.
const SHAPE_CHARS: usize = 40;

/// A value's shape: letters as `a` or `A`, digits as `9`, the rest as it is, cut after 40
/// characters.
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

/// The run that made a generation, and its inputs.
#[wire(Eq)]
pub struct Origin {
    pub run_id: String,
    /// What the run read; never a user name or a password.
    pub inputs: Vec<String>,
    pub producer: String,
}

/// How far a table was read.
#[wire(Eq)]
pub struct Watermark {
    /// Column by which newer rows are told.
    pub column: String,
    /// Its last value, as the server prints it.
    pub bound: String,
    /// Which table of which server.
    pub source: String,
    /// Rows that had this value; absent if an earlier version has read them.
    pub ties: Option<u64>,
    /// Rows whose value no bound can be (NULL, infinite, later than tomorrow); absent if an earlier
    /// version has read them.
    pub strays: Option<u64>,
    /// A sum over those rows, which tells whether each of them is what it was; absent if there are
    /// none, or an earlier version has read them.
    pub strays_sum: Option<String>,
}

/// A dataset at one generation.
#[wire]
pub struct Dataset {
    pub name: String,
    /// Grows with every commit, from 1.
    pub generation: u64,
    pub rows: u64,
    /// Bytes of all objects.
    pub bytes: u64,
    /// In the order of their rows.
    pub objects: Vec<Object>,
    /// In the order of the table.
    pub columns: Vec<Column>,
    /// Null if it was not looked for.
    #[wire(null)]
    pub pii: Option<PiiReport>,
    /// Indexes that are older than the dataset.
    pub stale: Vec<String>,
    pub lineage: Origin,
    /// Of a table that is read by and by.
    pub watermark: Option<Watermark>,
    /// Unix time of the commit.
    pub committed_ms: u64,
    /// The run that made this generation, by which it is told: numbers may repeat after a restore.
    pub run_id: Option<String>,
    /// Whether a mock made it.
    pub mock: Option<bool>,
    /// Label of the mock that made it.
    pub maker: Option<String>,
    /// `damaged`, `lost` or `refused`; absent of one that is whole.
    pub state: Option<String>,
    /// Why it is in that state, and what mends it.
    pub reason: Option<String>,
}

/// Parameters of `List`, `ResyncMissing` and `Watch`.
#[wire]
pub struct RealmIn {
    pub mock: Option<bool>,
}

#[wire]
pub struct ListOut {
    /// In the order of their names.
    pub datasets: Vec<Dataset>,
    /// What this caller would not read under its name: the mocks' datasets, or real ones behind a
    /// mock's.
    pub apart: Option<Vec<Dataset>>,
    /// What could not be read, and therefore is not tidied.
    pub notes: Option<Vec<String>>,
    /// Runs, as bucket/dataset/run, whose objects lie in the buckets and of which this catalog's
    /// journal says nothing: another catalog's, or an earlier one's. They are never deleted here; a
    /// hundred at most.
    pub strangers: Option<Vec<String>>,
}

/// Parameters of `Get` and `Delete`.
#[wire]
pub struct NameIn {
    pub name: String,
    pub mock: Option<bool>,
}

#[wire]
pub struct ResyncIn {
    pub name: String,
    pub mock: Option<bool>,
    /// Those that it is made of, in the order of their rows, where nothing recorded says so.
    pub runs: Option<Vec<String>>,
    /// Bytes that are not what was committed may become the next generation.
    pub accept_damage: Option<bool>,
}

#[wire]
pub struct AdoptIn {
    /// Bucket in S3 whose manifests are read.
    pub bucket: String,
    /// One dataset; all that are not here yet unless said.
    pub name: Option<String>,
}

/// A dataset that has a manifest here now.
#[wire(Eq)]
pub struct PublishedDataset {
    pub name: String,
    pub generation: u64,
    pub rows: u64,
}

/// A dataset that was not taken up.
#[wire(Eq)]
pub struct AdoptionRefusal {
    pub name: String,
    pub why: String,
}

#[wire]
pub struct AdoptOut {
    /// Datasets that are here from now on.
    pub adopted: Vec<PublishedDataset>,
    /// Left as they are.
    pub refused: Vec<AdoptionRefusal>,
    /// Which other catalogs can put no further generation there.
    pub notes: Option<Vec<String>>,
}

#[wire]
pub struct DeleteOut {
    /// Which objects stay, and why.
    pub notes: Option<Vec<String>>,
    /// How many objects, in buckets in S3 and among the copies in `rescue`, are removed after this
    /// answer.
    pub later: Option<u64>,
}

#[wire]
pub struct GetOut {
    pub dataset: Dataset,
    /// The last hundred generations, newest first; absent in replies of the first providers.
    #[serde(default)]
    pub history: Vec<Version>,
    /// Keys of objects that had gone from their bucket, or were damaged, and have just come back,
    /// whole, from `rescue`.
    pub rescued: Option<Vec<String>>,
    /// Keys of objects whose copy here had gone or was damaged and has just come from their own
    /// bucket.
    pub fetched: Option<Vec<String>>,
    /// Keys of objects whose bucket is away, and whose `path` is that of a copy in `rescue`, or of
    /// one fetched from there. They are compared, and nothing is written to the bucket.
    pub borrowed: Option<Vec<String>>,
    /// Keys of objects that are gone, or cut, and have no copy that is right.
    pub missing: Option<Vec<String>>,
    /// A folder that always has the objects of one whole generation, the present one:
    /// `…/current/*.parquet` in the order of rows. It is a link, which is replaced with each
    /// commit; absent where it could not be brought up to this generation.
    pub current: Option<String>,
    /// Generations that are kept, in the order of their numbers; absent if there are none.
    pub pins: Option<Vec<PinnedGeneration>>,
}

#[wire]
pub struct SampleIn {
    pub name: String,
    /// Rows at most, to 100; 5 unless said.
    pub rows: Option<u64>,
    pub mock: Option<bool>,
}

#[wire]
pub struct SampleOut {
    /// Values of each row by column.
    pub rows: Vec<serde_json::Value>,
    /// Columns of which only shapes are shown.
    pub masked: Vec<String>,
    /// What could not be shown.
    pub notes: Vec<String>,
}

#[wire]
pub struct ResyncOut {
    pub generation: u64,
    pub rows: u64,
    /// Whether the manifest said otherwise.
    pub changed: bool,
    /// What was found on the way, in words.
    pub notes: Vec<String>,
}

/// A dataset that has none.
#[wire]
pub struct ResyncFailure {
    pub name: String,
    pub reason: String,
}

#[wire]
pub struct ResyncMissingOut {
    pub resynced: Vec<PublishedDataset>,
    pub failed: Vec<ResyncFailure>,
}

#[wire]
pub struct MarkStaleIn {
    pub name: String,
    pub index: String,
    /// The run whose generation the index has, if it has one.
    pub run_id: Option<String>,
    pub mock: Option<bool>,
    /// The index was deleted: the dataset feeds it no longer.
    pub gone: Option<bool>,
}

#[wire]
pub struct ClearStaleIn {
    pub name: String,
    pub index: String,
    pub generation: u64,
    /// That generation's run; where both are known, this decides.
    pub run_id: Option<String>,
    pub mock: Option<bool>,
}

#[wire]
pub struct ClearStaleOut {
    /// False if the dataset has moved on meanwhile.
    pub cleared: bool,
}

#[wire]
pub struct WatchOut {
    /// Number of each generation, by dataset.
    pub generations: BTreeMap<String, u64>,
    /// The run of each generation, by dataset.
    pub runs: Option<BTreeMap<String, String>>,
}
