//! Which registry a call is about: those of real datasets, or those of the mocks.
//!
//! A provider says which it is. Whoever says nothing, a person or a script, is taken for whoever
//! would answer `org.brahman.Ingest` in the call's context: there the data of that context is made.
//! Where nobody can say who that is, what is read is as it was last known, and what is to be
//! changed is refused. Invariant: nothing that is done for a mock writes into the real registry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brahman_card::Fault;
use brahman_card::interface::broker::{ExplainOut, FlowIn};
use brahman_card::interface::catalog::{Dataset, ListOut, error};
use brahman_card::interface::{broker, ingest};
use brahman_sidecar::client::CallOptions;
use brahman_sidecar::{Call, Client};

use super::{CatalogService, fault, unanswered};
use crate::registry::{DatasetRegistry, RegistryError};

/// How long the broker may take to say who answers: it is asked beside the call's own work.
const ASKING: Duration = Duration::from_secs(2);

/// Whose provider makes the data of a context.
const INGEST: &str = ingest::INTERFACE.name;

/// Whose registry of datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Realm {
    Real,
    Mock,
}

impl Realm {
    /// Of a call that writes: a mock says so.
    pub(super) fn of_writer(mock: Option<bool>) -> Self {
        if mock == Some(true) { Self::Mock } else { Self::Real }
    }
}

/// Who makes the data of a context: its label, and whether it is a mock.
type Maker = (String, bool);

/// What was last known.
#[derive(Debug, Default)]
struct KnownContexts {
    /// Who was last told to answer in each context: one that is being restarted is a mock still.
    answering: BTreeMap<Option<String>, Maker>,
    /// Whether that was a mock, by the context that was asked for.
    asked: BTreeMap<Option<String>, bool>,
}

/// Who answers in which context, as the broker tells it.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// The broker, whose connections are kept: it is asked at every call. None for a catalog that
    /// is run by itself.
    mesh: Option<Client>,
    known: Mutex<KnownContexts>,
}

/// Who makes the data of a context, by what the broker tells and who did so before; none if that
/// cannot be said.
fn maker(told: &ExplainOut, known: Option<&Maker>) -> Option<Maker> {
    let listed = known.and_then(|(label, _)| {
        told.candidates.iter().find(|candidate| candidate.matched.label == *label)
    });
    if listed.is_some_and(|candidate| candidate.matched.state.is_coming()) {
        return known.cloned();
    }
    if let Some(first) = told.candidates.iter().find(|candidate| candidate.eligible) {
        return Some((first.matched.label.clone(), first.matched.mock));
    }
    // Nobody answers, and nobody has taken the place of whoever did.
    if listed.is_some() {
        return known.cloned();
    }
    // Which of them it would be does not matter where all are alike; where there is none, no mock
    // has made anything.
    let mut kinds = told
        .candidates
        .iter()
        .map(|candidate| candidate.matched.mock)
        .chain(known.map(|(_, mock)| *mock));
    let kind = kinds.next().unwrap_or(false);
    kinds.all(|other| other == kind).then(|| known.cloned().unwrap_or((String::new(), kind)))
}

