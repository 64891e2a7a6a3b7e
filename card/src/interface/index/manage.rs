//! Making, filling, describing and mending indexes.

use brahman_card_derive::wire;

use crate::interface::Progress;
use crate::interface::catalog::IndexMark;
use crate::interface::index::FusionChoice;

#[wire]
pub struct CreateIn {
    pub name: String,
    /// Name of the dataset that it follows.
    pub dataset: String,
    /// Column whose values name documents.
    pub id_column: String,
    /// Column to chunk and embed.
    pub text_column: Option<String>,
    /// Several columns, joined by `template`.
    pub text_columns: Option<Vec<String>>,
    /// How they are joined: `{title}\n{body}`; one a line unless said.
    pub template: Option<String>,
    /// Column of vectors, used as they are: nothing is embedded.
    pub vector_column: Option<String>,
    /// Those that searches can filter by.
    pub filter_columns: Option<Vec<String>>,
    /// Longest chunk, in characters; bounded by tokens alone unless said.
    pub chunk_size: Option<u64>,
    /// Characters that neighbouring chunks share; none unless said.
    pub overlap: Option<u64>,
    /// Tokens of a chunk with what is put before it to be embedded, 16 to 8192; 256, or what the
    /// model takes, unless said.
    pub chunk_tokens: Option<u64>,
    /// `flat-hnsw` (the default), `hnsw-rs` or `exact`.
    pub engine: Option<String>,
    /// Name of the model that must embed; whichever the context has unless said.
    pub model: Option<String>,
    /// Neighbours a node of the graph; 16 unless said.
    pub m: Option<u64>,
    /// Candidates looked at for each node; 100 unless said.
    pub ef_construction: Option<u64>,
    /// Candidates a search keeps; 64, or as many as `target_recall` needs, unless said.
    pub ef_search: Option<u64>,
    /// Recall of the ten nearest for which `ef_search` is found whenever the graph is built anew,
    /// of 50,000 chunks and more; 0.98 unless said.
    pub target_recall: Option<f64>,
    /// Home bucket, one that is a folder; `primary` unless said.
    pub bucket: Option<String>,
    /// Language whose stems words have: `english`, `german` and so on, `none`, or `auto` (the
    /// default), which finds out.
    pub language: Option<String>,
    /// How `hybrid` searches fuse meaning and words, unless they say otherwise.
    pub fusion: Option<FusionChoice>,
}

#[wire]
pub struct CreateOut {
    /// False if it was there already, with the same parameters.
    pub created: bool,
}

/// Parameters of the methods that only name an index.
#[wire]
pub struct NameIn {
    pub name: String,
}

/// A row whose vector cannot be used.
#[wire]
pub struct SkippedRow {
    pub doc_id: String,
    pub reason: String,
}

#[wire]
pub struct MigrateIn {
    pub name: String,
    /// Model to embed with; whichever the context offers first unless said.
    pub model: Option<String>,
    /// Give up real vectors for those that a mock makes up: refused unless it is true.
    pub allow_mock: Option<bool>,
    /// Cut all texts anew, in the way of today, and embed them by the index's own model unless
    /// `model` names another; false unless said.
    pub chunks: Option<bool>,
}

/// Replies of `Refresh` and `Migrate`.
#[wire(phase)]
pub enum RefreshOut {
    /// The last.
    Done(RefreshSummary),
    /// `read`, `embed` or `write`.
    Progress(Progress),
}

