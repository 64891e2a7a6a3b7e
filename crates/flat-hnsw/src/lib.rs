//! Nearest neighbours in memory: a graph on flat arrays, walked by codes of one byte a component,
//! scored by exact f32 products.
//!
#![doc = include_str!("../README.md")]
//!
//! # Reading the code
//!
//! [`kernel`] compares, [`code`] encodes, [`store`] keeps vectors and searches exactly, [`graph`]
//! walks, [`build`] inserts, [`file`] writes and maps, [`pages`] holds the memory, [`sample`] makes
//! vectors up; `searching` decides between a walk and all rows, `adopting` looks after rows that no
//! walk finds.
//!
//! Invariants: rows are numbered in the order in which neighbours lie together (so a graph's
//! builder says the order, and its caller arranges the rest of the rows likewise); scores are exact
//! f32 products; a filtered search is exact wherever the graph could miss.

mod adopting;
pub mod build;
pub mod code;
pub mod file;
pub mod graph;
pub mod kernel;
pub mod pages;
pub mod sample;
mod searching;
pub mod store;

use std::io;
use std::path::Path;
use std::sync::Mutex;

pub use build::Parameters;
use build::{Draft, level_of, mix};
use graph::{Graph, NONE};
use kernel::Kernels;
use pages::Pages;
pub use searching::SearchParameters;
use searching::Walker;
pub use store::{LiveRows, Neighbour, Store};

/// Fewer rows are always scanned.
pub const GRAPH_ROWS_MIN: usize = 2 * graph::TOP_MAX;

/// How many rows of `dim` numbers `vectors` are.
fn rows_of(vectors: &[f32], dim: usize) -> io::Result<usize> {
    let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if vectors.is_empty() {
        return Ok(0);
    }
    if dim == 0 || dim > file::DIM_MAX || !vectors.len().is_multiple_of(dim) {
        return invalid(format!(
            "{} numbers are not whole rows of {dim}, expected 1 to {} a row",
            vectors.len(),
            file::DIM_MAX
        ));
    }
    match vectors.iter().position(|number| !number.is_finite()) {
        Some(at) => {
            invalid(format!("{} in row {}, expected finite numbers", vectors[at], at / dim))
        }
        None => Ok(vectors.len() / dim),
    }
}

/// Hears how many rows are inserted and says whether to go on.
pub type Progress<'a> = dyn Fn(usize) -> bool + Sync + 'a;

/// A built index. Readers share it.
#[derive(Debug)]
pub struct FlatIndex {
    /// The vectors, and their codes.
    pub store: Store,
    /// How it was built.
    pub parameters: Parameters,
    base: Pages,
    levels: Vec<u8>,
    upper_at: Vec<u32>,
    upper: Vec<u32>,
    top: Vec<u32>,
    top_level: usize,
    /// Memory for walks, one a searching thread.
    idle: Mutex<Vec<Walker>>,
}

/// How the rows of a built graph are numbered.
#[derive(Clone, Copy, Debug)]
enum Numbering {
    /// Neighbours side by side: fewer pages and cache lines a walk.
    Near,
    /// As they were given.
    Given,
}

impl FlatIndex {
    /// Builds the index of vectors of length 1; also gives, for each row of the index, the number
    /// it had in `vectors`. `progress` hears how many are inserted and says whether to go on.
    ///
    /// # Errors
    /// With [`io::ErrorKind::InvalidInput`] if `vectors` are no whole rows, hold what is no number,
    /// or if the parameters are out of bounds; if there is not enough memory; with
    /// [`io::ErrorKind::Interrupted`] if told to stop.
    pub fn build(
        vectors: &[f32],
        dim: usize,
        parameters: Parameters,
        threads: usize,
        progress: &Progress<'_>,
    ) -> io::Result<(Self, Vec<u32>)> {
        Self::build_owned(vectors.to_vec(), dim, parameters, threads, progress)
    }

    /// [`FlatIndex::build`] of vectors that are given away: they are arranged where they lie.
    /// Beside them it takes, for each row, two codes and 20 `m` bytes at most at a time.
    ///
    /// # Errors
    /// As [`FlatIndex::build`].
    pub fn build_owned(
        vectors: Vec<f32>,
        dim: usize,
        parameters: Parameters,
        threads: usize,
        progress: &Progress<'_>,
    ) -> io::Result<(Self, Vec<u32>)> {
        Self::built(vectors, dim, parameters, Numbering::Near, (threads, progress))
    }

