//! The thread that writes lines to their files, so that nobody waits for the disk.
//!
//! Invariants: taking a line never blocks; one that cannot be written is given up and counted, and
//! the count is told in the files by the next line that can. It logs nothing itself, for that would
//! be its own next line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use brahman_card::clock::now_ms;
use brahman_card::interface::init::Line;
use brahman_sidecar::logs::{INIT_LABEL, LogWriter};
use brahman_sidecar::telemetry;

/// Lines that may wait for a slow disk: at 8 KiB a line 32 MiB, and some seconds of a flood.
const LINES_WAITING: usize = 4096;
/// How often is tried whether a queue that was full has room.
const PAUSE: Duration = Duration::from_millis(5);
/// Whence a line comes that init itself puts among a module's.
const OWN_STREAM: &str = "log";

enum Entry {
    Line(String, Line),
    /// Answered, once everything before it is written, by how many lines were given up of which no
    /// file says so.
    Flush(SyncSender<u64>),
}

/// Lines in numbers.
#[derive(Debug, Default)]
struct LineCounts {
    /// In the queue.
    waiting: AtomicU64,
    /// Given up so far.
    lost: AtomicU64,
}

/// Where lines are taken.
#[derive(Clone, Debug)]
struct Intake {
    queue: SyncSender<Entry>,
    counts: Arc<LineCounts>,
}

impl Intake {
    fn keep(&self, label: &str, line: Line) {
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(Entry::Line(label.to_owned(), line)).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Keeps lines in a folder.
#[derive(Debug)]
pub(super) struct LogKeeper {
    folder: PathBuf,
    intake: Intake,
}

impl LogKeeper {
    /// Starts the thread.
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(LINES_WAITING);
        let counts = Arc::new(LineCounts::default());
        let (counted, writer) = (Arc::clone(&counts), LogWriter::new(folder));
        Builder::new().name("logs".into()).spawn(move || write_all(&waiting, writer, &counted))?;
        Ok(Self { folder: folder.to_owned(), intake: Intake { queue, counts } })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lines given up so far.
    pub(super) fn lost(&self) -> u64 {
        self.intake.counts.lost.load(Ordering::Relaxed)
    }

    /// Keeps a line, or counts it as lost if too many wait.
    pub(super) fn keep(&self, label: &str, line: Line) {
        self.intake.keep(label, line);
    }

    /// Keeps what this process logs itself from now on.
    pub(super) fn keep_own_lines(&self) {
        let (intake, pid) = (self.intake.clone(), std::process::id());
        telemetry::copy_to(move |text| {
            let line = Line {
                at_ms: now_ms(),
                pid,
                stream: "stderr".into(),
                text: text.to_owned(),
                label: None,
            };
            intake.keep(INIT_LABEL, line);
        });
    }

    /// Waits until what waits now is written, or the patience is over; gives how many lines are in
    /// no file, and no file says so.
    pub(super) fn flush(&self, patience: Duration) -> u64 {
        let until = Instant::now() + patience;
        let (sender, done) = sync_channel(1);
        let mut entry = Entry::Flush(sender);
        // A queue that is full has the most to lose.
        while let Err(TrySendError::Full(back)) = self.intake.queue.try_send(entry) {
            if Instant::now() >= until {
                return self.unwritten();
            }
            entry = back;
            std::thread::sleep(PAUSE);
        }
        done.recv_timeout(until.saturating_duration_since(Instant::now()))
            .unwrap_or_else(|_| self.unwritten())
    }

    /// Lines that wait, and those given up.
    fn unwritten(&self) -> u64 {
        self.intake.counts.waiting.load(Ordering::Relaxed) + self.lost()
    }
}

fn write_all(
    waiting: &Receiver<Entry>,
    mut writer: LogWriter,
    LineCounts { waiting: queued, lost }: &LineCounts,
) {
    let mut told = 0;
    for next in waiting {
        match next {
            Entry::Line(label, line) => {
                let before = lost.load(Ordering::Relaxed);
                if before > told {
                    let text = format!(
                        "{} lines of this mesh's logs could not be kept before this one",
                        before - told
                    );
                    let word = Line { text, stream: OWN_STREAM.into(), ..line.clone() };
                    if writer.write(&label, &word).is_ok() {
                        told = before;
                    }
                }
                if writer.write(&label, &line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                queued.fetch_sub(1, Ordering::Relaxed);
            }
            // Whoever waited may have given up.
            Entry::Flush(done) => {
                let _ = done.try_send(lost.load(Ordering::Relaxed) - told);
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
        assert_eq!((keeper.flush(patience), keeper.lost()), (3, 3));
        std::fs::remove_file(&path).expect("removed");
        keeper.keep("x", line("there"));
        assert_eq!(keeper.flush(patience), 0, "a file says so");
        let lines = read(folder.path(), &LogQuery::default()).expect("read").lines;
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(
            texts,
            ["3 lines of this mesh's logs could not be kept before this one", "there"]
        );
        assert_eq!(keeper.lost(), 3);
    }

    #[test]
    fn the_end_waits_for_a_queue_that_is_full_and_counts_what_it_does_not_wait_for() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (queue, waiting) = sync_channel(1);
        let counts = Arc::new(LineCounts::default());
        let keeper = LogKeeper {
            folder: folder.path().to_owned(),
            intake: Intake { queue, counts: Arc::clone(&counts) },
        };
        keeper.keep("x", line("first"));
        keeper.keep("x", line("one too many"));
        assert_eq!(keeper.flush(Duration::ZERO), 2, "nobody writes");
        let writer = LogWriter::new(folder.path());
        let thread = std::thread::spawn(move || write_all(&waiting, writer, &counts));
        keeper.flush(Duration::from_secs(60));
        let lines = read(folder.path(), &LogQuery::default()).expect("read").lines;
        assert!(lines.iter().any(|line| line.text == "first"), "{lines:?}");
        drop(keeper);
        thread.join().expect("it ends with the last who keeps lines");
    }
}
