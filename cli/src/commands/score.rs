//! Which memories a model's answers depend on.

mod matrix;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::interface::Method;
use brahman_card::interface::score::{
    ChatTemplate, Conversation, Entry, FinetuneIn, FinetuneOut, IncrementalIn, IncrementalOut,
    IncrementalRow, MatrixSummary, MemoryIn, MemoryOut, ResetWeightsIn, ResetWeightsOut, Row,
    TemplateUse, Weight, WeightsIn, WeightsOut, file, method,
};
use brahman_sidecar::chain;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{absolute, get, is_standard, stdin_bytes, stream, unfinished};
use crate::failure::{BadInput, NotFound};
use crate::output::{Output, Tone, counted, duration};
use matrix::{Matrix, floor, matrix};

/// Tokens a cell of the page names: it shades whole responses.
const PAGE_TOKENS: u64 = 200;

/// Which memories a model's answers depend on
#[derive(Subcommand, Debug)]
pub(crate) enum Score {
    /// Score every memory against every response
    Matrix(Matrix),
    /// Score one memory, over the responses that follow it
    Memory {
        #[command(flatten)]
        file: Source,
        /// Key of the memory
        key: String,
        /// How many responses after it to look at
        #[arg(long, default_value_t = 50)]
        window: u64,
        /// How many of a response's tokens to show
        #[arg(long, default_value_t = 3)]
        top: u64,
    },
    /// Score the memories that have not been scored recently, and update their weights
    Incremental {
        #[command(flatten)]
        file: Source,
        /// Skip memories that were scored within this many seconds
        #[arg(long, default_value_t = 86_400, value_name = "S")]
        max_age: u64,
        /// How many responses after a memory to look at
        #[arg(long, default_value_t = 50)]
        window: u64,
        /// Maximum number of memories to score
        #[arg(long)]
        limit: Option<u64>,
        /// Whose weights to update: an agent's name
        #[arg(long, value_name = "NAME")]
        namespace: Option<String>,
    },
    /// Rank the last entries by how much they lose without any memory
    Finetune {
        #[command(flatten)]
        file: Source,
        /// How many entries, from the end
        #[arg(long, default_value_t = 20)]
        count: u64,
        /// Also read what stands before them, and remove its memories too
        #[arg(long)]
        whole: bool,
    },
    /// List the weights that `score incremental` keeps, or forget them
    Weights {
        /// Whose weights: an agent's name
        #[arg(long, value_name = "NAME")]
        namespace: Option<String>,
        /// By every model that has scored, not only the one that is served now
        #[arg(long)]
        all_models: bool,
        /// Forget the weights: of these keys, or all
        #[arg(long, num_args = 0.., value_name = "KEY")]
        reset: Option<Vec<String>>,
    },
}

/// Where the conversation is.
#[derive(Args, Debug)]
pub(crate) struct Source {
    /// JSON or JSONL file: {"conversation": […]}, {"messages": […]}, or ShareGPT's; - reads
    /// standard input
    file: PathBuf,
    /// Which of several conversations in the file, one a line
    #[arg(long, value_name = "N")]
    line: Option<u64>,
    /// Chat template: one of the model's by its name, @FILE, or none
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,
    /// A variable of the chat template, its value as JSON or text; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    variable: Vec<String>,
    /// Where memories without a role stand: as system messages, or before the next user text
    #[arg(long, value_name = "PLACE", value_parser = ["system", "user"])]
    memories: Option<String>,
    /// Calls with a higher priority go first, also between the steps of one that runs
    #[arg(long)]
    priority: Option<i64>,
    /// Do not use stored results of earlier calls
    #[arg(long)]
    fresh: bool,
}

/// The conversation as a call takes it.
#[derive(Default)]
struct ConversationInput {
    conversation: Option<Conversation>,
    path: Option<String>,
    line: Option<u64>,
    chat_template: Option<ChatTemplate>,
}

