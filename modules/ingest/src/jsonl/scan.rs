//! One JSON text as a list of its parts, which is whole and valid before anybody looks at a value
//! of it.
//!
//! Invariants: the grammar is RFC 8259's, and NaN and infinities as Python writes them, which are
//! marked; no recursion, so depth is bounded by `NESTED_MAX` and not by a stack; no value is
//! changed, numbers and texts are where they stand.

use thiserror::Error;

/// Lists and objects within one another.
pub(super) const NESTED_MAX: usize = 1000;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Null,
    True,
    False,
    Number,
    /// NaN or an infinity.
    Special,
    /// Without its quotes.
    Text,
    /// The same, with escapes in it.
    Escaped,
    Object,
    List,
}

/// A part and where it stands. Of an object, keys and values follow in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) sort: Sort,
    pub(super) start: u32,
    pub(super) end: u32,
    /// The part that follows, once all that is within it is passed.
    pub(super) next: u32,
}

/// Why a text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum ScanError {
    #[error("is not JSON: expected {expected} at byte {at}")]
    Expected { expected: &'static str, at: usize },
    #[error("is not JSON: it ends too early")]
    Ends,
    #[error("has half of a surrogate pair at byte {at}, which is no character")]
    Surrogate { at: usize },
    #[error("is nested deeper than {NESTED_MAX}")]
    TooDeep,
    #[error("is not UTF-8")]
    NotUtf8,
}

/// Parts of the text that was scanned last.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    parts: Vec<Part>,
    /// Objects and lists that are open.
    open: Vec<u32>,
}

fn skip(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Where a number that begins at a place ends.
fn number(bytes: &[u8], start: usize) -> Result<usize, ScanError> {
    let digits = |mut at: usize| {
        let first = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if at > first { Ok(at) } else { Err(ScanError::Expected { expected: "a digit", at }) }
    };
    let mut at = start + usize::from(bytes[start] == b'-');
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(at + 1 + sign)?;
    }
    Ok(at)
}

/// Four hexadecimal digits at a place.
fn hex(bytes: &[u8], at: usize) -> Result<u32, ScanError> {
    let digits = bytes.get(at..at + 4).ok_or(ScanError::Ends)?;
    digits.iter().try_fold(0, |all, digit| {
        let digit = char::from(*digit)
            .to_digit(16)
            .ok_or(ScanError::Expected { expected: "four hexadecimal digits", at })?;
        Ok(all * 16 + digit)
    })
}

/// Whether a byte ends a run of plain characters in a string.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut at = 0;
    while at < 32 {
        special[at] = true;
        at += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

/// Where a string whose first character stands at a place ends, at its quote, and whether it has
/// escapes.
fn string(bytes: &[u8], start: usize) -> Result<(usize, bool), ScanError> {
    let (mut at, mut escaped) = (start, false);
    loop {
        at += bytes[at..].iter().position(|b| SPECIAL[usize::from(*b)]).ok_or(ScanError::Ends)?;
        match bytes[at] {
            b'"' => return Ok((at, escaped)),
            b'\\' => {
                escaped = true;
                match bytes.get(at + 1).ok_or(ScanError::Ends)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                    b'u' => {
                        let unit = hex(bytes, at + 2)?;
                        let is_high = (0xd800..0xdc00).contains(&unit);
                        let is_low = (0xdc00..0xe000).contains(&unit);
                        let pair = is_high && bytes.get(at + 6..at + 8) == Some(&b"\\u"[..]);
                        if is_low
                            || (is_high
                                && !(pair && (0xdc00..0xe000).contains(&hex(bytes, at + 8)?)))
                        {
                            return Err(ScanError::Surrogate { at });
                        }
                        at += if pair { 12 } else { 6 };
                    }
                    _ => {
                        return Err(ScanError::Expected {
                            expected: "an escape that JSON has",
                            at: at + 1,
                        });
                    }
                }
            }
            _ => {
                return Err(ScanError::Expected {
                    expected: "an escape in place of a control character",
                    at,
                });
            }
        }
    }
}

