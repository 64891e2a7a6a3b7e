//! Building and changing a graph: the same input and seed give the same graph on any number of
//! threads.
//!
//! Nodes are inserted in batches. The nodes of a batch search the graph as it stood before the
//! batch, in parallel; their edges are then added in one order. Both directions of an edge go
//! through the heuristic of HNSW (a neighbour is kept if it is nearer to the node than to any kept
//! before), so that no region loses its way out. Lists are wider while building, so that the
//! heuristic runs on many new edges at once. After ParlayANN (Manohar et al. 2024).

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::code::as_query;
use crate::graph::{Graph, NONE, Scratch, TOP_MAX, UPPER_EF, node_of, product_of};
use crate::kernel::{Kernels, Rows};
use crate::pages::Pages;

/// How a graph is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Parameters {
    /// Neighbours a node on upper levels; twice as many on level 0.
    pub m: usize,
    /// Candidates looked at for each node.
    pub ef_construction: usize,
    /// Of levels and order.
    pub seed: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { m: 16, ef_construction: 100, seed: 0 }
    }
}

impl Parameters {
    /// # Errors
    /// With [`io::ErrorKind::InvalidInput`] and the name of what no graph can be built by.
    pub(crate) fn check(&self) -> io::Result<()> {
        let wrong = match self {
            Self { m: 2..=M_MAX, ef_construction: 1.., .. } => return Ok(()),
            Self { m: 2..=M_MAX, .. } => "ef_construction: 0, expected 1 or more".to_owned(),
            Self { m, .. } => format!("m: {m}, expected 2 to {M_MAX}"),
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, wrong))
    }
}

/// Most neighbours a node: a list of level 0 is twice as wide, and is walked as a whole.
const M_MAX: usize = 512;
/// Most nodes of one batch: they do not see one another, which costs nothing while they are few
/// beside the rest.
const BATCH_MAX: usize = 1024;
/// A batch is at most this share of what is there.
const BATCH_SHARE: usize = 24;
/// Room in a list while building, beyond its width.
const ROOM: usize = 16;
/// Nodes that a thread takes at once.
const GRAIN: usize = 16;
/// Lists pruned before they are put in their place: memory beside the graph is bounded by them.
const FINISHED_AT_ONCE: usize = 1 << 16;
/// Nodes linked between two calls of what hears of progress: less than a millisecond of work.
const NODES_PER_STEP: usize = 4;

/// A graph under construction.
#[derive(Debug)]
pub struct Draft {
    parameters: Parameters,
    kernels: Kernels,
    stride: usize,
    /// Of all nodes, those to come included.
    codes: Pages,
    /// The level up to which each node takes part.
    levels: Vec<u8>,
    top_level: usize,
    top: Vec<u32>,
    /// Level by level below the top: node → list. Upper levels through `upper_at`.
    base: Vec<u32>,
    upper_at: Vec<u32>,
    upper: Vec<u32>,
}

/// A finished graph's parts.
#[derive(Debug)]
pub struct Parts {
    /// Level of the top.
    pub top_level: usize,
    /// Nodes of the top.
    pub top: Vec<u32>,
    /// Level of each node.
    pub levels: Vec<u8>,
    /// Lists of level 0.
    pub base: Vec<u32>,
    /// First list of each node on upper levels.
    pub upper_at: Vec<u32>,
    /// Lists of upper levels.
    pub upper: Vec<u32>,
}

/// A number that looks random and depends on its input only (SplitMix64).
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The level of a row: l with probability 1/(2M)^l. Level 0 has lists of 2M, so fewer nodes above
/// it than the usual 1/M^l lead everywhere, and the top is a quarter as long.
#[must_use]
pub fn level_of(row: u64, parameters: &Parameters) -> u8 {
    let share = 2 * parameters.m.max(2) as u64;
    let (mut at_least, mut level) = (mix(parameters.seed ^ mix(row)), 0);
    while at_least.is_multiple_of(share) && level < 12 {
        at_least /= share;
        level += 1;
    }
    level
}

/// The lowest level with few enough nodes to compare one by one.
pub fn top_level(levels: &[u8]) -> usize {
    (0..=u8::MAX)
        .find(|l| levels.iter().filter(|level| *level >= l).count() <= TOP_MAX)
        .unwrap_or(u8::MAX)
        .into()
}

