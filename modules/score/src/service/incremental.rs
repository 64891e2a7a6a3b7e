//! `ScoreIncremental`: the memories whose scores are old, and what becomes of their weights.

use std::collections::HashMap;
use std::time::Instant;

use brahman_card::Fault;
use brahman_card::clock::now_ms;
use brahman_card::interface::score::{
    Conversation, IncrementalIn, IncrementalOut, IncrementalRow, IncrementalSummary, MemoryScore,
};
use brahman_sidecar::{Call, Reply, chain};
use brahman_storage::digest::{hex, sha256};

use super::memory::WINDOW;
use super::session::{Removal, Session};
use super::{Desk, ScoreService, elapsed_us, source};
use crate::ablation::ResponseScores;
use crate::conversation::Layout;
use crate::engine::EngineError;
use crate::kept::{Namespace, StandingError};

/// Scores younger than this are left alone, unless said: a day.
const MAX_AGE_S: u64 = 86_400;
/// Memories that end behind this part of the conversation's own tokens have too few responses after
/// them to tell. What the sections before it say is there from the beginning, and moves no memory
/// back.
const EARLY: (usize, usize) = (3, 5);

/// Why a memory stays as it was.
#[derive(Debug, thiserror::Error)]
enum StandError {
    /// It could not be scored.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its new state is not on disk.
    #[error(transparent)]
    Standing(#[from] StandingError),
}

impl ScoreService {
    pub(super) async fn incremental(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let mut ask: IncrementalIn = call.parameters()?;
        let (conversation, layout) = source!(ask).read(call)?;
        let priority = ask.priority;
        let namespace = self.namespace(ask.namespace.as_deref(), call)?;
        let work = move |desk: &Desk<'_>, tell: &mut dyn FnMut(IncrementalOut)| {
            let due = Due {
                ask: &ask,
                conversation: &conversation,
                layout: &layout,
                namespace: &namespace,
                started,
            };
            desk.incremental(&due, tell)
        };
        let (mut summary, gathered) = self.turn(call, priority, work).await?;
        if !call.more {
            let row = |reply: IncrementalOut| {
                if let IncrementalOut::Row(one) = reply { Some(one.row) } else { None }
            };
            summary.rows = Some(gathered.into_iter().filter_map(row).collect());
        }
        Reply::of(&IncrementalOut::Done(summary))
    }
}

/// SHA-256 of each memory's text, all its appearances together.
fn texts(conversation: &Conversation) -> HashMap<String, String> {
    let mut texts: HashMap<&str, Vec<u8>> = HashMap::new();
    let sections = [&conversation.system, &conversation.identity, &conversation.journal]
        .into_iter()
        .flatten()
        .flatten();
    for entry in sections.chain(&conversation.conversation) {
        let Some(key) = &entry.key else { continue };
        let bytes = texts.entry(key.as_str()).or_default();
        bytes.extend(entry.text.as_deref().unwrap_or_default().as_bytes());
        bytes.extend(entry.tokens.iter().flatten().flat_map(|token| token.to_le_bytes()));
        bytes.push(0);
    }
    texts.into_iter().map(|(key, bytes)| (key.to_owned(), hex(&sha256(&bytes)))).collect()
}

/// What a call asks for.
struct Due<'a> {
    ask: &'a IncrementalIn,
    conversation: &'a Conversation,
    layout: &'a Layout,
    namespace: &'a Namespace,
    started: Instant,
}

