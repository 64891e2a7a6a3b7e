//! The mesh as tools and resources of a language model: the Model Context Protocol's messages,
//! whatever carries them.
//!
//! <https://modelcontextprotocol.io/specification>: JSON-RPC 2.0. [`tools`] is what there is to
//! call, [`resources`] what there is to read; here are the protocol's own messages. `brahman mcp`
//! carries them over standard input and output, the gateway over HTTP.
//!
//! Invariants: nothing here reads or writes a stream; every call of the mesh is one that the caller
//! may make, by the word of whoever carries the messages; a request that is dropped ends its work
//! in the mesh.

mod resources;
mod tools;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use brahman_card::Fault;
use brahman_card::interface::Method;
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{CallOptions, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Versions of the protocol that are spoken, the newest first.
pub const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// What a model is told before it sees the tools.
const INSTRUCTIONS: &str = "Brahman searches the user's own documents and tables on this machine. Begin with `list` to see which indexes there \
are, `search` them in words of your own, and read more of a document by `get` before you rely on it. `ingest` adds files or folders.";

/// JSON-RPC's numbers for what is wrong.
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;
const RESOURCE_NOT_FOUND: i64 = -32002;

/// Why a request has no result.
#[derive(Debug)]
struct RpcError {
    code: i64,
    message: String,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// One message as it stands on the wire.
#[derive(Debug, Deserialize)]
struct RawMessage {
    jsonrpc: String,
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// A request, which is to be answered.
#[derive(Debug)]
pub struct RpcRequest {
    /// By which its answer is known.
    pub id: Value,
    method: String,
    params: Value,
}

impl RpcRequest {
    /// Whether its client wants to hear how far its work is.
    #[must_use]
    pub fn wants_progress(&self) -> bool {
        self.progress_token().is_some()
    }

    /// Whether its client introduces itself, with which a session begins.
    #[must_use]
    pub fn is_introduction(&self) -> bool {
        self.method == "initialize"
    }

    fn progress_token(&self) -> Option<&Value> {
        self.params.get("_meta")?.get("progressToken")
    }
}

/// What a client says.
#[derive(Debug)]
pub enum RpcMessage {
    /// It wants an answer.
    Request(RpcRequest),
    /// It wants the request of this id cancelled.
    Cancellation(Value),
    /// Anything else that has no answer.
    Notification,
}

impl RpcMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// The answer that says what is wrong with it.
    pub fn read(text: &[u8]) -> Result<Self, Value> {
        let null = Value::Null;
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            failure(&null, &RpcError::new(PARSE_ERROR, format!("not JSON: {error}")))
        })?;
        let message: RawMessage = serde_json::from_value(value).map_err(|error| {
            failure(&null, &RpcError::new(INVALID_REQUEST, format!("not a message: {error}")))
        })?;
        let RawMessage { jsonrpc, id, method, params } = message;
        match (method.filter(|_| jsonrpc == "2.0"), id) {
            (Some(method), Some(id)) => Ok(Self::Request(RpcRequest { id, method, params })),
            (Some(method), None) if method == "notifications/cancelled" => {
                Ok(Self::Cancellation(params.get("requestId").cloned().unwrap_or(Value::Null)))
            }
            (Some(_), None) => Ok(Self::Notification),
            // An answer to a request of ours, of which there are none; or nothing that has a
            // meaning.
            (None, id) => {
                let error =
                    RpcError::new(INVALID_REQUEST, "expected `jsonrpc` to be 2.0, and a `method`");
                Err(failure(&id.unwrap_or(Value::Null), &error))
            }
        }
    }
}

fn failure(id: &Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": error.code, "message": error.message } })
}

/// The answer to a request that is not begun, because so many are being worked on.
#[must_use]
pub fn too_many(id: &Value) -> Value {
    failure(
        id,
        &RpcError::new(
            INTERNAL_ERROR,
            "too many requests are being worked on: wait for their answers",
        ),
    )
}

/// The answer to a request whose id is that of another one that is being worked on.
#[must_use]
pub fn in_use(id: &Value) -> Value {
    failure(
        id,
        &RpcError::new(
            INVALID_REQUEST,
            "a request of this id is being worked on: expected another id",
        ),
    )
}

/// Says whether a method may be called, by its qualified name.
type Permission = Arc<dyn Fn(&str) -> Result<(), Fault> + Send + Sync>;

