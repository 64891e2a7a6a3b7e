//! Who may call a provider now: places, a bounded queue, and fairness between users. Pure.
//!
//! A freed place goes to the waiting uid with the fewest calls running, so a flood of one user's
//! calls delays another user's by at most the call that is just ending.

use std::collections::{BTreeMap, VecDeque};

/// Names a waiting call.
pub(crate) type Ticket = u64;

/// What became of a request for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Go.
    Now,
    /// Wait for this ticket to be called.
    Wait(Ticket),
    /// Too many wait.
    Full,
}

#[derive(Debug, Default)]
struct User {
    running: usize,
    waiting: VecDeque<Ticket>,
}

/// Places of one provider.
#[derive(Debug)]
pub(crate) struct Admission {
    places: usize,
    queue: usize,
    running: usize,
    waiting: usize,
    users: BTreeMap<u32, User>,
    next: Ticket,
}

impl Admission {
    pub(crate) fn new(places: usize, queue: usize) -> Self {
        Self { places, queue, running: 0, waiting: 0, users: BTreeMap::new(), next: 0 }
    }

    /// Calls running and waiting.
    pub(crate) fn load(&self) -> usize {
        self.running + self.waiting
    }

    /// Places that one user may hold: an eighth is left to others, as of connections.
    fn share(&self) -> usize {
        self.places - self.places / 8
    }

    pub(crate) fn ask(&mut self, uid: u32) -> Admit {
        let own = self.users.get(&uid).map_or(0, |user| user.running);
        if self.running < self.places && own < self.share() {
            self.running += 1;
            self.users.entry(uid).or_default().running += 1;
            return Admit::Now;
        }
        let others = self
            .users
            .iter()
            .any(|(other, user)| *other != uid && user.running + user.waiting.len() > 0);
        let user = self.users.entry(uid).or_default();
        // Beside others, one user may fill three quarters of the queue.
        let share = if others { self.queue - self.queue / 4 } else { self.queue };
        if self.waiting >= self.queue || user.waiting.len() >= share {
            return Admit::Full;
        }
        self.next += 1;
        self.waiting += 1;
        user.waiting.push_back(self.next);
        Admit::Wait(self.next)
    }

    /// A call of `uid` has ended. Gives the ticket that may go now, if any waits; its place is
    /// taken already.
    pub(crate) fn release(&mut self, uid: u32) -> Option<Ticket> {
        self.running = self.running.saturating_sub(1);
        if let Some(user) = self.users.get_mut(&uid) {
            user.running = user.running.saturating_sub(1);
        }
        let share = self.share();
        let may = |user: &User| !user.waiting.is_empty() && user.running < share;
        let next = self
            .users
            .iter_mut()
            .filter(|(_, user)| may(user))
            .min_by_key(|(_, user)| user.running);
        let ticket = next.and_then(|(_, user)| {
            user.running += 1;
            user.waiting.pop_front()
        });
        if ticket.is_some() {
            self.waiting -= 1;
            self.running += 1;
        }
        self.users.retain(|_, user| user.running > 0 || !user.waiting.is_empty());
        ticket
    }

    /// A waiting call was given up. False if its ticket was called meanwhile: then it has a place
    /// to release.
    pub(crate) fn leave(&mut self, uid: u32, ticket: Ticket) -> bool {
        let Some(user) = self.users.get_mut(&uid) else { return false };
        let before = user.waiting.len();
        user.waiting.retain(|waiting| *waiting != ticket);
        let left = user.waiting.len() < before;
        self.waiting -= usize::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_freed_place_goes_to_the_user_with_the_fewest_running() {
        let mut admission = Admission::new(2, 10);
        assert_eq!([admission.ask(1), admission.ask(1)], [Admit::Now; 2]);
        let first = admission.ask(1);
        let Admit::Wait(second) = admission.ask(2) else { panic!("it must wait") };
        assert!(matches!(first, Admit::Wait(_)));
        assert_eq!(admission.release(1), Some(second), "uid 2 has none running");
    }

    #[test]
    fn a_hog_leaves_room_in_the_queue() {
        let mut admission = Admission::new(1, 8);
        admission.ask(2);
        let waiting = (0..20).filter(|_| matches!(admission.ask(1), Admit::Wait(_))).count();
        assert_eq!(waiting, 6);
        assert!(matches!(admission.ask(2), Admit::Wait(_)));
    }

    proptest! {
        #[test]
        fn places_and_queue_hold_and_nobody_is_forgotten(
            places in 3_usize..20,
            moves in prop::collection::vec((0_u8..3, 0_u32..3), 0..200),
        ) {
            let mut admission = Admission::new(places, 5);
            let share = places - places / 8;
            let mut running: Vec<u32> = Vec::new();
            let mut waiting: Vec<(u32, Ticket)> = Vec::new();
            for (what, uid) in moves {
                match what {
                    0 => match admission.ask(uid) {
                        Admit::Now => running.push(uid),
                        Admit::Wait(ticket) => waiting.push((uid, ticket)),
                        Admit::Full => {}
                    },
                    1 => {
                        if let Some(done) = running.pop()
                            && let Some(ticket) = admission.release(done)
                        {
                            let at = waiting
                                .iter()
                                .position(|(_, t)| *t == ticket)
                                .expect("a waiting call");
                            running.push(waiting.remove(at).0);
                        }
                    }
                    _ => {
                        if let Some((uid, ticket)) = waiting.pop() {
                            prop_assert!(admission.leave(uid, ticket));
                        }
                    }
                }
                prop_assert!(running.len() <= places && waiting.len() <= 5);
                prop_assert_eq!(admission.load(), running.len() + waiting.len());
                let own = |uid: u32| running.iter().filter(|u| **u == uid).count();
                prop_assert!(
                    running.len() == places || waiting.iter().all(|(uid, _)| own(*uid) >= share),
                    "nobody waits beside a free place that he may have"
                );
                prop_assert!((0..3).all(|uid| own(uid) <= share), "an eighth is left to others");
            }
        }
    }
}
