//! `brahman`: the person's command. Arguments here, one file per group of commands in `commands/`.

mod commands;
mod exit;
mod failure;
mod models;
mod output;
mod tar;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use brahman_card::interface::catalog::{PinIn, UnpinIn};
use brahman_card::interface::ingest;
use brahman_card::interface::ingest::{FilesIn, WatchIn};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::exit::ExitStatus;
use crate::failure::{BadInput, Failure};
use crate::output::Output;

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
struct Arguments {
    /// The mesh socket [default: $BRAHMAN_SOCKET, else in the run folder]
    // Not clap's `env`: every usage line would show the option as if it were required.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
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
    /// Show the status again and again until Ctrl-C
    Top {
        /// How often, in seconds
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
struct Up {
    /// Context to start in
    #[arg(long, env = "BRAHMAN_BROKER_CONTEXT")]
    context: Option<String>,
    /// Folder of Cards, instead of all others
    #[arg(long, env = "BRAHMAN_CARDS")]
    cards: Option<PathBuf>,
    /// Directory for persistent state
    #[arg(long, env = "BRAHMAN_STATE")]
    state: Option<PathBuf>,
    /// Run it in the background, and return once the mesh answers
    #[arg(long)]
    detach: bool,
}

#[derive(Args, Debug)]
struct Flow {
    /// Interface or method: org.brahman.Embed, embed, or embed.EmbedText
    flow: String,
    /// Ask under this context instead of the current one
    #[arg(long)]
    context: Option<String>,
    /// Attribute the provider must have, NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    require: Vec<String>,
}

#[derive(Args, Debug)]
struct Call {
    /// Method: org.brahman.Embed.EmbedText, or embed.EmbedText
    method: String,
    /// Parameters as JSON; - reads standard input
    parameters: Option<String>,
    /// Accept several replies, printed one per line
    #[arg(long)]
    more: bool,
    /// Context for this call only
    #[arg(long)]
    context: Option<String>,
    /// Give up after this many milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    deadline: Option<u64>,
    /// Attribute the provider must have, NAME=VALUE, such as model=bge-small-en-v1.5
    #[arg(long, value_name = "NAME=VALUE")]
    require: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum Datasets {
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
enum Ingest {
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
struct Lifecycle {
    /// Label of the module; that of a Card with replicas means all of them
    label: String,
    /// Return as soon as the command is taken, whatever comes of it
    #[arg(long)]
    no_wait: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let output = Output::new(arguments.json);
    let socket = arguments.socket.clone().unwrap_or_else(brahman_sidecar::place::mesh_socket);
    let outcome = match arguments.command {
        Command::Completions { shell } => {
            output.put(&commands::complete::script(shell, Arguments::command()));
            Ok(())
        }
        Command::Man { folder } => write_manual(&folder, &output),
        command => dispatch(command, &socket, &output),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::of(&error).report(&output),
    };
    output.end(code)
}

/// Writes `brahman.1` and one page for each command.
fn write_manual(folder: &Path, output: &Output) -> anyhow::Result<()> {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), folder));
    written
        .with_context(|| BadInput(format!("cannot write manual pages to {}", folder.display())))?;
    if output.json() {
        output.print_json(&serde_json::json!({ "folder": folder.display().to_string() }));
    }
    Ok(())
}

/// Help, the version, or what was wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // The arguments were not understood, but this one can be told from the rest.
    let output = Output::new(std::env::args_os().any(|word| word == "--json"));
    if error.use_stderr() && output.json() {
        return Failure::of_usage(error.render().to_string().trim_end().to_owned()).report(&output);
    }
    if error.use_stderr() {
        let given = std::env::args_os()
            .any(|word| word.to_string_lossy().contains(brahman_sidecar::telemetry::is_unsafe));
        if given {
            // The message repeats the arguments, which may have come from a script's data.
            let _ = writeln!(
                std::io::stderr(),
                "{}",
                brahman_sidecar::telemetry::escape(error.render().to_string().trim_end())
            );
        } else {
            // The exit code says it, too.
            let _ = error.print();
        }
    } else if let Err(lost) = error.print().and_then(|()| std::io::stdout().flush()) {
        return output.lost_code(&lost);
    }
    // Help and the version are what was asked for.
    if error.use_stderr() { ExitStatus::Usage.into() } else { ExitCode::SUCCESS }
}

fn dispatch(command: Command, socket: &Path, output: &Output) -> anyhow::Result<()> {
    use commands::{
        adopt, backup, buckets, complete, data, datasets, disk, embed, flows, gpu, index,
        lifecycle, logs, mcp, mesh, profile, rerank, score,
    };
    // What needs no mesh, and must not start a runtime (it is replaced, or it blocks).
    let command = match command {
        Command::Up(up) => return mesh::up(&up, socket, output),
        Command::Check { paths } => return mesh::check(&paths, socket, output),
        Command::Restore(ask) => return backup::restore(&ask, output),
        Command::Disk(ask) => return disk::disk(socket, &ask, output),
        Command::Models(command) => return models::run(command, output),
        other => other,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        match command {
            Command::Down => mesh::down(socket, output).await,
            Command::Status { wait } => mesh::status(socket, wait, output).await,
            Command::Top { every } => mesh::top(socket, every, output).await,
            Command::Logs(wanted) => logs::logs(socket, wanted, output).await,
            Command::Mcp => mcp::mcp(socket).await,
            Command::Start(of) => lifecycle::start(socket, &of, output).await,
            Command::Stop(of) => lifecycle::stop(socket, &of, output).await,
            Command::Restart(of) => lifecycle::restart(socket, &of, output).await,
            Command::Reload => mesh::reload(socket, output).await,
            Command::Backup(ask) => backup::backup(socket, ask, output).await,
            Command::Gc(ask) => disk::gc(socket, &ask, output).await,
            Command::Resolve(flow) => flows::resolve(socket, &flow, output).await,
            Command::Explain(flow) => flows::explain(socket, &flow, output).await,
            Command::Context { name, clear } => flows::context(socket, name, clear, output).await,
            Command::Call(call) => flows::call(socket, &call, output).await,
            Command::Introspect { interface } => {
                flows::introspect(socket, interface.as_deref(), output).await
            }
            Command::Embed(embed) => embed::embed(socket, &embed, output).await,
            Command::Rerank(rerank) => rerank::rerank(socket, rerank, output).await,
            Command::Ingest(Ingest::Mysql { dataset, table }) => {
                data::ingest_table::<ingest::method::Mysql>(socket, dataset, table, output).await
            }
            Command::Ingest(Ingest::Postgres { dataset, table }) => {
                data::ingest_table::<ingest::method::Postgres>(socket, dataset, table, output).await
            }
            Command::Ingest(Ingest::Files {
                dataset,
                paths,
                format,
                no_ignore,
                union_by_name,
                explain,
                csv,
                no_pii,
                bucket,
            }) => {
                let (pii, no_ignore) = (no_pii.then_some(false), no_ignore.then_some(true));
                let ask = FilesIn {
                    dataset,
                    format,
                    csv: csv.format()?,
                    pii,
                    bucket,
                    no_ignore,
                    union_by_name,
                    paths: Vec::new(),
                };
                data::ingest_files(socket, ask, &paths, explain, output).await
            }
            Command::Ingest(Ingest::Watch {
                dataset,
                paths,
                format,
                no_ignore,
                union_by_name,
                csv,
                no_pii,
                bucket,
                debounce,
            }) => {
                let (pii, no_ignore) = (no_pii.then_some(false), no_ignore.then_some(true));
                let (csv, debounce_ms) = (csv.format()?, debounce);
                let ask = WatchIn {
                    dataset,
                    format,
                    csv,
                    pii,
                    debounce_ms,
                    bucket,
                    no_ignore,
                    union_by_name,
                    ..WatchIn::default()
                };
                data::watch(socket, ask, &paths, output).await
            }
            Command::Ingest(Ingest::Unwatch { dataset }) => {
                data::unwatch(socket, dataset, output).await
            }
            Command::Ingest(Ingest::Watches) => data::watches(socket, output).await,
            Command::Datasets { command: Some(Datasets::Show { name, rows }), .. } => {
                data::show(socket, &name, rows, output).await
            }
            Command::Datasets {
                command: Some(Datasets::Resync { name, runs, accept_damage }),
                ..
            } => data::resync(socket, name.as_deref(), runs, accept_damage, output).await,
            Command::Datasets { command: Some(Datasets::Adopt { bucket, name }), .. } => {
                adopt::adopt(socket, bucket, name, output).await
            }
            Command::Datasets { command: Some(Datasets::Delete { name }), .. } => {
                datasets::delete(socket, name, output).await
            }
            Command::Datasets { command: Some(Datasets::Rename { name, to }), .. } => {
                datasets::rename(socket, name, to, output).await
            }
            Command::Datasets { command: Some(Datasets::Copy { name, to }), .. } => {
                datasets::copy(socket, name, to, output).await
            }
            Command::Datasets {
                command: Some(Datasets::Pin { name, generation, life, pin }),
                ..
            } => {
                datasets::pin(
                    socket,
                    PinIn { name, generation, life_s: life, pin, mock: None },
                    output,
                )
                .await
            }
            Command::Datasets {
                command: Some(Datasets::Unpin { name, generation, pin }), ..
            } => {
                datasets::unpin(socket, UnpinIn { name, generation, pin, mock: None }, output).await
            }
            Command::Datasets { name: Some(name), .. } => {
                data::show(socket, &name, 0, output).await
            }
            Command::Datasets { .. } => data::datasets(socket, output).await,
            Command::Buckets { command } => buckets::run(socket, command, output).await,
            Command::Errors { limit, compact } => {
                buckets::errors(socket, limit, compact, output).await
            }
            Command::Runs => data::runs(socket, output).await,
            Command::Lineage { dataset, limit } => {
                data::lineage(socket, dataset, limit, output).await
            }
            Command::Index(command) => index::index(socket, command, output).await,
            Command::Score(command) => score::score(socket, command, output).await,
            Command::Search(search) => index::search(socket, search, output).await,
            Command::Profile(command) => profile::profile(socket, command, output).await,
            Command::Gpu { watch } => gpu::gpu(socket, watch, output).await,
            Command::Complete { words } => {
                complete::complete(socket, Arguments::command(), &words, output).await
            }
            Command::Up(_)
            | Command::Check { .. }
            | Command::Restore(_)
            | Command::Disk(_)
            | Command::Models(_)
            | Command::Completions { .. }
            | Command::Man { .. } => Ok(()),
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            outcome = work => outcome,
            // Nobody reads any more: what runs for this command alone is given up with the
            // connection.
            () = output.until_lost() => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests;
