//! `ScoreMatrix`: each memory in turn, over the whole conversation.

use std::time::Instant;

use brahman_card::Fault;
use brahman_card::interface::score::{
    Conversation, MatrixIn, MatrixOut, MatrixRow, MatrixSummary, Response, Row,
};
use brahman_sidecar::{Call, Reply, chain};

use super::session::{Removal, Session};
use super::{Desk, ScoreService, elapsed_us, source};
use crate::ablation::named;
use crate::conversation::Layout;
use crate::engine::{Engine, EngineError};
use crate::mock::Mock;

/// Groups beside the memories: as many rows as these.
const GROUPS_MAX: usize = 4096;
/// Tokens that are named a cell.
const TOP_MAX: u64 = 1000;
/// A rescored memory is followed up to the last response whose screened divergence is at least this
/// part of its largest.
const TOUCHED_SHARE: f64 = 0.1;

struct Ask {
    conversation: Conversation,
    layout: Layout,
    groups: Vec<Vec<String>>,
    top: usize,
    approximate: Option<usize>,
    fresh: bool,
    started: Instant,
}

impl ScoreService {
    pub(super) async fn matrix(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let mut ask: MatrixIn = call.parameters()?;
        let priority = ask.priority;
        let (conversation, layout) = source!(ask).read(call)?;
        let groups = ask.groups.unwrap_or_default();
        if groups.len() > GROUPS_MAX {
            return Err(Fault::invalid_parameter(
                "groups",
                format!("{} of them, expected at most {GROUPS_MAX}", groups.len()),
            ));
        }
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let ask = Ask {
            conversation,
            layout,
            groups,
            top: small(ask.top.unwrap_or(0).min(TOP_MAX)),
            approximate: ask.approximate.map(small),
            fresh: ask.fresh.unwrap_or(false),
            started,
        };
        let work = move |desk: &Desk<'_>, tell: &mut dyn FnMut(MatrixOut)| desk.matrix(&ask, tell);
        let (mut summary, gathered) = self.turn(call, priority, work).await?;
        if !call.more {
            let row = |reply: MatrixOut| {
                if let MatrixOut::Row(one) = reply { Some(one.row) } else { None }
            };
            summary.rows = Some(gathered.into_iter().filter_map(row).collect());
        }
        Reply::of(&MatrixOut::Done(summary))
    }
}