/// What a refresh or a migration did.
#[wire]
pub struct RefreshSummary {
    /// Chunks in this phase.
    pub done: u64,
    pub of: u64,
    /// Of the last reply alone, as all that follow: documents in the index before.
    pub pre_existing_docs: u64,
    pub dataset_docs: u64,
    pub new_docs: u64,
    pub changed_docs: u64,
    pub removed_docs: u64,
    /// Those without text: they have no chunks.
    pub empty_docs: u64,
    /// Those whose vector cannot be used.
    pub skipped_docs: u64,
    /// The first of them.
    pub skipped: Vec<SkippedRow>,
    pub new_chunks: u64,
    /// Of the new chunks, those whose text the index had already embedded.
    pub reused: u64,
    /// Of the new chunks, those that a refresh which was cut off had embedded.
    pub resumed: u64,
    /// Chunks in the index now.
    pub total: u64,
    /// Of the new chunks, those the provider had in its cache; absent if the vectors are the
    /// dataset's own.
    pub cached: Option<u64>,
    /// Of the new chunks, those longer than the model's window.
    pub truncated: u64,
    pub duration_s: f64,
    /// Of files that are the new generation's own.
    pub bytes_written: u64,
    /// The catalog's mark.
    pub stale_cleared: bool,
    pub generation: u64,
    pub model: String,
    /// Vectors of a refresh that was cut off that were damaged, and embedded again.
    pub resume_lost: Option<u64>,
    /// Filter columns whose type is another than in older rows.
    pub converted: Option<Vec<Conversion>>,
    /// The dataset was deleted, or has another name, since it was read: the index holds what it
    /// was. Absent if it is there.
    pub dataset_gone: Option<bool>,
    /// Whether the index had been rolled back, and follows its dataset again.
    pub unpinned: Option<bool>,
    /// Why old files stay: what could not be read.
    pub sweep: Option<String>,
    pub mock: Option<bool>,
    /// Keys of the dataset's objects that were read from their copies in `rescue`, for their bucket
    /// is away.
    pub borrowed: Option<Vec<String>>,
    /// True if texts are cut as they were before tokens were counted: `Migrate` with `chunks` cuts
    /// them anew.
    pub old_chunks: Option<bool>,
    /// True if the provider could not tell how many tokens texts have, and chunks were cut by a
    /// guess.
    pub guessed: Option<bool>,
}

/// A filter column whose type changed: the newest counts.
#[wire]
pub struct Conversion {
    pub column: String,
    /// Arrow type in older rows.
    pub from: String,
    pub to: String,
    /// Values that the new type cannot hold and that became NULL.
    pub nulls_made: u64,
}

/// What of an index is in memory.
#[wire]
pub struct Caches {
    /// Generations: what answers, and those that somebody still reads.
    pub generations: u64,
    /// Of codes and graphs.
    pub graph_bytes: u64,
    /// Of vectors and texts that are mapped, and in memory as far as they were touched.
    pub mapped_bytes: u64,
    /// Of what was appended since the base was made.
    pub appended_bytes: u64,
    /// Of filter columns that were read.
    pub columns_bytes: u64,
    /// `closed`, `disk` or `memory`.
    pub words: String,
    /// Times that words or columns were at hand.
    pub hits: u64,
    /// Times that they had to be opened.
    pub misses: u64,
    /// Files that were compared with their checksums since the module began.
    pub verified_files: u64,
    /// Times that this spared a reading.
    pub verified_hits: u64,
    /// Times that it did not.
    pub verified_misses: u64,
}

/// An index. Its parameters are those of `Create`.
#[wire]
pub struct Description {
    pub name: String,
    pub dataset: String,
    pub id_column: String,
    pub text_column: Option<String>,
    pub vector_column: Option<String>,
    pub filter_columns: Vec<String>,
    /// Longest chunk, in characters; 0 if it is bounded by tokens alone.
    pub chunk_size: u64,
    pub overlap: u64,
    /// Tokens of a chunk that are aimed at; absent if texts are cut by characters.
    pub chunk_tokens: Option<u64>,
    pub bucket: String,
    pub engine: String,
    /// Absent before the first refresh, as `fingerprint` and `dim`.
    pub model: Option<String>,
    pub fingerprint: Option<String>,
    pub dim: Option<u64>,
    pub generation: u64,
    /// The dataset's generation it was last refreshed to.
    pub dataset_generation: u64,
    pub chunks: u64,
    pub docs: u64,
    /// Rows since the base was made.
    pub appended: u64,
    /// Rows that are gone and not yet removed.
    pub dead: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When everything has been touched.
    pub memory_bytes: u64,
    pub m: u64,
    pub ef_construction: u64,
    pub ef_search: u64,
    /// The dataset has moved on.
    pub stale: bool,
    /// Why another generation than the current one answers.
    pub degraded: Option<String>,
    /// `refresh`, `compaction` or another work that is going on.
    pub busy: Option<String>,
    /// If what answers was promoted: whether live searches find what they should.
    pub shadow: Option<ShadowInfo>,
    /// Whether it was rolled back and stays there until `Unpin` or the next `Refresh`; absent if
    /// that cannot be read.
    pub pinned: Option<bool>,
    /// The run of the dataset's generation it was last refreshed to.
    pub dataset_run: Option<String>,
    /// Why old files stay: what could not be read.
    pub sweep: Option<String>,
    pub caches: Option<Caches>,
    pub mock: Option<bool>,
    /// How its words are made; absent before the first refresh.
    pub words: Option<WordsInfo>,
    /// As at `Create`; absent if nothing was said.
    pub fusion: Option<FusionChoice>,
    /// Recall for which `ef_search` is found; absent if it was named or promoted.
    pub target_recall: Option<f64>,
    /// Recall that it had when the graph was built; absent of few chunks, which are not measured.
    pub recall: Option<f64>,
    /// How far its replicas in the bucket `rescue` are behind; absent where none are made, or
    /// before anybody has looked.
    pub replicas: Option<ReplicaLag>,
    /// Its dataset was deleted or renamed: it answers with what it has, and nothing refreshes it.
    pub dataset_gone: Option<bool>,
}

