//! One conversation on the model's thread: the baseline, what is left without memories, and what it
//! took.

use brahman_card::interface::score::Conversation;

use crate::ablation::{Ablation, Baseline, ResponseScores, left, whole};
use crate::conversation::{ConversationError, Layout, Script, script};
use crate::engine::{EngineError, Scores, Sequence, Work};
use crate::kept::name;

use super::Desk;

/// The beginning of the conversation that is scored a second time before any row is told: this part
/// of its tokens.
const TWICE_SHARE: usize = 4;
/// Nats between two scorings of the same from which on all of the conversation is scored a second
/// time: a hundred times what 32 bits leave.
const COARSE: f64 = 1e-2;

/// Tokens of all of a call's passes: they are held together, four bytes each.
const PASSES_TOKENS_MAX: usize = 64 << 20;
/// Removals times responses: each is a number or two in memory and some ten characters in a reply.
const CELLS_MAX: usize = 2 << 20;

/// A removal that was asked for: memories, and the responses that count.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    /// Places in [`Script::memories`].
    pub(super) memories: Vec<usize>,
    /// Places in [`Script::responses`].
    pub(super) responses: Vec<usize>,
}

/// How a removal ended; without its sequence, which nobody needs any more.
pub(super) struct RemovalOutcome {
    /// Which one.
    pub(super) index: usize,
    /// What went through the model.
    pub(super) ablation: Ablation,
    /// What came of it; of a response that the removal leaves as it was the baseline's figures.
    pub(super) scores: Result<ResponseScores, EngineError>,
    /// It was known.
    pub(super) cached: bool,
}

/// A conversation being scored.
pub(super) struct Session<'a> {
    desk: &'a Desk<'a>,
    /// Its tokens.
    pub(super) script: Script,
    /// With everything in context.
    pub(super) with: ResponseScores,
    /// Largest difference so far between two scorings of the same.
    pub(super) noise: f64,
    /// So far.
    pub(super) work: Work,
    /// Responses, over all removals, whose tokens would have been others without the memory.
    respelled: usize,
    fresh: bool,
}

impl<'a> Session<'a> {
    pub(super) fn open(
        desk: &'a Desk<'a>,
        conversation: &Conversation,
        layout: &Layout,
        fresh: bool,
    ) -> Result<Self, ConversationError> {
        let script = script(conversation, layout, desk.engine)?;
        let with = ResponseScores { responses: vec![Vec::new(); script.responses.len()] };
        Ok(Self { desk, script, with, noise: 0.0, work: Work::default(), respelled: 0, fresh })
    }

    fn known(&self, sequence: &Sequence) -> Option<(Vec<f32>, f64)> {
        let count = sequence.wanted.iter().map(ExactSizeIterator::len).sum();
        (!self.fresh)
            .then(|| self.desk.kept.scores(&name(self.desk.identity(), sequence), count))
            .flatten()
    }

    /// Scores these responses with everything in context, and the first of them twice.
    ///
    /// # Errors
    /// [`EngineError`]: without a baseline there is nothing to compare with.
    pub(super) fn baseline(&mut self, responses: &[usize]) -> Result<(), EngineError> {
        let all = whole(&self.script, responses);
        if responses.is_empty() {
            return Ok(());
        }
        if let Some((scores, noise)) = self.known(&all.sequence) {
            self.with = ResponseScores::of(&self.script, &all, &scores);
            self.noise = noise;
            self.work.reused += all.sequence.tokens.len() as u64;
            return Ok(());
        }
        let scores = self.score_one(vec![all.sequence.clone()])?;
        self.with = ResponseScores::of(&self.script, &all, &scores);
        let to = all.sequence.tokens.len() / TWICE_SHARE;
        let mut early: Vec<usize> = responses
            .iter()
            .copied()
            .filter(|r| self.script.responses[*r].scored.end <= to)
            .collect();
        if early.is_empty() {
            early.push(responses[0]);
        }
        self.score_twice(&whole(&self.script, &early))?;
        // Where numbers are coarse, as in a model of 8 bits, what the pieces are counts everywhere,
        // and more so later.
        if self.noise > COARSE && early.len() < responses.len() {
            self.score_twice(&all)?;
        }
        self.desk.kept.keep(&name(self.desk.identity(), &all.sequence), &scores, self.noise);
        Ok(())
    }

    /// Scores a part of what was scored again, in other pieces, and learns the noise.
    fn score_twice(&mut self, part: &Ablation) -> Result<(), EngineError> {
        // The second sequence ends inside the first, so that the model is given other pieces this
        // time.
        let cut = (part.sequence.tokens.len() / 2) | 1;
        let tokens = part.sequence.tokens[..cut.min(part.sequence.tokens.len())].to_vec();
        let piece = Sequence { tokens, ..Sequence::default() };
        let again = self.score_one(vec![part.sequence.clone(), piece])?;
        self.noise =
            self.noise.max(self.with.noise(&ResponseScores::of(&self.script, part, &again)));
        Ok(())
    }

