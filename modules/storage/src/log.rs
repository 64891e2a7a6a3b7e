//! An append-only journal of JSON lines: `{"seq":n,"crc":c,"payload":…}`, c the CRC-32 of the payload's text.
//!
//! A batch is one write and one fdatasync, and is acknowledged after. Opening truncates a torn last line and counts it;
//! a damaged line elsewhere is copied to `<name>.quarantine` and counted, never skipped in silence. Compaction writes a
//! new file beside, fsyncs it and renames. Invariant: what `append` returned for is read again after any crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::atomic;

/// Longest line: a payload is a record, not a document.
const LINE_MAX: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    seq: u64,
    crc: u32,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// What opening found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Torn last lines cut off.
    pub torn: u64,
    /// Damaged lines moved to the quarantine.
    pub quarantined: u64,
}

/// An open journal.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    next: u64,
    /// What opening found wrong.
    pub damage: Damage,
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<(u64, T)> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    (crc32fast::hash(line.payload.get().as_bytes()) == line.crc).then_some(())?;
    Some((line.seq, serde_json::from_str(line.payload.get()).ok()?))
}

fn encode<T: Serialize>(seq: u64, payload: &T, out: &mut Vec<u8>) -> io::Result<()> {
    let payload = serde_json::value::to_raw_value(payload)?;
    if payload.get().len() > LINE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a record of {} bytes, expected at most {LINE_MAX}", payload.get().len()),
        ));
    }
    let crc = crc32fast::hash(payload.get().as_bytes());
    serde_json::to_writer(&mut *out, &Line { seq, crc, payload: &payload })?;
    out.push(b'\n');
    Ok(())
}

impl Log {
    /// Opens a journal, making it if need be, and reads what it holds.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn open<T: DeserializeOwned>(path: &Path) -> io::Result<(Self, Vec<T>)> {
        let fresh = !path.exists();
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if fresh && let Some(folder) = path.parent() {
            atomic::sync_dir(folder)?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (mut records, mut next, mut damage, mut bad, mut at) = (Vec::new(), 1, Damage::default(), Vec::new(), 0);
        while at < bytes.len() {
            let Some(end) = memchr::memchr(b'\n', &bytes[at..]).map(|n| at + n) else {
                // The crash came while this line was written; it was never acknowledged.
                damage.torn += 1;
                file.set_len(at as u64)?;
                file.sync_data()?;
                break;
            };
            match parse(&bytes[at..end]) {
                Some((seq, record)) => {
                    next = next.max(seq + 1);
                    records.push(record);
                }
                None => {
                    damage.quarantined += 1;
                    bad.extend_from_slice(&bytes[at..=end]);
                }
            }
            at = end + 1;
        }
        let mut log = Self { path: path.to_owned(), file, next, damage };
        if !bad.is_empty() {
            log.quarantine(&bytes, &bad)?;
        }
        log.file.seek(SeekFrom::End(0))?;
        Ok((log, records))
    }

    /// Keeps the damaged lines beside, and the good ones alone in the journal.
    fn quarantine(&mut self, all: &[u8], bad: &[u8]) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".quarantine");
        let mut beside = OpenOptions::new().append(true).create(true).open(self.path.with_file_name(name))?;
        beside.write_all(bad)?;
        beside.sync_all()?;
        let lines = all.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n"));
        let good: Vec<u8> = lines.filter(|l| parse::<serde_json::Value>(&l[..l.len() - 1]).is_some()).flatten().copied().collect();
        self.replace(&good)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        atomic::write(&self.path, bytes)?;
        self.file = OpenOptions::new().read(true).append(true).open(&self.path)?;
        Ok(())
    }

    /// Appends a batch; on return it is durable.
    ///
    /// # Errors
    /// As the file system gives them; then none of the batch counts, whatever of it reached the disk.
    pub fn append<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (record, seq) in records.iter().zip(self.next..) {
            encode(seq, record, &mut bytes)?;
        }
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            // A part of a batch must not be taken for a record later.
            let _ = self.file.set_len(before);
            return Err(error);
        }
        self.next += records.len() as u64;
        Ok(())
    }

    /// Replaces everything by these records.
    ///
    /// # Errors
    /// As the file system gives them; the old records then stand.
    pub fn compact<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (record, seq) in records.iter().zip(1..) {
            encode(seq, record, &mut bytes)?;
        }
        self.replace(&bytes)?;
        self.next = records.len() as u64 + 1;
        Ok(())
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(path: &Path) -> (Log, Vec<u32>) {
        Log::open(path).expect("opens")
    }

    proptest! {
        #[test]
        fn after_a_cut_anywhere_all_whole_batches_are_there(batches in prop::collection::vec(prop::collection::vec(any::<u32>(), 1..4), 1..6), cut in any::<usize>()) {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("log");
            let (mut log, _) = open(&path);
            let mut ends = vec![0];
            for batch in &batches {
                log.append(batch).expect("appended");
                ends.push(log.bytes().expect("there"));
            }
            let cut = cut as u64 % (ends[ends.len() - 1] + 1);
            OpenOptions::new().write(true).open(&path).expect("there").set_len(cut).expect("cut");
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let acknowledged: Vec<u32> = batches[..whole].concat();
            let (mut log, read) = open(&path);
            prop_assert!(read.starts_with(&acknowledged) && batches.concat().starts_with(&read));
            log.append(&[7_u32]).expect("goes on");
            let (_, read) = open(&path);
            prop_assert_eq!(read.last(), Some(&7));
        }

        #[test]
        fn a_damaged_line_is_quarantined_and_the_others_stay(count in 2_u32..8, line in any::<usize>(), at in any::<usize>()) {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("log");
            let (mut log, _) = open(&path);
            let all: Vec<u32> = (1000..1000 + count).collect();
            log.append(&all).expect("appended");
            let mut bytes = fs::read(&path).expect("there");
            let starts: Vec<usize> = std::iter::once(0).chain(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1)).collect();
            let line = line % count as usize;
            let (from, to) = (starts[line], starts[line + 1] - 1);
            bytes[from + at % (to - from)] ^= 0x80;
            fs::write(&path, bytes).expect("damaged");
            let (log, read) = open(&path);
            prop_assert_eq!(log.damage, Damage { torn: 0, quarantined: 1 });
            prop_assert_eq!(read, all.iter().copied().filter(|n| *n as usize != 1000 + line).collect::<Vec<_>>());
            prop_assert!(folder.path().join("log.quarantine").exists());
            let (log, _) = open(&path);
            prop_assert_eq!(log.damage, Damage::default());
        }
    }
}
