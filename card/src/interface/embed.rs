//! `org.brahman.Embed`: texts and files to vectors.

use std::collections::BTreeMap;

use brahman_card_derive::wire;

interface! {
    /// Texts and files to vectors.
    ///
    /// Of every answer: `dim` is the length of a vector, `fingerprint` what vectors depend on
    /// (files, pooling, prompts, window, precision, and `/N` behind it where the call had them cut
    /// to N numbers), `device` cpu or cuda:N, `mock` whether the vectors are synthetic,
    /// `elapsed_us` the time in the provider, `prompt` what was put before the texts, `precision`
    /// of the model's numbers, `normalized` whether vectors have length 1.
    ///
    /// Of every call: `role` is what the texts are for, `query` (they are searched for) or
    /// `document` (they are found), and chooses the model's own prompt; `prompt_name` names one of
    /// its prompts, `prompt` is one in words; without any of them the model's default prompt
    /// counts. `dimensions` has vectors cut to their first numbers, and scaled again; refused
    /// unless the model was trained for it.
    "org.brahman.Embed"
    methods {
        /// One vector a text, in order. A text longer than the model's window is refused unless
        /// `truncate` is true.
        EmbedText(EmbedTextIn) -> EmbedTextOut: idempotent, long, reads;
        /// Embeds the first 8 KiB of a file of the caller's own.
        EmbedFile(EmbedFileIn) -> EmbedFileOut: idempotent, reads;
        /// Call with `upgrade`. After the reply the connection carries frames: a 32-bit
        /// little-endian length, then that many bytes of an Arrow IPC stream. Each frame sent has a
        /// Utf8 column `text`; each frame back has `vector` (FixedSizeList<float>), `tokens`,
        /// `kept` (UInt32) and `cached` (Bool), a row a text. A length with its top bit set
        /// announces a Varlink error object in JSON instead. A frame of length 0 ends the stream.
        /// With `partial` frames back have a column `failed` (Utf8), too: null, or why a text has
        /// no vector, whose row is then zeros.
        EmbedBulk(EmbedBulkIn) -> EmbedBulkOut: idempotent, long, reads;
        /// How many tokens each text has for the model, special ones and the prompt's included;
        /// nothing is embedded.
        Tokenize(TokenizeIn) -> TokenizeOut: idempotent, reads;
        Info() -> InfoOut: idempotent, reads;
    }
    errors {
        /// A text has more tokens than the model's window, and the caller did not choose
        /// `truncate`.
        TextTooLong { index: u64, tokens: u64, max_tokens: u64 }
        /// The model's output for a text was not finite, or inference failed. The other texts of
        /// the call are in the cache by now.
        BadOutput { #[serde(skip_serializing_if = "Option::is_none")] index: Option<u64> }
        /// The device's memory does not hold a text of so many tokens, not even alone in its pass.
        /// The other texts of the call are in the cache by now.
        OutOfMemory {
            #[serde(skip_serializing_if = "Option::is_none")] index: Option<u64>,
            tokens: u64
        }
        /// The file cannot be read for this caller.
        FileUnreadable { path: String }
    }
}

#[wire]
pub struct EmbedTextIn {
    pub texts: Vec<String>,
    /// Cut what is too long instead of refusing it; false unless said.
    pub truncate: Option<bool>,
    /// `query` or `document`.
    pub role: Option<String>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
    /// A prompt in words.
    pub prompt: Option<String>,
    pub dimensions: Option<u64>,
    /// Answer although a text has no vector: its list is then empty, and `failed` says why. Else
    /// the call fails.
    pub partial: Option<bool>,
}

/// A text without a vector.
#[wire(Eq)]
pub struct FailedText {
    /// Place of the text in the call, from 0.
    pub index: u64,
    /// Name of the error.
    pub error: String,
    pub message: String,
}

/// A text with tokens that the model's vocabulary does not have: they all look alike to the model.
#[wire(Copy, Eq)]
pub struct UnknownTokens {
    /// Place of the text in the call, from 0.
    pub index: u64,
    /// How many of the tokens looked at are unknown.
    pub unknown: u64,
}

/// A text that was longer than the model's window.
#[wire(Copy, Eq)]
pub struct Truncation {
    /// Place of the text in the call, from 0.
    pub index: u64,
    /// How many tokens the text has.
    pub tokens: u64,
    /// The first of them (or the last, of a model that cuts on the left), which were embedded.
    pub kept: u64,
    /// True where the rest of a long text was not looked at: it has at least so many tokens.
    pub at_least: Option<bool>,
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
    /// Absent if nothing was put before the texts.
    pub prompt: Option<String>,
    pub precision: Option<String>,
    pub normalized: Option<bool>,
    /// Absent if every token is known.
    pub unknown: Option<Vec<UnknownTokens>>,
    /// With `partial`: absent if every text has a vector.
    pub failed: Option<Vec<FailedText>>,
}

#[wire]
pub struct EmbedFileIn {
    /// Absolute path, of the caller's own.
    pub path: String,
    /// Cut what is too long instead of refusing it; true unless said, since 8 KiB rarely fit a
    /// window.
    pub truncate: Option<bool>,
    /// `query` or `document`.
    pub role: Option<String>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
    /// A prompt in words.
    pub prompt: Option<String>,
    pub dimensions: Option<u64>,
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
    /// Absent if nothing was put before the file's text.
    pub prompt: Option<String>,
    pub precision: Option<String>,
    pub normalized: Option<bool>,
    /// Tokens that the model's vocabulary does not have; absent if there are none.
    pub unknown: Option<u64>,
}

#[wire]
pub struct EmbedBulkIn {
    /// Cut what is too long instead of refusing it.
    pub truncate: Option<bool>,
    /// `query` or `document`.
    pub role: Option<String>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
    /// A prompt in words.
    pub prompt: Option<String>,
    pub dimensions: Option<u64>,
    /// Answer although a text has no vector, and say in the column `failed` why. Else the whole
    /// frame fails.
    pub partial: Option<bool>,
}

#[wire]
pub struct EmbedBulkOut {
    pub model: String,
    pub dim: u64,
    pub fingerprint: String,
    pub device: String,
    pub mock: bool,
    /// Absent if nothing is put before the texts.
    pub prompt: Option<String>,
    pub precision: Option<String>,
    pub normalized: Option<bool>,
    /// How vectors are to be compared, as the model's folder says it: `cosine`, `dot` and so on;
    /// absent if it does not.
    pub similarity: Option<String>,
    pub warnings: Option<Vec<String>>,
}

#[wire]
pub struct TokenizeIn {
    pub texts: Vec<String>,
    /// `query` or `document`.
    pub role: Option<String>,
    /// The name of one of the model's prompts.
    pub prompt_name: Option<String>,
    /// A prompt in words.
    pub prompt: Option<String>,
    /// Whether each token's place in its text is wanted; false unless said.
    pub offsets: Option<bool>,
}

/// The tokens of one text.
#[wire]
pub struct TextTokens {
    /// How many there are, special ones and the prompt's included.
    pub tokens: u64,
    /// How many of them fit the model's window.
    pub kept: u64,
    /// True where the rest of a long text was not looked at: it has at least so many.
    pub at_least: Option<bool>,
    /// How many of them the model's vocabulary does not have.
    pub unknown: u64,
    /// If wanted: where each token of the text itself begins, in bytes. Tokens of the prompt and
    /// special ones are left out.
    pub starts: Option<Vec<u64>>,
    /// If wanted: where each of them ends.
    pub ends: Option<Vec<u64>>,
}

#[wire]
pub struct TokenizeOut {
    pub model: String,
    pub fingerprint: String,
    pub mock: bool,
    /// Window of the model in tokens; 0 of a provider without one.
    pub max_tokens: u64,
    /// One a text, in order.
    pub texts: Vec<TextTokens>,
    /// Absent if nothing was put before the texts.
    pub prompt: Option<String>,
}

/// How a model makes vectors, as its folder and its settings have it.
#[wire(Eq)]
pub struct ModelRecipe {
    /// The ONNX file, from the model's folder on.
    pub graph: String,
    /// The graph's output that is taken.
    pub output: String,
    /// How tokens become one vector: names joined by `+`; absent if the graph pools by itself.
    pub pooling: Option<String>,
    pub precision: String,
    pub normalized: bool,
    /// Which file says how many tokens a text may have.
    pub window_source: String,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// The name of the one that counts where a call says none.
    pub default_prompt: Option<String>,
    /// How vectors are to be compared, as the model's folder says it.
    pub similarity: Option<String>,
    /// Lengths to which a call may have vectors cut.
    pub dimensions: Vec<u64>,
    /// Why each text goes through the model by itself; absent if texts share a pass.
    pub alone: Option<String>,
    /// What was said of the model outside its own files.
    pub overrides: Vec<String>,
}

/// The device asked for and the one in use: cpu or cuda:N. A GPU may be asked for by its UUID, as
/// cuda:GPU-….
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

/// What a server that embeds for others did when it was tried. Which model it runs is its own word:
/// it is known by its address, the model's name and the length of its vectors.
#[wire]
pub struct ServerProbe {
    /// Its address.
    pub url: String,
    /// `openai`, `ollama` or `tei`.
    pub dialect: String,
    /// How far apart two vectors of one text were, of length 1 each, alone and beside another; 0 if
    /// they had the same bits.
    pub distance: f64,
    /// What became of a text longer than most windows: `refused`, `cut` (in silence), `whole` or
    /// `untried`.
    pub long_texts: String,
    /// False if it could not be asked since this process started: then this is what it did earlier.
    pub verified: bool,
    /// Why it is not asked at present; absent if it is.
    pub outage: Option<String>,
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
    /// Absent of a mock.
    pub recipe: Option<ModelRecipe>,
    /// Of a provider that asks a server: what that did when it was tried.
    pub server: Option<ServerProbe>,
}
