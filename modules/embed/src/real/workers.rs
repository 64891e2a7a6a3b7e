//! Inference threads: each owns a session, takes the next batch, and answers whoever still waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brahman_card::Fault;
use brahman_card::interface::embed::error::BadOutput;
use brahman_sidecar::{Deadline, chain};
use tokio::sync::oneshot;

use super::batch::{Class, Planner};
use super::cache::{Cache, ContentHash};
use super::runtime::Runner;

/// What a waiter gets.
pub(super) type VectorOutcome = Result<Arc<[f32]>, Fault>;

/// A text on its way through the model.
struct Item {
    content: ContentHash,
    ids: Vec<u32>,
    tokens: Option<u32>,
}

#[derive(Default)]
struct QueueState {
    planner: Option<Planner<Item>>,
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
    pub(super) fn new(budget: usize) -> Arc<Self> {
        let waiting = QueueState { planner: Some(Planner::new(budget)), ..QueueState::default() };
        Arc::new(Self { waiting: Mutex::new(waiting), work: Condvar::new(), idle: 0.into(), computed: 0.into(), cancelled: 0.into() })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Texts waiting.
    pub(super) fn len(&self) -> usize {
        self.lock().planner.as_ref().map_or(0, Planner::len)
    }

    /// Joins the wait for content that somebody else has asked for already.
    pub(super) fn join(&self, content: &ContentHash) -> Option<oneshot::Receiver<VectorOutcome>> {
        let mut waiting = self.lock();
        let waiters = waiting.waiters.get_mut(content)?;
        let (sender, receiver) = oneshot::channel();
        waiters.push(sender);
        Some(receiver)
    }

    /// Queues texts: content, token ids, and how many tokens there were if the text was cut.
    pub(super) fn push(
        &self,
        class: Class,
        deadline: Deadline,
        texts: Vec<(ContentHash, Vec<u32>, Option<u32>)>,
    ) -> Vec<oneshot::Receiver<VectorOutcome>> {
        let mut receivers = Vec::with_capacity(texts.len());
        let mut waiting = self.lock();
        for (content, ids, tokens) in texts {
            let (sender, receiver) = oneshot::channel();
            receivers.push(receiver);
            let waiters = waiting.waiters.entry(content).or_default();
            waiters.push(sender);
            if waiters.len() == 1
                && let Some(planner) = &mut waiting.planner
            {
                planner.push(class, deadline, ids.len(), Item { content, ids, tokens });
            }
        }
        drop(waiting);
        self.work.notify_all();
        receivers
    }

    /// The next batch of texts that somebody still waits for, and whether it is a lone text with every thread idle.
    fn next(&self, threads: usize) -> Option<(Vec<Item>, bool)> {
        let mut waiting = self.lock();
        loop {
            if waiting.stop {
                return None;
            }
            let batch = waiting.planner.as_mut().map(Planner::next_batch).unwrap_or_default();
            if batch.is_empty() {
                self.idle.fetch_add(1, Ordering::Relaxed);
                waiting = self.work.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                self.idle.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let QueueState { waiters, planner, .. } = &mut *waiting;
            let before = batch.len();
            let live: Vec<Item> = batch.into_iter().filter(|item| waited_for(waiters, &item.content)).collect();
            self.cancelled.fetch_add((before - live.len()) as u64, Ordering::Relaxed);
            if live.is_empty() {
                continue;
            }
            let alone =
                live.len() == 1 && planner.as_ref().is_none_or(Planner::is_empty) && self.idle.load(Ordering::Relaxed) + 1 >= threads;
            return Some((live, alone));
        }
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

/// Starts a thread a session.
pub(super) fn start(queue: &Arc<Queue>, runners: Vec<Runner>, wide: Option<Runner>, cache: &Arc<Cache>) -> std::io::Result<()> {
    let threads = runners.len();
    let wide = Arc::new(Mutex::new(wide));
    for (i, mut runner) in runners.into_iter().enumerate() {
        let (queue, wide, cache) = (Arc::clone(queue), Arc::clone(&wide), Arc::clone(cache));
        let work = move || {
            // Whoever waits for a lost thread waits for ever; a new process does not.
            let _ends_the_process = EndOfProcess;
            while let Some((batch, alone)) = queue.next(threads) {
                let sequences: Vec<Vec<u32>> = batch.iter().map(|item| item.ids.clone()).collect();
                let outcome = match wide.try_lock() {
                    Ok(mut wide) if alone && wide.is_some() => {
                        wide.as_mut().map_or_else(|| runner.forward(&sequences), |wide| wide.forward(&sequences))
                    }
                    _ => runner.forward(&sequences),
                };
                queue.computed.fetch_add(batch.len() as u64, Ordering::Relaxed);
                deliver(&queue, &cache, &batch, outcome.map_err(InferenceError::from));
            }
        };
        std::thread::Builder::new().name(format!("infer-{i}")).spawn(work)?;
    }
    Ok(())
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

fn deliver(queue: &Queue, cache: &Cache, batch: &[Item], outcome: Result<Vec<Vec<f32>>, InferenceError>) {
    let outcome = match outcome {
        Ok(vectors) if vectors.len() != batch.len() => Err(InferenceError::Count { vectors: vectors.len(), texts: batch.len() }),
        other => other,
    };
    match outcome {
        Ok(vectors) => {
            for (item, vector) in batch.iter().zip(vectors) {
                let square: f32 = vector.iter().map(|x| x * x).sum();
                let done: VectorOutcome = if (square - 1.0).abs() < 1e-3 {
                    Ok(vector.into())
                } else {
                    Err(Fault::of(&BadOutput {}, false, "the model's output is not finite, or zero"))
                };
                // Kept before it is answered, so that whoever asks next finds it.
                if let Ok(vector) = &done {
                    cache.put(&item.content, vector, item.tokens);
                }
                queue.answer(&item.content, &done);
            }
        }
        Err(error) => {
            tracing::error!("inference failed: {}", chain(&error));
            let fault = Fault::of(&BadOutput {}, true, "inference failed; the module's log has the reason");
            for item in batch {
                queue.answer(&item.content, &Err(fault.clone()));
            }
        }
    }
}
