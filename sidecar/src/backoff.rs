//! Pauses between attempts that grow: the one policy for whatever is tried again over the wire.
//!
//! What may be tried again, and how often, is its caller's to say: this only says how long to wait
//! before the next attempt. Within the mesh nothing is spread at random, because what is waited for
//! there comes back for one client at a time or holds its backlog (a listening socket of init's);
//! where many would return in step, as modules that are started again do, init spreads them itself.
//! A server that others ask as well is another matter: for it there is [`Backoff::advance_spread`].

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The next pause, and how it grows.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    factor: u32,
    next: Duration,
}

impl Backoff {
    /// Pauses of `first` and then twice as long each time, up to `longest`.
    #[must_use]
    pub const fn doubling(first: Duration, longest: Duration) -> Self {
        Self { first, longest, factor: 2, next: first }
    }

    /// The same, but growing by another factor.
    #[must_use]
    pub const fn by(self, factor: u32) -> Self {
        Self { factor, ..self }
    }

    /// How long the next pause is.
    #[must_use]
    pub const fn peek(&self) -> Duration {
        self.next
    }

    /// How long to pause now; the one after is longer.
    pub fn advance(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(self.factor).min(self.longest);
        pause
    }

    /// The same, spread at random between half of it and all of it: for what many wait for at once.
    pub fn advance_spread(&mut self) -> Duration {
        let pause = self.advance();
        // Keyed anew each time.
        let share = RandomState::new().hash_one(0_u8) % 1000;
        pause / 2 + pause.mul_f64(share as f64 / 2000.0)
    }

    /// Pauses.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.advance()).await;
    }

    /// After a success: the next pause is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_begin_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::doubling(ms(2), ms(7));
        assert_eq!(
            [backoff.advance(), backoff.advance(), backoff.advance(), backoff.advance()],
            [ms(2), ms(4), ms(7), ms(7)]
        );
        backoff.reset();
        assert_eq!(backoff.peek(), ms(2));
        for _ in 0..100 {
            let mut spread = Backoff::doubling(ms(100), ms(400));
            assert!(
                (ms(50)..=ms(100)).contains(&spread.advance_spread())
                    && (ms(100)..=ms(200)).contains(&spread.advance_spread())
            );
        }
        let mut steep = Backoff::doubling(ms(10), Duration::MAX).by(3);
        assert_eq!([steep.advance(), steep.advance(), steep.advance()], [ms(10), ms(30), ms(90)]);
    }
}
