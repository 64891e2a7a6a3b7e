//! Secrets by name: connection URLs and passwords that stand in one file, which only its owner can
//! read.
//!
//! ```toml
//! [shop]
//! url = "postgres://reader@db.example/shop"
//! password = "anything; no encoding needed"
//!
//! [lake]
//! password = "a bucket's secret key"
//! token = "of a session, if there is one"
//! customer_key = "base64 of the key by which S3 encrypts (SSE-C), if there is one"
//!
//! [laptop]
//! key_sha256 = "of a key that the gateway lets in, in hex"
//! flows = ["embed", "index"]
//! per_minute = 600
//! ```
//!
//! Invariants: a file that others can read, or that belongs to another user, is refused by name; no
//! message and no `Debug` holds a value.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// Far more than anybody keeps in such a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One entry of the secrets file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// A connection URL, a bearer token's address, or whatever the user of the secret expects.
    pub url: Option<String>,
    /// A password or token, as it is.
    pub password: Option<String>,
    /// Of a session, beside the password.
    pub token: Option<String>,
    /// By which a bucket's objects are encrypted (SSE-C), in base64.
    pub customer_key: Option<String>,
    /// SHA-256, in hex, of a key by which the gateway knows a client: the key itself is nowhere.
    pub key_sha256: Option<String>,
    /// What such a key opens: interfaces by full or short name, or `*`.
    pub flows: Option<Vec<String>>,
    /// How many requests a minute may be made with it.
    pub per_minute: Option<u32>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret cannot be used. Holds no value.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("secrets file {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// There is no file.
    #[error("there is no secrets file; looked at {looked}")]
    Missing {
        /// Every place, the one that counts first.
        looked: String,
    },
    /// The file is not one that is taken.
    #[error("secrets file {path}: {why}")]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// There is none of this name.
    #[error("secrets file {path} has no [{name}]")]
    NoSuchSecret {
        /// Which file.
        path: PathBuf,
        /// Which secret.
        name: String,
    },
}

/// Where secrets are: `$BRAHMAN_SECRETS`, else `brahman/secrets.toml` in the user's configuration,
/// else `/etc/brahman`.
#[must_use]
pub fn file() -> PathBuf {
    let mut places = places();
    let last = places.len() - 1;
    let at = places.iter().position(|file| file.exists()).unwrap_or(last);
    places.swap_remove(at)
}

/// Every place where the secrets file may be, at least one, the one that counts first.
fn places() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(file) = set("BRAHMAN_SECRETS") {
        return vec![file];
    }
    let user = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let own = user.map(|folder| folder.join("brahman/secrets.toml"));
    own.into_iter().chain([PathBuf::from("/etc/brahman/secrets.toml")]).collect()
}

/// Where a file was looked for that is not there: in every place, if it is one of them.
fn looked_at(path: &Path) -> String {
    let places = places();
    let looked =
        if places.iter().any(|place| place == path) { places } else { vec![path.to_owned()] };
    looked.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Reads one secret.
///
/// # Errors
/// [`SecretError`].
pub fn read(path: &Path, name: &str) -> Result<Secret, SecretError> {
    let all = read_all(path)?;
    all.get(name)
        .cloned()
        .ok_or_else(|| SecretError::NoSuchSecret { path: path.to_owned(), name: name.to_owned() })
}

/// Reads every secret, by name.
///
/// # Errors
/// [`SecretError`].
pub fn read_all(path: &Path) -> Result<BTreeMap<String, Secret>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let unfit = |why: String| SecretError::Unfit { path: path.to_owned(), why };
    let mut open = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SecretError::Missing { looked: looked_at(path) },
        _ => unreadable(source),
    })?;
    let meta = open.metadata().map_err(unreadable)?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own {
        return Err(unfit(format!("belongs to uid {}, expected uid {own}: chown it", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(unfit(format!(
            "has mode {:04o}, expected 0600: chmod 600 it",
            meta.mode() & 0o7777
        )));
    }
    let mut text = String::new();
    if meta.len() > FILE_BYTES_MAX {
        return Err(unfit(format!("has {} bytes, expected at most {FILE_BYTES_MAX}", meta.len())));
    }
    open.by_ref().take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    // What the parser displays quotes the line, and the line may be a password. Its message of text
    // that is no TOML is of its own words alone; that of TOML which is no secrets may hold a value.
    let said = toml::de::DeTable::parse(&text)
        .err()
        .map(|e| format!(" ({})", e.message()))
        .unwrap_or_default();
    let line = |at: usize| text[..at].lines().count().max(1);
    toml::from_str(&text).map_err(|e| {
        let place = e.span().map(|span| format!(", near line {}", line(span.start.min(text.len())))).unwrap_or_default();
        unfit(format!(
            "is no TOML of [name] tables with `url`, `password`, `token` and `customer_key`, or `key_sha256`, `flows` and `per_minute`{place}{said}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_can_read_is_refused_and_no_message_holds_a_value() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let write = |text: &str, mode: u32| {
            std::fs::write(file.path(), text).expect("written");
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode))
                .expect("set");
        };
        write("[shop]\nurl = 'postgres://x'\npassword = 'p@:/%\" s'\n", 0o600);
        let secret = read(file.path(), "shop").expect("read");
        assert_eq!(secret.password.as_deref(), Some("p@:/%\" s"));
        assert!(!format!("{secret:?}").contains("p@"));
        let error = read(file.path(), "other").expect_err("there is none").to_string();
        assert!(error.contains("[other]"), "{error}");
        let none = Path::new("/no/such/secrets.toml");
        let error = read(none, "shop").expect_err("there is none").to_string();
        assert!(error.contains("/no/such/secrets.toml"), "{error}");
        assert!(
            looked_at(Path::new("/etc/brahman/secrets.toml"))
                .ends_with("/etc/brahman/secrets.toml")
        );
        write("[shop]\npassword = 'hunter2' hunter2\n", 0o600);
        let error = read(file.path(), "shop").expect_err("no TOML").to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        write("[shop]\nurl = 'x'\n\n[shop]\npassword = 'hunter2'\n", 0o600);
        let error = read(file.path(), "shop").expect_err("twice").to_string();
        assert!(error.contains("line 4 (duplicate key)"), "{error}");
        for text in
            ["[shop]\nper_minute = 'hunter2'\n", "[shop]\npassword = hunter2\n", "hunter2\n"]
        {
            write(text, 0o600);
            let error = read(file.path(), "shop").expect_err("unfit").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        write("[lake]\npassword = 'p'\ntoken = 't'\ncustomer_key = 'hunter2'\n", 0o600);
        let secret = read(file.path(), "lake").expect("read");
        assert_eq!(
            (secret.token.as_deref(), secret.customer_key.as_deref()),
            (Some("t"), Some("hunter2"))
        );
        assert!(!format!("{secret:?}").contains("hunter2"));
        write("[shop]\npassword = 'hunter2'\n", 0o640);
        let error = read(file.path(), "shop").expect_err("others can read it").to_string();
        assert!(
            error.contains("0640")
                && error.contains("chmod 600")
                && error.contains(&file.path().display().to_string()),
            "{error}"
        );
    }
}
