//! Texts that no cache knows, asked of the server: many at once where it takes them, one by one
//! where it refuses, and nobody during an outage.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::{Fault, chain};
use brahman_sidecar::Deadline;
use tokio::task::JoinSet;

use super::dialect::VectorsAnswer;
use super::server::ATTEMPTS;
use super::{
    BATCH_BYTES_MAX, HttpEngine, MissingText, OpenError, RemoteOutcome, ServerError, WaitingTexts,
    no_vector,
};
use crate::engine::Treatment;
use crate::real::cache::{TokenCounts, is_sound};
use crate::real::head::unit;

/// During an outage the server is asked this often whether it is back, by a call that comes then.
pub(super) const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// The server is not there, or does not do its work.
#[derive(Debug)]
pub(super) struct Outage {
    pub(super) fault: Fault,
    /// When it was asked last.
    pub(super) asked: Instant,
}

impl HttpEngine {
    /// Vectors of a request's texts, of the length that is expected.
    async fn ask(
        &self,
        texts: &[String],
        truncate: bool,
        deadline: Deadline,
    ) -> Result<VectorsAnswer, ServerError> {
        let answer = self.server.vectors(texts, truncate, deadline, ATTEMPTS).await?;
        let (expected, model) = (self.identity.dim, &self.identity.model);
        match answer.vectors.iter().find(|vector| vector.len() != expected) {
            Some(vector) => Err(ServerError::Dimension {
                url: self.server.url(),
                model: model.clone(),
                got: vector.len(),
                expected,
            }),
            None => Ok(answer),
        }
    }

    /// What an error means for its callers, and for those that come after.
    pub(super) fn failed(&self, error: &ServerError) -> Fault {
        if error.is_other_model() {
            let fault = error.fault(&self.label);
            tracing::error!("nothing of this server is used from now on: {}", chain(error));
            return self.changed.get_or_init(|| fault).clone();
        }
        if !error.is_outage() {
            return error.fault(&self.label);
        }
        let fault = error.fault(&self.label);
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if outage.is_none() {
            tracing::warn!("only cached vectors are given for now: {}", chain(error));
        }
        *outage = Some(Outage { fault: fault.clone(), asked: Instant::now() });
        fault
    }

    /// A request's texts; if it does not go through for what may be in one of them, each by itself.
    pub(super) async fn batch(
        &self,
        texts: &[String],
        truncate: bool,
        deadline: Deadline,
    ) -> Vec<RemoteOutcome> {
        let _waiting = WaitingTexts::begin(&self.waiting, texts.len());
        if let Err(fault) = self.admit(deadline).await {
            return vec![Err(fault); texts.len()];
        }
        match self.ask(texts, false, deadline).await {
            Ok(answer) if answer.vectors.iter().all(|vector| is_sound(vector, false)) => {
                answer.vectors.into_iter().map(|vector| self.sound(vector, None)).collect()
            }
            Ok(answer) if texts.len() == 1 => {
                answer.vectors.into_iter().map(|vector| self.sound(vector, None)).collect()
            }
            Err(error) if !error.is_of_texts() => vec![Err(self.failed(&error)); texts.len()],
            Err(error) if texts.len() == 1 => {
                vec![self.alone(texts, error, truncate, deadline).await]
            }
            outcome => {
                let why = outcome.err().map_or_else(
                    || "a vector is not finite, or zero".to_owned(),
                    |error| chain(&error),
                );
                tracing::warn!(
                    texts = texts.len(),
                    "a request does not go through, its texts are asked for one by one: {why}"
                );
                self.one_by_one(texts, truncate, deadline).await
            }
        }
    }

