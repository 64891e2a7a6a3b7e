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
    idempotent: &["Buckets", "AddBucket", "Health", "Errors", "FlushErrors", "CompactErrors", "GetObject", "PutObject", "Scrub"],
    idl: "# Where objects lie: folders of this machine, or S3 and what speaks like it.
interface org.brahman.Storage

# `conditional_put`: a key can be created only once, so that two writers cannot both win. `secret` names the entry of the secrets
# file that has the key; it is not told here. `id` is the ULID in the marker at the bucket's root (.brahman-bucket.json), by which its
# disk is told from an empty folder; absent: no marker was written yet.
type Bucket (
  name: string,
  url: string,
  options: [string]string,
  secret: ?string,
  protected: bool,
  conditional_put: bool,
  added_ms: int,
  id: ?string
)

# `hint` says what to do about `error`. Of `rescue` alone: objects, and their bytes, that have no copy yet, and for how many seconds the
# oldest of them has had none. Of `primary` alone, for all buckets: `last_scrub_ms` is when every object was last verified, `damaged` how
# many were not right then and could not be repaired.
type BucketHealth (
  name: string,
  reachable: bool,
  latency_us: int,
  error: ?string,
  hint: ?string,
  backlog_objects: ?int,
  backlog_bytes: ?int,
  oldest_unsaved_s: ?int,
  last_scrub_ms: ?int,
  damaged: ?int
)

# An object that is not what was recorded, or is gone.
type ScrubDamage (bucket: string, key: string, why: string)

# An object that was replaced by a good copy of it.
type ScrubRepair (bucket: string, key: string)

type Failure (at_ms: int, bucket: string, operation: string, key: string, message: string)

method Buckets() -> (buckets: []Bucket)

# Registers a bucket, once it was probed: an object is put, found to be there already when it is put again, read and deleted. `url`
# is file:///folder or s3://bucket/prefix; `options` are those of S3 (aws_endpoint, aws_region, aws_allow_http, aws_access_key_id),
# the secret key is the password of `secret`, a session token its `token`, a customer's key its `customer_key`. A marker is written to
# the bucket's root. No two buckets may overlap, nor a bucket and the state. A bucket named `rescue` gets a copy of every object.
# `notes`: what holds of it that one should know, such as another catalog that uses it, or copies on the disk of what they are copies of.
method AddBucket(name: string, url: string, options: ?[string]string, secret: ?string) -> (bucket: Bucket, notes: ?[]string)

# Its objects stay where they are. `primary` and `rescue` cannot be removed, nor can one that datasets lie or indexes live in; `rescue` can be
# added again elsewhere.
method RemoveBucket(name: string) -> ()

# An object's bytes, or `length` of them from `offset`: at most 8 MiB a call. One that a dataset names is compared with the recorded
# SHA-256; one that is gone from its bucket, or damaged, is read from `rescue` if the copy there is right, and `rescue_used` says so.
# `size` is the whole object's, `sha256` too, where all of it was read.
method GetObject(bucket: string, key: string, offset: ?int, length: ?int) -> (
  data_base64: string,
  size: int,
  offset: int,
  sha256: ?string,
  rescue_used: bool
)

# Puts a whole object of at most 8 MiB: it is there with all its bytes or not at all. Keys below datasets/, manifests/, indexes/, mock/,
# brahman-probe/ and .brahman-catalogs/, the marker, and what a dataset names, cannot be put. `copied`: it has a copy in `rescue`.
method PutObject(bucket: string, key: string, data_base64: string) -> (size: int, sha256: string, copied: bool)

# Asks every bucket for its marker now.
method Health() -> (health: []BucketHealth)

# Reads every object that a dataset names, and every copy of one, and compares it with the recorded SHA-256; one that is not right is
# replaced by a copy that is. Of one bucket or one dataset, if said. With `more`, replies on the way hold what was done so far.
method Scrub(bucket: ?string, dataset: ?string) -> (
  objects: int,
  bytes: int,
  damaged: []ScrubDamage,
  repaired: []ScrubRepair,
  unrepaired: []ScrubDamage,
  elapsed_ms: int
)

# The newest failed operations first, 100 unless said; `total` of those that are kept.
method Errors(limit: ?int) -> (errors: []Failure, total: int, shortfall: ?string)

# Makes sure that all failures so far are on disk; they are put there as they happen, so this is a barrier.
method FlushErrors() -> (total: int)

# Keeps the newest, 1,000 unless said.
method CompactErrors(keep: ?int) -> (kept: int, dropped: int)

