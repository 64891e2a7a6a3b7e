//! What a person reads of indexes and of their generations.

use brahman_card::interface::index::{Description, GenerationsOut};

use super::{made_up, without_replicas};
use crate::output::{Output, Tone, bytes, counted};

pub(super) fn describe(output: &Output, indexes: &[Description]) {
    let rows = indexes.iter().map(|i| {
        let state = match (&i.degraded, &i.busy, i.stale) {
            (Some(_), _, _) => output.paint("damaged", Tone::Bad),
            (_, Some(busy), _) => output.paint(busy, Tone::Busy),
            _ if i.dataset_gone == Some(true) => output.paint("dataset deleted", Tone::Bad),
            (_, _, true) if i.pinned == Some(true) => output.paint("stale, pinned", Tone::Busy),
            (_, _, true) => output.paint("stale", Tone::Busy),
            _ if i.pinned == Some(true) => output.paint("pinned", Tone::Busy),
            _ => output.paint("fresh", Tone::Good),
        };
        let model = i.model.clone().unwrap_or_else(|| "-".into());
        let model = if i.mock == Some(true) { format!("{model} (mock)") } else { model };
        vec![
            i.name.clone(),
            i.dataset.clone(),
            i.generation.to_string(),
            i.docs.to_string(),
            i.chunks.to_string(),
            bytes(i.bytes),
            i.engine.clone(),
            i.bucket.clone(),
            model,
            state,
        ]
    });
    output.table(
        &[
            "INDEX",
            "DATASET",
            "GENERATION",
            "DOCS",
            "CHUNKS",
            "SIZE",
            "ENGINE",
            "BUCKET",
            "MODEL",
            "STATE",
        ],
        rows.collect(),
    );
}

pub(super) fn details(output: &Output, i: &Description) {
    output.line(&format!(
        "graph m {}, ef_construction {}, ef_search {}; {} of memory when loaded; {} appended and {} deleted since the base was built",
        i.m,
        i.ef_construction,
        i.ef_search,
        bytes(i.memory_bytes),
        counted(i.appended, "row", "rows"),
        i.dead
    ));
    if let Some(words) = &i.words {
        let languages = if words.languages.is_empty() {
            "as they are written".to_owned()
        } else {
            words.languages.join(" and ")
        };
        let old = if words.version == 0 {
            ", in the way of before: `brahman index compact` or a migration makes them anew"
        } else {
            ""
        };
        output.line(&format!("words: {languages}{old}"));
    }
    if let Some(recall) = i.recall {
        let wanted =
            i.target_recall.map(|wanted| format!(", {wanted} were wanted")).unwrap_or_default();
        output.line(&format!("recall {recall:.4} when the graph was built{wanted}"));
    }
    if let Some(check) = &i.shadow {
        output.line(&if check.checked == 0 {
            format!("promoted for recall {}: no live search has been compared with an exact one yet", check.target)
        } else {
            format!(
                "promoted for recall {}: {} live searches compared with exact ones, recall {:.4}, {}",
                check.target, check.checked, check.recall, check.verdict
            )
        });
        if let Some(why) = &check.stays {
            output.line(&output.paint(&format!("  it keeps answering: {why}"), Tone::Busy));
        }
    }
    if let Some(c) = &i.caches {
        output.line(&format!(
            "in memory: {}, {} of graphs, {} mapped, {} appended, {} of columns, lexical index {}; {} verified",
            counted(c.generations, "generation", "generations"),
            bytes(c.graph_bytes),
            bytes(c.mapped_bytes),
            bytes(c.appended_bytes),
            bytes(c.columns_bytes),
            c.words,
            counted(c.verified_files, "file", "files")
        ));
    }
    if i.pinned == Some(true) {
        output.line(&format!("rolled back and pinned: `brahman index unpin {0}`, or a refresh, lets it follow its dataset", i.name));
    }
    if let Some(words) = i.replicas.as_ref().and_then(without_replicas) {
        output.line(&output.paint(&words, Tone::Busy));
    }
    if let Some(why) = &i.sweep {
        output.line(&output.paint(why, Tone::Bad));
    }
    if let Some(why) = &i.degraded {
        output.line(&output.paint(why, Tone::Bad));
    }
    made_up(i.mock, output);
}

pub(super) fn generations(output: &Output, out: &GenerationsOut) {
    let rows = out.generations.iter().map(|g| {
        let measured = g
            .measured
            .as_ref()
            .map_or_else(|| "-".into(), |m| format!("{:.4} / {:.0} µs", m.recall, m.p95_us));
        let pinned = if g.pinned == Some(true) { ", pinned" } else { "" };
        let number = if g.current {
            output.paint(&format!("{} ←", g.number), Tone::Good)
        } else {
            g.number.to_string()
        };
        let reason = if g.forced {
            format!("{} (forced){pinned}", g.reason)
        } else {
            format!("{}{pinned}", g.reason)
        };
        vec![
            number,
            reason,
            g.docs.to_string(),
            g.chunks.to_string(),
            g.appended.to_string(),
            g.dead.to_string(),
            bytes(g.bytes),
            measured,
        ]
    });
    output.table(
        &["GENERATION", "REASON", "DOCS", "CHUNKS", "APPENDED", "DELETED", "SIZE", "RECALL / P95"],
        rows.collect(),
    );
    out.unreadable.iter().flatten().for_each(|why| output.line(&output.paint(why, Tone::Bad)));
}
