//! Who asks, and what that allows.
//!
//! Invariants: whoever comes over the Unix socket is the mesh's own user or root, whom the kernel
//! has named; whoever comes by TCP is nobody to the mesh, whatever key he has: providers open no
//! path for him, and nothing is administered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::broker::error::Overloaded;
use brahman_card::interface::service::error::PermissionDenied;
use brahman_card::interface::{self, WireError as _};
use brahman_sidecar::CallOptions;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::keys::{Flows, Grant, Key, Keys};
use crate::refusal::Refusal;
use crate::settings::Settings;

/// The uid of callers without one: `nobody` of the kernel's own (`overflowuid`).
const NOBODY: u32 = 65534;

/// The same, but never that of the mesh itself: in a container it may well run as `nobody`.
fn nobody(own: u32) -> u32 {
    if own == NOBODY { NOBODY - 1 } else { NOBODY }
}

/// Longest name of a context that is passed on; the broker has its own bound.
const WORD_BYTES_MAX: usize = 256;
/// Longest deadline that may be asked for.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Over the Unix socket: the mesh's own user or root, by SO_PEERCRED.
    Socket,
    /// By TCP.
    Tcp {
        /// This end.
        at: SocketAddr,
    },
}

impl Origin {
    /// This end's address.
    pub(crate) fn at(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket => None,
            Self::Tcp { at } => Some(*at),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    flows: Flows,
    uid: Option<u32>,
    /// The key's name, if there is one.
    pub(crate) key: Option<Arc<Key>>,
    /// Context for this request alone.
    pub(crate) context: Option<String>,
    trace: Option<String>,
    deadline: Option<Duration>,
}

impl Caller {
    /// Finds out who asks.
    ///
    /// # Errors
    /// 401 for a key that is none, 429 for too many requests.
    pub(crate) fn identify(
        headers: &HeaderMap,
        origin: &Origin,
        keys: &Keys,
        settings: &Settings,
    ) -> Result<Self, Refusal> {
        let key = match (presented(headers), origin) {
            // Clients of OpenAI cannot do without some key: over the Unix socket any will do, for
            // the kernel has said who it is.
            (_, Origin::Socket) => None,
            (Some(word), Origin::Tcp { .. }) => match keys.find(word) {
                Some(key) => Some(key),
                // Where no keys are, none can be wrong.
                None if keys.is_empty() => None,
                None => return Err(unauthorized("the key is not known here")),
            },
            (None, Origin::Tcp { at }) if !at.ip().to_canonical().is_loopback() => {
                return Err(unauthorized("a key is needed here"));
            }
            (None, Origin::Tcp { .. }) => None,
        };
        if let Some(key) = &key {
            key.count(Instant::now()).map_err(|wait| too_many(key, wait))?;
        }
        let flows = match (&key, origin) {
            (_, Origin::Socket) => Flows::whole(),
            (Some(key), _) => key.flows.clone(),
            (None, Origin::Tcp { .. }) => settings.open.clone(),
        };
        let deadline = match word(headers, "brahman-deadline-ms")? {
            None => None,
            Some(text) => {
                let ms: u64 = text.parse().map_err(|_| {
                    Refusal::parameter("brahman-deadline-ms", "expected milliseconds")
                })?;
                Some(Duration::from_millis(ms).min(DEADLINE_MAX))
            }
        };
        let uid = match origin {
            Origin::Socket => None,
            Origin::Tcp { .. } => Some(nobody(rustix::process::geteuid().as_raw())),
        };
        Ok(Self {
            flows,
            uid,
            key,
            context: word(headers, "brahman-context")?,
            trace: word(headers, "traceparent")?,
            deadline,
        })
    }

    /// Whether this caller comes by TCP.
    pub(crate) fn is_remote(&self) -> bool {
        self.uid.is_some()
    }

    /// Whether this caller may call anything of an interface.
    pub(crate) fn opens(&self, interface: &str) -> bool {
        self.flows.grant(interface).is_some()
    }

    /// That this caller may call something of an interface.
    ///
    /// # Errors
    /// 403, which names it.
    pub(crate) fn enter(&self, interface: &str) -> Result<(), Fault> {
        if self.opens(interface) { Ok(()) } else { Err(self.refused(interface, "")) }
    }

    /// That this caller may call a method, by its qualified name.
    ///
    /// # Errors
    /// 403, which names it; 404 if a shipped interface that is open has no such method.
    pub(crate) fn allow(&self, method: &str) -> Result<(), Fault> {
        let (interface, name) = method.rsplit_once('.').unwrap_or((method, ""));
        if self.flows.allow(interface, name) {
            return Ok(());
        }
        // What there is not changes nothing.
        let is_absent = interface::known(interface).is_some_and(|i| i.method(name).is_none());
        if is_absent && self.opens(interface) {
            return Err(Fault::method_not_found(method));
        }
        Err(self.refused(interface, name))
    }

