//! Any method of the mesh: `POST /v1/call/{interface.Method}`, its replies one by one as
//! Server-Sent Events or as lines of JSON.
//!
//! Invariants: parameters and replies are passed on as they are; an error before the first reply
//! has a status of its own; whoever hangs up ends the work.

use std::time::Duration;

use brahman_card::interface::broker::{self, FlowIn};
use brahman_card::interface::{self, WireError as _, service};
use brahman_card::wire::header::again;
use brahman_card::wire::parameters;
use brahman_card::{Fault, Interface};
use brahman_sidecar::client::{RawReply, encode_call};
use brahman_sidecar::{ClientError, Connection};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderMap};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Answer, AnswerBody, JSON};
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// Replies that may wait for a slow reader.
const PARTS_WAITING: usize = 8;
/// How often a quiet stream says that it is alive: what stands between cuts connections after a
/// minute.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// What it says then: a comment of Server-Sent Events.
pub(crate) const ALIVE: &[u8] = b": alive\n\n";
/// How often a stream is begun whose provider has gone before its first reply.
const BEGINNINGS: usize = 3;

/// How a stream of replies is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFormat {
    /// Server-Sent Events: `reply`, then `done`, or `error`.
    Events,
    /// A line of JSON a reply.
    Lines,
}

impl StreamFormat {
    /// What a client would have; none if it wants one reply.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let accept = headers.get(ACCEPT)?.to_str().ok()?;
        let has = |kind: &str| accepts(accept, kind);
        if has("text/event-stream") {
            Some(Self::Events)
        } else if has("application/x-ndjson")
            || has("application/jsonl")
            || has("application/ndjson")
        {
            Some(Self::Lines)
        } else {
            None
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    /// One piece of JSON as a part of the stream.
    pub(crate) fn part(self, event: &str, json: &[u8]) -> Bytes {
        let json = if json.is_empty() { b"{}" } else { json };
        let mut out = Vec::with_capacity(json.len() + 32);
        if self == Self::Events {
            out.extend_from_slice(format!("event: {event}\ndata: ").as_bytes());
        }
        // A line's end within JSON is only ever space.
        out.extend(
            json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }),
        );
        out.extend_from_slice(if self == Self::Events { b"\n\n" } else { b"\n" });
        out.into()
    }

    fn failure(self, fault: &Fault) -> Bytes {
        // Names and JSON values only, which are JSON.
        let json = serde_json::to_vec(fault).unwrap_or_default();
        self.part("error", &json)
    }
}

/// Whether a media type is among those that an `Accept` names; with a weight of 0 it is one that is
/// not to be sent (RFC 9110, 12.4.2).
pub(crate) fn accepts(accept: &str, kind: &str) -> bool {
    let is_refused = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, weight)| {
            name.trim().eq_ignore_ascii_case("q")
                && weight.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0)
        })
    };
    accept.split(',').any(|part| {
        let mut parts = part.split(';');
        parts.next().is_some_and(|named| named.trim().eq_ignore_ascii_case(kind))
            && !parts.any(is_refused)
    })
}

/// `POST /v1/call/{method}`.
pub(crate) async fn call(
    mesh: &Mesh,
    caller: &Caller,
    method: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let split = method
        .rsplit_once('.')
        .filter(|(interface, name)| interface.contains('.') && !name.is_empty());
    let (interface, _) = split.ok_or_else(|| {
        Refusal::absent(format!(
            "`{method}` is no method: expected one such as org.example.Thing.Do"
        ))
    })?;
    caller.allow(method)?;
    // The client remembers who answers for which interface: of made-up ones there would be no end.
    if interface::known(interface).is_none() && !is_offered(mesh, caller, interface).await? {
        return Err(Fault::interface_not_found(interface).into());
    }
    let body = body.trim_ascii();
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    if !parameters::is_object(body) {
        return Err(Refusal::parameter("parameters", "expected an object"));
    }
    let read: Result<Box<RawValue>, _> = serde_json::from_slice(body);
    let parameters =
        read.map_err(|error| Refusal::parameter("parameters", format!("not JSON: {error}")))?;
    match StreamFormat::of(headers) {
        Some(format) => stream(mesh, caller, (interface, method), &parameters, format).await,
        None => single(mesh, caller, method, &parameters).await,
    }
}

