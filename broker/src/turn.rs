//! A call's first moments at a provider: shared with others, or its own if a provider has ended on
//! it before. Should that happen again, it was this call's doing.
//!
//! Invariants: whoever comes later waits later, so nobody waits for ever; nobody sets a timer for
//! being there (that would cost every call a system call), whoever waits does; what is held is
//! given back on drop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long the first moments are. What kills does so at once; a call that has seen a provider end
/// is alone for so long, so that a second end is its own doing and no other's.
const FIRST_MOMENTS: Duration = Duration::from_millis(500);

/// Who is in its first moments at one provider.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    shared: BTreeMap<u64, Instant>,
    alone: BTreeMap<u64, Instant>,
    /// Of those that are alone: whom others have joined.
    joined: BTreeSet<u64>,
    /// Those that wait, in the order in which they came.
    queue: VecDeque<u64>,
}

impl State {
    /// Until when somebody is in the way.
    fn blocked_until(&self, alone: bool) -> Option<Instant> {
        // Nobody's begin in the order of their numbers where a provider has begun another life.
        let newest =
            |held: &BTreeMap<u64, Instant>| held.values().max().map(|since| *since + FIRST_MOMENTS);
        if alone { newest(&self.alone).max(newest(&self.shared)) } else { newest(&self.alone) }
    }

    fn enter(&mut self, id: u64, alone: bool, now: Instant) {
        if alone { &mut self.alone } else { &mut self.shared }.insert(id, now);
    }
}

/// One call's first moments; over on drop, or by themselves.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    id: u64,
    since: Instant,
    alone: bool,
}

impl Turn {
    /// Whether they are still going on.
    pub(crate) fn lasts(&self) -> bool {
        self.since.elapsed() < FIRST_MOMENTS
    }

    /// Whether nobody else is there, but for calls whose first moments are over.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone && self.lasts() && !self.turns.state().joined.contains(&self.id)
    }

    /// The provider has begun another life, which reads this call now. Whoever thought to be alone
    /// there is not.
    pub(crate) fn begin_anew(&mut self) {
        self.since = Instant::now();
        let state = &mut *self.turns.state();
        state.joined.extend(state.alone.keys().filter(|id| **id != self.id));
        if self.alone && !(state.shared.is_empty() && state.alone.len() == 1) {
            state.joined.insert(self.id);
        }
        state.enter(self.id, self.alone, self.since);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        if self.alone { &mut state.alone } else { &mut state.shared }.remove(&self.id);
        state.joined.remove(&self.id);
        self.turns.tell(&state);
    }
}

/// A place in the queue; given up on drop.
struct QueuedTurn<'a> {
    turns: &'a Turns,
    id: u64,
}

impl Drop for QueuedTurn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.queue.retain(|id| *id != self.id);
        self.turns.tell(&state);
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &State) {
        if !state.queue.is_empty() {
            self.changed.notify_waiters();
        }
    }

    /// Waits for one's turn.
    pub(crate) async fn take(self: &Arc<Self>, alone: bool) -> Turn {
        let id = {
            let (mut state, now) = (self.state(), Instant::now());
            let id = state.next;
            state.next += 1;
            if state.queue.is_empty() && state.blocked_until(alone).is_none_or(|until| until <= now)
            {
                state.enter(id, alone, now);
                return Turn { turns: Arc::clone(self), id, since: now, alone };
            }
            state.queue.push_back(id);
            id
        };
        let _waiting = QueuedTurn { turns: self, id };
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let until = {
                let (mut state, now) = (self.state(), Instant::now());
                let until = state.blocked_until(alone);
                if state.queue.front() == Some(&id) {
                    if until.is_none_or(|until| until <= now) {
                        state.enter(id, alone, now);
                        return Turn { turns: Arc::clone(self), id, since: now, alone };
                    }
                    until
                } else {
                    // Whoever is first wakes the next.
                    None
                }
            };
            match until {
                Some(until) => drop(tokio::time::timeout_at(until.into(), changed).await),
                None => changed.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn who_is_alone_meets_nobody_and_who_came_first_goes_first() {
        let turns = Arc::new(Turns::default());
        let (first, second) = (turns.take(false).await, turns.take(false).await);
        assert!(first.lasts() && !first.is_alone());
        let mut alone = Box::pin(turns.take(true));
        let mut later = Box::pin(turns.take(false));
        assert!(
            poll(&mut alone).is_none() && poll(&mut later).is_none(),
            "nobody passes one who waits"
        );
        drop(first);
        assert!(poll(&mut alone).is_none());
        drop(second);
        let held = poll(&mut alone).expect("nobody is there");
        assert!(held.is_alone());
        drop(alone);
        assert!(poll(&mut later).is_none());
        drop(held);
        let held = poll(&mut later).expect("it is over");
        drop(later);
        // One that is given up leaves the queue to the next.
        let mut given_up = Box::pin(turns.take(true));
        let mut next = Box::pin(turns.take(false));
        assert!(poll(&mut given_up).is_none() && poll(&mut next).is_none());
        drop(given_up);
        assert!(poll(&mut next).is_some());
        drop(held);
        let state = turns.state();
        assert!(state.shared.is_empty() && state.alone.is_empty());
    }

    #[tokio::test]
    async fn another_life_of_the_provider_begins_everybodys_moments_anew() {
        let turns = Arc::new(Turns::default());
        let mut waiting = turns.take(false).await;
        waiting.since -= FIRST_MOMENTS;
        turns.state().shared.insert(waiting.id, waiting.since);
        let alone = turns.take(true).await;
        assert!(alone.is_alone() && !waiting.lasts());
        waiting.begin_anew();
        assert!(!alone.is_alone() && waiting.lasts(), "it meets what had waited");
        drop((waiting, alone));
        assert!(turns.take(true).await.is_alone() && turns.state().joined.is_empty());
    }

    #[tokio::test]
    async fn first_moments_end_by_themselves() {
        let turns = Arc::new(Turns::default());
        let (alone, started) = (turns.take(true).await, Instant::now());
        let shared = turns.take(false).await;
        assert!(
            started.elapsed() + Duration::from_millis(1) >= FIRST_MOMENTS
                && !alone.lasts()
                && !alone.is_alone()
        );
        let again = turns.take(true).await;
        assert!(again.is_alone() && !shared.lasts());
    }
}
