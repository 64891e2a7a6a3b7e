//! `SearchBulk`: Arrow batches of query vectors in, Arrow batches of hits out; each batch is answered by one generation.

use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use brahman_card::Fault;
use brahman_card::interface::index::{SearchBulkIn, SearchBulkOut};
use brahman_sidecar::bulk::BulkStream;
use brahman_sidecar::serve::UpgradedStream;
use brahman_sidecar::{Call, Reply, chain};

use super::IndexService;
use super::agent::Agent;
use super::refresh::cores;
use super::search::{EF_MAX, K_MAX, is_of_model, unit};
use super::shelf::Index;
use crate::filter::{self, Filter};
use crate::generation::SearchOptions;
use crate::refresh::io_fault;
use flat_hnsw::build::in_parallel;

/// What holds for the whole conversation.
struct Terms {
    agent: Arc<Agent>,
    index: Arc<Index>,
    /// That the vectors must be of, if the caller says so: a migration may change it between two batches.
    model: Option<String>,
    how: SearchOptions,
    filter: Option<Filter>,
}

impl IndexService {
    pub(super) fn search_bulk(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: SearchBulkIn = call.parameters()?;
        if !call.upgrade {
            return Err(Fault::invalid_parameter("upgrade", "SearchBulk leaves Varlink for Arrow frames: call it with `upgrade`"));
        }
        let index = self.index(&ask.index)?;
        let (generation, _) = index.current()?;
        is_of_model(&ask.index, ask.model.as_ref(), &generation.manifest.model)?;
        let k = ask.k.unwrap_or(10);
        if !(1..=K_MAX).contains(&k) {
            return Err(Fault::invalid_parameter("k", format!("{k}, expected 1 to {K_MAX}")));
        }
        if let Some(ef) = ask.ef.filter(|ef| !(1..=EF_MAX).contains(ef)) {
            return Err(Fault::invalid_parameter("ef", format!("{ef}, expected 1 to {EF_MAX}")));
        }
        let filter = ask.filter.as_ref().map(Filter::parse).transpose().map_err(|e| Fault::invalid_parameter("filter", e))?;
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let how = SearchOptions { k: number(k), ef: ask.ef.map(number), exact: ask.exact.unwrap_or(false), threads: 1 };
        let m = &generation.manifest;
        let out = SearchBulkOut {
            model: m.model.name.clone(),
            fingerprint: m.model.fingerprint.clone(),
            dim: m.model.dim as u64,
            generation: m.number,
            mock: m.model.mark(),
        };
        let terms = Arc::new(Terms { agent: Arc::clone(&self.agent), index, model: ask.model, how, filter });
        let uid = call.uid;
        Reply::upgrade(&out, move |upgraded| converse(upgraded, uid, terms))
    }
}

async fn converse(upgraded: UpgradedStream, uid: u32, terms: Arc<Terms>) -> io::Result<()> {
    let work = |batch: RecordBatch| {
        let terms = Arc::clone(&terms);
        async move { tokio::task::spawn_blocking(move || terms.answer(&batch)).await.map_err(|e| Fault::internal(chain(&e)))? }
    };
    BulkStream::of(upgraded, uid).answer(work).await
}

impl Terms {
    fn answer(&self, batch: &RecordBatch) -> Result<RecordBatch, Fault> {
        self.agent.searched();
        let (generation, _) = self.index.current()?;
        is_of_model(&self.index.parameters.name, self.model.as_ref(), &generation.manifest.model)?;
        let dim = generation.manifest.model.dim;
        let expected = || {
            Fault::invalid_parameter(
                "vector",
                format!("expected a column `vector` of FixedSizeList<Float32> of {dim} numbers, without nulls"),
            )
        };
        let lists = batch.column_by_name("vector").and_then(|c| c.as_fixed_size_list_opt()).ok_or_else(expected)?;
        let values = lists.values().as_primitive_opt::<Float32Type>().ok_or_else(expected)?;
        if lists.null_count() > 0 || values.null_count() > 0 || values.len() != lists.len() * dim {
            return Err(expected());
        }
        let queries: Vec<Vec<f32>> = values.values().chunks_exact(dim).map(|q| unit(q.to_vec())).collect::<Result<_, _>>()?;
        let source = &self.index.parameters.dataset;
        let filtered = self.filter.as_ref().map(|f| filter::allowed(f, &generation, source)).transpose();
        let allowed = generation.allowed(filtered.map_err(|e| e.fault(&self.index.parameters.name))?.as_ref());
        let found = if self.how.exact {
            let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
            generation.exact_many(&queries, self.how.k, cores(), &allowed)
        } else {
            in_parallel(queries.len(), cores(), || (), |(), i| generation.search(&queries[i], &self.how, &allowed))
        };
        let hits: Vec<(u32, _)> =
            found.into_iter().zip(0_u32..).flat_map(|(found, query)| found.into_iter().map(move |f| (query, f))).collect();
        let numbers: Vec<u32> = hits.iter().map(|(_, f)| f.row).collect();
        let rows = generation.rows(&numbers).map_err(|e| io_fault("fetching the hits", &e))?;
        let columns: [(&str, ArrayRef); 7] = [
            ("query", Arc::new(hits.iter().map(|(query, _)| *query).collect::<UInt32Array>())),
            ("doc_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.doc_id)))),
            ("chunk", Arc::new(rows.iter().map(|r| r.chunk).collect::<UInt32Array>())),
            ("start", Arc::new(rows.iter().map(|r| r.start).collect::<UInt64Array>())),
            ("text", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.text)))),
            ("score", Arc::new(hits.iter().map(|(_, f)| f.score).collect::<Float32Array>())),
            ("generation", Arc::new(hits.iter().map(|_| generation.manifest.number).collect::<UInt64Array>())),
        ];
        RecordBatch::try_from_iter(columns).map_err(|e| Fault::internal(chain(&e)))
    }
}
