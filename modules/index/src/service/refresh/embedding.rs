//! The vectors of a refresh: given, at hand, from one that was cut off, or embedded now and shown
//! as they come.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_sidecar::{Call, blocking, chain};
use brahman_storage::digest::sha256;

use super::super::IndexService;
use super::super::datasets::Version;
use super::super::shelf::{FirstRefresh, Index};
use super::publishing::unnumbered;
use super::say;
use crate::cutter::embedded;
use crate::embedder::{self, Embedder, Model};
use crate::generation::Generation;
use crate::partial::{self, Growth};
use crate::pending::Pending;
use crate::refresh::{Origin, Plan, io_fault};

/// Most texts sent to the embedder at once, on each of two connections: enough that it never waits
/// for us.
const EMBED_BATCH: usize = 256;
/// The first ones, before it is known how long they take.
const EMBED_BATCH_FIRST: usize = EMBED_BATCH / 4;
/// What takes longer than this is sent in smaller parts: whoever waits wants to hear more often.
const EMBED_TIME_MAX: Duration = Duration::from_secs(3);

/// How many texts to send at once after so many took so long.
fn next_size(size: usize, took: Duration) -> usize {
    if took > EMBED_TIME_MAX {
        (size / 2).max(1)
    } else if took < EMBED_TIME_MAX / 3 {
        (size * 2).min(EMBED_BATCH)
    } else {
        size
    }
}

/// Counts of how the fresh chunks got their vectors.
#[derive(Debug, Default)]
pub(super) struct FreshVectors {
    pub(super) vectors: Vec<f32>,
    pub(super) model: Option<Model>,
    pub(super) cached: u64,
    pub(super) truncated: u64,
    pub(super) resumed: u64,
    /// Of a refresh that was cut off, what was damaged.
    pub(super) lost: u64,
    pub(super) reused: u64,
}

impl IndexService {
    /// The vectors of the fresh chunks: given, at hand, from a refresh that was cut off, or
    /// embedded now.
    pub(super) async fn vectors(
        &self,
        call: Option<&Call>,
        how: &Embedding<'_>,
        plan: &mut Plan,
        old: Option<&Generation>,
    ) -> Result<FreshVectors, Fault> {
        let (parameters, pending) =
            (&how.index.parameters, how.index.folder.path().join("pending.log"));
        // One of no rows has no vectors to be true to.
        let old = old.filter(|g| !g.is_empty());
        let bound = how.to.or(old.map(|g| &g.manifest.model));
        let mut out = FreshVectors { model: bound.cloned(), ..FreshVectors::default() };
        if parameters.vector_column.is_some() {
            out.vectors = std::mem::take(&mut plan.given);
            let dim = if plan.given_dim > 0 {
                plan.given_dim
            } else {
                old.map_or(1, |g| g.manifest.model.dim)
            };
            let own = || {
                let name = parameters.model.clone().unwrap_or_else(|| "dataset".into());
                Model { name, fingerprint: format!("dataset:{dim}"), dim, mock: false }
            };
            out.model.get_or_insert_with(own);
            return Ok(out);
        }
        let plan = &*plan;
        let to_embed: Vec<usize> =
            (0..plan.origins.len()).filter(|i| plan.origins[*i] == Origin::Embed).collect();
        let mut at_hand = AtHand::default();
        if !to_embed.is_empty() {
            let model = match &out.model {
                Some(model) => model.clone(),
                None => match how.counted_for {
                    Some(model) => model.clone(),
                    None => {
                        embedder::current_model(&self.client, parameters.model.as_deref()).await?
                    }
                },
            };
            at_hand = AtHand::new(plan.origins.len(), model.dim);
            let mut log = Pending::open(&pending, &model.fingerprint, model.dim)
                .map_err(|e| io_fault("opening pending.log", &e))?;
            out.lost = log.lost;
            let text = |i: usize| -> Result<Cow<'_, str>, Fault> {
                let row = plan.fresh.row(i).map_err(|e| io_fault("reading a chunk", &e))?;
                Ok(embedded(row.context, row.text))
            };
            let mut asked = Vec::new();
            for i in to_embed {
                let hash = sha256(text(i)?.as_bytes());
                match log.vector(&hash).map_err(|e| io_fault("reading pending.log", &e))? {
                    Some(vector) => {
                        at_hand.insert(i, &vector);
                        out.resumed += 1;
                    }
                    None => asked.push((i, hash)),
                }
            }
            let of = asked.len() as u64;
            let (mut done, mut growth) = (0, Growth::default());
            how.show(plan, &model, &at_hand, &mut growth).await?;
            let [mut one, mut two] =
                [0, 1].map(|_| Embedder::new(self.client.clone(), Some(model.clone())));
            let (mut rest, mut size) = (asked.as_slice(), EMBED_BATCH_FIRST);
            // So that what is left can be told from the first part on.
            say(call, "embed", 0, of).await?;
            while !rest.is_empty() {
                let (pair, later) = rest.split_at(rest.len().min(2 * size));
                rest = later;
                let begun = std::time::Instant::now();
                let (left, right) = pair.split_at(pair.len().min(size));
                let texts = |part: &[(usize, [u8; 32])]| {
                    part.iter().map(|(i, _)| text(*i)).collect::<Result<Vec<_>, Fault>>()
                };
                let (left_texts, right_texts) = (texts(left)?, texts(right)?);
                let left_texts: Vec<&str> = left_texts.iter().map(AsRef::as_ref).collect();
                let right_texts: Vec<&str> = right_texts.iter().map(AsRef::as_ref).collect();
                let second = async {
                    if right_texts.is_empty() {
                        Ok(None)
                    } else {
                        two.batch(&right_texts).await.map(Some)
                    }
                };
                let (first, second) = tokio::try_join!(one.batch(&left_texts), second)?;
                for (part, batch) in [(left, Some(first)), (right, second)] {
                    let Some(batch) = batch else { continue };
                    out.cached += batch.cached;
                    out.truncated += batch.truncated;
                    let vectors = batch.vectors.chunks_exact(model.dim.max(1));
                    log.add(part.iter().map(|(_, hash)| hash).zip(vectors.clone()))
                        .map_err(|e| io_fault("writing pending.log", &e))?;
                    part.iter()
                        .zip(vectors)
                        .for_each(|((i, _), vector)| at_hand.insert(*i, vector));
                }
                size = next_size(size, begun.elapsed());
                done += pair.len() as u64;
                how.show(plan, &model, &at_hand, &mut growth).await?;
                say(call, "embed", done, of).await?;
            }
            out.model = Some(model);
        }
        if at_hand.of == 0 {
            at_hand = AtHand::new(plan.origins.len(), old.map_or(0, |old| old.manifest.model.dim));
        }
        for (i, origin) in plan.origins.iter().enumerate() {
            if let (Origin::Old(row), Some(old)) = (origin, old) {
                out.reused += 1;
                at_hand.insert(i, old.vector(*row));
            }
        }
        out.vectors = at_hand.numbers;
        Ok(out)
    }
}

