//! Keys: who may come from elsewhere, what each may call, and how often.
//!
//! Invariants: a key itself is kept nowhere, only its SHA-256; looking one up takes as long whether
//! it is known or not.

use std::collections::BTreeMap;
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
    /// What it opens.
    #[error("secret [{name}]: flows")]
    Flow {
        /// Its name.
        name: String,
        /// Cause.
        #[source]
        source: FlowError,
    },
}

/// Why a name among the flows is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum FlowError {
    /// There is something else behind the colon.
    #[error(
        "`{flow}`: expected an interface such as `index`, `index:read` for its methods that change nothing, or `*`"
    )]
    Suffix {
        /// As it is written.
        flow: String,
    },
    /// It is of an interface of which only its module knows what its methods do.
    #[error(
        "`{flow}`: which of its methods change nothing is not known, for Brahman does not ship it: expected its name without `:read`"
    )]
    Foreign {
        /// As it is written.
        flow: String,
    },
}

/// What of an interface may be called; the later has all of the former.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grant {
    /// Methods that change nothing.
    Reading,
    /// All of them.
    Whole,
}

/// Behind the name of an interface of which only what changes nothing is meant.
const READING: &str = "read";

/// Interfaces that somebody may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flows {
    /// What of whatever the mesh offers.
    all: Option<Grant>,
    /// What of these beside that, by full name.
    named: BTreeMap<String, Grant>,
}

impl Flows {
    /// Whatever the mesh offers.
    pub(crate) fn whole() -> Self {
        Self { all: Some(Grant::Whole), named: BTreeMap::new() }
    }

    /// Reads names, full or short, with `:read` behind those that are opened for reading alone; `*`
    /// is all. Of one that is named twice the more counts.
    ///
    /// # Errors
    /// For anything else behind a colon, and where it is not known what changes nothing.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, FlowError> {
        let mut flows = Self::default();
        for flow in names {
            let (name, grant) = match flow.split_once(':') {
                None => (flow, Grant::Whole),
                Some((name, READING)) => (name, Grant::Reading),
                Some(_) => return Err(FlowError::Suffix { flow: flow.to_owned() }),
            };
            if name == "*" {
                flows.all = flows.all.max(Some(grant));
                continue;
            }
            let name = interface::full_name(name);
            if grant == Grant::Reading && interface::known(&name).is_none() {
                return Err(FlowError::Foreign { flow: flow.to_owned() });
            }
            let granted = flows.named.entry(name).or_insert(grant);
            *granted = grant.max(*granted);
        }
        Ok(flows)
    }

    /// What of an interface is open, if anything is.
    pub(crate) fn grant(&self, interface: &str) -> Option<Grant> {
        let grant = self.named.get(interface).copied().max(self.all)?;
        // Of a stranger's methods nobody knows what they change.
        (grant == Grant::Whole || interface::known(interface).is_some()).then_some(grant)
    }

    /// Whether a method is open, of which the interface and its own name are given.
    pub(crate) fn allow(&self, interface: &str, method: &str) -> bool {
        match self.grant(interface) {
            Some(Grant::Whole) => true,
            Some(Grant::Reading) => interface::only_reads(interface, method),
            None => false,
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
            unfit(
                "flows",
                "expected a list of interfaces, such as [\"embed\", \"index:read\"], or [\"*\"]",
            )
        })?;
        if secret.per_minute == Some(0) {
            return Err(unfit("per_minute", "expected at least 1, or none"));
        }
        let bucket = RequestBucket {
            left: f64::from(secret.per_minute.unwrap_or(0)),
            since: Instant::now(),
        };
        let flows = Flows::of(flows.iter().map(String::as_str))
            .map_err(|source| KeyError::Flow { name: name.to_owned(), source })?;
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
            found.flows.allow(interface::embed::INTERFACE.name, "EmbedText")
                && !found.flows.allow(interface::index::INTERFACE.name, "Search")
        );
        assert!(keys.find(b"beta").expect("known").flows.allow("com.example.Thing", "Do"));
        assert!(
            keys.find(b"gamma").is_none()
                && keys.find(b"").is_none()
                && keys.find(&[b'x'; 600]).is_none()
        );
    }

    #[test]
    fn what_is_opened_for_reading_is_read_and_not_changed() {
        let (index, catalog) =
            (interface::index::INTERFACE.name, interface::catalog::INTERFACE.name);
        let flows = Flows::of(["index:read", "embed", "com.example.Thing"]).expect("flows");
        for method in ["Search", "SearchBulk", "Get", "List", "Stats", "Trials"] {
            assert!(flows.allow(index, method), "{method}");
        }
        for method in ["Delete", "Create", "Refresh", "Move", "Doctor", "Nothing", ""] {
            assert!(!flows.allow(index, method), "{method}");
        }
        assert!(!flows.allow(catalog, "Get") && flows.allow("com.example.Thing", "Do"));
        let all = Flows::of(["*:read", "index"]).expect("flows");
        assert!(all.allow(catalog, "Get") && !all.allow(catalog, "Delete"));
        assert!(all.allow(index, "Delete") && !all.allow("com.example.Thing", "Get"));
        assert_eq!(all.grant("com.example.Thing"), None);
        let both = Flows::of(["index", "index:read"]).expect("flows");
        assert_eq!(both.grant(index), Some(Grant::Whole));
        for flow in ["index:write", "index:", "index:read:write", "*:all", ":"] {
            let refused = Flows::of([flow]).expect_err(flow);
            assert_eq!(refused, FlowError::Suffix { flow: flow.to_owned() });
        }
        assert!(matches!(Flows::of(["com.example.Thing:read"]), Err(FlowError::Foreign { .. })));
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