impl Contexts {
    pub(super) fn of(mesh: &Path) -> Self {
        // Where nobody listens there is nobody to ask.
        let client = Client::for_command(mesh, Duration::ZERO);
        Self { mesh: Some(client), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, KnownContexts> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a mock makes the data of a context, of the present one if none is named; none if
    /// that cannot be known just now.
    async fn is_mocked(&self, context: Option<&str>) -> Option<bool> {
        let Some(mesh) = &self.mesh else { return Some(false) };
        let ask =
            FlowIn { flow: INGEST.to_owned(), context: context.map(str::to_owned), require: None };
        let options = CallOptions { deadline: Some(ASKING), ..CallOptions::default() };
        let told = mesh.call_method::<broker::method::Explain>(&ask, &options).await.ok()?.value;
        let mut known = self.known();
        let maker = maker(&told, known.answering.get(&told.context))?;
        let mock = maker.1;
        known.asked.insert(context.map(str::to_owned), mock);
        known.answering.insert(told.context, maker);
        Some(mock)
    }

    /// What was last known of a context.
    fn was_mocked(&self, context: Option<&str>) -> bool {
        self.known().asked.get(&context.map(str::to_owned)).copied().unwrap_or(false)
    }
}

/// What is answered where it is not known whose datasets are meant.
fn unknown(context: Option<&str>) -> Fault {
    let message = "whether mocks' or real datasets are meant cannot be told just now, for nobody says who serves org.brahman.Ingest here: \
                   say it (`mock`: true or false), or call again; nothing was changed";
    let error = broker::error::NoProvider {
        flow: INGEST.to_owned(),
        context: context.map(str::to_owned),
        refused: Vec::new(),
    };
    Fault::of(&error, true, message)
}

impl CatalogService {
    /// The realm of a call that reads. While nobody can say whose context it is, that is as it was
    /// last known.
    pub(super) async fn realm(&self, call: &Call, mock: Option<bool>) -> Realm {
        let context = call.context.as_deref();
        let mocked = match mock {
            Some(mock) => mock,
            None => self
                .contexts
                .is_mocked(context)
                .await
                .unwrap_or_else(|| self.contexts.was_mocked(context)),
        };
        Realm::of_writer(Some(mocked))
    }

    /// The realm of a call that changes something.
    ///
    /// # Errors
    /// If the call does not say it, and nobody can: what is meant for a mock must not change what
    /// is real.
    pub(super) async fn realm_to_change(
        &self,
        call: &Call,
        mock: Option<bool>,
    ) -> Result<Realm, Fault> {
        let context = call.context.as_deref();
        let mocked = match mock {
            Some(mock) => Some(mock),
            None => self.contexts.is_mocked(context).await,
        };
        mocked.map(|mock| Realm::of_writer(Some(mock))).ok_or_else(|| unknown(context))
    }

    /// A dataset as a caller of this realm sees it: the mocks' own first, then a real one. Told
    /// with the realm that it is of.
    pub(super) async fn seen(&self, realm: Realm, name: &str) -> Result<(Realm, Dataset), Fault> {
        let asked = name.to_owned();
        if realm == Realm::Mock {
            let own = asked.clone();
            match self
                .consult(Realm::Mock, move |registry| registry.get(&own))
                .await
                .map_err(unanswered)?
            {
                Err(RegistryError::NoSuchDataset(_)) => {}
                found => return found.map(|dataset| (Realm::Mock, dataset)).map_err(fault),
            }
            let found = self
                .consult(Realm::Real, move |registry| registry.get_for_mock(&asked))
                .await
                .map_err(unanswered)?;
            return found.map(|dataset| (Realm::Real, dataset)).map_err(fault);
        }
        let real = asked.clone();
        match self
            .consult(Realm::Real, move |registry| registry.get(&real))
            .await
            .map_err(unanswered)?
        {
            Ok(dataset) => Ok((Realm::Real, dataset)),
            Err(error @ RegistryError::NoSuchDataset(_)) => {
                if !self
                    .consult(Realm::Mock, move |registry| registry.has(&asked))
                    .await
                    .map_err(unanswered)?
                {
                    return Err(fault(error));
                }
                let message = format!(
                    "no dataset is called `{name}`; a mock has made one, which only mocks read (`mock`)"
                );
                Err(Fault::of(&error::NoSuchDataset { name: name.to_owned() }, false, message))
            }
            Err(error) => Err(fault(error)),
        }
    }

    /// The realm that a change by name is about. What was asked for a mock never touches a real
    /// dataset.
    ///
    /// # Errors
    /// If only the other realm has such a dataset.
    pub(super) async fn changed(&self, realm: Realm, name: &str) -> Result<Realm, Fault> {
        let (own, real) = (name.to_owned(), name.to_owned());
        if realm == Realm::Mock
            && !self
                .consult(Realm::Mock, move |registry| registry.knows(&own))
                .await
                .map_err(unanswered)?
            && self
                .consult(Realm::Real, move |registry| registry.has(&real))
                .await
                .map_err(unanswered)?
        {
            let message = format!(
                "no mock's dataset is called `{name}`; there is a real one, which nothing changes for a mock (`mock`: false)"
            );
            return Err(Fault::of(&error::NoSuchDataset { name: name.to_owned() }, false, message));
        }
        Ok(realm)
    }

    /// All datasets as a caller of this realm sees them, and the others.
    pub(super) async fn list(&self, realm: Realm) -> Result<ListOut, Fault> {
        let of_real = |registry: &DatasetRegistry| {
            let told =
                notes(registry).into_iter().chain(registry.unregistered()).collect::<Vec<String>>();
            (registry.list(), told, registry.strangers())
        };
        let (real, mut told, mut strangers) =
            self.consult(Realm::Real, of_real).await.map_err(unanswered)?;
        let of_mocks =
            |registry: &DatasetRegistry| (registry.list(), notes(registry), registry.strangers());
        let (mocks, more, others) =
            self.consult(Realm::Mock, of_mocks).await.map_err(unanswered)?;
        told.extend(more);
        strangers.extend(others);
        told.extend(self.unswept());
        let (mut datasets, mut apart) = (Vec::new(), Vec::new());
        match realm {
            Realm::Real => (datasets, apart) = (real, mocks),
            Realm::Mock => {
                let hidden = |dataset: &Dataset| mocks.iter().any(|mock| mock.name == dataset.name);
                for dataset in real {
                    let list = if hidden(&dataset) { &mut apart } else { &mut datasets };
                    list.push(dataset);
                }
                datasets.extend(mocks.iter().cloned());
                datasets.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        let some = |list: Vec<Dataset>| Some(list).filter(|list| !list.is_empty());
        let words = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        Ok(ListOut {
            datasets,
            apart: some(apart),
            notes: words(told),
            strangers: words(strangers),
        })
    }
}

/// What of a registry could not be read, and therefore is not tidied.
fn notes(registry: &DatasetRegistry) -> Vec<String> {
    match registry.untidied() {
        [] => registry
            .doubts()
            .into_iter()
            .map(|doubt| format!("could not be read: {doubt}"))
            .collect(),
        untidied => untidied.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::ModuleState;
    use serde_json::{Value, json};

    use super::*;

    /// As the broker tells it, the eligible ones first.
    fn told(candidates: &[(&str, bool, ModuleState, bool)]) -> ExplainOut {
        let of = |(label, mock, state, eligible): &(&str, bool, ModuleState, bool)| {
            let matched = json!({
                "flow": INGEST, "label": label, "id": label, "socket": "/s", "via": "exact", "pinned": false, "priority": 0,
                "mock": mock, "state": state.as_str(), "attributes": {}
            });
            json!({"match": matched, "eligible": eligible})
        };
        let candidates: Vec<Value> = candidates.iter().map(of).collect();
        serde_json::from_value(json!({"context": "test", "candidates": candidates}))
            .expect("as it is on the wire")
    }

    #[test]
    fn whoever_restarts_or_ends_is_what_it_was_and_where_nobody_can_say_nothing_is_guessed() {
        use ModuleState::{Draining, Failed, Ready};
        let kind = |candidates: &[(&str, bool, ModuleState, bool)], known: Option<(&str, bool)>| {
            let known = known.map(|(label, mock)| (label.to_owned(), mock));
            maker(&told(candidates), known.as_ref()).map(|(_, mock)| mock)
        };
        let known = Some(("ingest-mock", true));
        let failed = [("ingest", false, Failed, false), ("ingest-mock", true, Failed, false)];
        assert_eq!(
            kind(&[("ingest-mock", true, Ready, true), ("ingest", false, Ready, true)], None),
            Some(true)
        );
        assert_eq!(
            kind(&[("ingest", false, Ready, true), ("ingest-mock", true, Draining, false)], known),
            Some(true),
            "it comes back"
        );
        assert_eq!(
            kind(&[("ingest", false, Ready, true), ("ingest-mock", true, Failed, false)], known),
            Some(false),
            "it was replaced"
        );
        assert_eq!(kind(&failed, known), Some(true), "nobody has taken its place");
        assert_eq!(kind(&failed, None), None);
        assert_eq!(kind(&failed[..1], known), None);
        assert_eq!(
            (kind(&failed[..1], None), kind(&failed[1..], None)),
            (Some(false), Some(true)),
            "nobody else could answer"
        );
        assert_eq!((kind(&[], None), kind(&[], known)), (Some(false), Some(true)));
    }

    #[tokio::test]
    async fn while_the_broker_is_away_it_is_not_known_whose_a_call_is() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let contexts = Contexts::of(&folder.path().join("mesh.sock"));
        contexts.known().asked.insert(Some("test".to_owned()), true);
        assert_eq!(contexts.is_mocked(Some("test")).await, None);
        assert!(contexts.was_mocked(Some("test")) && !contexts.was_mocked(None));
        assert_eq!(
            Contexts::default().is_mocked(None).await,
            Some(false),
            "without a mesh there are no mocks"
        );
        let fault = unknown(Some("test"));
        assert!(fault.retryable() && fault.message().contains("`mock`"), "{fault}");
    }
}
