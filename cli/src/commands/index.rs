//! `brahman index …`: indexes of datasets, and how well they search; `brahman search` is in
//! [`hits`].

mod arguments;
mod describe;
mod hits;
mod tuning;

use std::path::Path;

use brahman_card::interface::index::method;
use brahman_card::interface::index::{
    AgentEnqueueOut, AutotuneIn, AutotuneOut, AutotuneSummary, BestIn, BestOut, CompactOut,
    CompactSummary, CreateIn, CreateOut, DeleteOut, DoctorIn, DoctorOut, EvalAutogenIn,
    EvalListOut, EvalOut, GetIn, GetOut, ListOut, MigrateIn, MoveIn, MoveOut, MoveSummary, NameIn,
    PromoteOut, PromoteSummary, RefreshOut, RefreshSummary, ReplicaLag, RollbackIn, RollbackOut,
    StatsOut, TrialIn, TrialOut, TrialSummary, UnpinOut,
};
use brahman_card::interface::{Empty, Method};

use super::{get, stream, unfinished};
use crate::failure::{NotFound, Unsound};
use crate::output::{Output, Tone, bytes, counted, duration, one_line};
pub(crate) use arguments::{Create, Index, Promote, Search};
use describe::{describe, details, generations};
use hits::print_hit;
pub(crate) use hits::search;
use tuning::{after_autotune, agent, all_trials, best, evals, given, trials};

/// Calls a method and prints the reply: as JSON, or as `person` does.
async fn show<M: Method>(
    socket: &Path,
    ask: &M::In,
    output: &Output,
    person: impl FnOnce(&M::Out),
) -> anyhow::Result<()> {
    let out = get::<M>(socket, ask).await?;
    if output.json() {
        output.print_json(&out);
    } else {
        person(&out);
    }
    Ok(())
}

/// What one reply of a stream says.
enum Step<'a, S> {
    /// The phase, and how much of it is done.
    Underway(&'a str, u64, u64),
    Done(&'a S),
}

/// The replies of a method that says how far it is.
trait ProgressReply {
    /// What the last one has.
    type Summary;

    fn step(&self) -> Step<'_, Self::Summary>;
}

macro_rules! progress_replies {
    ($($reply:ident ends with $summary:ident $(after $more:ident as $phase:literal)?;)*) => {
        $(
            impl ProgressReply for $reply {
                type Summary = $summary;

                fn step(&self) -> Step<'_, $summary> {
                    match self {
                        Self::Progress(p) => Step::Underway(&p.phase, p.done, p.of),
                        $(Self::$more(one) => Step::Underway($phase, one.done, one.of),)?
                        Self::Done(summary) => Step::Done(summary),
                    }
                }
            }
        )*
    };
}

progress_replies! {
    RefreshOut ends with RefreshSummary;
    MoveOut ends with MoveSummary;
    CompactOut ends with CompactSummary;
    PromoteOut ends with PromoteSummary;
    TrialOut ends with TrialSummary;
    AutotuneOut ends with AutotuneSummary after Trial as "trial";
}

/// The same as [`show`] for a method that says how far it is; a person reads the summary.
async fn watch<M: Method<Out: ProgressReply>>(
    socket: &Path,
    ask: &M::In,
    output: &Output,
    person: impl FnOnce(&<M::Out as ProgressReply>::Summary),
) -> anyhow::Result<()> {
    watch_to_end::<M>(socket, ask, output, person).await.map(drop)
}

/// The same, and gives the last reply.
async fn watch_to_end<M: Method<Out: ProgressReply>>(
    socket: &Path,
    ask: &M::In,
    output: &Output,
    person: impl FnOnce(&<M::Out as ProgressReply>::Summary),
) -> anyhow::Result<M::Out> {
    let bar = output.count_bar("starting", 0);
    let mut lines = output.progress_lines();
    let last = stream::<M>(socket, ask, |reply: &M::Out| {
        if let Step::Underway(phase, done, of) = reply.step() {
            lines.take(reply, phase, (done, of), || match (done * 100).checked_div(of) {
                Some(percent) => format!("{done} of {of} ({percent}%)"),
                None => "begun".into(),
            });
            bar.set_length(of);
            bar.set_position(done);
            bar.set_message(one_line(phase));
        }
    })
    .await?;
    bar.finish_and_clear();
    let Step::Done(summary) = last.step() else { return Err(unfinished(M::NAME)) };
    if output.json() {
        output.print_json(&last);
    } else {
        person(summary);
    }
    Ok(last)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}

