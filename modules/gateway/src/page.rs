//! The page at `/`, and its views below `/page/`: the mesh as it is, search with hits in place,
//! datasets with columns and history, an index's trials as a plot, a score matrix as a heat map.
//! Each is made here, as a whole, of links and forms; a script adds the key and what changes by
//! itself.
//!
//! Invariants: nothing on it comes from elsewhere; the one script and the one style that count are
//! those that were built in, by their hashes, so that no file's name, no text and no message can
//! run, whatever is in it; whatever is not ours is escaped, by the templates' ending; a page is
//! bounded, and says what it leaves out.

mod datasets;
mod form;
mod heat;
mod hits;
mod plot;
mod talk;

use std::sync::LazyLock;

use brahman_card::interface::broker;
use brahman_card::interface::index::{
    self, BestIn, BestOut, SearchIn, SearchOut, TrialRecord, TrialsOut,
};
use brahman_card::interface::score::{self, MatrixIn, MatrixOut, MatrixSummary};
use brahman_card::wire::base64;
use brahman_card::{Fault, counted};
use brahman_storage::digest::sha256;
use chrono::DateTime;
use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use minijinja::{Environment, Value, context};
use serde::Serialize;

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::calls::accepts;
use crate::mesh::Mesh;
use crate::refusal::Refusal;
use datasets::{dataset, datasets};
use form::Form;
use heat::Heat;
use hits::ShownHit;

const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/page.css");
/// What a view is made of. Their ending has whatever is put into them escaped.
const TEMPLATES: [(&str, &str); 9] = [
    ("layout.html", include_str!("page/layout.html")),
    ("modules.html", include_str!("page/modules.html")),
    ("search.html", include_str!("page/search.html")),
    ("datasets.html", include_str!("page/datasets.html")),
    ("dataset.html", include_str!("page/dataset.html")),
    ("indexes.html", include_str!("page/indexes.html")),
    ("trials.html", include_str!("page/trials.html")),
    ("score.html", include_str!("page/score.html")),
    ("error.html", include_str!("page/error.html")),
];
/// Hits that a search shows.
const HITS: u64 = 10;
/// Lines of a table: more than anybody reads, and few enough for a browser.
const LINES_MAX: usize = 500;
/// Ways to search.
const MODES: [&str; 3] = ["hybrid", "semantic", "lexical"];

/// What every view has, and what a browser may load and run for it.
struct Frame {
    templates: Environment<'static>,
    style: String,
    policy: String,
}

static FRAME: LazyLock<Frame> = LazyLock::new(|| {
    let mut templates = Environment::new();
    for (name, text) in TEMPLATES {
        templates.add_template(name, text).expect("a template of ours is one");
    }
    templates.add_filter("bytes", bytes);
    templates.add_filter("counted", counted_words);
    templates.add_filter("date", date);
    templates.add_filter("decimal", decimal);
    templates.add_filter("thousands", thousands);
    templates.add_filter("urlpart", urlpart);
    templates.add_filter("us", us);
    let style = format!("{STYLE}{}", heat::style());
    let hash = |text: &str| base64::encode(&sha256(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; connect-src 'self'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
        hash(&style),
        hash(SCRIPT)
    );
    Frame { templates, style, policy }
});

/// A view, made of what is put into its template.
fn render(status: StatusCode, template: &str, here: &str, view: Value) -> Answer {
    let frame = &*FRAME;
    let whole = context! { here, style => frame.style, script => SCRIPT, ..view };
    match frame.templates.get_template(template).and_then(|template| template.render(whole)) {
        Ok(html) => {
            let mut answer = answer::bytes(status, "text/html; charset=utf-8", html);
            answer::set(&mut answer, "content-security-policy", &frame.policy);
            // A form that is sent by POST says where it comes from only if links within this origin
            // do.
            answer::set(&mut answer, "referrer-policy", "same-origin");
            answer::set(&mut answer, "cache-control", "no-store");
            answer
        }
        Err(error) => {
            tracing::error!(%error, template, "a view cannot be made");
            answer::bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                "this view cannot be made: the log says why\n",
            )
        }
    }
}

/// A view that says why there is nothing in it.
fn refused(refusal: &Refusal, template: &str, here: &str, view: Value) -> Answer {
    render(refusal.status, template, here, context! { refusal => refusal.fault.message(), ..view })
}

/// Whether whoever asks is a browser that shows what it gets.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepts(accept, "text/html")
}

