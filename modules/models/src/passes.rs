//! Passes through a model: what fits one (`budget`), the queue in front of the threads that run
//! them, and what becomes of one that does not go through (`rows`).
//!
//! Invariants: of passes whose attention takes much memory one runs at a time; a row that the graph
//! does not take loses no other; as many answers come as rows went in, or the pass has failed; a
//! lost thread ends the process. Nothing here knows a text or what an answer is.

mod budget;
mod rows;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use self::budget::{GpuMemory, PROBE_ROWS, PROBE_WIDTH, PassBudget};
pub use self::rows::{NextTry, PassFailure, RowFailure, answers, next_try, run_rows};

use self::budget::attention;

/// Pairs of tokens in a pass above which no other such pass runs at the same time: a row of 2,048
/// tokens alone has so many, and twelve heads of it take 200 MB.
const HEAVY_ABOVE: usize = 4 << 20;
/// Most threads that may be asked for.
const THREADS_MAX: usize = 256;

/// Whether a pass of so many rows, padded to so many tokens, takes so much memory that no other
/// such pass may run beside it.
#[must_use]
pub fn is_heavy(rows: usize, width: usize) -> bool {
    attention(rows, width) > HEAVY_ABOVE
}

/// A variable of the environment that names no number of threads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: expected 1 to {THREADS_MAX}")]
pub struct ThreadsError {
    /// The variable of the environment.
    pub name: &'static str,
    /// What it says instead of a number.
    pub value: String,
}

/// How many threads a variable asks for; without it, one for each core.
///
/// # Errors
/// [`ThreadsError`].
pub fn threads_wanted(name: &'static str) -> Result<usize, ThreadsError> {
    match std::env::var(name).ok().filter(|value| !value.is_empty()) {
        Some(value) => value
            .parse()
            .ok()
            .filter(|n| (1..=THREADS_MAX).contains(n))
            .ok_or(ThreadsError { name, value }),
        None => Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
    }
}

/// What goes through the model together.
#[derive(Debug)]
pub struct Pass<W> {
    /// Its rows, and who waits for them.
    pub work: W,
    /// Whether no other such pass may run beside it.
    pub is_heavy: bool,
}

/// What the threads are doing when one of them asks for a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadsState {
    /// Whether a heavy pass runs: then no other may be given.
    pub is_heavy_running: bool,
    /// Other threads that have nothing to do.
    pub idle: usize,
}

/// What waits, and the order in which passes take it.
pub trait PassSchedule: Send + 'static {
    /// What a pass is made of.
    type Work;

    /// The next pass that may run now, if there is one.
    fn take(&mut self, threads: ThreadsState) -> Option<Pass<Self::Work>>;

    /// Rows that wait for a pass.
    fn waiting(&self) -> usize;

    /// Rows that were dropped since nobody waited for them any more.
    fn cancelled(&self) -> u64;

    /// The threads stop: what still waits will not run.
    fn stop(&mut self) {}
}

struct QueueState<S> {
    schedule: S,
    is_heavy_running: bool,
    idle: usize,
    is_stopped: bool,
}

/// The queue in front of the threads.
pub struct PassQueue<S> {
    state: Mutex<QueueState<S>>,
    work: Condvar,
    computed: AtomicU64,
}

impl<S: PassSchedule> std::fmt::Debug for PassQueue<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassQueue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl<S: PassSchedule> PassQueue<S> {
    /// A queue without threads.
    #[must_use]
    pub fn new(schedule: S) -> Arc<Self> {
        let state = QueueState { schedule, is_heavy_running: false, idle: 0, is_stopped: false };
        Arc::new(Self { state: Mutex::new(state), work: Condvar::new(), computed: 0.into() })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows that wait for a pass.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().schedule.waiting()
    }

    /// Rows that were dropped since nobody waited for them any more.
    #[must_use]
    pub fn cancelled(&self) -> u64 {
        self.lock().schedule.cancelled()
    }

    /// Rows that went through the model.
    #[must_use]
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// Counts rows that went through the model: before they are answered, so that whoever asks next
    /// finds them counted.
    pub fn count(&self, rows: usize) {
        self.computed.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Looks at what waits, or changes it, without waking a thread.
    pub fn with<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        change(&mut self.lock().schedule)
    }

