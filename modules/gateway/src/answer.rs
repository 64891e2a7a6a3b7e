//! Answers as HTTP carries them: whole, or in parts as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";
/// Header: label of the module that answered.
pub(crate) const PROVIDER: &str = "brahman-provider";
/// Header: `true` if a mock made the answer.
pub(crate) const MOCK: &str = "brahman-mock";
/// Header: where it was computed.
pub(crate) const DEVICE: &str = "brahman-device";
/// Header: how many texts were cut.
pub(crate) const TRUNCATED: &str = "brahman-truncated";
/// Header: how many vectors were not computed for this request.
pub(crate) const CACHED: &str = "brahman-cached";
/// Header: what is not as it should be, in words.
pub(crate) const WARNING: &str = "brahman-warning";

/// What an answer carries.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// Everything at once; nothing is left once it was taken.
    Whole(Option<Bytes>),
    /// Parts as they come. Dropping it tells whoever makes them that nobody reads any more.
    Parts(mpsc::Receiver<Bytes>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(
                bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))),
            ),
            Self::Parts(parts) => {
                parts.poll_recv(context).map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Parts(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Parts(_) => SizeHint::default(),
        }
    }
}

/// An answer to one request.
pub(crate) type Answer = Response<AnswerBody>;

/// An answer of this body.
pub(crate) fn of(status: StatusCode, kind: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// An answer of these bytes.
pub(crate) fn bytes(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Answer {
    of(status, kind, AnswerBody::Whole(Some(bytes.into())))
}

/// An answer of a value.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(json) => bytes(status, JSON, json),
        Err(error) => {
            tracing::error!(%error, "an answer is not JSON");
            bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                JSON,
                &b"{\"error\":\"the answer is not JSON\"}"[..],
            )
        }
    }
}

/// Sets a header, whose name is in lower case. What a header cannot hold is put as question marks.
pub(crate) fn set(answer: &mut Answer, name: &'static str, value: &str) {
    let clean: String = value
        .chars()
        .map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&clean) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// Who made an answer.
pub(crate) fn sign(answer: &mut Answer, provider: Option<&str>, mock: bool) {
    if let Some(provider) = provider {
        set(answer, PROVIDER, provider);
    }
    if mock {
        set(answer, MOCK, "true");
    }
}
