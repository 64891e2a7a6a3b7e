//! What the active profile lets be named: followed from `org.brahman.Profiles`, and asked before anything that has a name is touched.
//!
//! For modules that own indexes or datasets, so that no way into the mesh leads around it. Invariants: while it is not known which profile
//! is active nothing can be named, but for a mesh that has no profile service; while that service is away what it last said stands; a change
//! is confirmed by asking for the next, so that whoever switches knows when it counts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brahman_card::interface::broker::{self, FlowIn};
use brahman_card::interface::profiles::{self, ActiveIn, ActiveOut, error};
use brahman_card::{Fault, ModuleState};
use tokio::sync::watch;

use crate::client::encode_method;
use crate::{Backoff, CallOptions, ClientError, Connection, Deadline, chain};

/// How long a call waits for the first word, which comes in milliseconds once the profile service runs.
const KNOWN_WAIT: Duration = Duration::from_secs(5);
/// Pauses between attempts to reach who knows.
const PAUSES: Backoff = Backoff::doubling(Duration::from_millis(5), Duration::from_millis(500));
const PROFILES: &str = profiles::INTERFACE.name;

/// What a profile binds.
#[derive(Debug, PartialEq, Eq)]
struct Bounds {
    profile: String,
    indexes: Option<BTreeSet<String>>,
    datasets: Option<BTreeSet<String>>,
}

/// What can be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum View {
    /// Nobody has said so far.
    #[default]
    Unknown,
    /// Everything: no profile is active, or there is no such service in this mesh.
    Open,
    /// What a profile binds.
    Bound(Arc<Bounds>),
}

impl View {
    fn of(word: ActiveOut) -> Self {
        let Some(profile) = word.id else { return Self::Open };
        let set = |names: Option<Vec<String>>| names.map(|names| names.into_iter().collect());
        Self::Bound(Arc::new(Bounds { profile, indexes: set(word.indexes), datasets: set(word.datasets) }))
    }
}

/// What can be named in this mesh just now. Clones share it.
#[derive(Clone, Debug)]
pub struct Scope {
    view: Arc<watch::Sender<View>>,
}

impl Scope {
    /// One in which everything can be named, for a service that follows nobody.
    #[must_use]
    pub fn open() -> Self {
        Self { view: Arc::new(watch::channel(View::Open).0) }
    }

    /// One that is not known yet: [`Self::follow`] learns it.
    #[must_use]
    pub fn unknown() -> Self {
        Self { view: Arc::new(watch::channel(View::Unknown).0) }
    }

    /// Waits until it is known, but not longer than a caller does.
    ///
    /// # Errors
    /// `Unknown` of `org.brahman.Profiles`, if nobody has said by then.
    pub async fn known(&self, deadline: Deadline) -> Result<(), Fault> {
        if *self.view.borrow() != View::Unknown {
            return Ok(());
        }
        let mut views = self.view.subscribe();
        let told = async { views.wait_for(|view| *view != View::Unknown).await.is_ok() };
        let is_told = tokio::select! {
            told = told => told,
            () = deadline.passed() => false,
            () = tokio::time::sleep(KNOWN_WAIT) => false,
        };
        if is_told {
            return Ok(());
        }
        let message = "which profile is active is not known, for the module `profiles` has not answered yet; `brahman status` shows why";
        Err(Fault::of(&error::Unknown {}, true, message))
    }

