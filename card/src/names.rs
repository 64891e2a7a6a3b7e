//! Names that people give to datasets, indexes, buckets, models, profiles and modules: one type for
//! each kind, checked once, where they come in.
//!
//! A name becomes a part of paths, keys and URLs. Invariants: joined to a folder it is one step
//! down from it, and never the folder itself or one above; no control character, space or slash is
//! in it; a *new* name is none of the files that the mesh keeps beside what is named, in whatever
//! case. What was there before a name was reserved stays readable: the types take what
//! [`Kind::check`] takes, and whoever makes something new asks `new` or [`Kind::check_new`]. On the
//! wire and on disk a name is a string.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Characters of a refused name that are told: enough to know it by.
const SHOWN_CHARS: usize = 64;

/// Most replicas a Card may ask for: more than one machine has use for.
pub const REPLICAS_MAX: u32 = 64;

/// What stands between the label of a Card and the number of one of its replicas.
const NUMBER_SIGN: char = '@';

/// What a name is of: each kind has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A dataset.
    Dataset,
    /// An index.
    Index,
    /// A bucket.
    Bucket,
    /// A model.
    Model,
    /// A profile.
    Profile,
    /// A module, by its label.
    Label,
}

/// What a kind's names are like.
struct Rule {
    /// With its article.
    noun: &'static str,
    /// A file's name has room for it, with what we put before and behind.
    bytes_max: usize,
    /// Of labels there are none in capitals, for replicas are told by them.
    capitals: bool,
    /// Stems of our own files, and folders of our own, beside what is named.
    reserved: &'static [&'static str],
}

fn rule(noun: &'static str, bytes_max: usize, reserved: &'static [&'static str]) -> Rule {
    Rule { noun, bytes_max, capitals: true, reserved }
}

impl Kind {
    fn rule(self) -> Rule {
        match self {
            // `catalog/<name>.json`, beside `buckets.json`, `node`, `errors.log`, `lineage.log`;
            // mocks' below `mock/`.
            Self::Dataset => rule(
                "a dataset",
                128,
                &["buckets", "mock", "node", "errors", "lineage", "registry"],
            ),
            // `indexes/<name>/`, where earlier versions kept where copies go; the mock keeps its
            // settings there.
            Self::Index => rule("an index", 128, &["rescue.json", "index.toml"]),
            // Folders of the state, which would be taken for it.
            Self::Bucket => {
                rule("a bucket", 64, &["primary", "buckets", "mock", "catalog", "registry"])
            }
            Self::Model => rule("a model", 128, &[]),
            Self::Profile => rule("a profile", 64, &[]),
            // The mesh's own parts, and those whose socket would be one of its files.
            Self::Label => Rule {
                capitals: false,
                ..rule("a module", 64, &["brahman", "init", "notify", "context", "init.lock"])
            },
        }
    }

    /// Longest name in bytes.
    #[must_use]
    pub fn bytes_max(self) -> usize {
        self.rule().bytes_max
    }

    /// Names that nothing new may have, in whatever case.
    #[must_use]
    pub fn reserved(self) -> &'static [&'static str] {
        self.rule().reserved
    }

    /// Whether nothing new may have a name.
    #[must_use]
    pub fn reserves(self, name: &str) -> bool {
        self.reserved().iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
    }

    fn letters(self) -> &'static str {
        if self.rule().capitals { "a-z A-Z 0-9" } else { "a-z 0-9" }
    }

    /// Whether something may have this name, be it reserved by now.
    ///
    /// # Errors
    /// [`NameError::Malformed`].
    pub fn check(self, name: &str) -> Result<(), NameError> {
        let Rule { bytes_max, capitals, .. } = self.rule();
        let plain = |b: u8| {
            b.is_ascii_lowercase()
                || b.is_ascii_digit()
                || matches!(b, b'.' | b'_' | b'-')
                || (capitals && b.is_ascii_uppercase())
        };
        let stem = if self == Self::Label { base_of(name) } else { name };
        if (1..=bytes_max).contains(&stem.len())
            && stem.bytes().all(plain)
            && !stem.starts_with('.')
        {
            return Ok(());
        }
        Err(NameError::Malformed { kind: self, name: shown(name) })
    }

    /// Whether something new may have this name.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn check_new(self, name: &str) -> Result<(), NameError> {
        self.check(name)?;
        if name.contains(NUMBER_SIGN) {
            return Err(NameError::Malformed { kind: self, name: shown(name) });
        }
        if name.ends_with('.') {
            return Err(NameError::TrailingDot { kind: self, name: shown(name) });
        }
        if self.reserves(name) {
            return Err(NameError::Reserved { kind: self, name: shown(name) });
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule().noun)
    }
}

