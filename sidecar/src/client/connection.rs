//! One socket, one call at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brahman_card::interface::Method;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::wire::header::{
    ReplyHeader, leading_number, push_number_member, push_text_member,
};
use brahman_card::wire::{
    KEY_CALL, KEY_CONTEXT, KEY_DEADLINE, KEY_REQUIRE, KEY_TRACE, KEY_UID, MESSAGE_BYTES_MAX,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Answer, CallOptions, ClientError, MessageError};
use crate::serve::{UpgradedStream, Wait, fill, has_unread, write_all};

/// How long an answer is polled for where the last one came within this time.
const ANSWER_POLL: Duration = Duration::from_micros(300);

/// A connection to one socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    frames: FrameBuffer,
    path: PathBuf,
    answer: Wait,
    /// The number of the call under way, if it has one.
    call: Option<u64>,
    /// Whether the last call is over, and its answer gave its number back: only then can the next
    /// answer be told from one that comes too late or twice.
    is_clean: bool,
}

/// One reply, not yet typed.
#[derive(Clone, Debug)]
pub struct RawReply {
    /// Parameters as JSON text.
    pub parameters: Vec<u8>,
    /// More replies follow this one.
    pub continues: bool,
    /// Label of the provider.
    pub provider: Option<String>,
    /// Whether it is known to be a mock.
    pub mock: bool,
}

impl RawReply {
    /// The reply's parameters as `R`.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] if they are not.
    pub fn typed<R: DeserializeOwned>(self) -> Result<Answer<R>, ClientError> {
        let raw: &[u8] = if self.parameters.is_empty() { b"{}" } else { &self.parameters };
        let value =
            serde_json::from_slice(raw).map_err(|error| ClientError::Protocol(error.into()))?;
        Ok(Answer { value, provider: self.provider, mock: self.mock })
    }
}

/// One call message, NUL included, with a number of its own in front.
///
/// # Errors
/// [`ClientError::Unsendable`] if the parameters are not JSON or too long.
pub fn encode_call<P: Serialize>(
    method: &str,
    parameters: &P,
    options: &CallOptions,
    more: bool,
    upgrade: bool,
) -> Result<Vec<u8>, ClientError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut out = b"{".to_vec();
    push_number_member(&mut out, KEY_CALL, NEXT.fetch_add(1, Ordering::Relaxed));
    push_text_member(&mut out, "method", method);
    for (set, text) in [(more, &b"\"more\":true,"[..]), (upgrade, b"\"upgrade\":true,")] {
        if set {
            out.extend_from_slice(text);
        }
    }
    if let Some(deadline) = options.deadline {
        push_number_member(
            &mut out,
            KEY_DEADLINE,
            u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        );
    }
    if let Some(uid) = options.uid {
        push_number_member(&mut out, KEY_UID, uid.into());
    }
    if !options.require.is_empty() {
        let require = serde_json::to_string(&options.require)
            .map_err(|e| ClientError::Unsendable(e.into()))?;
        out.extend_from_slice(format!("\"{KEY_REQUIRE}\":{require},").as_bytes());
    }
    for (key, value) in [(KEY_CONTEXT, &options.context), (KEY_TRACE, &options.trace)] {
        if let Some(value) = value {
            push_text_member(&mut out, key, value);
        }
    }
    out.extend_from_slice(b"\"parameters\":");
    serde_json::to_writer(&mut out, parameters).map_err(|e| ClientError::Unsendable(e.into()))?;
    out.extend_from_slice(b"}\0");
    if out.len() > MESSAGE_BYTES_MAX {
        return Err(ClientError::Unsendable(MessageError::TooLong { bytes: out.len() }));
    }
    Ok(out)
}

/// The same for a method of a shipped interface, with the parameters that it takes.
///
/// # Errors
/// As [`encode_call`].
pub fn encode_method<M: Method>(
    ask: &M::In,
    options: &CallOptions,
    more: bool,
    upgrade: bool,
) -> Result<Vec<u8>, ClientError> {
    encode_call(M::NAME, ask, options, more, upgrade)
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`], which names the socket.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let (frames, answer) = (FrameBuffer::nul(), Wait::new(ANSWER_POLL));
        Ok(Self { stream, frames, path: path.to_owned(), answer, call: None, is_clean: false })
    }

    /// The socket that it leads to.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another call may be made by somebody else: the last one is over for certain, nothing
    /// lies unread, and the other end has not hung up.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.is_clean && !self.frames.has_partial() && !has_unread(&self.stream)
    }

    /// Calls and waits for one typed reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &P,
    ) -> Result<R, ClientError> {
        let message = encode_call(method, parameters, &CallOptions::default(), false, false)?;
        Ok(self.exchange(&message).await?.typed()?.value)
    }

    /// Calls a method of a shipped interface and waits for its one reply: its types are the
    /// method's own.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_method<M: Method>(&mut self, ask: &M::In) -> Result<M::Out, ClientError> {
        self.call(M::NAME, ask).await
    }

    /// Sends a whole message and waits for one reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exchange(&mut self, message: &[u8]) -> Result<RawReply, ClientError> {
        self.send(message).await?;
        self.receive().await
    }

    /// Sends a whole message.
    ///
    /// # Errors
    /// [`ClientError::Closed`] if the other end is gone.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        self.call = leading_number(message);
        self.is_clean = false;
        match write_all(&self.stream, message).await {
            // A server that refused us has said why before it hung up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => match self.receive().await {
                Err(ClientError::Fault(fault)) => Err(ClientError::Fault(fault)),
                _ => Err(ClientError::Closed { path: self.path.clone() }),
            },
            other => Ok(other?),
        }
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// [`ClientError::Fault`] for an error reply.
    pub async fn receive(&mut self) -> Result<RawReply, ClientError> {
        loop {
            let frame = self.frames.next_frame().map_err(|e| ClientError::Protocol(e.into()))?;
            if let Some(frame) = frame {
                self.answer.over();
                let header =
                    ReplyHeader::skim(frame).map_err(|e| ClientError::Protocol(e.into()))?;
                if header.call.is_some() && header.call != self.call {
                    // An answer to somebody else's call: nothing on this connection can be trusted
                    // any more.
                    return Err(ClientError::Closed { path: self.path.clone() });
                }
                self.is_clean = header.call.is_some() && !header.continues;
                if let Some(name) = header.error {
                    let raw: &[u8] =
                        if header.parameters.is_empty() { b"{}" } else { header.parameters };
                    let parameters =
                        serde_json::from_slice(raw).map_err(|e| ClientError::Protocol(e.into()))?;
                    return Err(ClientError::Fault(Fault::received(name, parameters)));
                }
                return Ok(RawReply {
                    parameters: header.parameters.to_vec(),
                    continues: header.continues,
                    provider: header.provider.map(str::to_owned),
                    mock: header.mock,
                });
            }
            if self.answer.poll(&self.stream, &mut self.frames).await {
                continue;
            }
            self.stream.readable().await?;
            match fill(&self.stream, &mut self.frames) {
                Ok(true) => {}
                Ok(false) => return Err(ClientError::Closed { path: self.path.clone() }),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed { path: self.path.clone() });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Leaves Varlink after an `upgrade` was confirmed.
    #[must_use]
    pub fn into_upgraded(mut self) -> UpgradedStream {
        let rest = self.frames.take_rest();
        UpgradedStream { stream: self.stream, rest }
    }
}
