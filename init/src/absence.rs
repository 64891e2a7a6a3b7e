//! Answers at the socket of a module that does not run and will not by itself: whoever calls hears
//! why at once.
//!
//! A socket is held while its module is stopped, so that nothing is lost when it is started again;
//! without an answer a caller would wait for as long as it has patience. Invariants: init accepts
//! only while the module has no process, and not once it is about to have one; a caller is read up
//! to its first message, and has seconds for it.

use std::time::Duration;

use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_sidecar::serve::{AcceptLimits, accept, encode_fault, fill, linger, write_all};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Callers at once. They have a moment each.
const LIMITS: AcceptLimits = AcceptLimits { connections: 256 };
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// A longer message is answered before it has come.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Answers for a module until it is dropped.
#[derive(Debug)]
pub(crate) struct Absence {
    /// What callers are told.
    pub(crate) why: String,
    /// Looked at before each accept: once it is dropped, nobody is accepted any more.
    _answering: DropGuard,
}

impl Absence {
    /// Answers at a socket in the place of the module of this label.
    ///
    /// # Errors
    /// If the socket cannot be had a second time, or made not to block.
    pub(crate) fn answer(
        listener: &std::os::unix::net::UnixListener,
        label: &str,
        why: String,
    ) -> std::io::Result<Self> {
        let listener = listener.try_clone()?;
        // The flag belongs to the socket and not to the descriptor: a module that has made it block
        // made it so for init.
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let fault = Fault::provider_failed(label, &why).with("retryable", false);
        let stop = CancellationToken::new();
        let answering = stop.clone().drop_guard();
        tokio::spawn(async move {
            let tracker = TaskTracker::new();
            accept(listener, LIMITS, &stop, &tracker, move |stream, _| {
                refuse(stream, fault.clone())
            })
            .await;
        });
        Ok(Self { why, _answering: answering })
    }
}

/// Answers the first message, in the way in which it came.
async fn refuse(stream: UnixStream, fault: Fault) {
    let mut frames = FrameBuffer::with_max(MESSAGE_BYTES_MAX);
    let mut is_http = false;
    let whole = async {
        // What is too long is answered, too; who hangs up wants no answer.
        while let Ok(None) = frames.next_frame() {
            if stream.readable().await.is_err() || !fill(&stream, &mut frames).unwrap_or(false) {
                return matches!(frames.last_frame(), Ok(Some(_)) | Err(_));
            }
            // No call begins with the name of a method of HTTP.
            if frames.pending().first().is_some_and(u8::is_ascii_uppercase) {
                is_http = true;
                return true;
            }
        }
        true
    };
    if tokio::time::timeout(PATIENCE, whole).await.unwrap_or(true) {
        let answer = if is_http {
            over_http(&fault)
        } else {
            encode_fault(b"{", &fault, frames.delimiter())
        };
        // A caller that has gone meanwhile hears nothing, as it wants.
        let _ = write_all(&stream, &answer).await;
        linger(&stream).await;
    }
}

/// The same for a client of the gateway's, which speaks HTTP.
fn over_http(fault: &Fault) -> Vec<u8> {
    let body = encode_fault(b"{", fault, b'\n');
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
