//! `/v1/score`: the log-probability of each of the assistant's responses in a prompt of tokens, as
//! clients that score memories ask for it.
//!
//! A response lies where the model's chat format says so, by the markers around it, or in the
//! places that the request names.
//!
//! Invariant: what is counted are a response's own tokens, without the markers around it; a prompt
//! in which no response is found is refused.

use std::ops::Range;

use brahman_card::interface::score::{self, LogprobsIn, LogprobsOut, method};
use brahman_card::wire::parameters;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// Ranges that a request may name: a conversation has fewer responses.
const RANGES_MAX: usize = 4096;

/// What stands before and after an assistant's response, by chat format. The first format of which
/// something is found counts.
const MARKERS: [(&str, &[&str]); 9] = [
    // ChatML: Qwen, Yi, SmolLM and many others.
    ("<|im_start|>assistant\n", &["<|im_end|>"]),
    // Llama 3.
    ("<|start_header_id|>assistant<|end_header_id|>\n\n", &["<|eot_id|>", "<|eom_id|>"]),
    // Llama 4.
    ("<|header_start|>assistant<|header_end|>\n\n", &["<|eot|>", "<|eom|>"]),
    // Gemma.
    ("<start_of_turn>model\n", &["<end_of_turn>"]),
    // Phi 4.
    ("<|im_start|>assistant<|im_sep|>", &["<|im_end|>"]),
    // Phi 3, Zephyr.
    ("<|assistant|>\n", &["<|end|>", "</s>", "<|endoftext|>", "<|user|>"]),
    // Mistral, Llama 2.
    ("[/INST]", &["</s>"]),
    // DeepSeek.
    ("<｜Assistant｜>", &["<｜end▁of▁sentence｜>"]),
    // Of a model without a chat format: `role: text` lines.
    ("assistant: ", &["\n"]),
];

#[derive(Debug, Deserialize)]
struct ScoreRequest {
    #[serde(default)]
    model: String,
    prompt: Vec<u32>,
    priority: Option<i64>,
    /// Where the responses are, each from its first token to the one behind its last; found by
    /// markers unless said.
    ranges: Option<Vec<(usize, usize)>>,
}

#[derive(Debug, Serialize)]
struct ScoreReply<'a> {
    scores: Vec<ScoreEntry>,
    model: &'a str,
    fingerprint: &'a str,
    tokens_forwarded: u64,
    tokens_reused: u64,
}

#[derive(Debug, Serialize)]
struct ScoreEntry {
    total_logprob: f64,
    /// How many tokens the response has.
    tokens: usize,
    /// Where it is, as `ranges` in a request.
    range: (usize, usize),
}

/// `POST /v1/score`.
pub(crate) async fn score(mesh: &Mesh, caller: &Caller, body: &[u8]) -> Result<Answer, Refusal> {
    let request: ScoreRequest = parameters::read(body)?;
    let count = request.prompt.len();
    if let Some((start, end)) = request
        .ranges
        .iter()
        .flatten()
        .find(|(start, end)| *start == 0 || start >= end || *end > count)
    {
        let expected = format!(
            "{start} to {end}: expected places from 1 to {count}, the first token has no log-probability"
        );
        return Err(Refusal::parameter("ranges", expected));
    }
    if let Some(ranges) = request.ranges.as_ref().filter(|ranges| ranges.len() > RANGES_MAX) {
        return Err(Refusal::parameter(
            "ranges",
            format!("{} of them, expected at most {RANGES_MAX}", ranges.len()),
        ));
    }
    let model = mesh.model(caller, score::INTERFACE.name, Some(&request.model)).await?;
    let ask = LogprobsIn { tokens: Some(request.prompt), text: None, priority: request.priority };
    let given = mesh.ask::<method::Logprobs>(caller, &ask, model.requirements()).await?;
    let out: LogprobsOut = given.value;
    let found: Vec<Range<usize>> = match &request.ranges {
        Some(ranges) => ranges.iter().map(|(start, end)| *start..*end).collect(),
        None => responses(&out.pieces),
    };
    if found.is_empty() {
        let expected = "expected an assistant's response between the markers of the model's chat format; `ranges` says where they are else";
        return Err(Refusal::parameter("prompt", expected));
    }
    let entry = |range: &Range<usize>| ScoreEntry {
        total_logprob: out
            .logprobs
            .get(range.clone())
            .unwrap_or_default()
            .iter()
            .flatten()
            .map(|x| f64::from(*x))
            .sum(),
        tokens: range.len(),
        range: (range.start, range.end),
    };
    let reply = ScoreReply {
        scores: found.iter().map(entry).collect(),
        model: &out.model,
        fingerprint: &out.fingerprint,
        tokens_forwarded: out.tokens_forwarded,
        tokens_reused: out.tokens_reused,
    };
    let mut answer = answer::json(StatusCode::OK, &reply);
    answer::sign(&mut answer, given.provider.as_deref(), out.mock);
    answer::set(&mut answer, answer::DEVICE, &out.device);
    Ok(answer)
}

