//! What a person sees of indexes, hits and refreshes.

use brahman_card::interface::index::Description;
use brahman_card::interface::index::{Elapsed, FusionUsed, Hit, RerankReport, SearchOut};

use super::hits::{found, reranked};
use super::*;

#[test]
fn indexes_hits_and_refreshes_are_printed_for_people() {
    let description = Description {
        name: "notes".into(),
        dataset: "notes".into(),
        generation: 2,
        docs: 4,
        chunks: 9,
        bytes: 65_536,
        memory_bytes: 32_768,
        engine: "flat-hnsw".into(),
        bucket: "primary".into(),
        model: Some("all-MiniLM-L6-v2".into()),
        m: 16,
        ef_construction: 100,
        ef_search: 64,
        stale: true,
        pinned: Some(true),
        ..Description::default()
    };
    let output = Output::kept();
    describe(&output, std::slice::from_ref(&description));
    details(&output, &description);
    insta::assert_snapshot!("index_stats", output.printed());

    let hit = Hit {
        doc_id: "backups.md".into(),
        line: 3,
        text: "We keep\nbackups   for ninety days.".into(),
        score: 0.5,
        ..Hit::default()
    };
    let out = SearchOut {
        results: vec![vec![hit]],
        generation: 2,
        engine: "flat-hnsw".into(),
        mode: "semantic".into(),
        model: "all-MiniLM-L6-v2".into(),
        provider: Some("embed-real".into()),
        stale: true,
        elapsed_us: Elapsed { embed: 4000, search: 200, total: 4500, ..Elapsed::default() },
        ..SearchOut::default()
    };
    let output = Output::kept();
    found(&output, &out);
    insta::assert_snapshot!("search", output.printed());

    let fusion = Some(FusionUsed { method: "weighted".into(), weight: 0.5 });
    let output = Output::kept();
    found(
        &output,
        &SearchOut {
            mode: "hybrid".into(),
            fusion,
            ef: Some(96),
            recall: Some(0.9834),
            words_left_out: Some(7),
            ..out
        },
    );
    let printed = output.printed();
    assert!(
        printed.contains(
            "hybrid (weighted, 0.50 meaning) flat-hnsw (ef 96, recall 0.983), all-MiniLM-L6-v2"
        ),
        "{printed}"
    );

    let report = RerankReport {
        done: true,
        candidates: 50,
        model: Some("ms-marco-MiniLM-L6-v2".into()),
        provider: Some("rerank-real".into()),
        ..RerankReport::default()
    };
    let output = Output::kept();
    reranked(&output, &report, 81_500);
    assert_eq!(
        output.printed(),
        "reranked 50 hits by ms-marco-MiniLM-L6-v2 (rerank-real), 81.5 ms\n"
    );

    let summary = RefreshSummary {
        generation: 2,
        dataset_docs: 4,
        new_docs: 1,
        new_chunks: 1,
        total: 4,
        duration_s: 0.5,
        ..RefreshSummary::default()
    };
    let output = Output::kept();
    refreshed("notes", &summary, &output);
    insta::assert_snapshot!("refreshed", output.printed());
}
