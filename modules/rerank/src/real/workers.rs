//! Inference threads: each takes the next pass, runs it through the session that all share, and answers whoever still waits.
//!
//! Calls take turns, a pass each, so that a short one does not wait for a long one to end. Invariants: a pair whose output is none, or that
//! the graph does not take, loses no other; of passes whose attention takes much memory one runs at a time; how many pairs wait is bounded;
//! a call whose caller has hung up is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brahman_card::Fault;
use brahman_card::interface::rerank::error::BadOutput;
use brahman_models::session::TokenRow;
use brahman_sidecar::chain;
use tokio::sync::mpsc;

use super::reader::PairTokens;
use super::runner::{Runner, row};

/// Pairs of tokens (rows times width times width) in a pass above which no other such pass runs at the same time: a pair of 2,048 tokens
/// alone has so many, and twelve heads of it take 200 MB.
const HEAVY_ABOVE: usize = 4 << 20;
/// Pairs that may wait: their tokens take some 4 KB each, so 256 MB at most, and a call has at most a sixth of them.
const WAITING_MAX: usize = 65_536;
/// When whoever finds the queue full may come back.
const RETRY_MS: u64 = 1000;

/// How relevant the texts of one pass are, by their places among the call's pairs.
pub(super) type PassOutcome = Vec<(usize, Result<f64, Fault>)>;

/// Pairs that go through the model together, by their places.
struct Batch {
    places: Vec<usize>,
    is_heavy: bool,
}

/// What is left of a call.
struct Job {
    pairs: Arc<Vec<PairTokens>>,
    batches: VecDeque<Batch>,
    answers: mpsc::Sender<PassOutcome>,
}

/// One pass of it.
struct Pass {
    pairs: Arc<Vec<PairTokens>>,
    batch: Batch,
    answers: mpsc::Sender<PassOutcome>,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    /// Pairs in all of them.
    waiting: usize,
    /// Whether a heavy pass runs.
    is_heavy_running: bool,
    stop: bool,
}

impl QueueState {
    /// Drops the calls that nobody waits for; gives how many pairs they had.
    fn drop_abandoned(&mut self) -> usize {
        let before = self.waiting;
        let waiting = &mut self.waiting;
        self.jobs.retain(|job| {
            let is_abandoned = job.answers.is_closed();
            if is_abandoned {
                *waiting -= job.batches.iter().map(|batch| batch.places.len()).sum::<usize>();
            }
            !is_abandoned
        });
        before - self.waiting
    }

    /// The next pass that may run now; the call that it is of goes behind the others.
    fn take(&mut self) -> Option<Pass> {
        let is_heavy_running = self.is_heavy_running;
        let may_run = |job: &Job| job.batches.front().is_some_and(|batch| !(batch.is_heavy && is_heavy_running));
        let at = self.jobs.iter().position(may_run)?;
        let mut job = self.jobs.remove(at)?;
        let batch = job.batches.pop_front()?;
        self.waiting -= batch.places.len();
        self.is_heavy_running |= batch.is_heavy;
        let (pairs, answers) = (Arc::clone(&job.pairs), job.answers.clone());
        if !job.batches.is_empty() {
            self.jobs.push_back(job);
        }
        Some(Pass { pairs, batch, answers })
    }
}

/// The queue in front of the threads.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    work: Condvar,
    pub(super) computed: AtomicU64,
    pub(super) cancelled: AtomicU64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pairs waiting.
    pub(super) fn len(&self) -> usize {
        self.lock().waiting
    }

    /// Queues a call's pairs, in these passes. The answers end once each pair has one, or the threads have stopped.
    pub(super) fn push(&self, pairs: &Arc<Vec<PairTokens>>, passes: Vec<Vec<usize>>) -> Result<mpsc::Receiver<PassOutcome>, Fault> {
        // A place for each pass: no thread ever waits for a caller.
        let (answers, receiver) = mpsc::channel(passes.len().max(1));
        let batch = |places: Vec<usize>| {
            let width = places.iter().filter_map(|at| pairs.get(*at)).map(|pair| pair.ids.len()).max().unwrap_or(0);
            Batch { is_heavy: places.len().saturating_mul(width).saturating_mul(width) > HEAVY_ABOVE, places }
        };
        let batches: VecDeque<Batch> = passes.into_iter().map(batch).collect();
        if batches.is_empty() {
            return Ok(receiver);
        }
        let mut state = self.lock();
        if state.stop {
            return Ok(receiver);
        }
        let waiting = state.waiting + pairs.len();
        if waiting > WAITING_MAX {
            return Err(Fault::overloaded(format!("{} pairs are waiting, and {} more are too many", state.waiting, pairs.len()), RETRY_MS));
        }
        state.waiting = waiting;
        state.jobs.push_back(Job { pairs: Arc::clone(pairs), batches, answers });
        drop(state);
        self.work.notify_all();
        Ok(receiver)
    }

    /// The next pass of a call that somebody still waits for; none once the threads are to stop.
    fn next(&self) -> Option<Pass> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            self.cancelled.fetch_add(state.drop_abandoned() as u64, Ordering::Relaxed);
            if let Some(pass) = state.take() {
                return Some(pass);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the next heavy pass run.
    fn end_heavy(&self) {
        self.lock().is_heavy_running = false;
        self.work.notify_all();
    }

    /// Stops the threads after their present pass. Whoever waits is told by the end of the answers.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        state.jobs.clear();
        state.waiting = 0;
        drop(state);
        self.work.notify_all();
    }
}

