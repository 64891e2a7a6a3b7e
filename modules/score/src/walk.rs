//! Many sequences through a model that reads from left to right, each shared beginning once.
//!
//! The sequences form a tree of prefixes. It is walked depth first; where sequences part, the state
//! is forked for all but the largest bunch, which goes on with the state itself. So at any time
//! there are the state of the common beginning and the state of the branch that is being run, never
//! one a memory; a [`Stepper`] that cannot hold even these two refuses the fork, and the beginning
//! is run again afterwards. Early memories therefore come before late ones, and what follows the
//! last response is not run at all.

use crate::engine::{EngineError, Scores, Sequence, Stop, Work};

/// A model that reads from left to right.
pub trait Stepper {
    /// What it remembers of the tokens read.
    type State;

    /// Before any token.
    fn start(&mut self) -> Self::State;

    /// Reads tokens; puts in `logprobs` the log-probability that each had. Where `wanted` is false
    /// it may be anything, as it may for a first token, which nobody asks for.
    ///
    /// # Errors
    /// [`EngineError`]; the state is then of no use.
    fn extend(
        &mut self,
        state: &mut Self::State,
        tokens: &[u32],
        wanted: &[bool],
        logprobs: &mut [f32],
        stop: &Stop,
    ) -> Result<(), EngineError>;

    /// Tokens that it has read so far, where that is not what it was given: without a cache it
    /// reads some again.
    fn forwarded(&self) -> Option<u64> {
        None
    }

    /// A second state like this one, which will read at most `ahead` tokens; `None` if there is no
    /// room for both.
    fn fork(&mut self, state: &Self::State, ahead: usize) -> Option<Self::State>;
}

/// Scores all sequences.
///
/// # Errors
/// What [ends the call](EngineError::ends_the_call); other failures are told to `done`.
pub fn walk<S: Stepper>(
    stepper: &mut S,
    sequences: &[Sequence],
    stop: &Stop,
    done: &mut dyn FnMut(usize, Scores),
) -> Result<Work, EngineError> {
    let mut walker = Walker {
        stepper,
        sequences,
        stop,
        done,
        work: Work::default(),
        scores: vec![Vec::new(); sequences.len()],
    };
    let start = walker.stepper.start();
    walker.run(start, 0, (0..sequences.len()).collect())?;
    let total: u64 = sequences.iter().map(|s| s.tokens.len() as u64).sum();
    walker.work.forwarded = walker.stepper.forwarded().unwrap_or(walker.work.forwarded);
    walker.work.reused = total.saturating_sub(walker.work.forwarded);
    Ok(walker.work)
}

struct Walker<'a, S> {
    stepper: &'a mut S,
    sequences: &'a [Sequence],
    stop: &'a Stop,
    done: &'a mut dyn FnMut(usize, Scores),
    work: Work,
    scores: Vec<Vec<f32>>,
}

