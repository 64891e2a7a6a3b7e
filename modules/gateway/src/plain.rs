//! Plain paths for the daily work: status, indexes, search, datasets, objects.
//!
//! Invariant: each is one call of one method, whose reply is the answer as it is.

use std::time::Duration;

use brahman_card::interface::storage::{self, GetObjectIn};
use brahman_card::interface::{broker, catalog, index};
use brahman_card::wire::{base64, parameters};
use brahman_card::{Fault, interface::Method};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::answer::{self, Answer, AnswerBody};
use crate::caller::Caller;
use crate::calls::{StreamFormat, single};
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// How often followers of the status are told of it.
const EVENTS_EVERY: Duration = Duration::from_secs(2);
/// Events that may wait for a slow reader.
const EVENTS_WAITING: usize = 2;

/// Calls a method of a shipped interface, and answers with its reply.
async fn reply_of<M: Method>(mesh: &Mesh, caller: &Caller, ask: &M::In) -> Result<Answer, Refusal> {
    caller.allow(M::NAME)?;
    single(mesh, caller, M::NAME, ask).await
}

/// `GET /v1/status`.
pub(crate) async fn status(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    reply_of::<broker::method::Status>(mesh, caller, &Default::default()).await
}

/// `GET /v1/events`: the status, again and again.
pub(crate) async fn events(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    caller.allow(broker::method::Status::NAME)?;
    let place = mesh.stream_place(caller)?;
    let (client, options, drain) = (mesh.client().clone(), caller.options(), mesh.drain.clone());
    let (parts, waiting) = mpsc::channel::<Bytes>(EVENTS_WAITING);
    tokio::spawn(async move {
        let _place = place;
        let mut beats = tokio::time::interval(EVENTS_EVERY);
        loop {
            tokio::select! {
                () = parts.closed() => return,
                () = drain.cancelled() => return,
                _ = beats.tick() => {}
            }
            let told = client
                .call_method::<broker::method::Status>(&Default::default(), &options)
                .await
                .map_err(Fault::from);
            let part = match told {
                Ok(answer) => StreamFormat::Events
                    .part("status", &serde_json::to_vec(&answer.value).unwrap_or_default()),
                Err(fault) => StreamFormat::Events
                    .part("error", &serde_json::to_vec(&fault).unwrap_or_default()),
            };
            if parts.send(part).await.is_err() {
                return;
            }
        }
    });
    let mut answer =
        answer::of(StatusCode::OK, StreamFormat::Events.media_type(), AnswerBody::Parts(waiting));
    answer::set(&mut answer, "cache-control", "no-store");
    Ok(answer)
}

/// `GET /v1/indexes`.
pub(crate) async fn indexes(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    reply_of::<index::method::List>(mesh, caller, &Default::default()).await
}

/// `GET /v1/indexes/{name}`.
pub(crate) async fn index(mesh: &Mesh, caller: &Caller, name: &str) -> Result<Answer, Refusal> {
    reply_of::<index::method::Stats>(mesh, caller, &index::NameIn { name: name.to_owned() }).await
}

/// `POST /v1/indexes/{name}/search`: the parameters of `Search` without the index's name.
pub(crate) async fn search(
    mesh: &Mesh,
    caller: &Caller,
    name: &str,
    body: &[u8],
) -> Result<Answer, Refusal> {
    caller.allow(index::method::Search::NAME)?;
    let mut ask: Map<String, Value> = parameters::read(body)?;
    if ask.get("index").is_some_and(|other| other != name) {
        return Err(Refusal::parameter(
            "index",
            "another one is named in the path: expected none here",
        ));
    }
    ask.insert("index".to_owned(), name.into());
    single(mesh, caller, index::method::Search::NAME, &ask).await
}

/// `GET /v1/datasets`.
pub(crate) async fn datasets(mesh: &Mesh, caller: &Caller) -> Result<Answer, Refusal> {
    reply_of::<catalog::method::List>(mesh, caller, &Default::default()).await
}

/// `GET /v1/datasets/{name}`.
pub(crate) async fn dataset(mesh: &Mesh, caller: &Caller, name: &str) -> Result<Answer, Refusal> {
    reply_of::<catalog::method::Get>(
        mesh,
        caller,
        &catalog::NameIn { name: name.to_owned(), mock: None },
    )
    .await
}

/// `GET /v1/buckets/{bucket}/objects/{key}`: an object's bytes, of which a header says where they
/// come from.
pub(crate) async fn object(
    mesh: &Mesh,
    caller: &Caller,
    bucket: &str,
    key: &str,
) -> Result<Answer, Refusal> {
    let key = decoded(key)
        .ok_or_else(|| Refusal::parameter("key", "expected UTF-8, escaped as in a URL"))?;
    let ask = GetObjectIn { bucket: bucket.to_owned(), key, offset: None, length: None };
    let given = mesh.ask::<storage::method::GetObject>(caller, &ask, Default::default()).await?;
    let out = given.value;
    let bytes = base64::decode(&out.data_base64)
        .ok_or_else(|| Fault::internal("the object's bytes came damaged"))?;
    if bytes.len() as u64 != out.size {
        let fault = Fault::overloaded(
            format!("the object has {} bytes, of which {} fit one answer", out.size, bytes.len()),
            0,
        );
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault));
    }
    let mut answer = answer::bytes(StatusCode::OK, "application/octet-stream", bytes);
    answer::sign(&mut answer, given.provider.as_deref(), given.mock);
    answer::set(&mut answer, "brahman-rescue-used", if out.rescue_used { "true" } else { "false" });
    if let Some(verified) = out.verified {
        answer::set(&mut answer, "brahman-verified", if verified { "true" } else { "false" });
    }
    if let Some(sha256) = &out.sha256 {
        answer::set(&mut answer, "etag", &format!("\"{sha256}\""));
    }
    // Whatever the bytes are: no browser is to take them for a page of this origin.
    answer::set(&mut answer, "content-disposition", "attachment");
    Ok(answer)
}

/// A part of a URL without its escapes.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(
                after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit))?,
            )
            .ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(decoded("a/b%20c%C3%A4").as_deref(), Some("a/b cä"));
        for bad in ["%", "%2", "%zz", "%ff", "%+f"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
