//! `org.brahman.Embed`: texts and files to vectors.

use brahman_card_derive::wire;

interface! {
    /// Texts and files to unit vectors.
    ///
    /// Of every answer: `dim` is the length of a vector, `fingerprint` what vectors depend on (files, pooling, window, precision),
    /// `device` cpu or cuda:N, `mock` whether the vectors are synthetic, `elapsed_us` the time in the provider.
    "org.brahman.Embed"
    methods {
        /// One vector a text, in order. A text longer than the model's window is refused unless `truncate` is true.
        EmbedText(EmbedTextIn) -> EmbedTextOut: idempotent, long;
        /// Embeds the first 8 KiB of a file of the caller's own.
        EmbedFile(EmbedFileIn) -> EmbedFileOut: idempotent;
        /// Call with `upgrade`. After the reply the connection carries frames: a 32-bit little-endian length, then that many
        /// bytes of an Arrow IPC stream. Each frame sent has a Utf8 column `text`; each frame back has `vector`
        /// (FixedSizeList<float>), `tokens`, `kept` (UInt32) and `cached` (Bool), a row a text. A length with its top bit set
        /// announces a Varlink error object in JSON instead. A frame of length 0 ends the stream.
        EmbedBulk(EmbedBulkIn) -> EmbedBulkOut: idempotent;
        Info() -> InfoOut: idempotent;
    }
    errors {
        /// A text has more tokens than the model's window, and the caller did not choose `truncate`.
        TextTooLong { index: u64, tokens: u64, max_tokens: u64 }
        /// The model's output was not finite.
        BadOutput {}
        /// The file cannot be read for this caller.
        FileUnreadable { path: String }
    }
}

#[wire]
pub struct EmbedTextIn {
    pub texts: Vec<String>,
    /// Cut what is too long instead of refusing it; false unless said.
    pub truncate: Option<bool>,
}

/// A text that was longer than the model's window.
#[wire(Copy, Eq)]
pub struct Truncation {
    /// Place of the text in the call, from 0.
    pub index: u64,
    /// How many tokens the text has.
    pub tokens: u64,
    /// The first of them, which were embedded.
    pub kept: u64,
}

#[wire]
pub struct EmbedTextOut {
    pub model: String,
    pub dim: u64,
    pub vectors: Vec<Vec<f32>>,
    /// How many were not computed for this call.
    pub cached: u64,
    pub truncated: Vec<Truncation>,
    pub device: String,
    pub elapsed_us: u64,
    pub fingerprint: String,
    pub mock: bool,
    /// Degradations, such as a cache that could not be opened.
    pub warnings: Option<Vec<String>>,
}

#[wire]
pub struct EmbedFileIn {
    /// Absolute path, of the caller's own.
    pub path: String,
    /// Cut what is too long instead of refusing it; true unless said, since 8 KiB rarely fit a window.
    pub truncate: Option<bool>,
}

#[wire]
pub struct EmbedFileOut {
    pub model: String,
    pub dim: u64,
    pub vector: Vec<f32>,
    /// Of the bytes seen, in hex.
    pub sha256: String,
    /// At most 8192, from the file's beginning.
    pub bytes_seen: u64,
    /// The whole file's length.
    pub bytes_total: u64,
    /// Whether it was computed earlier.
    pub cached: bool,
    /// Whether the bytes seen had more tokens than the window.
    pub truncated: Option<Truncation>,
    pub device: String,
    pub elapsed_us: u64,
    pub fingerprint: String,
    pub mock: bool,
    pub warnings: Option<Vec<String>>,
}

#[wire(Copy)]
pub struct EmbedBulkIn {
    /// Cut what is too long instead of refusing it.
    pub truncate: Option<bool>,
}

#[wire]
pub struct EmbedBulkOut {
    pub model: String,
    pub dim: u64,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
}

/// The device asked for and the one in use: cpu or cuda:N.
#[wire(Eq)]
pub struct Device {
    /// As the settings say it; `cuda`, too.
    pub requested: String,
    pub active: String,
    /// Why they differ, or how the active one was confirmed.
    pub reason: String,
}

/// How the vector cache stands.
#[wire(Eq)]
pub struct CacheInfo {
    /// How many vectors it holds.
    pub entries: u64,
    /// Bytes of the vectors that it holds.
    pub bytes: u64,
    /// Since start, as `misses`.
    pub hits: u64,
    pub misses: u64,
    /// `open`, or why there is none.
    pub state: String,
}

/// The write-through of new inputs to the content-addressed store.
#[wire(Eq)]
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
#[wire(Eq)]
pub struct Gpu {
    pub name: String,
    pub driver: String,
    /// In bytes, whoever uses it.
    pub memory_total: u64,
    /// In bytes, for whoever asks next.
    pub memory_free: u64,
    /// Per cent of the last sample's time.
    pub utilization: u64,
}

#[wire]
pub struct InfoOut {
    pub model: String,
    pub fingerprint: String,
    pub dim: u64,
    /// Window of the model in tokens.
    pub max_tokens: u64,
    pub mock: bool,
    pub device: Device,
    /// Absent of a provider without one, as `store` is.
    pub cache: Option<CacheInfo>,
    pub store: Option<StoreInfo>,
    /// Absent where there is no NVML.
    pub gpu: Option<Vec<Gpu>>,
    /// Inference library and version.
    pub runtime: Option<String>,
    /// Texts waiting for inference.
    pub queue: u64,
    /// Texts inferred since start.
    pub computed: u64,
    /// Texts dropped from the queue because every caller hung up.
    pub cancelled: u64,
}
