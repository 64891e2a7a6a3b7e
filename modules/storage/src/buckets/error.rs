//! Why a bucket cannot be used, in words without a secret.
//!
//! Invariant: whatever a server or a client says of itself passes through [`mask`] before anybody
//! sees it: URLs with a password, query parameters that sign a request, and what an answer repeats
//! of the request's headers.

use std::io;

use brahman_card::interface::storage::OBJECT_BYTES_MAX;
use thiserror::Error;

/// Why a bucket cannot be used.
#[derive(Debug, Error)]
pub enum BucketError {
    /// There is none of this name.
    #[error("no bucket is called `{0}`")]
    NoSuchBucket(String),
    /// It must stay.
    #[error("bucket `{0}` cannot be removed")]
    Protected(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Bad(String),
    /// It does not do what a bucket must.
    #[error("bucket `{name}`: {why}")]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// It is not to be seen: its folder, its marker or the whole bucket is gone, or it cannot be
    /// opened. What it holds is not known.
    #[error("bucket `{name}` is away: {why}")]
    Away {
        /// Its name.
        name: String,
        /// What is not there.
        why: String,
    },
    /// This catalog's name among others is not known: whatever it put there would be a stranger's
    /// to itself.
    #[error("{0}; nothing was changed")]
    NoNode(String),
    /// A folder cannot hold an object of this key beside those that are there.
    #[error("{key} cannot be put into bucket `{name}`: {why}; give it another key")]
    InTheWay {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
        /// What is there.
        why: String,
    },
    /// There is no such object.
    #[error("bucket `{name}` has no object {key}")]
    NoSuchObject {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
    },
    /// It is not what it should be.
    #[error("bucket `{name}`: {key}: {why}")]
    Damaged {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// More than is read at once.
    #[error(
        "{key} in bucket `{name}` has {size} bytes, expected at most {} at once: ask for a part, by offset and length",
        OBJECT_BYTES_MAX
    )]
    TooLarge {
        /// The bucket.
        name: String,
        /// The key.
        key: String,
        /// Bytes of the object.
        size: u64,
    },
    /// Our own disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What stands for a secret.
pub(super) const MASK: &str = "…";
/// A secret shorter than this would be found in every second word; nobody is kept out by one.
const SECRET_BYTES_MIN: usize = 4;
/// Elements of an S3's answer that repeat what it was asked, headers with keys among it.
const REPEATING: [&str; 5] = [
    "CanonicalRequest",
    "CanonicalRequestBytes",
    "StringToSign",
    "StringToSignBytes",
    "SignatureProvided",
];
/// Parameters and headers that sign a request or hold a key, in lower case.
const SIGNING: [&str; 6] = [
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-credential",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "signature",
];

/// A text without these secrets, and without what looks like one.
pub(super) fn mask(text: &str, secrets: &[String]) -> String {
    let mut out = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN) {
        out = out.replace(secret.as_str(), MASK);
    }
    for element in REPEATING {
        out = without_element(&out, element);
    }
    for name in SIGNING {
        out = without_value(&out, name);
    }
    without_userinfo(&without_xml(&out))
}

/// An S3's answer in XML as a line of words: its code and what it says.
fn without_xml(text: &str) -> String {
    const END: &str = "</Error>";
    let Some(at) = text.find("<Error>").or_else(|| text.find("<Error ")) else {
        return text.to_owned();
    };
    let start = text[..at].rfind("<?xml").unwrap_or(at);
    // Cut off in the middle it ends where the text does.
    let end = text[at..].find(END).map_or(text.len(), |end| at + end + END.len());
    let answer = &text[at..end];
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        let said = rest
            .split('<')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        Some(said).filter(|said| !said.is_empty())
    };
    let words = match (element("Code"), element("Message")) {
        (Some(code), _) if code == "NoSuchBucket" => {
            "the bucket is not there (NoSuchBucket)".to_owned()
        }
        (Some(code), Some(message)) => format!("{} ({code})", message.trim_end_matches('.')),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => "an answer without words".to_owned(),
    };
    let (before, after) = (text[..start].trim_end(), text[end..].trim_start());
    [before, words.as_str(), after]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a URL names a user or a password.
pub(super) fn has_userinfo(url: &str) -> bool {
    url.split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')))
}

