//! How far a journal has come: number and link of its last record, in `<name>.head` beside it.
//!
//! Written after a batch is durable, and not synced itself: after a crash it may be behind the
//! journal, and is never ahead of it. So what it names and the journal lacks was acknowledged, and
//! is gone. Without it, or where it is damaged, an end that is missing cannot be told by the
//! journal itself, and everything else can; opening notes anew how far what is there has come.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A place in a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) link: u64,
}

/// A file beside a journal.
pub(super) fn beside(journal: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = journal.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    journal.with_file_name(name)
}

fn path(journal: &Path) -> PathBuf {
    beside(journal, ".head")
}

impl Head {
    /// Always of the same length, so that a new one covers the old.
    fn text(self) -> String {
        let numbers = format!("{:016} {:016}", self.seq, self.link);
        format!("{numbers} {:08x}\n", crc32fast::hash(numbers.as_bytes()))
    }

    /// None if there is none, or none that can be read.
    pub(super) fn read(journal: &Path) -> Option<Self> {
        let text = fs::read_to_string(path(journal)).ok()?;
        let mut numbers = text.split(' ');
        let head = Self { seq: numbers.next()?.parse().ok()?, link: numbers.next()?.parse().ok()? };
        (head.text() == text).then_some(head)
    }

    /// Notes how far a journal has come. What cannot be noted leaves the head behind, where it does
    /// no harm.
    pub(super) fn note(self, journal: &Path) {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path(journal));
        let _ = file.and_then(|file| file.write_all_at(self.text().as_bytes(), 0));
    }

    /// Forgets how far a journal had come, on disk, before it is written anew.
    pub(super) fn forget(journal: &Path) -> io::Result<()> {
        match OpenOptions::new().write(true).open(path(journal)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(file) => file.set_len(0).and_then(|()| file.sync_all()),
        }
    }
}