/// What a client may do, and where it hears of progress.
#[derive(Clone)]
pub struct McpContext {
    client: Client,
    options: CallOptions,
    permission: Permission,
    outgoing: Option<mpsc::Sender<Value>>,
    /// By which the client knows what progress is of, if it wants to hear of any.
    progress: Option<Value>,
    /// How far the request was last said to be.
    scale: Arc<Mutex<ProgressScale>>,
}

/// The phases of one request's work on one scale: by the protocol, what is told increases with each
/// notification, and each phase counts from nothing.
#[derive(Debug, Default)]
struct ProgressScale {
    phase: String,
    /// Where the phase began.
    begun: u64,
    /// What was told last.
    told: Option<u64>,
}

impl ProgressScale {
    /// What is told of so much in a phase, and of its end, if that is known.
    fn next(&mut self, phase: &str, done: u64, of: Option<u64>) -> (u64, Option<u64>) {
        let least = self.told.map_or(0, |told| told + 1);
        if self.phase != phase {
            phase.clone_into(&mut self.phase);
            self.begun = least;
        }
        let progress = self.begun.saturating_add(done).max(least);
        self.told = Some(progress);
        (progress, of.map(|of| self.begun.saturating_add(of).max(progress)))
    }
}

impl fmt::Debug for McpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpContext")
            .field("client", &self.client)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl McpContext {
    /// Of a client whose calls say this, and for whom `permission` answers.
    #[must_use]
    pub fn new(
        client: Client,
        options: CallOptions,
        permission: impl Fn(&str) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Self {
        Self {
            client,
            options,
            permission: Arc::new(permission),
            outgoing: None,
            progress: None,
            scale: Arc::default(),
        }
    }

    /// The same, with progress told as messages for the client.
    #[must_use]
    pub fn telling(self, outgoing: mpsc::Sender<Value>) -> Self {
        Self { outgoing: Some(outgoing), ..self }
    }

    /// Answers a request.
    pub async fn answer(mut self, request: RpcRequest) -> Value {
        self.progress = request.progress_token().cloned();
        self.scale = Arc::default();
        let RpcRequest { id, method, params } = request;
        match self.result(&method, params).await {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => failure(&id, &error),
        }
    }

    async fn result(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let unread = |fault: Fault| RpcError::new(RESOURCE_NOT_FOUND, fault.to_string());
        match method {
            "initialize" => Ok(introduce(&params)),
            "ping" => Ok(json!({})),
            "tools/list" => Ok(json!({ "tools": tools::list() })),
            "tools/call" => {
                let name = params["name"].as_str().ok_or_else(|| {
                    RpcError::new(INVALID_PARAMS, "expected the `name` of a tool")
                })?;
                let arguments = params.get("arguments").cloned().unwrap_or_else(|| json!({}));
                let result = tools::call(name, arguments, self).await;
                result.ok_or_else(|| {
                    RpcError::new(
                        INVALID_PARAMS,
                        format!("no tool `{name}`: tools/list tells what there is"),
                    )
                })
            }
            "resources/list" => resources::list(self).await.map_err(unread),
            "resources/templates/list" => {
                Ok(json!({ "resourceTemplates": resources::templates() }))
            }
            "resources/read" => {
                let uri = params["uri"].as_str().ok_or_else(|| {
                    RpcError::new(INVALID_PARAMS, "expected the `uri` of a resource")
                })?;
                resources::read(uri, self).await.map_err(unread)
            }
            _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("no method `{method}` here"))),
        }
    }

    fn mesh(&self) -> std::path::Display<'_> {
        self.client.mesh().display()
    }

    fn allow<M: Method>(&self) -> Result<&'static str, Fault> {
        let interface = M::NAME.rsplit_once('.').map_or("", |(interface, _)| interface);
        (self.permission)(M::NAME).map(|()| interface)
    }

    /// Calls a method of the mesh.
    async fn ask<M: Method>(&self, ask: &M::In) -> Result<M::Out, Fault> {
        self.ask_of::<M>(ask, &[]).await
    }

    /// The same of a provider with these attributes.
    async fn ask_of<M: Method>(
        &self,
        ask: &M::In,
        require: &[(&str, &str)],
    ) -> Result<M::Out, Fault> {
        self.allow::<M>()?;
        let require =
            require.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = CallOptions { require, ..self.options.clone() };
        Ok(self.client.call_method::<M>(ask, &options).await?.value)
    }

    /// Calls a method that streams; tells of its progress, and gives the last reply.
    async fn stream<M: Method>(&self, ask: &M::In, doing: &str) -> Result<Value, Fault> {
        let interface = self.allow::<M>()?;
        let message = encode_method::<M>(ask, &self.options, true, false)?;
        let mut connection = self.client.open(interface, &self.options).await?;
        connection.send(&message).await?;
        let mut count = 0_u64;
        loop {
            let reply = connection.receive().await?;
            let is_last = !reply.continues;
            let value: Value = reply.typed()?.value;
            if is_last {
                return Ok(value);
            }
            count += 1;
            self.tell_progress(&value, count, doing).await;
        }
    }

    /// Says how far a work is, in the words of its reply.
    async fn tell_progress(&self, reply: &Value, count: u64, doing: &str) {
        let (Some(token), Some(outgoing)) = (&self.progress, &self.outgoing) else { return };
        let phase = reply["phase"].as_str().unwrap_or("working");
        let done = reply["done"].as_u64().or_else(|| reply["rows"].as_u64());
        let (message, of) =
            (format!("{doing}: {phase}"), reply["of"].as_u64().filter(|of| *of > 0));
        let (progress, total) = self.scale.lock().unwrap_or_else(PoisonError::into_inner).next(
            &message,
            done.unwrap_or(count),
            of,
        );
        let mut params =
            json!({ "progressToken": token, "progress": progress, "message": message });
        if let Some(total) = total {
            params["total"] = total.into();
        }
        // Once nobody reads any more the work ends, too.
        let _ = outgoing
            .send(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }))
            .await;
    }
}

