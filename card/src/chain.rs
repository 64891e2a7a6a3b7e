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

/// What is wrong with a TOML text, on one line: the parser's own words draw the line of the text
/// as well, over several, and whoever shows them in a list or a log would have to break that.
#[must_use]
pub fn toml_words(text: &str, error: &toml::de::Error) -> String {
    let of_line = |words: &str| words.split_whitespace().collect::<Vec<_>>().join(" ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => {
            format!("line {}: {}", before.matches('\n').count() + 1, of_line(error.message()))
        }
        // Of values that were taken apart before, it names the keys in its own words.
        None => of_line(&error.to_string()),
    }
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
    fn a_fault_in_toml_is_one_line_that_says_which() {
        let text = "a = 1\nb = [\nc = 2\n";
        let error = toml::from_str::<toml::Table>(text).expect_err("an open list");
        assert!(error.to_string().contains('\n'));
        let words = toml_words(text, &error);
        assert!(words.starts_with("line ") && !words.contains('\n'), "{words}");
        let table: toml::Table = toml::from_str("a = 1").expect("a table");
        let error = table.try_into::<std::collections::BTreeMap<String, String>>();
        let words = toml_words("", &error.expect_err("a number"));
        assert!(words.contains("string") && !words.contains('\n'), "{words}");
    }

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
