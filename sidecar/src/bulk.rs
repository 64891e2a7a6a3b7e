//! Arrow IPC over an upgraded connection: frames of a 32-bit little-endian length and that many
//! bytes.
//!
//! A length of 0 ends the stream; the top bit marks a Varlink error object in JSON instead of
//! Arrow.
//!
//! Invariants: memory follows what has come, not what was announced, and is asked for before it is
//! taken; whatever bytes a frame has, they end in batches or in an error that says what is wrong
//! with them.

use std::io;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use brahman_card::Fault;
use brahman_card::wire::frame::Reservation;
use tokio::net::UnixStream;

use crate::chain;
use crate::serve::{Charge, PARTIAL_MAX, UpgradedStream, write_all};

/// Longest frame: 10,000 texts of 6 KiB, or 40,000 vectors of 384 numbers.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
const FAULT_BIT: u32 = 1 << 31;
/// Room for the first of a frame: as much as a socket gives at once.
const FIRST_BYTES: usize = 64 * 1024;
/// A frame longer than this is read off the I/O thread.
const LONG_BYTES: usize = 256 * 1024;
/// A buffer that once held a long frame is given back above this size.
const KEEP_BYTES: usize = 1 << 20;

/// One end of a bulk conversation.
#[derive(Debug)]
pub struct BulkStream {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    charge: Charge,
}

/// What came from the other end.
#[derive(Debug)]
pub enum Frame {
    /// The batches of one Arrow IPC stream.
    Batches(Vec<RecordBatch>),
    /// The other end's error.
    Fault(Fault),
    /// A whole frame that is no Arrow IPC stream, and why; the next may be one.
    Unreadable(io::Error),
    /// The stream is over.
    End,
}

