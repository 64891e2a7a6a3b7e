//! Why a request is not answered, and how each API says so.
//!
//! Invariant: the status follows from the error's name alone, and the name itself is told wherever
//! the API has a place for it.

use brahman_card::Fault;
use brahman_card::interface::broker::error::{
    DeadlineExceeded, NoProvider, Overloaded, ProviderFailed,
};
use brahman_card::interface::service::error::{
    ExpectedMore, InterfaceNotFound, InvalidParameter, MethodNotFound, MethodNotImplemented,
    PermissionDenied,
};
use brahman_card::interface::{INTERNAL, WireError as _, catalog, embed, index, rerank, score};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::answer::{self, Answer};

/// Header: the error's name.
const ERROR: &str = "brahman-error";

/// A request that is not answered.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) fault: Fault,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { status: status_of(&fault), fault }
    }
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, fault: Fault) -> Self {
        Self { status, fault }
    }

    /// Something in the request is not as it has to be.
    pub(crate) fn parameter(name: &str, expected: impl std::fmt::Display) -> Self {
        Fault::invalid_parameter(name, expected).into()
    }

    /// There is nothing at this path.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Fault::new(MethodNotFound::NAME, false, message))
    }

    /// Nobody serves a model of this name.
    pub(crate) fn no_model(name: &str, served: &[String]) -> Self {
        let served = if served.is_empty() { "none is".to_owned() } else { served.join(", ") };
        let fault = Fault::new(
            NoProvider::NAME,
            false,
            format!("model `{name}` is not served here, there are: {served}"),
        );
        Self::new(StatusCode::NOT_FOUND, fault.with("model", name))
    }

    /// How many seconds to wait before the next attempt.
    fn retry_after_s(&self) -> Option<u64> {
        let ms = self.fault.parameters.get("retry_after_ms").and_then(Value::as_u64);
        let is_busy =
            matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        is_busy.then(|| ms.unwrap_or(1000).div_ceil(1000).max(1))
    }
}

/// The status that an error has.
fn status_of(fault: &Fault) -> StatusCode {
    let name = fault.name.as_ref();
    let is_one_of = |names: &[&str]| names.contains(&name);
    if is_one_of(&[
        InvalidParameter::NAME,
        ExpectedMore::NAME,
        embed::error::TextTooLong::NAME,
        rerank::error::PairTooLong::NAME,
    ]) || is_one_of(&[
        score::error::ContextTooLong::NAME,
        score::error::NoSuchToken::NAME,
        index::error::ModelMismatch::NAME,
    ]) {
        StatusCode::BAD_REQUEST
    } else if is_one_of(&[PermissionDenied::NAME]) {
        StatusCode::FORBIDDEN
    } else if is_one_of(&[
        InterfaceNotFound::NAME,
        MethodNotFound::NAME,
        MethodNotImplemented::NAME,
        index::error::NoSuchIndex::NAME,
    ]) || is_one_of(&[
        catalog::error::NoSuchDataset::NAME,
        catalog::error::NoSuchBucket::NAME,
    ]) {
        StatusCode::NOT_FOUND
    } else if is_one_of(&[DeadlineExceeded::NAME]) {
        StatusCode::GATEWAY_TIMEOUT
    } else if is_one_of(&[ProviderFailed::NAME]) {
        StatusCode::BAD_GATEWAY
    } else if is_one_of(&[
        NoProvider::NAME,
        Overloaded::NAME,
        embed::error::OutOfMemory::NAME,
        rerank::error::OutOfMemory::NAME,
        score::error::OutOfMemory::NAME,
    ]) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if is_one_of(&[
        INTERNAL,
        embed::error::BadOutput::NAME,
        rerank::error::BadOutput::NAME,
        score::error::BadOutput::NAME,
    ]) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else if fault.retryable() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

/// Whose shape an error has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's: <https://platform.openai.com/docs/guides/error-codes>.
    OpenAi,
    /// Ollama's: a sentence.
    Ollama,
    /// That of text-embeddings-inference: a sentence and a kind.
    Tei,
    /// Cohere's: a sentence.
    Cohere,
    /// The mesh's own: name and parameters as on the wire.
    Own,
}

