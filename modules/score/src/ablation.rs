//! Taking memories out, and what that did to the responses. Pure.

use std::ops::Range;

use brahman_card::interface::score::{Cell, Row, Token};

use crate::conversation::Script;
use crate::engine::{Engine, EngineError, Sequence};

/// Divergences up to this many nats are told as 0: a matrix is mostly such cells.
pub const DIVERGENCE_KEPT_ABOVE: f64 = 0.01;

/// A sequence without some memories, and the responses that are scored in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ablation {
    /// What goes through the model.
    pub sequence: Sequence,
    /// Which responses its wanted places belong to.
    pub responses: Vec<usize>,
    /// Tokens taken out of the conversation.
    pub tokens_removed: usize,
    /// Responses that the tokenizer would spell otherwise without the memories: they keep their
    /// tokens.
    pub respelled: usize,
}

/// The conversation as it is, up to the last of these responses.
#[must_use]
pub fn whole(script: &Script, responses: &[usize]) -> Ablation {
    without_spans(script, &[], responses)
}

/// The conversation without these memories. Responses before the first of them lose nothing and are
/// left out, as is everything behind the last response.
#[must_use]
pub fn without(script: &Script, memories: &[usize], responses: &[usize]) -> Ablation {
    let mut spans: Vec<Range<usize>> =
        memories.iter().flat_map(|m| script.memories[*m].spans.iter().cloned()).collect();
    spans.sort_by_key(|span| span.start);
    without_spans(script, &spans, responses)
}

/// The conversation without these memories, however it was put into tokens: cut out, or run through
/// its chat template again.
///
/// # Errors
/// [`EngineError`]: the template refuses what is left, or shows a response no more.
pub fn left(
    script: &Script,
    memories: &[usize],
    responses: &[usize],
    engine: &dyn Engine,
) -> Result<Ablation, EngineError> {
    match &script.dialogue {
        None => Ok(without(script, memories, responses)),
        Some(dialogue) => dialogue.without(&script.scored(), memories, responses, engine),
    }
}

fn without_spans(script: &Script, spans: &[Range<usize>], responses: &[usize]) -> Ablation {
    let first = spans.first().map_or(0, |span| span.start);
    let tokens_removed = spans.iter().map(ExactSizeIterator::len).sum();
    let responses: Vec<usize> =
        responses.iter().copied().filter(|r| script.responses[*r].scored.start >= first).collect();
    let end = responses.iter().map(|r| script.responses[*r].scored.end).max().unwrap_or(0);
    let mut tokens = Vec::with_capacity(end);
    let mut at = 0;
    for span in spans.iter().filter(|span| span.start < end) {
        tokens.extend_from_slice(&script.tokens[at..span.start]);
        at = span.end;
    }
    tokens.extend_from_slice(&script.tokens[at.min(end)..end]);
    let shift = |place: usize| {
        place
            - spans.iter().take_while(|s| s.end <= place).map(ExactSizeIterator::len).sum::<usize>()
    };
    let wanted = responses.iter().map(|r| {
        let scored = &script.responses[*r].scored;
        let start = shift(scored.start);
        start..start + scored.len()
    });
    let there =
        script.responses.iter().map(|response| &response.scored).filter(|scored| scored.end <= end);
    let there =
        there.map(|scored| shift(scored.start)..shift(scored.start) + scored.len()).collect();
    Ablation {
        sequence: Sequence { wanted: wanted.collect(), responses: there, tokens },
        responses,
        tokens_removed,
        respelled: 0,
    }
}

/// Log-probabilities of the responses' tokens, by response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseScores {
    /// For each response of the script; empty where it was not scored.
    pub responses: Vec<Vec<f32>>,
}

impl ResponseScores {
    /// Sorts an engine's scores by response.
    #[must_use]
    pub fn of(script: &Script, ablation: &Ablation, scores: &[f32]) -> Self {
        let mut responses = vec![Vec::new(); script.responses.len()];
        let mut rest = scores;
        for r in &ablation.responses {
            let (own, others) = rest.split_at(script.responses[*r].scored.len().min(rest.len()));
            responses[*r] = own.to_vec();
            rest = others;
        }
        Self { responses }
    }

    /// The same with the figures of the whole conversation where nothing was scored: what comes
    /// before a removal, or is what it was after it, loses nothing.
    #[must_use]
    pub fn filled(mut self, with: &Self) -> Self {
        for (own, whole) in
            self.responses.iter_mut().zip(&with.responses).filter(|(own, _)| own.is_empty())
        {
            own.clone_from(whole);
        }
        self
    }

    /// The sum over one response's tokens.
    #[must_use]
    pub fn sum(&self, response: usize) -> f64 {
        self.responses[response].iter().map(|x| f64::from(*x)).sum()
    }

    /// The largest difference of a response's sum between two scorings of the same.
    #[must_use]
    pub fn noise(&self, again: &Self) -> f64 {
        let both = (0..self.responses.len())
            .filter(|r| self.responses[*r].len() == again.responses[*r].len());
        both.map(|r| (self.sum(r) - again.sum(r)).abs()).fold(0.0, f64::max)
    }
}

