//! Waiting for a message: by asking again and again while that is cheaper than being woken (ADR
//! 14).
//!
//! Invariants: every poll is bounded; who calls now and then is never polled for; where others work
//! on the core, polling ends by itself.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::wire::frame::FrameBuffer;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How long the next call of one who calls quickly is polled for: a wake-up costs 10 to 50 µs, most
/// where a virtual machine has let an idle core go.
pub const NEXT_CALL_POLL: Duration = Duration::from_micros(200);
/// Questions to a polled socket between two turns of this thread's other tasks: a turn takes as
/// long as a few of them.
const ASKED_PER_TURN: u32 = 8;
/// Who had to wait longer than this for another turn shares its core with somebody who works, not
/// with others that poll.
const TURN_MAX: Duration = Duration::from_micros(500);
/// How long nobody in this process polls after that: the first time, at most, and less for each
/// poll that was answered.
const PAUSE_MIN_US: u64 = 2_000;
const PAUSE_MAX_US: u64 = 1_000_000;
const PAUSE_LESS_US: u64 = 1_000;

/// Waiting for the next message on a connection: polled for if the last one came soon, else slept
/// for.
///
/// Whoever calls now and then costs nothing; whoever calls again and again spares a wake-up a
/// message.
#[derive(Debug)]
pub struct Wait {
    soon: Duration,
    pays: bool,
    since: Option<Instant>,
    crowd: &'static Crowd,
}

impl Wait {
    /// Polls for up to `soon`, once a message has come within that time.
    #[must_use]
    pub fn new(soon: Duration) -> Self {
        Self { soon, pays: false, since: None, crowd: &CROWD }
    }

    /// Begins to wait, by [`poll_briefly`] where that pays. Says whether something came; the rest
    /// of the wait is the caller's.
    pub async fn poll(&mut self, stream: &UnixStream, frames: &mut FrameBuffer) -> bool {
        if self.since.is_some() {
            return false;
        }
        self.since = Some(Instant::now());
        self.pays && self.crowd.poll(stream, frames, self.soon).await
    }

    /// The message is here.
    pub fn over(&mut self) {
        if let Some(since) = self.since.take() {
            self.pays = since.elapsed() < self.soon;
        }
    }
}

/// Asks a socket again and again, for `longest` at most, and reads what comes into the buffer.
///
/// A wake-up costs more than a short answer takes. Other tasks run between two questions, so only
/// one that is alone on its thread loses nothing by waiting this way. Where somebody else works on
/// the core, nobody in this process polls for a while: whoever sleeps is served first when he is
/// woken, whoever polls is served in turn. Says whether something came; an end or an error is left
/// to [`fill`].
pub async fn poll_briefly(
    stream: &UnixStream,
    frames: &mut FrameBuffer,
    longest: Duration,
) -> bool {
    CROWD.poll(stream, frames, longest).await
}

/// Who else wants the core, as polling shows it, and when to poll again: twice as late each time,
/// and sooner with every poll that was answered.
///
/// A single long turn is a hiccup (a virtual machine has some every second); only where one follows
/// the other does polling cost.
#[derive(Debug)]
struct Crowd {
    turn_max: Duration,
    until_us: AtomicU64,
    pause_us: AtomicU64,
}

/// That of this process.
static CROWD: Crowd = Crowd::new(TURN_MAX);

impl Crowd {
    const fn new(turn_max: Duration) -> Self {
        Self { turn_max, until_us: AtomicU64::new(0), pause_us: AtomicU64::new(0) }
    }

