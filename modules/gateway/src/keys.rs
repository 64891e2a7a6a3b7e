//! Keys: who may come from elsewhere, what each may call, and how often.
//!
//! Invariants: a key itself is kept nowhere, only its SHA-256; looking one up takes as long whether
//! it is known or not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::interface;
use brahman_storage::digest::sha256;
use brahman_storage::secrets::{Secret, SecretError, file, read_all};
use thiserror::Error;

/// Longest key that is looked at: what is longer is none.
const KEY_BYTES_MAX: usize = 512;

/// Why keys cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// The secrets file.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// An entry of it.
    #[error("secret [{name}]: {field}: {expected}")]
    Entry {
        /// Its name.
        name: String,
        /// Which field.
        field: &'static str,
        /// What is wrong and what was expected.
        expected: &'static str,
    },
}

/// Interfaces that somebody may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flows {
    /// Whatever the mesh offers.
    Whole,
    /// These, by full name.
    Named(BTreeSet<String>),
}

impl Flows {
    /// Reads names, full or short; `*` is all.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<String> = names.into_iter().map(interface::full_name).collect();
        if names.contains("*") { Self::Whole } else { Self::Named(names) }
    }

    pub(crate) fn allow(&self, interface: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Named(names) => names.contains(interface),
        }
    }
}

/// A bucket of requests that fills up as time goes by.
#[derive(Debug)]
struct RequestBucket {
    left: f64,
    since: Instant,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// As the secrets file calls it.
    pub(crate) name: String,
    digest: [u8; 32],
    /// What it opens.
    pub(crate) flows: Flows,
    per_minute: Option<u32>,
    bucket: Mutex<RequestBucket>,
}

impl Key {
    fn read(name: &str, secret: &Secret) -> Result<Option<Self>, KeyError> {
        let unfit = |field, expected| KeyError::Entry { name: name.to_owned(), field, expected };
        let Some(digest) = &secret.key_sha256 else { return Ok(None) };
        let digest =
            unhex(digest).ok_or_else(|| unfit("key_sha256", "expected 64 hexadecimal digits"))?;
        let flows = secret.flows.as_ref().ok_or_else(|| {
            unfit("flows", "expected a list of interfaces, such as [\"embed\"], or [\"*\"]")
        })?;
        if secret.per_minute == Some(0) {
            return Err(unfit("per_minute", "expected at least 1, or none"));
        }
        let bucket = RequestBucket {
            left: f64::from(secret.per_minute.unwrap_or(0)),
            since: Instant::now(),
        };
        let flows = Flows::of(flows.iter().map(String::as_str));
        Ok(Some(Self {
            name: name.to_owned(),
            digest,
            flows,
            per_minute: secret.per_minute,
            bucket: Mutex::new(bucket),
        }))
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long it is until there may be another one.
    pub(crate) fn count(&self, now: Instant) -> Result<(), Duration> {
        let Some(per_minute) = self.per_minute.map(f64::from) else { return Ok(()) };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.since).as_secs_f64();
        bucket.left = (bucket.left + passed * per_minute / 60.0).min(per_minute);
        bucket.since = now;
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) * 60.0 / per_minute));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

/// All keys.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<Arc<Key>>);

impl Keys {
    /// Those of the secrets file; none if there is no file.
    pub(crate) fn read() -> Result<Self, KeyError> {
        let secrets = match read_all(&file()) {
            Err(SecretError::Missing { .. }) => return Ok(Self::default()),
            other => other?,
        };
        let keys = secrets.iter().filter_map(|(name, secret)| Key::read(name, secret).transpose());
        Ok(Self(keys.map(|key| key.map(Arc::new)).collect::<Result<_, _>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that was presented, if it is one. Every key is compared, and every byte of it.
    pub(crate) fn find(&self, presented: &[u8]) -> Option<Arc<Key>> {
        let digest = sha256(&presented[..presented.len().min(KEY_BYTES_MAX)]);
        let mut found = None;
        for key in &self.0 {
            let difference = key.digest.iter().zip(&digest).fold(0_u8, |sum, (a, b)| sum | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(Arc::clone(key));
            }
        }
        found.filter(|_| presented.len() <= KEY_BYTES_MAX)
    }
}

/// 32 bytes from their hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use brahman_storage::digest::hex;

    use super::*;

    fn key(name: &str, word: &str, flows: &[&str], per_minute: Option<u32>) -> Arc<Key> {
        let secret = Secret {
            url: None,
            password: None,
            token: None,
            customer_key: None,
            key_sha256: Some(hex(&sha256(word.as_bytes()))),
            flows: Some(flows.iter().map(|flow| (*flow).to_owned()).collect()),
            per_minute,
        };
        Arc::new(Key::read(name, &secret).expect("a key").expect("it has a digest"))
    }

    #[test]
    fn a_key_opens_its_flows_and_no_others() {
        let keys = Keys(vec![key("a", "alpha", &["embed"], None), key("b", "beta", &["*"], None)]);
        let found = keys.find(b"alpha").expect("known");
        assert_eq!(found.name, "a");
        assert!(
            found.flows.allow(interface::embed::INTERFACE.name)
                && !found.flows.allow(interface::index::INTERFACE.name)
        );
        assert!(keys.find(b"beta").expect("known").flows.allow("com.example.Thing"));
        assert!(
            keys.find(b"gamma").is_none()
                && keys.find(b"").is_none()
                && keys.find(&[b'x'; 600]).is_none()
        );
    }

    #[test]
    fn a_digest_is_of_digits_alone() {
        let digits = hex(&sha256(b"alpha"));
        assert!(unhex(&digits).is_some() && unhex(&digits.to_ascii_uppercase()).is_some());
        for bad in [
            format!("+{}", &digits[1..]),
            digits[1..].to_owned(),
            format!("{digits}0"),
            "ä".repeat(32),
        ] {
            assert!(unhex(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn requests_are_counted_by_the_minute() {
        let key = key("a", "alpha", &["*"], Some(2));
        let start = Instant::now();
        assert!(key.count(start).is_ok() && key.count(start).is_ok());
        let wait = key.count(start).expect_err("too many");
        assert!(wait > Duration::from_secs(29) && wait <= Duration::from_secs(30), "{wait:?}");
        assert!(key.count(start + Duration::from_secs(31)).is_ok());
    }
}
