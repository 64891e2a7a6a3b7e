//! Reading tokens piece by piece, inside a budget.
//!
//! What takes memory beside the weights: the cached keys and values of every state that is alive,
//! those that a step makes, and what a step needs meanwhile (mostly scores of attention and logits,
//! both in proportion to the piece). The first is counted exactly; the last is reckoned, and the
//! piece made small enough. Of a model without a cache everything that was read is read again with
//! each piece; then there is one piece.
//!
//! The session is held for one step at a time, so that another call may go between; what is alive
//! is counted over all of them.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use brahman_models::passes::PassFailure as _;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor};

use super::folder::{Element, Wiring};
use crate::engine::{EngineError, Stop};
use crate::walk::Stepper;

/// Tokens of a piece: enough for matrices to be efficient, few enough that the scores of attention
/// stay in the caches.
const PIECES: [usize; 5] = [256, 128, 64, 32, 16];
/// Copies of the scores of attention that a step may hold at once: scores, masked, softmax.
const SCORE_COPIES: u64 = 3;
/// Numbers of the model's width that a step may hold for each token: residual, queries, keys,
/// values, and four widths of the MLP twice.
const WIDTHS: u64 = 16;

/// What is held for each byte in use: the C library's allocator keeps what it got in pieces, up to
/// 1.9 times as much as was in use when this was measured. Giving everything back at once
/// (`MALLOC_MMAP_THRESHOLD_`) holds less and takes three times as long.
const HELD_PER_BYTE: (u64, u64) = (5, 2);

fn held(bytes: u64) -> u64 {
    bytes * HELD_PER_BYTE.0 / HELD_PER_BYTE.1
}

/// That a model says more or less of what comes next than there are tokens.
#[derive(Debug, thiserror::Error)]
#[error("{logits} logits for {tokens} tokens, expected {expected}")]
struct LogitsError {
    logits: usize,
    tokens: usize,
    expected: usize,
}

/// What a reader may take.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes it may take beyond the weights.
    pub budget_bytes: u64,
    /// Heads of attention that are computed at once.
    pub heads: u64,
    /// Width of the model.
    pub hidden: u64,
}

/// Keys and values of the tokens read, counted while they are alive.
struct CachedTensors {
    values: Vec<DynValue>,
    bytes: u64,
    alive: Arc<AtomicU64>,
}

impl CachedTensors {
    fn new(values: Vec<DynValue>, bytes: u64, alive: &Arc<AtomicU64>) -> Self {
        alive.fetch_add(bytes, Ordering::Relaxed);
        Self { values, bytes, alive: Arc::clone(alive) }
    }
}

impl Drop for CachedTensors {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What was read so far, as the model keeps it.
#[derive(Clone)]
pub struct State {
    cached: Option<Arc<CachedTensors>>,
    /// What was read, of a model without a cache.
    read: Arc<[u32]>,
    len: usize,
    /// What comes next: logits, and the logarithm of the sum of their exponentials.
    next: Option<(Arc<[f32]>, f64)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Reads tokens through a session.
pub struct Reader<'a> {
    session: &'a Mutex<Session>,
    wiring: &'a Wiring,
    plan: Plan,
    alive: Arc<AtomicU64>,
    /// Tokens that went through the session.
    forwarded: u64,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// A reader without any state, beside others whose states are counted in `alive`.
    #[must_use]
    pub fn new(
        session: &'a Mutex<Session>,
        wiring: &'a Wiring,
        plan: Plan,
        alive: &Arc<AtomicU64>,
    ) -> Self {
        Self { session, wiring, plan, alive: Arc::clone(alive), forwarded: 0 }
    }

    /// Whether one pass over so many tokens fits, said before any is begun: at its last step the
    /// state before and the one after it are alive, in the smallest pieces that there are.
    ///
    /// # Errors
    /// [`EngineError::OutOfBudget`].
    pub fn fits(&self, tokens: usize) -> Result<(), EngineError> {
        let piece =
            if self.wiring.past.is_empty() { tokens } else { PIECES[PIECES.len() - 1].min(tokens) };
        let before = tokens - piece;
        let states = (before + tokens) as u64 * self.wiring.bytes_per_token();
        let needed = held(states + self.scratch(piece, before));
        let budget = self.plan.budget_bytes;
        if needed <= budget {
            Ok(())
        } else {
            Err(EngineError::OutOfBudget { tokens, needed, budget })
        }
    }

    /// Bytes that a step needs meanwhile.
    fn scratch(&self, piece: usize, len: usize) -> u64 {
        let (piece, all) = (piece as u64, (len + piece) as u64);
        let scores = self.plan.heads * all * SCORE_COPIES;
        let rows = u64::from(self.wiring.vocabulary) * 2 + self.plan.hidden * WIDTHS;
        piece * (scores + rows) * size_of::<f32>() as u64
    }

