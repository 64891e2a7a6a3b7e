//! The commands, one file per group, and what they share: calls, streams, standard input.

pub(crate) mod adopt;
pub(crate) mod backup;
pub(crate) mod buckets;
pub(crate) mod complete;
pub(crate) mod data;
pub(crate) mod datasets;
pub(crate) mod disk;
pub(crate) mod embed;
pub(crate) mod flows;
pub(crate) mod gpu;
pub(crate) mod index;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod mcp;
pub(crate) mod mesh;
mod plot;
pub(crate) mod profile;
pub(crate) mod rerank;
pub(crate) mod score;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use brahman_card::interface::{self, Method};
use brahman_sidecar::client::{Answer, encode_method};
use brahman_sidecar::{CallOptions, Client, ClientError};

use crate::failure::{BadInput, Cancellation, Interruption};
use crate::output;

/// A program that belongs beside `brahman`, or else is in PATH.
pub(crate) fn sibling(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    beside.filter(|p| p.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// What stands for standard input where a text or a file is asked for, and for standard output
/// where one is written.
pub(crate) const STANDARD: &str = "-";
/// Longest text that is read from standard input: no call carries more (the wire's bound on a
/// message).
const STDIN_BYTES_MAX: u64 = brahman_card::wire::MESSAGE_BYTES_MAX as u64;

/// Longest standard input that is copied to a file: a bound against an endless pipe, far above what
/// a person pipes.
const STDIN_FILE_BYTES_MAX: u64 = 64 << 30;

/// Whether a path stands for standard input or output.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

/// All of standard input.
pub(crate) fn stdin_bytes() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.context(BadInput("cannot read standard input".to_owned()))?;
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        return Err(
            BadInput(format!("standard input: expected at most {STDIN_BYTES_MAX} bytes")).into()
        );
    }
    Ok(bytes)
}

/// All of standard input, as text.
pub(crate) fn stdin_text() -> anyhow::Result<String> {
    let text = String::from_utf8(stdin_bytes()?);
    text.map_err(|error| {
        BadInput(format!(
            "standard input is not UTF-8 at byte {}",
            error.utf8_error().valid_up_to()
        ))
        .into()
    })
}

/// A text of the person's own: what was given, or standard input for `-`.
pub(crate) fn text_or_stdin(given: String) -> anyhow::Result<String> {
    let text = if given == STANDARD {
        stdin_text()?.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        given
    };
    if text.trim().is_empty() {
        Err(BadInput("the text is empty: expected at least a word".to_owned()).into())
    } else {
        Ok(text)
    }
}

/// Standard input as a file that a module can open, which is removed with this. A module opens
/// files of its own user's only, as this is.
#[derive(Debug)]
pub(crate) struct StdinFile {
    folder: tempfile::TempDir,
}

impl StdinFile {
    /// Reads standard input to its end, into a temporary folder.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("brahman-").tempdir().context("no temporary folder")?;
        let stdin = Self { folder };
        let path = stdin.path();
        let mut file = std::fs::File::create_new(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let copied =
            std::io::copy(&mut std::io::stdin().lock().take(STDIN_FILE_BYTES_MAX + 1), &mut file);
        match copied.with_context(|| format!("cannot copy standard input to {}", path.display()))? {
            0 => Err(BadInput(
                "standard input is empty: what should have written to it may have failed"
                    .to_owned(),
            )
            .into()),
            bytes if bytes > STDIN_FILE_BYTES_MAX => Err(BadInput(format!(
                "standard input: expected at most {STDIN_FILE_BYTES_MAX} bytes"
            ))
            .into()),
            _ => Ok(stdin),
        }
    }

    /// Where it is. The name is what a document made of it is called.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("stdin")
    }
}

/// A path as a module can open it, whose working directory is another.
pub(crate) fn absolute(path: &Path) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path)
        .with_context(|| BadInput(format!("`{}` is not a path", path.display())))?;
    Ok(absolute.display().to_string())
}

/// How often an idempotent stream is begun again when its provider ends in the middle.
const AGAIN_MAX: u32 = 3;
/// How long a command waits for a mesh whose socket is there and unserved: its supervisor is being
/// started again, or it is gone.
const ABSENCE: Duration = Duration::from_secs(10);

