//! The messages of a conversation without some of its memories.

use serde_json::{Map, Value};

use super::super::ChatError;
use super::Dialogue;

/// Between texts that share a message.
const BETWEEN: &str = "\n\n";

/// A message, and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) role: String,
    pub(super) text: Option<String>,
    pub(super) ids: Option<Vec<u32>>,
    /// Fields beside role and content.
    pub(super) more: Map<String, Value>,
    pub(super) pieces: Vec<usize>,
}

impl Dialogue {
    /// The messages without these memories.
    pub(super) fn turns(&self, without: &[usize]) -> Result<Vec<Turn>, ChatError> {
        let there = || {
            self.pieces.iter().enumerate().filter(move |(_, piece)| {
                piece.memory.is_none_or(|memory| !without.contains(&memory))
            })
        };
        let mut turns: Vec<Turn> = Vec::new();
        // Texts that wait for the next one of the user.
        let mut waiting: Vec<usize> = Vec::new();
        let sections: Vec<usize> = there()
            .filter(|(_, piece)| piece.entry.is_none() && piece.role.is_none())
            .map(|(p, _)| p)
            .collect();
        match &sections[..] {
            [] => {}
            all if !self.placement.system_in_place => waiting.extend(all),
            [one] => turns.push(self.turn("system", *one)),
            several => {
                let (text, pieces) = (Some(self.joined(several)?), several.to_vec());
                turns.push(Turn {
                    role: "system".to_owned(),
                    text,
                    ids: None,
                    more: Map::new(),
                    pieces,
                });
            }
        }
        for (p, piece) in there() {
            match &piece.role {
                None if piece.entry.is_none() => {}
                None if self.placement.memories_in_place => turns.push(self.turn("system", p)),
                None => waiting.push(p),
                Some(role) => {
                    let mut turn = self.turn(role, p);
                    if role == "user" && !waiting.is_empty() {
                        waiting.push(p);
                        turn.text = Some(self.joined(&waiting)?);
                        turn.pieces = std::mem::take(&mut waiting);
                    }
                    turns.push(turn);
                }
            }
        }
        if let Some(first) = waiting.first() {
            // Nobody speaks after them: they stand behind what the user has said last.
            let key = || {
                self.pieces[*first]
                    .content
                    .key
                    .clone()
                    .unwrap_or_else(|| self.pieces[*first].place.clone())
            };
            let last = turns
                .iter_mut()
                .rev()
                .find(|turn| turn.role == "user")
                .ok_or_else(|| ChatError::NoPlace { key: key() })?;
            last.pieces.extend(&waiting);
            last.text = Some(self.joined(&last.pieces)?);
        }
        Ok(turns)
    }

    fn turn(&self, role: &str, p: usize) -> Turn {
        let entry = &self.pieces[p].content;
        let mut more = Map::new();
        if let Some(name) = &entry.name {
            more.insert("name".to_owned(), name.as_str().into());
        }
        if let Some(calls) = &entry.tool_calls {
            more.insert("tool_calls".to_owned(), Value::Array(calls.clone()));
        }
        if let Some(id) = &entry.tool_call_id {
            more.insert("tool_call_id".to_owned(), id.as_str().into());
        }
        if let Some(thoughts) = &entry.reasoning_content {
            more.insert("reasoning_content".to_owned(), thoughts.as_str().into());
        }
        Turn {
            role: role.to_owned(),
            text: entry.text.clone(),
            ids: entry.tokens.clone(),
            more,
            pieces: vec![p],
        }
    }

    /// The texts of several entries in one message.
    fn joined(&self, pieces: &[usize]) -> Result<String, ChatError> {
        let text = |p: &usize| {
            let piece = &self.pieces[*p];
            piece.content.text.clone().ok_or_else(|| ChatError::Entry {
                place: piece.place.clone(),
                why: "token ids cannot share a message with other texts, as this template has it: give its text".to_owned(),
            })
        };
        Ok(pieces.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(BETWEEN))
    }
}
