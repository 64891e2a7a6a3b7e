//! `brahman rerank`: files and lines in the order in which they answer a query.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brahman_card::interface::rerank::{RerankIn, RerankOut, method};
use brahman_sidecar::CallOptions;
use clap::Args;
use serde::Serialize;

use super::{ask, is_standard, stdin_text};
use crate::failure::BadInput;
use crate::output::{Output, Tone, counted, shortened};

/// Widest beginning of a text that is shown.
const TEXT_COLUMNS: usize = 160;
/// Bytes of a file that are read: far more than any window holds.
const FILE_BYTES_SEEN: u64 = 256 * 1024;
/// Bytes of texts in the one call that compares them all: below what a message holds, escapes
/// counted.
const BYTES_MAX: usize = 12 << 20;

#[derive(Args, Debug)]
pub(crate) struct Rerank {
    /// What the texts are to answer
    query: String,
    /// Files, a text each; - reads texts from standard input, one per line [default: -]
    files: Vec<PathBuf>,
    /// Print only the best N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top_n: Option<u64>,
    /// Refuse texts that are longer than the model's window instead of cutting them
    #[arg(long)]
    no_truncate: bool,
    /// Model that must rerank
    #[arg(long)]
    model: Option<String>,
    /// Context for this call only
    #[arg(long)]
    context: Option<String>,
}

/// A text and where it is from: a file, or a line of standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceText {
    name: String,
    text: String,
}

/// The reply, with where each result is from.
#[derive(Serialize)]
struct NamedReply<'a> {
    #[serde(flatten)]
    out: &'a RerankOut,
    /// Of the results, in their order.
    sources: Vec<&'a str>,
}

pub(crate) async fn rerank(socket: &Path, rerank: Rerank, output: &Output) -> anyhow::Result<()> {
    if rerank.query.trim().is_empty() {
        return Err(BadInput("the query is empty: expected at least a word".to_owned()).into());
    }
    let files =
        if rerank.files.is_empty() { vec![PathBuf::from(super::STANDARD)] } else { rerank.files };
    let sources = sources(&files, output)?;
    if sources.is_empty() {
        return Err(BadInput(
            "nothing to order: expected FILE…, or texts on standard input, one per line".to_owned(),
        )
        .into());
    }
    let bytes = sources.iter().map(|source| source.text.len()).sum::<usize>();
    if bytes > BYTES_MAX {
        return Err(BadInput(format!(
            "{bytes} bytes of texts, expected at most {BYTES_MAX}: order fewer of them at once"
        ))
        .into());
    }
    let require = rerank.model.iter().map(|model| ("model".to_owned(), model.clone())).collect();
    let options = CallOptions { context: rerank.context, require, ..CallOptions::default() };
    let parameters = RerankIn {
        query: rerank.query,
        texts: sources.iter().map(|source| source.text.clone()).collect(),
        top_n: rerank.top_n,
        truncate: rerank.no_truncate.then_some(false),
        partial: None,
    };
    let (out, provider) = ask::<method::Rerank>(socket, &parameters, &options).await?;
    if output.json() {
        let named = |index: u64| place(&sources, index).map_or("", |source| source.name.as_str());
        output.print_json(&NamedReply {
            sources: out.results.iter().map(|one| named(one.index)).collect(),
            out: &out,
        });
    } else {
        show(output, &sources, &out, provider.as_deref());
    }
    Ok(())
}

/// The texts of files and of standard input, in order. Empty lines are left out; of a long file the
/// beginning is taken, and that is said.
fn sources(files: &[PathBuf], output: &Output) -> anyhow::Result<Vec<SourceText>> {
    let mut sources = Vec::new();
    for file in files {
        if is_standard(file) {
            let lines = stdin_text()?;
            let lines = lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            sources.extend(lines.map(|(at, line)| SourceText {
                name: format!("line {}", at + 1),
                text: line.to_owned(),
            }));
            continue;
        }
        let (text, is_cut) = beginning(file)?;
        if is_cut {
            output.note(&format!(
                "{}: only the first {FILE_BYTES_SEEN} bytes were read",
                file.display()
            ));
        }
        if text.trim().is_empty() {
            let why = "it is empty, expected a text with at least a word";
            return Err(BadInput(format!("{}: {why}", file.display())).into());
        }
        sources.push(SourceText { name: file.display().to_string(), text });
    }
    Ok(sources)
}

