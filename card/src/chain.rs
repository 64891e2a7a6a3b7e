//! Errors as people read them: each with what caused it.
//!
//! An error of ours says what failed and keeps its cause as its source, never in its own text. So
//! whoever shows one to a person, in a reply, in a log or as the reason of a state, shows the
//! chain.

use std::error::Error;

/// An error and its causes, as `error: cause: cause`. A cause with whose words the text ends
/// already, because a library has put them there, is not said twice.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("cannot read {path}")]
    struct Unreadable {
        path: &'static str,
        #[source]
        source: io::Error,
    }

    #[derive(Debug, Error)]
    #[error("a library's words: {0}")]
    struct Library(#[source] io::Error);

    #[test]
    fn every_cause_is_said_once() {
        let inner = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                Unreadable { path: "b", source: io::Error::other("it is damaged") },
            )
        };
        assert_eq!(chain(&inner()), "cannot read b: it is damaged");
        assert_eq!(
            chain(&Unreadable { path: "a", source: inner() }),
            "cannot read a: cannot read b: it is damaged"
        );
        assert_eq!(
            chain(&Library(io::Error::other("it is damaged"))),
            "a library's words: it is damaged"
        );
    }
}
