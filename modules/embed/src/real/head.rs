//! From what a graph gives to a vector: pooling, then what follows it. Pure.
//!
//! Every pooling but the largest number in each place is a weighted sum of tokens. Where the graph
//! makes such sums by itself (on a GPU), [`Head::weigh`] says by which weights, and the rest is the
//! same for both ways.
//!
//! As sentence-transformers defines its modules: `models/Pooling.py`, `Dense.py`, `LayerNorm.py`,
//! `Normalize.py`. A change of any number that comes out is a change of `HEAD_VERSION` in the
//! models' layout.

use brahman_models::layout::{
    Activation, Dense, LayerNorm, ModelPlan, Pooling, PoolingMode, Stage,
};

/// What PyTorch's layer norm adds to the variance unless told otherwise.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// What is done outside the graph.
#[derive(Clone, Debug)]
pub struct Head {
    pooling: Option<Pooling>,
    stages: Vec<Stage>,
    truncate_dim: Option<usize>,
    is_normalized: bool,
}

impl Head {
    /// What a plan wants done.
    #[must_use]
    pub fn of(plan: &ModelPlan) -> Self {
        Self {
            pooling: plan.pooling.clone(),
            stages: plan.stages.clone(),
            truncate_dim: plan.truncate_dim,
            is_normalized: plan.is_normalized(),
        }
    }

    /// Whether vectors have length 1.
    #[must_use]
    pub fn is_normalized(&self) -> bool {
        self.is_normalized
    }

    /// The vector of a text: `hidden` is the vector of each of its tokens, one after the other, or
    /// its own if the graph pools. Of `tokens` tokens the first `skip` are a prompt's that is not
    /// to be pooled.
    #[must_use]
    pub fn vector(&self, hidden: &[f32], dim: usize, tokens: usize, skip: usize) -> Vec<f32> {
        let vector = match &self.pooling {
            None => hidden.get(..dim).unwrap_or(hidden).to_vec(),
            // Of no token there is no vector, and no number that could be taken for one.
            Some(pooling) if tokens == 0 => vec![f32::NAN; dim * pooling.modes.len()],
            Some(pooling) => {
                let divides = self.divides(pooling);
                let mut out = Vec::with_capacity(dim * pooling.modes.len());
                for mode in &pooling.modes {
                    out.extend(pooled(*mode, hidden, dim, tokens, skip, divides));
                }
                out
            }
        };
        self.after_pooling(vector)
    }

    /// How many weighted sums of a text's tokens the pooling is; none if the graph pools by itself,
    /// or if the pooling is no such sum.
    #[must_use]
    pub fn sums(&self) -> Option<usize> {
        let modes = &self.pooling.as_ref()?.modes;
        let are_sums = !modes.is_empty() && !modes.contains(&PoolingMode::Max);
        are_sums.then_some(modes.len())
    }

    /// By which weights the tokens of a text are summed: `weights` are zeros, `width` for each sum,
    /// and get a number at each place that is pooled. `tokens` and `skip` are as for
    /// [`vector`](Self::vector); of no token each weight is not a number, and so is what comes out.
    pub fn weigh(&self, tokens: usize, skip: usize, width: usize, weights: &mut [f32]) {
        let Some(pooling) = &self.pooling else { return };
        let divides = self.divides(pooling);
        let each = weights.chunks_exact_mut(width.max(1));
        for (mode, weights) in pooling.modes.iter().zip(each) {
            if tokens == 0 {
                weights.fill(f32::NAN);
            } else {
                weigh(*mode, tokens, skip, divides, weights);
            }
        }
    }

    /// Whether a mean is divided by how many tokens it is of. The divisor would change nothing but
    /// the last bits of what is scaled to length 1 next.
    fn divides(&self, pooling: &Pooling) -> bool {
        pooling.modes != [PoolingMode::Mean] || self.stages.first() != Some(&Stage::Normalize)
    }

    /// What becomes of a text's pooled numbers.
    #[must_use]
    pub fn after_pooling(&self, mut vector: Vec<f32>) -> Vec<f32> {
        for stage in &self.stages {
            vector = match stage {
                Stage::Dense(dense) => through(dense, &vector),
                Stage::LayerNorm(norm) => normed(norm, &vector),
                Stage::Normalize => unit(vector),
            };
        }
        match self.truncate_dim {
            Some(dim) => cut(&vector, dim, self.is_normalized),
            None => vector,
        }
    }
}

