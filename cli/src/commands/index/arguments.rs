//! What `brahman index …` and `brahman search` take.

use std::path::PathBuf;

use brahman_card::interface::index::{Config, FusionChoice};
use clap::{Args, Subcommand};
use serde_json::Value;

fn json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

#[derive(Subcommand, Debug)]
pub(crate) enum Index {
    /// Describe a new index
    Create(Box<Create>),
    /// Bring an index up to its dataset; embeds only what is new
    Refresh {
        /// Index
        name: String,
    },
    /// Embed everything with another model, or cut it anew; what there is answers until that is
    /// done
    Migrate {
        /// Index
        name: String,
        /// Model to embed with [default: that of the context's first provider; with --chunks the
        /// index's own]
        #[arg(long)]
        model: Option<String>,
        /// Cut all texts anew, by the model's tokens
        #[arg(long)]
        chunks: bool,
    },
    /// List all indexes
    List,
    /// Show one index in detail
    Stats {
        /// Index
        name: String,
    },
    /// Print the chunks of one document
    Get {
        /// Index
        name: String,
        /// The document's value in the id column
        doc_id: String,
    },
    /// List an index's generations, newest first
    Generations {
        /// Index
        name: String,
    },
    /// Build and measure a challenger; it answers from then on if it is better
    Promote(Promote),
    /// Answer from the previous generation, or another one, and stay there (pinned)
    Rollback {
        /// Index
        name: String,
        /// Number of the generation to answer from
        #[arg(long)]
        generation: Option<u64>,
    },
    /// Let an index that was rolled back follow its dataset again
    Unpin {
        /// Index
        name: String,
    },
    /// Move an index to another bucket
    Move {
        /// Index
        name: String,
        /// Bucket, which must be a folder
        bucket: String,
    },
    /// Merge appended segments and drop deleted rows now
    Compact {
        /// Index
        name: String,
    },
    /// Build a graph beside the live one and measure it
    Trial {
        /// Index
        name: String,
        #[command(flatten)]
        config: Graph,
        /// Recall to reach when --ef-search is not given
        #[arg(long)]
        target_recall: Option<f64>,
        /// A note to keep with the trial
        #[arg(long)]
        note: Option<String>,
        /// Widths to measure on the one graph; the narrowest that reaches the target is chosen
        #[arg(long, value_delimiter = ',', conflicts_with = "ef_search")]
        widths: Vec<u64>,
        /// Eval set to measure with [default: default]
        #[arg(long)]
        set: Option<String>,
    },
    /// List the trials, with the best marked
    Trials {
        /// Index
        name: String,
        /// Draw recall against p95 latency into this SVG file
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        /// Drop all but the newest N trials
        #[arg(long, value_name = "N")]
        compact: Option<u64>,
    },
    /// Show the best trial on the current data
    Best {
        /// Index
        name: String,
        /// target, pareto, recall or latency [default: target if there is one, else pareto]
        #[arg(long)]
        by: Option<String>,
        /// Recall that must be reached [default: the index's own, if it has one]
        #[arg(long)]
        target_recall: Option<f64>,
        /// Eval set whose trials are compared [default: default]
        #[arg(long)]
        set: Option<String>,
    },
    /// Try a grid of configurations, or of a large one what promises most
    Autotune {
        /// Index
        name: String,
        /// Values of m
        #[arg(long, value_delimiter = ',')]
        m: Vec<u64>,
        /// Values of ef_construction
        #[arg(long, value_delimiter = ',')]
        ef_construction: Vec<u64>,
        /// Recall to reach
        #[arg(long)]
        target_recall: Option<f64>,
        /// Widths to measure on each graph [default: the narrowest that suffices is found]
        #[arg(long, value_delimiter = ',')]
        widths: Vec<u64>,
        /// Most trials [default: 12]
        #[arg(long)]
        trials: Option<u64>,
        /// Eval set to measure with [default: default]
        #[arg(long)]
        set: Option<String>,
    },
    /// Show what the background agent does; with an index, queue it for a trial
    Agent {
        /// Index
        name: Option<String>,
    },
    /// Make an eval set (queries with their true neighbours), or list those that exist
    Eval {
        /// Index
        name: String,
        /// List the eval sets instead of generating one
        #[arg(long)]
        list: bool,
        /// Number of queries in each half
        #[arg(long)]
        queries: Option<u64>,
        /// Number of neighbours of each query
        #[arg(short, long)]
        k: Option<u64>,
        /// Seed of the random choice of queries
        #[arg(long)]
        seed: Option<u64>,
        /// Name of the set [default: default]
        #[arg(long)]
        set: Option<String>,
        /// Queries of your own, a JSON object a line; - reads standard input
        #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "queries", "seed"])]
        from: Option<PathBuf>,
    },
    /// Verify every file's checksum, and search for every row
    Doctor {
        /// Index
        name: String,
        /// Rebuild what is damaged from the segments
        #[arg(long)]
        repair: bool,
    },
    /// Delete an index
    Delete {
        /// Index
        name: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Index
    pub(super) name: String,
    /// Dataset it follows
    #[arg(long)]
    pub(super) dataset: String,
    /// Column that names documents
    #[arg(long, default_value = "id")]
    pub(super) id_column: String,
    /// Columns to chunk and embed; several are joined one per line, or by --template [default:
    /// text]
    #[arg(long, value_delimiter = ',')]
    pub(super) text_column: Vec<String>,
    /// How several columns are joined: '{title}: {body}'
    #[arg(long)]
    pub(super) template: Option<String>,
    /// Column of vectors, used as they are
    #[arg(long, conflicts_with = "template")]
    pub(super) vector_column: Option<String>,
    /// Columns that searches can filter by
    #[arg(long, value_delimiter = ',')]
    pub(super) filter_column: Vec<String>,
    /// Tokens per chunk, with what is put before it to be embedded [default: 256, or what the model
    /// takes]
    #[arg(long)]
    pub(super) chunk_tokens: Option<u64>,
    /// Characters per chunk at most [default: bounded by tokens alone]
    #[arg(long)]
    pub(super) chunk_size: Option<u64>,
    /// Characters that neighbouring chunks share [default: none]
    #[arg(long)]
    pub(super) overlap: Option<u64>,
    /// Bucket to store the index in, which must be a folder [default: primary]
    #[arg(long)]
    pub(super) bucket: Option<String>,
    /// Model that must embed
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Language whose stems words have, or none [default: found out from the texts]
    #[arg(long)]
    pub(super) language: Option<String>,
    /// Recall for which the width of searches is found [default: 0.98]
    #[arg(long)]
    pub(super) target_recall: Option<f64>,
    #[command(flatten)]
    pub(super) fusion: Fusing,
    #[command(flatten)]
    pub(super) graph: Graph,
}

/// How meaning and words become one list.
#[derive(Args, Debug)]
pub(crate) struct Fusing {
    /// How hybrid searches fuse both lists: weighted (by scores) or rrf (by places) [default:
    /// weighted]
    #[arg(long, value_name = "METHOD")]
    pub(super) fusion: Option<String>,
    /// The share of meaning in it, from 0 (words alone) to 1 [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub(super) fusion_weight: Option<f64>,
}

impl Fusing {
    pub(super) fn choice(self) -> Option<FusionChoice> {
        let Self { fusion: method, fusion_weight: weight } = self;
        (method.is_some() || weight.is_some()).then_some(FusionChoice { method, weight })
    }
}

/// How a graph is built and searched.
#[derive(Args, Debug)]
pub(crate) struct Graph {
    /// flat-hnsw, hnsw-rs or exact
    #[arg(long)]
    pub(super) engine: Option<String>,
    /// Neighbours per node
    #[arg(long)]
    pub(super) m: Option<u64>,
    /// Candidates considered for each node
    #[arg(long)]
    pub(super) ef_construction: Option<u64>,
    /// Candidates that a search keeps
    #[arg(long)]
    pub(super) ef_search: Option<u64>,
}

impl Graph {
    pub(super) fn config(&self) -> Config {
        Config {
            engine: self.engine.clone(),
            m: self.m,
            ef_construction: self.ef_construction,
            ef_search: self.ef_search,
            ..Config::default()
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Promote {
    /// Index
    pub(super) name: String,
    /// Id of a trial [default: the best one, if no other option is given]
    #[arg(long, conflicts_with_all = ["generation", "engine", "m", "ef_construction", "ef_search"])]
    pub(super) trial: Option<String>,
    /// Number of an existing generation
    #[arg(long, conflicts_with_all = ["engine", "m", "ef_construction", "ef_search"])]
    pub(super) generation: Option<u64>,
    #[command(flatten)]
    pub(super) graph: Graph,
    /// Recall that must be reached
    #[arg(long)]
    pub(super) target_recall: Option<f64>,
    /// Promote it whatever is measured, even if documents are lost; this is recorded
    #[arg(long)]
    pub(super) force: bool,
    /// Eval set to measure with [default: default]
    #[arg(long)]
    pub(super) set: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Search {
    /// Index
    pub(super) index: String,
    /// What to search for; - reads it from standard input
    pub(super) query: String,
    /// Number of hits
    #[arg(short, default_value_t = 10)]
    pub(super) k: u64,
    /// Only rows that match this filter, as JSON: '{"lang": "rust", "year": {"$gte": 2020}}'
    #[arg(long, value_parser = json)]
    pub(super) filter: Option<Value>,
    /// Search by meaning (the default)
    #[arg(long, conflicts_with_all = ["lexical", "hybrid"])]
    pub(super) semantic: bool,
    /// Search by words only (BM25)
    #[arg(long, conflicts_with = "hybrid")]
    pub(super) lexical: bool,
    /// Search by words and by meaning, fused into one list
    #[arg(long)]
    pub(super) hybrid: bool,
    #[command(flatten)]
    pub(super) fusion: Fusing,
    /// Take "phrases" and -exclusions as plain text
    #[arg(long)]
    pub(super) literal: bool,
    /// Most hits of one document
    #[arg(long, value_name = "N")]
    pub(super) per_document: Option<u64>,
    /// Compare with all vectors instead of searching the graph
    #[arg(long)]
    pub(super) exact: bool,
    /// Candidates that the search keeps
    #[arg(long)]
    pub(super) ef: Option<u64>,
    /// Model that the index's vectors must be of [default: whichever they are of, which embeds the
    /// query]
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Have a reranker order the foremost N hits
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "50")]
    pub(super) rerank: Option<u64>,
    /// Model that must rerank
    #[arg(long, value_name = "MODEL", requires = "rerank")]
    pub(super) rerank_model: Option<String>,
    /// Where nobody reranks, print the hits in the search's own order instead of an error
    #[arg(long, requires = "rerank")]
    pub(super) rerank_optional: bool,
}
