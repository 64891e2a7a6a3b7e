//! Texts that wait for the inference threads, and whoever waits for them: one computation serves
//! all who ask for the same content.
//!
//! Invariants: a text whose output is none loses no other text of its batch; a vector is kept
//! before it is answered; what nobody waits for is not computed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use brahman_card::Fault;
use brahman_card::interface::embed::error::{BadOutput, OutOfMemory};
use brahman_models::passes::{
    Pass, PassBudget, PassFailure, PassQueue, PassSchedule, RowFailure, ThreadsState, is_heavy,
    run_rows,
};
use brahman_sidecar::Deadline;
use tokio::sync::oneshot;

use super::batch::{Class, Planner};
use super::cache::{Cache, ContentHash, TokenCounts, is_sound};
use super::runtime::{Row, Runner};

/// What a waiter gets.
pub(super) type VectorOutcome = Result<Arc<[f32]>, Fault>;

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
pub(super) struct Batch {
    items: Vec<Item>,
    /// Whether it is a lone text with every thread idle.
    alone: bool,
}

/// The texts that wait.
pub(super) struct Texts {
    planner: Planner<Item>,
    /// Heavy batches that wait for the one that runs.
    heavy: VecDeque<Vec<Item>>,
    /// Who waits for which content.
    waiters: HashMap<ContentHash, Vec<oneshot::Sender<VectorOutcome>>>,
    /// How many threads there are.
    threads: usize,
    cancelled: u64,
}

/// The queue in front of the threads.
pub(super) type TextQueue = PassQueue<Texts>;

impl Texts {
    /// None yet, for so many threads.
    pub(super) fn new(budget: PassBudget, threads: usize) -> Self {
        Self {
            planner: Planner::new(budget),
            heavy: VecDeque::new(),
            waiters: HashMap::new(),
            threads,
            cancelled: 0,
        }
    }

    fn push(
        &mut self,
        class: Class,
        deadline: Deadline,
        item: Item,
        waiter: oneshot::Sender<VectorOutcome>,
    ) {
        let waiters = self.waiters.entry(item.content).or_default();
        waiters.push(waiter);
        if waiters.len() == 1 {
            self.planner.push(class, deadline, item.ids.len(), item);
        }
    }

    /// Whether anybody still waits for this content; if not, it is forgotten.
    fn is_waited_for(&mut self, content: &ContentHash) -> bool {
        let live = self.waiters.get_mut(content).is_some_and(|list| {
            list.retain(|waiter| !waiter.is_closed());
            !list.is_empty()
        });
        if !live {
            self.waiters.remove(content);
        }
        live
    }
}

impl PassSchedule for Texts {
    type Work = Batch;

    fn take(&mut self, threads: ThreadsState) -> Option<Pass<Batch>> {
        loop {
            let deferred = if threads.is_heavy_running { None } else { self.heavy.pop_front() };
            let mut items = deferred.unwrap_or_else(|| self.planner.next_batch());
            if items.is_empty() {
                return None;
            }
            let before = items.len();
            items.retain(|item| self.is_waited_for(&item.content));
            self.cancelled += (before - items.len()) as u64;
            if items.is_empty() {
                continue;
            }
            let width = items.iter().map(|item| item.ids.len()).max().unwrap_or(0);
            let is_heavy = is_heavy(items.len(), width);
            if is_heavy && threads.is_heavy_running {
                self.heavy.push_back(items);
                continue;
            }
            let is_last = self.planner.is_empty() && self.heavy.is_empty();
            let alone = items.len() == 1 && is_last && threads.idle + 1 >= self.threads;
            return Some(Pass { work: Batch { items, alone }, is_heavy });
        }
    }

    fn waiting(&self) -> usize {
        self.planner.len() + self.heavy.iter().map(Vec::len).sum::<usize>()
    }

    fn cancelled(&self) -> u64 {
        self.cancelled
    }
}

/// Joins the wait for content that somebody else has asked for already.
pub(super) fn join(
    queue: &TextQueue,
    content: &ContentHash,
) -> Option<oneshot::Receiver<VectorOutcome>> {
    queue.with(|texts| {
        let waiters = texts.waiters.get_mut(content)?;
        let (sender, receiver) = oneshot::channel();
        waiters.push(sender);
        Some(receiver)
    })
}

