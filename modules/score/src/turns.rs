//! Calls take turns on one thread: the model's cores are not shared, and its memory is counted once.
//!
//! Higher priority goes first, then who came first. The queue is bounded; who finds it full is told so.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brahman_card::Fault;

use crate::engine::Engine;

/// Calls that may wait: each holds a conversation.
const WAITING_MAX: usize = 64;
/// Stack of the thread: a walk goes as deep as removals share beginnings.
const STACK_BYTES: usize = 64 << 20;

type Work = Box<dyn FnOnce(&dyn Engine) + Send>;

struct Turn {
    priority: i64,
    number: u64,
    work: Work,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then(other.number.cmp(&self.number))
    }
}

#[derive(Default)]
struct Queue {
    waiting: BinaryHeap<Turn>,
    count: u64,
    closed: bool,
}

/// The thread and what waits for it.
pub struct Turns {
    queue: Arc<(Mutex<Queue>, Condvar)>,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").field("waiting", &self.waiting()).finish()
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries out what waits until the queue is closed.
fn serve(queue: &(Mutex<Queue>, Condvar), engine: &dyn Engine) {
    loop {
        let mut held = lock(&queue.0);
        let turn = loop {
            if let Some(turn) = held.waiting.pop() {
                break turn;
            }
            if held.closed {
                return;
            }
            held = queue.1.wait(held).unwrap_or_else(PoisonError::into_inner);
        };
        drop(held);
        // A panic is one call's end, not the service's: its words go with its work, and the caller hears that.
        if catch_unwind(AssertUnwindSafe(|| (turn.work)(engine))).is_err() {
            tracing::error!("a call's work panicked; its caller got an error");
        }
    }
}

impl Turns {
    /// Starts the thread.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn start(engine: Arc<dyn Engine>) -> std::io::Result<Self> {
        let queue = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let own = Arc::clone(&queue);
        std::thread::Builder::new().name("score".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            // Nothing ends this thread but its own end: without it every call would wait for ever.
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| serve(&own, &*engine))) {
                // Dropped, it may panic in its turn.
                std::mem::forget(panic);
                tracing::error!("the scoring thread panicked, and goes on");
            }
        })?;
        Ok(Self { queue })
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    /// `Overloaded` if it is full.
    pub fn take(&self, priority: i64, work: impl FnOnce(&dyn Engine) + Send + 'static) -> Result<(), Fault> {
        let mut held = lock(&self.queue.0);
        if held.waiting.len() >= WAITING_MAX {
            return Err(Fault::overloaded(format!("{WAITING_MAX} calls wait for the model"), 1000));
        }
        held.count += 1;
        let number = held.count;
        held.waiting.push(Turn { priority, number, work: Box::new(work) });
        self.queue.1.notify_one();
        Ok(())
    }

    /// How many calls wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.queue.0).waiting.len()
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        lock(&self.queue.0).closed = true;
        self.queue.1.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::mock::Mock;

    #[test]
    fn higher_goes_first_a_full_queue_says_so_and_a_panic_ends_one_call() {
        let turns = Turns::start(Arc::new(Mock::default())).expect("a thread");
        let ((hold, held), (tell, told)) = (mpsc::channel::<()>(), mpsc::channel());
        let (begin, begun) = mpsc::channel();
        turns.take(0, move |_| begin.send(()).and(held.recv().map_err(|_| mpsc::SendError(()))).expect("held")).expect("a place");
        begun.recv().expect("it runs");
        turns.take(9, |_| panic!("as this test wants")).expect("a place");
        for (priority, name) in [(0, "a"), (1, "b"), (0, "c")] {
            let tell = tell.clone();
            turns.take(priority, move |_| tell.send(name).expect("heard")).expect("a place");
        }
        (4..WAITING_MAX).for_each(|_| turns.take(-1, |_| ()).expect("a place"));
        assert!(turns.take(5, |_| ()).is_err_and(|fault| fault.name == "org.brahman.Broker.Overloaded"));
        hold.send(()).expect("it waits");
        let order: Vec<&str> = told.iter().take(3).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn no_panic_ends_the_thread_and_each_ends_its_own_call() {
        /// Panics again when the first panic is over.
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic!("as this test wants");
            }
        }
        let turns = Turns::start(Arc::new(Mock::default())).expect("a thread");
        let (tell, told) = mpsc::channel::<()>();
        turns
            .take(0, move |_| {
                let _held = tell;
                std::panic::panic_any(Again);
            })
            .expect("a place");
        assert!(told.recv().is_err(), "its caller hears that nothing comes");
        let (tell, told) = mpsc::channel();
        turns.take(0, move |_| tell.send(7).expect("heard")).expect("a place");
        assert_eq!(told.recv(), Ok(7));
    }
}
