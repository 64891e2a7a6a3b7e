//! What a query's text asks for: words to rank by, `"phrases"` that must stand there, and `-words`
//! that must not.
//!
//! Invariant: what is taken for a phrase or an exclusion is said in the reply, and a caller may
//! have the text taken as it is.

/// Phrases and exclusions that one query may have; what comes after them is text.
const PARTS_MAX: usize = 16;

/// A query, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedQuery {
    /// What rows are ranked by, by words and by meaning: the text without exclusions and quotation
    /// marks.
    pub text: String,
    /// What must stand in a row, word by word.
    pub phrases: Vec<String>,
    /// What must not stand in a row.
    pub without: Vec<String>,
}

/// That a query only says what is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it only says what is not wanted: expected at least one word without a minus, or `literal`"
)]
pub struct OnlyExclusions;

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '“' | '”' | '„')
}

impl ParsedQuery {
    /// A text that is taken as it is.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// Reads a text. A quotation mark without another, and a minus before anything but a letter or
    /// a quotation mark, are text.
    ///
    /// # Errors
    /// [`OnlyExclusions`].
    pub fn read(text: &str) -> Result<Self, OnlyExclusions> {
        let mut out = Self::default();
        let mut before = ' ';
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let taken = if before.is_whitespace() || before == '(' { out.take(rest) } else { None };
            let length = taken.unwrap_or_else(|| {
                out.text.push(c);
                c.len_utf8()
            });
            before = rest[..length].chars().next_back().unwrap_or(' ');
            rest = &rest[length..];
        }
        if !out.without.is_empty() && !out.text.chars().any(char::is_alphanumeric) {
            return Err(OnlyExclusions);
        }
        out.text = out.text.trim().to_owned();
        Ok(out)
    }

    /// Takes a phrase or an exclusion off the beginning of a text; how many bytes it has.
    fn take(&mut self, rest: &str) -> Option<usize> {
        if self.phrases.len() + self.without.len() >= PARTS_MAX {
            return None;
        }
        let (is_excluded, part) = match rest.strip_prefix('-') {
            Some(part) => (true, part),
            None => (false, rest),
        };
        let first = part.chars().next()?;
        let minus = rest.len() - part.len();
        if is_quote(first) {
            let inner = &part[first.len_utf8()..];
            let (end, mark) = inner.char_indices().find(|(_, c)| is_quote(*c))?;
            let phrase = inner[..end].trim();
            if !phrase.chars().any(char::is_alphanumeric) {
                return None;
            }
            if is_excluded {
                self.without.push(phrase.to_owned());
            } else {
                self.text.push_str(phrase);
                self.phrases.push(phrase.to_owned());
            }
            return Some(minus + first.len_utf8() + end + mark.len_utf8());
        }
        if !is_excluded || !first.is_alphabetic() {
            return None;
        }
        let word = part.split(|c: char| c.is_whitespace() || is_quote(c)).next().unwrap_or(part);
        self.without.push(word.to_owned());
        Some(minus + word.len())
    }

    /// Whether it says which rows count, beside how they are ranked.
    #[must_use]
    pub fn has_conditions(&self) -> bool {
        !self.phrases.is_empty() || !self.without.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_and_exclusions_are_taken_out_and_the_rest_is_text() {
        let read = |text| ParsedQuery::read(text).expect("read");
        let parts = |text| {
            let ParsedQuery { text, phrases, without } = read(text);
            (text, phrases, without)
        };
        let none: Vec<String> = Vec::new();
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            parts("connection pool"),
            ("connection pool".into(), none.clone(), none.clone())
        );
        assert_eq!(
            parts(r#""connection pool" size"#),
            ("connection pool size".into(), own(&["connection pool"]), none.clone())
        );
        assert_eq!(
            parts("pool -house -“swimming pool” x"),
            ("pool   x".into(), none.clone(), own(&["house", "swimming pool"]))
        );
        for text in [
            "a 5\" disk",
            "well-known state-of-the-art",
            "a - b",
            "x -5",
            "-- x",
            "\"\" x",
            "it said \"yes",
        ] {
            assert_eq!(parts(text), (text.to_owned(), none.clone(), none.clone()), "{text}");
        }
        assert_eq!(ParsedQuery::read("-house"), Err(OnlyExclusions));
        assert_eq!(ParsedQuery::literal("-house \"x\"").text, "-house \"x\"");
        assert_eq!(parts("審批 -通知"), ("審批".into(), none, own(&["通知"])));
    }
}