/// What a browser gets in the place of an error in JSON: the same, as a view of its own.
pub(crate) fn error(refusal: &Refusal, told: &Answer) -> Answer {
    let (template, view) = ("error.html", context! { refusal => refusal.fault.message() });
    let mut answer = render(told.status(), template, "", view);
    for (name, value) in
        told.headers().iter().filter(|(name, _)| name.as_str() != CONTENT_TYPE.as_str())
    {
        answer.headers_mut().insert(name.clone(), value.clone());
    }
    answer
}

/// `GET /`: the modules for a browser, a word for whoever asks whether somebody is there.
pub(crate) async fn home(mesh: &Mesh, caller: &Caller, headers: &HeaderMap) -> Answer {
    if !wants_html(headers) {
        return answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", "Brahman is running\n");
    }
    match mesh.ask::<broker::method::Status>(caller, &Default::default(), Default::default()).await
    {
        Ok(told) => render(StatusCode::OK, "modules.html", "/", context! { status => told.value }),
        // Here the key is given: without one it is shown all the same.
        Err(refusal) => render(
            StatusCode::OK,
            "modules.html",
            "/",
            context! { refusal => refusal.fault.message() },
        ),
    }
}

/// `GET /page/{view}`.
///
/// # Errors
/// 404 for a view that there is not, 400 for a field that no form has. What the mesh refuses is
/// told in the view.
pub(crate) async fn view(
    mesh: &Mesh,
    caller: &Caller,
    name: &str,
    query: &str,
) -> Result<Answer, Refusal> {
    let form = Form::read(query)?;
    Ok(match (name, form.word("name")) {
        ("search", _) => search(mesh, caller, &form).await,
        ("datasets", None) => datasets(mesh, caller).await,
        ("datasets", Some(name)) => dataset(mesh, caller, name).await,
        ("indexes", None) => indexes(mesh, caller).await,
        ("indexes", Some(name)) => trials(mesh, caller, name).await,
        ("score", _) => {
            render(StatusCode::OK, "score.html", "/page/score", context! { talk => talk::EXAMPLE })
        }
        _ => {
            return Err(Refusal::absent(
                "there is no such view: search, datasets, indexes and score are",
            ));
        }
    })
}

/// What was asked of a search.
#[derive(Debug, Serialize)]
struct SearchAsk<'a> {
    index: &'a str,
    text: &'a str,
    mode: &'a str,
}

async fn search(mesh: &Mesh, caller: &Caller, form: &Form) -> Answer {
    let (template, here) = ("search.html", "/page/search");
    let word = |name: &str| form.word(name).unwrap_or_default();
    let known = match form.word("mode") {
        None => Some(MODES[0]),
        Some(word) => MODES.into_iter().find(|mode| *mode == word),
    };
    let mode = known.unwrap_or(MODES[0]);
    let ask = SearchAsk { index: word("index"), text: word("text"), mode };
    let listed =
        mesh.ask::<index::method::List>(caller, &Default::default(), Default::default()).await;
    let indexes: Vec<String> = match listed {
        Ok(told) => told.value.indexes.into_iter().map(|index| index.name).collect(),
        Err(refusal) => return refused(&refusal, template, here, context! { ask }),
    };
    if known.is_none() {
        let expected = format!("`{}`, expected {}", word("mode"), MODES.join(", "));
        let refusal = Refusal::parameter("mode", expected);
        return refused(&refusal, template, here, context! { ask, indexes });
    }
    if ask.text.is_empty() || ask.index.is_empty() {
        return render(StatusCode::OK, template, here, context! { ask, indexes });
    }
    let wanted = SearchIn {
        index: ask.index.to_owned(),
        text: Some(ask.text.to_owned()),
        mode: Some(ask.mode.to_owned()),
        k: Some(HITS),
        passages: Some(true),
        ..SearchIn::default()
    };
    match mesh.ask::<index::method::Search>(caller, &wanted, Default::default()).await {
        Ok(told) => {
            let mut found = told.value;
            let lists = std::mem::take(&mut found.results);
            let hits: Vec<ShownHit<'_>> = lists.iter().flatten().map(ShownHit::of).collect();
            render(
                StatusCode::OK,
                template,
                here,
                context! { ask, indexes, hits, notes => search_notes(&found), found },
            )
        }
        Err(refusal) => refused(&refusal, template, here, context! { ask, indexes }),
    }
}

