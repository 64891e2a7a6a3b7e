//! Looks at disks that may hang: each in a thread of its own, for whose answer nobody waits longer than a few seconds.
//!
//! A disk behind a server that has gone (NFS, mounted hard) neither answers nor says that it will not. Invariants: a look that goes on
//! holds one thread; while one goes on for too long others are begun ever more rarely, so that a day of silence costs some fifty threads;
//! the first answer ends the silence, whatever still waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;

/// How long whoever asks waits: far longer than a disk that spins up, shorter than a caller's patience.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// After this long, times the looks that go on, a silent disk is looked at once more: one that was mounted anew answers new looks only.
const AGAIN: Duration = Duration::from_secs(60);

/// The looks at one disk that go on.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<LookState>);

#[derive(Debug, Default)]
struct LookState {
    next: u64,
    /// When each was begun, by its number.
    begun: BTreeMap<u64, Instant>,
}

impl LookState {
    fn hang(&self, now: Instant) -> bool {
        self.begun.values().next().is_some_and(|oldest| now.saturating_duration_since(*oldest) > LONGEST)
    }

    /// Whether another look may be begun.
    fn admit(&self, now: Instant) -> bool {
        let pause = AGAIN.saturating_mul(u32::try_from(self.begun.len()).unwrap_or(u32::MAX));
        let is_due = || self.begun.values().next_back().is_none_or(|newest| now.saturating_duration_since(*newest) >= pause);
        !self.hang(now) || is_due()
    }
}

/// A look that goes on; dropped, it was answered.
#[derive(Debug)]
pub(super) struct Look {
    looks: Arc<Looks>,
    number: u64,
}

impl Looks {
    /// Begins a look; none while earlier ones go on that should have been answered.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Look> {
        let (now, mut going) = (Instant::now(), lock(&self.0));
        if !going.admit(now) {
            return None;
        }
        let number = going.next;
        going.next += 1;
        going.begun.insert(number, now);
        Some(Look { looks: Arc::clone(self), number })
    }

    /// Whether one goes on that should have been answered.
    pub(super) fn hang(&self) -> bool {
        lock(&self.0).hang(Instant::now())
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        // What was begun before asked what was just answered.
        lock(&self.looks.0).begun.retain(|number, _| *number > self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_disk_is_looked_at_ever_more_rarely_and_an_answer_ends_the_silence() {
        let (start, mut going) = (Instant::now(), LookState::default());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(going.admit(start) && !going.hang(start));
        going.begun.insert(0, at(0));
        assert!(going.admit(at(5)), "it may be slow");
        assert!(!going.admit(at(6)) && going.hang(at(6)));
        assert!(going.admit(at(60)), "it may have been mounted anew");
        going.begun.insert(1, at(60));
        assert!(!going.admit(at(120)) && going.admit(at(180)));
        // In a day of asking at every moment:
        let mut begun = 2;
        for second in 61..86_400 {
            if going.admit(at(second)) {
                going.begun.insert(begun, at(second));
                begun += 1;
            }
        }
        assert!((40..80).contains(&begun), "{begun}");
    }

    #[test]
    fn an_answer_to_a_later_look_is_one_to_all_before_it() {
        let looks = Arc::new(Looks::default());
        let (first, second) = (looks.begin().expect("begun"), looks.begin().expect("begun"));
        drop(second);
        assert!(lock(&looks.0).begun.is_empty() && !looks.hang());
        let third = looks.begin().expect("begun");
        drop(first);
        assert_eq!(lock(&looks.0).begun.len(), 1, "what began later has yet to be answered");
        drop(third);
        assert!(lock(&looks.0).begun.is_empty());
    }
}