/// A client that follows the mesh, so that a command outlives the death of any one process of it.
pub(crate) fn client(socket: &Path) -> Client {
    Client::for_command(socket, ABSENCE)
}

/// One call; gives the reply and the provider's label.
pub(crate) async fn ask<M: Method>(
    socket: &Path,
    parameters: &M::In,
    options: &CallOptions,
) -> Result<(M::Out, Option<String>), ClientError> {
    Ok(reply_of(client(socket).call_method::<M>(parameters, options).await?))
}

/// An answer's reply and its provider's label. That a mock gave it is said.
pub(crate) fn reply_of<R>(answer: Answer<R>) -> (R, Option<String>) {
    if answer.mock {
        output::say_mock(answer.provider.as_deref().unwrap_or_default());
    }
    (answer.value, answer.provider)
}

/// [`ask`] with no options, for the reply alone.
pub(crate) async fn get<M: Method>(
    socket: &Path,
    parameters: &M::In,
) -> Result<M::Out, ClientError> {
    Ok(ask::<M>(socket, parameters, &CallOptions::default()).await?.0)
}

/// What a stream without a summary is to who waited for one.
pub(crate) fn unfinished(method: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the last reply of {method} is not of phase `done`, which was expected: its provider speaks another version"
    )
}

/// A call with `more`: `each` sees every reply, and the last is given back. An idempotent one whose
/// provider ends is made again; of another one the error says that it was interrupted.
/// Ctrl-C ends a work that has an end, and the error says what is kept of it.
pub(crate) async fn stream<M: Method>(
    socket: &Path,
    parameters: &M::In,
    each: impl FnMut(&M::Out),
) -> anyhow::Result<M::Out> {
    let (interface, short) = M::NAME.rsplit_once('.').unwrap_or(("", M::NAME));
    let is_endless = interface::is_endless(interface, short);
    let outcome = tokio::select! {
        biased;
        outcome = streamed::<M>(socket, parameters, each) => outcome,
        // Of what goes on for ever Ctrl-C is the end that was meant, and the signal's own.
        Ok(()) = tokio::signal::ctrl_c(), if !is_endless => {
            return Err(Cancellation { method: M::NAME }.into());
        }
    };
    outcome.map_err(|error| match error {
        ClientError::Closed { .. } | ClientError::Io(_) => {
            anyhow::Error::from(error).context(Interruption { method: M::NAME })
        }
        other => other.into(),
    })
}

/// [`stream`], as the client gives it. A stream without an end begins with what there is: a
/// provider that does not even say that has stopped.
async fn streamed<M: Method>(
    socket: &Path,
    parameters: &M::In,
    mut each: impl FnMut(&M::Out),
) -> Result<M::Out, ClientError> {
    let options = CallOptions::default();
    let message = encode_method::<M>(parameters, &options, true, false)?;
    let (interface, short) = M::NAME.rsplit_once('.').unwrap_or(("", M::NAME));
    let idempotent = interface::known(interface).is_some_and(|i| i.is_idempotent(short));
    let client = client(socket);
    let mut again = if idempotent { AGAIN_MAX } else { 0 };
    let first_within = interface::is_endless(interface, short)
        .then(|| Duration::from_secs(interface::patience_s(interface, short)));
    'connection: loop {
        let mut silence_max = first_within;
        let mut connection = client.open(interface, &options).await?;
        connection.send(&message).await?;
        loop {
            let received = match silence_max {
                Some(longest) => tokio::time::timeout(longest, connection.receive())
                    .await
                    .unwrap_or(Err(ClientError::Deadline(longest))),
                None => connection.receive().await,
            };
            let reply = match received {
                Err(error) if error.is_disconnect() && again > 0 => {
                    again -= 1;
                    continue 'connection;
                }
                other => other?,
            };
            silence_max = None;
            let last = !reply.continues;
            let value = reply.typed::<M::Out>()?.value;
            each(&value);
            if last {
                return Ok(value);
            }
        }
    }
}