impl<S: Stepper> Walker<'_, S> {
    /// Runs sequences that agree up to `depth`, which `state` has read.
    fn run(
        &mut self,
        mut state: S::State,
        mut depth: usize,
        mut bunch: Vec<usize>,
    ) -> Result<(), EngineError> {
        loop {
            let Some(part) = self.parting(&bunch, depth) else { return Ok(()) };
            if part > depth
                && let Err(error) = self.read(&mut state, depth, part, &bunch)
            {
                return self.fail(&bunch, &error);
            }
            depth = part;
            let (ended, going): (Vec<usize>, Vec<usize>) =
                bunch.iter().partition(|i| self.sequences[**i].tokens.len() == depth);
            for i in ended {
                (self.done)(i, Ok(std::mem::take(&mut self.scores[i])));
            }
            let mut bunches = self.split(going, depth);
            // The largest bunch goes on with the state itself.
            let Some(largest) =
                (0..bunches.len()).max_by_key(|b| (bunches[*b].len(), std::cmp::Reverse(*b)))
            else {
                return Ok(());
            };
            let last = bunches.swap_remove(largest);
            bunches.sort();
            for branch in bunches {
                let ahead = branch
                    .iter()
                    .map(|i| self.sequences[*i].tokens.len() - depth)
                    .max()
                    .unwrap_or(0);
                match self.stepper.fork(&state, ahead) {
                    Some(forked) => self.run(forked, depth, branch)?,
                    None => {
                        // No room for both: the branch takes the state, and the beginning is read
                        // again.
                        let fresh = self.stepper.start();
                        let taken = std::mem::replace(&mut state, fresh);
                        self.run(taken, depth, branch)?;
                        state = self.stepper.start();
                        if let Err(error) = self.read_again(&mut state, last[0], depth) {
                            return self.fail(&last, &error);
                        }
                    }
                }
            }
            bunch = last;
        }
    }

    /// Where these sequences part or the first of them ends; `None` for none.
    fn parting(&self, bunch: &[usize], depth: usize) -> Option<usize> {
        let first = &self.sequences[*bunch.first()?].tokens;
        // Nobody is compared further than where somebody has parted already: all levels together
        // look at each token once.
        let agree = |part: usize, i: &usize| {
            let other = &self.sequences[*i].tokens;
            depth
                + first[depth..part].iter().zip(&other[depth..]).take_while(|(a, b)| a == b).count()
        };
        Some(bunch.iter().fold(first.len(), agree))
    }

    fn split(&self, going: Vec<usize>, depth: usize) -> Vec<Vec<usize>> {
        let mut bunches: Vec<Vec<usize>> = Vec::new();
        for i in going {
            let token = self.sequences[i].tokens[depth];
            match bunches.iter_mut().find(|b| self.sequences[b[0]].tokens[depth] == token) {
                Some(bunch) => bunch.push(i),
                None => bunches.push(vec![i]),
            }
        }
        bunches
    }

    fn read(
        &mut self,
        state: &mut S::State,
        from: usize,
        to: usize,
        bunch: &[usize],
    ) -> Result<(), EngineError> {
        self.stop.check()?;
        let mut wanted = vec![false; to - from];
        for place in bunch
            .iter()
            .flat_map(|i| &self.sequences[*i].wanted)
            .filter(|w| w.start < to && w.end > from)
        {
            wanted[place.start.max(from) - from..place.end.min(to) - from].fill(true);
        }
        let mut logprobs = vec![0.0; to - from];
        self.stepper.extend(
            state,
            &self.sequences[bunch[0]].tokens[from..to],
            &wanted,
            &mut logprobs,
            self.stop,
        )?;
        self.work.forwarded += (to - from) as u64;
        for i in bunch {
            let sequence = &self.sequences[*i];
            for wanted in sequence.wanted.iter().filter(|w| w.start < to && w.end > from) {
                let part = &logprobs[wanted.start.max(from) - from..wanted.end.min(to) - from];
                if let Some(bad) = part.iter().position(|x| !x.is_finite()) {
                    return Err(EngineError::BadOutput { at: wanted.start.max(from) + bad });
                }
                self.scores[*i].extend_from_slice(part);
            }
        }
        Ok(())
    }

    fn read_again(
        &mut self,
        state: &mut S::State,
        of: usize,
        to: usize,
    ) -> Result<(), EngineError> {
        self.stop.check()?;
        self.stepper.extend(
            state,
            &self.sequences[of].tokens[..to],
            &vec![false; to],
            &mut vec![0.0; to],
            self.stop,
        )?;
        self.work.forwarded += to as u64;
        Ok(())
    }

    fn fail(&mut self, bunch: &[usize], error: &EngineError) -> Result<(), EngineError> {
        if error.ends_the_call() {
            return Err(error.clone());
        }
        for i in bunch {
            (self.done)(*i, Err(error.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A model whose log-probabilities tell everything it has read.
    struct Hash {
        forks: usize,
    }

    impl Stepper for Hash {
        type State = u64;

        fn start(&mut self) -> u64 {
            7
        }

        fn extend(
            &mut self,
            state: &mut u64,
            tokens: &[u32],
            wanted: &[bool],
            out: &mut [f32],
            _: &Stop,
        ) -> Result<(), EngineError> {
            for (i, token) in tokens.iter().enumerate() {
                *state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(u64::from(*token) + 1);
                out[i] = if wanted[i] { -((*state >> 40) as f32) } else { f32::NAN };
            }
            Ok(())
        }

        fn fork(&mut self, state: &u64, _: usize) -> Option<u64> {
            self.forks = self.forks.saturating_sub(1);
            (self.forks > 0).then_some(*state)
        }
    }

    fn alone(sequence: &Sequence) -> Vec<f32> {
        let mut out = vec![0.0; sequence.tokens.len()];
        let mut hash = Hash { forks: 0 };
        let mut state = hash.start();
        hash.extend(
            &mut state,
            &sequence.tokens,
            &vec![true; out.len()],
            &mut out,
            &Stop::default(),
        )
        .expect("reads");
        sequence.wanted.iter().flat_map(|w| out[w.clone()].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn every_sequence_is_scored_as_if_it_were_alone(
            sequences in prop::collection::vec(
                (prop::collection::vec(0_u32..3, 0..24), 1_usize..20, 1_usize..6),
                0..12,
            ),
            forks in 0_usize..20,
        ) {
            let sequences: Vec<Sequence> = sequences
                .into_iter()
                .map(|(tokens, from, step)| {
                    let wanted = (from..tokens.len())
                        .step_by(step * 2)
                        .map(|s| s..(s + step).min(tokens.len()))
                        .collect();
                    Sequence { tokens, wanted, ..Sequence::default() }
                })
                .collect();
            let mut found = vec![None; sequences.len()];
            let mut hash = Hash { forks };
            let work = walk(&mut hash, &sequences, &Stop::default(), &mut |i, scores| {
                assert!(found[i].replace(scores.expect("scored")).is_none(), "told twice");
            });
            prop_assert!(work.is_ok());
            for (sequence, found) in sequences.iter().zip(found) {
                prop_assert_eq!(found, Some(alone(sequence)));
            }
        }
    }

    #[test]
    fn what_is_shared_is_read_once() {
        let tokens: Vec<u32> = (0..100).collect();
        let without = |from: usize, to: usize| {
            let tokens = [&tokens[..from], &tokens[to..]].concat();
            Sequence { tokens, ..Sequence::default() }
        };
        let sequences = [without(0, 0), without(80, 90), without(50, 60)];
        let work = walk(&mut Hash { forks: 9 }, &sequences, &Stop::default(), &mut |_, _| {})
            .expect("walks");
        assert_eq!(work, Work { forwarded: 100 + 10 + 40, reused: 280 - 150 });
        // Without room for two states the beginning is read again after each branch.
        let work = walk(&mut Hash { forks: 0 }, &sequences, &Stop::default(), &mut |_, _| {})
            .expect("walks");
        assert_eq!(work.forwarded, 150 + 80 + 50);
    }

    #[test]
    fn a_stop_ends_the_walk() {
        let stop = Stop::default();
        stop.cancel();
        let sequences = [Sequence { tokens: vec![1, 2], ..Sequence::default() }];
        let ended =
            walk(&mut Hash { forks: 9 }, &sequences, &stop, &mut |_, _| panic!("nothing is done"));
        assert!(matches!(ended, Err(EngineError::Cancelled)));
    }
}
