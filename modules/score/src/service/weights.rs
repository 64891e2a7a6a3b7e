//! `Weights` and `ResetWeights`: what a namespace keeps of its memories.

use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::score::{
    ResetWeightsIn, ResetWeightsOut, Weight, WeightsIn, WeightsOut,
};
use brahman_sidecar::{Call, Reply, blocking, chain};

use super::ScoreService;
use crate::kept::{Namespace, ResultStore, StandingError};

impl ScoreService {
    /// The namespace that a caller names, or his own.
    pub(super) fn namespace(&self, name: Option<&str>, call: &Call) -> Result<Namespace, Fault> {
        let own = rustix::process::geteuid().as_raw();
        self.kept.namespace(name, call.uid, own).map_err(|error| error.fault())
    }

    pub(super) async fn weights(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: WeightsIn = call.parameters()?;
        let namespace = self.namespace(ask.namespace.as_deref(), call)?;
        let fingerprint = self.engine.identity().fingerprint.clone();
        let (model, of) = (self.model(ask.all_models), namespace.clone());
        let mut found = self.beside(move |kept| kept.standings(model.as_deref(), &of)).await?;
        found.sort_by(|a, b| a.key.cmp(&b.key).then(a.model.cmp(&b.model)));
        let weight = |kept: crate::kept::KeptStanding| Weight {
            key: kept.key,
            weight: kept.standing.weight,
            last_scored_ms: kept.standing.last_scored_ms,
            count: kept.standing.count,
            fingerprint: kept.model,
            text_sha256: kept.standing.text,
        };
        Reply::of(&WeightsOut {
            namespace: namespace.name().to_owned(),
            fingerprint,
            weights: found.into_iter().map(weight).collect(),
        })
    }

    pub(super) async fn reset_weights(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: ResetWeightsIn = call.parameters()?;
        let namespace = self.namespace(ask.namespace.as_deref(), call)?;
        let (model, of) = (self.model(ask.all_models), namespace.clone());
        let removed =
            self.beside(move |kept| kept.reset(model.as_deref(), &of, ask.keys.as_deref())).await?;
        Reply::of(&ResetWeightsOut { namespace: namespace.name().to_owned(), removed })
    }

    /// The model whose weights are meant; `None` for every one.
    fn model(&self, all: Option<bool>) -> Option<String> {
        (!all.unwrap_or(false)).then(|| self.engine.identity().fingerprint.clone())
    }

    /// Works with the store beside the calls.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ResultStore) -> Result<T, StandingError> + Send + 'static,
    ) -> Result<T, Fault> {
        let kept = Arc::clone(&self.kept);
        let done = blocking(move || work(&kept)).await;
        let done = done.map_err(|error| Fault::internal(format!("the weights: {error}")))?;
        done.map_err(|error| Fault::internal(format!("the weights: {}", chain(&error))))
    }
}
