//! Running a mesh and looking after it.

mod check;
mod start;
mod status;
mod top;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use brahman_card::interface::{Empty, init};
use brahman_sidecar::{ClientError, place};

use super::{get, sibling};
use crate::output::Output;
pub(crate) use check::check;
pub(crate) use start::up;
pub(crate) use status::status;
pub(crate) use top::top;

/// Asks init to end, and waits until nobody answers on its socket.
pub(crate) async fn down(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let init = place::init_socket(socket);
    let asked = get::<init::method::Shutdown>(&init, &Empty {}).await;
    match asked {
        // No init, but perhaps modules that a killed one left behind: they end as its next start
        // would end them.
        Err(ClientError::Connect { .. }) if swept(socket) => {
            output.note(
                "brahman-init had died already; the processes that it left running were stopped",
            );
            if output.json() {
                output.print_json(&serde_json::json!({ "ended": true }));
            }
            return Ok(());
        }
        other => {
            other?;
        }
    }
    let started = Instant::now();
    let bar = output.spinner("stopping");
    // init's lock is released when its process is gone, whatever becomes of the socket file.
    while std::os::unix::net::UnixStream::connect(&init).is_ok() {
        if started.elapsed() > Duration::from_secs(20) {
            bail!("the mesh did not stop within 20 s; a second `brahman down` forces it");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bar.finish_and_clear();
    if output.json() {
        output.print_json(&serde_json::json!({ "ended": true }));
    }
    Ok(())
}

/// Whether a killed init had left anything: it is ended now. brahman-init knows how, and what it
/// says is of no interest here.
fn swept(socket: &Path) -> bool {
    let mut command = Command::new(sibling("brahman-init"));
    command
        .arg("--socket")
        .arg(socket)
        .arg("__sweep")
        .env("BRAHMAN_LOG", "warn")
        .stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

pub(crate) async fn reload(socket: &Path, output: &Output) -> anyhow::Result<()> {
    let out = get::<init::method::Reload>(&place::init_socket(socket), &Empty {}).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    for (word, labels) in [
        ("added", &out.added),
        ("removed", &out.removed),
        ("changed", &out.changed),
        ("unchanged", &out.unchanged),
    ] {
        if !labels.is_empty() {
            output.line(&format!("{word:<10}{}", labels.join(" ")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