    /// Whether a call of a method can succeed, as far as it is for the gateway and the mesh to say:
    /// whoever comes by TCP administers nothing, whatever he may open.
    pub(crate) fn may_call(&self, interface: &str, method: &str) -> bool {
        self.flows.allow(interface, method) && !(self.is_remote() && administers(interface, method))
    }

    /// Why an interface, or a method of it, is not open.
    fn refused(&self, interface: &str, method: &str) -> Fault {
        let is_for_reading = self.flows.grant(interface) == Some(Grant::Reading);
        let who = match &self.key {
            Some(key) if is_for_reading => format!(
                "the key `{}` opens {interface} for reading alone, and {method} may change something: its `flows` in the secrets file have \
                 `:read` behind it",
                key.name
            ),
            Some(key) => format!(
                "the key `{}` does not open {interface}: add it to its `flows` in the secrets file",
                key.name
            ),
            None if is_for_reading => format!(
                "{interface} is open for reading alone without a key here, and {method} may change something: BRAHMAN_GATEWAY_OPEN says what is"
            ),
            None => format!(
                "{interface} is not open without a key here: BRAHMAN_GATEWAY_OPEN says what is"
            ),
        };
        Fault::permission_denied(who)
    }

    /// What every call for this caller says.
    pub(crate) fn options(&self) -> CallOptions {
        CallOptions {
            deadline: self.deadline,
            context: self.context.clone(),
            trace: self.trace.clone(),
            uid: self.uid,
            ..CallOptions::default()
        }
    }
}

/// Whether a method changes what is everybody's: each answers no one but the mesh's own user and
/// root. Of init, all but the looking on.
fn administers(interface: &str, method: &str) -> bool {
    let is = |known: &brahman_card::Interface| interface == known.name;
    (is(&interface::broker::INTERFACE) && method == "SetContext")
        || (is(&interface::init::INTERFACE) && !matches!(method, "List" | "Watch" | "Check"))
        || (is(&interface::profiles::INTERFACE)
            && matches!(
                method,
                "Activate" | "Deactivate" | "Define" | "Remove" | "Preload" | "Unload"
            ))
}

/// The key that a request presents: as a bearer token, or as the libraries of some APIs have it.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).and_then(|value| {
        let (scheme, word) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| word.trim_ascii())
    });
    bearer
        .or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
        .filter(|word| !word.is_empty())
}

/// A word from a header.
fn word(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(HeaderName::from_static(name)) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= WORD_BYTES_MAX => Ok(Some(text.to_owned())),
        _ => Err(Refusal::parameter(
            name,
            format!("expected 1 to {WORD_BYTES_MAX} visible ASCII characters"),
        )),
    }
}

fn unauthorized(why: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, Fault::new(PermissionDenied::NAME, false, why))
}

fn too_many(key: &Key, wait: Duration) -> Refusal {
    let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let fault = Fault::of(
        &Overloaded { retry_after_ms },
        true,
        format!("the key `{}` has been used too often within a minute", key.name),
    );
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_administers_are_methods_that_there_are_and_nobody_by_tcp_may_call_them() {
        let of = |known: &brahman_card::Interface| {
            let methods = known.methods.iter().map(|method| method.name);
            methods.filter(|method| administers(known.name, method)).count()
        };
        assert_eq!(of(&interface::broker::INTERFACE), 1);
        assert_eq!(of(&interface::profiles::INTERFACE), 6);
        assert_eq!(of(&interface::index::INTERFACE), 0);
        let by = |uid: Option<u32>| Caller {
            flows: Flows::whole(),
            uid,
            key: None,
            context: None,
            trace: None,
            deadline: None,
        };
        let broker = interface::broker::INTERFACE.name;
        assert!(by(None).may_call(broker, "SetContext"));
        assert!(!by(Some(NOBODY)).may_call(broker, "SetContext"));
        assert!(by(Some(NOBODY)).may_call(broker, "GetContext"));
        let init = interface::init::INTERFACE.name;
        assert!(
            by(Some(NOBODY)).may_call(init, "List") && !by(Some(NOBODY)).may_call(init, "Stop")
        );
    }

    #[test]
    fn a_method_that_there_is_not_is_absent_and_not_forbidden_to_whoever_may_read() {
        let caller = Caller {
            flows: Flows::of(["index:read"]).expect("flows"),
            uid: None,
            key: None,
            context: None,
            trace: None,
            deadline: None,
        };
        let refused = |method: &str| caller.allow(method).expect_err("refused").name;
        let absent = brahman_card::interface::service::error::MethodNotFound::NAME;
        assert_eq!(refused("org.brahman.Index.Nothing"), absent);
        assert_eq!(refused("org.brahman.Index.Delete"), PermissionDenied::NAME);
        assert_eq!(refused("org.brahman.Catalog.Nothing"), PermissionDenied::NAME);
        caller.allow("org.brahman.Index.Search").expect("open");
    }

    #[test]
    fn whoever_has_no_uid_is_never_the_meshs_own_user() {
        for own in [0, 1000, NOBODY, NOBODY - 1] {
            assert!(nobody(own) != own && nobody(own) != 0, "{own}");
        }
    }
}
