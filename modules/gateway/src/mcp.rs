//! `/mcp`: the Model Context Protocol over HTTP, as its specification calls it streamable. A client
//! that keeps to the session which `initialize` begins can cancel its requests; a request without
//! one stands alone.
//!
//! Invariants: whoever asks may do by a tool what he may do by a path, and no more; whoever hangs
//! up, cancels, or ends his session, ends the work.

use std::time::Duration;

use brahman_card::Fault;
use brahman_mcp::{McpContext, RpcMessage, RpcRequest, VERSIONS, in_use, too_many};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::answer::{self, Answer, AnswerBody, JSON};
use crate::caller::Caller;
use crate::calls::{ALIVE, ALIVE_EVERY, StreamFormat};
use crate::mesh::Mesh;
use crate::refusal::Refusal;
use crate::sessions::{Obstacle, RunningRequest, SESSION, SessionName, Sessions};

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
    sessions: &Sessions,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refusal> {
    check_version(headers)?;
    if body.len() > MESSAGE_BYTES_MAX {
        let fault = Fault::overloaded(
            format!("the message has {} bytes, expected at most {MESSAGE_BYTES_MAX}", body.len()),
            0,
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault));
    }
    let session = SessionName::named(caller, headers)?;
    let request = match RpcMessage::read(body) {
        Ok(RpcMessage::Request(request)) => request,
        Ok(RpcMessage::Cancellation(id)) => {
            // Without a session nobody knows whose request is of this id: it is cancelled by
            // closing its connection.
            let goes_on = session.is_none_or(|session| sessions.cancel(&session, &id));
            return if goes_on { Ok(nothing()) } else { Err(ended()) };
        }
        Ok(RpcMessage::Notification) => {
            let goes_on = session.is_none_or(|session| sessions.goes_on(&session));
            return if goes_on { Ok(nothing()) } else { Err(ended()) };
        }
        Err(refused) => return Ok(answer::json(StatusCode::BAD_REQUEST, &refused)),
    };
    let permitted = caller.clone();
    let context = McpContext::new(mesh.client().clone(), caller.options(), move |method| {
        permitted.allow(method)
    });
    if request.is_introduction() {
        let session = sessions.begin(caller);
        let mut answer = answer::json(StatusCode::OK, &context.answer(request).await);
        answer::set(&mut answer, SESSION, &session.id.to_string());
        return Ok(answer);
    }
    let running = match session.map(|session| sessions.enter(&session, &request.id)).transpose() {
        Ok(running) => running,
        Err(Obstacle::SessionEnd) => return Err(ended()),
        Err(Obstacle::SameId) => return Ok(answer::json(StatusCode::OK, &in_use(&request.id))),
        Err(Obstacle::Crowd) => return Ok(answer::json(StatusCode::OK, &too_many(&request.id))),
    };
    if request.wants_progress() && StreamFormat::of(headers) == Some(StreamFormat::Events) {
        let place = mesh.stream_place(caller)?;
        let (parts, waiting) = mpsc::channel(MESSAGES_WAITING);
        tokio::spawn(async move {
            let _place = place;
            tell(context, request, running, parts).await;
        });
        return Ok(answer::of(
            StatusCode::OK,
            StreamFormat::Events.media_type(),
            AnswerBody::Parts(waiting),
        ));
    }
    Ok(tokio::select! {
        biased;
        // Of a request that was cancelled nothing is said.
        () = cancelled(running.as_ref()) => nothing(),
        answer = context.answer(request) => answer::json(StatusCode::OK, &answer),
    })
}

/// `DELETE /mcp`: a client ends its session.
///
/// # Errors
/// 400 without a session, 404 if it has ended before.
pub(crate) fn end(
    sessions: &Sessions,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    check_version(headers)?;
    let session = SessionName::named(caller, headers)?
        .ok_or_else(|| Refusal::parameter(SESSION, "expected the session that is to end"))?;
    if sessions.end(&session) {
        Ok(answer::bytes(StatusCode::NO_CONTENT, JSON, ""))
    } else {
        Err(ended())
    }
}

/// The version that a client has agreed on, if it says which, has to be one that is spoken.
fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let agreed = headers.get(VERSION).map(|version| version.as_bytes());
    if agreed.is_none_or(|agreed| VERSIONS.iter().any(|version| version.as_bytes() == agreed)) {
        return Ok(());
    }
    Err(Refusal::parameter(VERSION, format!("expected one of {}", VERSIONS.join(", "))))
}

/// The answer to what is to have none.
fn nothing() -> Answer {
    answer::bytes(StatusCode::ACCEPTED, JSON, "")
}

fn ended() -> Refusal {
    Refusal::absent("this session was ended by its client: `initialize` begins another one")
}

/// Resolves once a request is cancelled; never of one without a session.
async fn cancelled(running: Option<&RunningRequest>) {
    match running {
        Some(running) => running.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Sends progress and the answer as events, until the answer was sent, the request is cancelled, or
/// nobody reads any more.
async fn tell(
    context: McpContext,
    request: RpcRequest,
    running: Option<RunningRequest>,
    parts: mpsc::Sender<Bytes>,
) {
    let (outgoing, messages) = mpsc::channel(MESSAGES_WAITING);
    let work = context.telling(outgoing).answer(request);
    tokio::select! {
        biased;
        () = parts.closed() => {}
        () = cancelled(running.as_ref()) => {}
        () = relay(work, messages, &parts, ALIVE_EVERY) => {}
    }
}

/// Sends what a work says and what it comes to; while it says nothing, that it is alive.
async fn relay(
    work: impl Future<Output = Value>,
    mut messages: mpsc::Receiver<Value>,
    parts: &mpsc::Sender<Bytes>,
    alive_every: Duration,
) {
    let mut work = std::pin::pin!(work);
    loop {
        let (part, is_last) = tokio::select! {
            biased;
            Some(progress) = messages.recv() => (event(&progress), false),
            answer = work.as_mut() => (event(&answer), true),
            () = tokio::time::sleep(alive_every) => (Bytes::from_static(ALIVE), false),
        };
        if parts.send(part).await.is_err() || is_last {
            return;
        }
    }
}

fn event(message: &Value) -> Bytes {
    StreamFormat::Events.part("message", message.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_tool_that_says_nothing_is_seen_to_be_alive_until_it_answers() {
        let (parts, mut told) = mpsc::channel(MESSAGES_WAITING);
        let (outgoing, messages) = mpsc::channel(MESSAGES_WAITING);
        let (end, ended) = oneshot::channel();
        let work = async move {
            outgoing.send(json!({ "progress": 1 })).await.expect("heard");
            ended.await.expect("asked to end")
        };
        let reading = async move {
            assert_eq!(told.recv().await, Some(event(&json!({ "progress": 1 }))));
            for _ in 0..3 {
                assert_eq!(told.recv().await, Some(Bytes::from_static(ALIVE)));
            }
            end.send(json!({ "id": 1 })).expect("it works");
            let mut last = told.recv().await;
            while last == Some(Bytes::from_static(ALIVE)) {
                last = told.recv().await;
            }
            assert_eq!(last, Some(event(&json!({ "id": 1 }))));
        };
        tokio::join!(relay(work, messages, &parts, Duration::from_millis(1)), reading);
    }
}