    /// Scores sequences of which only the first counts.
    fn score_one(&mut self, sequences: Vec<Sequence>) -> Result<Vec<f32>, EngineError> {
        let mut first: Scores = Err(EngineError::Nothing);
        let mut each = |i: usize, scores: Scores| {
            if i == 0 {
                first = scores;
            }
        };
        let work = self.desk.engine.score(&sequences, self.desk.stop, &mut each)?;
        self.work.add(work);
        first
    }

    /// Scores all removals, and the baseline once more beside them. `each` is told of every one as
    /// soon as it is done.
    ///
    /// # Errors
    /// What ends the call; other failures are in the removal that they belong to.
    pub(super) fn remove(
        &mut self,
        removals: &[Removal],
        each: &mut dyn FnMut(&Self, RemovalOutcome),
    ) -> Result<(), EngineError> {
        self.check_size(removals)?;
        let mut asked: Vec<(usize, Ablation)> = Vec::new();
        for (index, removal) in removals.iter().enumerate() {
            self.desk.stop.check()?;
            let ablation =
                match left(&self.script, &removal.memories, &removal.responses, self.desk.engine) {
                    Ok(ablation) => ablation,
                    // The template refuses what is left: that is this row's end.
                    Err(error) => {
                        each(
                            self,
                            RemovalOutcome {
                                index,
                                ablation: Ablation::default(),
                                scores: Err(error),
                                cached: false,
                            },
                        );
                        continue;
                    }
                };
            self.respelled += ablation.respelled;
            let known = if ablation.responses.is_empty() {
                Some((Vec::new(), 0.0))
            } else {
                self.known(&ablation.sequence)
            };
            match known {
                Some((scores, _)) => {
                    self.work.reused += ablation.sequence.tokens.len() as u64;
                    let cached = !ablation.responses.is_empty();
                    let scores =
                        Ok(ResponseScores::of(&self.script, &ablation, &scores).filled(&self.with));
                    each(self, RemovalOutcome { index, ablation, scores, cached });
                }
                None => asked.push((index, ablation)),
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let responses: Vec<usize> = (0..self.script.responses.len())
            .filter(|r| !self.with.responses[*r].is_empty())
            .collect();
        let last = asked.iter().filter_map(|(_, a)| a.responses.last()).max().copied().unwrap_or(0);
        let again =
            whole(&self.script, &responses.into_iter().filter(|r| *r <= last).collect::<Vec<_>>());
        let mut sequences: Vec<Sequence> = vec![again.sequence.clone()];
        sequences
            .extend(asked.iter_mut().map(|(_, ablation)| std::mem::take(&mut ablation.sequence)));
        let mut noise = self.noise;
        let this = &*self;
        let mut done = |i: usize, scores: Scores| match i.checked_sub(1) {
            None => {
                if let Ok(scores) = scores {
                    noise = noise.max(this.with.noise(&ResponseScores::of(
                        &this.script,
                        &again,
                        &scores,
                    )));
                }
            }
            Some(which) => {
                let (index, ablation) = (asked[which].0, std::mem::take(&mut asked[which].1));
                if let Ok(scores) = &scores {
                    this.desk.kept.keep(&name(this.desk.identity(), &sequences[i]), scores, 0.0);
                }
                let scores = scores.map(|scores| {
                    ResponseScores::of(&this.script, &ablation, &scores).filled(&this.with)
                });
                each(this, RemovalOutcome { index, ablation, scores, cached: false });
            }
        };
        let work = this.desk.engine.score(&sequences, this.desk.stop, &mut done)?;
        self.work.add(work);
        self.noise = noise;
        Ok(())
    }

    /// What a reply says of responses that keep their tokens against the tokenizer.
    pub(super) fn respelled(&self) -> Option<String> {
        (self.respelled > 0).then(|| {
            format!("{} times a response would have other tokens without a memory: it keeps those that it has with it", self.respelled)
        })
    }

    /// What a call would hold is bounded before anything is made.
    ///
    /// # Errors
    /// [`EngineError::TooMuch`].
    pub(super) fn check_size(&self, removals: &[Removal]) -> Result<(), EngineError> {
        let longest = |removal: &Removal| {
            removal.responses.last().map_or(0, |r| self.script.responses[*r].scored.end)
        };
        let tokens: usize = removals.iter().map(longest).sum();
        let cells = removals.len() * self.script.responses.len();
        if tokens > PASSES_TOKENS_MAX || cells > CELLS_MAX {
            return Err(EngineError::TooMuch { rows: removals.len(), tokens, cells });
        }
        Ok(())
    }

    /// What to compare with, as it is known by now.
    pub(super) fn compared(&self, top: usize) -> Baseline<'_> {
        Baseline {
            script: &self.script,
            with: &self.with,
            noise: self.noise,
            top,
            engine: self.desk.engine,
        }
    }

    /// The responses that follow the first place of a memory, at most so many.
    pub(super) fn after(&self, memory: usize, window: usize) -> Vec<usize> {
        let from = self.script.memories[memory].spans[0].start;
        let later =
            self.script.responses.iter().enumerate().filter(|(_, r)| r.scored.start >= from);
        later.map(|(i, _)| i).take(window).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use brahman_card::interface::score::{ChatTemplate, Entry, InfoOut};

    use super::*;
    use crate::engine::{Engine, Identity, Stop};
    use crate::kept::ResultStore;
    use crate::mock::Mock;

    /// A model whose figures are a little lower from the second time on, the more so the more
    /// stands before.
    #[derive(Debug, Default)]
    struct CoarseModel {
        model: Mock,
        coarseness: f32,
        scorings: AtomicUsize,
    }

    impl Engine for CoarseModel {
        fn identity(&self) -> &Identity {
            self.model.identity()
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
            self.model.encode(text)
        }

        fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
            self.model.encode_placed(text)
        }

        fn decode(&self, tokens: &[u32]) -> String {
            self.model.decode(tokens)
        }

        fn score(
            &self,
            sequences: &[Sequence],
            stop: &Stop,
            done: &mut dyn FnMut(usize, Scores),
        ) -> Result<Work, EngineError> {
            let off = if self.scorings.fetch_add(1, Ordering::Relaxed) == 0 {
                0.0
            } else {
                self.coarseness
            };
            self.model.score(sequences, stop, &mut |i, scores| {
                let places = sequences[i].wanted.iter().cloned().flatten();
                done(
                    i,
                    scores.map(|scores| {
                        scores
                            .into_iter()
                            .zip(places)
                            .map(|(x, place)| x - off * place as f32)
                            .collect()
                    }),
                );
            })
        }

        fn info(&self) -> InfoOut {
            self.model.info()
        }
    }

    #[test]
    fn a_memory_that_the_template_does_not_show_takes_nothing_from_any_response() {
        let entry = |role: &str, key: Option<&str>, text: &str| {
            let (role, key, text) =
                (Some(role.to_owned()), key.map(str::to_owned), Some(text.to_owned()));
            Entry { role, key, text, ..Entry::default() }
        };
        let entries = vec![
            entry("tool", Some("unseen"), "The key is in the shed."),
            entry("user", None, "Where?"),
            entry("assistant", None, "There."),
        ];
        let conversation = Conversation { conversation: entries, ..Conversation::default() };
        let text =
            "{% for m in messages if m.role != 'tool' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
                .to_owned();
        let layout = Layout {
            template: None,
            chat: ChatTemplate { text: Some(text), ..ChatTemplate::default() },
        };
        let (folder, stop, engine) =
            (tempfile::tempdir().expect("a folder"), Stop::default(), Mock::default());
        let kept = ResultStore::open(folder.path(), 1 << 20);
        let desk = Desk { engine: &engine, kept: &kept, stop: &stop };
        let mut session = Session::open(&desk, &conversation, &layout, true).expect("opened");
        let notes = session.script.used.notes.clone().unwrap_or_default();
        assert!(
            notes.iter().any(
                |note| note == "conversation[0] (memory `unseen`) is not shown by the template"
            ),
            "{notes:?}"
        );
        let responses = session.after(0, 50);
        session.baseline(&responses).expect("scored");
        let mut deltas = Vec::new();
        let removal = Removal { memories: vec![0], responses: responses.clone() };
        let mut each = |s: &Session<'_>, removed: RemovalOutcome| {
            let without = removed.scores.expect("scored");
            deltas.extend(
                responses
                    .iter()
                    .map(|r| (s.compared(0).cell(*r, &without).delta, s.with.sum(*r) < 0.0)),
            );
        };
        session.remove(&[removal], &mut each).expect("done");
        assert_eq!(deltas, [(0.0, true)]);
    }

