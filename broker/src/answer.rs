//! A provider's reply, read by its header alone and owned: a long one is looked through off the I/O
//! thread.

use std::io;
use std::ops::Range;

use brahman_card::wire::header::{HeaderError, ReplyHeader, push_text_member};
use brahman_sidecar::serve::write_parts;
use tokio::net::UnixStream;

use crate::outgoing::span;

/// One reply.
pub(crate) struct Answer {
    frame: Vec<u8>,
    parameters: Range<usize>,
    pub(crate) continues: bool,
    pub(crate) error: Option<String>,
    /// The number of the call that it answers, if the provider gives such numbers back.
    pub(crate) number: Option<u64>,
}

impl Answer {
    /// Reads the header of a reply that goes to a client whose messages end so.
    pub(crate) fn read(mut frame: Vec<u8>, delimiter: u8) -> Result<Self, HeaderError> {
        let header = ReplyHeader::skim(&frame)?;
        let (continues, error, number) =
            (header.continues, header.error.map(str::to_owned), header.call);
        let parameters = span(&frame, header.parameters);
        if delimiter == b'\n' {
            // Between newlines a message is one line; in JSON a newline is white space wherever it
            // stands.
            frame[parameters.clone()].iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = b' ');
        }
        Ok(Self { frame, parameters, continues, error, number })
    }

    /// Writes it to the client: its error, its parameters, and what the head says; no other key,
    /// for strict clients refuse those that they do not know.
    pub(crate) async fn pass_on(
        &self,
        stream: &UnixStream,
        mut head: Vec<u8>,
        delimiter: u8,
    ) -> io::Result<()> {
        if let Some(error) = &self.error {
            push_text_member(&mut head, "error", error);
        }
        if self.continues {
            head.extend_from_slice(b"\"continues\":true,");
        }
        if !self.parameters.is_empty() {
            head.extend_from_slice(b"\"parameters\":");
        } else if head.last() == Some(&b',') {
            head.pop();
        }
        write_parts(stream, &[&head, &self.frame[self.parameters.clone()], &[b'}', delimiter]])
            .await
    }
}
