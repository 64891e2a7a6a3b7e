//! `brahman score matrix`: which memory each answer depends on, as a table, a file or a page.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::interface::Method;
use brahman_card::interface::score::{MatrixIn, MatrixOut, MatrixSummary, Row, method};
use clap::Args;

use super::super::{stream, unfinished};
use super::{ConversationInput, PAGE_TOKENS, Source, page, spoken, talk, tell_template};
use crate::failure::BadInput;
use crate::output::{Output, Tone, counted, duration};

/// Maximum number of columns of the heat map; of more responses, neighbours share one.
const COLUMNS_MAX: usize = 64;
/// Maximum number of rows shown; `--json` has all.
const ROWS_MAX: usize = 40;

#[derive(Args, Debug)]
pub(crate) struct Matrix {
    #[command(flatten)]
    pub(super) file: Source,
    /// How many of a cell's tokens to show
    #[arg(long, default_value_t = 0)]
    pub(super) top: u64,
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

pub(super) async fn matrix(socket: &Path, matrix: &Matrix, output: &Output) -> anyhow::Result<()> {
    let ConversationInput { conversation, path, line, chat_template } = matrix.file.given()?;
    // The page shows the conversation beside the figures.
    let talk = match (&matrix.html, &conversation, &path) {
        (None, _, _) => Vec::new(),
        (Some(_), Some(conversation), _) => talk(conversation),
        (Some(_), None, path) => talk(&spoken(path.as_deref().unwrap_or_default(), line)?),
    };
    let groups = matrix
        .group
        .iter()
        .map(|group| group.split(',').map(|key| key.trim().to_owned()).collect())
        .collect();
    let top = if matrix.html.is_some() { matrix.top.max(PAGE_TOKENS) } else { matrix.top };
    let ask = MatrixIn {
        conversation,
        path,
        line,
        chat_template,
        groups: Some(groups),
        top: Some(top),
        approximate: matrix.approximate,
        fresh: Some(matrix.file.fresh),
        priority: matrix.file.priority,
        ..MatrixIn::default()
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
    let MatrixOut::Done(done) = last else {
        return Err(unfinished(<method::ScoreMatrix as Method>::NAME));
    };
    if let Some(file) = &matrix.html {
        std::fs::write(file, page(&rows, &done, &talk)?)
            .with_context(|| BadInput(format!("cannot write {}", file.display())))?;
        output.note(&format!("wrote {}", file.display()));
    }
    if output.json() {
        output.print_json(&MatrixOut::Done(MatrixSummary { rows: Some(rows), ..done }));
        return Ok(());
    }
    heat_map(&rows, &done, output);
    Ok(())
}

/// Rows by what they lose in all, a shade a response; the strongest shade is the largest
/// divergence.
pub(super) fn heat_map(rows: &[Row], done: &MatrixSummary, output: &Output) {
    let sum = |row: &Row| row.divergences.iter().sum::<f64>();
    let mut order: Vec<&Row> = rows.iter().collect();
    order.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
    let most = rows.iter().flat_map(|r| &r.divergences).copied().fold(0.0, f64::max);
    let responses = usize::try_from(done.responses).unwrap_or(0);
    let share = responses.div_ceil(COLUMNS_MAX).max(1);
    let table = order.iter().take(ROWS_MAX).map(|row| {
        let strip: String = row
            .divergences
            .chunks(share)
            .map(|c| output.shade(c.iter().copied().fold(0.0, f64::max), most))
            .collect();
        let best = row
            .divergences
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .filter(|(_, d)| **d > 0.0);
        let best = best.map_or_else(|| "-".to_owned(), |(r, d)| format!("{r} ({d:+.2})"));
        let tokens =
            row.cells.iter().flat_map(|c| c.top.iter().flatten()).map(|t| (t.delta, t.text.trim()));
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
    // Without --html or --top none were asked for.
    let has_tokens = rows
        .iter()
        .flat_map(|row| &row.cells)
        .any(|cell| cell.top.as_ref().is_some_and(|top| !top.is_empty()));
    output.table(
        &["MEMORY", "RESPONSES", "NATS", "LARGEST AT", if has_tokens { "TOKENS" } else { "" }],
        table.collect(),
    );
    if rows.len() > ROWS_MAX {
        let more = counted((rows.len() - ROWS_MAX) as u64, "more row", "more rows");
        output.note(&format!("{more}; --json has all"));
    }
    for warning in done.warnings.iter().flatten() {
        output.note(&format!("warning: {warning}"));
    }
    tell_template(done.chat_template.as_ref(), output);
    let (forwarded, naive) = (done.tokens_forwarded, done.tokens_naive);
    let share = if naive == 0 {
        String::new()
    } else {
        format!(" ({:.0} % of full passes)", 100.0 * forwarded as f64 / naive as f64)
    };
    output.line(&format!(
        "{}, {}, {}; {forwarded} forwarded{share}; noise floor {}; {} on {}, {}",
        counted(done.memories, "memory", "memories"),
        counted(done.responses, "response", "responses"),
        counted(done.tokens, "token", "tokens"),
        floor(done.noise_floor),
        done.model,
        done.device,
        duration(done.elapsed_us as f64 / 1e6),
    ));
}

pub(super) fn floor(nats: f64) -> String {
    if nats == 0.0 { "0".to_owned() } else { format!("{nats:.1e}") }
}
