//! What a command line may say: every command but those whose arguments lie with what they do, in
//! `commands/`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{commands, models};

const LONG_ABOUT: &str = "\
Brahman runs AI data services on your own machine as one mesh on a Unix socket: \
turn files into datasets, embed and index them, search them, and switch between \
real and mock providers by context.

  brahman models pull                      fetch the model and ONNX Runtime, once
  brahman up --context prod                run the mesh in this terminal; --detach: in the background
  brahman ingest files notes ~/notes       a folder becomes a dataset
  brahman index create notes --dataset notes && brahman index refresh notes
  brahman search notes \"what did we decide about backups?\"";

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 the mesh answered with an error, or a check failed; 2 wrong usage; 3 no mesh at the socket; \
4 not found, or nothing serves the flow; 5 overloaded or out of time, try again; 6 bad input; \
74 standard output could not be written; 78 `up`: a Card, a context or a state is refused; 141 its reader has gone.

Environment: BRAHMAN_SOCKET, BRAHMAN_BROKER_CONTEXT, BRAHMAN_CARDS, BRAHMAN_STATE, BRAHMAN_CACHE, NO_COLOR.";

/// A supervised mesh of local AI data services
#[derive(Parser, Debug)]
#[command(name = "brahman", version, long_about = LONG_ABOUT, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// The mesh socket [default: $BRAHMAN_SOCKET, else in the run folder]
    // Not clap's `env`: every usage line would show the option as if it were required.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Run the mesh in the foreground, or in the background with --detach; Ctrl-C or `brahman down`
    /// stops it
    Up(Up),
    /// Stop the mesh in order, and wait until it has stopped
    Down,
    /// Show every module: state, process, time in that state, restarts, queue, latency, model,
    /// device
    Status {
        /// Wait up to this long until the mesh answers and no module is still starting
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Watch modules, providers, memory, datasets, indexes and buckets live; q quits, ? lists the
    /// keys
    Top {
        /// How often the modules' state is asked for, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
        every: u64,
    },
    /// Validate Cards without starting anything
    Check {
        /// Card files or folders; - reads a Card from standard input [default: those that `up`
        /// would use]
        paths: Vec<PathBuf>,
    },
    /// Show which provider a flow, or a method as `call` takes it, resolves to now
    Resolve(Flow),
    /// Show why each provider of a flow ranks as it does
    Explain(Flow),
    /// Show the context, switch it, or clear it
    Context {
        /// The new context, such as test or prod
        name: Option<String>,
        /// Clear the context
        #[arg(long, conflicts_with = "name")]
        clear: bool,
    },
    /// Call any method: brahman call org.brahman.Embed.Info, or embed.Info
    Call(Call),
    /// List the interfaces on offer, or print the definition of one
    Introspect {
        /// Interface, such as embed
        interface: Option<String>,
    },
    /// Embed texts or a file
    Embed(commands::embed::Embed),
    /// Order texts by how well they answer a query
    Rerank(commands::rerank::Rerank),
    /// Read files, folders and tables into datasets
    #[command(subcommand)]
    Ingest(Ingest),
    /// List, show, repair, copy, rename, pin and delete datasets
    #[command(args_conflicts_with_subcommands = true)]
    Datasets {
        #[command(subcommand)]
        command: Option<Datasets>,
        /// Dataset to show
        name: Option<String>,
    },
    /// Manage buckets, the folders and S3 buckets that objects are stored in
    Buckets {
        #[command(subcommand)]
        command: Option<commands::buckets::Buckets>,
    },
    /// List failed bucket operations, newest first
    Errors {
        /// Maximum number of failures to list
        #[arg(long, default_value_t = 20)]
        limit: u64,
        /// Forget all but the newest N
        #[arg(long, value_name = "N")]
        compact: Option<u64>,
    },
    /// List recent ingest runs, newest first
    Runs,
    /// Show what became of a dataset's runs, as OpenLineage events; with --json one per line
    Lineage {
        /// Dataset
        dataset: String,
        /// Maximum number of events to show
        #[arg(long, default_value_t = 100)]
        limit: u64,
    },
    /// Build, measure and repair searchable indexes of datasets
    #[command(subcommand)]
    Index(commands::index::Index),
    /// Search an index by meaning, by words, or both
    Search(commands::index::Search),
    /// Measure which memories a model's answers depend on
    #[command(subcommand)]
    Score(commands::score::Score),
    /// Find, fetch, check, serve and list models on this machine
    #[command(subcommand)]
    Models(models::Models),
    /// Switch between sets of models, datasets and indexes, one at a time
    #[command(subcommand)]
    Profile(commands::profile::Profile),
    /// Show graphics processors, and which modules hold memory there and in the main memory
    Gpu {
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Serve the mesh to a language model's client as MCP tools, on standard input and output
    Mcp,
    /// Print what modules have written: the last lines of one, or with --since also of earlier
    /// lives, whether the mesh runs or not
    Logs(commands::logs::Logs),
    /// Show what each part of the state and the cache takes on the disk
    Disk(commands::disk::Disk),
    /// Free what may go: what was cut off, logs of modules that are gone, and caches if asked
    Gc(commands::disk::Gc),
    /// Write the state of the running mesh to one file, consistent while it runs
    Backup(commands::backup::Backup),
    /// Make a state out of a backup, at any path and for any user
    Restore(commands::backup::Restore),
    /// Start a stopped or failed module, and wait until it is ready
    Start(Lifecycle),
    /// Stop a module, wait until it has stopped, and leave it so
    Stop(Lifecycle),
    /// Restart a module, and wait until it is ready again
    Restart(Lifecycle),
    /// Read the Cards again and apply the difference
    Reload,
    /// Print a completion script: brahman completions bash >
    /// ~/.local/share/bash-completion/completions/brahman
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the names that may stand at the end of a command line; completion scripts call it
    Complete {
        /// Words of the line behind brahman; the last one is to be completed
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Write a manual page for each command into a folder, such as ~/.local/share/man/man1
    Man {
        /// Folder, which is created if it does not exist
        folder: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(super) struct Up {
    /// Context to start in
    #[arg(long, env = "BRAHMAN_BROKER_CONTEXT")]
    pub(super) context: Option<String>,
    /// Folder of Cards, instead of all others
    #[arg(long, env = "BRAHMAN_CARDS")]
    pub(super) cards: Option<PathBuf>,
    /// Directory for persistent state
    #[arg(long, env = "BRAHMAN_STATE")]
    pub(super) state: Option<PathBuf>,
    /// Run it in the background, and return once the mesh answers
    #[arg(long)]
    pub(super) detach: bool,
}

#[derive(Args, Debug)]
pub(super) struct Flow {
    /// Interface or method: org.brahman.Embed, embed, or embed.EmbedText
    pub(super) flow: String,
    /// Ask under this context instead of the current one
    #[arg(long)]
    pub(super) context: Option<String>,
    /// Attribute the provider must have, NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) require: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct Call {
    /// Method: org.brahman.Embed.EmbedText, or embed.EmbedText
    pub(super) method: String,
    /// Parameters as JSON; - reads standard input
    pub(super) parameters: Option<String>,
    /// Accept several replies, printed one per line
    #[arg(long)]
    pub(super) more: bool,
    /// Context for this call only
    #[arg(long)]
    pub(super) context: Option<String>,
    /// Give up after this many milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) deadline: Option<u64>,
    /// Attribute the provider must have, NAME=VALUE, such as model=bge-small-en-v1.5
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) require: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub(super) enum Datasets {
    /// Show columns, personal data, generations, and sample rows in which personal data is masked
    Show {
        /// Dataset
        name: String,
        /// Number of sample rows to show
        #[arg(long, default_value_t = 5)]
        rows: u64,
    },
    /// Rebuild manifests that are damaged, missing or wrong from the objects in the buckets
    Resync {
        /// Dataset [default: all whose manifest is damaged or missing]
        name: Option<String>,
        /// Runs that the dataset is made of, in row order, where nothing recorded says so
        #[arg(long, requires = "name", value_name = "RUN", value_delimiter = ',')]
        runs: Vec<String>,
        /// Publish objects that are not what was committed and have no good replica
        #[arg(long, requires = "name")]
        accept_damage: bool,
    },
    /// Delete a dataset; indexes that it feeds keep what they have
    Delete {
        /// Dataset
        name: String,
    },
    /// Give a dataset another name; one that feeds indexes keeps its own
    Rename {
        /// Dataset
        name: String,
        /// Its new name, which no dataset has
        to: String,
    },
    /// Make a dataset of another name from the present generation of one
    Copy {
        /// Dataset to copy
        name: String,
        /// Name of the copy, which no dataset has
        to: String,
    },
    /// Keep a generation, whatever is committed after it
    Pin {
        /// Dataset
        name: String,
        /// Generation: the present one, the one before, or one that is pinned already [default: the
        /// present one]
        #[arg(long, value_name = "N")]
        generation: Option<u64>,
        /// How long to keep it, such as 90s, 10m, 2h or 7d [default: until it is unpinned]
        #[arg(long, value_name = "TIME", value_parser = commands::datasets::parse_life)]
        life: Option<u64>,
        /// Name of the pin, to tell yours from others' [default: the generation's run]
        #[arg(long = "as", value_name = "PIN")]
        pin: Option<String>,
    },
    /// Take pins away: all of the dataset's, those of a generation, or the one of a name
    Unpin {
        /// Dataset
        name: String,
        /// Pins of this generation only
        #[arg(long, value_name = "N")]
        generation: Option<u64>,
        /// The pin of this name only
        #[arg(long = "as", value_name = "PIN")]
        pin: Option<String>,
    },
    /// Take over datasets from the manifests in an S3 bucket
    Adopt {
        /// Bucket
        bucket: String,
        /// Dataset [default: all that have a manifest there]
        name: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum Ingest {
    /// Ingest text, Markdown, HTML and source files (one row per file), or CSV, JSONL (also .gz,
    /// .zst) or Parquet files
    Files {
        /// Dataset to write
        dataset: String,
        /// Files and folders; - reads standard input (say its kind with --format)
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// documents, csv, jsonl or parquet [default: by file extension]
        #[arg(long)]
        format: Option<String>,
        /// Read hidden files and what a .gitignore names as well
        #[arg(long)]
        no_ignore: bool,
        /// Tables: true if columns that a file has none of are NULL, false if all files must have
        /// the same [default: they share one]
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        union_by_name: Option<bool>,
        /// Write nothing: print what is guessed, the types and why, what would be left out, and the
        /// first rows
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        csv: commands::data::Csv,
        /// Do not look for personal data
        #[arg(long)]
        no_pii: bool,
        /// Bucket to write to [default: where the dataset is already stored, at first primary]
        #[arg(long)]
        bucket: Option<String>,
    },
    /// Ingest folders again whenever they change, across restarts
    Watch {
        /// Dataset to write
        dataset: String,
        /// Folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// documents, csv, jsonl or parquet [default: by the files, as of ingest files; what that
        /// is then stays]
        #[arg(long)]
        format: Option<String>,
        /// Read hidden files and what a .gitignore names as well
        #[arg(long)]
        no_ignore: bool,
        /// Tables: true if columns that a file has none of are NULL, false if all files must have
        /// the same [default: they share one]
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        union_by_name: Option<bool>,
        #[command(flatten)]
        csv: commands::data::Csv,
        /// Do not look for personal data
        #[arg(long)]
        no_pii: bool,
        /// Bucket to write to [default: where the dataset is already stored, at first primary]
        #[arg(long)]
        bucket: Option<String>,
        /// How long nothing must have changed before a change is ingested, in milliseconds
        /// [default: 2000]
        #[arg(long, value_name = "MS")]
        debounce: Option<u64>,
    },
    /// Stop watching
    Unwatch {
        /// Dataset
        dataset: String,
    },
    /// List the watches
    Watches,
    /// Ingest tables, views or a query of a PostgreSQL server, in one snapshot
    Postgres {
        /// Dataset to write
        dataset: String,
        #[command(flatten)]
        table: commands::data::Table,
    },
    /// Ingest tables, views or a query of a MySQL or MariaDB server, in one snapshot
    Mysql {
        /// Dataset to write
        dataset: String,
        #[command(flatten)]
        table: commands::data::Table,
    },
}

#[derive(Args, Debug)]
pub(super) struct Lifecycle {
    /// Label of the module; that of a Card with replicas means all of them
    pub(super) label: String,
    /// Return as soon as the command is taken, whatever comes of it
    #[arg(long)]
    pub(super) no_wait: bool,
}
