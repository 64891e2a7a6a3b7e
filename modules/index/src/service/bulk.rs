//! `SearchBulk`: Arrow batches of queries in, Arrow batches of hits out; each batch is answered by
//! one generation.
//!
//! A batch has a column `vector`, or `text`, or both, as the mode wants them. Invariant: a query is
//! answered as `Search` answers it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{
    Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow_cast::cast;
use arrow_schema::DataType;
use brahman_card::Fault;
use brahman_card::interface::index::{FusionChoice, SearchBulkIn, SearchBulkOut};
use brahman_card::wire::parameters;
use brahman_sidecar::bulk::BulkStream;
use brahman_sidecar::serve::UpgradedStream;
use brahman_sidecar::{Call, Reply, Scope, chain};

use super::IndexService;
use super::agent::Agent;
use super::refresh::cores;
use super::search::{
    EF_MAX, K_MAX, Mode, Ranking, SearchSource, fusion, fusion_used, is_of_model, per_document,
    search_source, unit,
};
use super::shelf::Index;
use crate::filter::{self, Filter};
use crate::fusion::ScoredRow;
use crate::generation::{Generation, SearchOptions, Selection};
use crate::query::ParsedQuery;
use crate::refresh::io_fault;
use flat_hnsw::build::in_parallel;

/// What holds for the whole conversation.
struct Terms {
    agent: Arc<Agent>,
    /// What may be named may be another by the next batch: each is judged by itself.
    scope: Scope,
    index: Arc<Index>,
    /// That the vectors must be of, if the caller says so: a migration may change it between two
    /// batches.
    model: Option<String>,
    how: SearchOptions,
    filter: Option<Filter>,
    mode: Mode,
    fusion: Option<FusionChoice>,
    literal: bool,
    per_document: Option<usize>,
}

impl IndexService {
    pub(super) fn search_bulk(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: SearchBulkIn = call.parameters()?;
        if !call.upgrade {
            return Err(Fault::invalid_parameter(
                "upgrade",
                "SearchBulk leaves Varlink for Arrow frames: call it with `upgrade`",
            ));
        }
        let index = self.index(&ask.index)?;
        let mode = Mode::parse(ask.mode.as_deref())?;
        let SearchSource { generation, degraded, partial } = search_source(&index, mode)?;
        is_of_model(&ask.index, ask.model.as_ref(), &generation.manifest.model)?;
        let k = ask.k.unwrap_or(10);
        if !(1..=K_MAX).contains(&k) {
            return Err(Fault::invalid_parameter("k", format!("{k}, expected 1 to {K_MAX}")));
        }
        if let Some(ef) = ask.ef.filter(|ef| !(1..=EF_MAX).contains(ef)) {
            return Err(Fault::invalid_parameter("ef", format!("{ef}, expected 1 to {EF_MAX}")));
        }
        let filter = ask
            .filter
            .as_ref()
            .map(Filter::parse)
            .transpose()
            .map_err(|e| Fault::invalid_parameter("filter", e))?;
        let per_document = per_document(ask.per_document)?;
        let fused = fusion(ask.fusion.as_ref(), &index, &generation, mode)?;
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let exact = ask.exact.unwrap_or(false) && mode != Mode::Lexical;
        let how = SearchOptions { k: number(k), ef: ask.ef.map(number), exact, threads: 1 };
        let m = &generation.manifest;
        let ef = (mode != Mode::Lexical && !exact && m.engine != "exact")
            .then_some(how.ef.unwrap_or(m.ef_search) as u64);
        let out = SearchBulkOut {
            model: m.model.name.clone(),
            fingerprint: m.model.fingerprint.clone(),
            dim: m.model.dim as u64,
            generation: m.number,
            mock: m.model.mark(),
            engine: Some(if exact { "exact".to_owned() } else { m.engine.clone() }),
            mode: Some(mode.name().to_owned()),
            ef,
            recall: m.recall_measured.filter(|_| ef.is_some() && how.ef.is_none()),
            fusion: fusion_used(fused, mode),
            stale: Some(self.datasets.is_stale(&index.parameters.dataset, m)),
            degraded: degraded.or_else(|| generation.words_trouble()),
            rescue: Some(index.rescued()),
            partial: partial.is_some().then_some(true),
            dataset_gone: self.datasets.is_gone(&index.parameters.dataset).then_some(true),
        };
        let terms = Arc::new(Terms {
            agent: Arc::clone(&self.agent),
            scope: self.scope.clone(),
            index,
            model: ask.model,
            how,
            filter,
            mode,
            fusion: ask.fusion,
            literal: ask.literal.unwrap_or(false),
            per_document,
        });
        let uid = call.uid;
        Reply::upgrade(&out, move |upgraded| converse(upgraded, uid, terms))
    }
}

async fn converse(upgraded: UpgradedStream, uid: u32, terms: Arc<Terms>) -> io::Result<()> {
    let work = |batch: RecordBatch| {
        let terms = Arc::clone(&terms);
        async move {
            tokio::task::spawn_blocking(move || terms.answer(&batch))
                .await
                .map_err(|e| Fault::internal(chain(&e)))?
        }
    };
    BulkStream::of(upgraded, uid).answer(work).await
}