/// What of an answer is not as it should be.
fn search_notes(found: &SearchOut) -> Vec<String> {
    let quoted = |parts: &[String]| {
        parts.iter().map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(" and ")
    };
    let partial = || match (found.read, found.to_read) {
        (Some(read), Some(of)) => format!("partial: {read} of {of} documents are read"),
        _ => format!(
            "partial: {} of {} chunks are embedded",
            found.embedded.unwrap_or(0),
            found.to_embed.unwrap_or(0)
        ),
    };
    let notes = [
        found.stale.then(|| "stale: the dataset has changed since".to_owned()),
        (found.dataset_gone == Some(true)).then(|| {
            "the dataset was deleted or renamed: nothing refreshes the index any more".to_owned()
        }),
        found.degraded.as_ref().map(|why| format!("damaged: {why}")),
        found.rescue.then(|| {
            "files of the index were damaged or gone, and came back from bucket rescue".to_owned()
        }),
        (found.partial == Some(true)).then(partial),
        (found.truncated == Some(true)).then(|| {
            "the query was longer than the model's window: only its beginning was embedded"
                .to_owned()
        }),
        found.words_left_out.map(|words| {
            counted(
                words,
                "word at the end of the query does not count",
                "words at the end of the query do not count",
            )
        }),
        found.phrases.as_ref().map(|phrases| format!("every hit has {}", quoted(phrases))),
        found.without.as_ref().map(|without| format!("no hit has {}", quoted(without))),
        (found.mock == Some(true)).then(|| "the vectors are synthetic, made by a mock".to_owned()),
    ];
    notes.into_iter().flatten().collect()
}

async fn indexes(mesh: &Mesh, caller: &Caller) -> Answer {
    let (template, here) = ("indexes.html", "/page/indexes");
    match mesh.ask::<index::method::List>(caller, &Default::default(), Default::default()).await {
        Ok(told) => {
            let mut indexes = told.value.indexes;
            let left_out = indexes.len().saturating_sub(LINES_MAX);
            indexes.truncate(LINES_MAX);
            render(StatusCode::OK, template, here, context! { indexes, left_out })
        }
        Err(refusal) => refused(&refusal, template, here, context! {}),
    }
}

/// A trial in the list.
#[derive(Debug, Serialize)]
struct TrialLine<'a> {
    label: String,
    is_best: bool,
    is_live: bool,
    engine: &'a str,
    recall: f64,
    low: f64,
    high: f64,
    p50_us: f64,
    p95_us: f64,
    memory_bytes: u64,
    queries: u64,
    by: &'a str,
    at_ms: u64,
    otherness: Option<&'static str>,
}

impl<'a> TrialLine<'a> {
    fn of(trial: &'a TrialRecord, out: &TrialsOut, best: Option<&str>) -> Self {
        Self {
            label: plot::label(&trial.config),
            is_best: best == Some(trial.id.as_str()),
            is_live: out.live.as_ref().is_some_and(|live| plot::is_same(live, &trial.config)),
            engine: trial.config.engine.as_deref().unwrap_or_default(),
            recall: trial.metrics.recall_at_k,
            low: trial.metrics.recall_low,
            high: trial.metrics.recall_high,
            p50_us: trial.metrics.p50_us,
            p95_us: trial.metrics.p95_us,
            memory_bytes: trial.metrics.memory_bytes,
            queries: trial.metrics.eval_queries,
            by: &trial.by,
            at_ms: trial.at_ms,
            otherness: otherness(out, trial),
        }
    }
}

async fn trials(mesh: &Mesh, caller: &Caller, name: &str) -> Answer {
    let (template, here) = ("trials.html", "/page/indexes");
    let ask = index::NameIn { name: name.to_owned() };
    let out: TrialsOut =
        match mesh.ask::<index::method::Trials>(caller, &ask, Default::default()).await {
            Ok(told) => told.value,
            Err(refusal) => return refused(&refusal, template, here, context! { name }),
        };
    let ask = BestIn { name: name.to_owned(), ..BestIn::default() };
    let mut notes: Vec<String> = out.shortfall.iter().cloned().collect();
    let best = match mesh.ask::<index::method::Best>(caller, &ask, Default::default()).await {
        Ok(told) => told.value,
        Err(refusal) => {
            notes.push(format!("which is the best cannot be told: {}", refusal.fault.message()));
            BestOut::default()
        }
    };
    let best_id = best.trial.as_ref().map(|trial| trial.id.as_str());
    let same: Vec<&TrialRecord> =
        out.trials.iter().filter(|trial| otherness(&out, trial).is_none()).collect();
    // The newest: a plot of thousands says nothing.
    let plot =
        plot::plot(&same[same.len().saturating_sub(LINES_MAX)..], best_id, out.live.as_ref());
    let live = match &out.live {
        None => "what answers now: nothing does yet".to_owned(),
        Some(live) if plot.as_ref().is_some_and(plot::Plot::has_live) => {
            format!("what answers now: {}", plot::label(live))
        }
        Some(live) => format!(
            "what answers now, {}, was not measured on these queries: the next trial does so",
            plot::label(live)
        ),
    };
    if plot.is_none() && !out.trials.is_empty() {
        notes.push(
            "no trial is on the data and the queries of now; `brahman index autotune` makes some"
                .to_owned(),
        );
    }
    if out.trials.len() > LINES_MAX {
        notes.push(format!(
            "{} older trials are not listed; `brahman index trials --json` has all",
            out.trials.len() - LINES_MAX
        ));
    }
    let lines: Vec<TrialLine<'_>> = out
        .trials
        .iter()
        .rev()
        .take(LINES_MAX)
        .map(|trial| TrialLine::of(trial, &out, best_id))
        .collect();
    render(
        StatusCode::OK,
        template,
        here,
        context! { name, plot, notes, live, by => chosen_by(&best), trials => lines },
    )
}