    /// The largest piece that may follow `len` tokens now.
    fn piece(&self, len: usize, left: usize) -> Result<usize, EngineError> {
        if self.wiring.past.is_empty() {
            return self.fits(len + left).map(|()| left);
        }
        let alive = self.alive.load(Ordering::Relaxed);
        let new = |piece: usize| (len + piece) as u64 * self.wiring.bytes_per_token();
        let needed = |piece: usize| held(alive + new(piece) + self.scratch(piece, len));
        let fits = |piece: &usize| needed(*piece) <= self.plan.budget_bytes;
        match PIECES.iter().map(|p| (*p).min(left)).find(fits) {
            Some(piece) => Ok(piece),
            None => {
                let smallest = PIECES[PIECES.len() - 1].min(left);
                let budget = self.plan.budget_bytes;
                Err(EngineError::OutOfBudget {
                    tokens: len + left,
                    needed: needed(smallest),
                    budget,
                })
            }
        }
    }

    /// One step. Gives the new state's cache, and the logits of every token that was read in it.
    fn step(&mut self, state: &State, piece: &[u32]) -> ort::Result<(CachedTensors, DynValue)> {
        let all = state.len + piece.len();
        // Without a cache what was read is read again.
        let read: Cow<'_, [u32]> = if self.wiring.past.is_empty() {
            Cow::Owned([&state.read[..], piece].concat())
        } else {
            Cow::Borrowed(piece)
        };
        let forwarded = read.len() as u64;
        let shape = [1, read.len() as i64];
        let whole =
            |numbers: Vec<i64>, shape: [i64; 2]| -> ort::Result<SessionInputValue<'static>> {
                if self.wiring.narrow {
                    let numbers: Vec<i32> =
                        numbers.into_iter().map(|n| i32::try_from(n).unwrap_or(i32::MAX)).collect();
                    return Ok(Tensor::<i32>::from_array((shape, numbers))?.into());
                }
                Ok(Tensor::<i64>::from_array((shape, numbers))?.into())
            };
        let ids = whole(read.iter().map(|t| i64::from(*t)).collect(), shape)?;
        let mut inputs = ort::inputs! { "input_ids" => ids };
        if self.wiring.mask {
            inputs.push(("attention_mask".into(), whole(vec![1; all], [1, all as i64])?));
        }
        if self.wiring.positions {
            let from = all - read.len();
            inputs
                .push(("position_ids".into(), whole((from as i64..all as i64).collect(), shape)?));
        }
        if self.wiring.branch {
            inputs.push((
                "use_cache_branch".into(),
                Tensor::<bool>::from_array(([1_i64], vec![state.cached.is_some()]))?.into(),
            ));
        }
        if let Some((name, is_list)) = &self.wiring.keep {
            // None is all of them.
            let every: SessionInputValue<'_> = if *is_list {
                Tensor::<i64>::from_array(([1_i64], vec![0]))?.into()
            } else {
                Tensor::<i64>::from_array(((), vec![0]))?.into()
            };
            inputs.push((name.as_str().into(), every));
        }
        for (i, past) in self.wiring.past.iter().enumerate() {
            let shape = [1, past.heads as i64, 0, past.width as i64];
            let value: SessionInputValue<'_> = match (&state.cached, past.element) {
                (Some(cached), _) => (&cached.values[i]).into(),
                (None, Element::F32) => Tensor::<f32>::from_array((shape, Vec::new()))?.into(),
                (None, Element::F16) => {
                    Tensor::<half::f16>::from_array((shape, Vec::new()))?.into()
                }
                (None, Element::Bf16) => {
                    Tensor::<half::bf16>::from_array((shape, Vec::new()))?.into()
                }
            };
            inputs.push((past.input.as_str().into(), value));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outputs = session.run(inputs)?;
        self.forwarded += forwarded;
        let mut take = |name: &str| {
            outputs
                .remove(name)
                .ok_or_else(|| ort::Error::new(format!("the model gave no output `{name}`")))
        };
        let logits = take("logits")?;
        let values = self
            .wiring
            .past
            .iter()
            .map(|past| take(&past.output))
            .collect::<ort::Result<Vec<_>>>()?;
        Ok((
            CachedTensors::new(values, all as u64 * self.wiring.bytes_per_token(), &self.alive),
            logits,
        ))
    }

    /// A step of as many tokens as the device's memory holds, of these at most. Gives how many they
    /// were as well.
    fn step_that_fits(
        &mut self,
        state: &State,
        tokens: &[u32],
    ) -> Result<(usize, CachedTensors, DynValue), EngineError> {
        let mut piece = tokens.len();
        loop {
            let error = match self.step(state, &tokens[..piece]) {
                Ok((cached, logits)) => return Ok((piece, cached, logits)),
                Err(error) => error,
            };
            if !error.is_out_of_memory() {
                return Err(EngineError::failed(error));
            }
            tracing::warn!(piece, "memory does not hold this many tokens of a step: {error}");
            // Without a cache all is read in one piece.
            let smaller = if self.wiring.past.is_empty() { None } else { smaller(piece) };
            let tokens = state.len + tokens.len();
            piece = smaller.ok_or(EngineError::OutOfMemory { tokens })?;
        }
    }

    /// Logits as numbers of 32 bits.
    fn rows<'v>(&self, logits: &'v DynValue) -> ort::Result<Cow<'v, [f32]>> {
        Ok(match self.wiring.logits {
            Element::F32 => Cow::Borrowed(logits.try_extract_tensor::<f32>()?.1),
            Element::F16 => Cow::Owned(
                logits
                    .try_extract_tensor::<half::f16>()?
                    .1
                    .iter()
                    .map(|half| half.to_f32())
                    .collect(),
            ),
            Element::Bf16 => Cow::Owned(
                logits
                    .try_extract_tensor::<half::bf16>()?
                    .1
                    .iter()
                    .map(|half| half.to_f32())
                    .collect(),
            ),
        })
    }
}