/// The first numbers of a vector, scaled to length 1 if the whole was.
#[must_use]
pub fn cut(vector: &[f32], dim: usize, is_normalized: bool) -> Vec<f32> {
    let first = vector.get(..dim).unwrap_or(vector).to_vec();
    if is_normalized { unit(first) } else { first }
}

/// The weights of one mode: of each token that [`pooled`] takes the factor that it has there.
fn weigh(mode: PoolingMode, tokens: usize, skip: usize, divides: bool, weights: &mut [f32]) {
    let counted = tokens.saturating_sub(skip) as f32;
    let total = || (skip..tokens).map(|at| (at + 1) as f32).sum::<f32>();
    let mut fill = |weight: &dyn Fn(usize) -> f32| {
        let body = weights.iter_mut().enumerate().take(tokens).skip(skip);
        body.for_each(|(at, w)| *w = weight(at));
    };
    match mode {
        PoolingMode::Cls => weights.iter_mut().take(1).for_each(|w| *w = 1.0),
        PoolingMode::LastToken => {
            weights.iter_mut().take(tokens).skip(tokens.saturating_sub(1)).for_each(|w| *w = 1.0);
        }
        // No sum: whoever asks for weights has asked whether there are any.
        PoolingMode::Max => weights.fill(f32::NAN),
        PoolingMode::Mean if divides => fill(&|_| 1.0 / counted.max(1e-9)),
        PoolingMode::Mean => fill(&|_| 1.0),
        PoolingMode::MeanSqrtLen => fill(&|_| 1.0 / counted.sqrt().max(1e-9)),
        PoolingMode::WeightedMean => {
            let total = total().max(1e-9);
            fill(&|at| (at + 1) as f32 / total);
        }
    }
}

fn pooled(
    mode: PoolingMode,
    hidden: &[f32],
    dim: usize,
    tokens: usize,
    skip: usize,
    divides: bool,
) -> Vec<f32> {
    let rows = || hidden.chunks_exact(dim).take(tokens);
    let counted = tokens.saturating_sub(skip);
    let sum = |weight: &dyn Fn(usize) -> f32| {
        let mut sum = vec![0_f32; dim];
        for (at, token) in rows().enumerate().skip(skip) {
            let weight = weight(at);
            for (s, x) in sum.iter_mut().zip(token) {
                *s += x * weight;
            }
        }
        sum
    };
    let over = |mut sum: Vec<f32>, divisor: f32| {
        sum.iter_mut().for_each(|x| *x /= divisor.max(1e-9));
        sum
    };
    match mode {
        PoolingMode::Cls => rows().next().map(<[f32]>::to_vec).unwrap_or_default(),
        PoolingMode::LastToken => rows().next_back().map(<[f32]>::to_vec).unwrap_or_default(),
        PoolingMode::Max => {
            let mut most = vec![f32::NEG_INFINITY; dim];
            for token in rows().skip(skip) {
                for (m, x) in most.iter_mut().zip(token) {
                    // A number that is none must not be lost among those that are.
                    *m = if m.is_nan() || x.is_nan() { f32::NAN } else { m.max(*x) };
                }
            }
            most
        }
        PoolingMode::Mean if divides => over(sum(&|_| 1.0), counted as f32),
        PoolingMode::Mean => sum(&|_| 1.0),
        PoolingMode::MeanSqrtLen => over(sum(&|_| 1.0), (counted as f32).sqrt()),
        PoolingMode::WeightedMean => {
            let weights = (skip..tokens).map(|at| (at + 1) as f32).sum::<f32>();
            over(sum(&|at| (at + 1) as f32), weights)
        }
    }
}

fn through(dense: &Dense, vector: &[f32]) -> Vec<f32> {
    let rows = dense.weight.chunks_exact(dense.inputs.max(1));
    let product = rows
        .map(|row| row.iter().zip(vector).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>());
    let bias = dense.bias.iter().copied().chain(std::iter::repeat(0.0));
    product
        .zip(bias)
        .map(|(sum, bias)| activated(dense.activation, sum + f64::from(bias)) as f32)
        .collect()
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Tanh => x.tanh(),
        Activation::Relu => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0)
            }
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// The error function, by the series that has no terms to cancel out (Abramowitz and Stegun 7.1.6).
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