/// Starts the threads.
pub(super) fn start(queue: &Arc<Queue>, runner: Runner, threads: usize) -> std::io::Result<()> {
    let runner = Arc::new(runner);
    for i in 0..threads {
        let (queue, runner) = (Arc::clone(queue), Arc::clone(&runner));
        let work = move || {
            // Whoever waits for a lost thread waits for ever; a new process does not.
            let _ends_the_process = EndOfProcess;
            while let Some(Pass { pairs, batch, answers }) = queue.next() {
                let outcome = compute(&runner, &pairs, &batch.places);
                queue.computed.fetch_add(batch.places.len() as u64, Ordering::Relaxed);
                if batch.is_heavy {
                    queue.end_heavy();
                }
                // One that hung up needs no answer, and there is room for all others.
                let _ = answers.try_send(outcome);
            }
        };
        std::thread::Builder::new().name(format!("infer-{i}")).spawn(work)?;
    }
    Ok(())
}

/// Runs a pass; if it does not go through, each of its pairs by itself.
fn compute(runner: &Runner, pairs: &[PairTokens], places: &[usize]) -> PassOutcome {
    let rows: Vec<TokenRow<'_>> = places.iter().filter_map(|at| pairs.get(*at)).map(row).collect();
    let outcome = runner.relevances(&rows).map_err(InferenceError::from).and_then(|numbers| {
        // As many answers as questions, or none.
        let (numbers_count, pairs) = (numbers.len(), places.len());
        if numbers_count == pairs { Ok(numbers) } else { Err(InferenceError::Count { numbers: numbers_count, pairs }) }
    });
    match outcome {
        Ok(numbers) => places.iter().copied().zip(numbers.into_iter().map(sound)).collect(),
        Err(error) if places.len() > 1 => {
            tracing::warn!(pairs = places.len(), "a pass does not go through, its pairs are tried one by one: {}", chain(&error));
            places.iter().flat_map(|at| compute(runner, pairs, std::slice::from_ref(at))).collect()
        }
        Err(error) => {
            tracing::error!("inference failed: {}", chain(&error));
            let fault = bad_output("the model does not take this text; the module's log has the reason");
            places.iter().map(|at| (*at, Err(fault.clone()))).collect()
        }
    }
}

fn sound(relevance: f64) -> Result<f64, Fault> {
    if relevance.is_finite() { Ok(relevance) } else { Err(bad_output("the model's output for this text is not finite")) }
}

/// The fault of a text without a score; whoever knows its place in the call adds it.
fn bad_output(message: &str) -> Fault {
    Fault::of(&BadOutput { index: None }, false, message)
}

/// Ends the process if its thread panics, so that init starts it anew and the broker asks elsewhere meanwhile.
struct EndOfProcess;

impl Drop for EndOfProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("an inference thread panicked: this process ends");
            std::process::abort();
        }
    }
}

/// Why a pass has no numbers.
#[derive(Debug, thiserror::Error)]
enum InferenceError {
    /// ONNX Runtime says why.
    #[error(transparent)]
    Runtime(#[from] ort::Error),
    /// It gave too many or too few.
    #[error("{numbers} numbers came for {pairs} pairs")]
    Count { numbers: usize, pairs: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(lengths: &[usize]) -> Arc<Vec<PairTokens>> {
        let pair = |length: &usize| {
            let (ids, types) = (vec![0; *length], vec![0; *length]);
            PairTokens { tokens: u32::try_from(*length).expect("short"), ids, types, is_least: false, cuts_query: false }
        };
        Arc::new(lengths.iter().map(pair).collect())
    }

    fn each_alone(count: usize) -> Vec<Vec<usize>> {
        (0..count).map(|at| vec![at]).collect()
    }

    #[test]
    fn calls_take_turns_and_one_that_nobody_waits_for_is_dropped() {
        let queue = Queue::default();
        let (long, short, gone) = (pairs(&[1; 5]), pairs(&[2; 2]), pairs(&[3; 4]));
        let _waits = queue.push(&long, each_alone(5)).expect("queued");
        drop(queue.push(&gone, each_alone(4)).expect("queued"));
        let _waits_too = queue.push(&short, each_alone(2)).expect("queued");
        let order: Vec<usize> = (0..7).map(|_| queue.next().expect("a pass").pairs[0].ids.len()).collect();
        assert_eq!(order, [1, 2, 1, 2, 1, 1, 1]);
        assert_eq!((queue.len(), queue.cancelled.load(Ordering::Relaxed)), (0, 4));
    }

    #[test]
    fn heavy_passes_run_one_at_a_time_and_others_pass_them_by() {
        let queue = Queue::default();
        let (heavy, light) = (pairs(&[3000, 3000]), pairs(&[5]));
        let _waits = queue.push(&heavy, each_alone(2)).expect("queued");
        let _waits_too = queue.push(&light, each_alone(1)).expect("queued");
        assert_eq!(queue.next().expect("a pass").pairs[0].ids.len(), 3000);
        assert_eq!(queue.next().expect("a pass").pairs[0].ids.len(), 5);
        assert!(queue.lock().take().is_none());
        queue.end_heavy();
        assert_eq!(queue.next().expect("a pass").pairs[0].ids.len(), 3000);
    }

    #[test]
    fn a_full_queue_says_so_and_one_that_stops_ends_the_answers() {
        let queue = Queue::default();
        let many = pairs(&vec![1; WAITING_MAX]);
        let mut waits = queue.push(&many, each_alone(WAITING_MAX)).expect("queued");
        let full = queue.push(&pairs(&[1]), each_alone(1)).expect_err("too many");
        assert!(full.retryable(), "{full}");
        queue.stop();
        assert!(queue.next().is_none() && waits.blocking_recv().is_none());
        let mut late = queue.push(&pairs(&[1]), each_alone(1)).expect("accepted");
        assert!(late.blocking_recv().is_none(), "nobody is left to answer");
    }
}