/// A module's label without the number of a replica: `embed` for `embed@2`. Any other name is given
/// back as it is.
#[must_use]
pub fn base_of(label: &str) -> &str {
    let numbered = label.split_once(NUMBER_SIGN).filter(|(_, number)| {
        let is_plain = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        is_plain && number.parse().is_ok_and(|number: u32| (1..=REPLICAS_MAX).contains(&number))
    });
    numbered.map_or(label, |(base, _)| base)
}

/// A name as it can be told: nothing in it moves a terminal's cursor, and it fits a line.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_CHARS).is_some() { format!("{start}…") } else { start }
}

/// Why a name will not do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It is too long, empty, or holds what no name holds.
    #[error("`{name}` is no name for {kind}: expected 1 to {} of {} . _ - not starting with a dot", .kind.bytes_max(), .kind.letters())]
    Malformed {
        /// What was to be named.
        kind: Kind,
        /// The name, shortened and escaped.
        name: String,
    },
    /// Some systems drop the dot, and take it for another's.
    #[error("`{name}` is no name for {kind}: it ends with a dot, expected another character last")]
    TrailingDot {
        /// What was to be named.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// It is the mesh's own.
    #[error("`{name}` is no name for {kind}: it is a file of the mesh's own, expected none of {}", .kind.reserved().join(", "))]
    Reserved {
        /// What was to be named.
        kind: Kind,
        /// The name.
        name: String,
    },
}