/// The tokens of each response of the assistant, by the text of each token. A response that nothing
/// ends goes on to the prompt's end. It takes as long as the text is, for each format, however many
/// responses there are.
fn responses(pieces: &[String]) -> Vec<Range<usize>> {
    let text = pieces.concat();
    let starts = starts(pieces);
    for (open, closes) in MARKERS {
        let mut spans = Vec::new();
        let mut from = 0;
        // Where each of the ends lies next, from what was looked at so far; none if it does not
        // come again.
        let mut next: Vec<Option<usize>> = vec![Some(0); closes.len()];
        while let Some(at) = text[from..].find(open) {
            let start = from + at + open.len();
            for (next, close) in next.iter_mut().zip(closes) {
                if next.is_some_and(|at| at < start) {
                    *next = text[start..].find(close).map(|length| start + length);
                }
            }
            let end = next.iter().flatten().copied().min().unwrap_or(text.len());
            if end > start {
                spans.push(start..end);
            }
            from = end.max(start);
        }
        let ranges: Vec<Range<usize>> =
            spans.into_iter().filter_map(|span| tokens_within(pieces, &starts, &span)).collect();
        if !ranges.is_empty() {
            return ranges;
        }
    }
    Vec::new()
}

/// At which byte of the text each token begins.
fn starts(pieces: &[String]) -> Vec<usize> {
    let mut at = 0;
    let begin = |piece: &String| {
        let start = at;
        at += piece.len();
        start
    };
    pieces.iter().map(begin).collect()
}

/// The tokens that begin within a span of the text.
fn tokens_within(pieces: &[String], starts: &[usize], span: &Range<usize>) -> Option<Range<usize>> {
    let mut first = starts.partition_point(|start| *start < span.start);
    let mut end = starts.partition_point(|start| *start < span.end);
    // Those that are no text at all stand beside it.
    while first < end && pieces[first].is_empty() {
        first += 1;
    }
    while first < end && pieces[end - 1].is_empty() {
        end -= 1;
    }
    (first < end).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn responses_lie_between_their_markers() {
        let chat = [
            "<|im_start|>",
            "user",
            "\n",
            "Hi",
            "<|im_end|>",
            "\n",
            "<|im_start|>",
            "assistant",
            "\n",
            "Good",
            " day",
            "<|im_end|>",
            "\n",
        ];
        assert_eq!(responses(&pieces(&chat)), vec![9..11; 1]);
        let open = [&chat[..], &["<|im_start|>", "assistant", "\n", "And"]].concat();
        assert_eq!(responses(&pieces(&open)), [9..11, 16..17], "the last one may be open");
        let lines = ["user: ", "hi", "\n", "assistant: ", "yes", " sir", "\n"];
        assert_eq!(responses(&pieces(&lines)), vec![4..6; 1]);
        assert!(responses(&pieces(&["nothing", " here"])).is_empty());
        let bare = ["assistant: ", "", "yes", "", " sir", "", "\n", ""];
        assert_eq!(responses(&pieces(&bare)), vec![2..5; 1], "what has no text is of no response");
    }

    #[test]
    fn a_long_conversation_takes_as_long_as_its_text() {
        // Of the four ends of this format three never come.
        let turns = 100_000;
        let talk: Vec<String> =
            (0..turns).flat_map(|_| pieces(&["<|assistant|>\n", "yes", "<|end|>"])).collect();
        let found = responses(&talk);
        assert_eq!(
            (found.len(), found.first(), found.last()),
            (turns, Some(&(1..2)), Some(&(3 * turns - 2..3 * turns - 1)))
        );
    }
}
