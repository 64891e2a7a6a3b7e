//! The thread that writes lines to their files, so that nobody waits for the disk.
//!
//! Invariants: taking a line never blocks; one that cannot be written is given up and counted, and the count is told in the files by the
//! next line that can. It logs nothing itself, for that would be its own next line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use brahman_card::clock::now_ms;
use brahman_card::interface::init::Line;
use brahman_sidecar::logs::{INIT_LABEL, LogWriter};
use brahman_sidecar::telemetry;

/// Lines that may wait for a slow disk: at 8 KiB a line 32 MiB, and some seconds of a flood.
const LINES_WAITING: usize = 4096;
/// Whence a line comes that init itself puts among a module's.
const OWN_STREAM: &str = "log";

enum Entry {
    Line(String, Line),
    Flush(SyncSender<()>),
}

/// Keeps lines in a folder.
#[derive(Debug)]
pub(super) struct LogKeeper {
    folder: PathBuf,
    queue: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

impl LogKeeper {
    /// Starts the thread.
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(LINES_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let (counter, writer) = (Arc::clone(&lost), LogWriter::new(folder));
        Builder::new().name("logs".into()).spawn(move || write_all(&waiting, writer, &counter))?;
        Ok(Self { folder: folder.to_owned(), queue, lost })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lines given up so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Keeps a line, or counts it as lost if too many wait.
    pub(super) fn keep(&self, label: &str, line: Line) {
        keep(&self.queue, &self.lost, label, line);
    }

    /// Keeps what this process logs itself from now on.
    pub(super) fn keep_own_lines(&self) {
        let (queue, lost, pid) = (self.queue.clone(), Arc::clone(&self.lost), std::process::id());
        telemetry::copy_to(move |text| {
            let line = Line { at_ms: now_ms(), pid, stream: "stderr".into(), text: text.to_owned(), label: None };
            keep(&queue, &lost, INIT_LABEL, line);
        });
    }

    /// Waits until what waits now is written, or the patience is over.
    pub(super) fn flush(&self, patience: Duration) {
        let (sender, done) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(sender)).is_ok() {
            // Either way there is nothing more to do.
            let _ = done.recv_timeout(patience);
        }
    }
}

fn keep(queue: &SyncSender<Entry>, lost: &AtomicU64, label: &str, line: Line) {
    if queue.try_send(Entry::Line(label.to_owned(), line)).is_err() {
        lost.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(waiting: &Receiver<Entry>, mut writer: LogWriter, lost: &AtomicU64) {
    let mut told = 0;
    for next in waiting {
        match next {
            Entry::Line(label, line) => {
                let before = lost.load(Ordering::Relaxed);
                if before > told {
                    let text = format!("{} lines of this mesh's logs could not be kept before this one", before - told);
                    let word = Line { text, stream: OWN_STREAM.into(), ..line.clone() };
                    if writer.write(&label, &word).is_ok() {
                        told = before;
                    }
                }
                if writer.write(&label, &line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Whoever waited may have given up.
            Entry::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use brahman_sidecar::logs::{LogQuery, read};

    use super::*;

    fn line(text: &str) -> Line {
        Line { at_ms: 1, pid: 7, stream: "stderr".into(), text: text.into(), label: None }
    }

    #[test]
    fn what_a_full_disk_costs_is_counted_and_told_by_the_next_line() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x.log");
        std::os::unix::fs::symlink("/dev/full", &path).expect("linked");
        let keeper = LogKeeper::start(folder.path()).expect("a thread");
        let patience = Duration::from_secs(60);
        for _ in 0..3 {
            keeper.keep("x", line("gone"));
        }
        keeper.flush(patience);
        assert_eq!(keeper.lost(), 3);
        std::fs::remove_file(&path).expect("removed");
        keeper.keep("x", line("there"));
        keeper.flush(patience);
        let lines = read(folder.path(), &LogQuery::default()).expect("read").lines;
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["3 lines of this mesh's logs could not be kept before this one", "there"]);
        assert_eq!(keeper.lost(), 3);
    }
}