/// Queues texts. What somebody else has begun to compute meanwhile is waited for and not computed
/// again. Once the threads have stopped nobody is left to answer.
pub(super) fn push(
    queue: &TextQueue,
    class: Class,
    deadline: Deadline,
    items: Vec<Item>,
) -> Vec<oneshot::Receiver<VectorOutcome>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = items.iter().map(|_| oneshot::channel()).unzip();
    let add = |texts: &mut Texts| {
        items
            .into_iter()
            .zip(senders)
            .for_each(|(item, waiter)| texts.push(class, deadline, item, waiter));
    };
    queue.add(add);
    receivers
}

/// What runs batches: sessions, and where their vectors go.
pub(super) struct Inference {
    pub(super) runner: Runner,
    /// For a text alone while no other thread has work; one such text at a time.
    pub(super) wide: Option<Mutex<Runner>>,
    pub(super) cache: Arc<Cache>,
    pub(super) is_normalized: bool,
}

impl Inference {
    /// Runs a batch and answers for it.
    pub(super) fn run(&self, queue: &TextQueue, batch: &Batch) {
        let wide = self.wide.as_ref().filter(|_| batch.alone).and_then(|wide| wide.try_lock().ok());
        let runner = wide.as_deref().unwrap_or(&self.runner);
        answer(queue, batch, &self.cache, self.is_normalized, |rows| runner.forward(rows));
    }
}