    async fn poll(&self, stream: &UnixStream, frames: &mut FrameBuffer, longest: Duration) -> bool {
        if self.is_here() {
            return false;
        }
        let started = Instant::now();
        let (mut asked, mut before) = (0_u32, Duration::ZERO);
        loop {
            let spare = frames.spare();
            let room = spare.len();
            if room == 0 {
                return false;
            }
            match recv(stream, spare, RecvFlags::DONTWAIT) {
                Ok((_, n)) if n > 0 => {
                    self.was_not_here();
                    frames.filled(n);
                    if n < room {
                        drained(stream);
                    }
                    return true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                _ => return false,
            }
            // First to whoever else wants this core, perhaps the one that is to answer; then to
            // this thread's tasks.
            std::thread::yield_now();
            asked += 1;
            if asked.is_multiple_of(ASKED_PER_TURN) {
                tokio::task::yield_now().await;
            }
            let waited = started.elapsed();
            if waited - before > self.turn_max {
                self.came();
                return false;
            }
            if waited >= longest {
                return false;
            }
            before = waited;
        }
    }

    fn now_us() -> u64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn is_here(&self) -> bool {
        match self.until_us.load(Ordering::Relaxed) {
            0 => false,
            until => Self::now_us() < until,
        }
    }

    fn came(&self) {
        let pause = (2 * self.pause_us.load(Ordering::Relaxed)).clamp(PAUSE_MIN_US, PAUSE_MAX_US);
        self.pause_us.store(pause, Ordering::Relaxed);
        self.until_us.store(Self::now_us() + pause, Ordering::Relaxed);
    }

    fn was_not_here(&self) {
        let pause = self.pause_us.load(Ordering::Relaxed);
        if pause > 0 {
            self.pause_us.store(pause.saturating_sub(PAUSE_LESS_US), Ordering::Relaxed);
        }
    }
}

/// Tells the runtime that a read got less than it had room for: the socket is empty, and the next
/// wait is spared a read that finds nothing. After a read that filled its room this would be wrong:
/// the rest would never be heard of.
pub(super) fn drained(stream: &UnixStream) {
    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

#[cfg(test)]
mod tests {
    use super::super::fill;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A wait on a machine of our own.
    fn wait(soon: Duration) -> Wait {
        static NOBODY: Crowd = Crowd::new(LONG);
        Wait { crowd: &NOBODY, ..Wait::new(soon) }
    }

    #[tokio::test]
    async fn a_message_is_polled_for_only_after_one_that_came_soon() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut frames = FrameBuffer::nul();
        let say = || theirs.try_write(b"{}\0").expect("written");
        let mut patient = wait(LONG);
        say();
        assert!(!patient.poll(&ours, &mut frames).await, "nothing is known of this caller yet");
        assert!(!patient.poll(&ours, &mut frames).await, "one wait is polled for once");
        patient.over();
        assert!(patient.poll(&ours, &mut frames).await, "the last one came within the time");
        assert!(frames.next_frame().expect("whole").is_some());

        let mut hasty = wait(Duration::ZERO);
        say();
        assert!(!hasty.poll(&ours, &mut frames).await);
        hasty.over();
        assert!(!hasty.poll(&ours, &mut frames).await, "the last one took longer than that");
    }

    #[tokio::test]
    async fn the_rest_of_a_message_longer_than_the_buffer_is_not_waited_for_in_vain() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut frames = FrameBuffer::nul();
        let message: Vec<u8> = std::iter::repeat_n(b'x', 40_000).chain([0]).collect();
        assert_eq!(theirs.try_write(&message).expect("written"), message.len());
        // The runtime has heard of it, and will hear of nothing more.
        ours.readable().await.expect("open");
        let mut patient = Wait { pays: true, ..wait(LONG) };
        assert!(patient.poll(&ours, &mut frames).await);
        assert!(
            frames.next_frame().expect("short enough").is_none(),
            "the buffer is smaller than that"
        );
        while frames.next_frame().expect("short enough").is_none() {
            tokio::time::timeout(LONG, ours.readable())
                .await
                .expect("the rest is there")
                .expect("open");
            assert!(fill(&ours, &mut frames).expect("open"));
        }
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_while_a_message_is_polled_for() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut frames = FrameBuffer::nul();
        let mut patient = wait(LONG);
        assert!(!patient.poll(&ours, &mut frames).await);
        patient.over();
        // On this one thread the caller can only speak if it is let.
        let caller = tokio::spawn(async move { theirs.try_write(b"{}\0").map(|_| theirs) });
        assert!(patient.poll(&ours, &mut frames).await);
        caller.await.expect("no panic").expect("written");
    }

    #[tokio::test]
    async fn the_oftener_others_want_the_core_the_longer_nobody_polls() {
        static OTHERS: Crowd = Crowd::new(Duration::from_millis(1));
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut frames = FrameBuffer::nul();
        for pause in [PAUSE_MIN_US, 2 * PAUSE_MIN_US, 4 * PAUSE_MIN_US] {
            // This thread has one core; whoever works on it for long is a crowd.
            let work = tokio::spawn(async { std::thread::sleep(Duration::from_millis(5)) });
            assert!(!OTHERS.poll(&ours, &mut frames, LONG).await);
            work.await.expect("no panic");
            assert_eq!(OTHERS.pause_us.load(Ordering::Relaxed), pause);
            while OTHERS.is_here() {
                std::thread::yield_now();
            }
        }
        theirs.try_write(b"{}\0").expect("written");
        OTHERS.until_us.store(u64::MAX, Ordering::Relaxed);
        assert!(!OTHERS.poll(&ours, &mut frames, LONG).await, "polled in a crowd");
        OTHERS.until_us.store(0, Ordering::Relaxed);
        assert!(OTHERS.poll(&ours, &mut frames, LONG).await);
        assert_eq!(OTHERS.pause_us.load(Ordering::Relaxed), 4 * PAUSE_MIN_US - PAUSE_LESS_US);
    }
}
