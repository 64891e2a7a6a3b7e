//! How long a call's caller waits: one type on the way from the header to the queue and the model.
//!
//! A deadline travels as milliseconds that are left, because two machines need not agree on the
//! time, and becomes a moment of this process's own clock where it arrives.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// The moment at which nobody waits any more; for a caller that waits for ever there is none.
/// Earlier deadlines come first in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The caller waits for ever.
    pub const NEVER: Self = Self(None);

    /// So many milliseconds from now, as a header says; never if it says nothing, or more than a
    /// clock can tell.
    #[must_use]
    pub fn in_ms(ms: Option<u64>) -> Self {
        Self(ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))))
    }

    /// So long from now.
    #[must_use]
    pub fn within(longest: Duration) -> Self {
        Self(Instant::now().checked_add(longest))
    }

    /// Whether the caller waits for ever.
    #[must_use]
    pub fn is_never(self) -> bool {
        self.0.is_none()
    }

    /// The moment, or this one for a caller that waits for ever.
    #[must_use]
    pub fn or(self, otherwise: Instant) -> Instant {
        self.0.unwrap_or(otherwise)
    }

    /// What is left of the time: none where the caller waits for ever, zero where it is up.
    #[must_use]
    pub fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether the time is up.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }

    /// Resolves once the time is up.
    pub async fn passed(self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

impl From<Option<Instant>> for Deadline {
    fn from(at: Option<Instant>) -> Self {
        Self(at)
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        // None last.
        (self.0.is_none(), self.0).cmp(&(other.0.is_none(), other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_moment_and_never_comes_last() {
        let (soon, late) =
            (Deadline::within(Duration::from_secs(1)), Deadline::within(Duration::from_secs(60)));
        assert!(soon < late && late < Deadline::NEVER);
        assert!(
            Deadline::in_ms(Some(0)).has_passed()
                && !late.has_passed()
                && !Deadline::NEVER.has_passed()
        );
        assert_eq!(Deadline::in_ms(None), Deadline::NEVER);
        assert_eq!(
            (Deadline::in_ms(Some(0)).left(), Deadline::NEVER.left()),
            (Some(Duration::ZERO), None)
        );
    }
}