/// Why a trial is not compared with what is measured now, if it is not.
fn otherness(out: &TrialsOut, trial: &TrialRecord) -> Option<&'static str> {
    let is_known = out.known_as.iter().flatten().any(|name| *name == trial.fingerprint);
    if out.unknown_data.iter().flatten().any(|id| *id == trial.id) {
        Some("data unknown: of an earlier version")
    } else if out.fingerprint.as_ref() != Some(&trial.fingerprint) && !is_known {
        Some("other data")
    } else if out.eval.as_ref() != Some(&trial.eval) {
        Some("other queries")
    } else {
        None
    }
}

/// By what the best was chosen, in words.
fn chosen_by(best: &BestOut) -> String {
    match (best.by.as_deref(), best.target_recall) {
        (Some("target"), Some(target)) => format!("target recall {target}"),
        (by, _) => by.unwrap_or("pareto").to_owned(),
    }
}

/// `POST /page/matrix`: a conversation from the form, scored.
///
/// # Errors
/// 400 for a body that is no form's. What the mesh refuses is told in the view.
pub(crate) async fn matrix(mesh: &Mesh, caller: &Caller, body: &[u8]) -> Result<Answer, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Refusal::parameter("(body)", "expected a form's fields"))?;
    let form = Form::read(text)?;
    let talk = form.word("talk").unwrap_or_default();
    let (template, here) = ("score.html", "/page/score");
    Ok(match scored(mesh, caller, talk).await {
        Ok(done) => {
            let heat = Heat::of(&done);
            let mut notes: Vec<String> = done.warnings.iter().flatten().cloned().collect();
            notes.extend(
                done.chat_template.iter().flat_map(|used| used.notes.iter().flatten()).cloned(),
            );
            if done.mock {
                notes.push("the figures are synthetic, made by a mock".to_owned());
            }
            // Shown already, in other words.
            let summary = MatrixSummary { rows: None, scored: Vec::new(), ..done.clone() };
            render(
                StatusCode::OK,
                template,
                here,
                context! { talk, notes, done => summary, ..Value::from_serialize(&heat) },
            )
        }
        Err(refusal) => refused(&refusal, template, here, context! { talk }),
    })
}

async fn scored(mesh: &Mesh, caller: &Caller, talk: &str) -> Result<MatrixSummary, Refusal> {
    let ask = MatrixIn {
        conversation: Some(talk::read(talk)?),
        top: Some(heat::TOKENS),
        ..MatrixIn::default()
    };
    match mesh.ask::<score::method::ScoreMatrix>(caller, &ask, Default::default()).await?.value {
        MatrixOut::Done(done) => Ok(done),
        _ => Err(Fault::internal(
            "the provider's answer to a call without `more` is not the last one",
        )
        .into()),
    }
}

/// Bytes in the unit that has a few digits left.
fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < units.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", units[unit])
}

/// A moment in Unix milliseconds, to the minute.
fn date(unix_ms: u64) -> String {
    let exact = i64::try_from(unix_ms).ok().and_then(DateTime::from_timestamp_millis);
    exact.map_or_else(String::new, |exact| exact.format("%Y-%m-%d %H:%M UTC").to_string())
}

fn decimal(number: f64, digits: usize) -> String {
    format!("{number:.digits$}")
}

/// A count and what it is of.
fn counted_words(count: u64, one: String, several: String) -> String {
    counted(count, &one, &several)
}

/// A whole number with a comma at each thousand.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A part of a URL.
fn urlpart(text: String) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A time in microseconds; nothing of none.
fn us(us: Option<u64>) -> String {
    match us {
        None => String::new(),
        Some(us) if us < 1000 => format!("{us} µs"),
        Some(us) => format!("{:.1} ms", us as f64 / 1e3),
    }
}

#[cfg(test)]
mod tests;
