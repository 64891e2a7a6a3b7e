//! Random vectors for tests, benchmarks and examples: the same seed gives the same numbers on every
//! machine.

use crate::build::mix;
use crate::kernel::dot;

/// `rows` vectors of `dim` numbers and length 1, one after the other.
///
/// ```
/// let vectors = flat_hnsw::sample::unit_vectors(1, 10, 4);
/// assert_eq!(vectors.len(), 40);
/// assert_eq!(vectors, flat_hnsw::sample::unit_vectors(1, 10, 4));
/// ```
#[must_use]
pub fn unit_vectors(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
    let mut out: Vec<f32> = (0..(rows * dim) as u64)
        .map(|i| (mix(seed ^ mix(i)) >> 40) as f32 / (1_u64 << 24) as f32 - 0.5)
        .collect();
    for vector in out.chunks_mut(dim.max(1)) {
        let norm = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    out
}
