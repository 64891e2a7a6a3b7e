//! `brahman mcp`: the mesh as tools and resources of a language model, over standard input and
//! output, one message a line.
//!
//! Invariants: standard output has messages and nothing else; a request is answered once, or never
//! if it was cancelled; one that is cancelled, or whose client goes, ends its work in the mesh;
//! lines and requests at once are bounded.

use std::collections::HashMap;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use brahman_mcp::{McpContext, RpcMessage, in_use, too_many};
use brahman_sidecar::CallOptions;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Longest line that is read: no call carries more.
const LINE_BYTES_MAX: u64 = brahman_card::wire::MESSAGE_BYTES_MAX as u64;
/// Lines that may wait to be read, and messages that may wait to be written.
const WAITING: usize = 16;
/// Requests at once: a model's client makes a handful.
const REQUESTS_MAX: usize = 64;
/// How long requests may go on once the client has closed its end.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// What the loop wakes up for.
enum Occurrence {
    Line(Option<std::io::Result<Vec<u8>>>),
    Outgoing(Value),
    Done(String),
}

/// Requests that are being worked on, by their ids.
#[derive(Default)]
struct Requests {
    running: HashMap<String, AbortHandle>,
    tasks: JoinSet<String>,
}

/// Serves one client until its input ends.
pub(crate) async fn mcp(socket: &Path) -> anyhow::Result<()> {
    let (outgoing, mut to_write) = mpsc::channel(WAITING);
    let mut lines = read_lines()?;
    let mut requests = Requests::default();
    // Whoever runs this command is who calls: the mesh knows what he may do.
    let context = McpContext::new(super::client(socket), CallOptions::default(), |_| Ok(()))
        .telling(outgoing.clone());
    loop {
        let happened = tokio::select! {
            biased;
            Some(message) = to_write.recv() => Occurrence::Outgoing(message),
            Some(Ok(id)) = requests.tasks.join_next() => Occurrence::Done(id),
            line = lines.recv() => Occurrence::Line(line),
        };
        match happened {
            Occurrence::Outgoing(message) => write(&message)?,
            Occurrence::Done(id) => drop(requests.running.remove(&id)),
            Occurrence::Line(None) => break,
            Occurrence::Line(Some(line)) => {
                let line = line.context("cannot read standard input")?;
                if let Some(answer) = requests.take(&line, &context, &outgoing) {
                    write(&answer)?;
                }
            }
        }
    }
    // Whoever has said all may still want to hear; one that has gone is not worked for for long.
    drop((context, outgoing));
    let finish = async {
        while let Some(message) = to_write.recv().await {
            write(&message)?;
        }
        Ok(())
    };
    tokio::time::timeout(LAST_ANSWERS, finish).await.unwrap_or(Ok(()))
}

impl Requests {
    /// Takes one line: a request begins, a cancelled one ends; what is no message is answered at
    /// once.
    fn take(
        &mut self,
        line: &[u8],
        context: &McpContext,
        outgoing: &mpsc::Sender<Value>,
    ) -> Option<Value> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let request = match RpcMessage::read(line) {
            Ok(RpcMessage::Request(request)) => request,
            Ok(RpcMessage::Cancellation(id)) => {
                if let Some(request) = self.running.remove(&id.to_string()) {
                    request.abort();
                }
                return None;
            }
            Ok(RpcMessage::Notification) => return None,
            Err(answer) => return Some(answer),
        };
        if self.tasks.len() >= REQUESTS_MAX {
            return Some(too_many(&request.id));
        }
        // By its id it is cancelled: of two of one id only one could be.
        if self.running.get(&request.id.to_string()).is_some_and(|task| !task.is_finished()) {
            return Some(in_use(&request.id));
        }
        let (id, context, outgoing) = (request.id.to_string(), context.clone(), outgoing.clone());
        let name = id.clone();
        let task = self.tasks.spawn(async move {
            let answer = context.answer(request).await;
            // The loop lives as long as this does.
            let _ = outgoing.send(answer).await;
            name
        });
        self.running.insert(id, task);
        None
    }
}

/// Writes one message.
fn write(message: &Value) -> anyhow::Result<()> {
    let mut line = message.to_string();
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output could not be written")
}

/// Lines of standard input, read by a thread of their own: reading them cannot be interrupted.
fn read_lines() -> anyhow::Result<mpsc::Receiver<std::io::Result<Vec<u8>>>> {
    let (sender, lines) = mpsc::channel(WAITING);
    let reading = std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let outcome = match (&mut input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) if line.len() as u64 > LINE_BYTES_MAX => {
                    Err(std::io::Error::other("a line is longer than 16 MiB"))
                }
                Ok(_) => Ok(line),
                Err(error) => Err(error),
            };
            let is_end = outcome.is_err();
            if sender.blocking_send(outcome).is_err() || is_end {
                return;
            }
        }
    });
    reading.context("no thread for standard input")?;
    Ok(lines)
}