error NoSuchBucket (message: string, retryable: bool, name: string)
error Protected (message: string, retryable: bool, name: string)
# Datasets lie in it, or indexes live there.
error InUse (message: string, retryable: bool, name: string)
# It could not be reached, is away (its marker is not to be seen), or does not do what a bucket must.
error Unusable (message: string, retryable: bool, name: string)
error NoSuchObject (message: string, retryable: bool, name: string, key: string)
# The object is not what a dataset's file says of it, and no copy is.
error DamagedObject (message: string, retryable: bool, name: string, key: string)
# More bytes than a call carries; `offset` and `length` ask for a part.
error TooLarge (message: string, retryable: bool, size: int, max: int)
# A dataset is made of this object.
error Taken (message: string, retryable: bool, name: string, key: string)
# Nothing can be written to the state: what is there is served.
error ReadOnly (message: string, retryable: bool, path: string)
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
    /// ULID in the marker at its root; none before one was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
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
    /// What holds of it that one should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Vec<String>>,
}

/// Parameters of `RemoveBucket`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveBucketIn {
    /// Its name.
    pub name: String,
}

/// Most bytes of one `GetObject` or `PutObject`: in base64 they fit a message.
pub const OBJECT_BYTES_MAX: u64 = 8 << 20;

/// Parameters of `GetObject`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetObjectIn {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// First byte, 0 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes; all that follow unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// Reply of `GetObject`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct GetObjectOut {
    /// The bytes, by [`encode`].
    pub data_base64: String,
    /// Of the whole object.
    pub size: u64,
    /// Of the first byte given.
    pub offset: u64,
    /// Of the whole object, in hex, where all of it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The bytes are those of a copy.
    pub rescue_used: bool,
}

/// Parameters of `PutObject`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutObjectIn {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// The bytes, by [`encode`].
    pub data_base64: String,
}

/// Reply of `PutObject`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PutObjectOut {
    /// Bytes put.
    pub size: u64,
    /// Of the bytes, in hex.
    pub sha256: String,
    /// It has a copy in `rescue`.
    pub copied: bool,
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64 (RFC 4648 §4), padded.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let six = (bits >> (18 - 6 * i)) & 63;
            out.push(if i > three.len() { '=' } else { char::from(ALPHABET[six as usize]) });
        }
    }
    out
}

/// Bytes of base64; none if it is not exactly what [`encode`] gives.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let six = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let last = (text.len() / 4).saturating_sub(1);
    for (n, four) in text.chunks_exact(4).enumerate() {
        let pads = if n == last { four.iter().rev().take_while(|b| **b == b'=').count() } else { 0 };
        if pads > 2 {
            return None;
        }
        let mut bits = 0_u32;
        for b in &four[..4 - pads] {
            bits = bits << 6 | u32::from(six(*b)?);
        }
        bits <<= 6 * pads;
        let bytes = bits.to_be_bytes();
        // What the padding stands for must be nothing.
        if bytes[4 - pads..].iter().any(|b| *b != 0) {
            return None;
        }
        out.extend_from_slice(&bytes[1..4 - pads]);
    }
    Some(out)
}

/// How a bucket is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
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
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Of `rescue`: objects without a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_objects: Option<u64>,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_bytes: Option<u64>,
    /// For how long the oldest of them has had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unsaved_s: Option<u64>,
    /// Of `primary`, for all buckets: when every object was last verified, Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scrub_ms: Option<u64>,
    /// Objects that were not right then, and could not be repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<u64>,
}

/// Reply of `Health`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HealthOut {
    /// By name.
    pub health: Vec<Health>,
}

/// Parameters of `Scrub`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScrubIn {
    /// This bucket alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// What this dataset is made of alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
}

/// An object that is not what was recorded, or is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScrubDamage {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// What is wrong, or why it could not be repaired.
    pub why: String,
}

/// An object that was replaced by a good copy of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScrubRepair {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
}

/// Replies of `Scrub`: what was done so far and, in the last one, all of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ScrubOut {
    /// Objects read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects that were not right.
    pub damaged: Vec<ScrubDamage>,
    /// Those of them that are right again.
    pub repaired: Vec<ScrubRepair>,
    /// Those of them that are not.
    pub unrepaired: Vec<ScrubDamage>,
    /// Since it began.
    pub elapsed_ms: u64,
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
    /// Why there may be fewer than were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortfall: Option<String>,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            assert_eq!((encode(bytes.as_bytes()), decode(text)), (text.to_owned(), Some(bytes.as_bytes().to_vec())));
        }
        for bad in ["Z", "Zg=", "Zh==", "Z===", "====", "Zg==Zg==", "Zm9v\n", "Zm 9"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
