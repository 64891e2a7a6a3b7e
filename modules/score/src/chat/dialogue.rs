//! A conversation as the messages of a chat template, the text that the template makes of them, and
//! where in it each entry stands.
//!
//! Where an entry stands is not asked of the template, which does not know: it is run a second time
//! with marks in place of the contents, and what it puts between the marks is found again in the
//! text. The whole text is put into tokens at once, as `transformers` does it, and cut at the
//! tokens.
//!
//! What a memory's removal leaves is what the template makes of the messages without it: no text is
//! cut. A response keeps its tokens all the same: where the text around it has changed them, its
//! own are put in their place, and that is counted.
//!
//! Invariants: an entry that the template does not show is named; a response that is found with a
//! memory and not without it is an error of that row; ids of the caller's are never turned into
//! text.
//!
//! [`turns`] makes the messages.

mod places;
mod turns;

use std::collections::HashMap;
use std::ops::Range;

use brahman_card::interface::score::{ChatTemplate, Conversation, Entry, TemplateUse};
use serde_json::Value;

use super::{ChatError, Renderer, Source, Templates, message};
use crate::ablation::Ablation;
use crate::engine::{Engine, EngineError};
use places::{MARK_END, ShownTurns, find};
use turns::Turn;

/// Marks begin with one of these, whichever no content has: characters that Unicode leaves to
/// private use.
const MARKS: Range<u32> = 0xF0000..0xF0010;
/// Entries that a note names of those that the template does not show.
const UNSEEN_NAMED: usize = 8;

/// A conversation's sections.
const SECTIONS: [&str; 3] = ["system", "identity", "journal"];

/// Where texts stand that templates may refuse as messages of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    /// Memories without a role are system messages; else they stand before the next user text.
    memories_in_place: bool,
    /// What the sections say is a system message; else it stands before the first user text.
    system_in_place: bool,
}

/// An entry, where it comes from, and which memory it is.
#[derive(Clone, Debug)]
struct Piece {
    /// Its place in `conversation`, if it is there and not in a section.
    entry: Option<usize>,
    /// As errors name it.
    place: String,
    memory: Option<usize>,
    /// Of its own; `None` for what the sections say, and for a memory that has none.
    role: Option<String>,
    content: Entry,
}

/// Messages as tokens.
#[derive(Debug, Default)]
struct Flat {
    tokens: Vec<u32>,
    /// Where a piece's message has its content.
    pieces: HashMap<usize, Range<usize>>,
    /// Contents of which the template shows something else.
    changed: usize,
    guessed: usize,
}

/// A memory's key, and where it stands.
pub(crate) type MemoryPlaces = (String, Vec<Range<usize>>);

/// What a conversation is with all its memories.
#[derive(Debug)]
pub(crate) struct Whole {
    /// All of it.
    pub(crate) tokens: Vec<u32>,
    /// In order.
    pub(crate) memories: Vec<MemoryPlaces>,
    /// Entries of the assistant: place, tokens, and the text's beginning.
    pub(crate) responses: Vec<(usize, Range<usize>)>,
    /// Where the section `conversation` begins.
    pub(crate) own_from: usize,
}

/// What is scored of a conversation with all its memories.
pub(crate) struct ScoredWhole<'a> {
    pub(crate) tokens: &'a [u32],
    /// Each response's place in `conversation`, and where its tokens stand.
    pub(crate) responses: Vec<(usize, &'a Range<usize>)>,
}

/// A conversation that is run through a chat template.
#[derive(Debug)]
pub(crate) struct Dialogue {
    renderer: Renderer,
    digest: String,
    source_name: String,
    pieces: Vec<Piece>,
    keys: Vec<String>,
    placement: Placement,
    notes: Vec<String>,
}

