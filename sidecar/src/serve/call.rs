//! One call as a service sees it, and the replies it can give.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;

use brahman_card::interface::INTERNAL;
use brahman_card::wire::MESSAGE_BYTES_MAX;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::header::CallHeader;
use brahman_card::wire::parameters;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::Peer;
use crate::{Deadline, chain};

/// A call: its parameters, its caller, and the way back for streamed replies.
#[derive(Debug)]
pub struct Call {
    pub(super) frame: Vec<u8>,
    pub(super) interface: Range<usize>,
    pub(super) method: Range<usize>,
    pub(super) parameters: Range<usize>,
    /// Many replies are welcome.
    pub more: bool,
    /// No reply is wanted.
    pub oneway: bool,
    /// The connection may leave Varlink after the reply.
    pub upgrade: bool,
    /// When the caller stops waiting.
    pub deadline: Deadline,
    /// Context for this call alone.
    pub context: Option<String>,
    /// Trace id.
    pub trace: Option<String>,
    /// Who connected.
    pub peer: Peer,
    /// On whose behalf: the peer's uid, or the one that a trusted broker forwarded.
    pub uid: u32,
    pub(super) replies: mpsc::Sender<Vec<u8>>,
    pub(super) delimiter: u8,
    /// A key of its header that is named like one of ours and is none.
    pub(super) unknown: Option<String>,
    /// What every reply to it begins with.
    pub(super) head: Vec<u8>,
}

impl Call {
    pub(super) fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.frame[range.clone()]).unwrap_or("")
    }

    /// Full name of the interface called.
    #[must_use]
    pub fn interface(&self) -> &str {
        self.text(&self.interface)
    }

    /// Name of the method, without its interface.
    #[must_use]
    pub fn method(&self) -> &str {
        self.text(&self.method)
    }

    /// The parameters' JSON text; empty if there are none.
    #[must_use]
    pub fn raw_parameters(&self) -> &[u8] {
        &self.frame[self.parameters.clone()]
    }

    /// The parameters, typed.
    ///
    /// # Errors
    /// `InvalidParameter`, which says what was expected where.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        parameters::read(self.raw_parameters())
    }

    /// Sends one of many replies; waits while the caller is slow.
    ///
    /// # Errors
    /// `ExpectedMore` if the call was not made with `more`; an internal fault if the connection is
    /// gone.
    pub async fn send<T: Serialize + Sync>(&self, value: &T) -> Result<(), Fault> {
        if !self.more {
            return Err(Fault::expected_more(self.method()));
        }
        let message = encode_reply(&self.head, value, true, self.delimiter)?;
        self.replies.send(message).await.map_err(|_| Fault::internal("the caller hung up"))
    }

    /// The fault for a method that the service does not have.
    #[must_use]
    pub fn unknown(&self) -> Fault {
        Fault::method_not_found(&format!("{}.{}", self.interface(), self.method()))
    }

    /// Whether this caller may have files opened by path: only the server's own user, or root.
    ///
    /// # Errors
    /// `PermissionDenied` for any other uid.
    pub fn allow_paths(&self) -> Result<(), Fault> {
        let own = nix::unistd::geteuid().as_raw();
        if self.uid == own || self.uid == 0 {
            return Ok(());
        }
        Err(Fault::permission_denied(format!(
            "uid {} may not have files opened by uid {own}: send the content instead",
            self.uid
        )))
    }

    /// Whether this caller may change what is everybody's: only the server's own user, or root.
    ///
    /// # Errors
    /// `PermissionDenied` for any other uid, which names the method.
    pub fn allow_administration(&self) -> Result<(), Fault> {
        let own = nix::unistd::geteuid().as_raw();
        if self.uid == own || self.uid == 0 {
            return Ok(());
        }
        let why = format!(
            "{} is for the mesh's own user (uid {own}) and root, not for uid {}",
            self.method(),
            self.uid
        );
        Err(Fault::permission_denied(why))
    }
}

type UpgradeFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;
/// What owns the connection once it has left Varlink.
pub(super) type Continuation = Box<dyn FnOnce(UpgradedStream) -> UpgradeFuture + Send>;

