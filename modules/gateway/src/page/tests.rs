//! The views as a browser gets them: what is escaped, and what may run.

use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::catalog::{Column, Dataset, Version};
use brahman_card::interface::index::{Config, Description, Hit, Metrics};
use brahman_card::interface::score::Row;

use super::datasets::{ColumnLine, DatasetLine, VersionLine, is_within};
use super::*;
use crate::answer::AnswerBody;

/// What somebody has called his file, his dataset or his memory.
const HOSTILE: &str =
    "</textarea></title><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";

fn html(answer: Answer) -> String {
    assert!(
        answer.headers()["content-security-policy"]
            .to_str()
            .is_ok_and(|policy| policy.contains("script-src 'sha256-"))
    );
    match answer.into_body() {
        AnswerBody::Whole(Some(bytes)) => String::from_utf8(bytes.to_vec()).expect("text"),
        other => panic!("{other:?}"),
    }
}

/// Renders a view, in which nothing of what is hostile is an element.
fn shown(template: &str, view: Value) -> String {
    let answer = render(StatusCode::OK, template, "/page/search", view);
    assert_eq!(answer.status(), StatusCode::OK, "{template}");
    let page = html(answer);
    for bad in ["<script>alert", "<img", "onerror=alert(2)>", "</textarea></title>"] {
        assert!(!page.contains(bad), "{template} has {bad}");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)") && page.starts_with("<!doctype html>"),
        "{template}: {page}"
    );
    assert_eq!(page.matches("<script>").count(), 1, "{template}");
    page
}

#[test]
fn nothing_that_a_mesh_says_runs_in_the_page() {
    let hostile = || HOSTILE.to_owned();
    let module = ModuleStatus {
        label: hostile(),
        flows: vec![hostile()],
        reason: Some(hostile()),
        p50_us: Some(1500),
        ..ModuleStatus::default()
    };
    let page = shown(
        "modules.html",
        context! { status => StatusOut { context: Some(hostile()), modules: vec![module] } },
    );
    assert!(page.contains("1.5 ms") && page.contains("<th scope=\"row\""), "{page}");

    let hit = Hit {
        doc_id: hostile(),
        heading: Some(hostile()),
        text: hostile(),
        cosine: Some(0.5),
        ..Hit::default()
    };
    let ask = SearchAsk { index: HOSTILE, text: HOSTILE, mode: "lexical" };
    let found = SearchOut {
        model: hostile(),
        degraded: Some(hostile()),
        dataset_gone: Some(true),
        words_left_out: Some(1),
        ..SearchOut::default()
    };
    let notes = search_notes(&found);
    assert!(notes.iter().any(|note| note.starts_with("1 word at the end")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("deleted or renamed")), "{notes:?}");
    let page = shown(
        "search.html",
        context! {
            ask, indexes => vec![hostile()], hits => vec![ShownHit::of(&hit)], notes, found
        },
    );
    assert!(page.contains("cosine 0.500") && !page.contains("BM25"), "{page}");

    let dataset = Dataset {
        name: hostile(),
        rows: 1_234_567,
        columns: vec![Column { name: hostile(), ..Column::default() }],
        stale: vec![hostile()],
        state: Some("lost".to_owned()),
        reason: Some(hostile()),
        ..Dataset::default()
    };
    let page = shown(
        "datasets.html",
        context! { datasets => vec![DatasetLine::of(&dataset)], notes => vec![hostile()] },
    );
    assert!(page.contains("1,234,567") && page.contains("not looked for"), "{page}");
    let columns: Vec<ColumnLine<'_>> =
        dataset.columns.iter().map(|column| ColumnLine::of(column, &[])).collect();
    let version = Version { generation: 3, run_id: hostile(), ..Version::default() };
    let history = vec![VersionLine::of(&version, &[])];
    shown(
        "dataset.html",
        context! {
            name => HOSTILE, dataset, columns, history, looked => false,
            notes => Vec::<String>::new()
        },
    );
    shown(
        "indexes.html",
        context! {
            indexes => vec![
                Description { name: hostile(), dataset: hostile(), ..Description::default() }
            ]
        },
    );

    let trial = TrialRecord {
        id: "a".to_owned(),
        config: Config { engine: Some(hostile()), m: Some(16), ..Config::default() },
        metrics: Metrics { recall_at_k: 0.95, p95_us: 100.0, ..Metrics::default() },
        by: hostile(),
        ..TrialRecord::default()
    };
    let out = TrialsOut::default();
    let plot = plot::plot(&[&trial], Some("a"), None);
    let lines = vec![TrialLine::of(&trial, &out, Some("a"))];
    let view = context! { name => HOSTILE, plot, notes => vec![hostile()], live => HOSTILE, by => "pareto", trials => lines };
    let page = shown("trials.html", view);
    assert!(
        page.contains("<polyline class=\"front\"")
            && page.contains("recall@k")
            && page.contains(", µs, in the module's process"),
        "{page}"
    );
}

#[test]
fn a_matrix_is_a_table_with_a_legend() {
    let row = |key: &str, error: Option<&str>| Row {
        key: key.to_owned(),
        deltas: vec![0.5],
        divergences: vec![0.5],
        error: error.map(str::to_owned),
        ..Row::default()
    };
    let rows = vec![row(HOSTILE, None), row("bad", Some(HOSTILE))];
    let scored = vec![score::Response { text: HOSTILE.to_owned(), ..score::Response::default() }];
    let done = MatrixSummary {
        rows: Some(rows),
        scored,
        memories: 2,
        responses: 1,
        ..MatrixSummary::default()
    };
    let heat = Heat::of(&done);
    let view =
        context! { talk => HOSTILE, notes => vec![HOSTILE], done, ..Value::from_serialize(&heat) };
    let page = shown("score.html", view);
    assert!(
        page.contains("<td class=\"cell h100\"")
            && page.contains("+0.500")
            && page.contains("<th scope=\"row\">bad"),
        "{page}"
    );
}

#[test]
fn a_refusal_is_told_in_the_view() {
    let refusal = Refusal::from(Fault::permission_denied(HOSTILE));
    let answer = refused(
        &refusal,
        "search.html",
        "/page/search",
        context! { ask => SearchAsk { index: "", text: "", mode: "hybrid" } },
    );
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let page = html(answer);
    assert!(
        page.contains("role=\"alert\">&lt;&#x2f;textarea&gt;") && !page.contains("<img"),
        "{page}"
    );
}

#[test]
fn figures_are_written_as_people_read_them() {
    assert_eq!(
        (bytes(1023), bytes(1536), bytes(5 << 30)),
        ("1023 B".to_owned(), "1.5 KiB".to_owned(), "5.0 GiB".to_owned())
    );
    let rows = |count| counted_words(count, "row".to_owned(), "rows".to_owned());
    assert_eq!((rows(1), rows(2)), ("1 row".to_owned(), "2 rows".to_owned()));
    assert_eq!(
        (thousands(0), thousands(999), thousands(1_000_000)),
        ("0".to_owned(), "999".to_owned(), "1,000,000".to_owned())
    );
    assert_eq!(
        (us(None), us(Some(999)), us(Some(1234))),
        (String::new(), "999 µs".to_owned(), "1.2 ms".to_owned())
    );
    assert_eq!(
        (date(0), urlpart("a b/ä".to_owned())),
        ("1970-01-01 00:00 UTC".to_owned(), "a%20b%2F%C3%A4".to_owned())
    );
    assert!(
        is_within("a", "a")
            && is_within("a.b", "a")
            && is_within("a[]", "a")
            && !is_within("ab", "a")
    );
}
