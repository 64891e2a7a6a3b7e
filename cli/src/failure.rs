//! From an error to what a person reads and a script tests: one place for exit codes and hints.

use std::process::ExitCode;

use brahman_card::Fault;
use brahman_card::interface::{WireError, broker, catalog, embed, index, ingest, init, score, service};
use brahman_sidecar::ClientError;

use crate::output::Output;

/// Bad input of the person's own: a Card, a file, JSON.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Something is wrong, and the output says what: there is nothing to add but the exit status.
#[derive(Debug)]
pub(crate) struct Unsound(pub(crate) String);

impl std::fmt::Display for Unsound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsound {}

/// What is reported.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
    fault: Option<Fault>,
    /// The output has it all.
    said: bool,
}

/// A fault's exit code, and what to do about it. Where the person's own input is at fault, its message says so.
fn meaning(name: &str) -> (u8, Option<&'static str>) {
    match name {
        broker::error::NoProvider::NAME => (4, Some("`brahman explain FLOW` shows each candidate, `brahman status` each module")),
        broker::error::Overloaded::NAME | broker::error::DeadlineExceeded::NAME => {
            (5, Some("try again; `brahman status` shows what is busy"))
        }
        service::error::InvalidParameter::NAME
        | init::error::BadCard::NAME
        | embed::error::TextTooLong::NAME
        | embed::error::FileUnreadable::NAME
        | ingest::error::BadSource::NAME
        | score::error::ContextTooLong::NAME
        | score::error::NoSuchToken::NAME
        | score::error::FileUnreadable::NAME => (6, None),
        index::error::NotReady::NAME => (1, Some("`brahman index refresh NAME` fills it")),
        catalog::error::NoSuchDataset::NAME => (1, Some("`brahman datasets` lists them, `brahman ingest` makes one")),
        _ => (1, None),
    }
}

impl Failure {
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        // A document that says what is wrong is not followed by another that says that something is.
        let said = error.downcast_ref::<Unsound>().is_some();
        if error.downcast_ref::<BadInput>().is_some() {
            return Self { code: 6, message, hint: None, fault: None, said };
        }
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Connect { .. }) => {
                let hint = "`brahman up` starts a mesh; --socket or BRAHMAN_SOCKET names another".to_owned();
                Self { code: 3, message, hint: Some(hint), fault: None, said }
            }
            Some(ClientError::Deadline(_)) => Self { code: 5, message, hint: None, fault: None, said },
            Some(ClientError::Fault(fault)) => {
                let (code, hint) = meaning(fault.name.as_ref());
                Self { code, message: fault.message().to_owned(), hint: hint.map(str::to_owned), fault: Some(fault.clone()), said }
            }
            _ => Self { code: 1, message, hint: None, fault: None, said },
        }
    }

    pub(crate) fn report(&self, output: &Output) -> ExitCode {
        if output.json() && self.said {
            return ExitCode::from(self.code);
        }
        if output.json() {
            let name = self.fault.as_ref().map(|f| f.name.to_string());
            let parameters = self.fault.as_ref().map(|f| f.parameters.clone());
            output.print_json(&serde_json::json!({ "error": name, "message": self.message, "exit": self.code, "parameters": parameters }));
        } else {
            output.failure(&self.message, self.hint.as_deref());
        }
        ExitCode::from(self.code)
    }
}
