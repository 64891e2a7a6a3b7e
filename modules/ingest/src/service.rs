//! `org.brahman.Ingest`: which reader a call wants.
//!
//! [`tables`] reads those of servers.

mod tables;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brahman_card::interface::ingest::{
    self, CancelIn, CancelOut, FilesIn, IngestOut, RunsOut, UnwatchIn, UnwatchOut, WatchIn,
    WatchOut, WatchesOut,
};
use brahman_card::names::Kind;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Client, Reply, Scope, Service, chain};
use tokio_util::sync::CancellationToken;

use crate::csv::TextOptions;
use crate::files;
use crate::rules::{self, walk_rules};
use crate::run::{Job, Runs};
use crate::sink::Place;
use crate::source::{Format, WalkRules};
use crate::watches::Watches;
use crate::{mysql, postgres};
use tables::{MOCK, SECONDS_MAX, Server};

/// Longest time for a change to come to rest.
const DEBOUNCE_MS_MAX: u64 = 3_600_000;

/// Answers the interface: runs, and folders that are watched.
#[derive(Debug)]
pub struct IngestService {
    runs: Arc<Runs>,
    postgres: Server,
    mysql: Server,
    watches: Option<Arc<Watches>>,
    /// Where unfinished reads are noted; the mock has none.
    state: Option<PathBuf>,
    /// What the active profile lets be named. Datasets themselves are the catalog's to refuse; here
    /// are what reads them and what did.
    scope: Scope,
}

impl IngestService {
    /// A service that commits through this client, under this label, and keeps its watches in this
    /// state directory.
    ///
    /// # Errors
    /// If the watches cannot be read.
    pub fn new(client: Client, label: &str, state: &Path) -> io::Result<Self> {
        let runs = Arc::new(Runs::new(client, label, Some(state.join("ingest/runs.json"))));
        let watches = Some(Watches::open(Arc::clone(&runs), state)?);
        Ok(Self {
            runs,
            postgres: Server { read: postgres::read, hold: postgres::hold },
            mysql: Server { read: mysql::read, hold: mysql::hold },
            watches,
            state: Some(state.to_owned()),
            scope: Scope::open(),
        })
    }

    /// One whose tables are synthetic, and which watches nothing.
    #[must_use]
    pub fn synthetic(client: Client, label: &str) -> Self {
        let runs = Arc::new(Runs::new(client, label, None).of_a_mock());
        Self { runs, postgres: MOCK, mysql: MOCK, watches: None, state: None, scope: Scope::open() }
    }

    /// The same, in which only what this scope binds can be named.
    #[must_use]
    pub fn scoped(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// Follows the profile service of the mesh at a socket, for ever: watches look again once what
    /// a profile had kept from them can be named.
    pub async fn keep_scope(&self, mesh: PathBuf) {
        let look = || {
            if let Some(watches) = &self.watches {
                watches.look_again(|dataset| self.scope.binds_dataset(dataset));
            }
        };
        tokio::join!(self.scope.clone().follow(mesh), self.scope.each_change(look));
    }

    /// Ends, in the lineage, what this module had begun when it last died.
    pub async fn bury(&self) {
        self.runs.bury().await;
    }

    /// What is to be said of the module as a whole.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let damage = self.watches.as_ref().and_then(|watches| watches.damage());
        damage.into_iter().map(|damage| ("damaged".to_owned(), damage)).collect()
    }

    fn watches(&self) -> Result<&Arc<Watches>, Fault> {
        let none = || {
            Fault::invalid_parameter(
                "context",
                "the mock watches nothing: expected a context in which ingest is real",
            )
        };
        self.watches.as_ref().ok_or_else(none)
    }

    async fn watch(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: WatchIn = call.parameters()?;
        call.allow_paths()?;
        self.scope.dataset(&ask.dataset)?;
        if ask.paths.is_empty() {
            return Err(Fault::invalid_parameter("paths", "expected at least one folder"));
        }
        bounded("debounce_ms", ask.debounce_ms, DEBOUNCE_MS_MAX, 1)?;
        bounded("reconcile_s", ask.reconcile_s, SECONDS_MAX, 1)?;
        files::csv_options(&ask.csv.clone().unwrap_or_default())?;
        // What could never be committed is not followed. A dataset from before its name was
        // reserved keeps that.
        if let Err(error) = Kind::Dataset.check_new(&ask.dataset) {
            let may_be = Kind::Dataset.check(&ask.dataset).is_ok();
            if !may_be || self.runs.dataset(&ask.dataset).await?.is_none() {
                return Err(Fault::invalid_parameter("dataset", error.to_string()));
            }
        }
        let watches = self.watches()?;
        watches.check(&ask)?;
        let format =
            rules::format_of(ask.format.clone(), ask.paths.clone(), ask.no_ignore == Some(true))
                .await?;
        Reply::of(&WatchOut { watching: watches.watch(ask, format)? })
    }

