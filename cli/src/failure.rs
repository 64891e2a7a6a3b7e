//! From an error to what a person reads and a script tests: the one place that says how a command
//! ends, and with which hint.
//!
//! Invariant: that is decided by the type of an error, or by the name and the data of the mesh's
//! error, and never by a text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use brahman_card::Fault;
use brahman_card::interface::{
    Method as _, WireError, broker, catalog, embed, index, ingest, init, profiles, rerank, score,
    service, storage,
};
use brahman_models::install::InstallError;
use brahman_sidecar::{ClientError, place};
use serde_json::Value;

use crate::exit::ExitStatus;
use crate::output::{ErrorReport, Output};

/// Declares errors of the command itself: a text for people, and a type that says how the command
/// ends.
macro_rules! own_errors {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug)]
            pub(crate) struct $name(pub(crate) String);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(&self.0)
                }
            }

            impl std::error::Error for $name {}
        )*
    };
}

own_errors! {
    /// Bad input of the person's own: a Card, a file, JSON.
    BadInput
    /// What was named does not exist.
    NotFound
    /// A mesh does not start, for what only a person can mend.
    Refusal
    /// A check found something wrong, which the output has in full.
    Unsound
}

/// That a provider ended during a call that is not repeated by itself, because a second one might
/// do the work twice.
#[derive(Debug)]
pub(crate) struct Interruption {
    /// Qualified name of the method.
    pub(crate) method: &'static str,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the provider of {} stopped before it had answered", self.method)
    }
}

impl std::error::Error for Interruption {}

impl Interruption {
    /// What is kept of such a call, and how to go on.
    fn hint(&self) -> &'static str {
        match self.method {
            ingest::method::Files::NAME
            | ingest::method::Postgres::NAME
            | ingest::method::Mysql::NAME => {
                "the last published generation is intact; `brahman runs` and `brahman datasets` show whether this run was published. Run \
                 the command again: `--mode keyset` goes on where it stopped, the other modes start over"
            }
            index::method::Refresh::NAME | index::method::Migrate::NAME => {
                "whatever answered before still does, and what was embedded is kept: run the command again, and it goes on from there"
            }
            _ => {
                "`brahman status` shows why it stopped; look whether the call took effect before you run the command again"
            }
        }
    }
}

/// That the person ended a long work before its time.
#[derive(Debug)]
pub(crate) struct Cancellation {
    /// Qualified name of the method that does the work.
    pub(crate) method: &'static str,
}

impl fmt::Display for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted before it was done")
    }
}

impl std::error::Error for Cancellation {}

impl Cancellation {
    /// What is kept of the work, and how to go on.
    fn hint(&self) -> &'static str {
        match self.method {
            ingest::method::Files::NAME
            | ingest::method::Postgres::NAME
            | ingest::method::Mysql::NAME => {
                "nothing of this run is published, and the last published generation is intact. Run the command again: `--mode keyset` goes \
                 on where it stopped, the other modes start over"
            }
            index::method::Refresh::NAME | index::method::Migrate::NAME => {
                "what was embedded is kept, and whatever answered before still does: run the command again, and it goes on from there"
            }
            index::method::Autotune::NAME | index::method::Trial::NAME => {
                "trials that were measured are kept (`brahman index trials NAME`); the one that was running is not"
            }
            score::method::ScoreMatrix::NAME | score::method::ScoreIncremental::NAME => {
                "what was scored is kept: run the command again, and only the rest is computed"
            }
            _ => "what had been done is complete or undone, never half: run the command again",
        }
    }
}

/// What is reported.
#[derive(Debug)]
pub(crate) struct Failure {
    status: ExitStatus,
    /// Qualified name of the error, if it is one of the mesh's.
    name: Option<String>,
    message: String,
    hint: Option<String>,
    /// The data of the mesh's error.
    parameters: Option<Value>,
}

