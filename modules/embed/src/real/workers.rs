//! Inference threads: each takes the next batch, runs it through the session that all share, and answers whoever still waits.
//!
//! Invariants: a text whose output is none, or that the graph does not take, loses no other text of its batch; of batches whose attention
//! takes much memory one runs at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brahman_card::Fault;
use brahman_card::interface::embed::error::BadOutput;
use brahman_sidecar::{Deadline, chain};
use tokio::sync::oneshot;

use super::batch::{Class, Planner};
use super::cache::{Cache, ContentHash, TokenCounts, is_sound};
use super::runtime::{Row, Runner};

/// What a waiter gets.
pub(super) type VectorOutcome = Result<Arc<[f32]>, Fault>;

/// Pairs of tokens (rows times width times width) in a batch above which no other such batch runs at the same time: a text of 2,048
/// tokens alone has so many, and twelve heads of it take 200 MB.
const HEAVY_ABOVE: usize = 4 << 20;

/// A text on its way through the model.
pub(super) struct Item {
    pub(super) content: ContentHash,
    pub(super) ids: Vec<u32>,
    /// Tokens at the beginning that are not pooled.
    pub(super) skip: u32,
    /// What there is to say of its tokens.
    pub(super) counts: Option<TokenCounts>,
}

/// Texts that go through the model together.
struct Batch {
    items: Vec<Item>,
    /// Whether it is a lone text with every thread idle.
    alone: bool,
    is_heavy: bool,
}

#[derive(Default)]
struct QueueState {
    planner: Option<Planner<Item>>,
    /// Heavy batches that wait for the one that runs.
    heavy: VecDeque<Vec<Item>>,
    /// Whether a heavy batch runs.
    is_heavy_running: bool,
    /// Who waits for which content: one computation serves them all.
    waiters: HashMap<ContentHash, Vec<oneshot::Sender<VectorOutcome>>>,
    stop: bool,
}