/// One call and its one reply, of any method.
pub(crate) async fn single<P: Serialize + Sync>(
    mesh: &Mesh,
    caller: &Caller,
    method: &str,
    parameters: &P,
) -> Result<Answer, Refusal> {
    let options = caller.options();
    let given = mesh
        .client()
        .call::<P, Box<RawValue>>(method, parameters, &options)
        .await
        .map_err(Fault::from)?;
    let text: Box<str> = given.value.into();
    let mut answer = answer::bytes(StatusCode::OK, JSON, String::from(text));
    answer::sign(&mut answer, given.provider.as_deref(), given.mock);
    Ok(answer)
}

/// One call and its many replies.
async fn stream(
    mesh: &Mesh,
    caller: &Caller,
    (interface, method): (&str, &str),
    parameters: &RawValue,
    format: StreamFormat,
) -> Result<Answer, Refusal> {
    let place = mesh.stream_place(caller)?;
    let options = caller.options();
    let mut message =
        encode_call(method, &parameters, &options, true, false).map_err(Fault::from)?;
    let name = method.rsplit_once('.').map_or(method, |(_, name)| name);
    let repeatable = interface::known(interface).is_some_and(|known| known.is_idempotent(name));
    let mut left = BEGINNINGS;
    let (connection, first) = loop {
        left -= 1;
        let mut connection = mesh.client().open(interface, &options).await.map_err(Fault::from)?;
        match begin(&mut connection, &message).await {
            Ok(first) => break (connection, first),
            Err(error) if error.is_disconnect() && repeatable && left > 0 => {
                message = again(&message);
            }
            Err(error) => return Err(Fault::from(error).into()),
        }
    };
    let (parts, waiting) = mpsc::channel(PARTS_WAITING);
    let (provider, mock) = (first.provider.clone(), first.mock);
    // Whoever watches begins anew with the next life of this process.
    let drain = if interface::is_endless(interface, name) {
        mesh.drain.clone()
    } else {
        CancellationToken::new()
    };
    tokio::spawn(async move {
        let _place = place;
        pump(connection, first, format, parts, drain).await;
    });
    let mut answer = answer::of(StatusCode::OK, format.media_type(), AnswerBody::Parts(waiting));
    answer::set(&mut answer, "cache-control", "no-store");
    answer::sign(&mut answer, provider.as_deref(), mock);
    Ok(answer)
}

async fn begin(connection: &mut Connection, message: &[u8]) -> Result<RawReply, ClientError> {
    connection.send(message).await?;
    connection.receive().await
}

/// Passes replies on until the last, or until nobody reads them: then the connection is closed, and
/// the work with it.
async fn pump(
    mut connection: Connection,
    first: RawReply,
    format: StreamFormat,
    parts: mpsc::Sender<Bytes>,
    drain: CancellationToken,
) {
    let mut reply: Result<RawReply, Fault> = Ok(first);
    loop {
        let (part, is_last) = match &reply {
            Ok(reply) => (
                format.part(if reply.continues { "reply" } else { "done" }, &reply.parameters),
                !reply.continues,
            ),
            Err(fault) => (format.failure(fault), true),
        };
        if parts.send(part).await.is_err() || is_last {
            return;
        }
        reply = loop {
            tokio::select! {
                biased;
                () = parts.closed() => return,
                () = drain.cancelled() => return,
                next = connection.receive() => break next.map_err(Fault::from),
                () = tokio::time::sleep(ALIVE_EVERY), if format == StreamFormat::Events => {
                    if parts.send(Bytes::from_static(ALIVE)).await.is_err() {
                        return;
                    }
                }
            }
        };
    }
}

