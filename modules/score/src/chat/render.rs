//! A chat template run over messages: Jinja as `transformers` sets it up, with bounded steps, depth
//! and output.
//!
//! Invariants: a template reads nothing but what it is given, and includes nothing; a panic of the
//! interpreter is an error of that run. What a template makes on the way to its output (a text that
//! is doubled, a product) is bounded by nothing here, and constants are worked out while it is
//! compiled: the process that this runs in is bounded, by [`super::apart`].

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brahman_sidecar::chain;
use minijinja::{Environment, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::python;

/// Steps of one run: two hundred for each entry of the longest conversation, in about a second.
pub(super) const STEPS_MAX: u64 = 16_000_000;
/// Bytes of the text that a template may make: as many as a conversation's file.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 20;
/// How deep a template may call itself.
const DEPTH_MAX: usize = 200;
/// The name under which a template is compiled.
const NAME: &str = "chat";
/// Longest word of a template's own that an error tells.
const SHOWN_CHARS: usize = 300;

/// What a run is made of, beside the messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// The template.
    pub(super) text: String,
    /// What it is given beside the messages.
    pub(super) variables: Map<String, Value>,
    /// What `strftime_now` tells, in seconds of Unix time.
    pub(super) now_s: i64,
}

/// What came of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rendering {
    pub(super) outcome: Result<String, RenderFailure>,
    /// Whether the template has asked for the time.
    pub(super) asked_for_time: bool,
}

/// Why a template gave no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RenderFailure {
    /// It is no template.
    Syntax {
        line: Option<usize>,
        why: String,
    },
    /// What `raise_exception` was called with.
    Refusal {
        message: String,
    },
    TooManySteps,
    TooMuchText,
    Failed {
        line: Option<usize>,
        why: String,
    },
}

/// What `raise_exception` was called with.
#[derive(Debug, Error)]
#[error("{0}")]
struct RaisedMessage(String);

/// Bytes up to a bound.
struct BoundedWriter(Vec<u8>);

impl Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text that a template makes of messages.
pub(super) fn run(recipe: &Recipe, messages: Vec<Value>) -> Rendering {
    let asked = Arc::new(AtomicBool::new(false));
    let outcome = catch_unwind(AssertUnwindSafe(|| text(recipe, messages, &asked)));
    let panicked = |_| {
        Err(RenderFailure::Failed {
            line: None,
            why: "the interpreter panicked; the log has more".to_owned(),
        })
    };
    Rendering {
        outcome: outcome.unwrap_or_else(panicked),
        asked_for_time: asked.load(Ordering::Relaxed),
    }
}

fn text(
    recipe: &Recipe,
    messages: Vec<Value>,
    asked: &Arc<AtomicBool>,
) -> Result<String, RenderFailure> {
    let mut environment = environment(recipe.now_s, asked);
    let compiled = environment.add_template_owned(NAME, without_generation_marks(&recipe.text));
    compiled.map_err(|error| RenderFailure::Syntax { line: error.line(), why: chain(&error) })?;
    let mut context = recipe.variables.clone();
    context.insert("messages".to_owned(), Value::Array(messages));
    let mut text = BoundedWriter(Vec::new());
    let rendered = environment
        .get_template(NAME)
        .and_then(|template| template.render_captured_to(context, &mut text).map(drop));
    rendered.map_err(|error| failure(&error))?;
    // A template writes strings.
    Ok(String::from_utf8_lossy(&text.0).into_owned())
}

fn failure(error: &minijinja::Error) -> RenderFailure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(RaisedMessage(message)) = one.downcast_ref() {
            return RenderFailure::Refusal { message: message.chars().take(SHOWN_CHARS).collect() };
        }
        if one
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
        {
            return RenderFailure::TooMuchText;
        }
        cause = one.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => RenderFailure::TooManySteps,
        _ => RenderFailure::Failed { line: error.line(), why: chain(error) },
    }
}

/// Jinja as `transformers` sets it up, and bounded.
fn environment(now_s: i64, asked_for_time: &Arc<AtomicBool>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(STEPS_MAX));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_formatter(python::print);
    environment.set_unknown_method_callback(python::method);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::string);
    environment.add_test("sequence", python::is_sequence);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
                .with_source(RaisedMessage(message)))
        },
    );
    let asked = Arc::clone(asked_for_time);
    environment.add_function(
        "strftime_now",
        move |format: String| -> Result<String, minijinja::Error> {
            asked.store(true, Ordering::Relaxed);
            let unfit = || {
                minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: `{format}` is no format"),
                )
            };
            let mut text = String::new();
            let now = chrono::DateTime::from_timestamp(now_s, 0).ok_or_else(unfit)?;
            // `to_string` would panic on what is no format.
            std::fmt::Write::write_fmt(&mut text, format_args!("{}", now.format(&format)))
                .map_err(|_| unfit())?;
            Ok(text)
        },
    );
    environment
}

/// A template without `{% generation %}`, by which `transformers` marks what the assistant says:
/// the block stays, and its effect on the blanks around it.
fn without_generation_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}") else { break };
        let tag = &rest[open + 2..open + close];
        let word = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        out.push_str(&rest[..open + 2]);
        match word.trim() {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[open + close + 2..];
    }
    out.push_str(rest);
    out
}
