//! An append-only journal of JSON lines, each a record with a number, checksums, and a link to the
//! one before (the format is in `log/record.rs`); beside it `<name>.head` says how far it has come.
//!
//! A batch is one write and one fdatasync, and is acknowledged after. Opening truncates a torn last
//! line and counts it; lines that are damaged, missing or out of place are counted, what there is
//! of them is copied to `<name>.quarantine`, and the journal is begun anew with the others: never
//! skipped in silence. Compaction writes a new file beside, fsyncs it and renames. Invariant: what
//! `append` returned for is read again after any crash, and nothing is read that was not written. A
//! journal that cannot be written to is read all the same.

mod head;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::atomic;
use crate::writable::is_read_only;
use head::{Head, beside};
use record::{GENESIS, NUMBER_MAX, Reading, encode};

/// Lines that were set aside and are told.
const ASIDE_MAX: usize = 100;
/// Longest payload: it is a record, not a document.
const PAYLOAD_MAX: usize = 1 << 20;

/// What opening found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Torn last lines cut off; they were never acknowledged, unless some are `missing` as well.
    pub torn: u64,
    /// Damaged lines, and doubles, moved to the quarantine.
    pub quarantined: u64,
    /// Records that were acknowledged and are not there, as far as they can be counted.
    #[serde(default)]
    pub missing: u64,
    /// Records that stood in the wrong place, and were put into the right one.
    #[serde(default)]
    pub misplaced: u64,
}

impl Damage {
    /// Whether something that was acknowledged is not as it was written. A torn line alone is no
    /// damage.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.quarantined + self.missing + self.misplaced > 0
    }
}

/// A journal that is open for more.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// None where it can only be read.
    file: Option<File>,
    next: u64,
    /// Of the last record.
    link: u64,
    /// What is behind this length is of a batch that failed.
    cut: Option<u64>,
    /// What opening found wrong.
    pub damage: Damage,
}

fn payload_of<T: Serialize>(record: &T) -> io::Result<Box<RawValue>> {
    let payload = to_raw_value(record)?;
    let length = payload.get().len();
    if length > PAYLOAD_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a record of {length} bytes, expected at most {PAYLOAD_MAX}"),
        ));
    }
    Ok(payload)
}

