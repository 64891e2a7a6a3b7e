//! What a generation is, as its folder's manifest.json says it.

use brahman_card::clock::now_ms;
use brahman_card::interface::index::Measurement;
use flat_hnsw::build::Parameters;
use serde::{Deserialize, Serialize};

use crate::analyser::Analyser;
use crate::embedder::Model;
use crate::files::FileRef;
use crate::row_sum::RowSum;

/// The files of a base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// Rows, all of one segment, in the order of the graph's nodes.
    pub rows: u64,
    /// Parquet: what everything else can be made from again.
    pub segment: FileRef,
    /// Codes, graph and vectors.
    pub graph: FileRef,
    /// File with its documents and texts.
    pub rows_file: FileRef,
    /// Words; absent in what was written before they had checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lexical: Option<Vec<FileRef>>,
    /// What made those words; absent in what was written before there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analyser: Option<Analyser>,
}

/// A segment of the delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// How many rows it has.
    pub rows: u64,
    /// The Parquet file itself.
    pub file: FileRef,
}

/// Candidates that a search keeps unless somebody says otherwise, or more are needed for the recall
/// that is wanted.
pub const EF_DEFAULT: usize = 64;
/// The recall that is wanted unless the index says otherwise.
pub const RECALL_DEFAULT: f64 = 0.98;

/// What a generation is: `gen-<ulid>/manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Grows with every generation.
    pub number: u64,
    /// Folder of the one before.
    pub parent: Option<String>,
    /// `refresh`, `compaction`, `promotion` or `migration`.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Generation of the dataset it was refreshed to.
    pub dataset_generation: u64,
    /// The run that wrote that generation of the dataset: numbers may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_run: Option<String>,
    /// Model of the vectors.
    pub model: Model,
    /// Name of the engine that built it.
    pub engine: String,
    /// How the graph is built.
    pub parameters: Parameters,
    /// Candidates a search keeps unless it says otherwise.
    pub ef_search: usize,
    /// Absent while there is nothing.
    pub base: Option<BaseRef>,
    /// Appended since the base was made.
    pub segments: Vec<SegmentRef>,
    /// Numbers of dead rows, as little-endian u32.
    pub dead: Option<FileRef>,
    /// How many documents are alive.
    pub docs: u64,
    /// How many chunks are alive.
    pub chunks: u64,
    /// If it was measured.
    pub measured: Option<Measurement>,
    /// Recall that it was promoted for; live searches are checked against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_recall: Option<f64>,
    /// Whether it was promoted although its measure spoke against it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// The language whose words it has, if one was named; else what is found in its texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The way in which its texts were cut: [`crate::refresh::CHUNKING`], or absent of what was cut
    /// by characters, and of vectors that came with the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunking: Option<u32>,
    /// Recall for which `ef_search` is found whenever a base is built; absent if it was named, or
    /// promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_wanted: Option<f64>,
    /// Recall of the ten nearest that `ef_search` had then; absent of few rows, which were not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_measured: Option<f64>,
    /// Documents of the dataset without text, as of that generation of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub empty_docs: u64,
    /// Those whose vector cannot be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_docs: u64,
    /// A sum over the rows alive and their vectors; absent in what was written before there was
    /// one, and after that by appending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_sum: Option<RowSum>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Manifest {
    /// Of an index's first generation, without files or counts.
    #[must_use]
    pub fn first(model: Model, engine: String, parameters: Parameters, ef_search: usize) -> Self {
        Self {
            number: 1,
            parent: None,
            reason: "refresh".into(),
            created_ms: now_ms(),
            dataset_generation: 0,
            dataset_run: None,
            model,
            engine,
            parameters,
            ef_search,
            base: None,
            segments: Vec::new(),
            dead: None,
            docs: 0,
            chunks: 0,
            measured: None,
            target_recall: None,
            forced: false,
            language: None,
            chunking: None,
            recall_wanted: None,
            recall_measured: None,
            empty_docs: 0,
            skipped_docs: 0,
            rows_sum: None,
        }
    }

    /// Of one that follows the generation in `folder`: as it is, but for what is said.
    #[must_use]
    pub fn after(&self, folder: &str, number: u64, reason: &str) -> Self {
        Self {
            number,
            parent: Some(folder.to_owned()),
            reason: reason.to_owned(),
            created_ms: now_ms(),
            measured: None,
            target_recall: None,
            forced: false,
            ..self.clone()
        }
    }

    /// All files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let base = self.base.iter().flat_map(|b| {
            [&b.segment, &b.graph, &b.rows_file].into_iter().chain(b.lexical.iter().flatten())
        });
        base.chain(self.segments.iter().map(|s| &s.file)).chain(&self.dead)
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }
}