impl Dialect {
    /// An answer that says why there is none.
    pub(crate) fn refuse(self, refusal: &Refusal) -> Answer {
        let (fault, mut status) = (&refusal.fault, refusal.status);
        let message = fault.message();
        let is_too_long = fault.name == embed::error::TextTooLong::NAME;
        let body = match self {
            Self::OpenAi => {
                let param = fault.parameters.get("parameter").cloned().unwrap_or(Value::Null);
                let code = match status {
                    _ if is_too_long => "context_length_exceeded",
                    StatusCode::NOT_FOUND if fault.parameters.contains_key("model") => {
                        "model_not_found"
                    }
                    StatusCode::UNAUTHORIZED => "invalid_api_key",
                    StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
                    _ => fault.name.as_ref(),
                };
                let kind = match status {
                    StatusCode::UNAUTHORIZED => "authentication_error",
                    StatusCode::FORBIDDEN => "permission_error",
                    StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
                    status if status.is_server_error() => "server_error",
                    _ => "invalid_request_error",
                };
                json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
            }
            Self::Ollama => json!({ "error": message }),
            Self::Tei => {
                // Its clients tell what is wrong by these.
                let kind = match status {
                    StatusCode::BAD_REQUEST if is_too_long => {
                        status = StatusCode::PAYLOAD_TOO_LARGE;
                        "Validation"
                    }
                    StatusCode::PAYLOAD_TOO_LARGE => "Validation",
                    StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                        status = StatusCode::UNPROCESSABLE_ENTITY;
                        "Tokenizer"
                    }
                    StatusCode::TOO_MANY_REQUESTS => "Overloaded",
                    StatusCode::SERVICE_UNAVAILABLE if fault.name == Overloaded::NAME => {
                        status = StatusCode::TOO_MANY_REQUESTS;
                        "Overloaded"
                    }
                    StatusCode::SERVICE_UNAVAILABLE => "Unhealthy",
                    _ => "Backend",
                };
                json!({ "error": message, "error_type": kind })
            }
            Self::Cohere => json!({ "message": message, "detail": message }),
            Self::Own => json!({ "error": fault.name, "parameters": fault.parameters }),
        };
        let mut answer = answer::json(status, &body);
        answer::set(&mut answer, ERROR, &fault.name);
        if let Some(seconds) = refusal.retry_after_s() {
            answer::set(&mut answer, "retry-after", &seconds.to_string());
        }
        if status == StatusCode::UNAUTHORIZED {
            answer::set(&mut answer, "www-authenticate", "Bearer");
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_status_that_its_name_says() {
        let too_long = || {
            Fault::of(
                &embed::error::TextTooLong { index: 0, tokens: 300, max_tokens: 256 },
                false,
                "too long",
            )
        };
        for (fault, status) in [
            (Fault::invalid_parameter("texts", "expected some"), 400),
            (too_long(), 400),
            (Fault::permission_denied("no"), 403),
            (Fault::interface_not_found("a.b"), 404),
            (Fault::deadline_exceeded("waiting"), 504),
            (Fault::provider_failed("a", "hung up"), 502),
            (Fault::overloaded("full", 20), 503),
            (Fault::internal("a disk"), 500),
            (Fault::new("org.example.Odd", false, "odd"), 422),
            (Fault::new("org.example.Odd", true, "odd"), 503),
        ] {
            assert_eq!(Refusal::from(fault.clone()).status.as_u16(), status, "{fault}");
        }
        assert_eq!(Dialect::Tei.refuse(&too_long().into()).status(), StatusCode::PAYLOAD_TOO_LARGE);
        let busy = Dialect::OpenAi.refuse(&Fault::overloaded("full", 1200).into());
        assert_eq!(
            busy.headers().get("retry-after").map(|value| value.as_bytes()),
            Some(&b"2"[..])
        );
    }
}
