//! `Search` and `Get`: a query's way through embedding, filter, engine and words to hits, and those to a reranker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::index::{Elapsed, GetIn, GetOut, Hit, SearchIn, SearchOut, error};
use brahman_sidecar::{Call, Reply, chain};

use super::IndexService;
use super::refresh::cores;
use super::shelf::Index;
use crate::embedder::{self, Model};
use crate::filter::{self, Filter};
use crate::generation::{Generation, SearchOptions, Selection};
use crate::lexical::fuse;
use crate::refresh::io_fault;
use crate::reranker::{RerankPlan, RerankedHits};
use crate::rows::Row;
use crate::threads::caught;
use flat_hnsw::build::in_parallel;
use flat_hnsw::kernel::dot;
use flat_hnsw::store::Neighbour;

/// Most hits one query may ask for.
pub(super) const K_MAX: u64 = 10_000;
/// Most queries in one call.
const QUERIES_MAX: usize = 10_000;
/// Hits of each list that are fused, for each hit wanted.
const FUSED_PER_HIT: usize = 4;
/// Fewer queries are answered on the thread that took the call: handing over costs more than a search.
const QUERIES_INLINE: usize = 1;

/// And only searches that take some tens of microseconds: others would keep every caller waiting.
const EF_INLINE: usize = 256;
/// Rows appended since the base was made are compared one by one.
const APPENDED_INLINE: usize = 8192;
/// Most candidates kept on the way.
pub(super) const EF_MAX: u64 = 65_536;

/// What the hits are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Semantic,
    Lexical,
    Hybrid,
}

