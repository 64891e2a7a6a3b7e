//! Modules' output: a bounded ring each, passed on to init's own stderr, to whoever follows, and to
//! files that outlive init.
//!
//! Invariants: reaping never waits for a pipe to end; a flood slows the flooder (its pipe fills),
//! not init; a stderr that is stalled or gone costs lines on stderr, which are counted
//! ([`telemetry::lost`]), and nothing else; a disk that is full or slow costs lines in the files,
//! which are counted as well. Where stderr is systemd's journal that keeps the lines, and there are
//! no files. Where it is a file that nobody bounds, it gets init's own lines alone.

mod keeper;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::clock::now_ms;
use brahman_card::interface::init::Line;
use brahman_sidecar::telemetry;
use tokio::net::unix::pipe;
use tokio::sync::broadcast;

use self::keeper::LogKeeper;

/// Lines kept a module: enough for a stack trace and what led to it.
const RING_LINES: usize = 1000;
/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Lines a second after which reading pauses: far above honest logging, far below what would starve
/// init.
const LINES_PER_TURN: u32 = 2_000;

#[derive(Debug)]
struct Ring {
    lines: VecDeque<Line>,
    dropped: u64,
    followers: broadcast::Sender<Line>,
}

/// All rings, by label.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    rings: Mutex<HashMap<String, Ring>>,
    keeper: Option<LogKeeper>,
    /// Whether modules' lines are not passed on where they are kept.
    silent: bool,
}

impl Logs {
    /// Logs that are kept in a folder as well, init's own lines among them; if `silent`, modules'
    /// lines are kept there and not passed on. Without a thread for it they are not kept, but
    /// passed on.
    pub(crate) fn kept_in(folder: &Path, silent: bool) -> Self {
        let keeper = LogKeeper::start(folder);
        match &keeper {
            Ok(keeper) => keeper.keep_own_lines(),
            Err(error) => tracing::warn!(%error, "logs are not kept on disk"),
        }
        Self { rings: Mutex::default(), keeper: keeper.ok(), silent }
    }

    /// The folder in which lines are kept, if they are.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.keeper.as_ref().map(LogKeeper::folder)
    }

    /// Lines that could not be kept so far.
    pub(crate) fn unkept(&self) -> u64 {
        self.keeper.as_ref().map_or(0, LogKeeper::lost)
    }

    /// Waits until what came so far is kept, or the patience is over. What is not kept by then is
    /// counted, and the count logged.
    pub(crate) fn flush(&self, patience: Duration) {
        let unkept = self.keeper.as_ref().map_or(0, |keeper| keeper.flush(patience));
        if unkept > 0 {
            tracing::warn!("{unkept} lines of this mesh's logs could not be kept on disk");
        }
    }

    fn with_ring<T>(&self, label: &str, f: impl FnOnce(&mut Ring) -> T) -> T {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.entry(label.to_owned()).or_insert_with(|| Ring {
            lines: VecDeque::new(),
            dropped: 0,
            followers: broadcast::channel(RING_LINES).0,
        });
        f(ring)
    }

    fn push(&self, label: &str, line: Line) {
        if !self.silent || self.keeper.is_none() {
            // The ring keeps what was written; what a terminal may show is made harmless.
            telemetry::pass_on(&format!("[{label}] {}", line.text));
        }
        if let Some(keeper) = &self.keeper {
            keeper.keep(label, line.clone());
        }
        self.with_ring(label, |ring| {
            if ring.lines.len() == RING_LINES {
                ring.lines.pop_front();
                ring.dropped += 1;
            }
            // Nobody following is the usual case.
            let _ = ring.followers.send(line.clone());
            ring.lines.push_back(line);
        });
    }

    /// The last lines, how many were lost, and what comes next.
    pub(crate) fn tail(
        &self,
        label: &str,
        n: usize,
    ) -> (Vec<Line>, u64, broadcast::Receiver<Line>) {
        self.with_ring(label, |ring| {
            let skip = ring.lines.len().saturating_sub(n);
            (
                ring.lines.iter().skip(skip).cloned().collect(),
                ring.dropped,
                ring.followers.subscribe(),
            )
        })
    }

    /// The last line that this process wrote, if any.
    pub(crate) fn last_line(&self, label: &str, pid: u32) -> Option<String> {
        self.with_ring(label, |ring| {
            ring.lines
                .iter()
                .rev()
                .find(|l| l.pid == pid && !l.text.trim().is_empty())
                .map(|l| l.text.clone())
        })
    }

    /// Reads a pipe to its end.
    pub(crate) async fn pump(
        self: Arc<Self>,
        label: String,
        pid: u32,
        stream: &'static str,
        pipe: OwnedFd,
    ) {
        let Ok(pipe) = pipe::Receiver::from_owned_fd(pipe) else { return };
        let mut buffer = vec![0_u8; 16 * 1024];
        let mut partial: Vec<u8> = Vec::new();
        let (mut turn, mut lines) = (Instant::now(), 0_u32);
        loop {
            if pipe.readable().await.is_err() {
                break;
            }
            let n = match pipe.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            for byte in &buffer[..n] {
                if *byte != b'\n' {
                    partial.push(*byte);
                }
                if *byte == b'\n' || partial.len() == LINE_BYTES_MAX {
                    self.push(&label, line(pid, stream, &partial));
                    partial.clear();
                    lines += 1;
                }
            }
            if turn.elapsed() > Duration::from_secs(1) {
                (turn, lines) = (Instant::now(), 0);
            } else if lines > LINES_PER_TURN {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        if !partial.is_empty() {
            self.push(&label, line(pid, stream, &partial));
        }
    }
}

fn line(pid: u32, stream: &str, bytes: &[u8]) -> Line {
    Line {
        at_ms: now_ms(),
        pid,
        stream: stream.into(),
        text: String::from_utf8_lossy(bytes).trim_end_matches('\r').to_owned(),
        label: None,
    }
}