    async fn one_by_one(
        &self,
        texts: &[String],
        truncate: bool,
        deadline: Deadline,
    ) -> Vec<RemoteOutcome> {
        let mut outcomes = Vec::with_capacity(texts.len());
        for text in texts.chunks(1) {
            let outcome = match self.ask(text, false, deadline).await {
                Ok(answer) => answer
                    .vectors
                    .into_iter()
                    .next()
                    .map_or_else(no_vector, |vector| self.sound(vector, None)),
                Err(error) if error.is_of_texts() => {
                    self.alone(text, error, truncate, deadline).await
                }
                Err(error) => {
                    // Whatever comes after would meet the same.
                    outcomes.resize(texts.len(), Err(self.failed(&error)));
                    break;
                }
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    /// A text that the server has refused, or answered with what is no vector: once more, cut, if
    /// the call and the server are for that.
    async fn alone(
        &self,
        text: &[String],
        refusal: ServerError,
        truncate: bool,
        deadline: Deadline,
    ) -> RemoteOutcome {
        let can_cut = truncate
            && self.server.settings().dialect.can_cut()
            && matches!(refusal, ServerError::Refused { .. });
        if !can_cut {
            return Err(self.failed(&refusal));
        }
        match self.ask(text, true, deadline).await {
            Ok(answer) => {
                let kept = answer.tokens.or(self.record.window).unwrap_or(0);
                // Of the rest nothing is known but that it is there.
                let counts =
                    TokenCounts { tokens: kept.saturating_add(1), unknown: 0, is_least: true };
                answer
                    .vectors
                    .into_iter()
                    .next()
                    .map_or_else(no_vector, |vector| self.sound(vector, Some(counts)))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// A vector that can be given: of length 1.
    fn sound(&self, vector: Vec<f32>, counts: Option<TokenCounts>) -> RemoteOutcome {
        self.computed.fetch_add(1, Ordering::Relaxed);
        let vector = unit(vector);
        if is_sound(&vector, true) { Ok((vector.into(), counts)) } else { no_vector() }
    }

    /// Asks for what is missing, in batches, some of them at once. Gives what became of each, in
    /// order.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        missing: &[MissingText],
        wish: &Treatment,
    ) -> Result<Vec<RemoteOutcome>, Fault> {
        let (batch, at_once) = (self.server.settings().batch, self.server.settings().concurrency);
        let mut outcomes: Vec<Option<RemoteOutcome>> = missing.iter().map(|_| None).collect();
        let mut running: JoinSet<(usize, Vec<RemoteOutcome>)> = JoinSet::new();
        let mut from = 0;
        while from < missing.len() || !running.is_empty() {
            if from < missing.len() && running.len() < at_once {
                let to = end_of_batch(missing, from, batch);
                let texts: Vec<String> =
                    missing[from..to].iter().map(|one| one.text.clone()).collect();
                let (this, truncate, deadline) = (Arc::clone(self), wish.truncate, wish.deadline);
                running.spawn(async move { (from, this.batch(&texts, truncate, deadline).await) });
                from = to;
                continue;
            }
            let Some(done) = running.join_next().await else { break };
            let (at, done) =
                done.map_err(|e| Fault::internal(format!("a request's task stopped: {e}")))?;
            for (place, outcome) in outcomes[at..].iter_mut().zip(done) {
                *place = Some(outcome);
            }
        }
        let outcomes: Option<Vec<RemoteOutcome>> = outcomes.into_iter().collect();
        outcomes.ok_or_else(|| Fault::internal("a text was lost on the way"))
    }

    pub(super) fn outage(&self) -> Option<String> {
        let changed = self.changed.get().map(|fault| fault.message().to_owned());
        changed.or_else(|| {
            let outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
            outage.as_ref().map(|outage| outage.fault.message().to_owned())
        })
    }
}

/// What callers are told while a server is away that was away from the beginning.
pub(super) fn outage_of(error: &OpenError, label: &str) -> Fault {
    match error {
        OpenError::Server(error) if !error.is_out_of_time() => error.fault(label),
        other => Fault::provider_failed(label, chain(other)),
    }
}

/// Behind the last text of a request that begins with this one.
pub(super) fn end_of_batch(missing: &[MissingText], from: usize, batch: usize) -> usize {
    let mut bytes = 0;
    let fits = missing[from..].iter().take(batch.max(1)).take_while(|one| {
        bytes += one.text.len();
        bytes <= BATCH_BYTES_MAX
    });
    from + fits.count().max(1)
}