pub(crate) async fn index(socket: &Path, index: Index, output: &Output) -> anyhow::Result<()> {
    match index {
        Index::Create(create) => make(socket, *create, output).await,
        Index::Refresh { name } => {
            refresh::<method::Refresh>(socket, &NameIn { name: name.clone() }, &name, output).await
        }
        Index::Migrate { name, model, chunks } => {
            let ask = MigrateIn { chunks: chunks.then_some(true), ..migrate(&name, model) };
            refresh::<method::Migrate>(socket, &ask, &name, output).await
        }
        Index::List => {
            show::<method::List>(socket, &Empty {}, output, |out: &ListOut| {
                describe(output, &out.indexes);
            })
            .await
        }
        Index::Stats { name } => {
            let one = |out: &StatsOut| {
                describe(output, std::slice::from_ref(&out.index));
                details(output, &out.index);
            };
            show::<method::Stats>(socket, &NameIn { name }, output, one).await
        }
        Index::Get { name, doc_id } => {
            let ask = GetIn { index: name, doc_id };
            let out: GetOut = get::<method::Get>(socket, &ask).await?;
            if out.chunks.is_empty() {
                return Err(NotFound(format!(
                    "index `{}` has no document `{}`",
                    ask.index, ask.doc_id
                ))
                .into());
            }
            if output.json() {
                output.print_json(&out);
            } else {
                out.chunks.iter().for_each(|hit| print_hit(output, hit, None));
            }
            Ok(())
        }
        Index::Generations { name } => {
            show::<method::Generations>(socket, &NameIn { name }, output, |out| {
                generations(output, out);
            })
            .await
        }
        Index::Promote(promote) => tuning::promote(socket, promote, output).await,
        Index::Rollback { name, generation } => {
            let stays = format!(
                "it stays pinned until `brahman index unpin {name}`, or the next `brahman index refresh {name}`"
            );
            let said = |out: &RollbackOut| {
                output.line(&format!(
                    "generation {} answers again, in place of {}; {stays}",
                    out.generation, out.previous
                ));
            };
            show::<method::Rollback>(socket, &RollbackIn { name, generation }, output, said).await
        }
        Index::Unpin { name } => {
            let said = |out: &UnpinOut| {
                let now = if out.unpinned { "is no longer pinned" } else { "was not pinned" };
                output.line(&format!("{name} {now}: generation {} answers", out.generation));
            };
            show::<method::Unpin>(socket, &NameIn { name: name.clone() }, output, said).await
        }
        Index::Move { name, bucket } => {
            let ask = MoveIn { name: name.clone(), bucket: bucket.clone() };
            let said = |out: &MoveSummary| {
                output.line(&if out.moved {
                    let from = &out.previous;
                    format!("{name} is now stored in bucket {bucket}, no longer in {from}: {} copied and verified", bytes(out.bytes))
                } else {
                    format!("{name} is already stored in bucket {bucket}")
                });
            };
            watch::<method::Move>(socket, &ask, output, said).await
        }
        Index::Compact { name } => {
            let said = |out: &CompactSummary| {
                let number = out.generation.unwrap_or(0);
                output.line(&if out.compacted {
                    format!("generation {number} has everything in its base")
                } else {
                    format!("nothing to merge: generation {number} is already compact")
                });
            };
            watch::<method::Compact>(socket, &NameIn { name }, output, said).await
        }
        Index::Trial { name, config, target_recall, note, widths, set } => {
            let ask = TrialIn {
                name,
                config: config.config(),
                target_recall,
                note,
                eval: set,
                ef_search: some(widths),
            };
            let said =
                |out: &TrialSummary| trials(output, std::slice::from_ref(&out.trial), None, None);
            watch::<method::Trial>(socket, &ask, output, said).await
        }
        Index::Trials { name, plot, compact } => {
            all_trials(socket, name, plot, compact, output).await
        }
        Index::Best { name, by, target_recall, set } => {
            let said = |out: &BestOut| best(output, out);
            show::<method::Best>(
                socket,
                &BestIn { name, by, target_recall, eval: set },
                output,
                said,
            )
            .await
        }
        Index::Autotune { name, m, ef_construction, target_recall, widths, trials: most, set } => {
            let eval = set.clone();
            let (m, ef_construction, ef_search) = (some(m), some(ef_construction), some(widths));
            let ask = AutotuneIn {
                name: name.clone(),
                m,
                ef_construction,
                target_recall,
                ef_search,
                trials: most,
                eval,
            };
            let said = |out: &AutotuneSummary| {
                trials(output, out.best.as_slice(), out.best.as_ref().map(|b| b.id.as_str()), None);
                output.line(&after_autotune(&name, out.done, target_recall, set.as_deref()));
            };
            watch::<method::Autotune>(socket, &ask, output, said).await
        }
        Index::Agent { name: Some(name) } => {
            let said = |out: &AgentEnqueueOut| {
                output.line(&format!(
                    "{name} {}",
                    if out.queued { "is queued for a trial" } else { "was queued already" }
                ));
            };
            show::<method::AgentEnqueue>(socket, &NameIn { name: name.clone() }, output, said).await
        }
        Index::Agent { name: None } => {
            show::<method::AgentStatus>(socket, &Empty {}, output, |out| agent(output, out)).await
        }
        Index::Eval { name, list: true, .. } => {
            let index = name.clone();
            let said = |out: &EvalListOut| {
                if out.evals.is_empty() {
                    output.line(&format!("{index} has no eval sets yet; `brahman index eval {index}` makes one, as does the first trial"));
                } else {
                    evals(output, &out.evals);
                }
                out.damaged
                    .iter()
                    .flatten()
                    .for_each(|file| output.line(&output.paint(file, Tone::Bad)));
            };
            show::<method::EvalList>(socket, &NameIn { name }, output, said).await
        }
        Index::Eval { name, queries, k, seed, set, from, .. } => {
            let ask = EvalAutogenIn {
                name,
                queries,
                k,
                seed,
                set,
                given: from.map(|file| given(&file)).transpose()?,
            };
            show::<method::EvalAutogen>(socket, &ask, output, |out: &EvalOut| {
                evals(output, std::slice::from_ref(&out.eval));
            })
            .await
        }
        Index::Doctor { name, repair } => doctor(socket, name, repair, output).await,
        Index::Delete { name } => {
            let said = |out: &DeleteOut| {
                output.line(&format!(
                    "{name} {}",
                    if out.deleted { "deleted" } else { "did not exist" }
                ));
            };
            show::<method::Delete>(socket, &NameIn { name: name.clone() }, output, said).await
        }
    }
}

