//! The interfaces of the mesh: one file each, its types and one declaration of its methods and
//! errors. The IDL text that foreign clients read is made from both.
//!
//! Invariant, held by tests against corpora: a field keeps its name and its shape. Interfaces have
//! no versions: fields are only ever added, and only as optional ones.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the names of our own interfaces begin with, and of whatever else is ours on the wire.
pub const OURS: &str = "org.brahman.";
/// The error of a broken invariant or a failed disk: any method may give it, so it is of no one
/// interface.
pub const INTERNAL: &str = "org.brahman.Fault.Internal";

/// One Varlink interface. That of a module of one's own may be written by hand:
/// `idl: || "interface org.example.Echo …"`.
#[derive(Debug)]
pub struct Interface {
    /// Full name, such as `org.brahman.Embed`.
    pub name: &'static str,
    /// All its methods, as they are declared.
    pub methods: &'static [MethodFacts],
    /// Gives the IDL text.
    pub idl: fn() -> &'static str,
}

impl Interface {
    /// IDL text, as `GetInterfaceDescription` gives it: made at the first call, and kept.
    #[must_use]
    pub fn idl(&self) -> &'static str {
        (self.idl)()
    }

    /// What is known of a method.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&'static MethodFacts> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// Whether a method may be called again after a failure, because a second run changes nothing.
    #[must_use]
    pub fn is_idempotent(&self, method: &str) -> bool {
        self.method(method).is_some_and(|method| method.is_idempotent)
    }

    /// Whether a method is declared without parameters.
    #[must_use]
    pub fn takes_nothing(&self, method: &str) -> bool {
        self.method(method).is_some_and(|method| method.takes_nothing)
    }
}

/// How long a call takes at most, in seconds: as long as a provider may take to restart and load
/// its model.
const PATIENCE_USUAL_S: u64 = 30;
/// The same where the work itself may take minutes.
const PATIENCE_LONG_S: u64 = 600;
/// The same where a whole dataset is gone through.
const PATIENCE_DATASET_S: u64 = 24 * 3600;

/// What holds of a method, whoever serves it.
#[derive(Clone, Copy, Debug)]
pub struct MethodFacts {
    /// Name, without the interface's.
    pub name: &'static str,
    /// It has no parameters.
    pub takes_nothing: bool,
    /// It may be called again after a failure.
    pub is_idempotent: bool,
    /// Its stream goes on until its caller hangs up.
    pub is_endless: bool,
    /// It changes nothing that anybody is told of: caches, counters and logs do not count.
    pub only_reads: bool,
    /// How long it takes at most if its caller does not say, and wants one answer.
    pub patience_s: u64,
}

impl MethodFacts {
    /// A method with parameters, of which nothing else is said: it is not called again, and takes
    /// no longer than usual.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            takes_nothing: false,
            is_idempotent: false,
            is_endless: false,
            only_reads: false,
            patience_s: PATIENCE_USUAL_S,
        }
    }

    /// The same without parameters.
    #[must_use]
    pub const fn bare(self) -> Self {
        Self { takes_nothing: true, ..self }
    }

    /// The same, safe to call again.
    #[must_use]
    pub const fn idempotent(self) -> Self {
        Self { is_idempotent: true, ..self }
    }

    /// The same, with a stream without an end.
    #[must_use]
    pub const fn endless(self) -> Self {
        Self { is_endless: true, ..self }
    }

    /// The same, changing nothing.
    #[must_use]
    pub const fn reads(self) -> Self {
        Self { only_reads: true, ..self }
    }

    /// The same, taking minutes.
    #[must_use]
    pub const fn long(self) -> Self {
        Self { patience_s: PATIENCE_LONG_S, ..self }
    }

    /// The same, going through a whole dataset.
    #[must_use]
    pub const fn whole_dataset(self) -> Self {
        Self { patience_s: PATIENCE_DATASET_S, ..self }
    }
}

/// A method of a shipped interface: `client.call_method::<method::EmbedText>(…)`.
pub trait Method {
    /// Qualified name.
    const NAME: &'static str;
    /// Its parameters.
    type In: Serialize + DeserializeOwned + JsonSchema + Send + Sync;
    /// Its reply, or each of its replies.
    type Out: Serialize + DeserializeOwned + JsonSchema + Send + Sync;
}

/// An error of a shipped interface: the data that it has beside `message` and `retryable`.
/// [`crate::Fault::of`] makes a reply of it.
pub trait WireError: Serialize + JsonSchema {
    /// Qualified name.
    const NAME: &'static str;
}