/// The queue in front of the threads.
pub(super) struct Queue {
    waiting: Mutex<QueueState>,
    work: Condvar,
    idle: AtomicUsize,
    pub(super) computed: AtomicU64,
    pub(super) cancelled: AtomicU64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(budget: usize, attention: usize) -> Arc<Self> {
        let waiting = QueueState { planner: Some(Planner::new(budget, attention)), ..QueueState::default() };
        Arc::new(Self { waiting: Mutex::new(waiting), work: Condvar::new(), idle: 0.into(), computed: 0.into(), cancelled: 0.into() })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Texts waiting.
    pub(super) fn len(&self) -> usize {
        let waiting = self.lock();
        waiting.planner.as_ref().map_or(0, Planner::len) + waiting.heavy.iter().map(Vec::len).sum::<usize>()
    }

    /// Joins the wait for content that somebody else has asked for already.
    pub(super) fn join(&self, content: &ContentHash) -> Option<oneshot::Receiver<VectorOutcome>> {
        let mut waiting = self.lock();
        let waiters = waiting.waiters.get_mut(content)?;
        let (sender, receiver) = oneshot::channel();
        waiters.push(sender);
        Some(receiver)
    }

    /// Queues texts. What somebody else has begun to compute meanwhile is waited for and not computed again.
    pub(super) fn push(&self, class: Class, deadline: Deadline, texts: Vec<Item>) -> Vec<oneshot::Receiver<VectorOutcome>> {
        let mut receivers = Vec::with_capacity(texts.len());
        let mut waiting = self.lock();
        for item in texts {
            let (sender, receiver) = oneshot::channel();
            receivers.push(receiver);
            let waiters = waiting.waiters.entry(item.content).or_default();
            waiters.push(sender);
            if waiters.len() == 1
                && let Some(planner) = &mut waiting.planner
            {
                planner.push(class, deadline, item.ids.len(), item);
            }
        }
        drop(waiting);
        self.work.notify_all();
        receivers
    }

    /// The next batch of texts that somebody still waits for.
    fn next(&self, threads: usize) -> Option<Batch> {
        let mut waiting = self.lock();
        loop {
            if waiting.stop {
                return None;
            }
            let deferred = if waiting.is_heavy_running { None } else { waiting.heavy.pop_front() };
            let items = deferred.unwrap_or_else(|| waiting.planner.as_mut().map(Planner::next_batch).unwrap_or_default());
            if items.is_empty() {
                self.idle.fetch_add(1, Ordering::Relaxed);
                waiting = self.work.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                self.idle.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let before = items.len();
            let waiters = &mut waiting.waiters;
            let items: Vec<Item> = items.into_iter().filter(|item| waited_for(waiters, &item.content)).collect();
            self.cancelled.fetch_add((before - items.len()) as u64, Ordering::Relaxed);
            if items.is_empty() {
                continue;
            }
            let width = items.iter().map(|item| item.ids.len()).max().unwrap_or(0);
            let is_heavy = items.len().saturating_mul(width).saturating_mul(width) > HEAVY_ABOVE;
            if is_heavy && waiting.is_heavy_running {
                waiting.heavy.push_back(items);
                continue;
            }
            waiting.is_heavy_running |= is_heavy;
            let is_last = waiting.planner.as_ref().is_none_or(Planner::is_empty) && waiting.heavy.is_empty();
            let alone = items.len() == 1 && is_last && self.idle.load(Ordering::Relaxed) + 1 >= threads;
            return Some(Batch { items, alone, is_heavy });
        }
    }

    /// Lets the next heavy batch run.
    fn end_heavy(&self) {
        self.lock().is_heavy_running = false;
        self.work.notify_all();
    }

    fn answer(&self, content: &ContentHash, done: &VectorOutcome) {
        let waiters = self.lock().waiters.remove(content);
        for waiter in waiters.into_iter().flatten() {
            // One that hung up needs no answer.
            let _ = waiter.send(done.clone());
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
    }
}

/// Whether anybody still waits for this content; if not, it is forgotten.
fn waited_for(waiters: &mut HashMap<ContentHash, Vec<oneshot::Sender<VectorOutcome>>>, content: &ContentHash) -> bool {
    let live = waiters.get_mut(content).is_some_and(|list| {
        list.retain(|waiter| !waiter.is_closed());
        !list.is_empty()
    });
    if !live {
        waiters.remove(content);
    }
    live
}

/// Starts the threads; `wide` is for a text alone while no other thread has work.
pub(super) fn start(queue: &Arc<Queue>, runner: Runner, wide: Option<Runner>, threads: usize, results: Results) -> std::io::Result<()> {
    let (runner, wide, results) = (Arc::new(runner), Arc::new(Mutex::new(wide)), Arc::new(results));
    for i in 0..threads {
        let (queue, runner, wide, results) = (Arc::clone(queue), Arc::clone(&runner), Arc::clone(&wide), Arc::clone(&results));
        let work = move || {
            // Whoever waits for a lost thread waits for ever; a new process does not.
            let _ends_the_process = EndOfProcess;
            while let Some(Batch { items, alone, is_heavy }) = queue.next(threads) {
                match wide.try_lock() {
                    Ok(wide) if alone && wide.is_some() => compute(&queue, &results, wide.as_ref().unwrap_or(&runner), &items),
                    _ => compute(&queue, &results, &runner, &items),
                }
                if is_heavy {
                    queue.end_heavy();
                }
            }
        };
        std::thread::Builder::new().name(format!("infer-{i}")).spawn(work)?;
    }
    Ok(())
}

/// Where vectors are kept, and what they have to be like.
pub(super) struct Results {
    pub(super) cache: Arc<Cache>,
    pub(super) is_normalized: bool,
}

/// Runs a batch and answers for it; if it does not go through, each of its texts by itself.
fn compute(queue: &Queue, results: &Results, runner: &Runner, items: &[Item]) {
    let rows: Vec<Row<'_>> = items.iter().map(|item| Row { ids: &item.ids, skip: item.skip }).collect();
    let outcome = runner.forward(&rows).map_err(InferenceError::from).and_then(|vectors| {
        // As many answers as questions, or none.
        if vectors.len() == items.len() { Ok(vectors) } else { Err(InferenceError::Count { vectors: vectors.len(), texts: items.len() }) }
    });
    match outcome {
        Ok(vectors) => {
            queue.computed.fetch_add(items.len() as u64, Ordering::Relaxed);
            deliver(queue, results, items, vectors);
        }
        Err(error) if items.len() > 1 => {
            tracing::warn!(texts = items.len(), "a batch does not go through, its texts are tried one by one: {}", chain(&error));
            for item in items {
                compute(queue, results, runner, std::slice::from_ref(item));
            }
        }
        Err(error) => {
            tracing::error!("inference failed: {}", chain(&error));
            queue.computed.fetch_add(items.len() as u64, Ordering::Relaxed);
            let fault = bad_output("the model does not take this text; the module's log has the reason");
            for item in items {
                queue.answer(&item.content, &Err(fault.clone()));
            }
        }
    }
}

/// The fault of a text without a vector; whoever knows its place in the call adds it.
pub(super) fn bad_output(message: &str) -> Fault {
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

/// Why a batch has no vectors.
#[derive(Debug, thiserror::Error)]
enum InferenceError {
    /// ONNX Runtime says why.
    #[error(transparent)]
    Runtime(#[from] ort::Error),
    /// It gave too many or too few.
    #[error("{vectors} vectors came for {texts} texts")]
    Count { vectors: usize, texts: usize },
}

fn deliver(queue: &Queue, results: &Results, items: &[Item], vectors: Vec<Vec<f32>>) {
    for (item, vector) in items.iter().zip(vectors) {
        let done: VectorOutcome = if is_sound(&vector, results.is_normalized) {
            Ok(vector.into())
        } else {
            Err(bad_output("the model's output for this text is not finite, or zero"))
        };
        // Kept before it is answered, so that whoever asks next finds it.
        if let Ok(vector) = &done {
            results.cache.put(&item.content, vector, item.counts);
        }
        queue.answer(&item.content, &done);
    }
}
