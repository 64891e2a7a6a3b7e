//! The top-level keys of a message, found by skimming: payloads are stepped over, never parsed.
//!
//! A skim is strict about the top level (a key twice, an escaped key, trailing bytes are refused,
//! so that no two readers can see two different messages) and only counts brackets below it. It
//! allocates nothing.

use thiserror::Error;

use super::{
    DEPTH_MAX, KEY_AGAIN, KEY_CALL, KEY_CONTEXT, KEY_DEADLINE, KEY_MOCK, KEY_PROVIDER, KEY_REQUIRE,
    KEY_TRACE, KEY_UID, METHOD_BYTES_MAX,
};
use crate::interface::OURS;

/// Why a message has no header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{expected} (at byte {at})")]
pub struct HeaderError {
    /// Byte offset in the message.
    pub at: usize,
    /// What was expected there.
    pub expected: &'static str,
}

/// The routing part of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallHeader<'a> {
    /// Interface and method: `interface.Method`.
    pub method: &'a str,
    /// The parameters' JSON text; empty if absent.
    pub parameters: &'a [u8],
    /// Many replies are welcome.
    pub more: bool,
    /// No reply is wanted.
    pub oneway: bool,
    /// The connection is to leave Varlink after one reply.
    pub upgrade: bool,
    /// Milliseconds the caller still waits.
    pub deadline_ms: Option<u64>,
    /// Context for this call alone.
    pub context: Option<&'a str>,
    /// Trace id of the caller's own.
    pub trace: Option<&'a str>,
    /// Caller's uid, if a broker set it.
    pub uid: Option<u32>,
    /// JSON text of the attributes that the provider must have; empty if none are asked for.
    pub require: &'a [u8],
    /// The caller's number for this call.
    pub call: Option<u64>,
    /// Whether a provider has ended on it before.
    pub again: bool,
    /// A key that is named like one of ours and is none: mistyped, it would change nothing in
    /// silence.
    pub unknown: Option<&'a str>,
    /// Whether it had one of our additions: then, and only then, its replies may have some.
    pub extras: bool,
}

impl<'a> CallHeader<'a> {
    /// Interface and method name.
    #[must_use]
    pub fn split(&self) -> (&'a str, &'a str) {
        self.method.rsplit_once('.').unwrap_or(("", self.method))
    }

    /// Skims a call.
    ///
    /// # Errors
    /// [`HeaderError`] where the message is not one JSON object with a `method`, or a known key has
    /// a wrong type.
    pub fn skim(frame: &'a [u8]) -> Result<Self, HeaderError> {
        let mut header = Self::default();
        let mut seen = [false; 12];
        top_level(frame, |at, key, value| {
            let slot = match key {
                "method" => 0,
                "parameters" => 1,
                "more" => 2,
                "oneway" => 3,
                "upgrade" => 4,
                KEY_DEADLINE => 5,
                KEY_CONTEXT => 6,
                KEY_TRACE => 7,
                KEY_UID => 8,
                KEY_REQUIRE => 9,
                KEY_CALL => 10,
                KEY_AGAIN => 11,
                _ => {
                    if key.starts_with(OURS) {
                        header.extras = true;
                        header.unknown = header.unknown.or(Some(key));
                    }
                    return Ok(());
                }
            };
            header.extras |= slot >= 5;
            if std::mem::replace(&mut seen[slot], true) {
                return Err(HeaderError { at, expected: "expected each key once" });
            }
            match slot {
                0 => header.method = text(at, value)?,
                1 => header.parameters = if value == b"null" { b"" } else { value },
                2 => header.more = flag(at, value)?,
                3 => header.oneway = flag(at, value)?,
                4 => header.upgrade = flag(at, value)?,
                5 => header.deadline_ms = number(at, value)?,
                6 => header.context = optional_text(at, value)?,
                7 => header.trace = optional_text(at, value)?,
                9 => header.require = if value == b"null" { b"" } else { value },
                10 => header.call = number(at, value)?,
                11 => header.again = flag(at, value)?,
                _ => {
                    let uid = number(at, value)?.map(u32::try_from).transpose();
                    header.uid = uid.map_err(|_| HeaderError { at, expected: "expected a uid" })?;
                }
            }
            Ok(())
        })?;
        if std::str::from_utf8(header.parameters).is_err() {
            return Err(HeaderError { at: 0, expected: "expected UTF-8" });
        }
        if header.method.len() > METHOD_BYTES_MAX {
            return Err(HeaderError {
                at: 0,
                expected: "expected a `method` of at most 256 bytes",
            });
        }
        if header.method.is_empty() {
            return Err(HeaderError {
                at: 0,
                expected: "expected a `method` such as \"org.varlink.service.GetInfo\"",
            });
        }
        Ok(header)
    }
}

