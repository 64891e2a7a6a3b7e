//! `org.brahman.Embed`: texts and files to vectors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Embed",
    idempotent: &["EmbedText", "EmbedFile", "EmbedBulk", "Info"],
    idl: "# Texts and files to unit vectors.
interface org.brahman.Embed

# A text that was longer than the model's window: it has `tokens`, the first `kept` were embedded.
type Truncation (index: int, tokens: int, kept: int)

# `requested` and `active` are cpu or cuda:N; `reason` says why they differ or how active was confirmed.
type Device (requested: string, active: string, reason: string)

type Cache (entries: int, bytes: int, hits: int, misses: int, state: string)

# Write-through of new inputs to the content-addressed store.
type Store (written: int, dropped: int, failed: int, state: string)

type Gpu (name: string, driver: string, memory_total: int, memory_free: int, utilization: int)

# One vector a text, in order: `vectors` is a list of lists of floats. `truncate` false (the default) refuses a text that is too long.
# `cached` counts the vectors that were not computed for this call.
method EmbedText(texts: []string, truncate: ?bool) -> (
  model: string,
  dim: int,
  vectors: []object,
  cached: int,
  truncated: []Truncation,
  device: string,
  elapsed_us: int,
  fingerprint: string,
  mock: bool,
  warnings: ?[]string
)

# Embeds the first 8 KiB of a file of the caller's own.
method EmbedFile(path: string, truncate: ?bool) -> (
  model: string,
  dim: int,
  vector: []float,
  sha256: string,
  bytes_seen: int,
  bytes_total: int,
  cached: bool,
  truncated: ?Truncation,
  device: string,
  elapsed_us: int,
  fingerprint: string,
  mock: bool,
  warnings: ?[]string
)

# Call with `upgrade`. After the reply the connection carries frames: a 32-bit little-endian length, then that many
# bytes of an Arrow IPC stream. Each frame sent has a Utf8 column `text`; each frame back has `vector`
# (FixedSizeList<float>), `tokens`, `kept` (UInt32) and `cached` (Bool), a row a text. A length with its top bit set
# announces a Varlink error object in JSON instead. A frame of length 0 ends the stream.
method EmbedBulk(truncate: ?bool) -> (model: string, dim: int, fingerprint: string, device: string, mock: bool)

method Info() -> (
  model: string,
  fingerprint: string,
  dim: int,
  max_tokens: int,
  mock: bool,
  device: Device,
  cache: ?Cache,
  store: ?Store,
  gpu: ?[]Gpu,
  runtime: ?string,
  queue: int,
  computed: int,
  cancelled: int
)

# A text has more tokens than the model's window, and the caller did not choose `truncate`.
error TextTooLong (message: string, retryable: bool, index: int, tokens: int, max_tokens: int)
# The model's output was not finite.
error BadOutput (message: string, retryable: bool)
# The file cannot be read for this caller.
error FileUnreadable (message: string, retryable: bool, path: string)
",
};

/// Parameters of `EmbedText`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedTextIn {
    /// The texts.
    pub texts: Vec<String>,
    /// Cut what is too long instead of refusing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
}

/// A text longer than the model's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Truncation {
    /// Which text.
    pub index: u64,
    /// Tokens it has.
    pub tokens: u64,
    /// Tokens embedded.
    pub kept: u64,
}

/// Reply of `EmbedText`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EmbedTextOut {
    /// Model name.
    pub model: String,
    /// Length of each vector.
    pub dim: u64,
    /// One unit vector a text.
    pub vectors: Vec<Vec<f32>>,
    /// How many were not computed for this call.
    pub cached: u64,
    /// Texts that were cut.
    pub truncated: Vec<Truncation>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Time in the provider.
    pub elapsed_us: u64,
    /// What the vectors depend on: files, pooling, window, precision.
    pub fingerprint: String,
    /// Whether the vectors are synthetic.
    pub mock: bool,
    /// Degradations, such as a cache that could not be opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
}

/// Parameters of `EmbedFile`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedFileIn {
    /// Absolute path.
    pub path: String,
    /// Cut what is too long instead of refusing it; true unless said, since 8 KiB rarely fit a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
}

/// Reply of `EmbedFile`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EmbedFileOut {
    /// Model name.
    pub model: String,
    /// Length of the vector.
    pub dim: u64,
    /// A unit vector.
    pub vector: Vec<f32>,
    /// Of the bytes seen, in hex.
    pub sha256: String,
    /// At most 8192.
    pub bytes_seen: u64,
    /// The file's length.
    pub bytes_total: u64,
    /// Whether it was computed earlier.
    pub cached: bool,
    /// Whether the bytes seen had more tokens than the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Time in the provider.
    pub elapsed_us: u64,
    /// What the vector depends on.
    pub fingerprint: String,
    /// Whether the vector is synthetic.
    pub mock: bool,
    /// Degradations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
}

/// Parameters of `EmbedBulk`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedBulkIn {
    /// Cut what is too long instead of refusing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
}

/// Confirming reply of `EmbedBulk`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EmbedBulkOut {
    /// Model name.
    pub model: String,
    /// Length of each vector.
    pub dim: u64,
    /// What the vectors depend on.
    pub fingerprint: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Whether the vectors are synthetic.
    pub mock: bool,
}

/// The device asked for and the one in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// `cpu`, `cuda` or `cuda:N`.
    pub requested: String,
    /// `cpu` or `cuda:N`.
    pub active: String,
    /// Why they differ, or how the active one was confirmed.
    pub reason: String,
}

/// The vector cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheInfo {
    /// Vectors held.
    pub entries: u64,
    /// Payload bytes held.
    pub bytes: u64,
    /// Since start.
    pub hits: u64,
    /// Since start.
    pub misses: u64,
    /// `open`, or why there is none.
    pub state: String,
}

/// The write-through to the content-addressed store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreInfo {
    /// Objects written since start.
    pub written: u64,
    /// Objects left out because the writer was behind.
    pub dropped: u64,
    /// Objects that the disk refused.
    pub failed: u64,
    /// `open`, or why there is none.
    pub state: String,
}

/// What NVML says of one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: String,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_free: u64,
    /// Percent.
    pub utilization: u64,
}

/// Reply of `Info`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InfoOut {
    /// Model name.
    pub model: String,
    /// What the vectors depend on.
    pub fingerprint: String,
    /// Length of each vector.
    pub dim: u64,
    /// The model's window.
    pub max_tokens: u64,
    /// Whether the vectors are synthetic.
    pub mock: bool,
    /// The device asked for and the one in use.
    pub device: Device,
    /// The vector cache, if the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheInfo>,
    /// The write-through, if the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreInfo>,
    /// GPUs that NVML sees; absent where there is no NVML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Vec<Gpu>>,
    /// Inference library and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Texts waiting for inference.
    pub queue: u64,
    /// Texts inferred since start.
    pub computed: u64,
    /// Texts dropped from the queue because every caller hung up.
    pub cancelled: u64,
}