/// The next smaller piece than one that memory does not hold.
fn smaller(piece: usize) -> Option<usize> {
    PIECES.into_iter().find(|smaller| *smaller < piece)
}

/// ln Σ e^x, without overflow.
fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Eight sums, so that the additions do not wait for one another.
    let mut sums = [0.0_f64; 8];
    for part in row.chunks(8) {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += f64::from((x - most).exp());
        }
    }
    f64::from(most) + sums.iter().sum::<f64>().ln()
}

impl Stepper for Reader<'_> {
    type State = State;

    fn start(&mut self) -> State {
        State { cached: None, read: Arc::from([]), len: 0, next: None }
    }

    fn extend(
        &mut self,
        state: &mut State,
        tokens: &[u32],
        wanted: &[bool],
        out: &mut [f32],
        stop: &Stop,
    ) -> Result<(), EngineError> {
        let mut at = 0;
        while at < tokens.len() {
            stop.check()?;
            let piece = self.piece(state.len, tokens.len() - at)?;
            if let (true, Some((row, norm))) = (wanted[at], &state.next) {
                out[at] = (f64::from(row[tokens[at] as usize]) - norm) as f32;
            }
            let (piece, cached, logits) = self.step_that_fits(state, &tokens[at..at + piece])?;
            let rows = self.rows(&logits).map_err(EngineError::failed)?;
            let vocabulary = self.wiring.vocabulary as usize;
            let is_cached = !self.wiring.past.is_empty();
            let again = if is_cached { 0 } else { state.len };
            if rows.len() != (again + piece) * vocabulary {
                let expected = (again + piece) * vocabulary;
                return Err(EngineError::failed(LogitsError {
                    logits: rows.len(),
                    tokens: again + piece,
                    expected,
                }));
            }
            let rows = &rows[again * vocabulary..];
            for (i, row) in rows
                .chunks_exact(vocabulary)
                .take(piece - 1)
                .enumerate()
                .filter(|(i, _)| wanted[at + i + 1])
            {
                out[at + i + 1] =
                    (f64::from(row[tokens[at + i + 1] as usize]) - log_sum_exp(row)) as f32;
            }
            let last = &rows[(piece - 1) * vocabulary..];
            let read = if is_cached {
                Arc::clone(&state.read)
            } else {
                [&state.read[..], &tokens[at..at + piece]].concat().into()
            };
            let cached = is_cached.then(|| Arc::new(cached));
            *state = State {
                cached,
                read,
                len: state.len + piece,
                next: Some((last.into(), log_sum_exp(last))),
            };
            at += piece;
        }
        Ok(())
    }

    fn forwarded(&self) -> Option<u64> {
        Some(self.forwarded)
    }

    fn fork(&mut self, state: &State, ahead: usize) -> Option<State> {
        if self.wiring.past.is_empty() {
            return Some(state.clone());
        }
        // The branch's last step reads its own cache and makes the next, while the common
        // beginning's waits.
        let alive = self.alive.load(Ordering::Relaxed);
        let branch = 2 * (state.len + ahead) as u64 * self.wiring.bytes_per_token();
        let smallest = self.scratch(PIECES[PIECES.len() - 1], state.len + ahead);
        (held(alive + branch + smallest) <= self.plan.budget_bytes).then(|| state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_memory_does_not_hold_becomes_smaller_until_there_is_none() {
        let pieces: Vec<usize> =
            std::iter::successors(Some(256), |piece| smaller(*piece)).collect();
        assert_eq!(pieces, PIECES);
        assert_eq!(
            (smaller(200), smaller(17), smaller(16), smaller(1)),
            (Some(128), Some(16), None, None)
        );
    }
}