impl Desk<'_> {
    fn matrix(&self, ask: &Ask, tell: &mut dyn FnMut(MatrixOut)) -> Result<MatrixSummary, Fault> {
        let mut session = Session::open(self, &ask.conversation, &ask.layout, ask.fresh)
            .map_err(|e| e.fault())?;
        let all: Vec<usize> = (0..session.script.responses.len()).collect();
        let mut removals: Vec<Removal> = (0..session.script.memories.len())
            .map(|m| Removal { memories: vec![m], responses: all.clone() })
            .collect();
        let mut warnings = Vec::new();
        for group in &ask.groups {
            match places(&session, group) {
                Ok(memories) => removals.push(Removal { memories, responses: all.clone() }),
                Err(error) => return Err(Fault::invalid_parameter("groups", error)),
            }
        }
        if let Some(why) = self.kept.absent() {
            warnings.push(format!("no results are stored: {why}"));
        }
        session
            .check_size(&removals)
            .and_then(|()| session.baseline(&all))
            .map_err(|e| e.fault())?;
        let of = removals.len() as u64;
        let (mut done, mut failed) = (0, 0);
        let mut tell_row = |row: Row| {
            done += 1;
            failed += u64::from(row.error.is_some());
            tell(MatrixOut::Row(MatrixRow { done, of, row }));
        };
        let removals = match ask.approximate {
            // The screening model is the one that was asked: its answer is exact already.
            Some(_) if self.identity().mock => removals,
            Some(exact) => {
                let (chosen, rows) = screen(ask, removals, exact, self)?;
                warnings.push(format!(
                    "{} rows were scored by the screening model only, not by {}",
                    rows.len(),
                    self.identity().model
                ));
                rows.into_iter().for_each(&mut tell_row);
                chosen
            }
            None => removals,
        };
        let outcome = session.remove(&removals, &mut |session, removed| {
            let memories = &removals[removed.index].memories;
            let row = match removed.scores {
                Ok(without) => Row {
                    cached: removed.cached,
                    ..session.compared(ask.top).row(memories, &removed.ablation, &without)
                },
                Err(error) => {
                    Row { error: Some(chain(&error)), ..named(&session.script, memories) }
                }
            };
            tell_row(row);
        });
        outcome.map_err(|e: EngineError| e.fault())?;
        warnings.extend(session.respelled());
        Ok(self.summary(&session, (done, of, failed), warnings, ask.started))
    }

    fn summary(
        &self,
        session: &Session<'_>,
        (done, of, failed): (u64, u64, u64),
        warnings: Vec<String>,
        started: Instant,
    ) -> MatrixSummary {
        let identity = self.identity();
        let script = &session.script;
        let scored = script.responses.iter().enumerate().map(|(i, r)| {
            let (tokens, logprob) = (session.with.responses[i].len(), session.with.sum(i));
            let per_token = if tokens == 0 { 0.0 } else { logprob / tokens as f64 };
            Response {
                entry: r.entry as u64,
                tokens: tokens as u64,
                logprob,
                per_token,
                text: r.text.clone(),
            }
        });
        MatrixSummary {
            done,
            of,
            row: None,
            rows: None,
            scored: scored.collect(),
            memories: script.memories.len() as u64,
            responses: script.responses.len() as u64,
            failed,
            tokens: script.tokens.len() as u64,
            tokens_forwarded: session.work.forwarded,
            tokens_reused: session.work.reused,
            tokens_naive: (of + 1) * script.tokens.len() as u64,
            noise_floor: session.noise,
            warnings: Some(warnings).filter(|w| !w.is_empty()),
            chat_template: Some(script.used.clone()),
            model: identity.model.clone(),
            fingerprint: identity.fingerprint.clone(),
            device: identity.device.clone(),
            mock: identity.mock,
            elapsed_us: elapsed_us(started),
        }
    }
}

/// A key that no memory has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory has the key `{key}`")]
struct UnknownKey {
    key: String,
}

fn places(session: &Session<'_>, group: &[String]) -> Result<Vec<usize>, UnknownKey> {
    let unknown = |key: &String| UnknownKey { key: key.clone() };
    let place = |key: &String| {
        session.script.memories.iter().position(|m| m.key == *key).ok_or_else(|| unknown(key))
    };
    let mut memories = group.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    memories.sort_unstable();
    memories.dedup();
    Ok(memories)
}

/// Scores all removals by the context-mixing model, which takes no time beside a language model's.
/// Gives the `exact` foremost, each with the responses up to the last one it touched, and the rows
/// of the others.
fn screen(
    ask: &Ask,
    removals: Vec<Removal>,
    exact: usize,
    desk: &Desk<'_>,
) -> Result<(Vec<Removal>, Vec<Row>), Fault> {
    let proxy = Mock::default();
    let aside = Desk { engine: &proxy, kept: desk.kept, stop: desk.stop };
    // Token ids are those of the model that was asked, and so is their text.
    let conversation = in_text(&ask.conversation, desk.engine);
    let mut screening =
        Session::open(&aside, &conversation, &Layout::plain(), ask.fresh).map_err(|e| e.fault())?;
    let all: Vec<usize> = (0..screening.script.responses.len()).collect();
    screening
        .check_size(&removals)
        .and_then(|()| screening.baseline(&all))
        .map_err(|e| e.fault())?;
    let mut rows: Vec<Row> = vec![Row::default(); removals.len()];
    screening
        .remove(&removals, &mut |s, removed| {
            let memories = &removals[removed.index].memories;
            rows[removed.index] = match removed.scores {
                Ok(without) => s.compared(0).row(memories, &removed.ablation, &without),
                Err(error) => Row { error: Some(chain(&error)), ..named(&s.script, memories) },
            };
            rows[removed.index].approximate = true;
        })
        .map_err(|e| e.fault())?;
    let total = |row: &Row| row.divergences.iter().sum::<f64>();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| total(&rows[*b]).total_cmp(&total(&rows[*a])).then(a.cmp(b)));
    let mut chosen: Vec<usize> = order.into_iter().take(exact).collect();
    chosen.sort_unstable();
    let picked = chosen.iter().map(|i| {
        let divergences = &rows[*i].divergences;
        let least = divergences.iter().copied().fold(0.0, f64::max) * TOUCHED_SHARE;
        let last = divergences.iter().rposition(|d| *d > 0.0 && *d >= least);
        let responses = last.map_or_else(Vec::new, |last| (0..=last).collect());
        Removal { memories: removals[*i].memories.clone(), responses }
    });
    let picked = picked.collect();
    let others = rows
        .into_iter()
        .enumerate()
        .filter(|(i, _)| chosen.binary_search(i).is_err())
        .map(|(_, row)| row)
        .collect();
    Ok((picked, others))
}