impl Dialogue {
    /// Reads a conversation, and finds out where its memories may stand. Its memories are those of
    /// `keys`, in that order.
    ///
    /// # Errors
    /// [`ChatError`], and as the engine gives them.
    pub(crate) fn open(
        conversation: &Conversation,
        keys: &[String],
        source: &Source,
        templates: Option<&Templates>,
        how: &ChatTemplate,
    ) -> Result<Self, ChatError> {
        let renderer = Renderer::new(source, templates, conversation.tools.as_deref(), how)?;
        let pieces = pieces(conversation, keys);
        let mut dialogue = Self {
            renderer,
            digest: source.digest(),
            source_name: source.name.clone(),
            pieces,
            keys: keys.to_vec(),
            placement: Placement { memories_in_place: true, system_in_place: true },
            notes: Vec::new(),
        };
        dialogue.place(how.memories.as_deref())?;
        Ok(dialogue)
    }

    /// Chooses the first placement that the template takes and shows.
    fn place(&mut self, wanted: Option<&str>) -> Result<(), ChatError> {
        let memories = match wanted {
            None => &[true, false][..],
            Some("system") => &[true],
            Some("user") => &[false],
            Some(other) => {
                let why = format!(
                    "`{}`: expected system or user",
                    other.chars().take(40).collect::<String>()
                );
                return Err(ChatError::Option { field: "chat_template.memories", why });
            }
        };
        let roleless = self
            .pieces
            .iter()
            .any(|piece| piece.memory.is_some() && piece.role.is_none() && piece.entry.is_some());
        let sections =
            self.pieces.iter().any(|piece| piece.entry.is_none() && piece.role.is_none());
        let mut first = None;
        for system_in_place in [true, false].into_iter().take(1 + usize::from(sections)) {
            for memories_in_place in memories.iter().copied().take(if roleless { 2 } else { 1 }) {
                self.placement = Placement { memories_in_place, system_in_place };
                match self.turns(&[]).and_then(|turns| Ok((self.show(&turns)?, turns))) {
                    Ok((shown, turns)) => {
                        let hidden = |turn: usize| {
                            shown.contents[turn].is_none()
                                && turns[turn].text.as_deref() != Some("")
                        };
                        let is_placed = |turn: &Turn| {
                            turn.pieces.iter().any(|p| self.pieces[*p].role.is_none())
                        };
                        // A template that passes over what it does not know is no place for it.
                        if !(0..turns.len()).any(|turn| hidden(turn) && is_placed(&turns[turn])) {
                            self.tell_placement(roleless, sections);
                            return Ok(());
                        }
                        first.get_or_insert_with(|| ChatError::Refusal {
                            source_name: self.source_name.clone(),
                            message: "it does not show a memory or a section, wherever it stands"
                                .to_owned(),
                        });
                    }
                    Err(error) if error.is_of_any_messages() => return Err(error),
                    Err(error) => {
                        first.get_or_insert(error);
                    }
                }
            }
        }
        Err(first.unwrap_or(ChatError::Option {
            field: "chat_template.memories",
            why: "no placement was tried".to_owned(),
        }))
    }

    fn tell_placement(&mut self, roleless: bool, sections: bool) {
        if roleless && !self.placement.memories_in_place {
            let why = "the template takes no system message in their place, or this was asked for";
            self.notes
                .push(format!("memories without a role stand before the next user text: {why}"));
        }
        if sections && !self.placement.system_in_place {
            self.notes
                .push("system, identity and journal stand before the first user text: the template takes no system message".to_owned());
        }
        if self.pieces.iter().filter(|piece| piece.entry.is_none() && piece.role.is_none()).count()
            > 1
        {
            self.notes.push("the entries of system, identity and journal are one message, with empty lines between them".to_owned());
        }
    }

    /// What a reply says of the template.
    pub(crate) fn used(&self) -> TemplateUse {
        let has_roleless =
            self.pieces.iter().any(|piece| piece.memory.is_some() && piece.role.is_none());
        let memories =
            if has_roleless && !self.placement.memories_in_place { "user" } else { "system" };
        let now_s = self.renderer.now_s();
        let mut notes = self.notes.clone();
        if now_s.is_some() {
            notes.push(
                "the template asks for the time, and was told UTC: `chat_template.now_s` fixes it"
                    .to_owned(),
            );
        }
        TemplateUse {
            source: self.source_name.clone(),
            digest: self.digest.clone(),
            memories: memories.to_owned(),
            now_s,
            notes: Some(notes).filter(|notes| !notes.is_empty()),
        }
    }