impl Source {
    fn given(&self) -> anyhow::Result<ConversationInput> {
        let chat_template = self.chat_template()?;
        if !is_standard(&self.file) {
            return Ok(ConversationInput {
                path: Some(absolute(&self.file)?),
                line: self.line,
                chat_template,
                conversation: None,
            });
        }
        let read = file::read(&stdin_bytes()?, self.line);
        let conversation =
            read.map_err(|error| BadInput(format!("standard input: {}", chain(&error))))?;
        Ok(ConversationInput {
            conversation: Some(conversation),
            chat_template,
            ..ConversationInput::default()
        })
    }

    fn chat_template(&self) -> anyhow::Result<Option<ChatTemplate>> {
        let mut how = ChatTemplate { memories: self.memories.clone(), ..ChatTemplate::default() };
        match self.template.as_deref().map(|template| (template, template.strip_prefix('@'))) {
            Some((_, Some(path))) => {
                how.text = Some(
                    std::fs::read_to_string(path)
                        .with_context(|| BadInput(format!("cannot read the template {path}")))?,
                );
            }
            Some((name, None)) => how.name = Some(name.to_owned()),
            None => {}
        }
        let mut variables = Map::new();
        for pair in &self.variable {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(BadInput(format!("--variable {pair}: expected NAME=VALUE")).into());
            };
            variables.insert(
                name.to_owned(),
                serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
            );
        }
        how.variables =
            Some(variables).filter(|variables| !variables.is_empty()).map(Value::Object);
        Ok(Some(how).filter(|how| *how != ChatTemplate::default()))
    }
}

/// What a person hears of how the conversation was put into tokens.
fn tell_template(used: Option<&TemplateUse>, output: &Output) {
    let Some(used) = used else { return };
    if used.source != "none" {
        let place =
            if used.memories == "user" { "before user texts" } else { "as system messages" };
        output.note(&format!(
            "chat template: {}; memories without a role stand {place}",
            used.source
        ));
    }
    used.notes.iter().flatten().for_each(|note| output.note(&format!("note: {note}")));
}

pub(crate) async fn score(socket: &Path, command: Score, output: &Output) -> anyhow::Result<()> {
    match command {
        Score::Matrix(matrix) => self::matrix(socket, &matrix, output).await,
        Score::Memory { file, key, window, top } => {
            let ConversationInput { conversation, path, line, chat_template } = file.given()?;
            let (priority, fresh, window, top) =
                (file.priority, Some(file.fresh), Some(window), Some(top));
            let ask = MemoryIn {
                conversation,
                path,
                line,
                chat_template,
                key,
                window,
                top,
                fresh,
                priority,
                ..MemoryIn::default()
            };
            memory(&get::<method::ScoreMemory>(socket, &ask).await?, output)
        }
        Score::Incremental { file, max_age, window, limit, namespace } => {
            let ConversationInput { conversation, path, line, chat_template } = file.given()?;
            let max_age_s = Some(if file.fresh { 0 } else { max_age });
            let (priority, window) = (file.priority, Some(window));
            let ask = IncrementalIn {
                conversation,
                path,
                line,
                chat_template,
                max_age_s,
                window,
                limit,
                namespace,
                priority,
                ..IncrementalIn::default()
            };
            incremental(socket, &ask, output).await
        }
        Score::Weights { namespace, all_models, reset } => {
            weights(socket, namespace, all_models, reset, output).await
        }
        Score::Finetune { file, count, whole } => {
            let ConversationInput { conversation, path, line, chat_template } = file.given()?;
            let (priority, fresh, whole) = (file.priority, Some(file.fresh), Some(whole));
            let ask = FinetuneIn {
                conversation,
                path,
                line,
                chat_template,
                count,
                whole,
                fresh,
                priority,
                ..FinetuneIn::default()
            };
            finetune(&get::<method::ScoreFinetune>(socket, &ask).await?, output);
            Ok(())
        }
    }
}

/// The conversation in a file.
fn spoken(path: &str, line: Option<u64>) -> anyhow::Result<Conversation> {
    let bytes = std::fs::read(path).with_context(|| BadInput(format!("cannot read {path}")))?;
    file::read(&bytes, line).map_err(|error| BadInput(format!("{path}: {}", chain(&error))).into())
}