/// A connection that has left Varlink: the stream and the bytes that had already been read.
#[derive(Debug)]
pub struct UpgradedStream {
    /// The stream.
    pub stream: UnixStream,
    /// Bytes that came right after the call.
    pub rest: Vec<u8>,
}

/// A service's answer.
pub enum Reply {
    /// Parameters as JSON text.
    Json(Vec<u8>),
    /// Parameters to confirm with, then what to do with the bare connection.
    Upgrade(Vec<u8>, Box<dyn FnOnce(UpgradedStream) -> UpgradeFuture + Send>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(json) => write!(f, "Json({} bytes)", json.len()),
            Self::Upgrade(..) => f.write_str("Upgrade"),
        }
    }
}

impl Reply {
    /// A plain reply.
    ///
    /// # Errors
    /// An internal fault if the value is not JSON.
    pub fn of<T: Serialize>(value: &T) -> Result<Self, Fault> {
        serde_json::to_vec(value)
            .map(Self::Json)
            .map_err(|e| Fault::internal(format!("the reply is not JSON: {}", chain(&e))))
    }

    /// A reply without fields.
    #[must_use]
    pub fn empty() -> Self {
        Self::Json(b"{}".to_vec())
    }

    /// A confirming reply, after which `then` owns the connection.
    ///
    /// # Errors
    /// An internal fault if the value is not JSON.
    pub fn upgrade<T, F, Fut>(value: &T, then: F) -> Result<Self, Fault>
    where
        T: Serialize,
        F: FnOnce(UpgradedStream) -> Fut + Send + 'static,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        let Self::Json(json) = Self::of(value)? else { return Err(Fault::internal("not a reply")) };
        Ok(Self::Upgrade(json, Box::new(move |upgraded| Box::pin(then(upgraded)))))
    }
}

/// Frames parameters that are JSON text already; `head` is of [`reply_head`].
pub(super) fn frame_reply(
    head: &[u8],
    json: &[u8],
    continues: bool,
    delimiter: u8,
) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(head.len() + json.len() + 40);
    out.extend_from_slice(head);
    if continues {
        out.extend_from_slice(b"\"continues\":true,");
    }
    out.extend_from_slice(b"\"parameters\":");
    out.extend_from_slice(json);
    out.extend_from_slice(&[b'}', delimiter]);
    if out.len() > MESSAGE_BYTES_MAX {
        let why = format!(
            "the reply has {} bytes, a message at most {MESSAGE_BYTES_MAX}: ask for less, or use a bulk method",
            out.len()
        );
        return Err(Fault::overloaded(why, 0));
    }
    Ok(out)
}

/// One reply message, delimiter included; `head` is of [`reply_head`].
///
/// [`reply_head`]: brahman_card::wire::header::reply_head
///
/// # Errors
/// An internal fault if the value is not JSON; `Overloaded` if it is longer than a message may be.
pub fn encode_reply<T: Serialize>(
    head: &[u8],
    value: &T,
    continues: bool,
    delimiter: u8,
) -> Result<Vec<u8>, Fault> {
    let json = serde_json::to_vec(value)
        .map_err(|e| Fault::internal(format!("the reply is not JSON: {}", chain(&e))))?;
    frame_reply(head, &json, continues, delimiter)
}

/// One error message, delimiter included; `head` is of [`reply_head`].
///
/// [`reply_head`]: brahman_card::wire::header::reply_head
#[must_use]
pub fn encode_fault(head: &[u8], fault: &Fault, delimiter: u8) -> Vec<u8> {
    let mut out = head.to_vec();
    // A Fault holds strings and JSON values only, so it is always JSON.
    let json = serde_json::to_vec(fault)
        .unwrap_or_else(|_| format!("{{\"error\":\"{INTERNAL}\"}}").into_bytes());
    out.extend_from_slice(&json[1..]);
    out.push(delimiter);
    out
}

/// Offsets of `part` in `whole`, of which it must be a sub-slice.
pub(super) fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// The two halves of a call's method name as ranges of its frame.
pub(super) fn method_ranges(frame: &[u8], header: &CallHeader<'_>) -> (Range<usize>, Range<usize>) {
    let (interface, method) = header.split();
    (range_in(frame, interface.as_bytes()), range_in(frame, method.as_bytes()))
}
