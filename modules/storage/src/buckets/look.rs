//! Looks at disks that may hang: each in a thread that has nothing else to do, for whose answer
//! nobody waits longer than a few seconds.
//!
//! A disk behind a server that has gone (NFS, mounted hard) neither answers nor says that it will
//! not. Invariants: no look takes a thread of a pool that others need; a few go on at once, and
//! whoever comes meanwhile waits for the newest of them; while one goes on for too long others are
//! begun ever more rarely, so that a day of silence costs some fifty threads; the first answer ends
//! the silence, whatever still waits.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::lock;

mod workers;

/// How long whoever asks waits: far longer than a disk that spins up, shorter than a caller's
/// patience.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// After this long, times the looks that go on, a silent disk is looked at once more: one that was
/// mounted anew answers new looks only.
const AGAIN: Duration = Duration::from_secs(60);
/// So many looks at one disk go on at once while it is not known to be silent: one that began a
/// moment ago tells the next caller as much.
const AT_ONCE: usize = 2;

/// Hears what a look has found.
type Waiter<T> = Box<dyn FnOnce(T) + Send>;

/// The looks at one disk that go on.
#[derive(Debug)]
pub(super) struct Looks<T>(Mutex<PendingLooks<T>>);

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self(Mutex::new(PendingLooks { next: 0, begun: BTreeMap::new() }))
    }
}

struct PendingLooks<T> {
    next: u64,
    /// When each was begun, and who waits for it, by its number.
    begun: BTreeMap<u64, (Instant, Vec<Waiter<T>>)>,
}

impl<T> std::fmt::Debug for PendingLooks<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.begun.iter().map(|(number, (begun, _))| (number, begun)))
            .finish()
    }
}

/// What becomes of somebody who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// A look is begun for him.
    Begin,
    /// He waits for the newest that goes on.
    Join,
    /// The disk is silent.
    Refuse,
}

impl<T> PendingLooks<T> {
    fn hang(&self, now: Instant) -> bool {
        self.begun
            .values()
            .next()
            .is_some_and(|(oldest, _)| now.saturating_duration_since(*oldest) > LONGEST)
    }

    fn admit(&self, now: Instant) -> Admission {
        let pause = AGAIN.saturating_mul(u32::try_from(self.begun.len()).unwrap_or(u32::MAX));
        let is_due = || {
            self.begun
                .values()
                .next_back()
                .is_none_or(|(newest, _)| now.saturating_duration_since(*newest) >= pause)
        };
        match (self.hang(now), self.begun.len() >= AT_ONCE) {
            (true, _) if is_due() => Admission::Begin,
            (true, _) => Admission::Refuse,
            (false, true) => Admission::Join,
            (false, false) => Admission::Begin,
        }
    }
}

/// A look that goes on; dropped, it is over.
#[derive(Debug)]
struct Look<T> {
    looks: Arc<Looks<T>>,
    number: u64,
}

impl<T> Look<T> {
    /// Ends this look and those that were begun before it: they asked what was just answered. Who
    /// waited for them.
    fn end(&self) -> Vec<Waiter<T>> {
        let mut going = lock(&self.looks.0);
        let later = going.begun.split_off(&(self.number + 1));
        std::mem::replace(&mut going.begun, later)
            .into_values()
            .flat_map(|(_, waiters)| waiters)
            .collect()
    }
}

impl<T> Drop for Look<T> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl<T: Clone + Send + 'static> Looks<T> {
    /// Looks, or waits for a look that goes on; `tell` hears what was found. Whether anybody will:
    /// not while a disk is silent.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn ask(
        self: &Arc<Self>,
        look: impl FnOnce() -> T + Send + 'static,
        tell: impl FnOnce(T) + Send + 'static,
    ) -> io::Result<bool> {
        let mut going = lock(&self.0);
        let now = Instant::now();
        match going.admit(now) {
            Admission::Refuse => return Ok(false),
            Admission::Join => {
                if let Some(mut newest) = going.begun.last_entry() {
                    newest.get_mut().1.push(Box::new(tell));
                }
                return Ok(true);
            }
            Admission::Begin => {}
        }
        let number = going.next;
        going.next += 1;
        going.begun.insert(number, (now, vec![Box::new(tell)]));
        drop(going);
        let begun = Look { looks: Arc::clone(self), number };
        let looking = move || {
            let found = look();
            begun.end().into_iter().for_each(|tell| tell(found.clone()));
        };
        workers::run(looking).map(|()| true)
    }
}

