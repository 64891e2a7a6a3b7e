//! Memory for what is on its way: counted for the process and for each user, before it is taken.
//!
//! Invariants: what all connections hold in half messages and replies stays below
//! [`PROCESS_BYTES_MAX`]; one user leaves a quarter of it to others. What is held comes back on
//! drop.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use brahman_card::wire::frame::Reservation;

/// What messages on their way may hold in one process: sixteen of the longest, or 60,000 usual
/// ones.
pub const PROCESS_BYTES_MAX: usize = 256 << 20;
/// A buffer of up to this size is not counted.
const SHORT_BYTES: usize = 32 * 1024;
/// What one user's may hold of it.
const USER_BYTES_MAX: usize = PROCESS_BYTES_MAX / 4 * 3;

#[derive(Debug, Default)]
struct HeldMemory {
    total: usize,
    users: HashMap<u32, usize>,
}

impl HeldMemory {
    /// Replaces `before` bytes of a user by `after`, if there are so many.
    fn exchange(&mut self, uid: u32, before: usize, after: usize) -> bool {
        let user = self.users.get(&uid).copied().unwrap_or(0) - before + after;
        let total = self.total - before + after;
        if after > before && (total > PROCESS_BYTES_MAX || user > USER_BYTES_MAX) {
            return false;
        }
        self.total = total;
        if user == 0 {
            self.users.remove(&uid);
        } else {
            self.users.insert(uid, user);
        }
        true
    }
}

static HELD: LazyLock<Mutex<HeldMemory>> = LazyLock::new(Mutex::default);

fn held() -> MutexGuard<'static, HeldMemory> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one buffer holds on behalf of a user.
#[derive(Debug)]
pub struct Charge {
    uid: u32,
    bytes: usize,
}

impl Charge {
    /// Nothing yet.
    #[must_use]
    pub fn of(uid: u32) -> Self {
        Self { uid, bytes: 0 }
    }
}

impl Reservation for Charge {
    fn resize(&mut self, bytes: usize) -> bool {
        // Short messages have room whatever the long ones hold: the number of connections bounds
        // them.
        let bytes = if bytes <= SHORT_BYTES { 0 } else { bytes };
        if bytes == self.bytes {
            return true;
        }
        let granted = held().exchange(self.uid, self.bytes, bytes);
        if granted {
            self.bytes = bytes;
        }
        granted
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            held().exchange(self.uid, self.bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_a_quarter_and_all_comes_back() {
        let mut held = HeldMemory::default();
        let step = 16 << 20;
        let taken = (0..100).filter(|_| held.exchange(1, 0, step)).count();
        assert_eq!(taken, 12);
        let others = (0..100).filter(|_| held.exchange(2, 0, step)).count();
        assert_eq!(others, 4, "what is left");
        assert!(held.exchange(1, step, 8 << 20), "less is always granted");
        assert!(!held.exchange(2, 0, step));
        for _ in 0..11 {
            held.exchange(1, step, 0);
        }
        held.exchange(1, 8 << 20, 0);
        for _ in 0..4 {
            held.exchange(2, step, 0);
        }
        assert!(held.total == 0 && held.users.is_empty());
    }
}