impl Log {
    /// Opens a journal, making it if need be, and reads what it holds. Where nothing can be written
    /// it is only read, and whatever is appended is refused.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn open<T: DeserializeOwned>(path: &Path) -> io::Result<(Self, Vec<T>)> {
        let fresh = !path.exists();
        let mut bytes = Vec::new();
        let file = match OpenOptions::new().read(true).append(true).create(true).open(path) {
            Ok(mut file) => {
                file.read_to_end(&mut bytes)?;
                Some(file)
            }
            Err(error) if is_read_only(&error) => {
                match fs::read(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    read => bytes = read?,
                }
                None
            }
            Err(error) => return Err(error),
        };
        if file.is_some()
            && fresh
            && let Some(folder) = path.parent()
        {
            atomic::sync_dir(folder)?;
        }
        let head = Head::read(path);
        let mut reading = Reading::of(&bytes, head);
        let mut records = Vec::with_capacity(reading.records.len());
        reading.keep(|payload| {
            serde_json::from_str(payload).map(|record| records.push(record)).is_ok()
        });
        let (damage, last) = (reading.damage, reading.last);
        let mut log = Self {
            path: path.to_owned(),
            file,
            next: last.seq + 1,
            link: last.link,
            cut: None,
            damage,
        };
        if let Some(file) = &log.file {
            if damage.is_loss() || last.seq > NUMBER_MAX / 2 {
                log.set_aside(&reading)?;
            } else {
                if damage.torn > 0 {
                    // The crash came while this line was written; it was never acknowledged.
                    file.set_len(reading.whole as u64)?;
                    file.sync_data()?;
                }
                if head.is_none() && reading.is_linked() {
                    // Where its end is can be told again from here on. What a process that was
                    // killed has written may not be on the disk yet.
                    file.sync_data()?;
                    last.note(path);
                }
            }
        }
        Ok((log, records))
    }

    /// Keeps what is damaged beside, and begins the journal anew with the rest.
    fn set_aside(&mut self, reading: &Reading<'_>) -> io::Result<()> {
        let mut aside = reading.bad.clone();
        let Damage { missing, misplaced, .. } = reading.damage;
        if missing + misplaced > 0 {
            // A gap has no lines: a note stands for it.
            serde_json::to_writer(
                &mut aside,
                &serde_json::json!({"missing": missing, "misplaced": misplaced}),
            )?;
            aside.push(b'\n');
        }
        self.keep_aside(&aside)?;
        let payloads =
            reading.records.iter().map(|record| serde_json::from_str::<&RawValue>(record.payload));
        let payloads: Vec<&RawValue> = payloads.collect::<Result<_, _>>()?;
        self.begin_anew(&payloads)
    }

    fn keep_aside(&self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut quarantine =
            OpenOptions::new().append(true).create(true).open(self.quarantine())?;
        quarantine.write_all(lines)?;
        quarantine.sync_all()
    }

    /// Says, until somebody has looked at it, that records are missing which only their reader can
    /// miss: that is noted beside what was set aside, and [`Self::shortfall`] has it from then on.
    ///
    /// # Errors
    /// As the file system gives them; `ReadOnlyFilesystem` where the journal can only be read.
    pub fn note_missing<T: Serialize>(&self, note: &T) -> io::Result<()> {
        if self.is_read_only() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut line = serde_json::to_vec(note)?;
        line.push(b'\n');
        self.keep_aside(&line)
    }

    /// Lines that were set aside, as they lie there, the last so many of them: whoever knows what
    /// records mean may name them.
    #[must_use]
    pub fn lines_aside(&self) -> Vec<String> {
        let bytes = fs::read(self.quarantine()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> = text.lines().rev().take(ASIDE_MAX).map(str::to_owned).collect();
        lines.into_iter().rev().collect()
    }

    fn quarantine(&self) -> PathBuf {
        beside(&self.path, ".quarantine")
    }

    /// Replaces everything by a new chain.
    fn begin_anew(&mut self, payloads: &[&RawValue]) -> io::Result<()> {
        let (mut bytes, mut last) = (Vec::new(), Head { seq: 0, link: GENESIS });
        for (payload, seq) in payloads.iter().zip(1..) {
            last = Head { seq, link: encode(last.link, seq, payload, &mut bytes)? };
        }
        // The old chain's head must not be held against the new chain, wherever a crash comes
        // between the two.
        Head::forget(&self.path)?;
        atomic::write(&self.path, &bytes)?;
        self.file = Some(OpenOptions::new().read(true).append(true).open(&self.path)?);
        (self.next, self.link, self.cut) = (last.seq + 1, last.link, None);
        last.note(&self.path);
        Ok(())
    }

    /// The file, at the end of what was acknowledged.
    fn writable(&mut self) -> io::Result<&File> {
        let Some(file) = &self.file else {
            let why = format!(
                "{} was opened where nothing can be written: make it writable, then restart the module",
                self.path.display()
            );
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, why));
        };
        if let Some(length) = self.cut {
            file.set_len(length)?;
            self.cut = None;
        }
        Ok(file)
    }

    /// Appends a batch; on return it is durable.
    ///
    /// # Errors
    /// As the file system gives them; then none of the batch counts, whatever of it reached the
    /// disk. `ReadOnlyFilesystem` where the journal can only be read.
    pub fn append<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        let (mut bytes, mut link) = (Vec::new(), self.link);
        for (record, seq) in records.iter().zip(self.next..) {
            link = encode(link, seq, &payload_of(record)?, &mut bytes)?;
        }
        let mut file = self.writable()?;
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // A part of a batch must not be taken for a record later.
            if file.set_len(before).is_err() {
                self.cut = Some(before);
            }
            return Err(error);
        }
        self.next += records.len() as u64;
        self.link = link;
        Head { seq: self.next - 1, link }.note(&self.path);
        Ok(())
    }

    /// Replaces everything by these records.
    ///
    /// # Errors
    /// As the file system gives them; the old records then stand.
    pub fn compact<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        self.writable()?;
        let payloads = records.iter().map(payload_of).collect::<io::Result<Vec<_>>>()?;
        self.begin_anew(&payloads.iter().map(|payload| &**payload).collect::<Vec<&RawValue>>())
    }

    /// What is wrong by now with what is on the disk, against what was appended.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn verify(&self) -> io::Result<Damage> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        Ok(Reading::of(&bytes, Some(Head { seq: self.next - 1, link: self.link })).damage)
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }

    /// Whether it can only be read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.file.is_none()
    }

    /// Why it may hold less than was written, until somebody has looked at what was set aside and
    /// moved that away.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        let (journal, quarantine) = (self.path.display(), self.quarantine());
        let Damage { quarantined, missing, misplaced, .. } = self.damage;
        let found = match self.damage.is_loss() {
            true => format!(
                "{quarantined} damaged, {missing} missing and {misplaced} misplaced records"
            ),
            false => "damaged or missing records".to_owned(),
        };
        match quarantine.try_exists() {
            Err(error) => Some(format!("{}: {error}", quarantine.display())),
            Ok(true) => Some(format!(
                "{journal} had {found}; what there is of them is in {}: once it was looked at, move that file away",
                quarantine.display()
            )),
            // Where nothing can be written nothing was set aside.
            Ok(false) => (self.is_read_only() && self.damage.is_loss())
                .then(|| format!("{journal} has {found}")),
        }
    }
}

#[cfg(test)]
mod tests;