/// The beginning of a file as text, and whether there is more.
fn beginning(file: &Path) -> anyhow::Result<(String, bool)> {
    let unreadable = || BadInput(format!("cannot read {}", file.display()));
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let meta = std::fs::metadata(file).with_context(unreadable)?;
    if !meta.is_file() {
        return Err(
            BadInput(format!("{}: not a regular file, expected a text", file.display())).into()
        );
    }
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_SEEN + 1).read_to_end(&mut bytes))
        .with_context(unreadable)?;
    let is_cut = bytes.len() as u64 > FILE_BYTES_SEEN;
    if is_cut {
        bytes.pop();
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((text, is_cut)),
        // A character that was cut in two at the end.
        Err(error) if is_cut && error.utf8_error().error_len().is_none() => {
            let end = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(end);
            Ok((String::from_utf8_lossy(&bytes).into_owned(), true))
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(BadInput(format!("{} is not UTF-8 at byte {at}: expected a text", file.display()))
                .into())
        }
    }
}

fn place(sources: &[SourceText], index: u64) -> Option<&SourceText> {
    sources.get(usize::try_from(index).ok()?)
}

fn show(output: &Output, sources: &[SourceText], out: &RerankOut, provider: Option<&str>) {
    for one in &out.results {
        let Some(source) = place(sources, one.index) else { continue };
        output.line(&format!("{:.3}  {}", one.score, output.paint(&source.name, Tone::Strong)));
        let text = source.text.split_whitespace().collect::<Vec<_>>().join(" ");
        output.line(&format!(
            "       {}",
            output.paint(&shortened(&text, TEXT_COLUMNS), Tone::Faint)
        ));
    }
    output.line(&output.paint(
        &format!(
            "{} of {}, {}, by {} on {}, {}, {:.1} ms",
            out.results.len(),
            counted(sources.len() as u64, "text", "texts"),
            out.model,
            provider.unwrap_or("?"),
            out.device,
            counted(out.tokens, "token", "tokens"),
            out.elapsed_us as f64 / 1e3
        ),
        Tone::Faint,
    ));
    for cut in &out.truncated {
        let name = place(sources, cut.index).map_or("?", |source| source.name.as_str());
        let least = if cut.at_least == Some(true) { "at least " } else { "" };
        let query = if cut.query == Some(true) { ", the query cut as well" } else { "" };
        output.note(&format!(
            "{name}: {} of {least}{} tokens were read together with the query{query}",
            cut.kept, cut.tokens
        ));
    }
    for warning in out.warnings.iter().flatten() {
        output.note(&format!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::rerank::{PairTruncation, RankedText};

    use super::*;

    #[test]
    fn results_are_printed_for_people() {
        let source =
            |name: &str, text: &str| SourceText { name: name.to_owned(), text: text.to_owned() };
        let sources = [
            source("a.md", "Bread   and\nwater."),
            source("backups.md", "We keep backups for ninety days."),
        ];
        let out = RerankOut {
            results: vec![
                RankedText { index: 1, score: 0.97 },
                RankedText { index: 0, score: 0.01 },
            ],
            model: "ms-marco".into(),
            device: "cpu".into(),
            tokens: 31,
            elapsed_us: 8100,
            truncated: vec![PairTruncation {
                index: 0,
                tokens: 600,
                kept: 512,
                query: None,
                at_least: None,
            }],
            ..RerankOut::default()
        };
        let output = Output::kept();
        show(&output, &sources, &out, Some("rerank-real"));
        let expected = "0.970  backups.md\n       We keep backups for ninety days.\n0.010  a.md\n       Bread and water.\n\
                        2 of 2 texts, ms-marco, by rerank-real on cpu, 31 tokens, 8.1 ms\n";
        assert_eq!(output.printed(), expected);
    }

    #[test]
    fn of_a_long_file_the_beginning_is_read_whole_characters_only() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, bytes: &[u8]| {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).expect("written");
            file
        };
        let long = "ü".repeat(FILE_BYTES_SEEN as usize);
        let (text, is_cut) =
            beginning(&write("long", format!("x{long}").as_bytes())).expect("a text");
        assert!(
            is_cut && text.len() as u64 == FILE_BYTES_SEEN - 1 && text.ends_with('ü'),
            "{}",
            text.len()
        );
        assert_eq!(
            beginning(&write("short", b"a text")).expect("a text"),
            ("a text".to_owned(), false)
        );
        let binary = beginning(&write("binary", &[0, 0xff, 0xfe])).expect_err("no text");
        assert!(binary.to_string().contains("not UTF-8 at byte 1"), "{binary}");
        assert!(
            beginning(folder.path()).is_err() && beginning(&folder.path().join("none")).is_err()
        );
    }
}
