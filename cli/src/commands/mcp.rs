//! `brahman mcp`: the mesh as tools and resources for a language model, over standard input and output.
//!
//! The Model Context Protocol, <https://modelcontextprotocol.io/specification>: JSON-RPC 2.0, one message a line. [`tools`] is what there is
//! to call, [`resources`] what there is to read; here are the protocol's own messages.
//!
//! Invariants: standard output has messages and nothing else; a request is answered once, or never if it was cancelled; one that is
//! cancelled, or whose client goes, ends its work in the mesh; lines and requests at once are bounded.

mod resources;
mod tools;

use std::collections::HashMap;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use brahman_card::Fault;
use brahman_card::interface::Method;
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{CallOptions, Client};
use serde::Deserialize;
use serde_json::{Value, json};
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
/// Versions of the protocol that are spoken, the newest first.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// What a model is told before it sees the tools.
const INSTRUCTIONS: &str = "Brahman searches the user's own documents and tables on this machine. Begin with `list` to see which indexes there \
are, `search` them in words of your own, and read more of a document by `get` before you rely on it. `ingest` adds files or folders.";

/// JSON-RPC's numbers for what is wrong.
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const RESOURCE_NOT_FOUND: i64 = -32002;

/// Why a request has no result.
#[derive(Debug)]
pub(super) struct RpcError {
    code: i64,
    message: String,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// One message of the client's.
#[derive(Debug, Deserialize)]
struct RpcMessage {
    jsonrpc: String,
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// What a request needs to do its work.
#[derive(Clone, Debug)]
pub(super) struct RequestContext {
    socket: Arc<PathBuf>,
    client: Client,
    outgoing: mpsc::Sender<Value>,
    /// By which the client knows what progress is of, if it wants to hear of any.
    progress: Option<Value>,
}

impl RequestContext {
    /// Calls a method of the mesh.
    pub(super) async fn ask<M: Method>(&self, ask: &M::In, options: &CallOptions) -> Result<M::Out, Fault> {
        Ok(self.client.call_method::<M>(ask, options).await?.value)
    }

    /// Calls a method that streams; tells of its progress, and gives the last reply.
    pub(super) async fn stream<M: Method>(&self, ask: &M::In, doing: &str) -> Result<Value, Fault> {
        let options = CallOptions::default();
        let message = encode_method::<M>(ask, &options, true, false)?;
        let interface = M::NAME.rsplit_once('.').map_or("", |(interface, _)| interface);
        let mut connection = self.client.open(interface, &options).await?;
        connection.send(&message).await?;
        let mut count = 0_u64;
        loop {
            let reply = connection.receive().await?;
            let is_last = !reply.continues;
            let value: Value = reply.typed().map_err(Fault::from)?.value;
            if is_last {
                return Ok(value);
            }
            count += 1;
            self.tell_progress(&value, count, doing).await;
        }
    }

    /// Says how far a work is, in the words of its reply.
    async fn tell_progress(&self, reply: &Value, count: u64, doing: &str) {
        let Some(token) = &self.progress else { return };
        let phase = reply["phase"].as_str().unwrap_or("working");
        let done = reply["done"].as_u64().or_else(|| reply["rows"].as_u64());
        let mut params = json!({ "progressToken": token, "progress": done.unwrap_or(count), "message": format!("{doing}: {phase}") });
        if let Some(of) = reply["of"].as_u64().filter(|of| *of > 0) {
            params["total"] = of.into();
        }
        // Once nobody writes any more the work ends, too.
        let _ = self.outgoing.send(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })).await;
    }
}

/// What the loop wakes up for.
enum Occurrence {
    Line(Option<std::io::Result<Vec<u8>>>),
    Outgoing(Value),
    Done(String),
}

/// Serves one client until its input ends.
pub(crate) async fn mcp(socket: &Path) -> anyhow::Result<()> {
    let (outgoing, mut to_write) = mpsc::channel(WAITING);
    let mut lines = read_lines()?;
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    let mut requests: JoinSet<String> = JoinSet::new();
    let context = RequestContext { socket: Arc::new(socket.to_owned()), client: super::client(socket), outgoing, progress: None };
    loop {
        let happened = tokio::select! {
            biased;
            Some(message) = to_write.recv() => Occurrence::Outgoing(message),
            Some(Ok(id)) = requests.join_next() => Occurrence::Done(id),
            line = lines.recv() => Occurrence::Line(line),
        };
        match happened {
            Occurrence::Outgoing(message) => write(&message)?,
            Occurrence::Done(id) => drop(running.remove(&id)),
            Occurrence::Line(None) => break,
            Occurrence::Line(Some(line)) => {
                let line = line.context("cannot read standard input")?;
                if let Some(answer) = take(&line, &context, &mut requests, &mut running) {
                    write(&answer)?;
                }
            }
        }
    }
    // Whoever has said all may still want to hear; one that has gone is not worked for for long.
    drop(context);
    let finish = async {
        while let Some(message) = to_write.recv().await {
            write(&message)?;
        }
        Ok(())
    };
    tokio::time::timeout(LAST_ANSWERS, finish).await.unwrap_or(Ok(()))
}

