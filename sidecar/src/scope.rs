//! What the active profile lets be named: followed from `org.brahman.Profiles`, and asked before
//! anything that has a name is touched.
//!
//! For modules that own indexes or datasets, so that no way into the mesh leads around it.
//! Invariants: while it is not known which profile is active nothing can be named, but for a mesh
//! that has no profile service, which is init's to say: a broker that has only just begun knows of
//! nobody; while that service is away what it last said stands; a change is confirmed by asking for
//! the next, so that whoever switches knows when it counts. A call is judged by what is active when
//! it begins, and ends so.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brahman_card::interface::broker::{self, FlowIn};
use brahman_card::interface::profiles::{self, ActiveIn, ActiveOut, error};
use brahman_card::interface::{Empty, init};
use brahman_card::{Fault, ModuleState};
use tokio::sync::watch;

use crate::client::encode_method;
use crate::place::init_socket;
use crate::{Backoff, CallOptions, ClientError, Connection, Deadline, chain};

/// How long a call waits for the first word, which comes in milliseconds once the profile service
/// runs.
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
        Self::Bound(Arc::new(Bounds {
            profile,
            indexes: set(word.indexes),
            datasets: set(word.datasets),
        }))
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

    /// One that stands as the profile service's word says, for a service that follows nobody.
    #[must_use]
    pub fn of(word: ActiveOut) -> Self {
        Self { view: Arc::new(watch::channel(View::of(word)).0) }
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

    /// Whether the active profile hides datasets, so that what is told of all of them at once is
    /// not told whole.
    #[must_use]
    pub fn hides_datasets(&self) -> bool {
        match &*self.view.borrow() {
            View::Bound(bounds) => bounds.datasets.is_some(),
            View::Open => false,
            View::Unknown => true,
        }
    }

    /// That nothing is hidden, for a method that acts upon all indexes or datasets at once and
    /// would be wrong of a part of them.
    ///
    /// # Errors
    /// `Forbidden` of `org.brahman.Profiles`, naming the profile, and `*`.
    pub fn whole(&self, method: &str) -> Result<(), Fault> {
        let view = self.view.borrow();
        let View::Bound(bounds) = &*view else { return Ok(()) };
        if bounds.indexes.is_none() && bounds.datasets.is_none() {
            return Ok(());
        }
        let profile = bounds.profile.clone();
        let message = format!(
            "profile `{profile}` is active and hides what it does not bind, and {method} acts on everything at once: deactivate the profile first"
        );
        Err(Fault::of(&error::Forbidden { profile, name: "*".to_owned() }, false, message))
    }

    fn check(
        &self,
        name: &str,
        what: &str,
        of: impl Fn(&Bounds) -> &Option<BTreeSet<String>>,
    ) -> Result<(), Fault> {
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
                // No broker: of a mesh that has none, or of one that is only beginning, which init
                // knows; or this module is run by itself.
                Err(ClientError::Connect { path, source })
                    if path == mesh && is_absent(&source) =>
                {
                    self.without_broker(&mesh).await;
                }
                Err(error) => tracing::debug!(
                    "the active profile is not followed just now: {}",
                    chain(&error)
                ),
                Ok(()) => {}
            }
            pauses.wait().await;
        }
    }

    /// Where nobody has said anything and no broker is there: opens what no profile service of
    /// init's, or no init at all, can hide.
    async fn without_broker(&self, mesh: &Path) {
        if *self.view.borrow() != View::Unknown {
            return;
        }
        match is_in_table(mesh).await {
            Ok(false) => self.set(View::Open),
            Err(ClientError::Connect { source, .. }) if is_absent(&source) => self.set(View::Open),
            Ok(true) => {}
            Err(error) => tracing::debug!(
                "whether there are profiles is not known just now: {}",
                chain(&error)
            ),
        }
    }

    /// Asks the broker who knows, waits until somebody does, and follows that until its end.
    async fn once(&self, mesh: &Path, pauses: &mut Backoff) -> Result<(), ClientError> {
        let mut broker = Connection::connect(mesh).await?;
        let ask = FlowIn { flow: PROFILES.to_owned(), ..FlowIn::default() };
        let explained = broker.call_method::<broker::method::Explain>(&ask).await?;
        if explained.candidates.is_empty() && !is_in_table(mesh).await? {
            self.set(View::Open);
        }
        broker
            .send(&encode_method::<broker::method::Watch>(
                &ask,
                &CallOptions::default(),
                true,
                false,
            )?)
            .await?;
        loop {
            let word: broker::WatchOut = broker.receive().await?.typed()?.value;
            if let Some(found) = word.matched.filter(|found| found.state == ModuleState::Ready) {
                // Beside the mesh's own where its record has a bare name.
                let ended =
                    self.converse(&mesh.with_file_name("").join(&found.socket), pauses).await;
                // It may have been taken out of the mesh: who there is is asked anew.
                return ended;
            }
        }
    }

    async fn converse(&self, socket: &Path, pauses: &mut Backoff) -> Result<(), ClientError> {
        let mut service = Connection::connect(socket).await?;
        let mut known = None;
        loop {
            // The first question is answered at once; each further one once there is news, and says
            // that the last was heard.
            let ask = ActiveIn { after: known };
            let waits = known.is_some();
            service
                .send(&encode_method::<profiles::method::Active>(
                    &ask,
                    &CallOptions::default(),
                    waits,
                    false,
                )?)
                .await?;
            let word: ActiveOut = service.receive().await?.typed()?.value;
            pauses.reset();
            known = Some(word.generation);
            self.set(View::of(word));
        }
    }
}

