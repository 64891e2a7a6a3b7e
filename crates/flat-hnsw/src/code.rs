//! Vectors as bytes: one scale for all, so that products of codes compare as integers.
//!
//! A component x is stored as `round(x · scale)` within ±127, plus 128. A query has a scale of its
//! own. The products are estimates; [`Quantiser::slack`] bounds how wrong one can be, which lets an
//! exact search discard by estimate.

use multiversion::multiversion;

use crate::kernel::{LINE, dot};

const CODE_MAX: f32 = 127.0;

/// How vectors of one index become codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiser {
    /// Code units a unit.
    pub scale: f32,
    /// Largest length of what encoding took from any vector.
    pub residual_max: f32,
}

/// A query as bytes.
#[derive(Clone, Debug, Default)]
pub struct QueryCode {
    /// Codes, padded with zeros to the stride.
    pub bytes: Vec<i8>,
    /// Code units a unit.
    pub scale: f32,
    /// Length of what encoding took from it.
    pub residual: f32,
    /// Length of the vector that it stands for.
    pub norm: f32,
}

/// Bytes a row of codes.
#[must_use]
pub fn stride(dim: usize) -> usize {
    dim.next_multiple_of(LINE)
}

impl Quantiser {
    /// The scale that covers every component of these vectors: clipping a few would make most
    /// estimates finer, but the slack is that of the worst.
    #[must_use]
    pub fn of(vectors: &[f32]) -> Self {
        Self { scale: CODE_MAX / largest(vectors).max(f32::MIN_POSITIVE.sqrt()), residual_max: 0.0 }
    }

    /// Writes the code of a vector, and remembers how much was lost.
    pub fn encode(&mut self, vector: &[f32], out: &mut [u8]) {
        out.fill(128);
        let codes: &mut [i8] = bytemuck::cast_slice_mut(out);
        let lost = encode_signed(vector, self.scale, codes);
        codes[..vector.len()].iter_mut().for_each(|code| *code ^= i8::MIN);
        self.residual_max = self.residual_max.max(lost.sqrt());
    }

    /// Makes a query's code.
    pub fn query(vector: &[f32], out: &mut QueryCode) {
        out.bytes.clear();
        out.bytes.resize(stride(vector.len()), 0);
        out.scale = CODE_MAX / largest(vector).max(f32::MIN_POSITIVE.sqrt());
        out.residual = encode_signed(vector, out.scale, &mut out.bytes).sqrt();
        out.norm = dot(vector, vector).sqrt();
    }

    /// How far the estimate of a product with any unit vector can be from the product, in units: by
    /// Cauchy and Schwarz,
    /// |q·x − q'·x'| ≤ |q − q'| |x| + |q'| |x − x'|; a thousandth is added for the rounding of f32.
    #[must_use]
    pub fn slack(&self, query: &QueryCode) -> f32 {
        1.001 * (query.residual + (query.norm + query.residual) * self.residual_max) + 1e-5
    }

    /// What estimates can tell apart, in products of codes, for vectors of length 1: four standard
    /// deviations of the sum of rounding errors, each even over ±½.
    #[must_use]
    pub fn resolution(&self, query: &QueryCode) -> f32 {
        4.0 * ((self.scale * self.scale + query.scale * query.scale) / 12.0).sqrt()
    }

    /// The estimate in units.
    #[must_use]
    pub fn estimate(&self, query: &QueryCode, product: i32) -> f32 {
        product as f32 / (self.scale * query.scale)
    }
}

/// Independent sums and maxima: one register of 16, or two of 8.
const LANES: usize = 16;

/// The largest component by size. Compiled for wide registers: a search is short enough for this to
/// count.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2+fma", "aarch64+neon"))]
fn largest(vector: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = vector.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = lanes[i].max(chunk[i].abs());
        }
    }
    rest.iter().chain(&lanes).fold(0.0, |m, x| m.max(x.abs()))
}

/// Signed codes; gives the square of what was lost. Without wide registers rounding is a call a
/// component.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512bw+avx512dq",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn encode_signed(vector: &[f32], scale: f32, out: &mut [i8]) -> f32 {
    let mut lost = [0.0_f32; LANES];
    let (chunks, rest) = vector.as_chunks::<LANES>();
    let (places, left) = out.split_at_mut(chunks.len() * LANES);
    let unit = 1.0 / scale;
    for (chunk, place) in chunks.iter().zip(places.as_chunks_mut::<LANES>().0) {
        for i in 0..LANES {
            let code = (chunk[i] * scale).round_ties_even().clamp(-CODE_MAX, CODE_MAX);
            let error = chunk[i] - code * unit;
            lost[i] += error * error;
            place[i] = code as i8;
        }
    }
    for ((x, place), lost) in rest.iter().zip(left).zip(&mut lost) {
        let code = (x * scale).round_ties_even().clamp(-CODE_MAX, CODE_MAX);
        let error = x - code * unit;
        *lost += error * error;
        *place = code as i8;
    }
    lost.iter().sum()
}

/// A stored row as a query against the others.
pub fn as_query(row: &[u8], out: &mut Vec<i8>) {
    out.clear();
    out.extend(row.iter().map(|b| (b ^ 0x80).cast_signed()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::{Kernels, Rows};

    proptest! {
        #[test]
        fn an_estimate_is_never_further_off_than_the_slack(
            a in proptest::collection::vec(-1_f32..1.0, 70),
            b in proptest::collection::vec(-1_f32..1.0, 70),
            odd in 0.1_f32..10.0,
        ) {
            let unit = |v: &[f32]| -> Vec<f32> {
                let n = dot(v, v).sqrt().max(1e-6);
                v.iter().map(|x| x / n).collect()
            };
            // One large component, which the scale of the others may clip.
            let (mut a, mut b) = (a, b);
            a[0] *= odd;
            b[3] *= odd;
            let (a, b) = (unit(&a), unit(&b));
            let mut quantiser = Quantiser::of(&a);
            let mut code = vec![0; stride(70)];
            quantiser.encode(&a, &mut code);
            let mut query = QueryCode::default();
            Quantiser::query(&b, &mut query);
            let mut out = [0];
            Kernels::best().scan(
                &Rows { bytes: &code, stride: code.len() },
                0,
                &query.bytes,
                &mut out,
            );
            let (estimate, truth) = (quantiser.estimate(&query, out[0]), dot(&a, &b));
            prop_assert!(
                (estimate - truth).abs() <= quantiser.slack(&query),
                "{estimate} for {truth}"
            );
        }
    }
}