impl<T> Looks<T> {
    /// Whether one goes on that should have been answered.
    pub(super) fn hang(&self) -> bool {
        lock(&self.0).hang(Instant::now())
    }
}

/// What work on a disk gives, if it does within [`LONGEST`]: the thread that does it may hang, and
/// nobody else.
pub(super) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, answer) = mpsc::sync_channel(1);
    let working = move || {
        // Whoever asked may have given it up.
        let _ = sender.send(work());
    };
    workers::run(working).ok()?;
    answer.recv_timeout(LONGEST).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(begun: impl IntoIterator<Item = (u64, Instant)>) -> PendingLooks<()> {
        PendingLooks {
            next: 9,
            begun: begun.into_iter().map(|(number, at)| (number, (at, Vec::new()))).collect(),
        }
    }

    #[test]
    fn a_silent_disk_is_looked_at_ever_more_rarely() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(pending([]).admit(start), Admission::Begin);
        assert_eq!(pending([(0, at(0))]).admit(at(5)), Admission::Begin, "it may be slow");
        let both = pending([(0, at(0)), (1, at(1))]);
        assert_eq!((both.admit(at(5)), both.admit(at(6))), (Admission::Join, Admission::Refuse));
        assert!(both.hang(at(6)));
        assert_eq!(
            (both.admit(at(120)), both.admit(at(121))),
            (Admission::Refuse, Admission::Begin),
            "it may have been mounted anew"
        );
        // In a day of asking at every moment:
        let mut looks = both;
        for (number, second) in (2..).zip(6..86_400) {
            if looks.admit(at(second)) == Admission::Begin {
                looks.begun.insert(number, (at(second), Vec::new()));
            }
        }
        assert!((40..80).contains(&looks.begun.len()), "{looks:?}");
    }

    #[test]
    fn an_answer_is_one_to_all_who_wait_for_it_or_for_what_was_begun_before() {
        let looks = Arc::new(Looks::default());
        let (release, held) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let ask = |look: Box<dyn FnOnce() -> u32 + Send>, who: &'static str| {
            let tell = tell.clone();
            assert!(
                looks
                    .ask(look, move |found| tell.send((who, found)).expect("heard"))
                    .expect("a thread")
            );
        };
        let stuck = Arc::new(Mutex::new(held));
        let wait = move || lock(&stuck).recv();
        ask(Box::new(move || wait().map_or(1, |()| 1)), "first");
        let (second, answer) = mpsc::channel::<()>();
        ask(Box::new(move || answer.recv().map_or(2, |()| 2)), "second");
        ask(Box::new(|| unreachable!("two are enough")), "third");
        second.send(()).expect("it waits");
        let mut heard: Vec<_> = (0..3).map(|_| told.recv_timeout(LONGEST).expect("told")).collect();
        heard.sort_unstable();
        assert_eq!(heard, [("first", 2), ("second", 2), ("third", 2)]);
        assert!(lock(&looks.0).begun.is_empty() && !looks.hang());
        release.send(()).expect("it waits");
    }

    #[test]
    fn work_that_hangs_is_given_up() {
        assert_eq!(in_time(|| 7), Some(7));
        let (held, never) = mpsc::channel::<()>();
        let since = Instant::now();
        assert_eq!(in_time(move || never.recv()), None);
        assert!(since.elapsed() >= LONGEST, "{:?}", since.elapsed());
        drop(held);
    }
}