/// The routing part of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyHeader<'a> {
    /// The parameters' JSON text; empty if absent.
    pub parameters: &'a [u8],
    /// More replies follow this one.
    pub continues: bool,
    /// Qualified error name, of a reply that is one.
    pub error: Option<&'a str>,
    /// Label of the provider.
    pub provider: Option<&'a str>,
    /// The number of the call that it answers, if the server knows such numbers.
    pub call: Option<u64>,
    /// Whether a mock made it, if the broker passed it on.
    pub mock: bool,
}

impl<'a> ReplyHeader<'a> {
    /// Skims a reply.
    ///
    /// # Errors
    /// [`HeaderError`] where the message is not one JSON object or a known key has a wrong type.
    pub fn skim(frame: &'a [u8]) -> Result<Self, HeaderError> {
        let mut header = Self::default();
        let mut seen = [false; 6];
        top_level(frame, |at, key, value| {
            let slot = match key {
                "parameters" => 0,
                "continues" => 1,
                "error" => 2,
                KEY_PROVIDER => 3,
                KEY_CALL => 4,
                KEY_MOCK => 5,
                _ => return Ok(()),
            };
            if std::mem::replace(&mut seen[slot], true) {
                return Err(HeaderError { at, expected: "expected each key once" });
            }
            match slot {
                0 => header.parameters = if value == b"null" { b"" } else { value },
                1 => header.continues = flag(at, value)?,
                2 => header.error = optional_text(at, value)?,
                3 => header.provider = optional_text(at, value)?,
                5 => header.mock = flag(at, value)?,
                _ => header.call = number(at, value)?,
            }
            Ok(())
        })?;
        if header.error.is_some_and(|name| !name.contains('.')) {
            return Err(HeaderError { at: 0, expected: "expected the qualified name of an error" });
        }
        if header.parameters.first().is_some_and(|first| *first != b'{')
            || std::str::from_utf8(header.parameters).is_err()
        {
            return Err(HeaderError {
                at: 0,
                expected: "expected parameters that are an object in UTF-8",
            });
        }
        Ok(header)
    }
}

/// The beginning of a reply, up to its own members: strict peers refuse keys that they do not know,
/// so ours stand in it only if the call had some.
#[must_use]
pub fn reply_head(provider: &str, extras: bool, call: Option<u64>) -> Vec<u8> {
    // Room for what is usually written behind it.
    let mut out = Vec::with_capacity(128);
    out.push(b'{');
    if extras {
        if !provider.is_empty() {
            push_text_member(&mut out, KEY_PROVIDER, provider);
        }
        if let Some(call) = call {
            push_number_member(&mut out, KEY_CALL, call);
        }
    }
    out
}

/// The number that a message begins with, if it was made by [`push_number_member`] with
/// [`KEY_CALL`].
#[must_use]
pub fn leading_number(message: &[u8]) -> Option<u64> {
    let rest =
        message.strip_prefix(b"{\"")?.strip_prefix(KEY_CALL.as_bytes())?.strip_prefix(b"\":")?;
    let digits = rest.iter().position(|b| !b.is_ascii_digit())?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// The same message for another attempt, after a provider has ended on it.
#[must_use]
pub fn again(message: &[u8]) -> Vec<u8> {
    // Behind the number, by which the answer is known.
    let at = if leading_number(message).is_some() {
        memchr::memchr(b',', message).map_or(1, |comma| comma + 1)
    } else {
        1
    };
    [&message[..at], format!("\"{KEY_AGAIN}\":true,").as_bytes(), &message[at..]].concat()
}

/// Writes one number member with a comma after it; the key is one of ours and needs no escapes.
pub fn push_number_member(out: &mut Vec<u8>, key: &str, value: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), value);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(&digits[at..]);
    out.push(b',');
}

/// Writes one string member, key and value escaped, with a comma after it.
pub fn push_text_member(out: &mut Vec<u8>, key: &str, value: &str) {
    for (part, after) in [(key, b':'), (value, b',')] {
        out.push(b'"');
        push_escaped(out, part);
        out.extend_from_slice(&[b'"', after]);
    }
}

/// Writes a text as it stands between the quotes of a JSON string.
pub fn push_escaped(out: &mut Vec<u8>, text: &str) {
    if !text.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b if b < b' ' => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
            b => out.push(b),
        }
    }
}