fn without_userinfo(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        let end =
            tail.find(|c: char| c.is_whitespace() || "/?#\"'<>`".contains(c)).unwrap_or(tail.len());
        let host = tail[..end].rfind('@').map_or(0, |user| user + 1);
        out.push_str(head);
        if host > 0 {
            out.push_str(MASK);
            out.push('@');
        }
        out.push_str(&tail[host..end]);
        rest = &tail[end..];
    }
    out + rest
}

fn without_element(text: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(&open) {
        let (head, tail) = rest.split_at(at + open.len());
        out.push_str(head);
        out.push_str(MASK);
        // Cut off in the middle, the rest may still be a part of it.
        rest = tail.find(&close).map_or("", |end| &tail[end..]);
    }
    out + rest
}

/// Without what follows `name=` or `name:`, whatever the case.
fn without_value(text: &str, name: &str) -> String {
    // Of the same length, byte for byte.
    let lower = text.to_ascii_lowercase();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(found) = lower[at..].find(name) {
        let after = at + found + name.len();
        out.push_str(&text[at..after]);
        at = after;
        let Some(separator) = lower[at..].chars().next().filter(|c| matches!(c, '=' | ':')) else {
            continue;
        };
        let start = at + separator.len_utf8();
        let end = text[start..]
            .find(|c: char| c.is_whitespace() || "&,\"'<>`".contains(c))
            .map_or(text.len(), |end| start + end);
        out.push(separator);
        if end > start {
            out.push_str(MASK);
        }
        at = end;
    }
    out + &text[at..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_signs_a_request_or_opens_a_bucket_is_in_no_message() {
        for (text, expected) in [
            ("GET https://me:hunter2@host:9000/b/k failed", "GET https://…@host:9000/b/k failed"),
            (
                "for url (http://h/b?X-Amz-Signature=0a1b&x=1): refused",
                "for url (http://h/b?X-Amz-Signature=…&x=1): refused",
            ),
            (
                "<Code>X</Code><CanonicalRequest>PUT\nkey:hunter2</CanonicalRequest>",
                "<Code>X</Code><CanonicalRequest>…</CanonicalRequest>",
            ),
            ("<StringToSign>cut hunter2", "<StringToSign>…"),
            (
                "x-amz-server-side-encryption-customer-key:aHVudGVyMg==\nhost:h",
                "x-amz-server-side-encryption-customer-key:…\nhost:h",
            ),
            ("Credential=a, Signature=0a1b", "Credential=a, Signature=…"),
            ("the key is hunter2.", "the key is …."),
            ("nothing to hide: http://host/a@b", "nothing to hide: http://host/a@b"),
        ] {
            assert_eq!(mask(text, &["hunter2".to_owned()]), expected);
        }
        // What a server says in XML is said in a line.
        let answer = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n  <Code>NoSuchBucket</Code>\n  <Message>The specified bucket \
                      does not exist</Message>\n  <BucketName>b</BucketName>\n</Error>";
        for (text, expected) in [
            (
                format!("status 404 Not Found: {answer}"),
                "status 404 Not Found: the bucket is not there (NoSuchBucket)",
            ),
            (format!("{answer}\nand more"), "the bucket is not there (NoSuchBucket) and more"),
            (
                answer.replace("NoSuchBucket", "AccessDenied"),
                "The specified bucket does not exist (AccessDenied)",
            ),
            ("x: <Error><Code>SlowDown</Code".to_owned(), "x: SlowDown"),
            ("x: <Error></Error>".to_owned(), "x: an answer without words"),
        ] {
            assert_eq!(mask(&text, &[]), expected);
        }
        assert!(
            has_userinfo("https://me:pw@host/x")
                && !has_userinfo("https://host/a@b")
                && !has_userinfo("host")
        );
    }

    proptest! {
        #[test]
        fn a_secret_is_nowhere_in_what_is_shown(
            before in ".{0,40}",
            secret in "[a-zA-Z0-9+/]{8,40}",
            after in ".{0,40}",
        ) {
            prop_assume!(!before.contains(&secret) && !after.contains(&secret));
            let shown = mask(&format!("{before}{secret}{after}"), std::slice::from_ref(&secret));
            prop_assert!(!shown.contains(&secret), "{shown}");
        }
    }
}
