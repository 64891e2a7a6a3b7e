//! `Search` and `Get`: a query's way through embedding, filter, engine and words to hits, and those
//! to a reranker.
//!
//! [`ranking`] orders the rows.

mod ranking;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::index::{
    Elapsed, FusionChoice, FusionUsed, GetIn, GetOut, Hit, Mark, Passage, SearchIn, SearchOut,
    error,
};
use brahman_card::wire::parameters;
use brahman_sidecar::{Call, Reply, chain};
use flat_hnsw::kernel::dot;
use flat_hnsw::store::Neighbour;

use super::IndexService;
use super::agent::Agent;
use super::refresh::cores;
use super::shadow::LiveQuery;
use super::shelf::Index;
use crate::cutter::heading;
use crate::embedder::{self, Model};
use crate::filter::{self, Filter};
use crate::fusion::{Fusion, Method, ScoredRow};
use crate::generation::{Generation, SearchOptions};
use crate::partial::PartialIndex;
use crate::passage::Marker;
use crate::query::ParsedQuery;
use crate::refresh::io_fault;
use crate::reranker::{RerankPlan, RerankedHits};
use crate::rows::Row;
use crate::threads::caught;
pub(super) use ranking::Ranking;

/// Most hits one query may ask for.
pub(super) const K_MAX: u64 = 10_000;
/// Most queries in one call.
const QUERIES_MAX: usize = 10_000;
/// Fewer queries are answered on the thread that took the call: handing over costs more than a
/// search.
const QUERIES_INLINE: usize = 1;

/// And only searches that take some tens of microseconds: others would keep every caller waiting.
const EF_INLINE: usize = 256;
/// Rows appended since the base was made are compared one by one, until they are linked.
const APPENDED_INLINE: usize = 8192;
/// Most candidates kept on the way.
pub(super) const EF_MAX: u64 = 65_536;

/// What the hits are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Semantic,
    Lexical,
    Hybrid,
}

