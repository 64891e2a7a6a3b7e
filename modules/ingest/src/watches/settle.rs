//! When a change has come to rest: pure, the clock is an argument.

use std::time::{Duration, Instant};

/// What a look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what was ingested last.
    Same,
    /// It still moves: look again.
    Moving,
    /// It has come to rest, or patience has ended.
    Ingest,
}

/// How far one watch is from a change to an ingest.
#[derive(Debug)]
pub struct Settle {
    debounce: Duration,
    patience: Duration,
    /// Digest of what was ingested last.
    ingested: Option<String>,
    /// When the change began that has not come to rest.
    since: Option<Instant>,
    due: Option<Instant>,
    /// When what failed is tried again, if nothing changes before.
    retry: Option<Instant>,
    /// What the last look since then saw.
    seen: Option<String>,
}

impl Settle {
    /// Nothing has changed; `ingested` is the digest of what was ingested last.
    #[must_use]
    pub fn new(debounce: Duration, patience: Duration, ingested: Option<String>) -> Self {
        Self { debounce, patience, ingested, since: None, due: None, retry: None, seen: None }
    }

    /// Something may have changed.
    pub fn changed(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        // Events put the look off, but not for ever.
        let due = (now + self.debounce).min(since + self.patience);
        self.due = Some(self.due.map_or(due, |before| before.max(due)));
    }

    /// When the folders are looked at next.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.retry).min()
    }

    /// A look: what is there has this digest.
    pub fn look(&mut self, now: Instant, digest: &str) -> Verdict {
        self.retry = None;
        if self.ingested.as_deref() == Some(digest) {
            (self.since, self.due, self.seen) = (None, None, None);
            return Verdict::Same;
        }
        let since = *self.since.get_or_insert(now);
        let at_rest = self.seen.as_deref() == Some(digest);
        if at_rest || now >= since + self.patience {
            (self.due, self.seen) = (None, None);
            return Verdict::Ingest;
        }
        self.seen = Some(digest.to_owned());
        self.due = Some(now + self.debounce);
        Verdict::Moving
    }

    /// What had this digest was ingested.
    pub fn ingested(&mut self, digest: &str) {
        self.ingested = Some(digest.to_owned());
        (self.since, self.seen) = (None, None);
    }

    /// It failed: look again then.
    pub fn failed(&mut self, again: Instant) {
        (self.since, self.due, self.seen, self.retry) = (None, None, None, Some(again));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn settle() -> Settle {
        Settle::new(100 * MS, 1000 * MS, None)
    }

    #[test]
    fn what_two_looks_see_alike_has_come_to_rest() {
        let (mut s, t) = (settle(), Instant::now());
        s.changed(t);
        assert_eq!(s.due(), Some(t + 100 * MS));
        assert_eq!(s.look(t + 100 * MS, "a"), Verdict::Moving);
        assert_eq!(s.look(t + 200 * MS, "b"), Verdict::Moving, "it still grows");
        assert_eq!(s.look(t + 300 * MS, "b"), Verdict::Ingest);
        s.ingested("b");
        s.changed(t + 400 * MS);
        assert_eq!((s.look(t + 500 * MS, "b"), s.due()), (Verdict::Same, None));
    }

    #[test]
    fn what_failed_is_tried_again() {
        let (mut s, t) = (settle(), Instant::now());
        s.changed(t);
        s.look(t, "a");
        assert_eq!(s.look(t, "a"), Verdict::Ingest);
        s.failed(t + 500 * MS);
        assert_eq!(s.due(), Some(t + 500 * MS));
        assert_eq!(
            (s.look(t + 500 * MS, "a"), s.look(t + 600 * MS, "a")),
            (Verdict::Moving, Verdict::Ingest)
        );
    }

    proptest! {
        /// Whatever moves and however often: within patience and one debounce of the first change
        /// something is ingested.
        #[test]
        fn patience_ends(steps in prop::collection::vec((1_u64..80, any::<bool>()), 1..400)) {
            let (mut s, start) = (settle(), Instant::now());
            let (mut now, mut content, mut first) = (start, 0, None);
            for (ms, moves) in steps {
                now += MS * u32::try_from(ms).expect("small");
                if moves {
                    content += 1;
                    s.changed(now);
                    first.get_or_insert(now);
                }
                if s.due().is_some_and(|due| due <= now)
                    && s.look(now, &content.to_string()) == Verdict::Ingest
                {
                    s.ingested(&content.to_string());
                    first = None;
                }
                if let Some(first) = first {
                    prop_assert!(now <= first + 1000 * MS + 100 * MS + 80 * MS, "waits for ever");
                }
            }
        }
    }
}
