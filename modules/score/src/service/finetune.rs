//! `ScoreFinetune`: what the last entries lose when all memories are gone.

use std::time::Instant;

use brahman_card::Fault;
use brahman_card::interface::score::{Conversation, Finetune, FinetuneIn, FinetuneOut};
use brahman_sidecar::{Call, Reply};

use super::session::{Removal, Session};
use super::{Desk, ScoreService, elapsed_us, source};
use crate::conversation::{Layout, check};

impl ScoreService {
    pub(super) async fn finetune(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let mut ask: FinetuneIn = call.parameters()?;
        let (mut conversation, layout) = source!(ask).read(call)?;
        // What is wrong is named by its place in what was given, also where it is not read.
        check(&conversation).map_err(|e| e.fault())?;
        // What is asked of is what is read: a memory before the last entries is not in their
        // context.
        let before = conversation
            .conversation
            .len()
            .saturating_sub(usize::try_from(ask.count).unwrap_or(usize::MAX));
        let passed_over = if ask.whole.unwrap_or(false) { 0 } else { before };
        conversation.conversation.drain(..passed_over);
        let priority = ask.priority;
        let work = move |desk: &Desk<'_>, _: &mut dyn FnMut(FinetuneOut)| {
            desk.finetune(&ask, &conversation, &layout, passed_over, started)
        };
        let (out, _) = self.turn(call, priority, work).await?;
        Reply::of(&out)
    }
}

impl Desk<'_> {
    fn finetune(
        &self,
        ask: &FinetuneIn,
        conversation: &Conversation,
        layout: &Layout,
        passed_over: usize,
        started: Instant,
    ) -> Result<FinetuneOut, Fault> {
        let mut session = Session::open(self, conversation, layout, ask.fresh.unwrap_or(false))
            .map_err(|e| e.fault())?;
        let from =
            session.script.entries.saturating_sub(usize::try_from(ask.count).unwrap_or(usize::MAX));
        let late = session.script.responses.iter().enumerate().filter(|(_, r)| r.entry >= from);
        let responses: Vec<usize> = late.map(|(i, _)| i).collect();
        let memories: Vec<usize> = (0..session.script.memories.len()).collect();
        session.baseline(&responses).map_err(|e| e.fault())?;
        let mut without = None;
        if !memories.is_empty() && !responses.is_empty() {
            let removal = Removal { memories: memories.clone(), responses: responses.clone() };
            let outcome = session.remove(&[removal], &mut |_, removed| {
                without = Some((removed.ablation.responses, removed.scores));
            });
            outcome.map_err(|e| e.fault())?;
        }
        let without = without
            .map(|(scored, scores)| scores.map(|s| (scored, s)))
            .transpose()
            .map_err(|e| e.fault())?;
        let mut results: Vec<Finetune> = Vec::new();
        for r in responses {
            let entry = (session.script.responses[r].entry + passed_over) as u64;
            let tokens = session.with.responses[r].len() as u64;
            results.push(match &without {
                Some((scored, without)) if scored.contains(&r) => {
                    let cell = session.compared(0).cell(r, without);
                    let (delta, divergence, per_token) =
                        (cell.delta, cell.divergence, cell.per_token);
                    Finetune {
                        entry,
                        delta,
                        divergence,
                        per_token,
                        tokens,
                        below_noise: cell.below_noise,
                    }
                }
                // No memory stands before it.
                _ => Finetune { entry, tokens, below_noise: true, ..Finetune::default() },
            });
        }
        results.sort_by(|a, b| b.divergence.total_cmp(&a.divergence).then(a.entry.cmp(&b.entry)));
        let identity = self.identity();
        let mut used = session.script.used.clone();
        if let Some(notes) = used.notes.as_mut().filter(|_| passed_over > 0) {
            notes.push(format!(
                "places in these notes count from entry {passed_over}, the first that was read"
            ));
        }
        Ok(FinetuneOut {
            results,
            memories: memories.len() as u64,
            entries: Some(session.script.entries as u64),
            tokens: session.script.tokens.len() as u64,
            tokens_forwarded: session.work.forwarded,
            tokens_reused: session.work.reused,
            noise_floor: session.noise,
            chat_template: Some(used),
            model: identity.model.clone(),
            fingerprint: identity.fingerprint.clone(),
            device: identity.device.clone(),
            mock: identity.mock,
            elapsed_us: elapsed_us(started),
        })
    }
}