impl Mode {
    pub(super) fn parse(mode: Option<&str>) -> Result<Self, Fault> {
        match mode {
            None | Some("semantic") => Ok(Self::Semantic),
            Some("lexical") => Ok(Self::Lexical),
            Some("hybrid") => Ok(Self::Hybrid),
            Some(other) => Err(Fault::invalid_parameter(
                "mode",
                format!("`{other}`, expected semantic, lexical or hybrid"),
            )),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Lexical => "lexical",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Everything that the blocking part needs.
struct Job {
    agent: Arc<Agent>,
    source: String,
    filter: Option<Filter>,
    passages: bool,
    ranking: Ranking,
}

struct SearchOutcome {
    results: Vec<Vec<Hit>>,
    left_out: u64,
    filter: Duration,
    search: Duration,
    fetch: Duration,
}

/// A vector scaled to length 1, or what is wrong with it.
pub(super) fn unit(mut vector: Vec<f32>) -> Result<Vec<f32>, Fault> {
    let norm = dot(&vector, &vector).sqrt();
    if !norm.is_finite() || norm < f32::MIN_POSITIVE {
        let message = "its length is zero or not finite: it has no direction";
        return Err(Fault::invalid_parameter("vector", message));
    }
    // Left as it is if it is of length 1 already, so that its products are the caller's own.
    if (norm - 1.0).abs() > 1e-6 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    Ok(vector)
}

/// Queries scaled to length 1, if they are vectors such as the index's.
fn units(queries: Vec<Vec<f32>>, model: &Model) -> Result<Vec<Vec<f32>>, Fault> {
    if queries.len() > QUERIES_MAX {
        return Err(Fault::invalid_parameter(
            "vectors",
            format!("{} queries, expected at most {QUERIES_MAX}", queries.len()),
        ));
    }
    let of_dim = |query: Vec<f32>| {
        if query.len() == model.dim {
            return unit(query);
        }
        let message = format!(
            "the index holds vectors of {} numbers ({}), the query has {}",
            model.dim,
            model.name,
            query.len()
        );
        let got = format!("{} numbers", query.len());
        Err(Fault::of(
            &error::ModelMismatch { wanted: model.fingerprint.clone(), got },
            false,
            message,
        ))
    };
    queries.into_iter().map(of_dim).collect()
}

/// How many hits a search wants, if it and the candidates are within bounds.
fn hits_wanted(ask: &SearchIn) -> Result<u64, Fault> {
    let k = ask.k.unwrap_or(10);
    if !(1..=K_MAX).contains(&k) {
        return Err(Fault::invalid_parameter("k", format!("{k}, expected 1 to {K_MAX}")));
    }
    match ask.ef.filter(|ef| !(1..=EF_MAX).contains(ef)) {
        Some(ef) => Err(Fault::invalid_parameter("ef", format!("{ef}, expected 1 to {EF_MAX}"))),
        None => Ok(k),
    }
}

/// How many hits one document may have.
pub(super) fn per_document(most: Option<u64>) -> Result<Option<usize>, Fault> {
    match most {
        Some(0) => Err(Fault::invalid_parameter("per_document", "0, expected at least 1")),
        most => Ok(most.map(|most| usize::try_from(most).unwrap_or(usize::MAX))),
    }
}

/// How lists are fused: as the search says, else the index. One whose words were made before there
/// was a choice answers as it did.
pub(super) fn fusion(
    wish: Option<&FusionChoice>,
    index: &Index,
    generation: &Generation,
    mode: Mode,
) -> Result<Fusion, Fault> {
    let is_old = mode == Mode::Hybrid && generation.analyser().version() == 0;
    let otherwise = if is_old { Method::Reciprocal } else { Method::Weighted };
    Fusion::of(wish, index.parameters.fusion.as_ref(), otherwise)
        .map_err(|e| Fault::invalid_parameter("fusion", e))
}

/// What a reply says of it.
pub(super) fn fusion_used(fusion: Fusion, mode: Mode) -> Option<FusionUsed> {
    (mode == Mode::Hybrid).then(|| FusionUsed {
        method: fusion.method.name().to_owned(),
        weight: f64::from(fusion.weight),
    })
}

/// What answers a search.
pub(super) struct SearchSource {
    pub(super) generation: Arc<Generation>,
    /// Why it is another than the current one.
    pub(super) degraded: Option<String>,
    /// How far the first refresh is, where that is all there is.
    pub(super) partial: Option<PartialIndex>,
}

/// The generation that answers, or what a first refresh has so far.
pub(super) fn search_source(index: &Index, mode: Mode) -> Result<SearchSource, Fault> {
    match index.current() {
        Ok((generation, degraded)) => Ok(SearchSource { generation, degraded, partial: None }),
        Err(fault) => match index.partial(mode == Mode::Lexical) {
            Some((generation, partial)) => {
                Ok(SearchSource { generation, degraded: None, partial: Some(partial) })
            }
            None => Err(fault),
        },
    }
}

/// That the index's vectors are of the model that the search asks for, if it asks for one.
pub(super) fn is_of_model(
    index: &str,
    wanted: Option<&String>,
    model: &Model,
) -> Result<(), Fault> {
    let Some(wanted) =
        wanted.filter(|wanted| **wanted != model.name && **wanted != model.fingerprint)
    else {
        return Ok(());
    };
    let message = format!(
        "index `{index}` holds vectors of {}, not of {wanted}: `brahman index migrate {index} --model {wanted}` embeds it with that",
        model.name
    );
    Err(Fault::of(
        &error::ModelMismatch { wanted: wanted.clone(), got: model.name.clone() },
        false,
        message,
    ))
}

/// How each query is searched, and on how many threads all of them may be. A single query has more
/// than one only if the caller named a number, or all rows are compared.
fn options(ask: &SearchIn, mode: Mode, k: u64) -> (SearchOptions, usize) {
    let cores = cores();
    let threads = ask.threads.map_or(cores, |t| usize::try_from(t).unwrap_or(cores)).clamp(1, 64);
    let exact = ask.exact.unwrap_or(false) && mode != Mode::Lexical;
    let how = SearchOptions {
        k: usize::try_from(k).unwrap_or(usize::MAX),
        ef: ask.ef.map(|ef| usize::try_from(ef).unwrap_or(usize::MAX)),
        exact,
        threads: if ask.threads.is_some() || exact { threads } else { 1 },
    };
    (how, threads)
}

impl Job {
    fn run(&self) -> Result<SearchOutcome, Fault> {
        let Ranking { index, generation, asked, how, .. } = &self.ranking;
        let started = Instant::now();
        let filtered = match &self.filter {
            Some(filter) => Some(
                filter::allowed(filter, generation, &self.source)
                    .map_err(|e| e.fault(&index.parameters.name))?,
            ),
            None => None,
        };
        let allowed = self.ranking.allowed(filtered.as_ref())?;
        let filter = started.elapsed();
        let found = self.ranking.ranked(&allowed)?;
        let search = started.elapsed() - filter;
        // What somebody asked for otherwise says nothing of what was promised.
        if self.ranking.mode == Mode::Semantic
            && !how.exact
            && how.ef.is_none()
            && self.ranking.per_document.is_none()
        {
            for (query, found) in self.ranking.queries.iter().zip(&found) {
                let found: Vec<Neighbour> =
                    found.iter().map(|f| Neighbour { row: f.row, score: f.score }).collect();
                let asked = LiveQuery {
                    vector: query,
                    k: how.k,
                    filter: self.filter.as_ref(),
                    allowed: &allowed,
                };
                index.shadow(&self.agent, generation, &asked, &found);
            }
        }
        let mut marker = asked
            .as_ref()
            .filter(|_| self.passages)
            .map(|asked| Marker::of(&asked.text, &generation.analyser()));
        let hits = |found: &Vec<ScoredRow>| -> Result<Vec<Hit>, Fault> {
            let numbers: Vec<u32> = found.iter().map(|f| f.row).collect();
            let rows = generation.rows(&numbers).map_err(|e| io_fault("fetching a hit", &e))?;
            let mut hits: Vec<Hit> = rows.iter().zip(found).map(|(row, f)| hit(row, f)).collect();
            if let Some(marker) = &mut marker {
                rows.iter()
                    .zip(&mut hits)
                    .for_each(|(row, hit)| hit.passage = Some(passage(marker, row.text)));
            }
            Ok(hits)
        };
        let results = found.iter().map(hits).collect::<Result<Vec<_>, _>>()?;
        let left_out = self.ranking.left_out.load(Ordering::Relaxed);
        Ok(SearchOutcome {
            results,
            left_out,
            filter,
            search,
            fetch: started.elapsed() - filter - search,
        })
    }
}

fn hit(row: &Row<'_>, scored: &ScoredRow) -> Hit {
    Hit {
        doc_id: row.doc_id.to_owned(),
        chunk: row.chunk.into(),
        start: row.start,
        end: row.start + row.text.len() as u64,
        line: row.line,
        text: row.text.to_owned(),
        score: scored.score,
        cosine: scored.cosine,
        bm25: scored.bm25,
        heading: Some(heading(row.doc_id, row.context))
            .filter(|heading| !heading.is_empty())
            .map(str::to_owned),
        passage: None,
        search_score: None,
    }
}

/// What of a text is read first.
fn passage(marker: &mut Marker, text: &str) -> Passage {
    let found = marker.passage(text);
    let marks =
        found.marks.iter().map(|mark| Mark { start: mark.start as u64, end: mark.end as u64 });
    Passage { text: found.text.to_owned(), marks: marks.collect() }
}

impl IndexService {
    pub(super) async fn search(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        self.agent.searched();
        let ask = SearchIn::read(call.raw_parameters())?;
        let index = self.index(&ask.index)?;
        let mode = Mode::parse(ask.mode.as_deref())?;
        let SearchSource { generation, degraded, partial } = search_source(&index, mode)?;
        let model = generation.manifest.model.clone();
        is_of_model(&ask.index, ask.model.as_ref(), &model)?;
        let k = hits_wanted(&ask)?;
        let filter = ask
            .filter
            .as_ref()
            .map(Filter::parse)
            .transpose()
            .map_err(|e| Fault::invalid_parameter("filter", e))?;
        if let Some(text) = &ask.text {
            parameters::has_words("text", text)?;
        }
        let rerank = ask.rerank.clone().map(|step| {
            RerankPlan::of(step, ask.text.as_deref(), k, call.context.clone(), call.deadline)
        });
        let rerank = rerank.transpose()?;
        let (how, threads) = options(&ask, mode, rerank.as_ref().map_or(k, |plan| plan.candidates));
        let per_document = per_document(ask.per_document)?;
        let fusion = fusion(ask.fusion.as_ref(), &index, &generation, mode)?;
        let (mut provider, mut truncated) = (None, None);
        let asked = match &ask.text {
            Some(text) if mode != Mode::Semantic && !ask.literal.unwrap_or(false) => {
                Some(ParsedQuery::read(text).map_err(|e| Fault::invalid_parameter("text", e))?)
            }
            text => text.as_deref().map(ParsedQuery::literal),
        };
        let queries = match (&asked, ask.vector, ask.vectors) {
            (Some(_), None, None) if mode == Mode::Lexical => Vec::new(),
            (Some(_), Some(vector), None) if mode == Mode::Hybrid => vec![vector],
            (Some(ParsedQuery { text, .. }), None, None) => {
                if index.parameters.vector_column.is_some() && index.parameters.model.is_none() {
                    let how = if mode == Mode::Hybrid {
                        "give the query's vector beside its text"
                    } else {
                        "search it by vector"
                    };
                    let message =
                        format!("index `{}` holds its dataset's own vectors; {how}", ask.index);
                    return Err(Fault::of(
                        &error::ModelMismatch { wanted: model.fingerprint, got: String::new() },
                        false,
                        message,
                    ));
                }
                let embedded = embedder::query(&self.client, &model, text, call.deadline).await;
                let (vector, by, cut) =
                    embedded.map_err(|fault| embedder::explained(fault, &model, &ask.index))?;
                (provider, truncated) = (by, Some(cut));
                vec![vector]
            }
            (None, Some(vector), None) if mode == Mode::Semantic => vec![vector],
            (None, None, Some(vectors)) if mode == Mode::Semantic => vectors,
            (None, _, _) if mode != Mode::Semantic => {
                return Err(Fault::invalid_parameter(
                    "text",
                    format!("a {} search needs the query as text", mode.name()),
                ));
            }
            _ => {
                return Err(Fault::invalid_parameter(
                    "text, vector, vectors",
                    "expected exactly one of them",
                ));
            }
        };
        let checked = units(queries, &model)?;
        let embedded = started.elapsed();
        let graph_ef = how.ef.unwrap_or(generation.manifest.ef_search);
        let ef = (mode != Mode::Lexical && !how.exact && generation.manifest.engine != "exact")
            .then_some(graph_ef as u64);
        let recall =
            generation.manifest.recall_measured.filter(|_| ef.is_some() && how.ef.is_none());
        let engine =
            if how.exact { "exact".to_owned() } else { generation.manifest.engine.clone() };
        let short = how.k.max(how.ef.unwrap_or(generation.manifest.ef_search)) <= EF_INLINE
            && generation.delta.rows.len().saturating_sub(generation.linked_rows())
                <= APPENDED_INLINE;
        let quick = checked.len() <= QUERIES_INLINE
            && mode == Mode::Semantic
            && filter.is_none()
            && engine != "exact"
            && short;
        let source = index.parameters.dataset.clone();
        let quick = quick && per_document.is_none();
        let said = |parts: fn(&ParsedQuery) -> &Vec<String>| {
            asked.as_ref().map(|asked| parts(asked).clone()).filter(|parts| !parts.is_empty())
        };
        let (phrases, without) = (said(|asked| &asked.phrases), said(|asked| &asked.without));
        let ranking = Ranking {
            index: Arc::clone(&index),
            generation: Arc::clone(&generation),
            queries: checked,
            asked,
            mode,
            fusion,
            per_document,
            how,
            threads,
            left_out: AtomicU64::new(0),
        };
        let job = Job {
            agent: Arc::clone(&self.agent),
            source,
            filter,
            passages: ask.passages.unwrap_or(false),
            ranking,
        };
        let done = if quick {
            // Some tens of microseconds: less than handing it to another thread would take.
            caught("the search", || job.run())??
        } else {
            tokio::task::spawn_blocking(move || job.run())
                .await
                .map_err(|e| Fault::internal(chain(&e)))??
        };
        let found = Instant::now();
        let (mut results, mut reranked) = (done.results, None);
        if let Some(plan) = rerank {
            // A query in words has one list.
            let RerankedHits { hits, report } =
                plan.run(&self.client, results.pop().unwrap_or_default()).await?;
            results.push(hits);
            reranked = Some((report, found.elapsed()));
        }
        let (reranked, reranking) = reranked.unzip();
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let cut = partial.as_ref().filter(|partial| partial.is_cut);
        let uncut = partial.as_ref().filter(|partial| !partial.is_cut);
        Reply::of(&SearchOut {
            results,
            generation: generation.manifest.number,
            engine,
            mode: mode.name().into(),
            ef,
            recall,
            fusion: fusion_used(fusion, mode),
            phrases,
            without,
            words_left_out: Some(done.left_out).filter(|words| *words > 0),
            model: model.name,
            provider,
            stale: self.datasets.is_stale(&index.parameters.dataset, &generation.manifest),
            truncated,
            degraded: degraded.or_else(|| generation.words_trouble()),
            rescue: index.rescued(),
            elapsed_us: Elapsed {
                embed: us(embedded),
                filter: us(done.filter),
                search: us(done.search),
                fetch: us(done.fetch),
                total: us(started.elapsed()),
                rerank: reranking.map(us),
            },
            mock: generation.manifest.model.mark(),
            partial: partial.is_some().then_some(true),
            read: uncut.map(|partial| partial.read),
            to_read: uncut.map(|partial| partial.documents),
            embedded: cut.map(|partial| partial.done),
            to_embed: cut.map(|partial| partial.of),
            reranked,
            dataset_gone: self.datasets.is_gone(&index.parameters.dataset).then_some(true),
        })
    }

    pub(super) async fn get(&self, call: &Call) -> Result<Reply, Fault> {
        let GetIn { index, doc_id } = call.parameters()?;
        let (generation, _) = self.index(&index)?.current()?;
        let number = generation.manifest.number;
        let find = move || -> Result<Vec<Hit>, Fault> {
            let mut chunks = Vec::new();
            for number in generation.of_document(&doc_id) {
                let row = generation.row(number).map_err(|e| io_fault("reading the index", &e))?;
                chunks.push(hit(
                    &row,
                    &ScoredRow { row: number, score: 0.0, cosine: None, bm25: None },
                ));
            }
            chunks.sort_by_key(|c| c.chunk);
            Ok(chunks)
        };
        let chunks =
            tokio::task::spawn_blocking(find).await.map_err(|e| Fault::internal(chain(&e)))??;
        Reply::of(&GetOut { chunks, generation: number })
    }
}