fn text(at: usize, value: &[u8]) -> Result<&str, HeaderError> {
    let inner = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
    let wrong = HeaderError { at, expected: "expected a string without escapes" };
    let inner =
        inner.filter(|v| memchr::memchr(b'\\', v).is_none()).ok_or_else(|| wrong.clone())?;
    std::str::from_utf8(inner).map_err(|_| wrong)
}

fn optional_text(at: usize, value: &[u8]) -> Result<Option<&str>, HeaderError> {
    if value == b"null" { Ok(None) } else { text(at, value).map(Some) }
}

fn flag(at: usize, value: &[u8]) -> Result<bool, HeaderError> {
    match value {
        b"true" => Ok(true),
        b"false" | b"null" => Ok(false),
        _ => Err(HeaderError { at, expected: "expected true or false" }),
    }
}

fn number(at: usize, value: &[u8]) -> Result<Option<u64>, HeaderError> {
    if value == b"null" {
        return Ok(None);
    }
    let digits = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
    digits.map(Some).ok_or(HeaderError { at, expected: "expected a whole number" })
}

/// Calls `member` with offset, key and value text of each top-level member.
pub(super) fn top_level<'a>(
    frame: &'a [u8],
    mut member: impl FnMut(usize, &'a str, &'a [u8]) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut cursor = Cursor { bytes: frame, at: 0 };
    cursor.blank();
    cursor.expect(b'{', "expected a JSON object")?;
    cursor.blank();
    if !cursor.accept(b'}') {
        loop {
            cursor.blank();
            let at = cursor.at;
            let key = cursor.string()?;
            let key = text(at, key)?;
            cursor.blank();
            cursor.expect(b':', "expected `:` after a key")?;
            cursor.blank();
            let at = cursor.at;
            let value = cursor.value()?;
            member(at, key, value)?;
            cursor.blank();
            if cursor.accept(b'}') {
                break;
            }
            cursor.expect(b',', "expected `,` or `}` after a value")?;
        }
    }
    cursor.blank();
    if cursor.at == frame.len() {
        Ok(())
    } else {
        Err(cursor.wrong("expected nothing after the object"))
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn wrong(&self, expected: &'static str) -> HeaderError {
        HeaderError { at: self.at, expected }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), HeaderError> {
        if self.accept(byte) { Ok(()) } else { Err(self.wrong(expected)) }
    }

    /// Steps over a string, quotes included.
    fn string(&mut self) -> Result<&'a [u8], HeaderError> {
        let from = self.at;
        self.expect(b'"', "expected a string")?;
        loop {
            match memchr::memchr2(b'"', b'\\', &self.bytes[self.at..]) {
                None => return Err(self.wrong("expected the end of a string")),
                Some(n) if self.bytes[self.at + n] == b'"' => {
                    self.at += n + 1;
                    return Ok(&self.bytes[from..self.at]);
                }
                Some(n) => self.at = (self.at + n + 2).min(self.bytes.len()),
            }
        }
    }

    /// Steps over any value.
    fn value(&mut self) -> Result<&'a [u8], HeaderError> {
        let from = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => {
                let mut depth = 1; // The message's own object.
                loop {
                    match self.peek() {
                        None => return Err(self.wrong("expected a closing bracket")),
                        Some(b'"') => {
                            self.string()?;
                            continue;
                        }
                        Some(b'{' | b'[') => {
                            depth += 1;
                            if depth > DEPTH_MAX {
                                return Err(self.wrong("expected nesting of at most 64 levels"));
                            }
                        }
                        Some(b'}' | b']') => depth -= 1,
                        Some(_) => {
                            self.at += plain(&self.bytes[self.at..]);
                            continue;
                        }
                    }
                    self.at += 1;
                    if depth == 1 {
                        break;
                    }
                }
            }
            _ => {
                while self
                    .peek()
                    .is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
                {
                    self.at += 1;
                }
            }
        }
        if self.at == from {
            Err(self.wrong("expected a value"))
        } else {
            Ok(&self.bytes[from..self.at])
        }
    }
}

