//! Calls that wait for the inference threads, each cut into passes: they take turns, a pass each,
//! so that a short one does not wait for a long one to end.
//!
//! Invariants: a pair whose output is none loses no other; how many pairs wait is bounded; a call
//! whose caller has hung up is dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::rerank::error::{BadOutput, OutOfMemory};
use brahman_models::passes::{
    Pass, PassQueue, PassSchedule, RowFailure, ThreadsState, is_heavy, run_rows,
};
use brahman_models::session::TokenRow;
use tokio::sync::mpsc;

use super::reader::PairTokens;
use super::runner::{Runner, row};

/// Pairs that may wait: their tokens take some 4 KB each, so 256 MB at most, and a call has at most
/// a sixth of them.
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
pub(super) struct JobPass {
    pairs: Arc<Vec<PairTokens>>,
    places: Vec<usize>,
    answers: mpsc::Sender<PassOutcome>,
}

/// The calls that wait.
#[derive(Default)]
pub(super) struct Calls {
    jobs: VecDeque<Job>,
    /// Pairs in all of them.
    waiting: usize,
    /// Pairs of calls that nobody waited for any more.
    cancelled: u64,
}

/// The queue in front of the threads.
pub(super) type CallQueue = PassQueue<Calls>;

impl Calls {
    /// Drops the calls that nobody waits for.
    fn drop_abandoned(&mut self) {
        let before = self.waiting;
        let waiting = &mut self.waiting;
        self.jobs.retain(|job| {
            let is_abandoned = job.answers.is_closed();
            if is_abandoned {
                *waiting -= job.batches.iter().map(|batch| batch.places.len()).sum::<usize>();
            }
            !is_abandoned
        });
        self.cancelled += (before - self.waiting) as u64;
    }

    fn push(&mut self, job: Job) -> Result<(), Fault> {
        let waiting = self.waiting + job.pairs.len();
        if waiting > WAITING_MAX {
            return Err(Fault::overloaded(
                format!(
                    "{} pairs are waiting, and {} more are too many",
                    self.waiting,
                    job.pairs.len()
                ),
                RETRY_MS,
            ));
        }
        self.waiting = waiting;
        self.jobs.push_back(job);
        Ok(())
    }
}

impl PassSchedule for Calls {
    type Work = JobPass;

    /// The call that the pass is of goes behind the others.
    fn take(&mut self, threads: ThreadsState) -> Option<Pass<JobPass>> {
        self.drop_abandoned();
        let may_run = |job: &Job| {
            job.batches.front().is_some_and(|batch| !(batch.is_heavy && threads.is_heavy_running))
        };
        let at = self.jobs.iter().position(may_run)?;
        let mut job = self.jobs.remove(at)?;
        let Batch { places, is_heavy } = job.batches.pop_front()?;
        self.waiting -= places.len();
        let (pairs, answers) = (Arc::clone(&job.pairs), job.answers.clone());
        if !job.batches.is_empty() {
            self.jobs.push_back(job);
        }
        Some(Pass { work: JobPass { pairs, places, answers }, is_heavy })
    }

    fn waiting(&self) -> usize {
        self.waiting
    }

    fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// Whoever waits is told by the end of the answers.
    fn stop(&mut self) {
        self.jobs.clear();
        self.waiting = 0;
    }
}

/// Queues a call's pairs, in these passes. The answers end once each pair has one, or the threads
/// have stopped.
pub(super) fn push(
    queue: &CallQueue,
    pairs: &Arc<Vec<PairTokens>>,
    passes: Vec<Vec<usize>>,
) -> Result<mpsc::Receiver<PassOutcome>, Fault> {
    // A place for each pass: no thread ever waits for a caller.
    let (answers, receiver) = mpsc::channel(passes.len().max(1));
    let batch = |places: Vec<usize>| {
        let width = places
            .iter()
            .filter_map(|at| pairs.get(*at))
            .map(|pair| pair.ids.len())
            .max()
            .unwrap_or(0);
        Batch { is_heavy: is_heavy(places.len(), width), places }
    };
    let batches: VecDeque<Batch> = passes.into_iter().map(batch).collect();
    if !batches.is_empty() {
        let job = Job { pairs: Arc::clone(pairs), batches, answers };
        // By a queue that has stopped the job is dropped, and with it the answers' other end.
        queue.add(|calls| calls.push(job)).unwrap_or(Ok(()))?;
    }
    Ok(receiver)
}

/// Runs a pass and answers for it.
pub(super) fn run(queue: &CallQueue, runner: &Runner, pass: &JobPass) {
    let JobPass { pairs, places, answers } = pass;
    let rows: Vec<TokenRow<'_>> = places.iter().filter_map(|at| pairs.get(*at)).map(row).collect();
    let relevances = run_rows(&rows, |rows| runner.relevances(rows));
    queue.count(places.len());
    let outcomes =
        rows.iter().zip(relevances).map(|(row, relevance)| sound(relevance, row.ids.len()));
    // One that hung up needs no answer, and there is room for all others.
    let _ = answers.try_send(places.iter().copied().zip(outcomes).collect());
}

