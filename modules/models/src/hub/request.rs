//! What a person asks for: `NAME[:VARIANT]` of what is published, or
//! `OWNER/NAME[@REVISION][:VARIANT]`, a repository of the hub.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name of an owner, a repository or a variant: the hub's own bound.
const NAME_BYTES_MAX: usize = 96;
/// Longest revision: a branch, a tag, a commit or a reference of a pull request.
const REVISION_BYTES_MAX: usize = 128;
/// The branch that is meant if none is named.
pub(crate) const MAIN: &str = "main";

/// A request that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{text}` names no model: expected NAME, NAME:VARIANT, OWNER/NAME or OWNER/NAME@REVISION, of letters, digits and . _ -"
)]
pub struct RequestError {
    /// As it was asked for.
    pub text: String,
}

/// A repository of the hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// User or organisation that it belongs to.
    pub owner: String,
    /// Its name among those of its owner.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Repository {
    /// `OWNER/NAME`, as the hub writes it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The same at another revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: revision.to_owned(), ..self.clone() }
    }

    /// Whether the revision is a commit, which never changes.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.owner, self.name, self.revision)
    }
}

impl FromStr for Repository {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let refuse = || RequestError { text: shown(text) };
        let (owner, rest) = text.split_once('/').ok_or_else(refuse)?;
        let (name, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let is_revision = revision.len() <= REVISION_BYTES_MAX && revision.split('/').all(is_name);
        if !is_name(owner) || !is_name(name) || !is_revision {
            return Err(refuse());
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), revision: revision.to_owned() })
    }
}

/// A model that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRequest {
    /// One that is published under a name.
    Published {
        /// Its name among those of its owner.
        name: String,
        /// `fp32`, `int8` and so on.
        variant: Option<String>,
    },
    /// One of a repository.
    Repository {
        /// Where.
        repository: Repository,
        /// The end of its graph's name: `int8` for `model_int8.onnx`, or `model_quantized.onnx`
        /// where there is none.
        variant: Option<String>,
    },
}

impl FromStr for ModelRequest {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let refuse = || RequestError { text: shown(text) };
        let (rest, variant) = match text.rsplit_once(':') {
            Some((rest, variant)) if is_name(variant) => (rest, Some(variant.to_owned())),
            Some(_) => return Err(refuse()),
            None => (text, None),
        };
        if rest.contains('/') {
            let repository = rest.parse().map_err(|_| refuse())?;
            return Ok(Self::Repository { repository, variant });
        }
        if is_name(rest) {
            Ok(Self::Published { name: rest.to_owned(), variant })
        } else {
            Err(refuse())
        }
    }
}

/// Whether a text is 40 hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether a text is of hexadecimal digits in lower case.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a text can be one step of a path and of an address.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_plain)
        && !text.starts_with('.')
        && !text.contains("--")
}

fn shown(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_repositories_are_told_apart() {
        let published = |name: &str, variant: Option<&str>| ModelRequest::Published {
            name: name.into(),
            variant: variant.map(Into::into),
        };
        assert_eq!("bge-small-en-v1.5".parse(), Ok(published("bge-small-en-v1.5", None)));
        assert_eq!(
            "bge-small-en-v1.5:int8".parse(),
            Ok(published("bge-small-en-v1.5", Some("int8")))
        );
        let Ok(ModelRequest::Repository { repository, variant }) =
            "BAAI/bge-m3@refs/pr/7:q4".parse()
        else {
            panic!("a repository")
        };
        assert_eq!(
            (repository.id().as_str(), repository.revision.as_str(), variant.as_deref()),
            ("BAAI/bge-m3", "refs/pr/7", Some("q4"))
        );
        assert!(!repository.is_pinned() && repository.at(&"a".repeat(40)).is_pinned());
        assert_eq!(
            "BAAI/bge-m3".parse::<Repository>().map(|found| found.to_string()).as_deref(),
            Ok("BAAI/bge-m3@main")
        );
    }

    #[test]
    fn what_would_lead_elsewhere_is_refused() {
        let elsewhere = [
            "/",
            "a/",
            "/b",
            "a/..",
            "../b",
            "a/b/c",
            "a/b@",
            "a/b@../../x",
            "a/b@x//y",
            "http://x/y",
        ];
        for text in elsewhere.into_iter().chain(["", "a b", "a:", "a/b:..", "a/b\n", "a--b/c"]) {
            let outcome = text.parse::<ModelRequest>();
            assert!(outcome.is_err(), "{text:?}: {outcome:?}");
        }
    }
}