    /// The whole conversation.
    pub(crate) fn whole(&mut self, engine: &dyn Engine) -> Result<Whole, EngineError> {
        let flat = self.flat(&[], engine)?;
        if flat.changed > 0 {
            self.notes
                .push(format!("{} entries are shown otherwise than they were given: the template cuts or adds to them", flat.changed));
        }
        if flat.guessed > 0 {
            self.notes.push(format!(
                "{} entries were found by their text, for the template has other words around them",
                flat.guessed
            ));
        }
        let mut memories: Vec<MemoryPlaces> =
            self.keys.iter().map(|key| (key.clone(), Vec::new())).collect();
        let (mut responses, mut hidden, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
        // Nothing precedes a first token.
        let most = flat.tokens.len();
        let clamp = |place: usize| place.max(1).min(most);
        let (mut last, mut own_from) = (clamp(0), None);
        for (p, piece) in self.pieces.iter().enumerate() {
            let found = flat.pieces.get(&p).cloned();
            if piece.entry.is_some() {
                own_from = own_from.or(found.as_ref().map(|range| range.start));
            }
            let range = found.clone().unwrap_or(last..last);
            last = clamp(range.end);
            let is_unseen = found.is_none() && piece.content.text.as_deref() != Some("");
            if let Some(memory) = piece.memory {
                memories[memory].1.push(range);
                if is_unseen {
                    unseen.push(format!("{} (memory `{}`)", piece.place, self.keys[memory]));
                }
            } else if let (Some(entry), Some("assistant")) = (piece.entry, piece.role.as_deref()) {
                if found.is_none() {
                    hidden.push(entry);
                }
                responses.push((entry, clamp(range.start)..clamp(range.end)));
            } else if is_unseen {
                unseen.push(piece.place.clone());
            }
        }
        self.notes.extend(unseen_note(&unseen));
        if !hidden.is_empty() {
            let shown: Vec<String> =
                hidden.iter().take(UNSEEN_NAMED).map(ToString::to_string).collect();
            let (count, shown) = (hidden.len(), shown.join(", "));
            self.notes.push(format!("{count} responses are not shown by the template and have no figures: entries {shown}"));
        }
        Ok(Whole { tokens: flat.tokens, memories, responses, own_from: own_from.unwrap_or(0) })
    }

    /// The conversation without these memories, up to the last of these responses; each has its
    /// tokens of the whole.
    ///
    /// # Errors
    /// [`EngineError::Template`] if the template refuses what is left, or does not show a response
    /// any more.
    pub(crate) fn without(
        &self,
        whole: &ScoredWhole<'_>,
        memories: &[usize],
        responses: &[usize],
        engine: &dyn Engine,
    ) -> Result<Ablation, EngineError> {
        let flat = self.flat(memories, engine)?;
        let tokens_removed = whole.tokens.len().saturating_sub(flat.tokens.len());
        let same = whole.tokens.iter().zip(&flat.tokens).take_while(|(a, b)| a == b).count();
        let by_entry: HashMap<usize, usize> = self
            .pieces
            .iter()
            .enumerate()
            .filter_map(|(p, piece)| Some((piece.entry?, p)))
            .collect();
        let mut ablation = Ablation { tokens_removed, ..Ablation::default() };
        let before =
            whole.responses.iter().map(|(_, scored)| *scored).filter(|scored| scored.end <= same);
        ablation.sequence.responses.extend(before.cloned());
        let mut at = 0;
        for r in responses {
            let (entry, scored) = whole.responses[*r];
            if scored.end <= same {
                // What precedes it is as it was.
                continue;
            }
            let found = by_entry.get(&entry).and_then(|p| flat.pieces.get(p));
            let range = match found {
                Some(range) => range.clone(),
                None if scored.is_empty() => continue,
                None => return Err(EngineError::template(ChatError::Lost { entry })),
            };
            let own = &whole.tokens[scored.clone()];
            let range = range.start.max(at).max(1)..range.end.max(at).max(1);
            let sequence = &mut ablation.sequence;
            sequence.tokens.extend_from_slice(
                &flat.tokens[at.min(flat.tokens.len())..range.start.min(flat.tokens.len())],
            );
            if sequence.tokens.is_empty() && !own.is_empty() {
                return Err(EngineError::template(ChatError::Lost { entry }));
            }
            ablation.respelled += usize::from(flat.tokens.get(range.clone()) != Some(own));
            let start = sequence.tokens.len();
            sequence.tokens.extend_from_slice(own);
            sequence.wanted.push(start..start + own.len());
            sequence.responses.push(start..start + own.len());
            ablation.responses.push(*r);
            at = range.end;
        }
        let (tokens, window) = (ablation.sequence.tokens.len(), engine.identity().window);
        if tokens > window {
            return Err(EngineError::TooLong { tokens, window });
        }
        Ok(ablation)
    }

    fn flat(&self, without: &[usize], engine: &dyn Engine) -> Result<Flat, EngineError> {
        let turns = self.turns(without).map_err(EngineError::template)?;
        let shown = self.show(&turns).map_err(EngineError::template)?;
        let mut flat = Flat { guessed: shown.guessed, ..Flat::default() };
        // Where each token stands in the text. Ids stand where the template has put their mark.
        let mut places: Vec<Range<usize>> = Vec::new();
        let with_ids = turns.iter().enumerate().filter(|(_, turn)| turn.ids.is_some());
        let mut marks: Vec<(usize, Range<usize>)> =
            with_ids.filter_map(|(t, _)| Some((t, shown.contents[t].clone()?))).collect();
        marks.sort_by_key(|(_, range)| range.start);
        let mut given: HashMap<usize, Range<usize>> = HashMap::new();
        let end = (usize::MAX, shown.text.len()..shown.text.len());
        let mut from = 0;
        for (t, mark) in marks.into_iter().chain([end]) {
            let (tokens, ranges) = engine.encode_placed(&shown.text[from..mark.start])?;
            flat.tokens.extend(tokens);
            places.extend(ranges.into_iter().map(|range| range.start + from..range.end + from));
            let ids = turns.get(t).and_then(|turn| turn.ids.as_deref()).unwrap_or_default();
            let vocabulary = engine.identity().vocabulary;
            if let Some(token) = ids.iter().find(|id| **id >= vocabulary) {
                return Err(EngineError::NoSuchToken { token: *token, vocabulary });
            }
            given.insert(t, flat.tokens.len()..flat.tokens.len() + ids.len());
            flat.tokens.extend_from_slice(ids);
            places.extend(std::iter::repeat_n(mark.clone(), ids.len()));
            from = mark.end;
        }
        for (t, turn) in turns.iter().enumerate() {
            let Some(mut content) = shown.contents[t].clone() else { continue };
            let text = &shown.text[content.clone()];
            let said = turn.text.as_deref().map(str::trim);
            flat.changed += usize::from(
                turn.more.is_empty() && turn.ids.is_none() && said != Some(text.trim()),
            );
            // What the assistant thought is a part of its response, where the template shows it.
            if let Some(thoughts) = turn
                .more
                .get("reasoning_content")
                .and_then(Value::as_str)
                .map(str::trim)
                .filter(|t| !t.is_empty())
            {
                let before = shown
                    .contents
                    .iter()
                    .flatten()
                    .map(|range| range.end)
                    .filter(|end| *end <= content.start)
                    .max()
                    .unwrap_or(0);
                content.start = shown.text[before..content.start]
                    .rfind(thoughts)
                    .map_or(content.start, |at| before + at);
            }
            let mut at = content.start;
            for p in &turn.pieces {
                let tokens = match given.get(&t) {
                    Some(range) => range.clone(),
                    None if turn.pieces.len() == 1 => tokens_of(&content, &places),
                    None => {
                        // Several texts share the message: each is where it is found, in their
                        // order.
                        let own =
                            self.pieces[*p].content.text.as_deref().unwrap_or_default().trim();
                        let found = shown.text[at..content.end]
                            .find(own)
                            .map(|start| at + start..at + start + own.len());
                        let range = found.unwrap_or_else(|| content.clone());
                        at = range.end.min(content.end).max(at);
                        tokens_of(&range, &places)
                    }
                };
                flat.pieces.insert(*p, tokens);
            }
        }
        Ok(flat)
    }

    /// Runs the template, and finds the contents in what it makes.
    fn show(&self, turns: &[Turn]) -> Result<ShownTurns, ChatError> {
        let has = |turn: &Turn, c: char| {
            turn.text.as_deref().is_some_and(|text| text.contains(c))
                || turn.more.values().any(|value| value.to_string().contains(c))
        };
        let free =
            MARKS.filter_map(char::from_u32).find(|c| !turns.iter().any(|turn| has(turn, *c)));
        let mark = free.ok_or_else(|| ChatError::Entry {
            place: "conversation".to_owned(),
            why: format!("its texts have all of the characters U+{:X} to U+{:X}, which stand for places here", MARKS.start, MARKS.end - 1),
        })?;
        let marked = |t: usize| format!("{mark}{t}{MARK_END}");
        let real = turns.iter().enumerate().map(|(t, turn)| {
            let content: Value = match (&turn.ids, &turn.text) {
                (Some(_), _) => marked(t).into(),
                (None, Some(text)) => text.as_str().into(),
                (None, None) => Value::Null,
            };
            let mut one = message(&turn.role, content);
            one.extend(turn.more.clone());
            Value::Object(one)
        });
        let text = self.renderer.render(real.collect())?;
        let places = turns.iter().enumerate().map(|(t, turn)| {
            let mut one = message(&turn.role, marked(t).into());
            // Calls of tools are part of what the assistant says: they stand where its content
            // does.
            let kept = turn.more.iter().filter(|(name, _)| *name != "tool_calls");
            one.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
            Value::Object(one)
        });
        let skeleton = match self.renderer.render(places.collect()) {
            // A template that looks into contents may refuse the marks; then contents are found by
            // what they say.
            Err(ChatError::Refusal { .. } | ChatError::Failed { .. }) => String::new(),
            skeleton => skeleton?,
        };
        let contents: Vec<String> =
            turns
                .iter()
                .enumerate()
                .map(|(t, turn)| {
                    if turn.ids.is_some() {
                        marked(t)
                    } else {
                        turn.text.clone().unwrap_or_default()
                    }
                })
                .collect();
        Ok(find(text, &skeleton, mark, &contents))
    }
}

/// What is said of entries that the template does not show.
fn unseen_note(unseen: &[String]) -> Option<String> {
    match unseen {
        [] => None,
        [one] => Some(format!("{one} is not shown by the template")),
        several => {
            let named = several[..several.len().min(UNSEEN_NAMED)].join(", ");
            Some(format!(
                "{} entries are not shown by the template, such as {named}",
                several.len()
            ))
        }
    }
}

/// The tokens that a part of the text is made of, those included that reach over its ends.
fn tokens_of(part: &Range<usize>, places: &[Range<usize>]) -> Range<usize> {
    if part.is_empty() {
        let at = places.partition_point(|place| place.start < part.start);
        return at..at;
    }
    let first = places.partition_point(|place| place.end <= part.start);
    let last = places.partition_point(|place| place.start < part.end);
    first..last.max(first)
}

/// Entries with what they are, in the order in which they stand.
fn pieces(conversation: &Conversation, keys: &[String]) -> Vec<Piece> {
    let memory = |entry: &Entry| {
        entry.key.as_ref().and_then(|key| keys.iter().position(|known| known == key))
    };
    let mut pieces = Vec::new();
    let sections = [&conversation.system, &conversation.identity, &conversation.journal];
    for (section, entries) in SECTIONS.into_iter().zip(sections) {
        for (at, entry) in entries.iter().flatten().enumerate() {
            let role = entry
                .role
                .clone()
                .filter(|role| ![section, "system", "memory"].contains(&role.as_str()));
            let place = format!("{section}[{at}]");
            pieces.push(Piece {
                entry: None,
                place,
                memory: memory(entry),
                role,
                content: entry.clone(),
            });
        }
    }
    for (at, entry) in conversation.conversation.iter().enumerate() {
        let role = entry.role.clone().filter(|role| role != "memory");
        pieces.push(Piece {
            entry: Some(at),
            place: format!("conversation[{at}]"),
            memory: memory(entry),
            role,
            content: entry.clone(),
        });
    }
    pieces
}

#[cfg(test)]
mod tests;
