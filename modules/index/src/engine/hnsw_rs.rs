//! `hnsw-rs`: the graph is made by the crate of that name, as a control for our own builder.
//!
//! The crate links the points; its lists are then copied into the flat layout, which is walked,
//! filtered, written and checked like every other (`docs/adr/0011`). With one thread the same input
//! gives the same graph; with more it does not.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::hnsw_rs::prelude::{Distance, Hnsw};

use super::{Engine, ParameterError, Work};
use flat_hnsw::build::{Parameters, Parts, top_level};
use flat_hnsw::graph::NONE;
use flat_hnsw::{FlatIndex, GRAPH_ROWS_MIN, Progress, kernel};

/// Layers: the crate's most.
const LAYERS: usize = 16;
/// Neighbours a node at most: the crate counts them by a byte, and ends the process at more.
const M_MAX: usize = 255;
/// Points that a thread inserts at once.
const GRAIN: usize = 64;

/// The engine.
pub(super) struct HnswRs;

/// 1 − the inner product, never below 0: the crate asserts that, and rounding of equal vectors
/// would not.
struct Inner;

impl Distance<f32> for Inner {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        (1.0 - kernel::dot(a, b)).max(0.0)
    }
}

impl Engine for HnswRs {
    fn name(&self) -> &'static str {
        "hnsw-rs"
    }

    fn check(&self, parameters: &Parameters) -> Result<(), ParameterError> {
        let Parameters { m, ef_construction, .. } = *parameters;
        if m > M_MAX {
            return Err(ParameterError {
                parameter: "m",
                value: m,
                expected: format!("at most {M_MAX} for hnsw-rs"),
            });
        }
        // With fewer candidates than places in a list it loses points.
        if ef_construction <= 2 * m {
            let expected = format!("more than 2 m = {} for hnsw-rs", 2 * m);
            return Err(ParameterError {
                parameter: "ef_construction",
                value: ef_construction,
                expected,
            });
        }
        Ok(())
    }

    fn build(&self, work: Work<'_>) -> io::Result<(FlatIndex, Vec<u32>)> {
        let Work { vectors, dim, parameters, threads, progress } = work;
        let rows = vectors.len() / dim.max(1);
        self.check(&parameters)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if rows < GRAPH_ROWS_MIN {
            return FlatIndex::unlinked(vectors.into_owned(), dim, parameters);
        }
        let hnsw =
            Hnsw::<f32, Inner>::new(parameters.m, rows, LAYERS, parameters.ef_construction, Inner);
        if !insert(&hnsw, &vectors, dim, threads, progress) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let parts = parts(&hnsw, rows, parameters.m);
        drop(hnsw);
        let order: Vec<u32> = (0..rows as u32).collect();
        FlatIndex::of_parts(
            vectors.into_owned(),
            dim,
            parameters,
            parts,
            &order,
            (threads, progress),
        )
    }
}

/// Inserts all vectors; false if told to stop.
fn insert(
    hnsw: &Hnsw<'_, f32, Inner>,
    vectors: &[f32],
    dim: usize,
    threads: usize,
    progress: &Progress<'_>,
) -> bool {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let rows = vectors.len() / dim;
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let from = next.fetch_add(GRAIN, Ordering::Relaxed);
            if from >= rows {
                break;
            }
            if !progress(from) {
                stop.store(true, Ordering::Relaxed);
            }
            for (row, vector) in (from..).zip(vectors[from * dim..].chunks_exact(dim).take(GRAIN)) {
                hnsw.insert_slice((vector, row));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    !stop.load(Ordering::Relaxed)
}

/// The crate's lists in flat arrays. Its points are neighbours on layers above their own too; those
/// are left out.
fn parts(hnsw: &Hnsw<'_, f32, Inner>, rows: usize, m: usize) -> Parts {
    let points = hnsw.get_point_indexation();
    let mut levels = vec![0_u8; rows];
    for layer in 0..LAYERS {
        for point in points.get_layer_iterator(layer) {
            levels[point.get_origin_id()] = point.get_point_id().0;
        }
    }
    let top_level = top_level(&levels);
    let top =
        (0..rows as u32).filter(|row| usize::from(levels[*row as usize]) >= top_level).collect();
    let (mut upper_at, mut lists) = (vec![NONE; rows], 0);
    for (at, level) in upper_at.iter_mut().zip(&levels) {
        // Levels from the top up have no lists.
        let own = usize::from(*level).min(top_level.saturating_sub(1));
        if own > 0 {
            *at = lists as u32;
            lists += own;
        }
    }
    let (mut base, mut upper) = (vec![NONE; rows * 2 * m], vec![NONE; lists * m]);
    for layer in 0..LAYERS {
        for point in points.get_layer_iterator(layer) {
            let row = point.get_origin_id();
            let own = usize::from(levels[row]).min(top_level.saturating_sub(1));
            for (level, neighbours) in point.get_neighborhood_id().iter().enumerate().take(own + 1)
            {
                let (list, width) = match level {
                    0 => (&mut base[row * 2 * m..], 2 * m),
                    _ => (&mut upper[(upper_at[row] as usize + level - 1) * m..], m),
                };
                let there = neighbours
                    .iter()
                    .map(|n| n.get_origin_id())
                    .filter(|n| usize::from(levels[*n]) >= level);
                for (place, neighbour) in list.iter_mut().zip(there.take(width)) {
                    *place = neighbour as u32;
                }
            }
        }
    }
    Parts { top_level, top, levels, base, upper_at, upper }
}