    /// Whether every name can be used.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.view.borrow() == View::Open
    }

    /// Whether the active profile binds this index.
    #[must_use]
    pub fn binds_index(&self, name: &str) -> bool {
        self.index(name).is_ok()
    }

    /// Whether the active profile binds this dataset.
    #[must_use]
    pub fn binds_dataset(&self, name: &str) -> bool {
        self.dataset(name).is_ok()
    }

    /// That an index can be named.
    ///
    /// # Errors
    /// `Forbidden` of `org.brahman.Profiles`, naming profile and index.
    pub fn index(&self, name: &str) -> Result<(), Fault> {
        self.check(name, "index", |bounds| &bounds.indexes)
    }

    /// That a dataset can be named.
    ///
    /// # Errors
    /// `Forbidden` of `org.brahman.Profiles`, naming profile and dataset.
    pub fn dataset(&self, name: &str) -> Result<(), Fault> {
        self.check(name, "dataset", |bounds| &bounds.datasets)
    }

    fn check(&self, name: &str, what: &str, of: impl Fn(&Bounds) -> &Option<BTreeSet<String>>) -> Result<(), Fault> {
        let view = self.view.borrow();
        let View::Bound(bounds) = &*view else { return Ok(()) };
        if of(bounds).as_ref().is_none_or(|names| names.contains(name)) {
            return Ok(());
        }
        let (profile, name) = (bounds.profile.clone(), name.to_owned());
        let message = format!(
            "profile `{profile}` is active and does not bind the {what} `{}`: activate one that does, or `brahman profile deactivate`",
            name.escape_debug()
        );
        Err(Fault::of(&error::Forbidden { profile, name }, false, message))
    }

    /// Resolves whenever what can be named has become another, first once it is known.
    pub async fn each_change(&self, mut then: impl FnMut()) {
        let mut views = self.view.subscribe();
        // The sender is this scope's own.
        while views.changed().await.is_ok() {
            then();
        }
    }

    fn set(&self, view: View) {
        self.view.send_if_modified(|now| {
            let is_other = *now != view;
            *now = view;
            is_other
        });
    }

    /// Follows the profile service of the mesh at a socket, for ever.
    pub async fn follow(self, mesh: PathBuf) {
        let mut pauses = PAUSES;
        loop {
            match self.once(&mesh, &mut pauses).await {
                // No mesh at all: this module is run by itself.
                Err(ClientError::Connect { path, .. }) if path == mesh && *self.view.borrow() == View::Unknown => self.set(View::Open),
                Err(error) => tracing::debug!("the active profile is not followed just now: {}", chain(&error)),
                Ok(()) => {}
            }
            pauses.wait().await;
        }
    }

    /// Asks the broker who knows, waits until somebody does, and follows that until its end.
    async fn once(&self, mesh: &Path, pauses: &mut Backoff) -> Result<(), ClientError> {
        let mut broker = Connection::connect(mesh).await?;
        let ask = FlowIn { flow: PROFILES.to_owned(), ..FlowIn::default() };
        let explained = broker.call_method::<broker::method::Explain>(&ask).await?;
        if explained.candidates.is_empty() {
            self.set(View::Open);
        }
        broker.send(&encode_method::<broker::method::Watch>(&ask, &CallOptions::default(), true, false)?).await?;
        loop {
            let word: broker::WatchOut = broker.receive().await?.typed()?.value;
            if let Some(found) = word.matched.filter(|found| found.state == ModuleState::Ready) {
                // Beside the mesh's own where its record has a bare name.
                let ended = self.converse(&mesh.with_file_name("").join(&found.socket), pauses).await;
                // It may have been taken out of the mesh: who there is is asked anew.
                return ended;
            }
        }
    }

    async fn converse(&self, socket: &Path, pauses: &mut Backoff) -> Result<(), ClientError> {
        let mut service = Connection::connect(socket).await?;
        let mut known = None;
        loop {
            // The first question is answered at once; each further one once there is news, and says that the last was heard.
            let ask = ActiveIn { after: known };
            let waits = known.is_some();
            service.send(&encode_method::<profiles::method::Active>(&ask, &CallOptions::default(), waits, false)?).await?;
            let word: ActiveOut = service.receive().await?.typed()?.value;
            pauses.reset();
            known = Some(word.generation);
            self.set(View::of(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(indexes: Option<&[&str]>) -> Scope {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let scope = Scope::unknown();
        scope.set(View::of(ActiveOut { id: Some("recruiter".to_owned()), indexes: indexes.map(names), ..ActiveOut::default() }));
        scope
    }

    #[tokio::test]
    async fn only_what_is_bound_can_be_named_and_a_refusal_names_both() {
        let scope = bound(Some(&["cvs"]));
        assert!(scope.known(Deadline::NEVER).await.is_ok() && !scope.is_open());
        assert!(scope.binds_index("cvs") && !scope.binds_index("docs"));
        let fault = scope.index("docs").expect_err("refused");
        assert_eq!((&fault.parameters["profile"], &fault.parameters["name"]), (&"recruiter".into(), &"docs".into()));
        assert!(fault.message().contains("profile `recruiter`") && fault.message().contains("index `docs`"), "{fault}");
        assert!(scope.binds_dataset("anything"), "a profile that says nothing of datasets hides none");
        assert!(!bound(Some(&[])).binds_index("cvs"), "an empty list binds nothing");
        assert!(bound(None).binds_index("cvs"));
    }

    #[tokio::test]
    async fn nothing_can_be_named_before_it_is_known_and_everything_where_no_profile_is_active() {
        let scope = Scope::unknown();
        let fault = scope.known(Deadline::in_ms(Some(1))).await.expect_err("nobody has said");
        assert!(fault.retryable() && fault.name.ends_with(".Unknown"), "{fault}");
        scope.set(View::of(ActiveOut::default()));
        assert!(scope.known(Deadline::NEVER).await.is_ok() && scope.is_open() && scope.binds_index("any"));
    }

    #[tokio::test]
    async fn without_a_mesh_everything_can_be_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let scope = Scope::unknown();
        let following = tokio::spawn(scope.clone().follow(folder.path().join("brahman.sock")));
        assert!(scope.known(Deadline::NEVER).await.is_ok() && scope.is_open());
        following.abort();
    }
}
