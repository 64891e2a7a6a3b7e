//! Where a database is: a URL, or the name of a secret that holds one.
//!
//! Invariants: neither `Debug` nor any error shows the text, for it may hold a password; what is
//! shown is the server's address without user and password; messages of servers and drivers pass
//! through [`Dsn::redact`].

use std::path::PathBuf;

use brahman_storage::secrets::{self, SecretError};
use thiserror::Error;

/// Why a connection cannot even be tried.
#[derive(Debug, Error)]
pub enum DsnError {
    /// The secret cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret without what is needed.
    #[error("secret `{0}` has no `url`")]
    NoUrl(String),
    /// The text is no connection URL.
    #[error("dsn: {0} (it is not shown, for it may hold a password)")]
    Bad(&'static str),
}

/// How the server has to prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Nothing is encrypted.
    Disable,
    /// Encrypted if the server can; its certificate is not looked at.
    Prefer,
    /// Encrypted; the certificate is not looked at.
    Require,
    /// Encrypted, and the certificate must be valid and of this host. With a file, by the
    /// authorities in it.
    Verify(Option<PathBuf>),
}

/// A connection's text, its TLS and what must not be shown.
#[derive(Clone)]
pub struct Dsn {
    url: String,
    password: Option<String>,
    /// How TLS is used, as `sslmode` says.
    pub tls: Tls,
    hidden: Vec<String>,
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dsn(…)")
    }
}

/// Undoes `%41`; what is no such escape stays.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Dsn {
    /// Takes a URL of one of these schemes, or `secret:NAME`.
    ///
    /// # Errors
    /// [`DsnError`].
    pub fn new(given: &str, schemes: &[&str]) -> Result<Self, DsnError> {
        let (text, password) = match given.strip_prefix("secret:") {
            Some(name) => {
                let secret = secrets::read(&secrets::file(), name)?;
                (secret.url.ok_or_else(|| DsnError::NoUrl(name.to_owned()))?, secret.password)
            }
            None => (given.to_owned(), None),
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(DsnError::Bad(
                "expected a URL such as postgres://user@host/db or mysql://user@host/db, or secret:NAME",
            ));
        };
        if !schemes.contains(&scheme) {
            return Err(DsnError::Bad(
                "its scheme does not fit the method: postgres:// for Postgres, mysql:// for Mysql",
            ));
        }
        let mut hidden: Vec<String> = password.clone().into_iter().collect();
        // Between the first colon and the last @ before the path, as drivers and as people read it.
        let authority = rest.split('?').next().unwrap_or(rest);
        if let Some((user, _)) = authority.rsplit_once('@')
            && let Some((_, password)) = user.split_once(':')
        {
            hidden.extend([password.to_owned(), unescaped(password)]);
        }
        let (base, query) =
            text.split_once('?').map_or((text.as_str(), ""), |(base, query)| (base, query));
        let (mut kept, mut mode, mut root) = (Vec::new(), None, None);
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode" | "ssl-mode", value)) => mode = Some(value.to_ascii_lowercase()),
                Some(("sslrootcert", value)) => root = Some(PathBuf::from(unescaped(value))),
                Some(("password", value)) => {
                    hidden.extend([value.to_owned(), unescaped(value)]);
                    kept.push(pair);
                }
                _ => kept.push(pair),
            }
        }
        let tls = match (mode.as_deref(), root) {
            (Some("disable" | "disabled"), _) => Tls::Disable,
            (None | Some("allow" | "prefer" | "preferred"), None) => Tls::Prefer,
            (Some("require" | "required"), None) => Tls::Require,
            (Some("verify-ca" | "verify-full" | "verify_ca" | "verify_identity"), root) => {
                Tls::Verify(root)
            }
            // As libpq does: with authorities at hand they are asked.
            (
                None | Some("allow" | "prefer" | "preferred" | "require" | "required"),
                Some(root),
            ) => Tls::Verify(Some(root)),
            (Some(_), _) => {
                return Err(DsnError::Bad(
                    "its sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
                ));
            }
        };
        let url =
            if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        hidden.retain(|h| !h.is_empty());
        hidden.sort_by_key(|h| std::cmp::Reverse(h.len()));
        Ok(Self { url, password, tls, hidden })
    }

    /// The URL without what only we understand. Not to be shown.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A password that stands beside the URL.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// A message with every password in it covered, and bounded.
    #[must_use]
    pub fn redact(&self, message: &str) -> String {
        let mut out: String = message.chars().take(2000).collect();
        for hidden in &self.hidden {
            out = out.replace(hidden.as_str(), "…");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_shows_a_password_however_odd() {
        for password in ["hunter2", "p%40ss", "p@:/%'\" s", "a:b@c"] {
            for url in [
                format!("postgres://u:{password}@h/db"),
                format!("postgres://h/db?password={password}"),
            ] {
                let dsn = Dsn::new(&url, &["postgres"]).expect("a URL");
                let message = format!("server said: {url} and {} {dsn:?}", unescaped(password));
                assert!(
                    !dsn.redact(&message).contains(password)
                        && !dsn.redact(&message).contains(&unescaped(password)),
                    "{password}"
                );
            }
            for bad in [
                password.to_owned(),
                format!("mysql://u:{password}@h"),
                format!("postgres://u:{password}@h?sslmode={password}"),
            ] {
                let error = Dsn::new(&bad, &["postgres"]).expect_err("it will not do").to_string();
                assert!(
                    !error.contains(password)
                        && error.contains("expected")
                            | error.contains("scheme")
                            | error.contains("none of"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn tls_is_as_libpq_reads_it() {
        let of = |query: &str| {
            Dsn::new(&format!("postgres://h/d{query}"), &["postgres"]).expect("a URL")
        };
        assert_eq!(
            (of("").tls, of("?sslmode=disable").tls, of("?sslmode=require").tls),
            (Tls::Prefer, Tls::Disable, Tls::Require)
        );
        assert_eq!(of("?sslmode=require&sslrootcert=/a%20b").tls, Tls::Verify(Some("/a b".into())));
        assert_eq!(
            of("?sslmode=verify-full&connect_timeout=3").url(),
            "postgres://h/d?connect_timeout=3"
        );
    }
}
