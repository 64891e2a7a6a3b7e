//! Token ids by chat templates, against those of `transformers` for five families of made-up
//! models, with and without each memory.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use brahman_card::interface::score::{Conversation, InfoOut};
use brahman_score::ablation::left;
use brahman_score::chat::Templates;
use brahman_score::conversation::{Layout, script};
use brahman_score::engine::{Engine, EngineError, Identity, Scores, Sequence, Stop, Work};
use brahman_score::mock::Mock;
use brahman_score::onnx::folder::Tokens;
use serde_json::Value;

/// A tokenizer without a model.
#[derive(Debug)]
struct Tokenized {
    identity: Identity,
    tokens: Tokens,
}

impl Tokenized {
    fn read(folder: &Path) -> Self {
        let tokens = Tokens::read(folder).expect("a tokenizer");
        let identity = Identity {
            first: tokens.first.clone(),
            vocabulary: tokens.vocabulary(),
            window: tokens.window,
            ..Mock::default().identity().clone()
        };
        Self { identity, tokens }
    }
}

impl Engine for Tokenized {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokens.encode(text)
    }

    fn encode_placed(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        self.tokens.encode_placed(text)
    }

    fn templates(&self) -> Option<&Templates> {
        Some(&self.tokens.templates)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.tokens.decode(tokens)
    }

    fn score(
        &self,
        _: &[Sequence],
        _: &Stop,
        _: &mut dyn FnMut(usize, Scores),
    ) -> Result<Work, EngineError> {
        Ok(Work::default())
    }

    fn info(&self) -> InfoOut {
        InfoOut::default()
    }
}

fn ids(list: &Value) -> Option<Vec<u32>> {
    list.as_array().map(|list| {
        list.iter().map(|id| u32::try_from(id.as_u64().expect("an id")).expect("small")).collect()
    })
}

/// The folders that `transformers` has made and read.
fn reference(to: &Path) {
    let tools = std::env::var_os("BRAHMAN_TEST_TOOLS")
        .expect("BRAHMAN_TEST_TOOLS is not set: run `make test`, which installs transformers");
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/templates/reference.py");
    let out = Command::new(PathBuf::from(tools).join("bin/python3"))
        .arg(script)
        .arg(to)
        .output()
        .expect("started");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn ids_are_those_of_transformers_with_and_without_each_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    reference(folder.path());
    let (mut wholes, mut ablations, mut named) = (0, 0, Vec::new());
    for family in ["chatml", "llama3", "mistral", "gemma", "qwen"] {
        let engine = Tokenized::read(&folder.path().join(family));
        let cases = std::fs::read(folder.path().join(family).join("cases.json")).expect("cases");
        let cases: Vec<Value> = serde_json::from_slice(&cases).expect("JSON");
        for (number, case) in cases.iter().enumerate() {
            let place = format!("{family} {number}");
            let conversation: Conversation =
                serde_json::from_value(case["conversation"].clone()).expect("a conversation");
            let read = script(&conversation, &Layout::default(), &engine);
            let Some(expected) = ids(&case["ids"]) else {
                assert!(read.is_err(), "{place}: transformers refuses it: {}", case["refused"]);
                continue;
            };
            let read = read.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(read.tokens, expected, "{place}: {:?}", engine.decode(&read.tokens));
            assert!(
                read.used.source.starts_with("chat_template.jinja"),
                "{place}: {:?}",
                read.used
            );
            wholes += 1;
            let all: Vec<usize> = (0..read.responses.len()).collect();
            for (m, memory) in read.memories.iter().enumerate() {
                let gone = left(&read, &[m], &all, &engine);
                let Some(expected) = ids(&case["without"][&memory.key]) else {
                    assert!(gone.is_err(), "{place} {}: transformers refuses it", memory.key);
                    continue;
                };
                let gone = gone.unwrap_or_else(|error| panic!("{place} {}: {error}", memory.key));
                ablations += 1;
                for (r, wanted) in gone.responses.iter().zip(&gone.sequence.wanted) {
                    let own = &read.tokens[read.responses[*r].scored.clone()];
                    assert_eq!(
                        &gone.sequence.tokens[wanted.clone()],
                        own,
                        "{place} {}: a response keeps its tokens",
                        memory.key
                    );
                }
                // A response that would be spelled otherwise is told.
                if gone.sequence.tokens[..]
                    != expected[..gone.sequence.tokens.len().min(expected.len())]
                {
                    assert!(
                        gone.respelled > 0,
                        "{place} {}: {:?}",
                        memory.key,
                        engine.decode(&gone.sequence.tokens)
                    );
                    named.push(format!("{place} {}", memory.key));
                }
            }
        }
    }
    println!("{wholes} conversations and {ablations} without a memory equal; named: {named:?}");
    assert!(wholes >= 30 && ablations >= 30 && named.is_empty(), "{wholes} {ablations} {named:?}");
}
