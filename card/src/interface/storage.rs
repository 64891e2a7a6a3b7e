//! `org.brahman.Storage`: buckets by name, their health, and every operation on them that failed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;

/// The bucket that everything is written to unless another is named.
pub const PRIMARY: &str = "primary";
/// The bucket that gets copies.
pub const RESCUE: &str = "rescue";

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Storage",
    idempotent: &["Buckets", "AddBucket", "Health", "Errors", "FlushErrors", "CompactErrors"],
    idl: "# Where objects lie: folders of this machine, or S3 and what speaks like it.
interface org.brahman.Storage

# `conditional_put`: a key can be created only once, so that two writers cannot both win. `secret` names the entry of the secrets
# file that has the key; it is not told here.
type Bucket (
  name: string,
  url: string,
  options: [string]string,
  secret: ?string,
  protected: bool,
  conditional_put: bool,
  added_ms: int
)

type BucketHealth (name: string, reachable: bool, latency_us: int, error: ?string)

type Failure (at_ms: int, bucket: string, operation: string, key: string, message: string)

method Buckets() -> (buckets: []Bucket)

# Registers a bucket, once it was probed: an object is put, found to be there already when it is put again, read and deleted. `url`
# is file:///folder or s3://bucket/prefix; `options` are those of S3 (aws_endpoint, aws_region, aws_allow_http, aws_access_key_id),
# the secret key is the password of `secret`. A bucket named `rescue` gets a copy of every object that is committed from then on.
method AddBucket(name: string, url: string, options: ?[string]string, secret: ?string) -> (bucket: Bucket)

# Its objects stay where they are. `primary` and `rescue` cannot be removed, nor can one that datasets lie or indexes live in; `rescue` can be
# added again elsewhere.
method RemoveBucket(name: string) -> ()

# Asks every bucket for an object now.
method Health() -> (health: []BucketHealth)

# The newest failed operations first, 100 unless said; `total` of those that are kept.
method Errors(limit: ?int) -> (errors: []Failure, total: int)

# Makes sure that all failures so far are on disk; they are put there as they happen, so this is a barrier.
method FlushErrors() -> (total: int)

# Keeps the newest, 1,000 unless said.
method CompactErrors(keep: ?int) -> (kept: int, dropped: int)

error NoSuchBucket (message: string, retryable: bool, name: string)
error Protected (message: string, retryable: bool, name: string)
# Datasets lie in it, or indexes live there.
error InUse (message: string, retryable: bool, name: string)
# It could not be reached, or does not do what a bucket must.
error Unusable (message: string, retryable: bool, name: string)
",
};

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// `file:///…` or `s3://…`.
    pub url: String,
    /// Of S3; never a secret.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Entry of the secrets file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// It cannot be removed.
    pub protected: bool,
    /// A key can be created only once.
    pub conditional_put: bool,
    /// Unix time.
    pub added_ms: u64,
}

/// Reply of `Buckets`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BucketsOut {
    /// By name.
    pub buckets: Vec<Bucket>,
}

/// Parameters of `AddBucket`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddBucketIn {
    /// Its name.
    pub name: String,
    /// `file:///…` or `s3://…`.
    pub url: String,
    /// Of S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
    /// Entry of the secrets file whose password is the secret key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Reply of `AddBucket`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AddBucketOut {
    /// As it is registered.
    pub bucket: Bucket,
}

/// Parameters of `RemoveBucket`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveBucketIn {
    /// Its name.
    pub name: String,
}

/// How a bucket is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Its name.
    pub name: String,
    /// It answered.
    pub reachable: bool,
    /// After this long.
    pub latency_us: u64,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Reply of `Health`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HealthOut {
    /// By name.
    pub health: Vec<Health>,
}

/// An operation that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Unix time.
    pub at_ms: u64,
    /// Bucket.
    pub bucket: String,
    /// `put`, `get`, `delete`, `probe`, `verify`.
    pub operation: String,
    /// Key.
    pub key: String,
    /// Why.
    pub message: String,
}

/// Parameters of `Errors`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorsIn {
    /// Failures at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Reply of `Errors`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorsOut {
    /// Newest first.
    pub errors: Vec<Failure>,
    /// Of those that are kept.
    pub total: u64,
}

/// Reply of `FlushErrors`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlushErrorsOut {
    /// On disk.
    pub total: u64,
}

/// Parameters of `CompactErrors`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactErrorsIn {
    /// Failures to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
}

/// Reply of `CompactErrors`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CompactErrorsOut {
    /// Kept.
    pub kept: u64,
    /// Dropped.
    pub dropped: u64,
}