fn bad(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads the batches of a frame, off the I/O thread if it is long.
async fn read_frame(body: &[u8]) -> io::Result<Vec<RecordBatch>> {
    if body.len() < LONG_BYTES {
        return batches(body);
    }
    let body = body.to_vec();
    tokio::task::spawn_blocking(move || batches(&body))
        .await
        .unwrap_or_else(|error| Err(bad(error)))
}

/// Reads the batches of a frame. The reader trusts offsets and lengths that it finds, and panics on
/// some that are wrong.
fn batches(body: &[u8]) -> io::Result<Vec<RecordBatch>> {
    let read = std::panic::catch_unwind(|| {
        StreamReader::try_new(body, None)
            .map_err(bad)?
            .collect::<Result<Vec<RecordBatch>, _>>()
            .map_err(bad)
    });
    read.unwrap_or_else(|_| {
        Err(bad("the frame is no Arrow IPC stream: its lengths do not fit together"))
    })
}

impl BulkStream {
    /// Takes over an upgraded connection as a client does: frames count as the peer's.
    #[must_use]
    pub fn new(upgraded: UpgradedStream) -> Self {
        let uid = upgraded.stream.peer_cred().map_or(0, |peer| peer.uid());
        Self::of(upgraded, uid)
    }

    /// Takes over an upgraded connection, on which frames count as this user's.
    #[must_use]
    pub fn of(upgraded: UpgradedStream, uid: u32) -> Self {
        let end = upgraded.rest.len();
        Self {
            stream: upgraded.stream,
            buffer: upgraded.rest,
            start: 0,
            end,
            charge: Charge::of(uid),
        }
    }

    /// Sends one batch as one frame.
    ///
    /// # Errors
    /// As the socket gives them; `InvalidData` if the batch is longer than a frame.
    pub async fn send(&self, batch: &RecordBatch) -> io::Result<()> {
        let mut out = vec![0_u8; 4];
        let mut writer = StreamWriter::try_new(&mut out, batch.schema_ref()).map_err(bad)?;
        writer.write(batch).map_err(bad)?;
        writer.finish().map_err(bad)?;
        drop(writer);
        let length = out.len() - 4;
        if length > FRAME_BYTES_MAX {
            return Err(bad(format!(
                "a frame of {length} bytes, expected at most {FRAME_BYTES_MAX}: send fewer rows at once"
            )));
        }
        out[..4].copy_from_slice(&(length as u32).to_le_bytes());
        write_all(&self.stream, &out).await
    }

    /// Sends an error in place of a batch.
    ///
    /// # Errors
    /// As the socket gives them.
    pub async fn send_fault(&self, fault: &Fault) -> io::Result<()> {
        let json = serde_json::to_vec(fault).map_err(bad)?;
        let mut out = (json.len() as u32 | FAULT_BIT).to_le_bytes().to_vec();
        out.extend(json);
        write_all(&self.stream, &out).await
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As the socket gives them.
    pub async fn finish(&self) -> io::Result<()> {
        write_all(&self.stream, &0_u32.to_le_bytes()).await
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other end hung up inside a frame; `InvalidData` for one that is
    /// announced too long, `OutOfMemory` for one that there is no room for.
    pub async fn receive(&mut self) -> io::Result<Frame> {
        let mut partial_since: Option<Instant> = None;
        loop {
            let have = self.end - self.start;
            let head = self.buffer.get(self.start..self.start + 4).filter(|_| have >= 4);
            if let Some(&[a, b, c, d]) = head {
                let word = u32::from_le_bytes([a, b, c, d]);
                let length = (word & !FAULT_BIT) as usize;
                if length > FRAME_BYTES_MAX {
                    return Err(bad(format!(
                        "a frame of {length} bytes, expected at most {FRAME_BYTES_MAX}"
                    )));
                }
                if length == 0 {
                    self.start += 4;
                    return Ok(Frame::End);
                }
                if have >= 4 + length {
                    let body = &self.buffer[self.start + 4..self.start + 4 + length];
                    let frame = if word & FAULT_BIT != 0 {
                        Frame::Fault(serde_json::from_slice(body).map_err(bad)?)
                    } else {
                        match read_frame(body).await {
                            Ok(batches) => Frame::Batches(batches),
                            Err(error) => Frame::Unreadable(error),
                        }
                    };
                    self.start += 4 + length;
                    return Ok(frame);
                }
                // What was announced may never come.
                self.reserve((4 + length).min(2 * have + FIRST_BYTES))?;
            } else {
                self.reserve(FIRST_BYTES)?;
            }
            // Half a frame holds memory that others wait for.
            let open = if have == 0 {
                self.fill().await?
            } else {
                let until = *partial_since.get_or_insert_with(Instant::now) + PARTIAL_MAX;
                tokio::time::timeout_at(until.into(), self.fill())
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            };
            if !open {
                return if have == 0 {
                    Ok(Frame::End)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Answers each batch by `work` until the other end is done, has given up or has hung up. What
    /// is wrong with a frame is sent in place of its answer.
    ///
    /// # Errors
    /// As the socket gives them.
    pub async fn answer<F, Fut>(mut self, work: F) -> io::Result<()>
    where
        F: Fn(RecordBatch) -> Fut,
        Fut: Future<Output = Result<RecordBatch, Fault>>,
    {
        loop {
            let batches = match self.receive().await {
                Ok(Frame::Batches(batches)) => batches,
                Ok(Frame::Unreadable(why)) => {
                    let expected = format!("expected an Arrow IPC stream: {}", chain(&why));
                    self.send_fault(&Fault::invalid_parameter("(frame)", expected)).await?;
                    continue;
                }
                Ok(Frame::Fault(fault)) => {
                    tracing::warn!(%fault, "the caller of a bulk method gave up");
                    return Ok(());
                }
                Ok(Frame::End) => return self.finish().await,
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return self.send_fault(&Fault::overloaded(chain(&error), 500)).await;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return self
                        .send_fault(&Fault::invalid_parameter("(frame)", chain(&error)))
                        .await;
                }
                Err(error) => return Err(error),
            };
            for batch in batches {
                match self.attend(work(batch)).await? {
                    Some(Ok(reply)) => self.send(&reply).await?,
                    Some(Err(fault)) => self.send_fault(&fault).await?,
                    // The caller hung up; what it had asked for is dropped with its future.
                    None => return Ok(()),
                }
            }
        }
    }

    /// Runs `work` while still reading, so that a hang-up ends it: `None` then.
    ///
    /// # Errors
    /// As the socket gives them.
    pub async fn attend<T>(&mut self, work: impl Future<Output = T>) -> io::Result<Option<T>> {
        let mut work = std::pin::pin!(work);
        loop {
            // Where no memory is left the next frame waits in the socket.
            let have = self.end - self.start;
            let room = have < FRAME_BYTES_MAX && self.reserve(have + FIRST_BYTES).is_ok();
            tokio::select! {
                biased;
                done = &mut work => return Ok(Some(done)),
                open = self.fill(), if room => if !open? { return Ok(None) },
            }
        }
    }

    /// Makes room for `wanted` bytes from `start`.
    fn reserve(&mut self, wanted: usize) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.start == self.end && self.buffer.len() > KEEP_BYTES && wanted <= FIRST_BYTES {
            self.buffer = Vec::new();
        }
        if self.buffer.len() < wanted {
            if !self.charge.resize(wanted) {
                return Err(io::Error::new(
                    io::ErrorKind::OutOfMemory,
                    "no memory is left for this frame while others are on their way",
                ));
            }
            self.buffer.resize(wanted, 0);
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<bool> {
        loop {
            match self.stream.try_read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.end += n;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.readable().await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::StringArray;

    use super::*;

    fn frame() -> Vec<u8> {
        let texts =
            Arc::new(StringArray::from(vec!["one", "two", "", "four"])) as arrow_array::ArrayRef;
        let batch = RecordBatch::try_from_iter([("text", texts)]).expect("a batch");
        let mut out = Vec::new();
        let mut writer = StreamWriter::try_new(&mut out, batch.schema_ref()).expect("a writer");
        writer.write(&batch).expect("written");
        writer.finish().expect("finished");
        drop(writer);
        out
    }

    #[test]
    fn whatever_byte_is_changed_a_frame_is_read_or_refused() {
        let good = frame();
        assert_eq!(batches(&good).expect("whole")[0].num_rows(), 4);
        let mut refused = 0;
        for at in 0..good.len() {
            for with in [0x00, 0xff, good[at] ^ 0x01, good[at] ^ 0x80] {
                let mut bad = good.clone();
                bad[at] = with;
                refused += usize::from(batches(&bad).is_err());
            }
            let _ = batches(&good[..at]);
        }
        assert!(refused > 0);
    }

    #[tokio::test]
    async fn an_unreadable_frame_is_answered_and_the_next_is_served() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let served = tokio::spawn(
            BulkStream::new(UpgradedStream { stream: theirs, rest: Vec::new() })
                .answer(|batch| async { Ok(batch) }),
        );
        let mut client = BulkStream::new(UpgradedStream { stream: ours, rest: Vec::new() });
        let mut bytes = 6_u32.to_le_bytes().to_vec();
        bytes.extend(b"absurd");
        write_all(&client.stream, &bytes).await.expect("sent");
        assert!(
            matches!(client.receive().await.expect("an answer"), Frame::Fault(fault) if fault.message().contains("Arrow"))
        );
        client.send(&batches(&frame()).expect("whole")[0]).await.expect("sent");
        assert!(
            matches!(client.receive().await.expect("an answer"), Frame::Batches(batches) if batches[0].num_rows() == 4)
        );
        write_all(&client.stream, &(FRAME_BYTES_MAX as u32 + 1).to_le_bytes()).await.expect("sent");
        assert!(
            matches!(client.receive().await.expect("an answer"), Frame::Fault(fault) if fault.message().contains("at most"))
        );
        served.await.expect("no panic").expect("answered");
    }
}
