//! Calls take turns on one thread: the model's cores are not shared, and its memory is counted
//! once.
//!
//! Higher priority goes first, then who came first. A call of higher priority than the one that
//! runs goes between two of its steps, on the same thread, and may be interrupted so in its turn;
//! the memory of both is counted together. The queue is bounded; who finds it full is told so.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brahman_card::Fault;

use crate::engine::{Engine, Way};

/// Calls that may wait: each holds a conversation.
const WAITING_MAX: usize = 64;
/// Stack of the thread: a walk goes as deep as removals share beginnings.
const STACK_BYTES: usize = 64 << 20;

/// Calls that are interrupted at once: each keeps its place on the stack and its state in memory.
const INTERRUPTED_MAX: usize = 4;

type Work = Box<dyn FnOnce(&dyn Engine, &Way) + Send>;
type SharedQueue = (Mutex<Queue>, Condvar);

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
    queue: Arc<SharedQueue>,
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
fn serve(queue: &Arc<SharedQueue>, engine: &Arc<dyn Engine>) {
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
        run(queue, engine, turn, 0);
    }
}

/// Carries out one turn, and between its steps those that go before it.
fn run(queue: &Arc<SharedQueue>, engine: &Arc<dyn Engine>, turn: Turn, interrupted: usize) {
    let (own, all, priority) = (Arc::clone(engine), Arc::clone(queue), turn.priority);
    let way: Way = Arc::new(move || {
        while interrupted < INTERRUPTED_MAX
            && let Some(next) = before(&all, priority)
        {
            run(&all, &own, next, interrupted + 1);
        }
    });
    // A panic is one call's end, not the service's nor that of the call it interrupts: its words go
    // with its work, and the caller hears that.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (turn.work)(&**engine, &way))) {
        // Dropped, it may panic in its turn.
        std::mem::forget(panic);
        tracing::error!("a call's work panicked; its caller got an error");
    }
}

/// The next turn of a higher priority.
fn before(queue: &SharedQueue, priority: i64) -> Option<Turn> {
    let mut held = lock(&queue.0);
    let goes_first = held.waiting.peek().is_some_and(|turn| turn.priority > priority);
    if goes_first { held.waiting.pop() } else { None }
}

impl Turns {
    /// Starts the thread.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn start(engine: Arc<dyn Engine>) -> std::io::Result<Self> {
        let queue = Arc::new((Mutex::new(Queue::default()), Condvar::new()));
        let own = Arc::clone(&queue);
        std::thread::Builder::new().name("score".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                // Nothing ends this thread but its own end: without it every call would wait for
                // ever.
                while let Err(panic) = catch_unwind(AssertUnwindSafe(|| serve(&own, &engine))) {
                    // Dropped, it may panic in its turn.
                    std::mem::forget(panic);
                    tracing::error!("the scoring thread panicked, and goes on");
                }
            },
        )?;
        Ok(Self { queue })
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    /// `Overloaded` if it is full.
    pub fn take(
        &self,
        priority: i64,
        work: impl FnOnce(&dyn Engine, &Way) + Send + 'static,
    ) -> Result<(), Fault> {
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
        turns
            .take(0, move |_, _| {
                begin.send(()).and(held.recv().map_err(|_| mpsc::SendError(()))).expect("held");
            })
            .expect("a place");
        begun.recv().expect("it runs");
        turns.take(9, |_, _| panic!("as this test wants")).expect("a place");
        for (priority, name) in [(0, "a"), (1, "b"), (0, "c")] {
            let tell = tell.clone();
            turns.take(priority, move |_, _| tell.send(name).expect("heard")).expect("a place");
        }
        (4..WAITING_MAX).for_each(|_| turns.take(-1, |_, _| ()).expect("a place"));
        assert!(
            turns
                .take(5, |_, _| ())
                .is_err_and(|fault| fault.name == "org.brahman.Broker.Overloaded")
        );
        hold.send(()).expect("it waits");
        let order: Vec<&str> = told.iter().take(3).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn a_call_of_higher_priority_goes_between_the_steps_of_a_long_one() {
        let turns = Turns::start(Arc::new(Mock::default())).expect("a thread");
        let ((tell, told), (begin, begun), (step, steps)) =
            (mpsc::channel(), mpsc::channel(), mpsc::channel::<()>());
        let own = tell.clone();
        let long = move |_: &dyn Engine, way: &Way| {
            begin.send(()).expect("heard");
            while steps.recv().is_ok() {
                way();
                own.send("step").expect("heard");
            }
        };
        turns.take(0, long).expect("a place");
        begun.recv().expect("it runs");
        for (priority, name) in [(0, "same"), (-1, "lower"), (5, "higher"), (7, "highest")] {
            let tell = tell.clone();
            turns
                .take(priority, move |_, way: &Way| {
                    way();
                    tell.send(name).expect("heard");
                })
                .expect("a place");
        }
        turns.take(6, |_, _| panic!("as this test wants")).expect("a place");
        step.send(()).expect("it waits");
        let order: Vec<&str> = told.iter().take(3).collect();
        assert_eq!(order, ["highest", "higher", "step"], "the panic between ends neither");
        drop(step);
        assert_eq!(told.iter().take(2).collect::<Vec<_>>(), ["same", "lower"]);
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
            .take(0, move |_, _| {
                let _held = tell;
                std::panic::panic_any(Again);
            })
            .expect("a place");
        assert!(told.recv().is_err(), "its caller hears that nothing comes");
        let (tell, told) = mpsc::channel();
        turns.take(0, move |_, _| tell.send(7).expect("heard")).expect("a place");
        assert_eq!(told.recv(), Ok(7));
    }
}