/// Whether some Card offers an interface; its module may be on its way, and a call waits for it.
async fn is_offered(mesh: &Mesh, caller: &Caller, interface: &str) -> Result<bool, Refusal> {
    let ask = FlowIn { flow: interface.to_owned(), context: caller.context.clone(), require: None };
    let explained =
        mesh.client().call_method::<broker::method::Explain>(&ask, &caller.options()).await;
    Ok(!explained.map_err(Fault::from)?.value.candidates.is_empty())
}

/// The interfaces that are on offer now.
///
/// # Errors
/// If the broker does not answer.
pub(crate) async fn offered(mesh: &Mesh, caller: &Caller) -> Result<Vec<String>, Refusal> {
    let info = mesh
        .client()
        .call_method::<service::method::GetInfo>(&Default::default(), &caller.options())
        .await
        .map_err(Fault::from)?;
    Ok(info.value.interfaces)
}

/// The IDL text of an interface: our own is known, that of somebody else's module is asked for.
///
/// # Errors
/// 404 if nobody offers it.
pub(crate) async fn description(
    mesh: &Mesh,
    caller: &Caller,
    interface: &str,
) -> Result<String, Refusal> {
    let ask = service::DescriptionIn { interface: interface.to_owned() };
    let told = mesh
        .client()
        .call_method::<service::method::GetInterfaceDescription>(&ask, &caller.options())
        .await;
    match told.map_err(Fault::from) {
        Ok(answer) => Ok(answer.value.description),
        Err(fault) if fault.name == service::error::InvalidParameter::NAME => {
            Err(Refusal::new(StatusCode::NOT_FOUND, fault))
        }
        Err(fault) => Err(fault.into()),
    }
}

/// `GET /v1/interfaces`.
pub(crate) async fn interfaces(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    let entry = |name: &String| {
        let methods = |known: &'static Interface| {
            let facts = known.methods.iter();
            let fact = |method: &interface::MethodFacts| {
                json!({
                    "name": method.name,
                    "idempotent": method.is_idempotent,
                    "endless": method.is_endless,
                    "reads": method.only_reads,
                    "allowed": caller.may_call(known.name, method.name),
                })
            };
            facts.map(fact).collect::<Vec<_>>()
        };
        json!({ "name": name, "allowed": caller.opens(name), "methods": interface::known(name).map(methods) })
    };
    let all: Vec<serde_json::Value> = offered(mesh, caller).await?.iter().map(entry).collect();
    Ok(answer::json(StatusCode::OK, &json!({ "interfaces": all })))
}

/// `GET /v1/interfaces/{name}`: its IDL text.
pub(crate) async fn interface_text(
    mesh: &Mesh,
    caller: &Caller,
    name: &str,
) -> Result<Answer, Refusal> {
    caller.enter(name)?;
    let text = description(mesh, caller, name).await?;
    Ok(answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_weight_is_not_accepted() {
        for accept in ["text/html", "application/xhtml+xml, Text/HTML;q=0.9", "text/html;level=1"] {
            assert!(accepts(accept, "text/html"), "{accept}");
        }
        for accept in ["text/html;q=0", "text/html; Q=0.000, */*", "text/html5", "*/*", ""] {
            assert!(!accepts(accept, "text/html"), "{accept}");
        }
    }

    #[test]
    fn a_stream_has_the_shape_that_was_asked_for() {
        let headers = |accept: &'static str| {
            HeaderMap::from_iter([(ACCEPT, hyper::header::HeaderValue::from_static(accept))])
        };
        for (accept, format) in [
            ("text/event-stream", Some(StreamFormat::Events)),
            ("application/json, application/x-ndjson;q=0.9", Some(StreamFormat::Lines)),
            ("application/json", None),
            ("*/*", None),
        ] {
            assert_eq!(StreamFormat::of(&headers(accept)), format, "{accept}");
        }
        assert_eq!(
            &StreamFormat::Events.part("done", b"{\n\"a\": 1}")[..],
            b"event: done\ndata: { \"a\": 1}\n\n"
        );
        assert_eq!(&StreamFormat::Lines.part("reply", b"")[..], b"{}\n");
    }
}
