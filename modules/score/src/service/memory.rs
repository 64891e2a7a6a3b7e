//! `ScoreMemory`: one memory, over the responses that follow it.

use std::time::Instant;

use brahman_card::Fault;
use brahman_card::interface::score::{Cell, Conversation, MemoryIn, MemoryOut};
use brahman_sidecar::{Call, Reply};

use super::session::{Removal, Session};
use super::{Desk, ScoreService, elapsed_us, source};
use crate::conversation::Layout;

/// Responses after a memory, unless said: what the conversation has moved on from by then no longer
/// speaks of it.
pub(super) const WINDOW: u64 = 50;

impl ScoreService {
    pub(super) async fn memory(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let mut ask: MemoryIn = call.parameters()?;
        let (conversation, layout) = source!(ask).read(call)?;
        let priority = ask.priority;
        let work = move |desk: &Desk<'_>, _: &mut dyn FnMut(MemoryOut)| {
            desk.memory(&ask, &conversation, &layout, started)
        };
        let (out, _) = self.turn(call, priority, work).await?;
        Reply::of(&out)
    }
}

impl Desk<'_> {
    fn memory(
        &self,
        ask: &MemoryIn,
        conversation: &Conversation,
        layout: &Layout,
        started: Instant,
    ) -> Result<MemoryOut, Fault> {
        let mut session = Session::open(self, conversation, layout, ask.fresh.unwrap_or(false))
            .map_err(|e| e.fault())?;
        let memory = session.script.memories.iter().position(|m| m.key == ask.key);
        let window = usize::try_from(ask.window.unwrap_or(WINDOW)).unwrap_or(usize::MAX);
        let responses = memory.map_or_else(Vec::new, |memory| session.after(memory, window));
        let top = usize::try_from(ask.top.unwrap_or(0).min(1000)).unwrap_or(0);
        let mut cells: Vec<Cell> = Vec::new();
        let mut tokens = 0;
        if let Some(memory) = memory.filter(|_| !responses.is_empty()) {
            session.baseline(&responses).map_err(|e| e.fault())?;
            let mut outcome = Ok(());
            let removal = Removal { memories: vec![memory], responses: responses.clone() };
            let removed = session.remove(&[removal], &mut |s, removed| match removed.scores {
                Ok(without) => {
                    cells = responses.iter().map(|r| s.compared(top).cell(*r, &without)).collect();
                }
                Err(error) => outcome = Err(error),
            });
            removed.and(outcome).map_err(|e| e.fault())?;
            tokens = responses.iter().map(|r| session.with.responses[*r].len()).sum();
        }
        let identity = self.identity();
        let delta = cells.iter().map(|c| c.delta).sum();
        Ok(MemoryOut {
            key: ask.key.clone(),
            present: memory.is_some(),
            responses: responses.len() as u64,
            delta,
            divergence: cells.iter().map(|c| c.divergence).sum(),
            per_token: if tokens == 0 { 0.0 } else { delta / tokens as f64 },
            cells,
            tokens: session.script.tokens.len() as u64,
            tokens_forwarded: session.work.forwarded,
            tokens_reused: session.work.reused,
            noise_floor: session.noise,
            chat_template: Some(session.script.used.clone()),
            model: identity.model.clone(),
            fingerprint: identity.fingerprint.clone(),
            device: identity.device.clone(),
            mock: identity.mock,
            elapsed_us: elapsed_us(started),
        })
    }
}
