//! The mock: bytes as tokens, [`mixing`](crate::mixing) as the model. Deterministic, without
//! weights, and no constant: it gives real code lengths, so that a memory which foretells a
//! response scores and another does not.

use std::ops::Range;

use brahman_card::interface::embed::Device;
use brahman_card::interface::score::InfoOut;

use crate::engine::{Engine, EngineError, Identity, Scores, Sequence, Stop, Work};
use crate::mixing::{State, Tables};
use crate::walk::{Stepper, walk};

/// Changes whenever a figure would.
const FINGERPRINT: &str = "mixing-1";
/// Bytes of a conversation: far more than anybody scores, and a minute's work.
const WINDOW: usize = 4 << 20;
/// Bytes between two looks at whether to go on.
const LOOK_EVERY: usize = 4096;

/// An engine that mixes bytes, the same everywhere.
#[derive(Debug)]
pub struct Mock {
    identity: Identity,
    tables: Tables,
}

impl Default for Mock {
    fn default() -> Self {
        let identity = Identity {
            model: "mock-mixing".to_owned(),
            fingerprint: FINGERPRINT.to_owned(),
            vocabulary: 256,
            window: WINDOW,
            first: Vec::new(),
            device: "cpu".to_owned(),
            mock: true,
        };
        Self { identity, tables: Tables::default() }
    }
}

/// Reads bytes, one token each.
#[derive(Debug)]
pub struct Reader<'a> {
    tables: &'a Tables,
}

impl Stepper for Reader<'_> {
    type State = State;

    fn start(&mut self) -> State {
        State::default()
    }

    fn extend(
        &mut self,
        state: &mut State,
        tokens: &[u32],
        _: &[bool],
        out: &mut [f32],
        stop: &Stop,
    ) -> Result<(), EngineError> {
        for (tokens, out) in tokens.chunks(LOOK_EVERY).zip(out.chunks_mut(LOOK_EVERY)) {
            stop.check()?;
            for (token, out) in tokens.iter().zip(out) {
                *out = state.read(u8::try_from(*token).unwrap_or(u8::MAX), self.tables);
            }
        }
        Ok(())
    }

    fn fork(&mut self, state: &State, _: usize) -> Option<State> {
        Some(state.clone())
    }
}

impl Engine for Mock {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        Ok((self.encode(text)?, (0..text.len()).map(|at| at..at + 1).collect()))
    }

    fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().map(|t| u8::try_from(*t).unwrap_or(b'?')).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn score(
        &self,
        sequences: &[Sequence],
        stop: &Stop,
        done: &mut dyn FnMut(usize, Scores),
    ) -> Result<Work, EngineError> {
        walk(&mut Reader { tables: &self.tables }, sequences, stop, done)
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            vocabulary: self.identity.vocabulary.into(),
            window: self.identity.window as u64,
            mock: true,
            device: Device {
                requested: "cpu".to_owned(),
                active: "cpu".to_owned(),
                reason: "it computes with integers".to_owned(),
            },
            runtime: None,
            budget_bytes: None,
            queue: 0,
            kept: None,
            dialect: None,
        }
    }
}