/// How many bytes come before the next that a walk over brackets must look at. Most of a long
/// message is numbers, and they are passed over a block at a time.
fn plain(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    // Without branches, or it is compiled byte by byte.
    // The brackets of both kinds differ in one bit.
    let matters = |b: u8| (b == b'"') | (b | 0x20 == b'{') | (b | 0x20 == b'}');
    let blocks = bytes.as_chunks::<BLOCK>().0.iter();
    let whole = blocks
        .take_while(|block| block.iter().fold(0, |any, b| any | u8::from(matters(*b))) == 0)
        .count()
        * BLOCK;
    whole + bytes[whole..].iter().position(|b| matters(*b)).unwrap_or(bytes.len() - whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_skimmed_in_any_key_order() {
        let frame = br#" {"org.brahman.deadline_ms" : 250, "parameters":{"method":"no","a":[1,{"}":"\"]"}]}, "more":true,"x.y":null,"method":"a.b.C"} "#;
        let header = CallHeader::skim(frame).expect("a call");
        assert_eq!(header.split(), ("a.b", "C"));
        assert!(header.more && !header.oneway);
        assert_eq!(header.deadline_ms, Some(250));
        assert_eq!(header.parameters, br#"{"method":"no","a":[1,{"}":"\"]"}]}"#);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for frame in [
            r#"{"method":"a.B","method":"a.C"}"#,
            r#"{"method":"a.B","org.brahman.uid":1,"org.brahman.uid":0}"#,
            r#"{"method":"a.B","\u006dethod":"a.C"}"#,
            r#"{"method":"a.B"}{"#,
            r#"{"method":"a.B""#,
            r#"{"method":7}"#,
            r#"["method"]"#,
            r#"{"method":"a.B","more":1}"#,
            r#"{"method":"a.B","parameters":}"#,
            "",
        ] {
            assert!(CallHeader::skim(frame.as_bytes()).is_err(), "{frame}");
        }
        for frame in
            [r#"{"parameters":{},"parameters":{"a":1}}"#, r#"{"error":"a.B","error":"a.C"}"#]
        {
            assert!(ReplyHeader::skim(frame.as_bytes()).is_err(), "{frame}");
        }
    }

    #[test]
    fn additions_stand_in_a_reply_only_if_the_call_had_some() {
        let plain = CallHeader::skim(br#"{"method":"a.B","com.example.x":1}"#).expect("a call");
        assert_eq!(reply_head("p", plain.extras, plain.call), b"{");
        for added in
            [r#""org.brahman.trace":"t""#, r#""org.brahman.call":7"#, r#""org.brahman.later":null"#]
        {
            let frame = format!(r#"{{"method":"a.B",{added}}}"#);
            assert!(CallHeader::skim(frame.as_bytes()).expect("a call").extras, "{added}");
        }
        assert_eq!(
            reply_head("p", true, Some(7)),
            br#"{"org.brahman.provider":"p","org.brahman.call":7,"#
        );
        assert_eq!(leading_number(br#"{"org.brahman.call":70,"method":"a.B"}"#), Some(70));
        assert_eq!(leading_number(br#"{"method":"a.B","org.brahman.call":70}"#), None);
        for message in [
            &br#"{"org.brahman.call":70,"method":"a.B"}"#[..],
            br#"{"method":"a.B","parameters":{"x":[1,2]}}"#,
        ] {
            let second = again(message);
            let (before, after) = (
                CallHeader::skim(message).expect("a call"),
                CallHeader::skim(&second).expect("a call"),
            );
            assert_eq!(
                (before.again, after.again, after.call, after.parameters),
                (false, true, before.call, before.parameters)
            );
            assert_eq!(leading_number(message), leading_number(&second));
        }
    }

    #[test]
    fn a_method_name_is_bounded() {
        assert!(
            CallHeader::skim(format!(r#"{{"method":"{}.B"}}"#, "a".repeat(300)).as_bytes())
                .is_err()
        );
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let deep = |n: usize| {
            format!(r#"{{"method":"a.B","parameters":{}{}}}"#, "[".repeat(n), "]".repeat(n))
        };
        assert!(CallHeader::skim(deep(DEPTH_MAX - 1).as_bytes()).is_ok());
        assert!(CallHeader::skim(deep(DEPTH_MAX).as_bytes()).is_err());
        assert!(CallHeader::skim(deep(10_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn skimming_agrees_with_a_full_parse(
            text in ".{0,20}",
            number in any::<i64>(),
            more in any::<bool>(),
        ) {
            let message = serde_json::json!({"method": "a.b.C", "parameters": {"t": text, "n": [number]}, "more": more});
            let bytes = serde_json::to_vec(&message).expect("a value is JSON");
            let header = CallHeader::skim(&bytes).expect("a call");
            prop_assert_eq!(header.more, more);
            let parameters: serde_json::Value =
                serde_json::from_slice(header.parameters).expect("the same JSON");
            prop_assert_eq!(&parameters, &message["parameters"]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = CallHeader::skim(&bytes);
            let _ = ReplyHeader::skim(&bytes);
        }

        #[test]
        fn a_pushed_member_is_json(value in ".{0,30}") {
            let mut out = b"{".to_vec();
            push_text_member(&mut out, "k", &value);
            out.extend(b"\"z\":0}");
            let parsed: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(parsed["k"].as_str(), Some(value.as_str()));
        }
    }
}