/// The vectors of a refresh, each in its chunk's place: memory is taken once, and only for those
/// that are there.
#[derive(Debug, Default)]
struct AtHand {
    dim: usize,
    numbers: Vec<f32>,
    is_there: Vec<bool>,
    /// How many are there.
    count: usize,
    /// How many there will be.
    of: usize,
}

impl AtHand {
    fn new(of: usize, dim: usize) -> Self {
        Self { dim, numbers: vec![0.0; of * dim], is_there: vec![false; of], count: 0, of }
    }

    fn insert(&mut self, place: usize, vector: &[f32]) {
        self.numbers[place * self.dim..][..self.dim].copy_from_slice(vector);
        self.count += usize::from(!std::mem::replace(&mut self.is_there[place], true));
    }

    fn vector(&self, place: usize) -> &[f32] {
        &self.numbers[place * self.dim..][..self.dim]
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.of).filter(|place| self.is_there[*place])
    }

    fn len(&self) -> usize {
        self.count
    }
}

/// What an embedding is for.
pub(super) struct Embedding<'a> {
    pub(super) index: &'a Arc<Index>,
    /// The dataset's generation.
    pub(super) own: &'a Version,
    /// The refresh, if it is the index's first.
    pub(super) first: Option<&'a FirstRefresh>,
    /// Another model than the one there was.
    pub(super) to: Option<&'a Model>,
    /// The model whose tokens were counted.
    pub(super) counted_for: Option<&'a Model>,
}

impl Embedding<'_> {
    /// Shows what is embedded of a first refresh, if there is enough more than was shown last.
    async fn show(
        &self,
        plan: &Plan,
        model: &Model,
        at_hand: &AtHand,
        growth: &mut Growth,
    ) -> Result<(), Fault> {
        let Some(first) = self.first else { return Ok(()) };
        first.show(|partial| partial.done = at_hand.len() as u64);
        let bytes = at_hand.len() as u64 * (model.dim as u64 * 4) + plan.fresh.bytes();
        let Some(rows) = plan.fresh.shared().filter(|_| growth.is_due(at_hand.len(), bytes)) else {
            return Ok(());
        };
        let started = Instant::now();
        let numbers: Vec<u32> = at_hand.places().map(|place| place as u32).collect();
        let vectors: Vec<f32> =
            numbers.iter().flat_map(|i| at_hand.vector(*i as usize)).copied().collect();
        let (manifest, columns) =
            (unnumbered(&self.index.parameters, model.clone(), self.own), plan.columns.clone());
        let made = blocking(move || {
            partial::by_meaning(manifest, &rows, columns.as_ref(), numbers, &vectors)
        });
        let made = made
            .await
            .map_err(|e| Fault::internal(chain(&e)))?
            .map_err(|e| io_fault("showing what is embedded", &e))?;
        let made = Arc::new(made);
        first.show(|partial| partial.near = Some(made));
        growth.showed(at_hand.len(), started.elapsed());
        Ok(())
    }
}