    /// [`FlatIndex::build_owned`] with every row where it is: searches read memory less in order,
    /// and what comes later comes behind.
    ///
    /// # Errors
    /// As [`FlatIndex::build`].
    pub fn build_in_order(
        vectors: Vec<f32>,
        dim: usize,
        parameters: Parameters,
        threads: usize,
        progress: &Progress<'_>,
    ) -> io::Result<Self> {
        Self::built(vectors, dim, parameters, Numbering::Given, (threads, progress))
            .map(|(flat, _)| flat)
    }

    fn built(
        vectors: Vec<f32>,
        dim: usize,
        parameters: Parameters,
        numbering: Numbering,
        (threads, progress): (usize, &Progress<'_>),
    ) -> io::Result<(Self, Vec<u32>)> {
        parameters.check()?;
        let rows = rows_of(&vectors, dim)?;
        if rows < GRAPH_ROWS_MIN {
            return Self::unlinked(vectors, dim, parameters);
        }
        let level: Vec<u8> = (0..rows as u64).map(|row| level_of(row, &parameters)).collect();
        let mut order: Vec<u32> = (0..rows as u32).collect();
        // High levels first, as the draft wants; the rest as shuffled cards, so that a batch is no
        // cluster.
        order.sort_unstable_by_key(|row| {
            (u8::MAX - level[*row as usize], mix(parameters.seed ^ u64::from(*row)), *row)
        });
        let levels: Vec<u8> = order.iter().map(|row| level[*row as usize]).collect();
        let (_, codes) = store::encoded(&vectors, dim, &order)?;
        let mut draft = Draft::new(parameters, code::stride(dim), Kernels::best(), codes);
        if !draft.insert(&levels, threads, progress) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (parts, codes) = draft.finish(threads);
        // Others are made in the order of the graph.
        drop(codes);
        Self::numbered(vectors, dim, parameters, parts, &order, numbering, (threads, progress))
    }

    /// The index of a graph that was made for `vectors` in the order `order`; gives what
    /// [`FlatIndex::build`] gives. `how` is its threads and progress.
    ///
    /// # Errors
    /// As [`FlatIndex::build`].
    pub fn of_parts(
        vectors: Vec<f32>,
        dim: usize,
        parameters: Parameters,
        parts: build::Parts,
        order: &[u32],
        how: (usize, &Progress<'_>),
    ) -> io::Result<(Self, Vec<u32>)> {
        Self::numbered(vectors, dim, parameters, parts, order, Numbering::Near, how)
    }

    fn numbered(
        vectors: Vec<f32>,
        dim: usize,
        parameters: Parameters,
        mut parts: build::Parts,
        order: &[u32],
        numbering: Numbering,
        how: (usize, &Progress<'_>),
    ) -> io::Result<(Self, Vec<u32>)> {
        let rows = order.len();
        let places = match numbering {
            Numbering::Near => breadth_first(&parts),
            Numbering::Given => {
                let mut places = vec![0_u32; rows];
                order.iter().zip(0..).for_each(|(row, node)| places[*row as usize] = node);
                places
            }
        };
        let mut new_of = vec![0_u32; rows];
        for (new, old) in places.iter().zip(0..).map(|(old, new)| (new, *old)) {
            new_of[old as usize] = new;
        }
        let renamed = |list: &[u32]| -> Vec<u32> {
            list.iter().map(|n| if *n == NONE { NONE } else { new_of[*n as usize] }).collect()
        };
        let width = 2 * parameters.m;
        let mut base = Pages::zeroed(rows * width * 4)?;
        for (place, old) in base.bytes_mut().chunks_mut(width * 4).zip(&places) {
            let list = renamed(&parts.base[*old as usize * width..][..width]);
            place.copy_from_slice(bytemuck::cast_slice(&list));
        }
        let of_rows: Vec<u32> = places.iter().map(|old| order[*old as usize]).collect();
        // It is there twice now, by both numbers.
        parts.base = Vec::new();
        let mut flat = Self {
            store: Store::arranged(vectors, dim, &of_rows)?,
            parameters,
            base,
            levels: places.iter().map(|old| parts.levels[*old as usize]).collect(),
            upper_at: places.iter().map(|old| parts.upper_at[*old as usize]).collect(),
            upper: renamed(&parts.upper),
            top: renamed(&parts.top),
            top_level: parts.top_level,
            idle: Mutex::default(),
        };
        flat.adopt(how.0, how.1)?;
        Ok((flat, of_rows))
    }

    /// Vectors without a graph, in their order: every search compares all.
    ///
    /// # Errors
    /// With [`io::ErrorKind::InvalidInput`] if `vectors` are no whole rows or hold what is no
    /// number; if there is not enough memory.
    pub fn unlinked(
        vectors: Vec<f32>,
        dim: usize,
        parameters: Parameters,
    ) -> io::Result<(Self, Vec<u32>)> {
        let order: Vec<u32> = (0..rows_of(&vectors, dim)? as u32).collect();
        Ok((Self::scanned(Store::arranged(vectors, dim, &order)?, parameters)?, order))
    }

    fn scanned(store: Store, parameters: Parameters) -> io::Result<Self> {
        let rows = store.len();
        Ok(Self {
            store,
            parameters,
            base: Pages::zeroed(0)?,
            levels: vec![0; rows],
            upper_at: vec![NONE; rows],
            upper: Vec::new(),
            top: Vec::new(),
            top_level: 0,
            idle: Mutex::default(),
        })
    }

    /// This index with more vectors: the graph is changed, not built again. Their rows come last.
    ///
    /// # Errors
    /// As [`FlatIndex::build`].
    pub fn insert(
        &self,
        vectors: &[f32],
        threads: usize,
        progress: &Progress<'_>,
    ) -> io::Result<Self> {
        let (dim, there) = (self.store.dim(), self.store.len());
        let added = rows_of(vectors, dim)?;
        let mut all = Vec::with_capacity((there + added) * dim);
        all.extend_from_slice(self.store.vectors());
        all.extend_from_slice(vectors);
        if self.top.is_empty() {
            return Self::build_in_order(all, dim, self.parameters, threads, progress);
        }
        let mut quantiser = self.store.quantiser;
        let (old, width) = (self.store.codes(), self.store.codes().stride);
        let mut codes = Pages::zeroed((there + added) * width)?;
        let (known, fresh) = codes.bytes_mut().split_at_mut(old.bytes.len());
        known.copy_from_slice(old.bytes);
        for (vector, code) in vectors.chunks_exact(dim).zip(fresh.chunks_mut(width)) {
            quantiser.encode(vector, code);
        }
        let levels: Vec<u8> =
            (0..added as u64).map(|i| level_of(there as u64 + i, &self.parameters)).collect();
        let mut draft = Draft::resume(self.parameters, &self.graph(), &self.levels, codes);
        if !draft.insert(&levels, threads, progress) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (parts, codes) = draft.finish(threads);
        let mut flat = Self {
            store: Store::from_pages(dim, there + added, quantiser, codes, Pages::Numbers(all)),
            parameters: self.parameters,
            base: Pages::copied(bytemuck::cast_slice(&parts.base))?,
            levels: parts.levels,
            upper_at: parts.upper_at,
            upper: parts.upper,
            top: parts.top,
            top_level: parts.top_level,
            idle: Mutex::default(),
        };
        flat.adopt(threads, progress)?;
        Ok(flat)
    }

    /// Writes and fsyncs the index; the caller fsyncs the folder.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        file::write(self, path)
    }

    /// Opens an index that was saved: reads codes and graph, maps the vectors.
    ///
    /// # Errors
    /// As the file system gives them; with [`io::ErrorKind::InvalidData`] if the file is damaged or
    /// none of this format.
    pub fn open(path: &Path) -> io::Result<Self> {
        file::open(path)
    }

    fn graph(&self) -> Graph<'_> {
        Graph {
            codes: self.store.codes(),
            kernels: self.store.kernels,
            base: self.base.as_u32(),
            base_width: 2 * self.parameters.m,
            upper_at: &self.upper_at,
            upper: &self.upper,
            upper_width: self.parameters.m,
            top: &self.top,
            top_level: self.top_level,
        }
    }

    /// Bytes in memory when all pages are touched.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let small =
            self.levels.len() + 4 * (self.upper_at.len() + self.upper.len() + self.top.len());
        self.store.memory_bytes() + (self.base.bytes().len() + small) as u64
    }
}

/// The nodes in the order in which a search from the top reaches them; what it does not reach comes
/// where its number is.
fn breadth_first(parts: &build::Parts) -> Vec<u32> {
    let rows = parts.levels.len();
    let width = parts.base.len() / rows.max(1);
    let (mut seen, mut out) = (vec![false; rows], Vec::with_capacity(rows));
    let mut reach = |node: u32, out: &mut Vec<u32>| {
        if !std::mem::replace(&mut seen[node as usize], true) {
            out.push(node);
        }
    };
    for node in &parts.top {
        reach(*node, &mut out);
    }
    let (mut at, mut next) = (0, 0);
    while out.len() < rows {
        while at < out.len() {
            let list = &parts.base[out[at] as usize * width..][..width];
            for node in list.iter().take_while(|n| **n != NONE) {
                reach(*node, &mut out);
            }
            at += 1;
        }
        if next < rows {
            reach(next as u32, &mut out);
            next += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests;
