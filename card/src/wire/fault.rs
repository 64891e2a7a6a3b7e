//! Errors as they travel: a closed, qualified name, a message for people, a retryable flag, and
//! data.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::interface::broker::error::{DeadlineExceeded, NoProvider, Overloaded, ProviderFailed};
use crate::interface::service::error::{
    ExpectedMore, InterfaceNotFound, InvalidParameter, MethodNotFound, PermissionDenied,
};
use crate::interface::{INTERNAL, WireError};

/// A Varlink error reply. What stands in `message` is for outsiders; detail stays in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Qualified name, such as `org.brahman.Broker.NoProvider`.
    #[serde(rename = "error")]
    pub name: Cow<'static, str>,
    /// `message`, `retryable`, and the error's own data.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

impl Fault {
    /// A fault of this name.
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        retryable: bool,
        message: impl Into<String>,
    ) -> Self {
        let mut parameters = Map::new();
        parameters.insert("message".into(), message.into().into());
        parameters.insert("retryable".into(), retryable.into());
        Self { name: name.into(), parameters }
    }

    /// An error of a shipped interface, with its data behind `message` and `retryable`.
    #[must_use]
    pub fn of<E: WireError>(error: &E, retryable: bool, message: impl Into<String>) -> Self {
        let mut fault = Self::new(E::NAME, retryable, message);
        let Ok(Value::Object(data)) = serde_json::to_value(error) else {
            unreachable!("the data of {} are the fields of a struct", E::NAME)
        };
        fault.parameters.extend(data);
        fault
    }

    /// Adds a datum, in place of one of that key.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(key.into(), value.into());
        self
    }

    /// The same with more words at the end of its message.
    #[must_use]
    pub fn adding(self, words: &str) -> Self {
        let message = format!("{}{words}", self.message());
        self.with("message", message)
    }

    /// A fault as it came: one of a foreign service has no `message`, and gets what it has in its
    /// place, its parameters, or its name alone.
    #[must_use]
    pub fn received(name: &str, mut parameters: Map<String, Value>) -> Self {
        if !parameters.get("message").is_some_and(Value::is_string) {
            let data = if parameters.is_empty() {
                String::new()
            } else {
                format!(" {}", Value::Object(parameters.clone()))
            };
            parameters.insert("message".into(), format!("{name}{data}").into());
        }
        Self { name: name.to_owned().into(), parameters }
    }

    /// The text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        self.parameters.get("message").and_then(Value::as_str).unwrap_or("no message was given")
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.parameters.get("retryable").and_then(Value::as_bool).unwrap_or(false)
    }

    /// `org.varlink.service.InvalidParameter`: `parameter` is named, `expected` says what would do.
    #[must_use]
    pub fn invalid_parameter(parameter: &str, expected: impl fmt::Display) -> Self {
        Self::of(
            &InvalidParameter { parameter: parameter.into() },
            false,
            format!("parameter `{parameter}`: {expected}"),
        )
    }

    /// `org.varlink.service.InterfaceNotFound`: nobody serves it on this socket.
    #[must_use]
    pub fn interface_not_found(interface: &str) -> Self {
        Self::of(
            &InterfaceNotFound { interface: interface.into() },
            false,
            format!("no interface `{interface}` here"),
        )
    }

    /// `org.varlink.service.MethodNotFound`: the interface has no such method.
    #[must_use]
    pub fn method_not_found(method: &str) -> Self {
        let error = MethodNotFound { method: method.into() };
        Self::of(
            &error,
            false,
            format!("no method `{method}`; `brahman introspect` lists what there is"),
        )
    }

    /// `org.varlink.service.PermissionDenied`: this user may not do that.
    #[must_use]
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::of(&PermissionDenied {}, false, message)
    }

    /// `org.varlink.service.ExpectedMore`: a method that streams was called without `more`.
    #[must_use]
    pub fn expected_more(method: &str) -> Self {
        Self::of(&ExpectedMore {}, false, format!("`{method}` streams: call it with `more`"))
    }

    /// `org.brahman.Broker.Overloaded`: what is full, and when to come back.
    #[must_use]
    pub fn overloaded(what: impl Into<String>, retry_after_ms: u64) -> Self {
        Self::of(&Overloaded { retry_after_ms }, true, what)
    }

    /// `org.brahman.Broker.DeadlineExceeded`: the caller's time was up.
    #[must_use]
    pub fn deadline_exceeded(doing: impl fmt::Display) -> Self {
        Self::of(&DeadlineExceeded {}, true, format!("the deadline passed while {doing}"))
    }

    /// `org.brahman.Broker.NoProvider`: which flow, in which context, and why each candidate was
    /// refused.
    #[must_use]
    pub fn no_provider(flow: &str, context: Option<&str>, refused: &[String]) -> Self {
        let place = context.map_or("without a context".to_owned(), |c| format!("in context `{c}`"));
        let why =
            if refused.is_empty() { "no Card offers it".to_owned() } else { refused.join("; ") };
        let error = NoProvider {
            flow: flow.into(),
            context: context.map(str::to_owned),
            refused: refused.to_vec(),
        };
        Self::of(&error, true, format!("nothing serves {flow} {place}: {why}"))
    }

    /// `org.brahman.Broker.ProviderFailed`: the provider ended in mid-call and the call was not
    /// safe to repeat.
    #[must_use]
    pub fn provider_failed(label: &str, why: impl fmt::Display) -> Self {
        Self::of(&ProviderFailed { label: label.into() }, true, format!("provider `{label}` {why}"))
    }

    /// `org.brahman.Fault.Internal`: a broken invariant or a failed disk; the log has the detail.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL, false, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message().starts_with(self.name.as_ref()) {
            return f.write_str(self.message());
        }
        write!(f, "{}: {}", self.name, self.message())
    }
}

impl std::error::Error for Fault {}
