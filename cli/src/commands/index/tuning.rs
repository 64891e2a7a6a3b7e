//! Trials, the best of them, promotions, eval sets and the agent, as a person reads them.
//!
//! Invariants: trials that do not compare say why; latencies say of what they are.

use std::path::{Path, PathBuf};

use brahman_card::interface::Method;
use brahman_card::interface::index::method;
use brahman_card::interface::index::{
    AgentStatusOut, BestIn, BestOut, CompactTrialsIn, CompactTrialsOut, Config, EvalInfo,
    GivenQuery, NameIn, PromoteIn, PromoteSummary, TrialRecord, TrialsOut,
};

use super::{ProgressReply, Promote, Step, show, watch_to_end};
use crate::commands::{get, is_standard, plot, stdin_text, unfinished};
use crate::failure::{BadInput, Unsound};
use crate::output::{Output, Tone, bytes, counted, duration, shortened};

/// Characters of a data's name that are shown: enough to tell a few apart.
const DATA_COLUMNS: usize = 12;

/// What comes after an autotune. Whether the best of its trials is better than what answers, only a
/// promotion finds out: it measures both on the same queries.
pub(super) fn after_autotune(
    name: &str,
    done: u64,
    target_recall: Option<f64>,
    set: Option<&str>,
) -> String {
    let target =
        target_recall.map(|target| format!(" --target-recall {target}")).unwrap_or_default();
    let set = set.map(|set| format!(" --set {set}")).unwrap_or_default();
    format!(
        "{}; `brahman index promote {name}{target}{set}` compares the best of them with what answers, and lets it answer if it is better",
        counted(done, "trial", "trials")
    )
}

pub(super) async fn promote(
    socket: &Path,
    promote: Promote,
    output: &Output,
) -> anyhow::Result<()> {
    let Promote { name, trial, generation, graph, target_recall, force, set } = promote;
    let config = Some(graph.config()).filter(|c| *c != Config::default());
    let ask = PromoteIn {
        name: name.clone(),
        generation,
        trial,
        config,
        target_recall,
        force: Some(force),
        eval: set,
    };
    let last =
        watch_to_end::<method::Promote>(socket, &ask, output, |out| promoted(output, out)).await?;
    let Step::Done(summary) = last.step() else { return Err(unfinished(method::Promote::NAME)) };
    if summary.promoted {
        return Ok(());
    }
    Err(Unsound(format!("index `{name}`: nothing was promoted: {}", summary.verdict)).into())
}

fn promoted(output: &Output, out: &PromoteSummary) {
    let number = out.generation;
    let change = out.change.as_ref().map(|change| format!(": {change}")).unwrap_or_default();
    output.line(&match (out.promoted, out.verdict.as_str()) {
        (true, "better") => output
            .paint(&format!("generation {number} answers now; it is better{change}"), Tone::Good),
        (true, verdict) => output
            .paint(&format!("generation {number} answers now, by force: {verdict}"), Tone::Busy),
        (false, verdict) => {
            output.paint(&format!("generation {number} keeps answering: {verdict}"), Tone::Busy)
        }
    });
    if let Some(lost) = out.lost_docs.filter(|_| out.promoted) {
        let words = format!(
            "{}: `brahman index refresh` brings what is",
            counted(
                lost,
                "document is not in it as it is in the dataset now",
                "documents are not in it as they are in the dataset now"
            )
        );
        output.line(&output.paint(&words, Tone::Bad));
    }
    // Of other data nothing was measured.
    if out.challenger.queries == 0 {
        return;
    }
    let rows = [("challenger", &out.challenger), ("champion", &out.champion)].into_iter().map(
        |(who, m)| {
            vec![
                who.into(),
                format!("{:.4}", m.recall),
                format!("{:.4}", m.recall_low),
                format!("{:.0}", m.p95_us),
                m.orphans.to_string(),
                m.queries.to_string(),
            ]
        },
    );
    output.table(&["", "RECALL", "AT LEAST", "P95 µs", "ORPHANS", "QUERIES"], rows.collect());
    in_process(output);
}

/// Says what latencies are of.
fn in_process(output: &Output) {
    let words = "latencies are of the search in the module's process, without the socket";
    output.line(&output.paint(words, Tone::Faint));
}