    #[test]
    fn where_figures_are_coarse_all_are_scored_twice_and_the_floor_is_that_of_the_latest() {
        let entry = |role: &str, text: &str| Entry {
            role: Some(role.to_owned()),
            text: Some(text.to_owned()),
            ..Entry::default()
        };
        let turns =
            (0..12).flat_map(|_| [entry("user", "Say it."), entry("assistant", "It is so.")]);
        let conversation =
            Conversation { conversation: turns.collect(), ..Conversation::default() };
        let (folder, stop) = (tempfile::tempdir().expect("a folder"), Stop::default());
        let kept = ResultStore::open(folder.path(), 1 << 20);
        let floor = |coarseness: f32| {
            let engine = CoarseModel { coarseness, ..CoarseModel::default() };
            let desk = Desk { engine: &engine, kept: &kept, stop: &stop };
            let mut session =
                Session::open(&desk, &conversation, &Layout::plain(), true).expect("opened");
            let responses: Vec<usize> = (0..session.script.responses.len()).collect();
            session.baseline(&responses).expect("scored");
            let last = session.script.responses[11].scored.clone();
            // What the last response loses when it is scored again.
            let expected = f64::from(coarseness) * last.map(|place| place as f64).sum::<f64>();
            (session.noise, expected, engine.scorings.load(Ordering::Relaxed))
        };
        assert_eq!(floor(0.0), (0.0, 0.0, 2), "one more pass over the beginning is enough");
        let (noise, expected, scorings) = floor(1e-3);
        assert!(
            scorings == 3 && (noise - expected).abs() < 0.01 * expected,
            "{noise} {expected} {scorings}"
        );
    }
}