impl Desk<'_> {
    fn incremental(
        &self,
        due: &Due<'_>,
        tell: &mut dyn FnMut(IncrementalOut),
    ) -> Result<IncrementalSummary, Fault> {
        let Due { ask, conversation, layout, namespace, started } = *due;
        if let Some(why) = self.kept.absent() {
            return Err(Fault::internal(format!("the state of memories cannot be stored: {why}")));
        }
        let mut session =
            Session::open(self, conversation, layout, false).map_err(|e| e.fault())?;
        let model = self.identity().fingerprint.clone();
        let window = usize::try_from(ask.window.unwrap_or(WINDOW)).unwrap_or(usize::MAX);
        let max_age_ms = ask.max_age_s.unwrap_or(MAX_AGE_S).saturating_mul(1000);
        let script = &session.script;
        let own = |place: usize| place.saturating_sub(script.own_from);
        let (now, early) = (now_ms(), own(script.tokens.len()) * EARLY.0 / EARLY.1);
        let texts = texts(conversation);
        let (mut due, mut fresh, mut late) = (Vec::new(), 0, 0);
        for (m, memory) in session.script.memories.iter().enumerate() {
            let standing = self.kept.standing(&model, namespace, &memory.key);
            let text = texts.get(&memory.key).map_or("", String::as_str);
            let responses = session.after(m, window);
            if own(memory.spans[0].end) > early || responses.is_empty() {
                late += 1;
            } else if standing.is_due(text, now, max_age_ms) {
                due.push((standing.last_scored_ms, Removal { memories: vec![m], responses }));
            } else {
                fresh += 1;
            }
        }
        // Those never scored and those scored longest ago; among equals as they appear.
        due.sort_by_key(|(last, _)| *last);
        let all_due = due.len() as u64;
        due.truncate(usize::try_from(ask.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
        let removals: Vec<Removal> = due.into_iter().map(|(_, removal)| removal).collect();
        let mut responses: Vec<usize> =
            removals.iter().flat_map(|r| r.responses.iter().copied()).collect();
        responses.sort_unstable();
        responses.dedup();
        // What is too much is refused before the first pass.
        session
            .check_size(&removals)
            .and_then(|()| session.baseline(&responses))
            .map_err(|e| e.fault())?;
        let of = removals.len() as u64;
        let (mut done, mut failed) = (0, 0);
        let outcome = session.remove(&removals, &mut |session, removed| {
            let removal = &removals[removed.index];
            let key = &session.script.memories[removal.memories[0]].key;
            let text = texts.get(key).map_or("", String::as_str);
            let row = self.stand(
                session,
                (key.as_str(), text),
                &removal.responses,
                removed.scores,
                namespace,
            );
            done += 1;
            failed += u64::from(row.error.is_some());
            tell(IncrementalOut::Row(IncrementalRow { done, of, row }));
        });
        outcome.map_err(|e| e.fault())?;
        let identity = self.identity();
        Ok(IncrementalSummary {
            done,
            of,
            row: None,
            rows: None,
            due: all_due,
            fresh,
            late,
            failed,
            namespace: Some(namespace.name().to_owned()),
            tokens: session.script.tokens.len() as u64,
            tokens_forwarded: session.work.forwarded,
            tokens_reused: session.work.reused,
            noise_floor: session.noise,
            chat_template: Some(session.script.used.clone()),
            model: identity.model.clone(),
            fingerprint: model,
            device: identity.device.clone(),
            mock: identity.mock,
            elapsed_us: elapsed_us(started),
        })
    }

    /// Puts a memory's new state on disk and gives it; as it was, with an error, if it could not be
    /// scored.
    fn stand(
        &self,
        session: &Session<'_>,
        (key, text): (&str, &str),
        responses: &[usize],
        scores: Result<ResponseScores, EngineError>,
        namespace: &Namespace,
    ) -> MemoryScore {
        let model = &self.identity().fingerprint;
        let before = self.kept.standing(model, namespace, key);
        let scored = scores.map_err(StandError::from).and_then(|without| {
            let deltas = responses.iter().map(|r| session.with.sum(*r) - without.sum(*r));
            let delta = deltas.fold(f64::NEG_INFINITY, f64::max);
            let standing = before.after(delta.max(0.0), text, now_ms());
            self.kept.stand(model, namespace, key, &standing)?;
            Ok((delta, standing))
        });
        let (delta, standing, error) = match scored {
            Ok((delta, standing)) => (delta, standing, None),
            Err(error) => (0.0, before, Some(chain(&error))),
        };
        MemoryScore {
            key: key.to_owned(),
            max_divergence: delta.max(0.0),
            delta,
            weight: standing.weight,
            last_scored_ms: standing.last_scored_ms,
            count: standing.count,
            error,
        }
    }
}
