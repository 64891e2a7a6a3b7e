//! A client's connection, as those who read calls from it and those who answer them share it.
//!
//! Invariant: nothing here knows who serves a call, or how one is routed.

use std::io;

use brahman_card::wire::fault::Fault;
use brahman_card::wire::frame::FrameBuffer;
use brahman_sidecar::Peer;
use brahman_sidecar::serve::{Charge, NEXT_CALL_POLL, Wait, encode_fault, write_all};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::provider::Backend;

/// What is left of the connection after a call.
pub(crate) enum After {
    Next,
    Close,
    /// It has left Varlink; this is its other half.
    Upgraded(Backend),
}

/// A client connection.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) frames: FrameBuffer,
    pub(crate) peer: Peer,
    /// Whether the client may still send.
    pub(crate) read_open: bool,
    /// How its next call is polled for.
    pub(crate) next: Wait,
    /// A oneway call whose work is not over yet: the next call on this connection comes after it.
    pub(crate) oneway: Option<JoinHandle<()>>,
}

impl Client {
    pub(crate) fn new(stream: UnixStream, peer: Peer) -> Self {
        let mut frames = FrameBuffer::default();
        frames.reserve_from(Box::new(Charge::of(peer.uid)));
        Self {
            stream,
            frames,
            peer,
            read_open: true,
            next: Wait::new(NEXT_CALL_POLL),
            oneway: None,
        }
    }

    /// Answers with a fault, behind what the reply's head says.
    pub(crate) async fn fault(&self, head: &[u8], fault: &Fault) -> io::Result<()> {
        write_all(&self.stream, &encode_fault(head, fault, self.frames.delimiter())).await
    }
}