impl Mode {
    fn parse(mode: Option<&str>) -> Result<Self, Fault> {
        match mode {
            None | Some("semantic") => Ok(Self::Semantic),
            Some("lexical") => Ok(Self::Lexical),
            Some("hybrid") => Ok(Self::Hybrid),
            Some(other) => Err(Fault::invalid_parameter("mode", format!("`{other}`, expected semantic, lexical or hybrid"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Lexical => "lexical",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Everything that the blocking part needs.
struct Job {
    index: Arc<Index>,
    generation: Arc<Generation>,
    source: String,
    queries: Vec<Vec<f32>>,
    text: Option<String>,
    filter: Option<Filter>,
    mode: Mode,
    how: SearchOptions,
    threads: usize,
}

struct SearchOutcome {
    results: Vec<Vec<Hit>>,
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
        return Err(Fault::invalid_parameter("vectors", format!("{} queries, expected at most {QUERIES_MAX}", queries.len())));
    }
    let of_dim = |query: Vec<f32>| {
        if query.len() == model.dim {
            return unit(query);
        }
        let message = format!("the index holds vectors of {} numbers ({}), the query has {}", model.dim, model.name, query.len());
        let got = format!("{} numbers", query.len());
        Err(Fault::of(&error::ModelMismatch { wanted: model.fingerprint.clone(), got }, false, message))
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

/// That the index's vectors are of the model that the search asks for, if it asks for one.
fn is_of_model(ask: &SearchIn, model: &Model) -> Result<(), Fault> {
    let Some(wanted) = ask.model.as_ref().filter(|wanted| **wanted != model.name && **wanted != model.fingerprint) else { return Ok(()) };
    let index = &ask.index;
    let message = format!(
        "index `{index}` holds vectors of {}, not of {wanted}: `brahman index migrate {index} --model {wanted}` embeds it with that",
        model.name
    );
    Err(Fault::of(&error::ModelMismatch { wanted: wanted.clone(), got: model.name.clone() }, false, message))
}

/// How each query is searched, and on how many threads all of them may be. A single query has more than one only if the caller named a
/// number, or all rows are compared.
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
        let generation = &*self.generation;
        let damaged = |error: std::io::Error| Fault::of(&error::Damaged { name: self.index.parameters.name.clone() }, false, chain(&error));
        let started = Instant::now();
        let filtered = match &self.filter {
            Some(filter) => Some(filter::allowed(filter, generation, &self.source).map_err(|e| e.fault(&self.index.parameters.name))?),
            None => None,
        };
        let allowed: Selection = generation.allowed(filtered.as_ref());
        let filter = started.elapsed();
        let wide = SearchOptions { k: self.how.k * if self.mode == Mode::Hybrid { FUSED_PER_HIT } else { 1 }, ..self.how.clone() };
        let near = |query: &Vec<f32>| generation.search(query, &wide, &allowed);
        let words = |text: &str| generation.words(text, wide.k, &allowed).map_err(damaged);
        let found: Vec<Vec<Neighbour>> = match (self.mode, &self.text) {
            (Mode::Lexical, Some(text)) => vec![words(text)?],
            (Mode::Hybrid, Some(text)) => {
                let (near, words) = (self.queries.iter().flat_map(near).collect::<Vec<_>>(), words(text)?);
                vec![fuse(&[&near, &words], self.how.k)]
            }
            _ if self.queries.len() <= QUERIES_INLINE => self.queries.iter().map(near).collect(),
            _ if self.how.exact => {
                let queries: Vec<&[f32]> = self.queries.iter().map(Vec::as_slice).collect();
                generation.exact_many(&queries, self.how.k, self.threads, &allowed)
            }
            _ => in_parallel(self.queries.len(), self.threads, || (), |(), i| near(&self.queries[i])),
        };
        let search = started.elapsed() - filter;
        if self.mode == Mode::Semantic && !self.how.exact {
            for (query, found) in self.queries.iter().zip(&found) {
                self.index.shadow(&self.generation, query, self.how.k, &allowed, found);
            }
        }
        let hits = |found: &Vec<Neighbour>| -> Result<Vec<Hit>, Fault> {
            let numbers: Vec<u32> = found.iter().map(|f| f.row).collect();
            let rows = generation.rows(&numbers).map_err(|e| io_fault("fetching a hit", &e))?;
            Ok(rows.iter().zip(found).map(|(row, f)| hit(row, f.score)).collect())
        };
        let results = found.iter().map(hits).collect::<Result<Vec<_>, _>>()?;
        Ok(SearchOutcome { results, filter, search, fetch: started.elapsed() - filter - search })
    }
}

fn hit(row: &Row<'_>, score: f32) -> Hit {
    Hit {
        doc_id: row.doc_id.to_owned(),
        chunk: row.chunk.into(),
        start: row.start,
        end: row.start + row.text.len() as u64,
        line: row.line,
        text: row.text.to_owned(),
        score,
        search_score: None,
    }
}

impl IndexService {
    pub(super) async fn search(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        self.agent.searched();
        let ask = SearchIn::read(call.raw_parameters())?;
        let index = self.index(&ask.index)?;
        let mode = Mode::parse(ask.mode.as_deref())?;
        let (generation, degraded, partial) = match index.current() {
            Ok((generation, degraded)) => (generation, degraded, None),
            Err(fault) => match index.partial(mode == Mode::Lexical) {
                Some((generation, partial)) => (generation, None, Some(partial)),
                None => return Err(fault),
            },
        };
        let model = generation.manifest.model.clone();
        is_of_model(&ask, &model)?;
        let k = hits_wanted(&ask)?;
        let filter = ask.filter.as_ref().map(Filter::parse).transpose().map_err(|e| Fault::invalid_parameter("filter", e))?;
        let rerank = ask.rerank.clone().map(|step| RerankPlan::of(step, ask.text.as_deref(), k, call.context.clone(), call.deadline));
        let rerank = rerank.transpose()?;
        let (how, threads) = options(&ask, mode, rerank.as_ref().map_or(k, |plan| plan.candidates));
        let (mut provider, mut truncated) = (None, None);
        let text = ask.text.clone();
        let queries = match (ask.text, ask.vector, ask.vectors) {
            (Some(_), None, None) if mode == Mode::Lexical => Vec::new(),
            (Some(text), None, None) => {
                if index.parameters.vector_column.is_some() && index.parameters.model.is_none() {
                    let message = format!("index `{}` holds its dataset's own vectors; search it by vector", ask.index);
                    return Err(Fault::of(&error::ModelMismatch { wanted: model.fingerprint, got: String::new() }, false, message));
                }
                let (vector, by, cut) =
                    embedder::query(&self.client, &model, &text).await.map_err(|fault| embedder::explained(fault, &model, &ask.index))?;
                (provider, truncated) = (by, Some(cut));
                vec![vector]
            }
            (None, Some(vector), None) if mode == Mode::Semantic => vec![vector],
            (None, None, Some(vectors)) if mode == Mode::Semantic => vectors,
            (None, _, _) if mode != Mode::Semantic => {
                return Err(Fault::invalid_parameter("text", format!("a {} search needs the query as text", mode.name())));
            }
            _ => return Err(Fault::invalid_parameter("text, vector, vectors", "expected exactly one of them")),
        };
        let checked = units(queries, &model)?;
        let embedded = started.elapsed();
        let engine = if how.exact { "exact".to_owned() } else { generation.manifest.engine.clone() };
        let short =
            how.k.max(how.ef.unwrap_or(generation.manifest.ef_search)) <= EF_INLINE && generation.delta.rows.len() <= APPENDED_INLINE;
        let quick = checked.len() <= QUERIES_INLINE && mode == Mode::Semantic && filter.is_none() && engine != "exact" && short;
        let source = index.parameters.dataset.clone();
        let job = Job {
            index: Arc::clone(&index),
            generation: Arc::clone(&generation),
            source,
            queries: checked,
            text,
            filter,
            mode,
            how,
            threads,
        };
        let done = if quick {
            // Some tens of microseconds: less than handing it to another thread would take.
            caught("the search", || job.run())??
        } else {
            tokio::task::spawn_blocking(move || job.run()).await.map_err(|e| Fault::internal(chain(&e)))??
        };
        let found = Instant::now();
        let (mut results, mut reranked) = (done.results, None);
        if let Some(plan) = rerank {
            // A query in words has one list.
            let RerankedHits { hits, report } = plan.run(&self.client, results.pop().unwrap_or_default()).await?;
            results.push(hits);
            reranked = Some((report, found.elapsed()));
        }
        let (reranked, reranking) = reranked.unzip();
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Reply::of(&SearchOut {
            results,
            generation: generation.manifest.number,
            engine,
            mode: mode.name().into(),
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
            embedded: partial.as_ref().map(|partial| partial.done),
            to_embed: partial.map(|partial| partial.of),
            reranked,
        })
    }

    pub(super) async fn get(&self, call: &Call) -> Result<Reply, Fault> {
        let GetIn { index, doc_id } = call.parameters()?;
        let (generation, _) = self.index(&index)?.current()?;
        let number = generation.manifest.number;
        let find = move || -> Result<Vec<Hit>, Fault> {
            let mut chunks = Vec::new();
            for number in generation.live_rows() {
                let row = generation.row(number).map_err(|e| io_fault("reading the index", &e))?;
                if row.doc_id == doc_id {
                    chunks.push(hit(&row, 0.0));
                }
            }
            chunks.sort_by_key(|c| c.chunk);
            Ok(chunks)
        };
        let chunks = tokio::task::spawn_blocking(find).await.map_err(|e| Fault::internal(chain(&e)))??;
        Reply::of(&GetOut { chunks, generation: number })
    }
}
