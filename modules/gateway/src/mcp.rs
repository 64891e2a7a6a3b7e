//! `/mcp`: the Model Context Protocol over HTTP, as its specification calls it streamable, without
//! sessions: each request stands alone.
//!
//! Invariants: whoever asks may do by a tool what he may do by a path, and no more; whoever hangs
//! up ends the work.

use brahman_card::Fault;
use brahman_mcp::{McpContext, RpcMessage, RpcRequest, VERSIONS};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::answer::{self, Answer, AnswerBody, JSON};
use crate::caller::Caller;
use crate::calls::StreamFormat;
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// Longest message: what a model says is shorter by far, and it is held for as long as its work
/// takes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Messages that may wait for a slow reader.
const MESSAGES_WAITING: usize = 8;
/// Header: the version that a client has agreed on.
const VERSION: &str = "mcp-protocol-version";

/// `POST /mcp`: one message.
pub(crate) async fn message(
    mesh: &Mesh,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let agreed = headers.get(VERSION).map(|version| version.as_bytes());
    if agreed.is_some_and(|agreed| !VERSIONS.iter().any(|version| version.as_bytes() == agreed)) {
        return Err(Refusal::parameter(
            VERSION,
            format!("expected one of {}", VERSIONS.join(", ")),
        ));
    }
    if body.len() > MESSAGE_BYTES_MAX {
        let fault = Fault::overloaded(
            format!("the message has {} bytes, expected at most {MESSAGE_BYTES_MAX}", body.len()),
            0,
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault));
    }
    let request = match RpcMessage::read(body) {
        Ok(RpcMessage::Request(request)) => request,
        // A request that is to be cancelled is one whose connection is closed.
        Ok(RpcMessage::Cancellation(_) | RpcMessage::Notification) => {
            return Ok(answer::bytes(StatusCode::ACCEPTED, JSON, ""));
        }
        Err(refused) => return Ok(answer::json(StatusCode::BAD_REQUEST, &refused)),
    };
    let permitted = caller.clone();
    let context = McpContext::new(mesh.client().clone(), caller.options(), move |interface| {
        permitted.allow(interface)
    });
    if request.wants_progress() && StreamFormat::of(headers) == Some(StreamFormat::Events) {
        let place = mesh.stream_place(caller)?;
        let (parts, waiting) = mpsc::channel(MESSAGES_WAITING);
        tokio::spawn(async move {
            let _place = place;
            tell(context, request, parts).await;
        });
        return Ok(answer::of(
            StatusCode::OK,
            StreamFormat::Events.media_type(),
            AnswerBody::Parts(waiting),
        ));
    }
    Ok(answer::json(StatusCode::OK, &context.answer(request).await))
}

/// Sends progress and the answer as events, until the answer was sent or nobody reads any more.
async fn tell(context: McpContext, request: RpcRequest, parts: mpsc::Sender<Bytes>) {
    let (outgoing, mut messages) = mpsc::channel(MESSAGES_WAITING);
    let mut work = std::pin::pin!(context.telling(outgoing).answer(request));
    loop {
        let (said, is_last) = tokio::select! {
            biased;
            () = parts.closed() => return,
            Some(progress) = messages.recv() => (progress, false),
            answer = work.as_mut() => (answer, true),
        };
        if parts.send(event(&said)).await.is_err() || is_last {
            return;
        }
    }
}

fn event(message: &Value) -> Bytes {
    StreamFormat::Events.part("message", message.to_string().as_bytes())
}
