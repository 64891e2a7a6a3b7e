//! What `brahman index …` and `brahman search` take.

use std::path::PathBuf;

use brahman_card::interface::index::Config;
use clap::{Args, Subcommand};
use serde_json::Value;

fn json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

#[derive(Subcommand, Debug)]
pub(crate) enum Index {
    /// Describe a new index
    Create(Create),
    /// Bring an index up to its dataset
    Refresh {
        /// Index
        name: String,
    },
    /// Embed everything by another model; the old vectors answer until that is done
    Migrate {
        /// Index
        name: String,
        /// Model to embed with; whichever the context offers first unless said
        #[arg(long)]
        model: Option<String>,
    },
    /// All indexes
    List,
    /// One index
    Stats {
        /// Index
        name: String,
    },
    /// The chunks of one document
    Get {
        /// Index
        name: String,
        /// Value of the id column
        doc_id: String,
    },
    /// What an index was, newest first
    Generations {
        /// Index
        name: String,
    },
    /// Build and measure a challenger; it answers from then on if it is better
    Promote(Promote),
    /// Answer from the generation before, or from one that is named, and stay there
    Rollback {
        /// Index
        name: String,
        /// Number of a generation
        #[arg(long)]
        generation: Option<u64>,
    },
    /// Let an index that was rolled back follow its dataset again
    Unpin {
        /// Index
        name: String,
    },
    /// Take an index to another bucket
    Move {
        /// Index
        name: String,
        /// Bucket, one that is a folder
        bucket: String,
    },
    /// Fold in what was appended and leave out what is dead, now
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
        /// Kept with the trial
        #[arg(long)]
        note: Option<String>,
    },
    /// The trials made, with the best marked
    Trials {
        /// Index
        name: String,
        /// Draw recall against p95 into this SVG file
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        /// Keep only this many of the newest
        #[arg(long, value_name = "N")]
        compact: Option<u64>,
    },
    /// The best trial on the data as it is
    Best {
        /// Index
        name: String,
        /// pareto, recall or latency
        #[arg(long, default_value = "pareto")]
        by: String,
    },
    /// Try a grid of configurations
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
    },
    /// What the background agent does; with an index, queue it for a trial
    Agent {
        /// Index
        name: Option<String>,
    },
    /// Make a set of queries with their true neighbours; or list those there are
    Eval {
        /// Index
        name: String,
        /// List, make none
        #[arg(long)]
        list: bool,
        /// Queries in each half
        #[arg(long)]
        queries: Option<u64>,
        /// Neighbours of each query
        #[arg(short, long)]
        k: Option<u64>,
        /// Of the choice
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Compare every file with its checksum, and search for every row
    Doctor {
        /// Index
        name: String,
        /// Build what is damaged again from the segments
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
    /// Column to chunk and embed; several, joined one a line or by --template [default: text]
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
    /// Characters a chunk
    #[arg(long)]
    pub(super) chunk_size: Option<u64>,
    /// Characters neighbouring chunks share
    #[arg(long)]
    pub(super) overlap: Option<u64>,
    /// Bucket to live in, one that is a folder [default: primary]
    #[arg(long)]
    pub(super) bucket: Option<String>,
    /// Model that must embed
    #[arg(long)]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) graph: Graph,
}

/// How a graph is built and searched.
#[derive(Args, Debug)]
pub(crate) struct Graph {
    /// flat-hnsw, hnsw-rs or exact
    #[arg(long)]
    pub(super) engine: Option<String>,
    /// Neighbours a node
    #[arg(long)]
    pub(super) m: Option<u64>,
    /// Candidates looked at for each node
    #[arg(long)]
    pub(super) ef_construction: Option<u64>,
    /// Candidates a search keeps
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
    /// A trial; the best one unless anything else is given
    #[arg(long, conflicts_with_all = ["generation", "engine", "m", "ef_construction", "ef_search"])]
    pub(super) trial: Option<String>,
    /// A generation that is there
    #[arg(long, conflicts_with_all = ["engine", "m", "ef_construction", "ef_search"])]
    pub(super) generation: Option<u64>,
    #[command(flatten)]
    pub(super) graph: Graph,
    /// Recall that must be reached
    #[arg(long)]
    pub(super) target_recall: Option<f64>,
    /// Promote whatever is measured; it is recorded
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Search {
    /// Index
    pub(super) index: String,
    /// What to look for
    pub(super) query: String,
    /// Hits
    #[arg(short, default_value_t = 10)]
    pub(super) k: u64,
    /// Only rows that match, as JSON: '{"lang": "rust", "year": {"$gte": 2020}}'
    #[arg(long, value_parser = json)]
    pub(super) filter: Option<Value>,
    /// By meaning: the default
    #[arg(long, conflicts_with_all = ["lexical", "hybrid"])]
    pub(super) semantic: bool,
    /// By words alone (BM25)
    #[arg(long, conflicts_with = "hybrid")]
    pub(super) lexical: bool,
    /// By words and meaning, fused by reciprocal rank
    #[arg(long)]
    pub(super) hybrid: bool,
    /// Compare all vectors
    #[arg(long)]
    pub(super) exact: bool,
    /// Candidates kept on the way
    #[arg(long)]
    pub(super) ef: Option<u64>,
}
