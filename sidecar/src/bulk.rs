//! Arrow IPC over an upgraded connection: frames of a 32-bit little-endian length and that many bytes.
//!
//! A length of 0 ends the stream; the top bit marks a Varlink error object in JSON instead of Arrow.

use std::io;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use brahman_card::Fault;
use tokio::net::UnixStream;

use crate::serve::{Upgraded, write_all};

/// Longest frame: 10,000 texts of 6 KiB, or 40,000 vectors of 384 numbers.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
const FAULT_BIT: u32 = 1 << 31;

/// One end of a bulk conversation.
#[derive(Debug)]
pub struct BulkStream {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What came.
#[derive(Debug)]
pub enum Frame {
    /// The batches of one Arrow IPC stream.
    Batches(Vec<RecordBatch>),
    /// The other end's error.
    Fault(Fault),
    /// The stream is over.
    End,
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl BulkStream {
    /// Takes over an upgraded connection.
    #[must_use]
    pub fn new(upgraded: Upgraded) -> Self {
        let end = upgraded.rest.len();
        Self { stream: upgraded.stream, buffer: upgraded.rest, start: 0, end }
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
            return Err(bad(format!("a frame of {length} bytes, expected at most {FRAME_BYTES_MAX}: send fewer rows at once")));
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
    /// `UnexpectedEof` if the other end hung up inside a frame; `InvalidData` for what is no Arrow IPC.
    pub async fn receive(&mut self) -> io::Result<Frame> {
        loop {
            let have = self.end - self.start;
            let head = self.buffer.get(self.start..self.start + 4).filter(|_| have >= 4);
            if let Some(&[a, b, c, d]) = head {
                let word = u32::from_le_bytes([a, b, c, d]);
                let length = (word & !FAULT_BIT) as usize;
                if length > FRAME_BYTES_MAX {
                    return Err(bad(format!("a frame of {length} bytes, expected at most {FRAME_BYTES_MAX}")));
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
                        let batches: Result<Vec<RecordBatch>, _> = StreamReader::try_new(body, None).map_err(bad)?.collect();
                        Frame::Batches(batches.map_err(bad)?)
                    };
                    self.start += 4 + length;
                    return Ok(frame);
                }
                self.reserve(4 + length);
            } else {
                self.reserve(64 * 1024);
            }
            if !self.fill().await? {
                return if have == 0 { Ok(Frame::End) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
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
            let room = self.end - self.start < FRAME_BYTES_MAX;
            if room {
                self.reserve(self.end - self.start + 64 * 1024);
            }
            tokio::select! {
                biased;
                done = &mut work => return Ok(Some(done)),
                open = self.fill(), if room => if !open? { return Ok(None) },
            }
        }
    }

    /// Makes room for `wanted` bytes from `start`.
    fn reserve(&mut self, wanted: usize) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        loop {
            match self.stream.try_read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.end += n;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