    async fn files(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: FilesIn = call.parameters()?;
        let (format, how) = source_of(call, &ask).await?;
        let FilesIn { dataset, paths, pii, bucket, no_ignore, .. } = ask;
        let (rules, note) = walk_rules(&self.runs, &dataset, format, no_ignore == Some(true)).await;
        let read = move |place: &Place, progress: &_, cancel: &_| {
            let mut done = files::read(&paths, &rules, format, &how, place, progress, cancel)?;
            done.notes.extend(note);
            Ok(done)
        };
        let job = Job { dataset, bucket, pii: pii.unwrap_or(true), ..Job::default() };
        Reply::of(&IngestOut::Done(self.runs.carry_out(Some(call), job, read).await?))
    }

    async fn explain(&self, call: &Call) -> Result<Reply, Fault> {
        let ask: FilesIn = call.parameters()?;
        let (format, how) = source_of(call, &ask).await?;
        let rules = WalkRules { no_ignore: ask.no_ignore == Some(true), ..WalkRules::default() };
        let how = TextOptions { explain: true, ..how };
        let cancel = CancellationToken::new();
        let _cancel_on_drop = cancel.clone().drop_guard();
        let explained = tokio::task::spawn_blocking(move || {
            files::explain(&ask.paths, &rules, format, &how, &cancel)
        })
        .await;
        Reply::of(&explained.map_err(|error| Fault::internal(chain(&error)))??)
    }
}

/// Of what kind files are and how they are read, checked.
async fn source_of(call: &Call, ask: &FilesIn) -> Result<(Format, TextOptions), Fault> {
    call.allow_paths()?;
    if ask.paths.is_empty() {
        return Err(Fault::invalid_parameter("paths", "expected at least one file or folder"));
    }
    let csv = files::csv_options(&ask.csv.clone().unwrap_or_default())?;
    let how = TextOptions { csv, union: ask.union_by_name, ..files::by_all_cores() };
    let format =
        rules::format_of(ask.format.clone(), ask.paths.clone(), ask.no_ignore == Some(true))
            .await?;
    Ok((format.unwrap_or(Format::Documents), how))
}

fn bounded(what: &str, value: Option<u64>, most: u64, default: u64) -> Result<u64, Fault> {
    match value.unwrap_or(default) {
        n if (1..=most).contains(&n) => Ok(n),
        n => Err(Fault::invalid_parameter(what, format!("{n}, expected 1 to {most}"))),
    }
}

impl Service for IngestService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&ingest::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        self.scope.known(call.deadline).await?;
        match call.method() {
            "Files" => self.files(&call).await,
            "Explain" => self.explain(&call).await,
            "Postgres" => self.table(&call, &["postgres", "postgresql"], self.postgres).await,
            "Mysql" => self.table(&call, &["mysql", "mariadb"], self.mysql).await,
            "Watch" => self.watch(&call).await,
            "Unwatch" => {
                let UnwatchIn { dataset } = call.parameters()?;
                call.allow_paths()?;
                self.scope.dataset(&dataset)?;
                Reply::of(&UnwatchOut { stopped: self.watches()?.unwatch(&dataset)? })
            }
            "Watches" => {
                if let Some(watches) = &self.watches {
                    watches.notice_deletions().await;
                }
                let mut watches =
                    self.watches.as_ref().map_or_else(|| Ok(Vec::new()), |w| w.list())?;
                watches.retain(|watch| self.scope.binds_dataset(&watch.dataset));
                Reply::of(&WatchesOut { watches })
            }
            "Runs" => {
                let mut runs = self.runs.list();
                runs.retain(|run| self.scope.binds_dataset(&run.dataset));
                Reply::of(&RunsOut { runs })
            }
            "Cancel" => {
                let CancelIn { run_id } = call.parameters()?;
                if let Some(run) = self.runs.list().iter().find(|run| run.run_id == run_id) {
                    self.scope.dataset(&run.dataset)?;
                }
                Reply::of(&CancelOut { cancelled: self.runs.cancel(&run_id) })
            }
            _ => Err(call.unknown()),
        }
    }
}
