//! Stores that one process holds at a time.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// A predecessor may hold a lock a little longer than it lives: sled's thread that writes in the background lets go last.
const LONGEST: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Opens a sled database, again and again for a moment while another holds its lock.
///
/// # Errors
/// Those of `open`, the last one.
pub fn once_unlocked<T, E: Display>(mut open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match open() {
            // sled tells a lock from other errors by its words alone.
            Err(held) if held.to_string().contains("acquire lock") && began.elapsed() < LONGEST => std::thread::sleep(PAUSE),
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_nothing_else() {
        let mut tries = 0;
        let opened = once_unlocked(|| {
            tries += 1;
            if tries < 3 { Err("could not acquire lock on \"db\"") } else { Ok(tries) }
        });
        assert_eq!(opened, Ok(3));
        let mut tries = 0;
        let damaged: Result<(), _> = once_unlocked(|| {
            tries += 1;
            Err("damaged")
        });
        assert_eq!((damaged, tries), (Err("damaged"), 1));
    }
}
