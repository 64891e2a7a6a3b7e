//! Threads that work on disks that may hang. One whose work is done waits a while for more: to
//! begin one takes longer than a look does.
//!
//! Invariants: work never waits for other work, so what hangs holds up nothing else; what is given
//! to a thread is done, whenever that would end; few wait, and none for ever.

use std::io;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::super::lock;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that wait for work, at most.
const IDLE_MAX: usize = 4;
/// How long one waits.
const IDLE_LIFE: Duration = Duration::from_secs(10);

/// Where those that wait hear of work, by their numbers.
struct Idle {
    next: u64,
    waiting: Vec<(u64, mpsc::SyncSender<Work>)>,
}

static IDLE: Mutex<Idle> = Mutex::new(Idle { next: 0, waiting: Vec::new() });

/// Has a thread do it.
///
/// # Errors
/// If there is none to be had.
pub(super) fn run(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let waiting = lock(&IDLE).waiting.pop();
    let mut work: Work = Box::new(work);
    if let Some((_, worker)) = waiting {
        match worker.send(work) {
            Ok(()) => return Ok(()),
            // Its last work has ended it.
            Err(mpsc::SendError(back)) => work = back,
        }
    }
    let all = move || {
        let mut next = Some(work);
        while let Some(work) = next.take() {
            work();
            next = more();
        }
    };
    std::thread::Builder::new().name("look".to_owned()).spawn(all).map(drop)
}

/// Waits for more work; none if enough wait already, or it takes too long.
fn more() -> Option<Work> {
    let (sender, work) = mpsc::sync_channel(1);
    let number = {
        let mut idle = lock(&IDLE);
        if idle.waiting.len() >= IDLE_MAX {
            return None;
        }
        let number = idle.next;
        idle.next += 1;
        idle.waiting.push((number, sender));
        number
    };
    if let Ok(work) = work.recv_timeout(IDLE_LIFE) {
        return Some(work);
    }
    let mut idle = lock(&IDLE);
    let own = idle.waiting.iter().position(|(other, _)| *other == number);
    if let Some(own) = own {
        idle.waiting.remove(own);
        return None;
    }
    drop(idle);
    // Somebody has taken it from the list a moment ago, and sends.
    work.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_is_done_and_none_waits_for_what_hangs() {
        let (held, never) = mpsc::channel::<()>();
        run(move || assert!(never.recv().is_err(), "it is never told")).expect("a thread");
        let (tell, told) = mpsc::channel();
        for number in 0..100 {
            let tell = tell.clone();
            run(move || tell.send(number).expect("heard")).expect("a thread");
        }
        let mut heard: Vec<i32> =
            (0..100).map(|_| told.recv_timeout(IDLE_LIFE).expect("done")).collect();
        heard.sort_unstable();
        assert!(heard.into_iter().eq(0..100));
        assert!(lock(&IDLE).waiting.len() <= IDLE_MAX);
        drop(held);
    }
}