fn normed(norm: &LayerNorm, vector: &[f32]) -> Vec<f32> {
    let count = vector.len().max(1) as f64;
    let mean = vector.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = vector.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + LAYER_NORM_EPSILON).sqrt();
    let trained = norm.weight.iter().zip(&norm.bias);
    vector
        .iter()
        .zip(trained)
        .map(|(x, (w, b))| ((f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b)) as f32)
        .collect()
}

/// A vector scaled to length 1; one of zeros, or with a number that is none, stays as it is.
#[must_use]
pub fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(modes: &[PoolingMode], stages: Vec<Stage>) -> Head {
        let is_normalized = stages.contains(&Stage::Normalize);
        Head {
            pooling: Some(Pooling { modes: modes.to_vec(), include_prompt: true }),
            stages,
            truncate_dim: None,
            is_normalized,
        }
    }

    /// Three tokens of two numbers, and padding that must not count.
    const HIDDEN: [f32; 8] = [1.0, 2.0, 3.0, -4.0, 5.0, 0.0, 99.0, 99.0];

    fn near(got: &[f32], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{got:?} {want:?}");
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(*g) - w).abs() < 1e-6, "{got:?} {want:?}");
        }
    }

    #[test]
    fn every_pooling_is_as_sentence_transformers_defines_it() {
        let of = |mode, skip| head(&[mode], Vec::new()).vector(&HIDDEN, 2, 3, skip);
        near(&of(PoolingMode::Cls, 0), &[1.0, 2.0]);
        near(&of(PoolingMode::LastToken, 0), &[5.0, 0.0]);
        near(&of(PoolingMode::Max, 0), &[5.0, 2.0]);
        near(&of(PoolingMode::Mean, 0), &[3.0, -2.0 / 3.0]);
        near(&of(PoolingMode::MeanSqrtLen, 0), &[9.0 / 3_f64.sqrt(), -2.0 / 3_f64.sqrt()]);
        near(&of(PoolingMode::WeightedMean, 0), &[22.0 / 6.0, -6.0 / 6.0]);
        // A prompt of one token that is not pooled; the first and the last token stay what they
        // are.
        near(&of(PoolingMode::Mean, 1), &[4.0, -2.0]);
        near(&of(PoolingMode::Max, 1), &[5.0, 0.0]);
        near(&of(PoolingMode::WeightedMean, 1), &[21.0 / 5.0, -8.0 / 5.0]);
        near(&of(PoolingMode::Cls, 1), &[1.0, 2.0]);
        near(&of(PoolingMode::LastToken, 1), &[5.0, 0.0]);
        let side_by_side =
            head(&[PoolingMode::Cls, PoolingMode::Mean], Vec::new()).vector(&HIDDEN, 2, 3, 0);
        near(&side_by_side, &[1.0, 2.0, 3.0, -2.0 / 3.0]);
    }

    #[test]
    fn weighted_sums_are_what_pooling_gives() {
        for mode in PoolingMode::ALL.into_iter().filter(|mode| *mode != PoolingMode::Max) {
            for stages in [Vec::new(), vec![Stage::Normalize]] {
                let head = head(&[mode, PoolingMode::Mean], stages.clone());
                let alone = self::head(&[mode], stages);
                for (head, tokens, skip) in
                    [(&head, 3, 0), (&head, 3, 1), (&alone, 3, 2), (&alone, 1, 0), (&alone, 2, 2)]
                {
                    let sums = head.sums().expect("sums");
                    let mut weights = vec![0.0; sums * 4];
                    head.weigh(tokens, skip, 4, &mut weights);
                    let mut pooled = Vec::new();
                    for weights in weights.chunks(4) {
                        let token = |j: usize| HIDDEN.iter().skip(j).step_by(2);
                        let sum = |j: usize| token(j).zip(weights).map(|(x, w)| x * w).sum::<f32>();
                        pooled.extend([sum(0), sum(1)]);
                    }
                    let (got, want) =
                        (head.after_pooling(pooled), head.vector(&HIDDEN, 2, tokens, skip));
                    assert_eq!(got.len(), want.len());
                    for (g, w) in got.iter().zip(&want) {
                        let most = 1e-6 * w.abs().max(1.0);
                        assert!((g - w).abs() <= most, "{mode:?}: {got:?} {want:?}");
                    }
                }
                let mut weights = [0.0; 4];
                alone.weigh(0, 0, 4, &mut weights);
                assert!(weights.iter().all(|w| w.is_nan()), "of no token there is no vector");
            }
        }
        let most = head(&[PoolingMode::Mean, PoolingMode::Max], Vec::new());
        assert_eq!((most.sums(), Head { pooling: None, ..most }.sums()), (None, None));
    }

    #[test]
    fn what_follows_is_done_in_order() {
        let dense = |activation, bias: &[f32]| {
            Stage::Dense(Dense {
                path: "2_Dense".to_owned(),
                inputs: 2,
                outputs: 2,
                weight: vec![1.0, 2.0, 0.5, -1.0],
                bias: bias.to_vec(),
                activation,
                sha256: String::new(),
            })
        };
        let of = |stages| head(&[PoolingMode::Cls], stages).vector(&HIDDEN, 2, 3, 0);
        near(&of(vec![dense(Activation::Identity, &[])]), &[5.0, -1.5]);
        near(&of(vec![dense(Activation::Tanh, &[0.0, 1.0])]), &[5_f64.tanh(), (-0.5_f64).tanh()]);
        near(&of(vec![dense(Activation::Relu, &[])]), &[5.0, 0.0]);
        near(
            &of(vec![dense(Activation::Silu, &[])]),
            &[5.0 / (1.0 + (-5_f64).exp()), -1.5 / (1.0 + 1.5_f64.exp())],
        );
        // Of 5 and -1.5, by the tables.
        near(&of(vec![dense(Activation::Gelu, &[])]), &[4.999_998_57, -0.100_210_78]);
        near(
            &of(vec![dense(Activation::Identity, &[]), Stage::Normalize]),
            &[5.0 / 27.25_f64.sqrt(), -1.5 / 27.25_f64.sqrt()],
        );
        let norm = LayerNorm {
            path: String::new(),
            weight: vec![2.0, 1.0],
            bias: vec![0.0, 1.0],
            sha256: String::new(),
        };
        let scale = 1.0 / (0.25_f64 + 1e-5).sqrt();
        near(&of(vec![Stage::LayerNorm(norm)]), &[-0.5 * scale * 2.0, 0.5 * scale + 1.0]);
        let mut cut = head(&[PoolingMode::Cls, PoolingMode::Mean], vec![Stage::Normalize]);
        cut.truncate_dim = Some(2);
        near(&cut.vector(&HIDDEN, 2, 3, 0), &[1.0 / 5_f64.sqrt(), 2.0 / 5_f64.sqrt()]);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let hidden = [1.0, f32::NAN, 3.0, 4.0];
        for mode in PoolingMode::ALL {
            for tokens in [1, 2] {
                let vector = head(&[mode], vec![Stage::Normalize]).vector(&hidden, 2, tokens, 0);
                let sees_it = !(mode == PoolingMode::LastToken && tokens == 2);
                assert_eq!(
                    vector.iter().any(|x| !x.is_finite()),
                    sees_it,
                    "{mode:?} {tokens} {vector:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_mean_scaled_to_length_1_is_the_sum_scaled_so(
            numbers in prop::collection::vec(-1e3_f32..1e3, 12),
        ) {
            let (mean, sum) = (
                head(&[PoolingMode::Mean], Vec::new()),
                head(&[PoolingMode::Mean], vec![Stage::Normalize]),
            );
            let (mean, sum) = (unit(mean.vector(&numbers, 3, 4, 0)), sum.vector(&numbers, 3, 4, 0));
            for (a, b) in mean.iter().zip(&sum) {
                prop_assert!((a - b).abs() < 1e-4, "{:?} {:?}", mean, sum);
            }
        }

        #[test]
        fn the_error_function_is_odd_and_bounded(x in -8_f64..8.0) {
            prop_assert!(erf(x).abs() <= 1.0 + 1e-12 && (erf(x) + erf(-x)).abs() < 1e-12);
            prop_assert!((erf(1.0) - 0.842_700_792_949_715).abs() < 1e-12);
        }
    }
}