/// What is said in a conversation, in the order in which the model reads it: `entry` is the place
/// of what has one.
fn talk(conversation: &Conversation) -> Vec<Value> {
    let sections = [
        ("system", &conversation.system),
        ("identity", &conversation.identity),
        ("journal", &conversation.journal),
    ];
    let in_sections = sections.into_iter().flat_map(|(name, entries)| {
        entries.iter().flatten().map(move |entry| (name, None::<usize>, entry))
    });
    let own =
        conversation.conversation.iter().enumerate().map(|(at, entry)| ("memory", Some(at), entry));
    let said = |(role, at, entry): (&str, Option<usize>, &Entry)| {
        let role = entry.role.as_deref().unwrap_or(role);
        json!({ "entry": at, "role": role, "key": entry.key, "text": words(entry) })
    };
    in_sections.chain(own).map(said).collect()
}

/// All that an entry says: its thoughts, its text, the tools that it calls.
fn words(entry: &Entry) -> String {
    let ids = entry.tokens.as_ref().map(|tokens| format!("({} token ids)", tokens.len()));
    let calls = entry.tool_calls.iter().flatten().map(Value::to_string);
    let parts = entry.reasoning_content.iter().chain(&entry.text).cloned().chain(ids).chain(calls);
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// A page that needs nothing but itself.
fn page(rows: &[Row], done: &MatrixSummary, talk: &[Value]) -> anyhow::Result<String> {
    // Within a script a browser minds end tags and the beginnings of comments: in JSON all of them
    // stand within strings.
    let data = serde_json::to_string(&json!({ "rows": rows, "done": done, "talk": talk }))?
        .replace('<', "\\u003c");
    Ok(include_str!("score/matrix.html").replace("/*DATA*/null", &data))
}

fn memory(out: &MemoryOut, output: &Output) -> anyhow::Result<()> {
    if !out.present {
        return Err(
            NotFound(format!("no memory of the conversation has the key `{}`", out.key)).into()
        );
    }
    if output.json() {
        output.print_json(out);
        return Ok(());
    }
    tell_template(out.chat_template.as_ref(), output);
    let table = out.cells.iter().map(|cell| {
        let tokens: Vec<String> =
            cell.top.iter().flatten().map(|t| format!("{:?} {:+.2}", t.text, t.delta)).collect();
        let delta = format!("{:+.3}", cell.delta);
        let delta = if cell.below_noise { output.paint(&delta, Tone::Faint) } else { delta };
        vec![cell.response.to_string(), delta, format!("{:+.4}", cell.per_token), tokens.join("  ")]
    });
    output.table(&["RESPONSE", "DELTA", "PER TOKEN", "TOKENS"], table.collect());
    output.line(&format!(
        "{}: divergence {:.3} nats over {}; {} forwarded; noise floor {}; {} on {}, {}",
        out.key,
        out.divergence,
        counted(out.responses, "response", "responses"),
        counted(out.tokens_forwarded, "token", "tokens"),
        floor(out.noise_floor),
        out.model,
        out.device,
        duration(out.elapsed_us as f64 / 1e6)
    ));
    Ok(())
}

async fn incremental(socket: &Path, ask: &IncrementalIn, output: &Output) -> anyhow::Result<()> {
    let bar = output.count_bar("scoring", 0);
    let (mut rows, mut seen): (Vec<IncrementalRow>, u64) = (Vec::new(), 0);
    let last: IncrementalOut =
        stream::<method::ScoreIncremental>(socket, ask, |reply: &IncrementalOut| {
            let (done, of) = match reply {
                IncrementalOut::Row(one) => {
                    // A stream that was begun again counts anew.
                    if std::mem::replace(&mut seen, one.done) >= one.done {
                        rows.clear();
                    }
                    rows.push(one.clone());
                    (one.done, one.of)
                }
                IncrementalOut::Done(summary) => (summary.done, summary.of),
                IncrementalOut::Progress(progress) => (progress.done, progress.of),
            };
            bar.set_length(of);
            bar.set_position(done);
        })
        .await?;
    bar.finish_and_clear();
    let IncrementalOut::Done(done) = last else {
        return Err(unfinished(<method::ScoreIncremental as Method>::NAME));
    };
    if output.json() {
        // Its rows are the replies as they came.
        let rows: Vec<IncrementalOut> = rows.into_iter().map(IncrementalOut::Row).collect();
        let mut done = serde_json::to_value(IncrementalOut::Done(done))?;
        done["rows"] = serde_json::to_value(rows)?;
        output.print_json(&done);
        return Ok(());
    }
    let table = rows.iter().map(|IncrementalRow { row, .. }| {
        let error =
            row.error.as_deref().map_or_else(String::new, |error| output.paint(error, Tone::Bad));
        let (largest, weight) =
            (format!("{:.3}", row.max_divergence), format!("{:.3}", row.weight));
        vec![row.key.clone(), largest, weight, row.count.to_string(), error]
    });
    output.table(&["MEMORY", "LARGEST", "WEIGHT", "SCORINGS", "ERROR"], table.collect());
    tell_template(done.chat_template.as_ref(), output);
    output.line(&format!(
        "{} of {} scored, {} scored recently, {} too late in the conversation; {} forwarded; {} on {}, {}",
        done.done,
        counted(done.due, "due memory", "due memories"),
        done.fresh,
        done.late,
        counted(done.tokens_forwarded, "token", "tokens"),
        done.model,
        done.device,
        duration(done.elapsed_us as f64 / 1e6)
    ));
    Ok(())
}

async fn weights(
    socket: &Path,
    namespace: Option<String>,
    all_models: bool,
    reset: Option<Vec<String>>,
    output: &Output,
) -> anyhow::Result<()> {
    let all_models = Some(all_models);
    if let Some(keys) = reset {
        let named = keys.len() as u64;
        let ask = ResetWeightsIn {
            namespace,
            all_models,
            keys: Some(keys).filter(|keys| !keys.is_empty()),
        };
        let out: ResetWeightsOut = get::<method::ResetWeights>(socket, &ask).await?;
        if named > 0 && out.removed == 0 {
            return Err(NotFound(format!(
                "namespace {} has no weights of these keys",
                out.namespace
            ))
            .into());
        }
        if output.json() {
            output.print_json(&out);
        } else {
            let removed = counted(out.removed, "weight", "weights");
            output.line(&format!("{removed} of namespace {} forgotten", out.namespace));
        }
        return Ok(());
    }
    let out: WeightsOut =
        get::<method::Weights>(socket, &WeightsIn { namespace, all_models }).await?;
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    let now_ms = brahman_card::clock::now_ms();
    let row = |weight: &Weight| {
        let model: String = weight.fingerprint.chars().take(8).collect();
        let age = duration(now_ms.saturating_sub(weight.last_scored_ms) as f64 / 1e3);
        vec![
            weight.key.clone(),
            format!("{:.3}", weight.weight),
            weight.count.to_string(),
            format!("{age} ago"),
            model,
        ]
    };
    output.table(
        &["MEMORY", "WEIGHT", "SCORINGS", "LAST", "MODEL"],
        out.weights.iter().map(row).collect(),
    );
    let weights = counted(out.weights.len() as u64, "weight", "weights");
    output.line(&format!("{weights} in namespace {}", out.namespace));
    Ok(())
}

fn finetune(out: &FinetuneOut, output: &Output) {
    if output.json() {
        output.print_json(out);
        return;
    }
    tell_template(out.chat_template.as_ref(), output);
    let table = out.results.iter().map(|r| {
        let delta = format!("{:+.3}", r.delta);
        let delta = if r.below_noise { output.paint(&delta, Tone::Faint) } else { delta };
        vec![
            r.entry.to_string(),
            format!("{:.3}", r.divergence),
            delta,
            format!("{:+.4}", r.per_token),
            r.tokens.to_string(),
        ]
    });
    output.table(&["ENTRY", "DIVERGENCE", "DELTA", "PER TOKEN", "TOKENS"], table.collect());
    output.line(&format!(
        "{} without {}; {} forwarded; noise floor {}; {} on {}, {}",
        counted(out.results.len() as u64, "response", "responses"),
        counted(out.memories, "memory", "memories"),
        counted(out.tokens_forwarded, "token", "tokens"),
        floor(out.noise_floor),
        out.model,
        out.device,
        duration(out.elapsed_us as f64 / 1e6)
    ));
}

#[cfg(test)]
mod tests;
