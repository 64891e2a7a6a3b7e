//! The mesh, as whoever asks may use it, and which models it serves.
//!
//! Invariant: nothing is asked that the caller may not call.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::broker::error::NoProvider;
use brahman_card::interface::broker::{ExplainOut, FlowIn, method as broker};
use brahman_card::interface::{Method, WireError as _, embed};
use brahman_sidecar::client::Answer;
use brahman_sidecar::{CallOptions, Client};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::places::{Place, Places};
use crate::refusal::Refusal;

/// How long it is remembered who serves what: the broker's word counts for each call all the same.
const SERVED_LIFE: Duration = Duration::from_secs(1);

/// Streams at once: each holds a provider, or asks again and again, for as long as somebody reads.
const STREAMS_MAX: usize = 256;

/// What a call requires of its provider.
pub(crate) type Requirements = BTreeMap<String, String>;

/// A model that is served.
#[derive(Clone, Debug)]
pub(crate) struct ServedModel {
    /// As its module calls it.
    pub(crate) name: String,
    /// The module's label.
    pub(crate) label: String,
    pub(crate) mock: bool,
    /// What the module says of itself.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl ServedModel {
    /// That a provider has to have this model.
    pub(crate) fn requirements(&self) -> Requirements {
        Requirements::from([("model".to_owned(), self.name.clone())])
    }

    /// Whether somebody means this model: by its name, its name on a hub, or with a tag behind it.
    fn is_called(&self, wanted: &str) -> bool {
        let own = |name: &str| {
            name.eq_ignore_ascii_case(&self.name) || name.eq_ignore_ascii_case(&self.label)
        };
        let bare = wanted.rsplit_once('/').map_or(wanted, |(_, name)| name);
        let untagged = bare.rsplit_once(':').map_or(bare, |(name, _)| name);
        own(wanted) || own(bare) || own(untagged)
    }
}

type ServedModels = Arc<[ServedModel]>;

/// The mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    client: Client,
    /// Cancelled when this process is to end: what has no end of its own ends then.
    pub(crate) drain: CancellationToken,
    served: Mutex<HashMap<&'static str, (Instant, ServedModels)>>,
    streams: Places,
}

impl Mesh {
    pub(crate) fn new(mesh: &Path, drain: CancellationToken) -> Self {
        Self {
            client: Client::new(mesh),
            drain,
            served: Mutex::default(),
            streams: Places::new(STREAMS_MAX),
        }
    }

    /// A place for a stream, which has to be held until its work has ended: its request is over
    /// before that.
    ///
    /// # Errors
    /// 503 if as many are open as may be.
    pub(crate) fn stream_place(&self, caller: &Caller) -> Result<Place, Refusal> {
        let none = || {
            Fault::overloaded(
                format!("as many streams are open as may be, of {STREAMS_MAX} in all"),
                1000,
            )
            .into()
        };
        self.streams.take(1, caller.is_remote()).ok_or_else(none)
    }

    /// For what is not one call and one answer.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn served(&self) -> MutexGuard<'_, HashMap<&'static str, (Instant, ServedModels)>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a method for somebody.
    ///
    /// # Errors
    /// If he may not, or as the provider answers.
    pub(crate) async fn ask<M: Method>(
        &self,
        caller: &Caller,
        ask: &M::In,
        require: Requirements,
    ) -> Result<Answer<M::Out>, Refusal> {
        self.ask_as::<M, M::Out>(caller, ask, require).await
    }

    /// The same with a reply that is read in another way, such as numbers that are passed on as
    /// they are.
    ///
    /// # Errors
    /// As [`Mesh::ask`].
    pub(crate) async fn ask_as<M: Method, R: DeserializeOwned>(
        &self,
        caller: &Caller,
        ask: &M::In,
        require: Requirements,
    ) -> Result<Answer<R>, Refusal> {
        caller.allow(M::NAME)?;
        let options = CallOptions { require, ..caller.options() };
        let answer = self.client.call(M::NAME, ask, &options).await.map_err(Fault::from);
        if answer.as_ref().is_err_and(|fault| fault.name == NoProvider::NAME) {
            // What was known of who serves what is no longer so.
            self.served().clear();
        }
        Ok(answer?)
    }

