//! Which memories a model's answers depend on.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::interface::Method;
use brahman_card::interface::score::method;
use brahman_card::interface::score::{
    Conversation, FinetuneIn, FinetuneOut, IncrementalIn, IncrementalOut, IncrementalRow, MatrixIn, MatrixOut, MatrixSummary, MemoryIn,
    MemoryOut, Message, Row,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{absolute, get, is_standard, stdin_text, stream, unfinished};
use crate::failure::BadInput;
use crate::output::{Output, Tone, duration};

/// Maximum number of columns of the heat map; of more responses, neighbours share one.
const COLUMNS_MAX: usize = 64;
/// Maximum number of rows shown; `--json` has all.
const ROWS_MAX: usize = 40;
/// Tokens a cell of the page names.
const PAGE_TOKENS: u64 = 12;

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
    },
    /// Rank the last entries by how much they lose without any memory
    Finetune {
        #[command(flatten)]
        file: Source,
        /// How many entries, from the end
        #[arg(long, default_value_t = 20)]
        count: u64,
    },
}

/// Where the conversation is.
#[derive(Args, Debug)]
pub(crate) struct Source {
    /// JSON file: {"conversation": […]} or {"messages": […]}; - reads standard input
    file: PathBuf,
    /// Calls with a higher priority go first
    #[arg(long, default_value_t = 0)]
    priority: i64,
    /// Do not use stored results of earlier calls
    #[arg(long)]
    fresh: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Matrix {
    #[command(flatten)]
    file: Source,
    /// How many of a cell's tokens to show
    #[arg(long, default_value_t = 0)]
    top: u64,
    /// Screen all memories with a cheap model, and score only the top N with the real one
    #[arg(long, value_name = "N")]
    approximate: Option<u64>,
    /// Also remove these memories together, KEY,KEY…; may be repeated
    #[arg(long, value_name = "KEYS")]
    group: Vec<String>,
    /// Write a page with the matrix as a heat map
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The conversation as a call takes it.
#[derive(Default)]
struct ConversationInput {
    conversation: Option<Conversation>,
    messages: Option<Vec<Message>>,
    path: Option<String>,
}

impl Source {
    fn given(&self) -> anyhow::Result<ConversationInput> {
        if !is_standard(&self.file) {
            return Ok(ConversationInput { path: Some(absolute(&self.file)?), ..ConversationInput::default() });
        }
        let text = stdin_text()?;
        let bad = |e: serde_json::Error| BadInput(format!("standard input is not a conversation: {e}"));
        let value: Value = serde_json::from_str(&text).map_err(bad)?;
        let messages = value.get("messages").cloned().or_else(|| value.is_array().then(|| value.clone()));
        if let Some(messages) = messages {
            return Ok(ConversationInput {
                messages: Some(serde_json::from_value(messages).map_err(bad)?),
                ..ConversationInput::default()
            });
        }
        let inner = value.get("conversation").filter(|inner| inner.is_object()).unwrap_or(&value);
        Ok(ConversationInput { conversation: Some(serde_json::from_value(inner.clone()).map_err(bad)?), ..ConversationInput::default() })
    }
}

pub(crate) async fn score(socket: &Path, command: Score, output: &Output) -> anyhow::Result<()> {
    match command {
        Score::Matrix(matrix) => self::matrix(socket, &matrix, output).await,
        Score::Memory { file, key, window, top } => {
            let ConversationInput { conversation, messages, path } = file.given()?;
            let (priority, fresh) = (Some(file.priority), Some(file.fresh));
            let ask = MemoryIn { conversation, messages, path, template: None, key, window: Some(window), top: Some(top), fresh, priority };
            memory(&get::<method::ScoreMemory>(socket, &ask).await?, output);
            Ok(())
        }
        Score::Incremental { file, max_age, window, limit } => incremental(socket, &file, max_age, window, limit, output).await,
        Score::Finetune { file, count } => {
            let ConversationInput { conversation, messages, path } = file.given()?;
            let (priority, fresh) = (Some(file.priority), Some(file.fresh));
            let ask = FinetuneIn { conversation, messages, path, template: None, count, fresh, priority };
            finetune(&get::<method::ScoreFinetune>(socket, &ask).await?, output);
            Ok(())
        }
    }
}

async fn matrix(socket: &Path, matrix: &Matrix, output: &Output) -> anyhow::Result<()> {
    let ConversationInput { conversation, messages, path } = matrix.file.given()?;
    let groups = matrix.group.iter().map(|group| group.split(',').map(|key| key.trim().to_owned()).collect()).collect();
    let top = if matrix.html.is_some() { matrix.top.max(PAGE_TOKENS) } else { matrix.top };
    let ask = MatrixIn {
        conversation,
        messages,
        path,
        template: None,
        groups: Some(groups),
        top: Some(top),
        approximate: matrix.approximate,
        fresh: Some(matrix.file.fresh),
        priority: Some(matrix.file.priority),
    };
    let bar = output.count_bar("scoring", 0);
    let (mut rows, mut seen): (Vec<Row>, u64) = (Vec::new(), 0);
    let last: MatrixOut = stream::<method::ScoreMatrix>(socket, &ask, |reply: &MatrixOut| {
        let (done, of) = match reply {
            MatrixOut::Row(one) => {
                // A stream that was begun again counts anew.
                if std::mem::replace(&mut seen, one.done) >= one.done {
                    rows.clear();
                }
                rows.push(one.row.clone());
                (one.done, one.of)
            }
            MatrixOut::Done(summary) => (summary.done, summary.of),
            MatrixOut::Progress(progress) => (progress.done, progress.of),
        };
        bar.set_length(of);
        bar.set_position(done);
    })
    .await?;
    bar.finish_and_clear();
    let MatrixOut::Done(done) = last else { return Err(unfinished(<method::ScoreMatrix as Method>::NAME)) };
    if let Some(file) = &matrix.html {
        std::fs::write(file, page(&rows, &done)?).with_context(|| BadInput(format!("cannot write {}", file.display())))?;
        output.note(&format!("wrote {}", file.display()));
    }
    if output.json() {
        output.print_json(&MatrixOut::Done(MatrixSummary { rows: Some(rows), ..done }));
        return Ok(());
    }
    heat_map(&rows, &done, output);
    Ok(())
}

/// Rows by what they lose in all, a shade a response; the strongest shade is the largest divergence.
fn heat_map(rows: &[Row], done: &MatrixSummary, output: &Output) {
    let sum = |row: &Row| row.divergences.iter().sum::<f64>();
    let mut order: Vec<&Row> = rows.iter().collect();
    order.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
    let most = rows.iter().flat_map(|r| &r.divergences).copied().fold(0.0, f64::max);
    let responses = usize::try_from(done.responses).unwrap_or(0);
    let share = responses.div_ceil(COLUMNS_MAX).max(1);
    let table = order.iter().take(ROWS_MAX).map(|row| {
        let strip: String = row.divergences.chunks(share).map(|c| output.shade(c.iter().copied().fold(0.0, f64::max), most)).collect();
        let best = row.divergences.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).filter(|(_, d)| **d > 0.0);
        let best = best.map_or_else(|| "-".to_owned(), |(r, d)| format!("{r} ({d:+.2})"));
        let tokens = row.cells.iter().flat_map(|c| c.top.iter().flatten()).map(|t| (t.delta, t.text.trim()));
        let mut tokens: Vec<_> = tokens.filter(|(_, text)| !text.is_empty()).collect();
        tokens.sort_by(|a, b| b.0.total_cmp(&a.0));
        let tokens: Vec<&str> = tokens.iter().take(6).map(|(_, text)| *text).collect();
        let mark = match (&row.error, row.approximate) {
            (Some(error), _) => output.paint(error, Tone::Bad),
            (None, true) => output.paint("approximate", Tone::Faint),
            (None, false) => tokens.join(" "),
        };
        vec![row.key.clone(), strip, format!("{:.2}", sum(row)), best, mark]
    });
    output.table(&["MEMORY", "RESPONSES", "NATS", "LARGEST AT", ""], table.collect());
    if rows.len() > ROWS_MAX {
        output.note(&format!("{} more rows; --json has all", rows.len() - ROWS_MAX));
    }
    for warning in done.warnings.iter().flatten() {
        output.note(&format!("warning: {warning}"));
    }
    let (forwarded, naive) = (done.tokens_forwarded, done.tokens_naive);
    let share = if naive == 0 { String::new() } else { format!(" ({:.0} % of full passes)", 100.0 * forwarded as f64 / naive as f64) };
    output.line(&format!(
        "{} memories, {responses} responses, {} tokens; {forwarded} forwarded{share}; noise floor {}; {} on {}, {}",
        done.memories,
        done.tokens,
        floor(done.noise_floor),
        done.model,
        done.device,
        duration(done.elapsed_us as f64 / 1e6),
    ));
}

fn floor(nats: f64) -> String {
    if nats == 0.0 { "0".to_owned() } else { format!("{nats:.1e}") }
}

/// A page that needs nothing but itself.
fn page(rows: &[Row], done: &MatrixSummary) -> anyhow::Result<String> {
    // The only way out of a script element is its end tag.
    let data = serde_json::to_string(&json!({ "rows": rows, "done": done }))?.replace("</", "<\\/");
    Ok(include_str!("score/matrix.html").replace("/*DATA*/null", &data))
}

fn memory(out: &MemoryOut, output: &Output) {
    if output.json() {
        output.print_json(out);
        return;
    }
    if !out.present {
        output.line(&format!("{} is not in the conversation", out.key));
        return;
    }
    let table = out.cells.iter().map(|cell| {
        let tokens: Vec<String> = cell.top.iter().flatten().map(|t| format!("{:?} {:+.2}", t.text, t.delta)).collect();
        let delta = format!("{:+.3}", cell.delta);
        let delta = if cell.below_noise { output.paint(&delta, Tone::Faint) } else { delta };
        vec![cell.response.to_string(), delta, format!("{:+.4}", cell.per_token), tokens.join("  ")]
    });
    output.table(&["RESPONSE", "DELTA", "PER TOKEN", "TOKENS"], table.collect());
    output.line(&format!(
        "{}: divergence {:.3} nats over {} responses; {} tokens forwarded; noise floor {}; {} on {}, {}",
        out.key,
        out.divergence,
        out.responses,
        out.tokens_forwarded,
        floor(out.noise_floor),
        out.model,
        out.device,
        duration(out.elapsed_us as f64 / 1e6)
    ));
}

async fn incremental(socket: &Path, file: &Source, max_age: u64, window: u64, limit: Option<u64>, output: &Output) -> anyhow::Result<()> {
    let ConversationInput { conversation, messages, path } = file.given()?;
    let ask = IncrementalIn {
        conversation,
        messages,
        path,
        template: None,
        max_age_s: Some(if file.fresh { 0 } else { max_age }),
        window: Some(window),
        limit,
        priority: Some(file.priority),
    };
    let bar = output.count_bar("scoring", 0);
    let (mut rows, mut seen): (Vec<IncrementalRow>, u64) = (Vec::new(), 0);
    let last: IncrementalOut = stream::<method::ScoreIncremental>(socket, &ask, |reply: &IncrementalOut| {
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
    let IncrementalOut::Done(done) = last else { return Err(unfinished(<method::ScoreIncremental as Method>::NAME)) };
    if output.json() {
        // Its rows are the replies as they came.
        let rows: Vec<IncrementalOut> = rows.into_iter().map(IncrementalOut::Row).collect();
        let mut done = serde_json::to_value(IncrementalOut::Done(done))?;
        done["rows"] = serde_json::to_value(rows)?;
        output.print_json(&done);
        return Ok(());
    }
    let table = rows.iter().map(|IncrementalRow { row, .. }| {
        let error = row.error.as_deref().map_or_else(String::new, |error| output.paint(error, Tone::Bad));
        let (largest, weight) = (format!("{:.3}", row.max_divergence), format!("{:.3}", row.weight));
        vec![row.key.clone(), largest, weight, row.count.to_string(), error]
    });
    output.table(&["MEMORY", "LARGEST", "WEIGHT", "SCORINGS", ""], table.collect());
    output.line(&format!(
        "{} of {} due memories scored, {} scored recently, {} too late in the conversation; {} tokens forwarded; {} on {}, {}",
        done.done,
        done.due,
        done.fresh,
        done.late,
        done.tokens_forwarded,
        done.model,
        done.device,
        duration(done.elapsed_us as f64 / 1e6)
    ));
    Ok(())
}

fn finetune(out: &FinetuneOut, output: &Output) {
    if output.json() {
        output.print_json(out);
        return;
    }
    let table = out.results.iter().map(|r| {
        let delta = format!("{:+.3}", r.delta);
        let delta = if r.below_noise { output.paint(&delta, Tone::Faint) } else { delta };
        vec![r.entry.to_string(), format!("{:.3}", r.divergence), delta, format!("{:+.4}", r.per_token), r.tokens.to_string()]
    });
    output.table(&["ENTRY", "DIVERGENCE", "DELTA", "PER TOKEN", "TOKENS"], table.collect());
    output.line(&format!(
        "{} responses without {} memories; {} tokens forwarded; noise floor {}; {} on {}, {}",
        out.results.len(),
        out.memories,
        out.tokens_forwarded,
        floor(out.noise_floor),
        out.model,
        out.device,
        duration(out.elapsed_us as f64 / 1e6)
    ));
}