/// A string whose escapes are undone. It was scanned, so there are only those that JSON has.
pub(super) fn unescape(text: &str, out: &mut String) {
    out.clear();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let bytes = rest.as_bytes();
        let (plain, length) = match bytes.get(at + 1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => match (hex(bytes, at + 2), hex(bytes, at + 8)) {
                (Ok(high @ 0xd800..0xdc00), Ok(low @ 0xdc00..0xe000)) => (
                    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                        .unwrap_or('\u{fffd}'),
                    12,
                ),
                (unit, _) => (unit.ok().and_then(char::from_u32).unwrap_or('\u{fffd}'), 6),
            },
            Some(other) => (char::from(*other), 2),
            None => return,
        };
        out.push(plain);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
}

/// What is to come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Value,
    /// A value, or the end of a list.
    FirstItem,
    /// A key, or the end of an object.
    FirstKey,
    Key,
    /// A comma, or the end of what is open.
    After,
}

impl Scanner {
    /// Scans a text that is one value, with nothing but white space around it.
    pub(super) fn scan<'a>(&'a mut self, bytes: &[u8]) -> Result<&'a [Part], ScanError> {
        let end = self.value(bytes, skip(bytes, 0))?;
        match skip(bytes, end) {
            at if at == bytes.len() => Ok(&self.parts),
            at => Err(ScanError::Expected { expected: "the end of the line", at }),
        }
    }

    /// Scans the value that begins at a place; gives where it ends.
    fn value(&mut self, bytes: &[u8], start: usize) -> Result<usize, ScanError> {
        self.parts.clear();
        self.open.clear();
        let (mut at, mut turn) = (start, Turn::Value);
        loop {
            at = skip(bytes, at);
            let byte = *bytes.get(at).ok_or(ScanError::Ends)?;
            match (turn, byte) {
                (Turn::FirstKey, b'}') | (Turn::FirstItem, b']') => at = self.close(at),
                (Turn::After, b',') => {
                    turn = if self.in_object() { Turn::Key } else { Turn::Value };
                    at += 1;
                    continue;
                }
                (Turn::After, b'}') if self.in_object() => at = self.close(at),
                (Turn::After, b']') if !self.in_object() => at = self.close(at),
                (Turn::After, _) => {
                    return Err(ScanError::Expected {
                        expected: "a comma or the end of what is open",
                        at,
                    });
                }
                (Turn::Key | Turn::FirstKey, b'"') => {
                    at = skip(bytes, self.text(bytes, at)?);
                    if bytes.get(at) != Some(&b':') {
                        return Err(bytes.get(at).map_or(ScanError::Ends, |_| {
                            ScanError::Expected { expected: "a colon", at }
                        }));
                    }
                    (at, turn) = (at + 1, Turn::Value);
                    continue;
                }
                (Turn::Key | Turn::FirstKey, _) => {
                    return Err(ScanError::Expected { expected: "a key in quotes", at });
                }
                (_, b'{' | b'[') => {
                    if self.open.len() == NESTED_MAX {
                        return Err(ScanError::TooDeep);
                    }
                    self.open.push(place(self.parts.len()));
                    self.push(if byte == b'{' { Sort::Object } else { Sort::List }, at, at);
                    turn = if byte == b'{' { Turn::FirstKey } else { Turn::FirstItem };
                    at += 1;
                    continue;
                }
                (_, b'"') => at = self.text(bytes, at)?,
                (_, b'-' | b'0'..=b'9') if !bytes[at..].starts_with(b"-I") => {
                    let end = number(bytes, at)?;
                    self.push(Sort::Number, at, end);
                    at = end;
                }
                _ => {
                    let words = [
                        ("null", Sort::Null),
                        ("true", Sort::True),
                        ("false", Sort::False),
                        ("NaN", Sort::Special),
                        ("Infinity", Sort::Special),
                        ("-Infinity", Sort::Special),
                    ];
                    let found =
                        words.iter().find(|(word, _)| bytes[at..].starts_with(word.as_bytes()));
                    let (word, sort) =
                        found.ok_or(ScanError::Expected { expected: "a value", at })?;
                    self.push(*sort, at, at + word.len());
                    at += word.len();
                }
            }
            if self.open.is_empty() {
                return Ok(at);
            }
            turn = Turn::After;
        }
    }

    fn in_object(&self) -> bool {
        self.open.last().is_some_and(|open| self.parts[*open as usize].sort == Sort::Object)
    }

    fn push(&mut self, sort: Sort, start: usize, end: usize) {
        let next = place(self.parts.len() + 1);
        self.parts.push(Part { sort, start: place(start), end: place(end), next });
    }

    fn text(&mut self, bytes: &[u8], at: usize) -> Result<usize, ScanError> {
        let (end, escaped) = string(bytes, at + 1)?;
        self.push(if escaped { Sort::Escaped } else { Sort::Text }, at + 1, end);
        Ok(end + 1)
    }

    /// Closes what was opened last, with a bracket at a place; gives the place after it.
    fn close(&mut self, at: usize) -> usize {
        let next = place(self.parts.len());
        if let Some(open) = self.open.pop() {
            let part = &mut self.parts[open as usize];
            (part.end, part.next) = (place(at + 1), next);
        }
        at + 1
    }
}