/// Takes one line: what can be answered at once is, a request begins, a cancelled one ends.
fn take(
    line: &[u8],
    context: &RequestContext,
    requests: &mut JoinSet<String>,
    running: &mut HashMap<String, AbortHandle>,
) -> Option<Value> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => return Some(failure(&Value::Null, &RpcError::new(PARSE_ERROR, format!("not JSON: {error}")))),
    };
    let message: RpcMessage = match serde_json::from_value(value) {
        Ok(message) => message,
        Err(error) => return Some(failure(&Value::Null, &RpcError::new(INVALID_REQUEST, format!("not a message: {error}")))),
    };
    let Some(method) = message.method.filter(|_| message.jsonrpc == "2.0") else {
        // An answer to a request of ours would have none; there are no such requests.
        let error = RpcError::new(INVALID_REQUEST, "expected `jsonrpc` to be 2.0, and a `method`");
        return message.id.map(|id| failure(&id, &error));
    };
    let Some(id) = message.id else {
        if method == "notifications/cancelled" {
            let cancelled = running.remove(&message.params["requestId"].to_string());
            if let Some(request) = cancelled {
                request.abort();
            }
        }
        return None;
    };
    if requests.len() >= REQUESTS_MAX {
        return Some(failure(&id, &RpcError::new(INVALID_REQUEST, format!("{REQUESTS_MAX} requests are being worked on"))));
    }
    let progress = message.params["_meta"].get("progressToken").cloned();
    let context = RequestContext { progress, ..context.clone() };
    let key = id.to_string();
    let name = key.clone();
    let request = requests.spawn(async move {
        let outcome = answer(&method, message.params, &context).await;
        let reply = match outcome {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => failure(&id, &error),
        };
        // The loop lives as long as this does.
        let _ = context.outgoing.send(reply).await;
        name
    });
    running.insert(key, request);
    None
}

fn failure(id: &Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": error.code, "message": error.message } })
}

/// The result of a request.
async fn answer(method: &str, params: Value, context: &RequestContext) -> Result<Value, RpcError> {
    match method {
        "initialize" => Ok(introduce(&params)),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({ "tools": tools::list() })),
        "tools/call" => {
            let name = params["name"].as_str().ok_or_else(|| RpcError::new(INVALID_PARAMS, "expected the `name` of a tool"))?;
            let arguments = params.get("arguments").cloned().unwrap_or_else(|| json!({}));
            let result = tools::call(name, arguments, context).await;
            result.ok_or_else(|| RpcError::new(INVALID_PARAMS, format!("no tool `{name}`: tools/list tells what there is")))
        }
        "resources/list" => resources::list(context).await.map_err(|fault| RpcError::new(RESOURCE_NOT_FOUND, fault.to_string())),
        "resources/templates/list" => Ok(json!({ "resourceTemplates": resources::templates() })),
        "resources/read" => {
            let uri = params["uri"].as_str().ok_or_else(|| RpcError::new(INVALID_PARAMS, "expected the `uri` of a resource"))?;
            resources::read(uri, context).await.map_err(|fault| RpcError::new(RESOURCE_NOT_FOUND, fault.to_string()))
        }
        _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("no method `{method}` here"))),
    }
}

/// The answer to `initialize`: the client's own version of the protocol if it is known, else the newest.
fn introduce(params: &Value) -> Value {
    let wanted = params["protocolVersion"].as_str().unwrap_or_default();
    let version = VERSIONS.into_iter().find(|version| *version == wanted).unwrap_or(VERSIONS[0]);
    json!({
        "protocolVersion": version,
        "capabilities": { "tools": {}, "resources": {} },
        "serverInfo": { "name": "brahman", "title": "Brahman", "version": env!("CARGO_PKG_VERSION") },
        "instructions": INSTRUCTIONS,
    })
}

/// Writes one message.
fn write(message: &Value) -> anyhow::Result<()> {
    let mut line = message.to_string();
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).context("standard output could not be written")
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
                Ok(_) if line.len() as u64 > LINE_BYTES_MAX => Err(std::io::Error::other("a line is longer than 16 MiB")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> (RequestContext, mpsc::Receiver<Value>) {
        let (outgoing, messages) = mpsc::channel(WAITING);
        let socket = PathBuf::from("/nowhere/brahman.sock");
        (RequestContext { client: super::super::client(&socket), socket: Arc::new(socket), outgoing, progress: None }, messages)
    }

    #[tokio::test]
    async fn a_session_begins_with_a_version_that_both_speak() {
        let (context, mut messages) = context();
        let (mut requests, mut running) = (JoinSet::new(), HashMap::new());
        let mut say = |line: &str| take(line.as_bytes(), &context, &mut requests, &mut running);
        assert!(say(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}"#).is_none());
        assert!(say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).is_none());
        let hello = messages.recv().await.expect("an answer");
        assert_eq!((&hello["id"], &hello["result"]["protocolVersion"]), (&json!(1), &json!("2025-03-26")));
        assert_eq!(say("{").expect("an error")["error"]["code"], PARSE_ERROR);
        assert_eq!(say(r#"{"jsonrpc":"1.0","id":2,"method":"ping"}"#).expect("an error")["error"]["code"], INVALID_REQUEST);
        assert!(say(r#"{"jsonrpc":"2.0","id":"a","method":"nothing"}"#).is_none());
        let unknown = messages.recv().await.expect("an answer");
        assert_eq!((&unknown["id"], &unknown["error"]["code"]), (&json!("a"), &json!(METHOD_NOT_FOUND)));
    }
}
