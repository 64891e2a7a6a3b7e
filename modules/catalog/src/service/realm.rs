//! Which books a call is about: those of real datasets, or those of the mocks.
//!
//! A provider says which it is. Whoever says nothing, a person or a script, is taken for whoever would answer `org.brahman.Ingest` in
//! the call's context: there the data of that context is made. Invariant: nothing that is done for a mock writes into the real books.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brahman_card::interface::broker::{ExplainOut, FlowIn};
use brahman_card::interface::catalog::{Dataset, ListOut};
use brahman_card::{Fault, ModuleState};
use brahman_sidecar::{Call, Connection};

use super::{CatalogService, fault};
use crate::books::{BookError, Books};

/// How long the broker may take to say who answers: it is asked beside the call's own work.
const ASKING: Duration = Duration::from_secs(2);

/// Whose books.
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

/// Who answers in which context, as the broker tells it.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// The mesh's socket; none for a catalog that is run by itself.
    mesh: Option<PathBuf>,
    /// Who was last told to answer in each context, and whether it is a mock: one that is being restarted is a mock still.
    answering: Mutex<BTreeMap<Option<String>, (String, bool)>>,
}

impl Contexts {
    pub(super) fn of(mesh: PathBuf) -> Self {
        Self { mesh: Some(mesh), answering: Mutex::default() }
    }

    /// Whether a mock makes the data of a context, of the present one if none is named.
    async fn is_mocked(&self, context: Option<&str>) -> bool {
        let Some(mesh) = &self.mesh else { return false };
        let ask = FlowIn { flow: "org.brahman.Ingest".to_owned(), context: context.map(str::to_owned), require: None };
        let asking = async { Connection::connect(mesh).await?.call::<_, ExplainOut>("org.brahman.Broker.Explain", &ask).await };
        let Ok(Ok(told)) = tokio::time::timeout(ASKING, asking).await else { return false };
        let mut answering = self.answering.lock().unwrap_or_else(PoisonError::into_inner);
        let coming = |state| matches!(state, ModuleState::Waiting | ModuleState::Starting | ModuleState::Loading | ModuleState::Backoff);
        if let Some((label, mock)) = answering.get(&told.context)
            && told.candidates.iter().any(|candidate| candidate.matched.label == *label && coming(candidate.matched.state))
        {
            return *mock;
        }
        match told.candidates.iter().find(|candidate| candidate.eligible) {
            Some(first) => {
                answering.insert(told.context, (first.matched.label.clone(), first.matched.mock));
                first.matched.mock
            }
            None => false,
        }
    }
}

impl CatalogService {
    /// The realm of a call that reads, or that a person makes.
    pub(super) async fn realm(&self, call: &Call, mock: Option<bool>) -> Realm {
        let mocked = match mock {
            Some(mock) => mock,
            None => self.contexts.is_mocked(call.context.as_deref()).await,
        };
        if mocked { Realm::Mock } else { Realm::Real }
    }

    /// A dataset as a caller of this realm sees it: the mocks' own first, then a real one. Told with the realm that it is of.
    pub(super) fn seen(&self, realm: Realm, name: &str) -> Result<(Realm, Dataset), Fault> {
        if realm == Realm::Mock {
            match self.of(Realm::Mock).get(name) {
                Err(BookError::NoSuchDataset(_)) => {}
                found => return found.map(|dataset| (Realm::Mock, dataset)).map_err(fault),
            }
            return self.books().get_for_mock(name).map(|dataset| (Realm::Real, dataset)).map_err(fault);
        }
        let found = self.books().get(name);
        match found {
            Ok(dataset) => Ok((Realm::Real, dataset)),
            Err(BookError::NoSuchDataset(_)) if self.of(Realm::Mock).has(name) => {
                let message = format!("no dataset is called `{name}`; a mock has made one, which only mocks read (`mock`)");
                Err(Fault::new("org.brahman.Catalog.NoSuchDataset", false, message).with("name", name.to_owned()))
            }
            Err(error) => Err(fault(error)),
        }
    }

    /// The realm that a change by name is about. What was asked for a mock never touches a real dataset.
    ///
    /// # Errors
    /// If only the other realm has such a dataset.
    pub(super) fn changed(&self, realm: Realm, name: &str) -> Result<Realm, Fault> {
        if realm == Realm::Mock && !self.of(Realm::Mock).knows(name) && self.books().has(name) {
            let message =
                format!("no mock's dataset is called `{name}`; there is a real one, which nothing changes for a mock (`mock`: false)");
            return Err(Fault::new("org.brahman.Catalog.NoSuchDataset", false, message).with("name", name.to_owned()));
        }
        Ok(realm)
    }

    /// All datasets as a caller of this realm sees them, and the others.
    pub(super) fn list(&self, realm: Realm) -> ListOut {
        let notes = |books: &Books| {
            let untidied = books.untidied().iter().cloned();
            let doubts = books.doubts().into_iter().map(|doubt| format!("could not be read: {doubt}"));
            if books.untidied().is_empty() { doubts.collect() } else { untidied.collect::<Vec<String>>() }
        };
        let (real, mut told) = {
            let books = self.books();
            (books.list(), notes(&books))
        };
        let mocks = {
            let books = self.of(Realm::Mock);
            told.extend(notes(&books));
            books.list()
        };
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
        ListOut { datasets, apart: some(apart), notes: Some(told).filter(|told| !told.is_empty()) }
    }
}
