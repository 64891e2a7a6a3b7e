//! Logs: one line an event on stderr, where init or the journal picks it up. `BRAHMAN_LOG` filters
//! (`info` unless set).
//!
//! Invariant: nothing here fails or panics because nobody reads the log. A line that cannot be
//! written (a closed terminal, a full disk, a reader that has gone) is dropped and counted, and the
//! count is told by the next line that can.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use tracing_subscriber::EnvFilter;

/// Lines that may wait for a slow reader of the log: some seconds of honest logging.
const LINES_WAITING: usize = 4096;
/// How long a reader that is full may take before the line is given up.
const STALL_MS: u16 = 1_000;

/// Lines given up since this process started.
static LOST: AtomicU64 = AtomicU64::new(0);
/// What is given every line of this process as well.
static COPIES: OnceLock<LineSink> = OnceLock::new();
/// Where lines go if this process must not wait for their reader.
static QUEUE: OnceLock<SyncSender<LogEntry>> = OnceLock::new();

type LineSink = Box<dyn Fn(&str) + Send + Sync>;

enum LogEntry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Starts logging for this process. A second call does nothing.
pub fn init() {
    let asked = std::env::var_os("BRAHMAN_LOG").filter(|filter| !filter.is_empty());
    let filter = EnvFilter::try_from_env("BRAHMAN_LOG");
    let refused = filter.as_ref().err().filter(|_| asked.is_some()).map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info,ort=warn,sled=warn"));
    let colour =
        stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Lines { colour })
        .log_internal_errors(false)
        .with_ansi(colour)
        .without_time()
        .with_target(false);
    // Somebody else's subscriber (a test's) stays.
    let _ = lines.try_init();
    if let Some(why) = refused {
        tracing::warn!("BRAHMAN_LOG is not a filter and is left aside: {why}");
    }
}

/// [`init`] for a process that must go on whatever becomes of its log's reader: a thread writes,
/// and what the reader is too slow for is dropped and counted.
pub fn init_queued() {
    let (sender, waiting) = sync_channel(LINES_WAITING);
    // Without the thread lines are written at once, as elsewhere.
    if std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_all_waiting(&waiting))
        .is_ok()
    {
        let _ = QUEUE.set(sender);
    }
    init();
}

/// Lines that were given up since this process started.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Gives what this process logs from now on to `sink` as well, line by line and without colours.
/// The sink must neither wait nor log. A second call does nothing.
pub fn copy_to(sink: impl Fn(&str) + Send + Sync + 'static) {
    let _ = COPIES.set(Box::new(sink));
}

/// Passes on a line that somebody else wrote, made harmless for a terminal. Never waits if the log
/// has a queue.
pub fn pass_on(line: &str) {
    pass(format!("{}\n", escape(line)).as_bytes());
}

/// Waits until what was logged so far is written, or the patience is over. For the end of a
/// process.
pub fn flush(patience: Duration) {
    if let Some(queue) = QUEUE.get() {
        let (sender, done) = sync_channel(1);
        if queue.try_send(LogEntry::Flush(sender)).is_ok() {
            // Either way there is nothing more to do.
            let _ = done.recv_timeout(patience);
        }
    }
}

/// Text that moves no cursor, sets no title and turns no line around: control characters other than
/// newline and tab, and those that change the direction of writing, become `\u{…}`.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Whether a terminal may act on this character, newline and tab aside.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n' && c != '\t') || turns
}

/// The writer of the log: it takes every line, and never fails.
struct Lines {
    colour: bool,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.colour {
            // The colours are ours, and the subscriber has escaped what is in the fields.
            pass(bytes);
        } else {
            pass(escape(&String::from_utf8_lossy(bytes)).as_bytes());
        }
        if let Some(sink) = COPIES.get() {
            without_colours(&String::from_utf8_lossy(bytes)).lines().for_each(sink);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of the subscriber's without its colours: `ESC [ … m`.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    out
}

fn pass(line: &[u8]) {
    let taken = match QUEUE.get() {
        Some(queue) => queue.try_send(LogEntry::Line(line.to_vec())).is_ok(),
        None => put(&mut stderr(), line).is_ok(),
    };
    if !taken {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all_waiting(waiting: &Receiver<LogEntry>) {
    let mut told = 0;
    for next in waiting {
        match next {
            LogEntry::Line(line) => {
                let before = lost();
                let word =
                    format!("{} lines of the log were lost before this one\n", before - told);
                if before > told && put(&mut stderr(), word.as_bytes()).is_ok() {
                    told = before;
                }
                if put(&mut stderr(), &line).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Whoever waited may have given up.
            LogEntry::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Writes a whole line. A full pipe or terminal that is not to block is waited for, [`STALL_MS`] at
/// most.
fn put<W: Write + std::os::fd::AsFd>(out: &mut W, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], STALL_MS)? == 0 {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_shown_instead() {
        for (text, shown) in [
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("a\rb\x7f\u{9b}31m", "a\\u{d}b\\u{7f}\\u{9b}31m"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("two\nlines\tand – ünïcode 漢字", "two\nlines\tand – ünïcode 漢字"),
        ] {
            assert_eq!(escape(text), shown);
            assert_eq!(escape(shown), shown, "what is harmless stays as it is");
        }
    }

    #[test]
    fn a_copy_of_a_line_has_no_colours() {
        assert_eq!(
            without_colours("\x1b[32m INFO\x1b[0m the mesh \x1b[3mis\x1b[0m up"),
            " INFO the mesh is up"
        );
        assert_eq!(without_colours("plain"), "plain");
    }

    #[test]
    fn a_reader_that_has_gone_or_has_no_room_is_an_error_and_no_panic() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert!(put(&mut ours, b"line\n").is_err());
        let mut full =
            std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        assert!(put(&mut full, b"line\n").is_err());
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        assert!(
            put(&mut ours, &vec![b'x'; 8 << 20]).is_err(),
            "a full reader is given up after a while"
        );
        drop(theirs);
    }
}