/// How a command ends on an error of the mesh, and what to do about it where its message does not
/// say.
fn meaning(fault: &Fault) -> (ExitStatus, Option<&'static str>) {
    match fault.name.as_ref() {
        broker::error::NoProvider::NAME => (
            ExitStatus::NotFound,
            Some("`brahman explain FLOW` shows each candidate, `brahman status` each module"),
        ),
        // No module embeds with that model.
        index::error::ModelMismatch::NAME
            if fault.parameters.get("got").is_some_and(|got| got == "") =>
        {
            (ExitStatus::NotFound, Some("`brahman status` shows each module's model"))
        }
        catalog::error::NoSuchDataset::NAME => (
            ExitStatus::NotFound,
            Some("`brahman datasets` lists them, `brahman ingest` makes one"),
        ),
        service::error::InterfaceNotFound::NAME
        | service::error::MethodNotFound::NAME
        | init::error::NoSuchModule::NAME
        | init::error::NoSuchSession::NAME
        | catalog::error::NoSuchBucket::NAME
        | catalog::error::NoSuchGeneration::NAME
        | storage::error::NoSuchBucket::NAME
        | storage::error::NoSuchObject::NAME
        | index::error::NoSuchBucket::NAME
        | index::error::NoSuchIndex::NAME
        | index::error::NoSuchGeneration::NAME
        | index::error::NoSuchTrial::NAME
        | index::error::NoEval::NAME
        | profiles::error::NoSuchModel::NAME
        | profiles::error::NoSuchProfile::NAME => (ExitStatus::NotFound, None),
        broker::error::Overloaded::NAME | broker::error::DeadlineExceeded::NAME => {
            (ExitStatus::TryAgain, Some("try again; `brahman status` shows what is busy"))
        }
        service::error::InvalidParameter::NAME
        | init::error::BadCard::NAME
        | embed::error::TextTooLong::NAME
        | embed::error::FileUnreadable::NAME
        | ingest::error::BadSource::NAME
        | ingest::error::NothingToRead::NAME
        | storage::error::TooLarge::NAME
        | profiles::error::BadProfile::NAME
        | rerank::error::PairTooLong::NAME
        | score::error::ContextTooLong::NAME
        | score::error::NoSuchToken::NAME
        | score::error::FileUnreadable::NAME => (ExitStatus::BadInput, None),
        service::error::ExpectedMore::NAME => {
            (ExitStatus::BadInput, Some("`brahman call METHOD --more` takes several replies"))
        }
        broker::error::ProviderFailed::NAME => (
            ExitStatus::Failed,
            Some(
                "`brahman status` and `brahman logs LABEL` show why; the call may have taken effect",
            ),
        ),
        profiles::error::NoRoom::NAME => {
            (ExitStatus::Failed, Some("`brahman gpu` shows which modules hold memory"))
        }
        profiles::error::Unknown::NAME => {
            (ExitStatus::TryAgain, Some("`brahman status` shows the module `profiles`"))
        }
        _ => (ExitStatus::Failed, None),
    }
}

/// What to do where no mesh answers. Another place is named where there is a socket by the rule,
/// and was not looked for.
fn no_mesh_hint(path: &Path, places: &[PathBuf]) -> String {
    let others = places.iter().filter(|other| other.parent() != path.parent() && other.exists());
    let others: Vec<String> = others.map(|other| other.display().to_string()).collect();
    let elsewhere = if others.is_empty() {
        String::new()
    } else {
        format!("; not looked at: {}", others.join(", "))
    };
    let start = "`brahman up --context prod` starts a mesh (`--context test` one of mocks)";
    format!("{start}; --socket or BRAHMAN_SOCKET names another{elsewhere}")
}