/// A place in a text, none of which is longer than 16 MiB.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_where_they_stand() {
        let text = br#" {"a": [1, {"b\n": "x"}], "c": null} "#;
        let mut scanner = Scanner::default();
        let parts = scanner.scan(text).expect("JSON");
        let told: Vec<(Sort, &[u8], u32)> = parts
            .iter()
            .map(|p| (p.sort, &text[p.start as usize..p.end as usize], p.next))
            .collect();
        assert_eq!(told[0].0, Sort::Object);
        assert_eq!(told[1], (Sort::Text, &b"a"[..], 2));
        assert_eq!(told[2], (Sort::List, &br#"[1, {"b\n": "x"}]"#[..], 7));
        assert_eq!(told[3], (Sort::Number, &b"1"[..], 4));
        assert_eq!(told[5], (Sort::Escaped, &br"b\n"[..], 6));
        assert_eq!((told[7], told[8]), ((Sort::Text, &b"c"[..], 8), (Sort::Null, &b"null"[..], 9)));
    }

    #[test]
    fn what_is_no_json_says_where() {
        let mut scanner = Scanner::default();
        for (text, words) in [
            ("", "ends"),
            ("{\"a\":1", "ends"),
            ("{\"a\" 1}", "a colon at byte 5"),
            ("{a:1}", "a key in quotes at byte 1"),
            ("{\"a\":1,}", "a key in quotes at byte 7"),
            ("[1,]", "a value at byte 3"),
            ("[1 2]", "a comma"),
            ("{\"a\":01}", "a comma"),
            ("{\"a\":+1}", "a value"),
            ("{\"a\":1.}", "a digit"),
            ("{\"a\":1}x", "the end of the line at byte 7"),
            ("{\"a\":1]", "a comma"),
            ("\"a\u{1}b\"", "a control character"),
            ("\"\\x\"", "an escape"),
            ("\"\\ud800\"", "surrogate"),
            ("\"\\udc00\"", "surrogate"),
            ("'a'", "a value"),
            ("nul", "a value"),
        ] {
            let error = scanner.scan(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(scanner.scan(deep(NESTED_MAX).as_bytes()).is_ok());
        assert_eq!(scanner.scan(deep(NESTED_MAX + 1).as_bytes()).err(), Some(ScanError::TooDeep));
        assert!(scanner.scan(b"[NaN, -Infinity, Infinity, -1.5e+3, true, false]").is_ok());
    }

    proptest! {
        /// What serde_json reads, this reads, and nothing else; a string is the same.
        #[test]
        fn it_agrees_with_serde_json(
            text in "[\\[\\]{}\":,0-9a-fnrtu\\\\.eE+\\- \u{e9}]{0,24}",
            value in "\\PC{0,12}",
        ) {
            // It does not look at pairs of surrogates where it keeps no value.
            prop_assume!(!text.contains("\\u"));
            let mut scanner = Scanner::default();
            let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text);
            prop_assert_eq!(scanner.scan(text.as_bytes()).is_ok(), theirs.is_ok(), "{}", text);
            let json = serde_json::to_string(&value).expect("JSON");
            let parts = scanner.scan(json.as_bytes()).expect("a string");
            let inside = &json[parts[0].start as usize..parts[0].end as usize];
            let mut plain = String::new();
            unescape(inside, &mut plain);
            prop_assert_eq!(plain, value);
        }
    }
}