/// What a person asks of a migration: never that real vectors are replaced by a mock's.
/// What of an index has no replica, if anything has none.
pub(crate) fn without_replicas(lag: &ReplicaLag) -> Option<String> {
    let why = lag.failing.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let words = || {
        format!(
            "{}, {}, have no replica in bucket rescue{why}",
            counted(lag.files, "file", "files"),
            bytes(lag.bytes)
        )
    };
    (lag.files > 0 || lag.failing.is_some()).then(words)
}

fn migrate(name: &str, model: Option<String>) -> MigrateIn {
    MigrateIn { name: name.to_owned(), model, ..MigrateIn::default() }
}

/// Says it where vectors are synthetic.
fn made_up(mock: Option<bool>, output: &Output) {
    if mock == Some(true) {
        output.note("note: its vectors are synthetic, made by a mock");
    }
}

async fn make(socket: &Path, create: Create, output: &Output) -> anyhow::Result<()> {
    let Create {
        name,
        dataset,
        id_column,
        text_column,
        template,
        vector_column,
        filter_column,
        ..
    } = create;
    let Create {
        chunk_tokens,
        chunk_size,
        overlap,
        model,
        bucket,
        language,
        target_recall,
        fusion,
        graph,
        ..
    } = create;
    let mut texts = text_column;
    if texts.is_empty() && vector_column.is_none() {
        texts.push("text".into());
    }
    let one = (texts.len() == 1 && template.is_none()).then(|| texts[0].clone());
    let ask = CreateIn {
        name: name.clone(),
        dataset,
        id_column,
        text_columns: if one.is_some() { None } else { some(texts) },
        text_column: one,
        template,
        vector_column,
        filter_columns: some(filter_column),
        chunk_size,
        overlap,
        chunk_tokens,
        engine: graph.engine,
        model,
        m: graph.m,
        ef_construction: graph.ef_construction,
        ef_search: graph.ef_search,
        bucket,
        language,
        target_recall,
        fusion: fusion.choice(),
    };
    let said = |out: &CreateOut| {
        output.line(&if out.created {
            format!("{name} created; `brahman index refresh {name}` fills it")
        } else {
            format!("{name} exists already, with the same parameters")
        });
    };
    show::<method::Create>(socket, &ask, output, said).await
}

async fn refresh<M: Method<Out = RefreshOut>>(
    socket: &Path,
    ask: &M::In,
    name: &str,
    output: &Output,
) -> anyhow::Result<()> {
    watch::<M>(socket, ask, output, |out| refreshed(name, out, output)).await
}