/// What became of a pair of so many tokens.
fn sound(relevance: Result<f64, RowFailure>, tokens: usize) -> Result<f64, Fault> {
    match relevance {
        Ok(relevance) if relevance.is_finite() => Ok(relevance),
        Ok(_) => Err(bad_output("the model's output for this text is not finite")),
        Err(RowFailure::Refused) => {
            Err(bad_output("the model does not take this text; the module's log has the reason"))
        }
        Err(RowFailure::OutOfMemory) => Err(Fault::of(
            &OutOfMemory { index: None, tokens: tokens as u64 },
            false,
            format!(
                "its {tokens} tokens and the query's take more memory than the device has free: free some (`brahman gpu` says who holds it), or shorten the text"
            ),
        )),
    }
}

/// The fault of a text without a score; whoever knows its place in the call adds it.
fn bad_output(message: &str) -> Fault {
    Fault::of(&BadOutput { index: None }, false, message)
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::WireError as _;

    use super::*;

    const FREE: ThreadsState = ThreadsState { is_heavy_running: false, idle: 0 };

    /// Tokens of the first pair of the call whose pass is next.
    fn next(queue: &CallQueue) -> usize {
        queue.with(|calls| calls.take(FREE)).expect("a pass").work.pairs[0].ids.len()
    }

    fn pairs(lengths: &[usize]) -> Arc<Vec<PairTokens>> {
        let pair = |length: &usize| {
            let (ids, types) = (vec![0; *length], vec![0; *length]);
            PairTokens {
                tokens: u32::try_from(*length).expect("short"),
                ids,
                types,
                is_least: false,
                cuts_query: false,
            }
        };
        Arc::new(lengths.iter().map(pair).collect())
    }

    fn each_alone(count: usize) -> Vec<Vec<usize>> {
        (0..count).map(|at| vec![at]).collect()
    }

    #[test]
    fn calls_take_turns_and_one_that_nobody_waits_for_is_dropped() {
        let queue = PassQueue::new(Calls::default());
        let (long, short, gone) = (pairs(&[1; 5]), pairs(&[2; 2]), pairs(&[3; 4]));
        let _waits = push(&queue, &long, each_alone(5)).expect("queued");
        drop(push(&queue, &gone, each_alone(4)).expect("queued"));
        let _waits_too = push(&queue, &short, each_alone(2)).expect("queued");
        let order: Vec<usize> = (0..7).map(|_| next(&queue)).collect();
        assert_eq!(order, [1, 2, 1, 2, 1, 1, 1]);
        assert_eq!((queue.waiting(), queue.cancelled()), (0, 4));
    }

    #[test]
    fn a_pair_that_memory_does_not_hold_is_named_by_its_tokens() {
        let fault = sound(Err(RowFailure::OutOfMemory), 7001).expect_err("no score");
        assert_eq!(&*fault.name, OutOfMemory::NAME);
        assert_eq!(fault.parameters["tokens"], 7001);
        let other = sound(Err(RowFailure::Refused), 7001).expect_err("no score");
        assert_eq!(&*other.name, BadOutput::NAME);
        assert_eq!(sound(Ok(0.5), 3), Ok(0.5));
        assert!(sound(Ok(f64::NAN), 3).is_err());
    }

    #[test]
    fn a_heavy_pass_lets_others_pass_while_another_runs() {
        let queue = PassQueue::new(Calls::default());
        let (heavy, light) = (pairs(&[3000, 3000]), pairs(&[5]));
        let _waits = push(&queue, &heavy, each_alone(2)).expect("queued");
        let _waits_too = push(&queue, &light, each_alone(1)).expect("queued");
        let busy = ThreadsState { is_heavy_running: true, ..FREE };
        let lengths = |threads| {
            queue
                .with(|calls| calls.take(threads))
                .map(|pass| (pass.work.pairs[0].ids.len(), pass.is_heavy))
        };
        assert_eq!(lengths(FREE), Some((3000, true)));
        assert_eq!((lengths(busy), lengths(busy)), (Some((5, false)), None));
        assert_eq!(lengths(FREE), Some((3000, true)));
    }

    #[test]
    fn a_full_queue_says_so_and_one_that_stops_ends_the_answers() {
        let queue = PassQueue::new(Calls::default());
        let many = pairs(&vec![1; WAITING_MAX]);
        let mut waits = push(&queue, &many, each_alone(WAITING_MAX)).expect("queued");
        let full = push(&queue, &pairs(&[1]), each_alone(1)).expect_err("too many");
        assert!(full.retryable(), "{full}");
        queue.stop();
        assert!(queue.waiting() == 0 && waits.blocking_recv().is_none());
        let mut late = push(&queue, &pairs(&[1]), each_alone(1)).expect("accepted");
        assert!(late.blocking_recv().is_none(), "nobody is left to answer");
    }
}