/// Whether nobody listens at a socket, and not merely too many others wait there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Whether the mesh has a profile service, whatever state that is in, by init's own table: the
/// broker's is empty until init has spoken.
async fn is_in_table(mesh: &Path) -> Result<bool, ClientError> {
    let mut init = Connection::connect(&init_socket(mesh)).await?;
    let table = init.call_method::<init::method::List>(&Empty {}).await?;
    Ok(table
        .modules
        .iter()
        .any(|module| module.card.offered_interfaces().any(|name| name == PROFILES)))
}

#[cfg(test)]
mod tests {
    use brahman_card::{Card, ModuleRecord};
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;

    /// Answers calls at a socket as `replies` says, by method, and tells of each; one without a
    /// reply is never answered.
    fn answering(path: &Path, replies: Vec<(&'static str, Value)>, asked: mpsc::Sender<String>) {
        let listener = UnixListener::bind(path).expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (replies, asked) = (replies.clone(), asked.clone());
                tokio::spawn(async move {
                    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        bytes.extend_from_slice(&buffer[..read]);
                        while let Some(end) = bytes.iter().position(|byte| *byte == 0) {
                            let message: Vec<u8> = bytes.drain(..=end).collect();
                            let call: Value =
                                serde_json::from_slice(&message[..end]).expect("a call");
                            let method = call["method"].as_str().unwrap_or_default().to_owned();
                            let reply = replies.iter().find(|(known, _)| *known == method);
                            if let Some((_, parameters)) = reply {
                                let text = format!("{}\0", json!({ "parameters": parameters }));
                                stream.write_all(text.as_bytes()).await.expect("taken");
                            }
                            // The test may have heard enough.
                            let _ = asked.send(method).await;
                        }
                    }
                });
            }
        });
    }

    /// init's record of a module.
    fn record(card: &str) -> Value {
        let card = Card::parse("t.toml", card.as_bytes()).expect("a good Card");
        let record = ModuleRecord {
            socket: String::new(),
            card,
            state: ModuleState::Starting,
            pid: 0,
            incarnation: 1,
            restarts: 0,
            deaths: None,
            kills: None,
            uptime_ms: 0,
            reason: None,
            attributes: std::collections::BTreeMap::new(),
            shortfalls: Vec::new(),
            origin: None,
        };
        serde_json::to_value(record).expect("JSON")
    }

    #[tokio::test]
    async fn a_broker_that_knows_of_nobody_yet_opens_nothing_where_init_has_a_profile_service() {
        let service = "schema_version = 1\nlabel = \"profiles\"\npayload = \"virtual\"\n[[flow.output]]\nname = \"profiles\"\n\
                       type.interface.name = \"org.brahman.Profiles\"\n";
        let other = "schema_version = 1\nlabel = \"other\"\npayload = \"virtual\"\n";
        for (card, is_open) in [(service, false), (other, true)] {
            let folder = tempfile::tempdir().expect("a folder");
            let mesh = folder.path().join("brahman.sock");
            let (asked, mut heard) = mpsc::channel(16);
            let none = json!({ "context": null, "candidates": [] });
            answering(
                &mesh,
                vec![(<broker::method::Explain as brahman_card::interface::Method>::NAME, none)],
                asked.clone(),
            );
            let table = json!({ "modules": [record(card)] });
            answering(
                &init_socket(&mesh),
                vec![(<init::method::List as brahman_card::interface::Method>::NAME, table)],
                asked,
            );
            let scope = Scope::unknown();
            let following = tokio::spawn(scope.clone().follow(mesh));
            // By then it has made up its mind.
            while heard.recv().await.expect("a call")
                != <broker::method::Watch as brahman_card::interface::Method>::NAME
            {}
            assert_eq!(scope.is_open(), is_open, "{card}");
            following.abort();
        }
    }

    #[tokio::test]
    async fn before_there_is_a_broker_init_says_whether_anything_can_be_hidden() {
        let service = "schema_version = 1\nlabel = \"profiles\"\npayload = \"virtual\"\n[[flow.output]]\nname = \"profiles\"\n\
                       type.interface.name = \"org.brahman.Profiles\"\n";
        let folder = tempfile::tempdir().expect("a folder");
        let mesh = folder.path().join("brahman.sock");
        let (asked, mut heard) = mpsc::channel(16);
        let table = json!({ "modules": [record(service)] });
        answering(
            &init_socket(&mesh),
            vec![(<init::method::List as brahman_card::interface::Method>::NAME, table)],
            asked,
        );
        let scope = Scope::unknown();
        let following = tokio::spawn(scope.clone().follow(mesh));
        // By the second question the first answer has been heard.
        for _ in 0..2 {
            heard.recv().await.expect("a call");
        }
        assert!(!scope.is_open());
        following.abort();
    }

    #[test]
    fn what_is_of_everything_is_refused_while_anything_is_hidden() {
        let fault = bound(Some(&["cvs"])).whole("Snapshot").expect_err("refused");
        assert_eq!(
            (&fault.parameters["profile"], &fault.parameters["name"]),
            (&"recruiter".into(), &"*".into())
        );
        assert!(bound(None).whole("Snapshot").is_ok() && Scope::open().whole("Snapshot").is_ok());
        assert!(!bound(None).hides_datasets() && Scope::unknown().hides_datasets());
    }

    fn bound(indexes: Option<&[&str]>) -> Scope {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Scope::of(ActiveOut {
            id: Some("recruiter".to_owned()),
            indexes: indexes.map(names),
            ..ActiveOut::default()
        })
    }

    #[tokio::test]
    async fn only_what_is_bound_can_be_named_and_a_refusal_names_both() {
        let scope = bound(Some(&["cvs"]));
        assert!(scope.known(Deadline::NEVER).await.is_ok() && !scope.is_open());
        assert!(scope.binds_index("cvs") && !scope.binds_index("docs"));
        let fault = scope.index("docs").expect_err("refused");
        assert_eq!(
            (&fault.parameters["profile"], &fault.parameters["name"]),
            (&"recruiter".into(), &"docs".into())
        );
        assert!(
            fault.message().contains("profile `recruiter`")
                && fault.message().contains("index `docs`"),
            "{fault}"
        );
        assert!(
            scope.binds_dataset("anything"),
            "a profile that says nothing of datasets hides none"
        );
        assert!(!bound(Some(&[])).binds_index("cvs"), "an empty list binds nothing");
        assert!(bound(None).binds_index("cvs"));
    }

    #[tokio::test]
    async fn nothing_can_be_named_before_it_is_known_and_everything_where_no_profile_is_active() {
        let scope = Scope::unknown();
        let fault = scope.known(Deadline::in_ms(Some(1))).await.expect_err("nobody has said");
        assert!(fault.retryable() && fault.name.ends_with(".Unknown"), "{fault}");
        scope.set(View::of(ActiveOut::default()));
        assert!(
            scope.known(Deadline::NEVER).await.is_ok()
                && scope.is_open()
                && scope.binds_index("any")
        );
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