fn refreshed(name: &str, out: &RefreshSummary, output: &Output) {
    let embedded = out.new_chunks.saturating_sub(out.resumed).saturating_sub(out.reused);
    let vectors = match out.cached {
        None => "with the dataset's own vectors".to_owned(),
        Some(cached) => format!("{embedded} embedded ({cached} from the cache) by {}", out.model),
    };
    output.line(&format!(
        "{name} generation {}: {}, {} new, {} changed, {} removed; {}, {vectors} in {}",
        out.generation,
        counted(out.dataset_docs, "document", "documents"),
        out.new_docs,
        out.changed_docs,
        out.removed_docs,
        counted(out.total, "chunk", "chunks"),
        duration(out.duration_s),
    ));
    for (count, one, several, words) in [
        (out.resumed, "chunk", "chunks", " had been embedded by an interrupted refresh"),
        (
            out.resume_lost.unwrap_or(0),
            "vector of an interrupted refresh was",
            "vectors of an interrupted refresh were",
            " damaged, and embedded again",
        ),
        (
            out.reused,
            "chunk of changed documents was unchanged and kept its vector",
            "chunks of changed documents were unchanged and kept their vectors",
            "",
        ),
        (out.empty_docs, "document has", "documents have", " no text"),
        (
            out.truncated,
            "chunk was",
            "chunks were",
            " longer than the model's window and truncated; `brahman index migrate --chunks` cuts all anew",
        ),
        (out.skipped_docs, "document was", "documents were", " left out:"),
    ] {
        if count > 0 {
            output.line(&format!("  {}{words}", counted(count, one, several)));
        }
    }
    out.skipped.iter().for_each(|s| output.line(&format!("    {}: {}", s.doc_id, s.reason)));
    for c in out.converted.iter().flatten() {
        output.line(&format!(
            "  column {} was {} and is {}; {} could not be converted",
            c.column,
            c.from,
            c.to,
            counted(c.nulls_made, "value", "values")
        ));
    }
    if out.old_chunks == Some(true) {
        output.line(&format!(
            "  its chunks are cut by characters, as before: `brahman index migrate {name} --chunks` cuts them anew, by tokens"
        ));
    }
    if out.guessed == Some(true) {
        output.line("  its provider does not count tokens: the lengths of chunks are guessed");
    }
    if let Some(borrowed) = &out.borrowed {
        let words = format!(
            "{} read from bucket rescue: their own bucket is unavailable (`brahman buckets health`)",
            counted(borrowed.len() as u64, "object was", "objects were")
        );
        output.line(&output.paint(&words, Tone::Busy));
    }
    if out.unpinned == Some(true) {
        output.line("it had been rolled back, and follows its dataset again");
    }
    out.sweep.iter().for_each(|why| output.line(&output.paint(why, Tone::Bad)));
    if out.dataset_gone == Some(true) {
        output.line(
            "the dataset was deleted or renamed in the meantime: the index holds what it was",
        );
    } else if !out.stale_cleared {
        output.line("the dataset has changed in the meantime: the index is still marked stale");
    }
    made_up(out.mock, output);
}

async fn doctor(socket: &Path, name: String, repair: bool, output: &Output) -> anyhow::Result<()> {
    let out: DoctorOut =
        get::<method::Doctor>(socket, &DoctorIn { name: name.clone(), repair: Some(repair) })
            .await?;
    if output.json() {
        output.print_json(&out);
    } else {
        out.problems.iter().for_each(|p| output.line(&output.paint(p, Tone::Bad)));
        let state = if out.healthy {
            output.paint("healthy", Tone::Good)
        } else {
            output.paint("not healthy", Tone::Bad)
        };
        out.notes.iter().flatten().for_each(|note| output.line(note));
        out.put_aside.iter().flatten().for_each(|name| output.line(&format!("set aside: {name}")));
        let how = if out.repaired { ", repaired" } else { "" };
        output.line(&format!(
            "{name} is {state}{how}: {} verified, {}, generation {} answers",
            counted(out.files, "file", "files"),
            counted(out.orphans, "orphaned row", "orphaned rows"),
            out.generation
        ));
    }
    if out.healthy {
        return Ok(());
    }
    let hint = if repair {
        "what is left could not be repaired"
    } else {
        "--repair rebuilds what is damaged from its segments"
    };
    Err(Unsound(format!("index `{name}` is not healthy; {hint}")).into())
}

#[cfg(test)]
mod tests;