impl Failure {
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let plain = |status| Self {
            status,
            name: None,
            message: format!("{error:#}"),
            hint: None,
            parameters: None,
        };
        if error.is::<BadInput>() {
            return plain(ExitStatus::BadInput);
        }
        if error.is::<Refusal>() {
            return plain(ExitStatus::Refused);
        }
        if error.is::<NotFound>() {
            return plain(ExitStatus::NotFound);
        }
        if let Some(cancellation) = error.downcast_ref::<Cancellation>() {
            return Self {
                hint: Some(cancellation.hint().to_owned()),
                ..plain(ExitStatus::Interrupted)
            };
        }
        if let Some(interruption) = error.downcast_ref::<Interruption>() {
            let (name, hint) =
                (broker::error::ProviderFailed::NAME.to_owned(), interruption.hint().to_owned());
            return Self { name: Some(name), hint: Some(hint), ..plain(ExitStatus::Failed) };
        }
        if let Some(error) = error.downcast_ref::<InstallError>() {
            return plain(match error {
                error if error.is_absence() => ExitStatus::NotFound,
                error if error.is_transient() => ExitStatus::TryAgain,
                error if error.is_bad_input() => ExitStatus::BadInput,
                _ => ExitStatus::Failed,
            });
        }
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Connect { path, .. }) => Self {
                hint: Some(no_mesh_hint(path, &place::mesh_sockets())),
                ..plain(ExitStatus::NoMesh)
            },
            Some(ClientError::Deadline(_)) => plain(ExitStatus::TryAgain),
            Some(ClientError::Unsendable(_)) => plain(ExitStatus::BadInput),
            Some(ClientError::Fault(fault)) => {
                let (status, hint) = meaning(fault);
                Self {
                    status,
                    name: Some(fault.name.to_string()),
                    message: fault.message().to_owned(),
                    hint: hint.map(str::to_owned),
                    parameters: Some(Value::Object(fault.parameters.clone())),
                }
            }
            _ => plain(ExitStatus::Failed),
        }
    }

    /// That the arguments make no sense, in clap's words.
    pub(crate) fn of_usage(words: String) -> Self {
        // What follows is how it is used, which is for people.
        let message = words
            .trim_start_matches("error: ")
            .split("\n\nUsage:")
            .next()
            .unwrap_or_default()
            .to_owned();
        Self { status: ExitStatus::Usage, name: None, message, hint: None, parameters: None }
    }

    /// Says it on standard error, and gives the exit code.
    pub(crate) fn report(self, output: &Output) -> ExitCode {
        let Self { status, name, message, hint, parameters } = self;
        output.failure(&ErrorReport {
            error: name,
            message,
            exit: status.code(),
            hint,
            parameters,
        });
        status.into()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use brahman_sidecar::client::ReplyError;

    use super::*;

    fn code(error: impl Into<anyhow::Error>) -> u8 {
        Failure::of(&error.into()).status.code()
    }

    fn fault(error: &impl WireError) -> ClientError {
        ClientError::Fault(Fault::of(error, false, "as it is said"))
    }

    #[test]
    fn the_documented_table_holds() {
        let name = || "n".to_owned();
        for (error, expected) in [
            (fault(&index::error::Busy { name: name() }), 1),
            (fault(&index::error::ModelMismatch { wanted: name(), got: "other".to_owned() }), 1),
            (fault(&index::error::ModelMismatch { wanted: name(), got: String::new() }), 4),
            (
                fault(&broker::error::NoProvider {
                    flow: name(),
                    context: None,
                    refused: Vec::new(),
                }),
                4,
            ),
            (fault(&catalog::error::NoSuchDataset { name: name() }), 4),
            (fault(&index::error::NoSuchIndex { name: name() }), 4),
            (fault(&init::error::NoSuchModule { label: name() }), 4),
            (fault(&service::error::InterfaceNotFound { interface: name() }), 4),
            (fault(&service::error::MethodNotFound { method: name() }), 4),
            (fault(&broker::error::Overloaded { retry_after_ms: 1 }), 5),
            (ClientError::Deadline(std::time::Duration::from_secs(1)), 5),
            (fault(&service::error::InvalidParameter { parameter: name() }), 6),
            (fault(&ingest::error::BadSource { source: name() }), 6),
            (fault(&storage::error::TooLarge { name: None, size: 2, max: 1 }), 6),
            (fault(&rerank::error::PairTooLong { index: 0, tokens: 9, max_tokens: 8 }), 6),
            (fault(&profiles::error::NoSuchProfile { id: name() }), 4),
            (fault(&profiles::error::BadProfile { id: name() }), 6),
            (fault(&profiles::error::Forbidden { profile: name(), name: name() }), 1),
            (fault(&profiles::error::Unknown {}), 5),
            (
                ClientError::Connect {
                    path: "/none".into(),
                    source: std::io::ErrorKind::NotFound.into(),
                },
                3,
            ),
            (ClientError::Closed { path: "/none".into() }, 1),
            (
                ClientError::Protocol(ReplyError::Parameters(
                    serde_json::from_str::<u8>("x").expect_err("no number"),
                )),
                1,
            ),
        ] {
            let words = error.to_string();
            assert_eq!(code(error), expected, "{words}");
        }
        assert_eq!(
            (
                code(BadInput(name())),
                code(NotFound(name())),
                code(Unsound(name())),
                code(Refusal(name()))
            ),
            (6, 4, 1, 78)
        );
        let models = std::path::PathBuf::from("/none");
        assert_eq!(code(InstallError::NoModel { name: name(), models: models.clone() }), 4);
        let limited = brahman_models::hub::HubError::Limited { url: name(), after: None };
        assert_eq!(code(InstallError::from(limited)), 5);
        assert_eq!(code(InstallError::Taken { name: name(), path: models, of: name() }), 6);
        let read =
            std::fs::read("/no/such/file").context(BadInput(name())).expect_err("it is not there");
        assert_eq!(code(read), 6, "a cause underneath changes nothing");
    }

    #[test]
    fn where_no_mesh_answers_the_other_places_are_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (own, system) =
            (PathBuf::from("/run/user/1/brahman/brahman.sock"), folder.path().join("brahman.sock"));
        let init = Path::new("/run/user/1/brahman/init.sock");
        let hint = no_mesh_hint(init, &[own.clone(), system.clone()]);
        assert!(
            hint.contains("`brahman up --context prod`") && !hint.contains("not looked at"),
            "nothing is there: {hint}"
        );
        std::fs::write(&system, "").expect("written");
        let hint = no_mesh_hint(init, &[own.clone(), system.clone()]);
        assert!(hint.contains(&format!("not looked at: {}", system.display())), "{hint}");
        assert!(!no_mesh_hint(init, &[own]).contains("not looked at"));
    }

    #[test]
    fn what_a_person_has_ended_says_what_is_kept() {
        for (method, words) in [
            (index::method::Refresh::NAME, "what was embedded is kept"),
            (ingest::method::Files::NAME, "generation is intact"),
            (index::method::Compact::NAME, "never half"),
        ] {
            let failure = Failure::of(&Cancellation { method }.into());
            assert_eq!(failure.status.code(), 130);
            assert!(failure.hint.is_some_and(|hint| hint.contains(words)), "{method}");
        }
    }

    #[test]
    fn a_call_that_was_cut_off_says_what_is_kept() {
        let closed = anyhow::Error::from(ClientError::Closed { path: "/run/ingest.sock".into() });
        let failure =
            Failure::of(&closed.context(Interruption { method: ingest::method::Files::NAME }));
        assert_eq!(
            (failure.status, failure.name.as_deref()),
            (ExitStatus::Failed, Some(broker::error::ProviderFailed::NAME))
        );
        assert!(failure.message.contains("ingest.sock hung up"), "{}", failure.message);
        assert!(failure.hint.is_some_and(|hint| hint.contains("generation is intact")));
    }
}