pub(super) async fn all_trials(
    socket: &Path,
    name: String,
    file: Option<PathBuf>,
    compact: Option<u64>,
    output: &Output,
) -> anyhow::Result<()> {
    if compact.is_some() {
        let said = |out: &CompactTrialsOut| {
            let kept = counted(out.kept, "trial", "trials");
            output.line(&format!("{kept} kept, {} dropped", out.dropped));
        };
        return show::<method::CompactTrials>(
            socket,
            &CompactTrialsIn { name, keep: compact },
            output,
            said,
        )
        .await;
    }
    let out: TrialsOut = get::<method::Trials>(socket, &NameIn { name: name.clone() }).await?;
    let best: BestOut =
        get::<method::Best>(socket, &BestIn { name: name.clone(), ..BestIn::default() }).await?;
    let champion = best.trial.as_ref().map(|t| t.id.as_str());
    if let Some(file) = &file {
        let same: Vec<&TrialRecord> =
            out.trials.iter().filter(|t| otherness(&out, t).is_none()).collect();
        let by = chosen_by(&best);
        plot::trials(
            file,
            &plot::Picture { trials: &same, best: champion, by: &by, live: out.live.as_ref() },
        )?;
        output.note(&format!("wrote {}", file.display()));
    }
    if output.json() {
        output.print_json(&out);
        return Ok(());
    }
    if out.trials.is_empty() {
        output
            .line(&format!("{name} has no trials yet; `brahman index autotune {name}` makes some"));
    } else {
        trials(output, &out.trials, champion, Some(&out));
        if champion.is_some() {
            output.line(&format!("← the best by {}", chosen_by(&best)));
        }
    }
    if let Some(shortfall) = &out.shortfall {
        output.line(shortfall);
    } else if out.torn > 0 {
        output.line(&format!(
            "the journal was damaged: {} dropped from its end, never acknowledged",
            counted(out.torn, "record was", "records were")
        ));
    }
    Ok(())
}

/// By what the best was chosen, in words.
fn chosen_by(best: &BestOut) -> String {
    match (best.by.as_deref(), best.target_recall) {
        (Some("target"), Some(target)) => format!("target recall {target}"),
        (by, _) => by.unwrap_or("pareto").to_owned(),
    }
}