/// Calls `work` for every index below `count`, on up to `threads` threads, and gives the results in
/// order.
pub fn in_parallel<T: Send, S>(
    count: usize,
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let threads = threads.clamp(1, count.div_ceil(GRAIN).max(1));
    if threads == 1 {
        let mut state = state();
        return (0..count).map(|i| work(&mut state, i)).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run = || {
        let (mut state, mut own) = (state(), Vec::new());
        loop {
            let from = next.fetch_add(GRAIN, Ordering::Relaxed);
            if from >= count {
                break;
            }
            own.push((
                from,
                (from..count.min(from + GRAIN)).map(|i| work(&mut state, i)).collect::<Vec<T>>(),
            ));
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    let mut parts = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    parts.sort_unstable_by_key(|(from, _)| *from);
    parts.into_iter().flat_map(|(_, part)| part).collect()
}

/// Memory of one building thread.
#[derive(Default)]
struct Worker {
    scratch: Scratch,
    query: Vec<i8>,
    other: Vec<i8>,
    chosen: Vec<u32>,
    refused: Vec<u32>,
    dots: Vec<i32>,
}

impl Draft {
    /// A graph of no nodes yet, for codes of `stride` bytes.
    #[must_use]
    pub fn new(parameters: Parameters, stride: usize, kernels: Kernels, codes: Pages) -> Self {
        Self {
            parameters,
            kernels,
            stride,
            codes,
            levels: Vec::new(),
            top_level: 0,
            top: Vec::new(),
            base: Vec::new(),
            upper_at: Vec::new(),
            upper: Vec::new(),
        }
    }

    /// A finished graph, to be changed, with the codes of its nodes and of those to come.
    #[must_use]
    pub fn resume(parameters: Parameters, graph: &Graph<'_>, levels: &[u8], codes: Pages) -> Self {
        let mut draft = Self::new(parameters, graph.codes.stride, graph.kernels, codes);
        draft.top_level = graph.top_level;
        draft.top = graph.top.to_vec();
        draft.levels = levels.to_vec();
        draft.widen(graph);
        draft
    }

    fn widen(&mut self, graph: &Graph<'_>) {
        let (narrow, wide) = (graph.base_width, self.base_width());
        self.base = vec![NONE; graph.len() * wide];
        for (to, from) in self.base.chunks_mut(wide).zip(graph.base.chunks(narrow)) {
            to[..narrow].copy_from_slice(from);
        }
        self.upper_at = graph.upper_at.to_vec();
        self.upper = graph.upper.to_vec();
    }

    fn base_width(&self) -> usize {
        2 * self.parameters.m + ROOM
    }

    /// Width of a finished list.
    #[must_use]
    pub fn cap(&self, level: usize) -> usize {
        if level == 0 { 2 * self.parameters.m } else { self.parameters.m }
    }

    fn graph(&self) -> Graph<'_> {
        Graph {
            codes: self.rows(),
            kernels: self.kernels,
            base: &self.base,
            base_width: self.base_width(),
            upper_at: &self.upper_at,
            upper: &self.upper,
            upper_width: self.parameters.m,
            top: &self.top,
            top_level: self.top_level,
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows { bytes: self.codes.bytes(), stride: self.stride }
    }

    /// Inserts the next nodes, of these levels, in the order of their codes. Into an empty graph
    /// nodes of high levels must come first, so that the first searches have a top to start from.
    pub fn insert(
        &mut self,
        levels: &[u8],
        threads: usize,
        progress: &crate::Progress<'_>,
    ) -> bool {
        if self.levels.is_empty() {
            self.top_level = top_level(levels);
        }
        let mut from = 0;
        while from < levels.len() {
            if !progress(from) {
                return false;
            }
            let there = self.levels.len();
            let batch = (there / BATCH_SHARE).clamp(1, BATCH_MAX).min(levels.len() - from);
            self.append(&levels[from..from + batch]);
            // What it answers counts between two batches; it is called oftener to let others go
            // first.
            self.connect(there, there + batch, threads, &|i| {
                if i.is_multiple_of(NODES_PER_STEP) {
                    progress(from);
                }
            });
            from += batch;
        }
        true
    }

    fn append(&mut self, levels: &[u8]) {
        for level in levels {
            // Levels from the top up have no lists: the top is compared as a whole.
            let lists = usize::from(*level).min(self.top_level.saturating_sub(1));
            if lists > 0 {
                self.upper_at.push((self.upper.len() / self.parameters.m) as u32);
                self.upper.resize(self.upper.len() + lists * self.parameters.m, NONE);
            } else {
                self.upper_at.push(NONE);
            }
            self.levels.push(*level);
        }
        let width = self.base_width();
        self.base.resize(self.base.len() + levels.len() * width, NONE);
    }

    fn connect(&mut self, from: usize, to: usize, threads: usize, step: &(dyn Fn(usize) + Sync)) {
        let ef = self.parameters.ef_construction;
        let found = in_parallel(to - from, threads, Worker::default, |worker, i| {
            step(i);
            let node = (from + i) as u32;
            let graph = self.graph();
            let own = usize::from(self.levels[node as usize]).min(self.top_level.saturating_sub(1));
            as_query(
                &self.codes.bytes()[node as usize * self.stride..][..self.stride],
                &mut worker.query,
            );
            let mut lists = Vec::with_capacity(own + 1);
            if self.top_level == 0 {
                return lists;
            }
            let query = std::mem::take(&mut worker.query);
            graph.enter(&query, ef, &mut worker.scratch);
            for level in (0..self.top_level).rev() {
                graph.beam(
                    &query,
                    level,
                    if level <= own { ef } else { UPPER_EF },
                    &mut worker.scratch,
                );
                if level <= own {
                    let candidates: Vec<(i32, u32)> =
                        worker.scratch.pool.iter().map(|k| (product_of(*k), node_of(*k))).collect();
                    lists.push((level, self.choose(&candidates, self.cap(level), worker)));
                }
            }
            worker.query = query;
            lists
        });
        // Forward edges, and all backward ones by target.
        let mut back: Vec<(u8, u32, u32)> = Vec::new();
        for (i, lists) in found.into_iter().enumerate() {
            let node = (from + i) as u32;
            for (level, list) in lists {
                back.extend(list.iter().map(|target| (level as u8, *target, node)));
                self.set(node, level, &list);
            }
        }
        // Nodes of the top join it when they can be walked away from.
        for node in from..to {
            if usize::from(self.levels[node]) >= self.top_level {
                self.top.push(node as u32);
            }
        }
        back.sort_unstable();
        let groups: Vec<&[(u8, u32, u32)]> =
            back.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let merged = in_parallel(groups.len(), threads, Worker::default, |worker, i| {
            step(i);
            let (level, target, _) = groups[i][0];
            let level = usize::from(level);
            let graph = self.graph();
            let mut list: Vec<u32> =
                graph.list(target, level).iter().copied().take_while(|n| *n != NONE).collect();
            list.extend(groups[i].iter().map(|(_, _, node)| *node));
            let width = if level == 0 { self.base_width() } else { self.parameters.m };
            if list.len() <= width {
                list
            } else {
                self.prune(target, &list, self.cap(level), worker)
            }
        });
        let targets: Vec<(usize, u32)> =
            groups.iter().map(|g| (usize::from(g[0].0), g[0].1)).collect();
        for ((level, target), list) in targets.into_iter().zip(merged) {
            self.set(target, level, &list);
        }
    }

    fn set(&mut self, node: u32, level: usize, list: &[u32]) {
        let (lists, at, width) = if level == 0 {
            let width = self.base_width();
            (&mut self.base, node as usize * width, width)
        } else {
            (
                &mut self.upper,
                (self.upper_at[node as usize] as usize + level - 1) * self.parameters.m,
                self.parameters.m,
            )
        };
        let place = &mut lists[at..at + width];
        place.fill(NONE);
        place[..list.len()].copy_from_slice(list);
    }

    /// The heuristic over a list in any order.
    fn prune(&self, node: u32, list: &[u32], cap: usize, worker: &mut Worker) -> Vec<u32> {
        let rows = self.rows();
        as_query(
            &self.codes.bytes()[node as usize * self.stride..][..self.stride],
            &mut worker.other,
        );
        worker.dots.resize(list.len().max(worker.dots.len()), 0);
        self.kernels.gather(&rows, list, &worker.other, &mut worker.dots);
        let mut candidates: Vec<(i32, u32)> =
            worker.dots.iter().copied().zip(list.iter().copied()).collect();
        candidates.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        self.choose(&candidates, cap, worker)
    }

    /// Keeps, nearest first, the candidates that are nearer to the node than to any kept before;
    /// what room is left goes to the nearest of the others, which in tight clusters are worth more
    /// than the comparisons they cost.
    fn choose(&self, candidates: &[(i32, u32)], cap: usize, worker: &mut Worker) -> Vec<u32> {
        let rows = self.rows();
        worker.chosen.clear();
        worker.refused.clear();
        for (product, candidate) in candidates {
            if worker.chosen.len() >= cap {
                break;
            }
            as_query(
                &rows.bytes[*candidate as usize * self.stride..][..self.stride],
                &mut worker.other,
            );
            let n = worker.chosen.len();
            worker.dots.resize(n.max(worker.dots.len()), 0);
            self.kernels.gather(&rows, &worker.chosen, &worker.other, &mut worker.dots);
            if worker.dots[..n].iter().all(|to_chosen| to_chosen < product) {
                worker.chosen.push(*candidate);
            } else {
                worker.refused.push(*candidate);
            }
        }
        let mut list = worker.chosen.clone();
        list.extend(worker.refused.iter().take(cap - list.len()));
        list
    }

    /// Prunes every list to its width and gives the graph.
    #[must_use]
    pub fn finish(self, threads: usize) -> (Parts, Pages) {
        let cap = self.cap(0);
        let mut base = vec![NONE; self.levels.len() * cap];
        for (first, places) in
            (0..).step_by(FINISHED_AT_ONCE).zip(base.chunks_mut(cap * FINISHED_AT_ONCE))
        {
            let lists = in_parallel(places.len() / cap, threads, Worker::default, |worker, i| {
                let node = (first + i) as u32;
                let list: Vec<u32> =
                    self.graph().list(node, 0).iter().copied().take_while(|n| *n != NONE).collect();
                if list.len() <= cap { list } else { self.prune(node, &list, cap, worker) }
            });
            for (place, list) in places.chunks_mut(cap).zip(lists) {
                place[..list.len()].copy_from_slice(&list);
            }
        }
        let parts = Parts {
            top_level: self.top_level,
            top: self.top,
            levels: self.levels,
            base,
            upper_at: self.upper_at,
            upper: self.upper,
        };
        (parts, self.codes)
    }
}
