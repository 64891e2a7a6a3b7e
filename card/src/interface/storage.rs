//! `org.brahman.Storage`: buckets by name, their health, and every operation on them that failed.

use std::collections::BTreeMap;

use brahman_card_derive::wire;

pub use crate::wire::base64::{decode, encode};

/// The bucket that everything is written to unless another is named.
pub const PRIMARY: &str = "primary";
/// The bucket that gets copies.
pub const RESCUE: &str = "rescue";

interface! {
    /// Where objects lie: folders of this machine, or S3 and what speaks like it.
    "org.brahman.Storage"
    methods {
        Buckets() -> BucketsOut: idempotent, reads;
        /// Registers a bucket, once it was probed: an object is put, found to be there already when
        /// it is put again, read and deleted. A marker is written to the bucket's root. No two
        /// buckets may overlap, nor a bucket and the state. A bucket named `rescue` gets a copy of
        /// every object.
        AddBucket(AddBucketIn) -> AddBucketOut: idempotent;
        /// Its objects stay where they are. `primary` and `rescue` cannot be removed, nor can one
        /// that datasets lie or indexes live in; `rescue` can be added again elsewhere.
        RemoveBucket(RemoveBucketIn);
        /// An object's bytes, or a part of them: at most 8 MiB a call. One that a dataset names is
        /// compared with the recorded SHA-256; one that is gone from its bucket, or damaged, is
        /// read from `rescue` if the copy there is right.
        GetObject(GetObjectIn) -> GetObjectOut: idempotent, reads;
        /// Puts a whole object of at most 8 MiB: it is there with all its bytes or not at all. Keys
        /// below datasets/, manifests/, indexes/, mock/, brahman-probe/ and .brahman-catalogs/, the
        /// marker, and what a dataset names, cannot be put.
        PutObject(PutObjectIn) -> PutObjectOut: idempotent;
        /// Asks every bucket for its marker now.
        Health() -> HealthOut: idempotent, reads;
        /// Reads every object that a dataset names, of the present generation and the one before,
        /// and every copy of one, and compares it with the recorded SHA-256; one that is not right
        /// is replaced by a copy that is. Manifests in S3 are compared with their own checksums,
        /// datasets' files and the records of runs, too. With `more`, replies on the way hold what
        /// was done so far.
        Scrub(ScrubIn) -> ScrubOut: idempotent, whole_dataset;
        /// The newest failed operations.
        Errors(ErrorsIn) -> ErrorsOut: idempotent, reads;
        /// Makes sure that all failures so far are on disk; they are put there as they happen, so
        /// this is a barrier.
        FlushErrors() -> FlushErrorsOut: idempotent;
        CompactErrors(CompactErrorsIn) -> CompactErrorsOut: idempotent;
    }
    errors {
        NoSuchBucket { name: String }
        Protected { name: String }
        /// Datasets lie in it, or indexes live there.
        InUse { name: String }
        /// It could not be reached, is away (its marker is not to be seen), or does not do what a
        /// bucket must.
        Unusable { name: String }
        NoSuchObject { name: String, key: String }
        /// The object is not what a dataset's file says of it, and no copy is.
        DamagedObject { name: String, key: String }
        /// More bytes than a call carries; `offset` and `length` ask for a part. `name` is the
        /// bucket's.
        TooLarge { #[serde(skip_serializing_if = "Option::is_none")] name: Option<String>, size: u64, max: u64 }
        /// A dataset is made of this object.
        Taken { name: String, key: String }
        /// Nothing can be written to the state: what is there is served.
        ReadOnly { path: String }
    }
}

/// A bucket as it is registered.
#[wire(Eq)]
pub struct Bucket {
    pub name: String,
    /// Where it lies: `file:///…` or `s3://…`.
    pub url: String,
    /// Of S3; never a secret.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Entry of the secrets file that has the key; it is not told here.
    pub secret: Option<String>,
    /// It cannot be removed.
    pub protected: bool,
    /// A key can be created only once, so that two writers cannot both win.
    pub conditional_put: bool,
    /// Unix time of its registration in milliseconds.
    pub added_ms: u64,
    /// ULID in the marker at its root (.brahman-bucket.json), by which its disk is told from an
    /// empty folder; absent: none was written yet.
    pub id: Option<String>,
}

#[wire]
pub struct BucketsOut {
    /// In the order of their names.
    pub buckets: Vec<Bucket>,
    /// Why there may be others that are not listed: what is registered cannot be read.
    pub shortfall: Option<String>,
}

#[wire]
pub struct AddBucketIn {
    pub name: String,
    /// Where it lies: `file:///folder` or `s3://bucket/prefix`.
    pub url: String,
    /// Of S3: aws_endpoint, aws_region, aws_allow_http, aws_access_key_id.
    pub options: Option<BTreeMap<String, String>>,
    /// Entry of the secrets file: its password is the secret key, its `token` a session token, its
    /// `customer_key` a customer's key.
    pub secret: Option<String>,
}

#[wire]
pub struct AddBucketOut {
    pub bucket: Bucket,
    /// What one should know, such as another catalog that uses it, or copies on the disk of what
    /// they are copies of.
    pub notes: Option<Vec<String>>,
}

#[wire]
pub struct RemoveBucketIn {
    pub name: String,
}

/// Most bytes of one `GetObject` or `PutObject`: in base64 they fit a message.
pub const OBJECT_BYTES_MAX: u64 = 8 << 20;

#[wire]
pub struct GetObjectIn {
    pub bucket: String,
    pub key: String,
    /// Of the first byte; 0 unless said.
    pub offset: Option<u64>,
    /// In bytes; all that follow unless said.
    pub length: Option<u64>,
}

#[wire]
pub struct GetObjectOut {
    pub data_base64: String,
    /// Of the whole object.
    pub size: u64,
    /// Of the first byte given.
    pub offset: u64,
    /// Of the whole object, in hex, where all of it was read.
    pub sha256: Option<String>,
    /// The bytes are those of a copy.
    pub rescue_used: bool,
    /// The object was compared with the SHA-256 that was recorded when it was committed. Absent
    /// where none is recorded, as of every object that no dataset names: nobody can tell whether
    /// its bytes are still those that were put.
    pub verified: Option<bool>,
}

#[wire]
pub struct PutObjectIn {
    pub bucket: String,
    pub key: String,
    pub data_base64: String,
}

#[wire]
pub struct PutObjectOut {
    pub size: u64,
    /// Of the object's bytes, in hex.
    pub sha256: String,
    /// It has a copy in `rescue`.
    pub copied: bool,
}

/// How a bucket is.
#[wire]
pub struct BucketHealth {
    pub name: String,
    pub reachable: bool,
    pub latency_us: u64,
    /// Why it was not reached.
    pub error: Option<String>,
    /// What to do about `error`.
    pub hint: Option<String>,
    /// Of `rescue` alone: objects that have no copy yet.
    pub backlog_objects: Option<u64>,
    pub backlog_bytes: Option<u64>,
    /// For how long the oldest of them has had none.
    pub oldest_unsaved_s: Option<u64>,
    /// Of `primary` alone, for all buckets: when every object was last verified, Unix time.
    pub last_scrub_ms: Option<u64>,
    /// Objects that were not right then, and could not be repaired.
    pub damaged: Option<u64>,
}

#[wire]
pub struct HealthOut {
    /// In the order of the buckets' names.
    pub health: Vec<BucketHealth>,
}

#[wire]
pub struct ScrubIn {
    /// That one alone, as `dataset`; all unless said.
    pub bucket: Option<String>,
    pub dataset: Option<String>,
}

/// An object that is not what was recorded, or is gone.
#[wire(Eq)]
pub struct ScrubDamage {
    pub bucket: String,
    pub key: String,
    /// What is wrong, or why it could not be repaired.
    pub why: String,
}

/// An object that was replaced by a good copy of it.
#[wire(Eq)]
pub struct ScrubRepair {
    pub bucket: String,
    pub key: String,
}

/// Replies of `Scrub`: what was done so far and, in the last one, all of it.
#[wire]
pub struct ScrubOut {
    pub objects: u64,
    pub bytes: u64,
    /// Objects that were not right.
    pub damaged: Vec<ScrubDamage>,
    /// Those of them that are right again.
    pub repaired: Vec<ScrubRepair>,
    pub unrepaired: Vec<ScrubDamage>,
    pub elapsed_ms: u64,
    /// Buckets of which something could not be looked at: they are away, or do not answer.
    pub unread: Option<Vec<UnreadBucket>>,
    /// Manifests that were read, in S3 and in the catalog's folder.
    pub manifests: Option<u64>,
    /// Records and files that say what objects there are to be, and are damaged or missing: what
    /// they said could not be compared, and is not called damaged for that.
    pub records: Option<Vec<String>>,
    /// What could not be compared, for nothing ever recorded it.
    pub notes: Option<Vec<String>>,
    /// Runs that have not been committed and have left objects. Those that were given up are
    /// cleared away by and by.
    pub unfinished: Option<Vec<UnfinishedRun>>,
}

/// A run that has begun, was not committed, and has left something in a bucket.
#[wire(Eq)]
pub struct UnfinishedRun {
    pub dataset: String,
    pub run_id: String,
    pub bucket: String,
    /// Files that it has left there.
    pub objects: u64,
    pub bytes: u64,
    /// Unix time at which it began; absent if that is not known.
    pub since_ms: Option<u64>,
    /// It was given up, and what it has left goes within two hours. Otherwise it goes on, as far as
    /// anybody has said.
    pub given_up: bool,
}

/// A bucket that could not be looked at, or not to the end.
#[wire(Eq)]
pub struct UnreadBucket {
    pub bucket: String,
    /// Objects that were not looked at.
    pub objects: u64,
    /// Of the first of them.
    pub why: String,
}

/// An operation that failed.
#[wire(Eq)]
pub struct Failure {
    /// Unix time of the failure in milliseconds.
    pub at_ms: u64,
    pub bucket: String,
    /// `put`, `get`, `delete`, `probe`, `verify`.
    pub operation: String,
    pub key: String,
    pub message: String,
}

#[wire]
pub struct ErrorsIn {
    /// At most; 100 unless said.
    pub limit: Option<u64>,
}

#[wire]
pub struct ErrorsOut {
    /// Those that are kept, the newest first.
    pub errors: Vec<Failure>,
    /// Of those that are kept.
    pub total: u64,
    /// Why there may be fewer than were written.
    pub shortfall: Option<String>,
}

#[wire]
pub struct FlushErrorsOut {
    pub total: u64,
}

#[wire]
pub struct CompactErrorsIn {
    /// So many of the newest; 1,000 unless said.
    pub keep: Option<u64>,
}

#[wire]
pub struct CompactErrorsOut {
    pub kept: u64,
    pub dropped: u64,
}