pub(super) fn best(output: &Output, out: &BestOut) {
    match &out.trial {
        Some(trial) => {
            trials(output, std::slice::from_ref(trial), Some(&trial.id), None);
            output.line(&format!("the best by {}", chosen_by(out)));
        }
        None => output.line(
            "no trial on this data and these queries yet; `brahman index autotune` makes some",
        ),
    }
    if let Some(others) = out.other_queries {
        output.line(&format!(
            "{} measured on this data and other queries, and cannot be compared",
            counted(others, "trial was", "trials were")
        ));
    }
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

pub(super) fn trials(
    output: &Output,
    trials: &[TrialRecord],
    champion: Option<&str>,
    beside: Option<&TrialsOut>,
) {
    if trials.is_empty() {
        return;
    }
    let rows = trials.iter().map(|t| {
        let (c, m) = (&t.config, &t.metrics);
        let n = |v: Option<u64>| v.map_or_else(|| "-".to_owned(), |v| v.to_string());
        let id = if champion == Some(t.id.as_str()) {
            output.paint(&format!("{} ←", t.id), Tone::Good)
        } else {
            t.id.clone()
        };
        let note = || t.note.clone().unwrap_or_else(|| t.by.clone());
        vec![
            id,
            c.engine.clone().unwrap_or_else(|| "-".to_owned()),
            n(c.m),
            n(c.ef_construction),
            n(c.ef_search),
            format!("{:.4}–{:.4}", m.recall_low, m.recall_high),
            n(t.k),
            t.set.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{:.0}/{:.0}/{:.0}", m.p50_us, m.p95_us, m.p99_us),
            duration(m.build_time_secs),
            bytes(m.memory_bytes),
            beside.and_then(|out| otherness(out, t)).map_or_else(note, str::to_owned),
        ]
    });
    let head = [
        "TRIAL",
        "ENGINE",
        "M",
        "EF BUILD",
        "EF",
        "RECALL",
        "K",
        "QUERIES",
        "P50/95/99 µs",
        "BUILD",
        "MEMORY",
        "NOTE",
    ];
    output.table(&head, rows.collect());
    in_process(output);
}

/// Queries of a person's own: a JSON object a line.
pub(super) fn given(file: &Path) -> anyhow::Result<Vec<GivenQuery>> {
    let shown = file.display();
    let text = if is_standard(file) {
        stdin_text()?
    } else {
        std::fs::read_to_string(file).map_err(|error| BadInput(format!("{shown}: {error}")))?
    };
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let read = lines.map(|(line, number): (&str, u64)| {
        let wrong = |error: serde_json::Error| {
            BadInput(format!("{shown}, line {number}: {error}; expected {{\"text\": …}} or {{\"vector\": […]}}, and \"answers\""))
        };
        serde_json::from_str(line).map_err(wrong)
    });
    Ok(read.collect::<Result<_, _>>()?)
}

pub(super) fn evals(output: &Output, evals: &[EvalInfo]) {
    let rows = evals.iter().map(|e| {
        let state =
            if e.stale == Some(true) { output.paint("stale", Tone::Busy) } else { "-".to_owned() };
        let exact = e.exact.map_or_else(|| "-".to_owned(), |exact| format!("{exact:.4}"));
        vec![
            e.name.clone().unwrap_or_else(|| "default".to_owned()),
            e.id.clone(),
            e.source.clone().unwrap_or_else(|| "rows".to_owned()),
            e.tune.to_string(),
            e.holdout.to_string(),
            e.k.to_string(),
            exact,
            shortened(&e.fingerprint, DATA_COLUMNS),
            state,
        ]
    });
    output.table(
        &["SET", "EVAL", "OF", "TUNE", "HOLDOUT", "K", "EXACT", "DATA", "STATE"],
        rows.collect(),
    );
}

pub(super) fn agent(output: &Output, out: &AgentStatusOut) {
    let said = || {
        out.reason.iter().for_each(|why| output.text(&output.paint(why.trim_end(), Tone::Bad)));
        out.pinned.iter().for_each(|names| {
            output.line(&format!("  rolled back and pinned, not refreshed: {}", names.join(" ")));
        });
    };
    if !out.enabled && out.reason.is_some() {
        return said();
    }
    if !out.enabled {
        said();
        if out.refreshes == Some(true) {
            output.line(
                "indexes that have been refreshed once follow their datasets (`[agent] refresh`)",
            );
            out.last.iter().for_each(|last| output.line(&format!("  last: {last}")));
        }
        return output.line("no trials are run: set `[agent] enabled = true` in $BRAHMAN_STATE/index.toml, then `brahman restart index`");
    }
    let doing =
        out.running.as_ref().map_or_else(|| "idle".to_owned(), |name| format!("trying {name}"));
    output.line(&format!(
        "the agent is {doing}; {} of {} trials this hour, the next in {} s at the earliest",
        out.trials_last_hour, out.max_trials_per_hour, out.next_in_s
    ));
    if !out.queue.is_empty() {
        output.line(&format!("  waiting: {}", out.queue.join(" ")));
    }
    out.last.iter().for_each(|last| output.line(&format!("  last: {last}")));
    said();
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::index::{Description, Measurement, ShadowInfo};

    use super::*;

    #[test]
    fn trials_name_their_engines_and_why_they_are_not_compared() {
        let trial = |id: &str, engine: &str, data: &str, eval: &str| TrialRecord {
            id: id.into(),
            config: Config { engine: Some(engine.into()), m: Some(8), ..Config::default() },
            fingerprint: data.into(),
            eval: eval.into(),
            by: "user".into(),
            k: Some(10),
            ..TrialRecord::default()
        };
        let all = vec![
            trial("a", "flat-hnsw", "now", "s"),
            trial("b", "exact", "before", "s"),
            trial("c", "hnsw-rs", "now", "t"),
            trial("d", "flat-hnsw", "0123456789abcdef", "s"),
            trial("e", "flat-hnsw", "fedcba9876543210", "s"),
        ];
        let out = TrialsOut {
            trials: all,
            fingerprint: Some("now".into()),
            eval: Some("s".into()),
            known_as: Some(vec!["fedcba9876543210".into()]),
            unknown_data: Some(vec!["d".into()]),
            ..TrialsOut::default()
        };
        let told: Vec<_> = out.trials.iter().map(|t| otherness(&out, t)).collect();
        let unknown = "data unknown: of an earlier version";
        assert_eq!(told, [None, Some("other data"), Some("other queries"), Some(unknown), None]);
        let output = Output::kept();
        trials(&output, &out.trials, Some("a"), Some(&out));
        let printed = output.printed();
        for words in ["a ←", "hnsw-rs", "exact", "other queries", "without the socket"] {
            assert!(printed.contains(words), "{words}: {printed}");
        }
        let output = Output::kept();
        best(&output, &BestOut { other_queries: Some(2), ..BestOut::default() });
        assert!(
            output.printed().contains("no trial on this data")
                && output.printed().contains("2 trials were measured on this data")
        );
    }

    #[test]
    fn an_autotune_promises_no_promotion() {
        let said = after_autotune("notes", 4, Some(0.9), Some("mine"));
        assert!(
            said.starts_with(
                "4 trials; `brahman index promote notes --target-recall 0.9 --set mine`"
            ) && said.ends_with("if it is better"),
            "{said}"
        );
        assert!(after_autotune("notes", 1, None, None).contains("promote notes`"));
    }

    #[test]
    fn a_promotion_says_what_is_gained_and_lost_and_a_check_without_searches_has_no_recall() {
        let measured = |recall| Measurement { recall, queries: 500, ..Measurement::default() };
        let change = "p95 14 µs instead of 40 µs, recall 0.9654 instead of 1.0000";
        let out = PromoteSummary {
            promoted: true,
            verdict: "better".into(),
            generation: 2,
            challenger: measured(0.9654),
            champion: measured(1.0),
            change: Some(change.into()),
            ..PromoteSummary::default()
        };
        let output = Output::kept();
        promoted(&output, &out);
        assert!(
            output.printed().contains(&format!("it is better: {change}")),
            "{}",
            output.printed()
        );
        let shadow = ShadowInfo { verdict: "open".into(), target: 0.95, ..ShadowInfo::default() };
        let output = Output::kept();
        super::super::details(
            &output,
            &Description { shadow: Some(shadow), ..Description::default() },
        );
        assert!(
            output.printed().contains("no live search has been compared")
                && !output.printed().contains("-0.0")
        );
    }
}