/// The queries' vectors, of length 1.
fn vectors(batch: &RecordBatch, dim: usize) -> Result<Vec<Vec<f32>>, Fault> {
    let expected = || {
        let what = format!(
            "expected a column `vector` of FixedSizeList<Float32> of {dim} numbers, without nulls"
        );
        Fault::invalid_parameter("vector", what)
    };
    let lists = batch
        .column_by_name("vector")
        .and_then(|c| c.as_fixed_size_list_opt())
        .ok_or_else(expected)?;
    let values = lists.values().as_primitive_opt::<Float32Type>().ok_or_else(expected)?;
    // An index that never had a vector has none of any length.
    if dim == 0
        || lists.null_count() > 0
        || values.null_count() > 0
        || values.len() != lists.len() * dim
    {
        return Err(expected());
    }
    values.values().chunks_exact(dim).map(|q| unit(q.to_vec())).collect()
}

/// The queries in words, each of which has one.
fn texts(batch: &RecordBatch, literal: bool) -> Result<Vec<ParsedQuery>, Fault> {
    let expected =
        || Fault::invalid_parameter("text", "expected a column `text` of texts, without nulls");
    let column = batch
        .column_by_name("text")
        .filter(|column| column.null_count() == 0)
        .ok_or_else(expected)?;
    if !matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Err(expected());
    }
    let column = cast(column, &DataType::Utf8).map_err(|e| Fault::internal(chain(&e)))?;
    let parsed = |(row, text): (usize, Option<&str>)| {
        let text = text.unwrap_or_default();
        parameters::has_words(format_args!("text[{row}]"), text)?;
        match literal {
            true => Ok(ParsedQuery::literal(text)),
            false => ParsedQuery::read(text).map_err(|e| Fault::invalid_parameter("text", e)),
        }
    };
    column.as_string::<i32>().iter().enumerate().map(parsed).collect()
}

impl Terms {
    fn answer(&self, batch: &RecordBatch) -> Result<RecordBatch, Fault> {
        self.scope.index(&self.index.parameters.name)?;
        self.agent.searched();
        let SearchSource { generation, .. } = search_source(&self.index, self.mode)?;
        is_of_model(&self.index.parameters.name, self.model.as_ref(), &generation.manifest.model)?;
        let source = &self.index.parameters.dataset;
        let filtered =
            self.filter.as_ref().map(|f| filter::allowed(f, &generation, source)).transpose();
        let filtered = filtered.map_err(|e| e.fault(&self.index.parameters.name))?;
        let found = self.found(batch, &generation, filtered.as_ref())?;
        let hits: Vec<(u32, ScoredRow)> = found
            .into_iter()
            .zip(0_u32..)
            .flat_map(|(found, query)| found.into_iter().map(move |f| (query, f)))
            .collect();
        let numbers: Vec<u32> = hits.iter().map(|(_, f)| f.row).collect();
        let rows = generation.rows(&numbers).map_err(|e| io_fault("fetching the hits", &e))?;
        let ends = rows.iter().map(|r| r.start + r.text.len() as u64);
        // Whether a column may have nulls is the same for every batch.
        let columns: [(&str, ArrayRef, bool); 11] = [
            (
                "query",
                Arc::new(hits.iter().map(|(query, _)| *query).collect::<UInt32Array>()),
                false,
            ),
            (
                "doc_id",
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.doc_id))),
                false,
            ),
            ("chunk", Arc::new(rows.iter().map(|r| r.chunk).collect::<UInt32Array>()), false),
            ("start", Arc::new(rows.iter().map(|r| r.start).collect::<UInt64Array>()), false),
            ("text", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.text))), false),
            ("score", Arc::new(hits.iter().map(|(_, f)| f.score).collect::<Float32Array>()), false),
            (
                "generation",
                Arc::new(hits.iter().map(|_| generation.manifest.number).collect::<UInt64Array>()),
                false,
            ),
            ("end", Arc::new(ends.collect::<UInt64Array>()), false),
            ("line", Arc::new(rows.iter().map(|r| r.line).collect::<UInt64Array>()), false),
            (
                "cosine",
                Arc::new(hits.iter().map(|(_, f)| f.cosine).collect::<Float32Array>()),
                true,
            ),
            ("bm25", Arc::new(hits.iter().map(|(_, f)| f.bm25).collect::<Float32Array>()), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| Fault::internal(chain(&e)))
    }

    /// The best rows of every query of a batch.
    fn found(
        &self,
        batch: &RecordBatch,
        generation: &Arc<Generation>,
        filtered: Option<&Selection>,
    ) -> Result<Vec<Vec<ScoredRow>>, Fault> {
        let dim = generation.manifest.model.dim;
        let fusion = fusion(self.fusion.as_ref(), &self.index, generation, self.mode)?;
        let ranking =
            |queries: Vec<Vec<f32>>, asked: Option<ParsedQuery>, threads: usize| Ranking {
                index: Arc::clone(&self.index),
                generation: Arc::clone(generation),
                queries,
                asked,
                mode: self.mode,
                fusion,
                per_document: self.per_document,
                how: self.how.clone(),
                threads,
                left_out: AtomicU64::new(0),
            };
        if self.mode == Mode::Semantic {
            let ranking = ranking(vectors(batch, dim)?, None, cores());
            return ranking.ranked(&ranking.allowed(filtered)?);
        }
        let vectors = if self.mode == Mode::Hybrid { vectors(batch, dim)? } else { Vec::new() };
        let texts = texts(batch, self.literal)?;
        let one = |query: usize| -> Result<Vec<ScoredRow>, Fault> {
            let ranking = ranking(
                vectors.get(query).cloned().into_iter().collect(),
                Some(texts[query].clone()),
                1,
            );
            Ok(ranking.ranked(&ranking.allowed(filtered)?)?.pop().unwrap_or_default())
        };
        in_parallel(texts.len(), cores(), || (), |(), query| one(query)).into_iter().collect()
    }
}