    /// Adds to what waits and wakes the threads; `None`, with nothing added, once they have
    /// stopped.
    pub fn add<T>(&self, add: impl FnOnce(&mut S) -> T) -> Option<T> {
        let mut state = self.lock();
        if state.is_stopped {
            return None;
        }
        let added = add(&mut state.schedule);
        drop(state);
        self.work.notify_all();
        Some(added)
    }

    /// The next pass, waited for; none once the threads are to stop.
    fn next(&self) -> Option<Pass<S::Work>> {
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            let threads =
                ThreadsState { is_heavy_running: state.is_heavy_running, idle: state.idle };
            if let Some(pass) = state.schedule.take(threads) {
                state.is_heavy_running |= pass.is_heavy;
                return Some(pass);
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Lets the next heavy pass run.
    fn end_heavy(&self) {
        self.lock().is_heavy_running = false;
        self.work.notify_all();
    }

    /// Starts threads that run passes until [`stop`](Self::stop).
    ///
    /// # Errors
    /// As the system gives them.
    pub fn start(
        self: &Arc<Self>,
        threads: usize,
        run: impl Fn(&Self, S::Work) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let run = Arc::new(run);
        for i in 0..threads {
            let (queue, run) = (Arc::clone(self), Arc::clone(&run));
            let passes = move || {
                // Whoever waits for a lost thread waits for ever; a new process does not.
                let _ends_the_process = EndOfProcess;
                while let Some(Pass { work, is_heavy }) = queue.next() {
                    run(&queue, work);
                    if is_heavy {
                        queue.end_heavy();
                    }
                }
            };
            std::thread::Builder::new().name(format!("infer-{i}")).spawn(passes)?;
        }
        Ok(())
    }

    /// Stops the threads after their present pass.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.is_stopped = true;
        state.schedule.stop();
        drop(state);
        self.work.notify_all();
    }
}

/// Ends the process if its thread panics, so that init starts it anew and the broker asks elsewhere
/// meanwhile.
struct EndOfProcess;

impl Drop for EndOfProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("an inference thread panicked: this process ends");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc;

    use super::*;

    /// Passes in the order in which they came; a heavy one is put off while another runs.
    #[derive(Default)]
    struct InOrder(VecDeque<(u32, bool)>);

    impl PassSchedule for InOrder {
        type Work = u32;

        fn take(&mut self, threads: ThreadsState) -> Option<Pass<u32>> {
            let at =
                self.0.iter().position(|(_, is_heavy)| !(*is_heavy && threads.is_heavy_running))?;
            self.0.remove(at).map(|(work, is_heavy)| Pass { work, is_heavy })
        }

        fn waiting(&self) -> usize {
            self.0.len()
        }

        fn cancelled(&self) -> u64 {
            0
        }

        fn stop(&mut self) {
            self.0.clear();
        }
    }

    #[test]
    fn heavy_passes_run_one_at_a_time_and_others_pass_them_by() {
        let queue = PassQueue::new(InOrder::default());
        queue
            .add(|passes| passes.0.extend([(1, true), (2, true), (3, false)]))
            .expect("not stopped");
        let next = || queue.next().expect("a pass").work;
        assert_eq!((next(), next(), queue.waiting()), (1, 3, 1));
        queue.end_heavy();
        assert_eq!(next(), 2);
    }

    #[test]
    fn passes_of_much_attention_are_heavy() {
        assert!(is_heavy(2, 3000) && !is_heavy(1, 2048) && is_heavy(usize::MAX, usize::MAX));
    }

    #[test]
    fn threads_run_what_is_added_and_a_queue_that_stopped_takes_nothing() {
        let queue = PassQueue::new(InOrder::default());
        let (sender, receiver) = mpsc::channel();
        let run = move |queue: &PassQueue<InOrder>, work: u32| {
            queue.count(1);
            sender.send(work).expect("somebody listens");
        };
        queue.start(2, run).expect("threads");
        queue
            .add(|passes| passes.0.extend([(1, true), (2, true), (3, true)]))
            .expect("not stopped");
        let mut ran: Vec<u32> = receiver.iter().take(3).collect();
        ran.sort_unstable();
        assert_eq!((ran.as_slice(), queue.computed()), (&[1, 2, 3][..], 3));
        queue.stop();
        assert!(queue.add(|passes| passes.0.push_back((4, false))).is_none());
        assert!(queue.next().is_none() && queue.waiting() == 0);
    }
}
