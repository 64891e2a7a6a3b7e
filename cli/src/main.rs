//! `brahman`: the person's command. Arguments are in [`arguments`], one file per group of commands
//! in `commands/`.

mod arguments;
mod commands;
mod exit;
mod failure;
mod models;
mod output;
mod tar;

use std::io::Write as _;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context as _;
use brahman_card::interface::catalog::{PinIn, UnpinIn};
use brahman_card::interface::ingest;
use brahman_card::interface::ingest::{FilesIn, WatchIn};
use clap::{CommandFactory, Parser};

use crate::exit::ExitStatus;
use crate::failure::{BadInput, Failure};
use crate::output::Output;
use arguments::{Arguments, Call, Command, Datasets, Flow, Ingest, Lifecycle, Up};

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

/// A command's work by itself. With the others in one future, it would be part of a single function
/// of some 270 kB, which one core compiles while the rest wait.
fn boxed<'a>(
    work: impl Future<Output = anyhow::Result<()>> + 'a,
) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>> {
    Box::pin(work)
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
            Command::Down => boxed(mesh::down(socket, output)).await,
            Command::Status { wait } => boxed(mesh::status(socket, wait, output)).await,
            Command::Top { every } => boxed(mesh::top(socket, every, output)).await,
            Command::Logs(wanted) => boxed(logs::logs(socket, wanted, output)).await,
            Command::Mcp => boxed(mcp::mcp(socket)).await,
            Command::Start(of) => boxed(lifecycle::start(socket, &of, output)).await,
            Command::Stop(of) => boxed(lifecycle::stop(socket, &of, output)).await,
            Command::Restart(of) => boxed(lifecycle::restart(socket, &of, output)).await,
            Command::Reload => boxed(mesh::reload(socket, output)).await,
            Command::Backup(ask) => boxed(backup::backup(socket, ask, output)).await,
            Command::Gc(ask) => boxed(disk::gc(socket, &ask, output)).await,
            Command::Resolve(flow) => boxed(flows::resolve(socket, &flow, output)).await,
            Command::Explain(flow) => boxed(flows::explain(socket, &flow, output)).await,
            Command::Context { name, clear } => {
                boxed(flows::context(socket, name, clear, output)).await
            }
            Command::Call(call) => boxed(flows::call(socket, &call, output)).await,
            Command::Introspect { interface } => {
                boxed(flows::introspect(socket, interface.as_deref(), output)).await
            }
            Command::Embed(embed) => boxed(embed::embed(socket, &embed, output)).await,
            Command::Rerank(rerank) => boxed(rerank::rerank(socket, rerank, output)).await,
            Command::Ingest(Ingest::Mysql { dataset, table }) => {
                boxed(data::ingest_table::<ingest::method::Mysql>(socket, dataset, table, output))
                    .await
            }
            Command::Ingest(Ingest::Postgres { dataset, table }) => {
                boxed(data::ingest_table::<ingest::method::Postgres>(
                    socket, dataset, table, output,
                ))
                .await
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
                boxed(data::ingest_files(socket, ask, &paths, explain, output)).await
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
                boxed(data::watch(socket, ask, &paths, output)).await
            }
            Command::Ingest(Ingest::Unwatch { dataset }) => {
                boxed(data::unwatch(socket, dataset, output)).await
            }
            Command::Ingest(Ingest::Watches) => boxed(data::watches(socket, output)).await,
            Command::Datasets { command: Some(Datasets::Show { name, rows }), .. } => {
                boxed(data::show(socket, &name, rows, output)).await
            }
            Command::Datasets {
                command: Some(Datasets::Resync { name, runs, accept_damage }),
                ..
            } => boxed(data::resync(socket, name.as_deref(), runs, accept_damage, output)).await,
            Command::Datasets { command: Some(Datasets::Adopt { bucket, name }), .. } => {
                boxed(adopt::adopt(socket, bucket, name, output)).await
            }
            Command::Datasets { command: Some(Datasets::Delete { name }), .. } => {
                boxed(datasets::delete(socket, name, output)).await
            }
            Command::Datasets { command: Some(Datasets::Rename { name, to }), .. } => {
                boxed(datasets::rename(socket, name, to, output)).await
            }
            Command::Datasets { command: Some(Datasets::Copy { name, to }), .. } => {
                boxed(datasets::copy(socket, name, to, output)).await
            }
            Command::Datasets {
                command: Some(Datasets::Pin { name, generation, life, pin }),
                ..
            } => {
                boxed(datasets::pin(
                    socket,
                    PinIn { name, generation, life_s: life, pin, mock: None },
                    output,
                ))
                .await
            }
            Command::Datasets {
                command: Some(Datasets::Unpin { name, generation, pin }), ..
            } => {
                boxed(datasets::unpin(
                    socket,
                    UnpinIn { name, generation, pin, mock: None },
                    output,
                ))
                .await
            }
            Command::Datasets { name: Some(name), .. } => {
                boxed(data::show(socket, &name, 0, output)).await
            }
            Command::Datasets { .. } => boxed(data::datasets(socket, output)).await,
            Command::Buckets { command } => boxed(buckets::run(socket, command, output)).await,
            Command::Errors { limit, compact } => {
                boxed(buckets::errors(socket, limit, compact, output)).await
            }
            Command::Runs => boxed(data::runs(socket, output)).await,
            Command::Lineage { dataset, limit } => {
                boxed(data::lineage(socket, dataset, limit, output)).await
            }
            Command::Index(command) => boxed(index::index(socket, command, output)).await,
            Command::Score(command) => boxed(score::score(socket, command, output)).await,
            Command::Search(search) => boxed(index::search(socket, search, output)).await,
            Command::Profile(command) => boxed(profile::profile(socket, command, output)).await,
            Command::Gpu { watch } => boxed(gpu::gpu(socket, watch, output)).await,
            Command::Complete { words } => {
                boxed(complete::complete(socket, Arguments::command(), &words, output)).await
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
