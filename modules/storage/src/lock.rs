//! Databases that one process holds at a time.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// A predecessor may hold a lock a little longer than it lives: sled's thread that writes in the
/// background lets go last.
const LONGEST: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Opens the sled database in `folder`, again and again for a moment while another holds it, or
/// looks whether one does. `is_refusal` tells errors that a lock may have caused.
pub(crate) fn once_unlocked<T, E>(
    folder: &Path,
    is_refusal: impl Fn(&E) -> bool,
    mut open: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    // The file that sled locks, in the same way.
    let (file, began) = (folder.join("db"), Instant::now());
    loop {
        let is_free = wait(&file, LONGEST.saturating_sub(began.elapsed()));
        match open() {
            // What fails though nobody holds it may have met one who looked as well.
            Err(error)
                if is_free && is_refusal(&error) && file.exists() && began.elapsed() < LONGEST =>
            {
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Whether somebody holds the sled database in `folder` just now.
pub(crate) fn is_held(folder: &Path) -> bool {
    !wait(&folder.join("db"), Duration::ZERO)
}

/// Whether nobody holds the lock of a file, at once or before `longest` is over.
fn wait(file: &Path, longest: Duration) -> bool {
    let began = Instant::now();
    loop {
        let held = File::open(file)
            .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if !held || began.elapsed() >= longest {
            return !held;
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        assert!(wait(&path, LONGEST), "where no file is nobody holds it");
        let file = File::create(&path).expect("created");
        file.lock().expect("locked");
        assert!(!wait(&path, PAUSE));
        let holder = std::thread::spawn(move || {
            std::thread::sleep(2 * PAUSE);
            drop(file);
        });
        assert!(wait(&path, LONGEST));
        holder.join().expect("let go");
        File::open(&path).expect("there").try_lock().expect("looking holds nothing");
    }

    #[test]
    fn sled_locks_the_file_that_is_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = sled::open(folder.path()).expect("opened");
        assert!(!wait(&folder.path().join("db"), Duration::ZERO));
        let holder = std::thread::spawn(move || {
            std::thread::sleep(2 * PAUSE);
            drop(db);
        });
        once_unlocked(
            folder.path(),
            |error| matches!(error, sled::Error::Io(_)),
            || sled::open(folder.path()),
        )
        .expect("opened again");
        holder.join().expect("let go");
    }
}
