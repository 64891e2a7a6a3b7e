//! The lines of a journal, and the chain that holds them together. Pure: bytes go in, records and
//! what is wrong with them come out.
//!
//! ```text
//! {"seq":n,"crc":c,"payload":…}                            the first version
//! {"v":2,"seq":n,"crc":c,"link":l,"check":h,"payload":…}   the second
//! ```
//!
//! `c` is the CRC-32 of the payload's text; `l` hashes the link before, `n` and the payload; `h` is
//! of `n`, `l` and `c`.
//!
//! Invariants: a line is a record only if all of it is as it was written; a line that is missing,
//! out of place or twice there is told by the links, and one that is missing at the end by the
//! head; records come out in the order in which they were written.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Damage;
use super::head::Head;

/// The link before the first record.
pub(super) const GENESIS: u64 = 0;
/// Numbers that every reader of JSON reads exactly: those of records, and links.
pub(super) const NUMBER_MAX: u64 = (1 << 53) - 1;
/// Of records that are linked.
const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<u8>,
    seq: u64,
    crc: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<u32>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// A whole line.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) seq: u64,
    /// None in the first version.
    link: Option<u64>,
    pub(super) payload: &'a str,
    line: &'a [u8],
}

/// The link of a record behind another.
fn linked(before: u64, seq: u64, payload: &str) -> u64 {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(before.to_le_bytes())
        .chain_update(seq.to_le_bytes())
        .chain_update(payload)
        .finalize()
        .into();
    hash.first_chunk().map_or(GENESIS, |bytes| u64::from_le_bytes(*bytes)) & NUMBER_MAX
}

/// Of everything but the payload, which has its own.
fn check(seq: u64, link: u64, crc: u32) -> u32 {
    let mut bytes = seq.to_le_bytes().to_vec();
    bytes.extend(link.to_le_bytes());
    bytes.extend(crc.to_le_bytes());
    crc32fast::hash(&bytes)
}

/// Writes a record's line behind the link of the one before, and gives its own.
pub(super) fn encode(
    before: u64,
    seq: u64,
    payload: &RawValue,
    out: &mut Vec<u8>,
) -> io::Result<u64> {
    let (crc, link) =
        (crc32fast::hash(payload.get().as_bytes()), linked(before, seq, payload.get()));
    let line = Line {
        v: Some(VERSION),
        seq,
        crc,
        link: Some(link),
        check: Some(check(seq, link, crc)),
        payload,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(link)
}

impl<'a> Record<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let read: Line<'a> = serde_json::from_slice(line).ok()?;
        let payload: &'a str = read.payload.get();
        let link = match (read.v, read.link, read.check) {
            (None, None, None) => None,
            (Some(VERSION), Some(link), Some(said)) if said == check(read.seq, link, read.crc) => {
                Some(link)
            }
            _ => return None,
        };
        let whole = crc32fast::hash(payload.as_bytes()) == read.crc && read.seq <= NUMBER_MAX;
        whole.then_some(Self { seq: read.seq, link, payload, line })
    }
}

/// What the bytes of a journal hold.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) records: Vec<Record<'a>>,
    /// Lines that are no records, or are there twice.
    pub(super) bad: Vec<u8>,
    pub(super) damage: Damage,
    /// Bytes up to the line that was being written when a crash came.
    pub(super) whole: usize,
    /// Number and link of the last record.
    pub(super) last: Head,
}

impl<'a> Reading<'a> {
    /// Reads a journal; `head` is how far it had come.
    pub(super) fn of(bytes: &'a [u8], head: Option<Head>) -> Self {
        let last = Head { seq: 0, link: GENESIS };
        let mut reading = Self {
            records: Vec::new(),
            bad: Vec::new(),
            damage: Damage::default(),
            whole: 0,
            last,
        };
        while let Some(length) = memchr::memchr(b'\n', &bytes[reading.whole..]) {
            let line = &bytes[reading.whole..reading.whole + length];
            match Record::parse(line) {
                Some(record) => reading.records.push(record),
                None => reading.put_aside(line),
            }
            reading.whole += length + 1;
        }
        reading.damage.torn = u64::from(reading.whole < bytes.len());
        reading.put_in_order();
        reading.follow(head);
        reading
    }

    fn put_aside(&mut self, line: &[u8]) {
        self.bad.extend_from_slice(line);
        self.bad.push(b'\n');
        self.damage.quarantined += 1;
    }

    /// Linked records by their numbers. Those of the first version stand as they were written, and
    /// were never numbered anew.
    fn put_in_order(&mut self) {
        let mut highest: Option<u64> = None;
        for record in self.records.iter().filter(|record| record.link.is_some()) {
            self.damage.misplaced +=
                u64::from(highest.is_some_and(|highest| record.seq <= highest));
            highest = highest.max(Some(record.seq));
        }
        if self.damage.misplaced == 0 {
            return;
        }
        let mut all = std::mem::take(&mut self.records);
        all.sort_by_key(|record| record.seq);
        for record in all {
            match self.records.last_mut() {
                // The later one: a batch that failed may have left the other.
                Some(before)
                    if before.seq == record.seq
                        && before.link.is_some()
                        && record.link.is_some() =>
                {
                    let other = std::mem::replace(before, record);
                    self.put_aside(other.line);
                }
                _ => self.records.push(record),
            }
        }
    }

    /// Follows the chain, and counts what is missing in it.
    fn follow(&mut self, head: Option<Head>) {
        let mut missing = 0;
        for record in &self.records {
            let expected = linked(self.last.link, record.seq, record.payload);
            let link = record.link.unwrap_or(expected);
            if link != expected {
                missing += record.seq.saturating_sub(self.last.seq + 1).max(1);
            }
            self.last = Head { seq: record.seq, link };
        }
        // An earlier version of this program writes a journal anew and leaves the head as it was.
        let of_this_chain =
            self.records.is_empty() || self.records.iter().any(|record| record.link.is_some());
        if let Some(head) = head.filter(|_| of_this_chain) {
            missing += head.seq.saturating_sub(self.last.seq);
            missing += u64::from(head.seq == self.last.seq && head.link != self.last.link);
        }
        // What is damaged is missing in the chain as well.
        self.damage.missing = missing.saturating_sub(self.damage.quarantined);
    }

    /// Whether a head can say how far it has come.
    pub(super) fn is_linked(&self) -> bool {
        self.records.iter().any(|record| record.link.is_some())
    }

    /// Keeps records whose payload fits.
    pub(super) fn keep(&mut self, mut fits: impl FnMut(&str) -> bool) {
        for record in std::mem::take(&mut self.records) {
            if fits(record.payload) {
                self.records.push(record);
            } else {
                self.put_aside(record.line);
            }
        }
    }
}