/// The answer to `initialize`: the client's own version of the protocol if it is known, else the
/// newest.
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn progress_increases_over_all_phases() {
        let mut scale = ProgressScale::default();
        let told = [
            ("read", 0, None),
            ("embed", 0, Some(10)),
            ("embed", 8, Some(10)),
            ("embed", 8, Some(10)),
            ("write", 0, Some(10)),
            ("write", 10, Some(10)),
        ]
        .map(|(phase, done, of)| scale.next(phase, done, of));
        let expected = [
            (0, None),
            (1, Some(11)),
            (9, Some(11)),
            (10, Some(11)),
            (11, Some(21)),
            (21, Some(21)),
        ];
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn a_session_begins_with_a_version_that_both_speak() {
        let client =
            Client::for_command(Path::new("/nowhere/brahman.sock"), Duration::from_millis(1));
        let context = McpContext::new(client, CallOptions::default(), |_| Ok(()));
        let request = |text: &str| match RpcMessage::read(text.as_bytes()) {
            Ok(RpcMessage::Request(request)) => request,
            other => panic!("{other:?}"),
        };
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}"#;
        let hello = context.clone().answer(request(hello)).await;
        assert_eq!(
            (&hello["id"], &hello["result"]["protocolVersion"]),
            (&json!(1), &json!("2025-03-26"))
        );
        let unknown = context
            .clone()
            .answer(request(r#"{"jsonrpc":"2.0","id":"a","method":"nothing"}"#))
            .await;
        assert_eq!(
            (&unknown["id"], &unknown["error"]["code"]),
            (&json!("a"), &json!(METHOD_NOT_FOUND))
        );
    }

    #[test]
    fn what_is_no_message_is_answered_with_what_is_wrong() {
        let code = |text: &str| {
            RpcMessage::read(text.as_bytes()).expect_err("no message")["error"]["code"].clone()
        };
        assert_eq!(
            (code("{"), code("[]"), code(r#"{"jsonrpc":"1.0","id":2,"method":"ping"}"#)),
            (PARSE_ERROR.into(), INVALID_REQUEST.into(), INVALID_REQUEST.into())
        );
        let cancelled = RpcMessage::read(
            br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#,
        );
        assert!(matches!(cancelled, Ok(RpcMessage::Cancellation(id)) if id == 7));
        assert!(matches!(
            RpcMessage::read(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
            Ok(RpcMessage::Notification)
        ));
        assert_eq!(
            (&in_use(&json!(3))["id"], &in_use(&json!(3))["error"]["code"]),
            (&json!(3), &json!(INVALID_REQUEST))
        );
    }
}