    /// Whether the context that a request names is one. The client remembers who answers in which
    /// context: of made-up ones there would be no end.
    ///
    /// # Errors
    /// As the broker says it.
    pub(crate) async fn check_context(&self, caller: &Caller) -> Result<(), Refusal> {
        if caller.context.is_none() {
            return Ok(());
        }
        let ask = FlowIn {
            flow: embed::INTERFACE.name.to_owned(),
            context: caller.context.clone(),
            require: None,
        };
        self.client
            .call_method::<broker::Explain>(&ask, &caller.options())
            .await
            .map_err(Fault::from)?;
        Ok(())
    }

    /// The models by which an interface is served in the caller's context, the one that answers by
    /// itself first.
    ///
    /// # Errors
    /// If he may not call it, or the broker does not answer.
    pub(crate) async fn models(
        &self,
        caller: &Caller,
        interface: &'static str,
    ) -> Result<ServedModels, Refusal> {
        caller.enter(interface)?;
        let is_usual = caller.context.is_none();
        if is_usual
            && let Some((since, models)) = self.served().get(interface)
            && since.elapsed() < SERVED_LIFE
        {
            return Ok(Arc::clone(models));
        }
        let ask =
            FlowIn { flow: interface.to_owned(), context: caller.context.clone(), require: None };
        let answer = self
            .client
            .call_method::<broker::Explain>(&ask, &caller.options())
            .await
            .map_err(Fault::from)?;
        let ExplainOut { candidates, .. } = answer.value;
        let mut models: Vec<ServedModel> = Vec::new();
        for candidate in candidates.into_iter().filter(|candidate| candidate.eligible) {
            let matched = candidate.matched;
            let Some(name) = matched.attributes.get("model").cloned() else { continue };
            // The first of several modules with one model is the one that answers.
            if !models.iter().any(|known| known.name == name) {
                models.push(ServedModel {
                    name,
                    label: matched.label,
                    mock: matched.mock,
                    attributes: matched.attributes,
                });
            }
        }
        let models: ServedModels = models.into();
        if is_usual {
            self.served().insert(interface, (Instant::now(), Arc::clone(&models)));
        }
        Ok(models)
    }

    /// The model that somebody means; the one that answers by itself if he names none.
    ///
    /// # Errors
    /// 404 if it is not served, as [`Mesh::models`] else.
    pub(crate) async fn model(
        &self,
        caller: &Caller,
        interface: &'static str,
        wanted: Option<&str>,
    ) -> Result<ServedModel, Refusal> {
        let models = self.models(caller, interface).await?;
        let found = match wanted.filter(|name| !name.is_empty()) {
            // Exactly, before what is meant by a part of a name.
            Some(name) => models
                .iter()
                .find(|model| model.name == name)
                .or_else(|| models.iter().find(|model| model.is_called(name))),
            None => models.first(),
        };
        found.cloned().ok_or_else(|| match wanted {
            Some(name) if !name.is_empty() => {
                let served: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
                Refusal::no_model(name, &served)
            }
            _ => Fault::no_provider(interface, caller.context.as_deref(), &[]).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_its_name_on_a_hub_and_with_a_tag() {
        let model = ServedModel {
            name: "all-MiniLM-L6-v2".into(),
            label: "embed-real".into(),
            mock: false,
            attributes: BTreeMap::new(),
        };
        for name in [
            "all-MiniLM-L6-v2",
            "sentence-transformers/all-MiniLM-L6-v2",
            "all-minilm-l6-v2:latest",
            "embed-real",
        ] {
            assert!(model.is_called(name), "{name}");
        }
        for name in ["all-MiniLM", "text-embedding-3-small", "all-MiniLM-L6-v2-x"] {
            assert!(!model.is_called(name), "{name}");
        }
    }
}