/// Runs a batch by whatever gives vectors, keeps them and answers with them.
fn answer<E: PassFailure>(
    queue: &TextQueue,
    batch: &Batch,
    cache: &Cache,
    is_normalized: bool,
    forward: impl Fn(&[Row<'_>]) -> Result<Vec<Vec<f32>>, E>,
) {
    let rows: Vec<Row<'_>> =
        batch.items.iter().map(|item| Row { ids: &item.ids, skip: item.skip }).collect();
    let vectors = run_rows(&rows, forward);
    queue.count(rows.len());
    for (item, vector) in batch.items.iter().zip(vectors) {
        let outcome = sound(vector, is_normalized, item.ids.len());
        // Kept before it is answered, so that whoever asks next finds it.
        if let Ok(vector) = &outcome {
            cache.put(&item.content, vector, item.counts);
        }
        let waiters = queue.with(|texts| texts.waiters.remove(&item.content));
        for waiter in waiters.into_iter().flatten() {
            // One that hung up needs no answer.
            let _ = waiter.send(outcome.clone());
        }
    }
}

/// What became of a text of so many tokens.
fn sound(
    vector: Result<Vec<f32>, RowFailure>,
    is_normalized: bool,
    tokens: usize,
) -> VectorOutcome {
    match vector {
        Ok(vector) if is_sound(&vector, is_normalized) => Ok(vector.into()),
        Ok(_) => Err(bad_output("the model's output for this text is not finite, or zero")),
        Err(RowFailure::Refused) => {
            Err(bad_output("the model does not take this text; the module's log has the reason"))
        }
        Err(RowFailure::OutOfMemory) => Err(Fault::of(
            &OutOfMemory { index: None, tokens: tokens as u64 },
            false,
            format!(
                "its {tokens} tokens take more memory than the device has free: free some (`brahman gpu` says who holds it), or shorten the text"
            ),
        )),
    }
}

/// The fault of a text without a vector; whoever knows its place in the call adds it.
pub(super) fn bad_output(message: &str) -> Fault {
    Fault::of(&BadOutput { index: None }, false, message)
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::WireError as _;
    use brahman_storage::digest::sha256;

    use super::*;

    const FREE: ThreadsState = ThreadsState { is_heavy_running: false, idle: 0 };

    fn queue(threads: usize) -> Arc<TextQueue> {
        PassQueue::new(Texts::new(PassBudget { tokens: 4096, attention: usize::MAX }, threads))
    }

    fn item(name: &str, tokens: usize) -> Item {
        Item { content: sha256(name.as_bytes()), ids: vec![0; tokens], skip: 0, counts: None }
    }

    fn take(queue: &TextQueue, threads: ThreadsState) -> Option<(Vec<usize>, bool, bool)> {
        let lengths = |batch: &Batch| batch.items.iter().map(|item| item.ids.len()).collect();
        queue
            .with(|texts| texts.take(threads))
            .map(|pass| (lengths(&pass.work), pass.work.alone, pass.is_heavy))
    }

    #[test]
    fn what_is_asked_for_twice_is_computed_once_and_what_nobody_waits_for_not_at_all() {
        let queue = queue(2);
        let first = push(&queue, Class::Bulk, Deadline::NEVER, vec![item("a", 5), item("b", 6)]);
        let again = push(&queue, Class::Bulk, Deadline::NEVER, vec![item("a", 5)]);
        assert!(
            join(&queue, &item("b", 6).content).is_some()
                && join(&queue, &item("c", 1).content).is_none()
        );
        drop(first);
        // Of "a" somebody else still waits; who joined for "b" has hung up.
        assert_eq!(take(&queue, FREE), Some((vec![5], false, false)));
        assert_eq!((queue.waiting(), queue.cancelled(), again.len()), (0, 1, 1));
    }

    /// That a GPU does not hold rows of so many tokens.
    #[derive(Debug, thiserror::Error)]
    #[error("the made-up GPU is full")]
    struct FullGpu;

    impl PassFailure for FullGpu {
        fn is_out_of_memory(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_text_that_memory_does_not_hold_is_named_by_its_tokens_and_loses_no_other() {
        let queue = queue(1);
        let texts = vec![item("a", 5), item("b", 6), item("c", 90), item("d", 7)];
        let contents: Vec<ContentHash> = texts.iter().map(|text| text.content).collect();
        let waits = push(&queue, Class::Bulk, Deadline::NEVER, texts);
        let batch = queue.with(|texts| texts.take(FREE)).expect("a pass").work;
        assert_eq!(batch.items.len(), 4);
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::open(folder.path(), [0; 32], 2, true, 1 << 20);
        let forward = |rows: &[Row<'_>]| {
            let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
            if tokens > 12 { Err(FullGpu) } else { Ok(vec![vec![0.6, 0.8]; rows.len()]) }
        };
        answer(&queue, &batch, &cache, true, forward);
        assert_eq!((queue.computed(), queue.waiting()), (4, 0));
        for (content, wait) in contents.iter().zip(waits) {
            match wait.blocking_recv().expect("answered") {
                Ok(vector) => {
                    assert_eq!(
                        (&vector[..], cache.get(content).is_some()),
                        (&[0.6, 0.8][..], true)
                    );
                }
                Err(fault) => {
                    assert_eq!((content, &*fault.name), (&contents[2], OutOfMemory::NAME));
                    assert_eq!(fault.parameters["tokens"], 90, "{fault}");
                    assert!(fault.message().contains("90 tokens") && !fault.retryable(), "{fault}");
                    assert!(cache.get(content).is_none(), "nothing is kept of it");
                }
            }
        }
    }

    #[test]
    fn a_lone_text_is_wide_only_while_all_threads_are_idle() {
        let queue = queue(2);
        let _waits = push(&queue, Class::Interactive, Deadline::NEVER, vec![item("a", 5)]);
        assert_eq!(take(&queue, ThreadsState { idle: 1, ..FREE }), Some((vec![5], true, false)));
        let _waits_too = push(&queue, Class::Interactive, Deadline::NEVER, vec![item("b", 5)]);
        assert_eq!(take(&queue, FREE), Some((vec![5], false, false)));
    }

    #[test]
    fn a_heavy_batch_waits_for_the_one_that_runs_and_lets_others_pass() {
        let queue = queue(2);
        let _waits = push(
            &queue,
            Class::Bulk,
            Deadline::NEVER,
            vec![item("long", 3000), item("longer", 3100), item("short", 5)],
        );
        let busy = ThreadsState { is_heavy_running: true, ..FREE };
        assert_eq!(take(&queue, FREE), Some((vec![3000], false, true)));
        assert_eq!((take(&queue, busy), take(&queue, busy)), (Some((vec![5], false, false)), None));
        assert_eq!((queue.waiting(), take(&queue, FREE)), (1, Some((vec![3100], false, true))));
    }
}