/// Declares an interface: `INTERFACE`, a type for each method in `method`, one for each error in
/// `error`.
macro_rules! interface {
    (@facts $method:ident) => { $crate::interface::MethodFacts::named(stringify!($method)).bare() };
    (@facts $method:ident $ask:ty) => {
        $crate::interface::MethodFacts::named(stringify!($method))
    };
    (@or_empty) => { $crate::interface::Empty };
    (@or_empty $kind:ty) => { $kind };
    (
        $(#[doc = $about:literal])*
        $name:literal
        methods {$(
            $(#[doc = $method_doc:literal])*
            $method:ident($($ask:ty)?) $(-> $answer:ty)? $(: $($fact:ident),+)?;
        )*}
        errors {$(
            $(#[doc = $error_doc:literal])*
            $error:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),* $(,)? }
        )*}
    ) => {
        /// Name, methods and IDL text of this interface.
        pub const INTERFACE: $crate::Interface = $crate::Interface {
            name: $name,
            methods: &[$(interface!(@facts $method $($ask)?)$($(.$fact())+)?),*],
            idl: || {
                static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
                    let mut text = $crate::idl::Text::new($name, &[$($about),*]);
                    $(text.method::<method::$method>(&[$($method_doc),*]);)*
                    $(text.error::<error::$error>(&[$($error_doc),*]);)*
                    text.finish()
                });
                TEXT.as_str()
            },
        };

        /// A type for each method.
        #[allow(missing_docs)]
        pub mod method {
            $(
                $(#[doc = $method_doc])*
                #[derive(Clone, Copy, Debug)]
                pub struct $method;
            )*
        }

        $(
            impl $crate::interface::Method for method::$method {
                const NAME: &'static str = concat!($name, ".", stringify!($method));
                type In = interface!(@or_empty $($ask)?);
                type Out = interface!(@or_empty $($answer)?);
            }
        )*

        /// A type for each error. Of its data, an `Option` that is `None` is null unless its field
        /// says that it is left out.
        #[allow(missing_docs)]
        pub mod error {
            $(
                $(#[doc = $error_doc])*
                #[derive(Clone, Debug, PartialEq, ::serde::Serialize, ::schemars::JsonSchema)]
                pub struct $error {
                    $($(#[$attribute])* pub $field: $kind),*
                }

                impl $crate::interface::WireError for $error {
                    const NAME: &'static str = concat!($name, ".", stringify!($error));
                }
            )*
        }
    };
}

pub mod broker;
pub mod catalog;
pub mod embed;
pub mod index;
pub mod ingest;
pub mod init;
pub mod profiles;
pub mod rerank;
pub mod score;
pub mod service;
pub mod storage;

/// Every interface that Brahman ships.
pub const ALL: &[&Interface] = &[
    &service::INTERFACE,
    &broker::INTERFACE,
    &init::INTERFACE,
    &embed::INTERFACE,
    &index::INTERFACE,
    &ingest::INTERFACE,
    &catalog::INTERFACE,
    &storage::INTERFACE,
    &score::INTERFACE,
    &rerank::INTERFACE,
    &profiles::INTERFACE,
];

/// How long a call takes at most, in seconds, if its caller does not say and wants one answer.
#[must_use]
pub fn patience_s(interface: &str, method: &str) -> u64 {
    known(interface)
        .and_then(|interface| interface.method(method))
        .map_or(PATIENCE_USUAL_S, |method| method.patience_s)
}

/// Whether a method's stream goes on until its caller hangs up.
#[must_use]
pub fn is_endless(interface: &str, method: &str) -> bool {
    known(interface)
        .and_then(|interface| interface.method(method))
        .is_some_and(|method| method.is_endless)
}

/// Whether a method is known to change nothing. Of an interface that is not shipped nothing is
/// known.
#[must_use]
pub fn only_reads(interface: &str, method: &str) -> bool {
    known(interface)
        .and_then(|interface| interface.method(method))
        .is_some_and(|method| method.only_reads)
}

/// The shipped interface of this name.
#[must_use]
pub fn known(name: &str) -> Option<&'static Interface> {
    ALL.iter().copied().find(|interface| interface.name == name)
}

/// `embed` for `org.brahman.Embed`: a name without a dot is looked for among the shipped ones, by
/// last element.
#[must_use]
pub fn full_name(short: &str) -> String {
    let hit = |interface: &&&Interface| {
        interface.name.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case(short))
    };
    if short.contains('.') {
        return short.to_owned();
    }
    ALL.iter().find(hit).map_or_else(|| short.to_owned(), |interface| interface.name.to_owned())
}

/// Parameters or reply without fields.
#[brahman_card_derive::wire(Copy, Eq)]
pub struct Empty {}

/// How far a work is: any reply of its stream but the last.
#[brahman_card_derive::wire(Eq)]
pub struct Progress {
    /// What is being done, in a word that a newer provider may have made up; `done` in the last
    /// reply.
    pub phase: String,
    pub done: u64,
    pub of: u64,
}

impl Progress {
    /// So much of something is done.
    #[must_use]
    pub fn new(phase: &str, done: u64, of: u64) -> Self {
        Self { phase: phase.to_owned(), done, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_what_its_phase_says_and_a_new_phase_is_progress() {
        use super::index::{CompactOut, CompactSummary};
        let read = |json: &str| serde_json::from_str::<CompactOut>(json);
        let json = r#"{"phase":"polish","done":1,"of":2,"by":"a newer provider"}"#;
        assert_eq!(
            read(json).expect("progress"),
            CompactOut::Progress(Progress::new("polish", 1, 2))
        );
        let done = CompactOut::Done(CompactSummary {
            done: 2,
            of: 2,
            compacted: true,
            generation: Some(7),
        });
        let json = r#"{"phase":"done","done":2,"of":2,"compacted":true,"generation":7}"#;
        assert_eq!(
            (serde_json::to_string(&done).expect("JSON"), read(json).expect("a summary")),
            (json.to_owned(), done)
        );
        let bad = [
            (r#"{"phase":"done","done":2,"of":2}"#, "compacted"),
            (r#"{"done":2,"of":2}"#, "phase"),
            ("[]", "Progress"),
        ];
        for (json, names) in bad {
            let why = read(json).expect_err("no reply").to_string();
            assert!(why.contains(names), "{json}: {why}");
        }
    }

    #[test]
    fn methods_without_parameters_are_known() {
        assert!(broker::INTERFACE.takes_nothing("Status") && init::INTERFACE.takes_nothing("List"));
        assert!(
            !index::INTERFACE.takes_nothing("Search")
                && !broker::INTERFACE.takes_nothing("Nothing")
        );
    }

    /// Methods that nobody calls again for their caller, and why: a second run would change
    /// something, or answer otherwise.
    const ONCE: [(&str, &[&str], &str); 9] = [
        ("Catalog", &["Abandon"], "it ends a run, which may have begun again since"),
        ("Catalog", &["Resync", "ResyncMissing", "Adopt"], "each may publish a generation"),
        (
            "Catalog",
            &["Delete"],
            "what the first has deleted is not there for a second, and may have been made again",
        ),
        ("Catalog", &["Snapshot"], "each writes a folder and pins generations"),
        (
            "Index",
            &["Refresh", "Migrate", "Promote", "Rollback", "Move", "Compact"],
            "each makes a generation, or goes back by one",
        ),
        ("Index", &["EvalAutogen", "Trial", "Autotune", "Snapshot"], "each keeps what it makes"),
        (
            "Ingest",
            &["Files", "Postgres", "Mysql", "Cancel"],
            "each commits, or ends a run that then is not running",
        ),
        (
            "Init",
            &["Start", "Stop", "Restart", "Reload", "Attach", "Update", "Shutdown"],
            "commands to one process, which go by no broker",
        ),
        (
            "",
            &["Profiles.Remove", "Storage.RemoveBucket"],
            "what the first has removed is not there for a second",
        ),
    ];

    #[test]
    fn every_method_is_safe_to_call_again_or_among_those_that_are_not() {
        let named = ONCE.iter().flat_map(|(interface, methods, _)| {
            methods.iter().map(move |method| {
                if interface.is_empty() {
                    (*method).to_owned()
                } else {
                    format!("{interface}.{method}")
                }
            })
        });
        let named: std::collections::BTreeSet<String> =
            named.map(|method| format!("org.brahman.{method}")).collect();
        let once = ALL.iter().flat_map(|interface| {
            let methods = interface.methods.iter().filter(|method| !method.is_idempotent);
            methods.map(|method| format!("{}.{}", interface.name, method.name))
        });
        assert_eq!(once.collect::<std::collections::BTreeSet<String>>(), named);
    }

    /// Methods that may be called again and change something all the same; those of [`ONCE`] do.
    const WRITES: [(&str, &str); 7] = [
        ("Broker", "SetContext"),
        ("Catalog", "Commit Location MarkStale ClearStale Copy Rename Pin Unpin"),
        ("Index", "Create Delete Unpin Doctor CompactTrials AgentEnqueue"),
        ("Ingest", "Watch Unwatch"),
        ("Profiles", "Activate Deactivate Define Preload Unload"),
        ("Score", "ScoreIncremental ResetWeights"),
        ("Storage", "AddBucket PutObject Scrub FlushErrors CompactErrors"),
    ];

    #[test]
    fn every_method_that_may_be_called_again_only_reads_or_is_among_those_that_write() {
        let of = |interface: &'static Interface, is_meant: fn(&MethodFacts) -> bool| {
            let methods = interface.methods.iter().filter(move |method| is_meant(method));
            methods.map(move |method| format!("{}.{}", interface.name, method.name))
        };
        let writes: std::collections::BTreeSet<String> = ALL
            .iter()
            .copied()
            .flat_map(|one| of(one, |method| method.is_idempotent && !method.only_reads))
            .collect();
        let named = WRITES.iter().flat_map(|(interface, methods)| {
            methods.split_whitespace().map(move |name| format!("{OURS}{interface}.{name}"))
        });
        assert_eq!(writes, named.collect::<std::collections::BTreeSet<String>>());
        let twice: Vec<String> = ALL
            .iter()
            .copied()
            .flat_map(|one| of(one, |method| method.only_reads && !method.is_idempotent))
            .collect();
        assert!(twice.is_empty(), "what changes nothing may be called again: {twice:?}");
        assert!(only_reads("org.brahman.Index", "Search") && !only_reads("org.example.T", "Get"));
    }

    #[test]
    fn short_names_find_their_interface() {
        assert_eq!(full_name("embed"), "org.brahman.Embed");
        assert_eq!(full_name("com.example.Thing"), "com.example.Thing");
        assert_eq!(full_name("nothing"), "nothing");
    }
}