macro_rules! names {
    ($($(#[$meta:meta])* $name:ident, $kind:ident;)*) => {$(
        $(#[$meta])*
        #[derive(
            Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(String);

        impl $name {
            /// What a name of this type is of.
            pub const KIND: Kind = Kind::$kind;

            /// A name for something new.
            ///
            /// # Errors
            /// [`NameError`].
            pub fn new(name: &str) -> Result<Self, NameError> {
                Self::KIND.check_new(name).map(|()| Self(name.to_owned()))
            }

            /// The name as it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::KIND.check(&name).map(|()| Self(name))
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::KIND.check(name).map(|()| Self(name.to_owned()))
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// A dataset's name.
    DatasetName, Dataset;
    /// An index's name.
    IndexName, Index;
    /// A bucket's name.
    BucketName, Bucket;
    /// A model's name.
    ModelName, Model;
    /// A profile's name.
    ProfileName, Profile;
    /// A module's name: 1 to 64 of `a-z0-9._-`, and `@N` behind it for one of a Card's replicas.
    Label, Label;
}

impl Label {
    /// The label of one of a Card's replicas, which are counted from 1.
    #[must_use]
    pub fn replica(&self, number: u32) -> Self {
        Self(format!("{}{NUMBER_SIGN}{number}", self.base()))
    }

    /// The label that the Card has: without the number of a replica.
    #[must_use]
    pub fn base(&self) -> &str {
        base_of(&self.0)
    }

    /// Whether it is one of a Card's replicas.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.0.contains(NUMBER_SIGN)
    }

    /// Whether somebody who says `name` means this module: by its own label, or by that of the Card
    /// whose replica it is.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.0 == name || self.base() == name
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 6] =
        [Kind::Dataset, Kind::Index, Kind::Bucket, Kind::Model, Kind::Profile, Kind::Label];

    /// Files and folders that lie where the files and folders of a kind's named things lie, and how
    /// those are called.
    fn beside(kind: Kind) -> (&'static str, &'static [&'static str]) {
        match kind {
            Kind::Dataset => (
                ".json",
                &[
                    "buckets.json",
                    "node",
                    "errors.log",
                    "errors.log.quarantine",
                    "lineage.log",
                    "mock",
                ],
            ),
            Kind::Index => {
                ("", &[".registry", "rescue.json", "index.toml", ".deleted-x", ".tmp-x"])
            }
            Kind::Bucket => ("", &["primary", "catalog", "buckets", "mock"]),
            Kind::Model | Kind::Profile => ("", &[".tmp-x"]),
            Kind::Label => (
                ".sock",
                &[
                    "brahman.sock",
                    "init.sock",
                    "notify.sock",
                    "init.lock",
                    "context",
                    "context.tmp",
                ],
            ),
        }
    }

    /// What is a name, and what only looks like one.
    fn names() -> impl Strategy<Value = String> {
        let any_kind: Vec<String> =
            KINDS.iter().flat_map(|kind| kind.reserved()).map(|name| (*name).to_owned()).collect();
        prop_oneof![
            4 => "[a-zA-Z0-9._-]{0,10}",
            2 => ".{0,12}",
            1 => r"[./\\~\x00\n -]{0,6}",
            1 => (prop::sample::select(any_kind), "[.A-Z]{0,1}").prop_map(|(name, more)| name + &more),
            1 => (60_usize..140).prop_map(|n| "x".repeat(n)),
        ]
    }

    proptest! {
        #[test]
        fn a_name_never_leads_out_of_a_folder_and_is_no_file_of_ours(
            name in names(),
            kind in prop::sample::select(KINDS.to_vec()),
        ) {
            if kind.check(&name).is_ok() {
                for folder in ["/state/indexes", "relative", "/"] {
                    let path = Path::new(folder).join(&name);
                    prop_assert_eq!(path.parent(), Some(Path::new(folder)));
                    prop_assert!(
                        matches!(
                            path.components().next_back(),
                            Some(Component::Normal(last)) if last == name.as_str()
                        )
                    );
                }
                prop_assert!(!name.contains(|c: char| c.is_control()
                    || c.is_whitespace()
                    || "/\\:*?\"<>|$`'".contains(c)));
            }
            if kind.check_new(&name).is_ok() {
                prop_assert!(kind.check(&name).is_ok());
                let (ending, files) = beside(kind);
                let file = format!("{name}{ending}");
                prop_assert!(files.iter().all(|ours| !file.eq_ignore_ascii_case(ours)), "{}", file);
                prop_assert!(!name.ends_with('.') && !name.starts_with('.'));
            }
        }

        #[test]
        fn a_name_comes_back_as_it_went(name in names()) {
            let json = serde_json::to_string(&name).expect("a string is JSON");
            match serde_json::from_str::<IndexName>(&json) {
                Ok(read) => {
                    prop_assert!(Kind::Index.check(&name).is_ok() && read.as_str() == name);
                    prop_assert_eq!(serde_json::to_string(&read).expect("a name is JSON"), json);
                    prop_assert_eq!(read.to_string().parse::<IndexName>(), Ok(read));
                }
                Err(why) => prop_assert!(
                    Kind::Index.check(&name).is_err()
                        && why.to_string().contains("expected 1 to 128")
                ),
            }
        }

        #[test]
        fn a_refusal_fits_a_line(name in ".{0,300}") {
            if let Err(why) = Kind::Dataset.check_new(&name) {
                let why = why.to_string();
                prop_assert!(why.len() < 2000 && !why.contains(char::is_control), "{}", why);
            }
        }
    }

    #[test]
    fn the_replicas_of_a_card_are_numbered_and_no_card_may_be_called_so() {
        let label: Label = "embed".parse().expect("a label");
        let second = label.replica(2);
        assert_eq!(
            (second.as_str(), second.base(), second.is_replica(), label.is_replica()),
            ("embed@2", "embed", true, false)
        );
        assert!(
            second.answers_to("embed")
                && second.answers_to("embed@2")
                && !second.answers_to("embed@1")
        );
        assert_eq!(
            (second.replica(3).as_str(), "embed@64".parse::<Label>().is_ok()),
            ("embed@3", true)
        );
        assert!(
            matches!(Label::new("embed@2"), Err(NameError::Malformed { .. })),
            "for nothing new"
        );
        for bad in [
            "embed@",
            "embed@0",
            "embed@01",
            "embed@65",
            "embed@x",
            "embed@1@2",
            "@1",
            "embed@-1",
            "embed@+1",
        ] {
            assert!(Kind::Label.check(bad).is_err(), "{bad}");
        }
        assert!(Kind::Index.check("embed@1").is_err() && Kind::Bucket.check("embed@1").is_err());
    }

    #[test]
    fn what_leads_elsewhere_is_refused_for_every_kind() {
        for kind in KINDS {
            for bad in [
                "",
                ".",
                "..",
                ".hidden",
                "a/b",
                "/a",
                "a\0b",
                "a b",
                "ä",
                "a\n",
                "\u{1b}[2J",
                "a\\b",
                &"x".repeat(129),
            ] {
                assert!(
                    matches!(kind.check(bad), Err(NameError::Malformed { .. })),
                    "{kind} {bad:?}"
                );
            }
            assert!(
                matches!(kind.check_new("a."), Err(NameError::TrailingDot { .. }))
                    && kind.check("a.").is_ok()
            );
        }
        assert!(Kind::Label.check("Capital").is_err() && Kind::Index.check("Capital").is_ok());
    }

    #[test]
    fn what_is_reserved_is_refused_for_new_things_in_any_case_and_stays_readable() {
        for kind in KINDS {
            for name in kind.reserved() {
                let why = kind.check_new(name).expect_err("reserved");
                assert!(
                    matches!(why, NameError::Reserved { .. }) && why.to_string().contains(name),
                    "{why}"
                );
                assert!(kind.check(name).is_ok(), "{name}");
            }
        }
        assert!(
            DatasetName::new("Buckets").is_err()
                && BucketName::new("PRIMARY").is_err()
                && IndexName::new("Rescue.JSON").is_err()
        );
        assert_eq!(
            DatasetName::try_from("buckets".to_owned()).map(String::from),
            Ok("buckets".to_owned())
        );
        for good in ["notes", "shop.Orders", "a-b_c.1", "buckets2"] {
            assert!(DatasetName::new(good).is_ok() && IndexName::new(good).is_ok(), "{good}");
        }
    }
}
