//! The commands, one file a group.

pub(crate) mod data;
pub(crate) mod embed;
pub(crate) mod flows;
pub(crate) mod index;
pub(crate) mod mesh;
mod plot;
pub(crate) mod score;

use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, ClientError, Connection};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A program that belongs beside `brahman`, or else is in PATH.
pub(crate) fn sibling(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    beside.filter(|p| p.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// One call on a connection of its own; gives the reply and the provider's label.
pub(crate) async fn ask<P: Serialize, R: DeserializeOwned>(
    socket: &Path,
    method: &str,
    parameters: &P,
    options: &CallOptions,
) -> Result<(R, Option<String>), ClientError> {
    let message = encode_call(method, parameters, options, false, false)?;
    let work = async { Connection::connect(socket).await?.exchange(&message).await?.typed() };
    // The mesh keeps the deadline; this only covers a mesh that does not answer at all.
    let answer = match options.deadline {
        Some(deadline) => {
            tokio::time::timeout(deadline + Duration::from_secs(2), work).await.map_err(|_| ClientError::Deadline(deadline))??
        }
        None => work.await?,
    };
    Ok((answer.value, answer.provider))
}

/// [`ask`] with no options, for the reply alone.
pub(crate) async fn get<P: Serialize, R: DeserializeOwned>(socket: &Path, method: &str, parameters: &P) -> Result<R, ClientError> {
    Ok(ask(socket, method, parameters, &CallOptions::default()).await?.0)
}

/// A call with `more`: `each` sees every reply, and the last is given back.
pub(crate) async fn stream<P: Serialize, R: DeserializeOwned>(
    socket: &Path,
    method: &str,
    parameters: &P,
    mut each: impl FnMut(&R),
) -> Result<R, ClientError> {
    let mut connection = Connection::connect(socket).await?;
    connection.send(&encode_call(method, parameters, &CallOptions::default(), true, false)?).await?;
    loop {
        let reply = connection.receive().await?;
        let last = !reply.continues;
        let value = reply.typed::<R>()?.value;
        each(&value);
        if last {
            return Ok(value);
        }
    }
}
