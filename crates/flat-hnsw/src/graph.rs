//! A navigable graph over codes, and the walk through it.
//!
//! Lists have a fixed width and end early with [`NONE`]. Level 0 holds every node; level l ≥ 1
//! holds a share of 1/(2M)^l. The lowest level with at most [`TOP_MAX`] nodes is the *top*: its
//! nodes are compared with the query one by one, so no walk starts in the wrong region, and levels
//! from the top up need no lists. After Malkov and Yashunin (2016), with an exact top.
//!
//! Invariant: node ids are below 2³¹; a walk ends because every node is expanded at most once.

use crate::kernel::{Kernels, Rows, prefetch};

/// Stands behind the last neighbour of a list.
pub const NONE: u32 = u32::MAX;
/// Nodes compared one by one at the top: 512 codes of 384 bytes fit the second-level cache, and
/// take some 5 µs.
pub const TOP_MAX: usize = 512;
/// Best nodes kept on levels between the top and 0: one greedy step ends in the wrong cluster too
/// often.
pub const UPPER_EF: usize = 4;

/// Lists of neighbours, borrowed from whoever keeps them.
#[derive(Clone, Copy, Debug)]
pub struct Graph<'a> {
    /// What nodes are compared by.
    pub codes: Rows<'a>,
    /// How they are compared.
    pub kernels: Kernels,
    /// Lists of level 0, node by node.
    pub base: &'a [u32],
    /// Neighbours a list has room for.
    pub base_width: usize,
    /// For each node the first of its lists in `upper`, or [`NONE`].
    pub upper_at: &'a [u32],
    /// Lists of the levels from 1 to below the top, of nodes that have them, level by level.
    pub upper: &'a [u32],
    /// Neighbours a list has room for.
    pub upper_width: usize,
    /// Nodes of the top.
    pub top: &'a [u32],
    /// Level of the top.
    pub top_level: usize,
}

/// Memory that a walk needs, kept from one to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The best so far as keys, best first.
    pub pool: Vec<u64>,
    seen: Vec<u64>,
    touched: Vec<u32>,
    ids: Vec<u32>,
    dots: Vec<i32>,
    /// Nodes expanded and codes compared by the last walk.
    pub compared: usize,
}

/// Whether a node's neighbours have been looked at; the lowest bit of a key.
const EXPANDED: u64 = 1;

/// A node and its product as a number that sorts best first, of equals the lower node.
#[inline]
fn key(node: u32, product: i32) -> u64 {
    u64::from(!(product.cast_unsigned() ^ 0x8000_0000)) << 32 | u64::from(node) << 1
}

/// The node of a key.
#[inline]
#[must_use]
pub fn node_of(key: u64) -> u32 {
    (key as u32) >> 1
}

/// The product of a key.
#[inline]
#[must_use]
pub fn product_of(key: u64) -> i32 {
    (!((key >> 32) as u32) ^ 0x8000_0000).cast_signed()
}

impl Scratch {
    #[inline]
    fn see(&mut self, node: u32) -> bool {
        let (word, bit) = (node as usize / 64, 1_u64 << (node % 64));
        let Some(word) = self.seen.get_mut(word) else { return false };
        let new = *word & bit == 0;
        if new {
            *word |= bit;
            self.touched.push(node);
        }
        new
    }

    fn forget(&mut self, nodes: usize) {
        for node in self.touched.drain(..) {
            self.seen[node as usize / 64] = 0;
        }
        self.seen.resize(nodes.div_ceil(64), 0);
    }
}

impl<'a> Graph<'a> {
    /// How many nodes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.upper_at.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upper_at.is_empty()
    }

    /// A node's list on a level below the top, to its end or to the first [`NONE`].
    #[inline]
    #[must_use]
    pub fn list(&self, node: u32, level: usize) -> &'a [u32] {
        if level == 0 {
            return &self.base[node as usize * self.base_width..][..self.base_width];
        }
        match self.upper_at[node as usize] {
            NONE => &[],
            at => self
                .upper
                .get((at as usize + level - 1) * self.upper_width..)
                .and_then(|l| l.get(..self.upper_width))
                .unwrap_or(&[]),
        }
    }

    /// Walks from the top down to `level`, and leaves up to `ef` nodes in the pool, best first.
    pub fn walk(&self, query: &[i8], level: usize, ef: usize, scratch: &mut Scratch) {
        scratch.compared = 0;
        self.enter(query, if level >= self.top_level { ef } else { UPPER_EF }, scratch);
        for l in (level..self.top_level).rev() {
            self.beam(query, l, if l == level { ef } else { UPPER_EF }, scratch);
        }
    }

    /// Compares the query with the whole top and leaves the best in the pool.
    pub fn enter(&self, query: &[i8], ef: usize, scratch: &mut Scratch) {
        scratch.pool.clear();
        scratch.dots.clear();
        scratch.dots.resize(self.top.len(), 0);
        self.kernels.gather(&self.codes, self.top, query, &mut scratch.dots);
        scratch.compared += self.top.len();
        for (node, dot) in self.top.iter().zip(&scratch.dots) {
            offer(&mut scratch.pool, key(*node, *dot), ef);
        }
    }

    /// Goes on from the nodes in the pool to the best `ef` that can be reached on a level.
    pub fn beam(&self, query: &[i8], level: usize, ef: usize, scratch: &mut Scratch) {
        scratch.forget(self.len());
        for i in 0..scratch.pool.len() {
            scratch.pool[i] &= !EXPANDED;
            scratch.see(node_of(scratch.pool[i]));
        }
        scratch.dots.resize(self.base_width.max(self.upper_width).max(scratch.dots.len()), 0);
        let mut at = 0;
        while at < scratch.pool.len() {
            if scratch.pool[at] & EXPANDED != 0 {
                at += 1;
                continue;
            }
            scratch.pool[at] |= EXPANDED;
            let node = node_of(scratch.pool[at]);
            let mut ids = std::mem::take(&mut scratch.ids);
            ids.clear();
            for neighbour in self.list(node, level).iter().take_while(|n| **n != NONE) {
                if scratch.see(*neighbour) {
                    self.codes.prefetch(*neighbour);
                    ids.push(*neighbour);
                }
            }
            // Most often the next one expanded.
            if let Some(next) = scratch.pool.get(at + 1) {
                let list = self.list(node_of(*next), level);
                prefetch(list);
                if list.len() > 16 {
                    prefetch(&list[16..]);
                }
            }
            self.kernels.gather(&self.codes, &ids, query, &mut scratch.dots);
            scratch.compared += ids.len();
            let mut first = at + 1;
            for (id, dot) in ids.iter().zip(&scratch.dots) {
                first = first.min(offer(&mut scratch.pool, key(*id, *dot), ef));
            }
            scratch.ids = ids;
            at = first;
        }
    }
}

/// Puts a key in its place among the best `ef`; where it went, or `usize::MAX`.
#[inline]
fn offer(pool: &mut Vec<u64>, key: u64, ef: usize) -> usize {
    if pool.len() >= ef {
        if pool.last().is_none_or(|last| key >= *last) {
            return usize::MAX;
        }
        pool.pop();
    }
    let place = pool.partition_point(|other| *other < key);
    pool.insert(place, key);
    place
}
