//! What a person may set, from the environment. Nothing is bound or opened here.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::keys::{FlowError, Flows};

/// What whoever comes by TCP without a key may call, unless said: what computes, and reads nobody's
/// data.
const OPEN_DEFAULT: &str = "embed,rerank,score";

/// What is to be open without a key cannot be read.
#[derive(Debug, Error)]
#[error("BRAHMAN_GATEWAY_OPEN")]
pub(crate) struct OpenError(#[from] FlowError);

/// The gateway's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Names by which it may be called, beside those of this machine itself, in lower case.
    hosts: Vec<String>,
    /// Origins whose pages may read its answers.
    origins: Vec<String>,
    /// What is open to whoever comes by TCP without a key.
    pub(crate) open: Flows,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// If what is to be open is none of ours to open.
    pub(crate) fn from_env() -> Result<Self, OpenError> {
        let list = |name: &str, unset: &str| -> Vec<String> {
            let value = std::env::var(name).unwrap_or_else(|_| unset.to_owned());
            value
                .split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let open = list("BRAHMAN_GATEWAY_OPEN", OPEN_DEFAULT);
        Ok(Self {
            hosts: list("BRAHMAN_GATEWAY_HOSTS", "")
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            origins: list("BRAHMAN_GATEWAY_ORIGINS", ""),
            open: Flows::of(open.iter().map(String::as_str))?,
        })
    }

    /// Whether a `Host` header names this gateway. A page from elsewhere whose name has been
    /// pointed at this machine sends its own. `at` is where the connection came in, if by TCP.
    pub(crate) fn is_host(&self, host: &str, at: Option<SocketAddr>) -> bool {
        let host = host.to_ascii_lowercase();
        let name = without_port(&host);
        if self.hosts.iter().any(|known| known == name || *known == host) {
            return true;
        }
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            // Who listens for both kinds of addresses is told of one kind in the words of the
            // other.
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || at.is_some_and(|at| at.ip().to_canonical() == address)
            }
            Err(_) => {
                name == "localhost"
                    || name.ends_with(".localhost")
                    || (at.is_none() && is_placeholder(name))
            }
        }
    }

    /// Whether pages of this origin may read answers.
    pub(crate) fn is_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| known == origin || known == "*")
    }
}

/// Whether a page's origin is the one that a request's `Host` names: the same host at the same
/// port, that of its scheme unless said.
pub(crate) fn is_own_origin(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |name: &str| name.strip_suffix(usual).unwrap_or(name).to_ascii_lowercase();
    !authority.is_empty() && bare(authority) == bare(host)
}

/// Over a Unix socket there is no host: clients put whatever their library wants. Nothing of a
/// browser's comes this way.
fn is_placeholder(name: &str) -> bool {
    !name.contains('.') || name == "http.sock" || name == "brahman.sock"
}

/// A host without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_this_machine_or_one_that_was_named() {
        let settings = Settings {
            hosts: vec!["brahman.example".into()],
            origins: Vec::new(),
            open: Flows::default(),
        };
        let at: Option<SocketAddr> = "192.0.2.7:7077".parse().ok();
        for host in [
            "localhost:7077",
            "127.0.0.1",
            "[::1]:7077",
            "192.0.2.7:7077",
            "Brahman.Example:7077",
            "a.localhost",
        ] {
            assert!(settings.is_host(host, at), "{host}");
        }
        for host in [
            "evil.example",
            "192.0.2.8",
            "127.0.0.1.evil.example",
            "",
            "evil",
            "localhost.evil.example",
        ] {
            assert!(!settings.is_host(host, at), "{host}");
        }
        let mapped: Option<SocketAddr> = "[::ffff:192.0.2.7]:7077".parse().ok();
        for host in
            ["192.0.2.7", "[::ffff:192.0.2.7]:7077", "[::ffff:127.0.0.1]:7077", "127.0.0.1:7077"]
        {
            assert!(settings.is_host(host, mapped), "{host}");
        }
        assert!(!settings.is_host("192.0.2.8", mapped));
        assert!(settings.is_host("brahman", None) && !settings.is_host("evil.example", None));
    }

    #[test]
    fn a_page_of_another_port_is_a_stranger() {
        for (origin, host) in [
            ("http://localhost:7077", "localhost:7077"),
            ("http://Brahman.example", "brahman.example"),
            ("https://brahman.example", "brahman.example:443"),
            ("http://brahman.example:80", "brahman.example"),
            ("http://[::1]:7077", "[::1]:7077"),
        ] {
            assert!(is_own_origin(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://localhost:3000", "localhost:7077"),
            ("http://localhost", "localhost:7077"),
            ("http://127.0.0.1:7077", "localhost:7077"),
            ("null", "localhost:7077"),
            ("http://", ""),
            ("file://localhost:7077", "localhost:7077"),
            ("https://localhost:80", "localhost"),
        ] {
            assert!(!is_own_origin(origin, host), "{origin} {host}");
        }
    }
}