/// Files of an index that have no replica.
#[wire(Eq)]
pub struct ReplicaLag {
    /// Of all generations that are kept; 0 if each has one.
    pub files: u64,
    pub bytes: u64,
    /// Why the last of them could not be made; they are made again with the next word of the
    /// catalog's.
    pub failing: Option<String>,
}

/// What makes the words that an index is searched by.
#[wire]
pub struct WordsInfo {
    /// 0 of an index from before words had stems: the next compaction or migration makes them anew.
    pub version: u64,
    /// Languages whose stems they have.
    pub languages: Vec<String>,
}

#[wire]
pub struct ListOut {
    /// In the order of their names.
    pub indexes: Vec<Description>,
}

#[wire]
pub struct StatsOut {
    pub index: Description,
}

#[wire]
pub struct DeleteOut {
    /// False if there was none.
    pub deleted: bool,
}

#[wire]
pub struct DoctorIn {
    pub name: String,
    /// What is damaged is made again from the segments, and what cannot be is put aside.
    pub repair: Option<bool>,
}

#[wire]
pub struct DoctorOut {
    /// Whether nothing is wrong, or nothing any more.
    pub healthy: bool,
    /// What was found, naming files.
    pub problems: Vec<String>,
    /// Whether a new generation was made.
    pub repaired: bool,
    /// Rows that do not find themselves.
    pub orphans: u64,
    /// How many were compared with their checksums.
    pub files: u64,
    pub generation: u64,
    /// What is no damage of what answers: records that were put aside, files that stay.
    pub notes: Option<Vec<String>>,
    /// What could not be mended and was renamed, so that it stands in nobody's way.
    pub put_aside: Option<Vec<String>>,
}

#[wire(phase)]
pub enum CompactOut {
    /// The last.
    Done(CompactSummary),
    /// `build`.
    Progress(Progress),
}

/// What a compaction did.
#[wire]
pub struct CompactSummary {
    /// Rows.
    pub done: u64,
    pub of: u64,
    /// Of the last reply alone, as `generation`: false if there was nothing to fold in.
    pub compacted: bool,
    pub generation: Option<u64>,
}

/// Live searches compared with exact ones since a promotion.
#[wire]
pub struct ShadowInfo {
    /// `open`, `kept`, or `broken`: then the generation before answers again, if it finds more on
    /// the same searches.
    pub verdict: String,
    /// How many searches were compared.
    pub checked: u64,
    /// Mean share of true neighbours among those found; 0 while nothing was compared.
    pub recall: f64,
    /// What was promised.
    pub target: f64,
    /// Recall of the generation before on the same searches; absent unless the promise is broken
    /// and it could be measured.
    pub before: Option<f64>,
    /// Why it keeps answering although the promise is broken.
    pub stays: Option<String>,
}

#[wire]
pub struct SnapshotIn {
    /// Absolute path of a folder that is there and empty.
    pub folder: String,
}

#[wire]
pub struct SnapshotOut {
    /// Which generation of its dataset each has, in the order of their names.
    pub indexes: Vec<IndexMark>,
    /// Indexes that are not in it, and why.
    pub left_out: Option<Vec<String>>,
    /// These are a mock's.
    pub mock: Option<bool>,
}