/// What the responses are compared with.
#[derive(Debug)]
pub struct Baseline<'a> {
    /// The conversation that is scored.
    pub script: &'a Script,
    /// Scores with everything in context.
    pub with: &'a ResponseScores,
    /// Largest difference between two scorings of the same.
    pub noise: f64,
    /// Tokens to name a cell.
    pub top: usize,
    /// Turns tokens into text.
    pub engine: &'a dyn Engine,
}

impl Baseline<'_> {
    /// What one response lost.
    #[must_use]
    pub fn cell(&self, response: usize, without: &ResponseScores) -> Cell {
        let delta = self.with.sum(response) - without.sum(response);
        let tokens = self.with.responses[response].len();
        Cell {
            response: response as u64,
            delta,
            divergence: delta.max(0.0),
            per_token: if tokens == 0 { 0.0 } else { delta / tokens as f64 },
            below_noise: delta.abs() <= self.noise,
            top: (self.top > 0).then(|| self.contributions(response, without)),
        }
    }

    fn contributions(&self, response: usize, without: &ResponseScores) -> Vec<Token> {
        let from = self.script.responses[response].scored.start;
        let pairs =
            self.with.responses[response].iter().zip(&without.responses[response]).enumerate();
        let mut deltas: Vec<(usize, f64)> =
            pairs.map(|(i, (w, o))| (i, f64::from(*w) - f64::from(*o))).collect();
        deltas.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        let token = |(i, delta): (usize, f64)| {
            let id = self.script.tokens[from + i];
            Token { at: i as u64, token: id, text: self.engine.decode(&[id]), delta }
        };
        deltas.into_iter().take(self.top).map(token).collect()
    }

    /// A removal's row. Responses that were not scored without it lose nothing.
    #[must_use]
    pub fn row(&self, memories: &[usize], ablation: &Ablation, without: &ResponseScores) -> Row {
        let mut row = named(self.script, memories);
        row.tokens_removed = ablation.tokens_removed as u64;
        row.deltas = vec![0.0; self.script.responses.len()];
        row.divergences = row.deltas.clone();
        for r in &ablation.responses {
            let cell = self.cell(*r, without);
            row.deltas[*r] = cell.delta;
            if cell.divergence > DIVERGENCE_KEPT_ABOVE {
                row.divergences[*r] = cell.divergence;
                row.cells.push(cell);
            }
        }
        row
    }
}

/// A row that has only its names.
#[must_use]
pub fn named(script: &Script, memories: &[usize]) -> Row {
    let keys: Vec<String> = memories.iter().map(|m| script.memories[*m].key.clone()).collect();
    Row { key: keys.join("+"), keys, ..Row::default() }
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::score::{Conversation, Entry, file};
    use proptest::prelude::*;

    use super::*;
    use crate::conversation::{Layout, script};
    use crate::mock::Mock;

    fn entry() -> impl Strategy<Value = Entry> {
        let role = prop::sample::select(vec!["user", "assistant", "tool", "memory", "memory"]);
        (role, "[a-c]{0,6}", 0_usize..4, prop::bool::ANY).prop_map(|(role, text, key, ids)| Entry {
            role: Some(role.to_owned()),
            key: (role == "memory").then(|| format!("k{key}")),
            tokens: ids.then(|| text.bytes().map(u32::from).collect()),
            text: (!ids).then_some(text),
            ..Entry::default()
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_conversation_as_if_the_memories_had_never_been_in_it(
            entries in prop::collection::vec(entry(), 0..24),
        ) {
            let whole = Conversation { conversation: entries, ..Conversation::default() };
            let read = |conversation: &Conversation| {
                script(conversation, &Layout::plain(), &Mock::default()).expect("fits")
            };
            let full = read(&whole);
            let all: Vec<usize> = (0..full.responses.len()).collect();
            let words = |tokens: &[u32], wanted: &[Range<usize>]| {
                wanted.iter().map(|w| tokens[w.clone()].to_vec()).collect::<Vec<_>>()
            };
            for (m, memory) in full.memories.iter().enumerate() {
                let gone = without(&full, &[m], &all);
                let mut less = whole.clone();
                less.conversation.retain(|e| e.key.as_deref() != Some(&memory.key));
                let less = read(&less);
                prop_assert_eq!(
                    &gone.sequence.tokens[..],
                    &less.tokens[..gone.sequence.tokens.len()]
                );
                // The responses are the same, token by token, and none that could have lost
                // something is left out.
                let told: Vec<Range<usize>> =
                    gone.responses.iter().map(|r| full.responses[*r].scored.clone()).collect();
                prop_assert_eq!(
                    words(&gone.sequence.tokens, &gone.sequence.wanted),
                    words(&full.tokens, &told)
                );
                let behind = full
                    .responses
                    .iter()
                    .filter(|r| r.scored.start >= memory.spans[0].start)
                    .count();
                prop_assert_eq!(gone.responses.len(), behind);
                prop_assert!(
                    gone.sequence.wanted.iter().all(|w| w.is_empty() || w.start > 0),
                    "nothing precedes a first token"
                );
            }
        }

        #[test]
        fn no_file_makes_it_panic(text in ".{0,200}", json in "[\\[\\]{}\":,a-z0-9]{0,120}") {
            let read = |text: &str| drop(file::read(text.as_bytes(), None));
            [text.clone(), json.clone(), format!("{{\"messages\":{json}}}")]
                .iter()
                .for_each(|text| read(text));
        }
    }
}