/// The conversation with tokens turned into text, for a model with tokens of its own.
fn in_text(conversation: &Conversation, engine: &dyn Engine) -> Conversation {
    let mut conversation = conversation.clone();
    let sections =
        [&mut conversation.system, &mut conversation.identity, &mut conversation.journal];
    let entries = sections.into_iter().flatten().chain([&mut conversation.conversation]).flatten();
    for entry in entries {
        if let Some(tokens) = entry.tokens.take() {
            entry.text = Some(engine.decode(&tokens));
        }
    }
    conversation
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::score::{Entry, InfoOut};

    use super::*;
    use crate::engine::{Identity, Scores, Sequence, Stop, Work};

    /// Whose token n is the word `w<n>`.
    #[derive(Debug, Default)]
    struct Words(Mock);

    impl Engine for Words {
        fn identity(&self) -> &Identity {
            self.0.identity()
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
            Ok(text
                .split_whitespace()
                .filter_map(|word| word.strip_prefix('w')?.parse().ok())
                .collect())
        }

        fn encode_placed(
            &self,
            text: &str,
        ) -> Result<(Vec<u32>, Vec<std::ops::Range<usize>>), EngineError> {
            self.0.encode_placed(text)
        }

        fn decode(&self, tokens: &[u32]) -> String {
            tokens.iter().map(|t| format!("w{t} ")).collect()
        }

        fn score(
            &self,
            sequences: &[Sequence],
            stop: &Stop,
            done: &mut dyn FnMut(usize, Scores),
        ) -> Result<Work, EngineError> {
            self.0.score(sequences, stop, done)
        }

        fn info(&self) -> InfoOut {
            self.0.info()
        }
    }

    #[test]
    fn token_ids_are_screened_as_the_text_that_they_are_to_the_model() {
        let entry = |role: &str, key: Option<&str>, tokens: Vec<u32>| Entry {
            role: Some(role.to_owned()),
            key: key.map(str::to_owned),
            tokens: Some(tokens),
            ..Entry::default()
        };
        let conversation = Conversation {
            conversation: vec![
                entry("memory", Some("idle"), (100..120).collect()),
                entry("memory", Some("told"), (30..50).collect()),
                entry("assistant", None, (30..50).collect()),
            ],
            ..Conversation::default()
        };
        let (folder, engine, stop) =
            (tempfile::tempdir().expect("a folder"), Words::default(), Stop::default());
        let kept = crate::kept::ResultStore::open(folder.path(), 1 << 20);
        let desk = Desk { engine: &engine, kept: &kept, stop: &stop };
        let layout = Layout::plain();
        let ask = Ask {
            conversation,
            layout,
            groups: Vec::new(),
            top: 0,
            approximate: Some(1),
            fresh: true,
            started: Instant::now(),
        };
        assert!(
            in_text(&ask.conversation, &engine).conversation[1]
                .text
                .as_deref()
                .is_some_and(|text| text.starts_with("w30 w31 "))
        );
        let removals = (0..2).map(|m| Removal { memories: vec![m], responses: vec![0] }).collect();
        let (chosen, others) = screen(&ask, removals, 1, &desk).expect("screened");
        assert_eq!((chosen[0].memories.clone(), chosen[0].responses.clone()), (vec![1], vec![0]));
        assert!(
            others.len() == 1 && others[0].approximate && others[0].key == "idle",
            "{others:?}"
        );
    }
}
