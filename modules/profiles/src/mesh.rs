//! init's table and its commands: starting modules and waiting until they serve, stopping them and
//! waiting until they have ended.
//!
//! Invariants: whether a command has had its effect is told by a table that was asked for after it;
//! every wait ends with the state, with why it will not come, or with its time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_card::interface::init::{LabelIn, WatchOut, method};
use brahman_card::interface::{Empty, Method};
use brahman_card::{ModuleRecord, ModuleState};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{CallOptions, ClientError, Connection, place};
use thiserror::Error;

/// Longest wait beyond the time that a Card gives its module: SIGTERM's grace, a kill that is
/// repeated, and a busy machine.
const SLACK: Duration = Duration::from_secs(15);
/// A module that dies so often on its way has failed: once may be somebody's kill.
const DEATHS_MAX: u64 = 2;

/// Why a module is not as it should be.
#[derive(Debug, Error)]
pub enum MeshError {
    /// init does not answer, or refuses.
    #[error("init did not take the command")]
    Init(#[from] ClientError),
    /// No module is called so any more.
    #[error("no module is called `{label}`")]
    Missing {
        /// By which it was asked for.
        label: String,
    },
    /// It will not become ready by itself.
    #[error("`{label}` is {state}: {reason}")]
    Failed {
        /// Which one.
        label: String,
        /// Where it is.
        state: &'static str,
        /// In init's words.
        reason: String,
    },
    /// It is neither ready nor has it failed.
    #[error("`{label}` is {state} after {seconds} s")]
    Late {
        /// Which one.
        label: String,
        /// Where it is.
        state: &'static str,
        /// Waited for.
        seconds: u64,
    },
}

impl MeshError {
    /// Of which module, if it is of one.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Init(_) => None,
            Self::Missing { label } | Self::Failed { label, .. } | Self::Late { label, .. } => {
                Some(label)
            }
        }
    }
}

/// init, by its socket.
#[derive(Clone, Debug)]
pub struct Mesh {
    init: PathBuf,
}

/// What a command leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Ready,
    Ended,
}

impl Mesh {
    /// The init beside a mesh socket.
    #[must_use]
    pub fn new(mesh: &Path) -> Self {
        Self { init: place::init_socket(mesh) }
    }

    /// All modules as they are now.
    ///
    /// # Errors
    /// [`MeshError::Init`].
    pub async fn list(&self) -> Result<Vec<ModuleRecord>, MeshError> {
        let mut connection = Connection::connect(&self.init).await?;
        Ok(connection.call_method::<method::List>(&Empty {}).await?.modules)
    }

    /// Gives a command for each label, and waits for nothing.
    ///
    /// # Errors
    /// [`MeshError::Init`].
    async fn command<M: Method<In = LabelIn>>(&self, labels: &[String]) -> Result<(), MeshError> {
        let mut connection = Connection::connect(&self.init).await?;
        for label in labels {
            connection.call_method::<M>(&LabelIn { label: label.clone() }).await?;
        }
        Ok(())
    }

    /// Has modules started, and waits for nothing.
    ///
    /// # Errors
    /// [`MeshError::Init`].
    pub async fn begin(&self, labels: &[String]) -> Result<(), MeshError> {
        self.command::<method::Start>(labels).await
    }

    /// Has modules stopped, and waits for nothing.
    ///
    /// # Errors
    /// [`MeshError::Init`].
    pub async fn end(&self, labels: &[String]) -> Result<(), MeshError> {
        self.command::<method::Stop>(labels).await
    }

    /// Starts modules and waits until all of them serve.
    ///
    /// # Errors
    /// [`MeshError`] of the first that will not; the others are on their way, or serve.
    pub async fn start(&self, labels: &[String]) -> Result<(), MeshError> {
        if labels.is_empty() {
            return Ok(());
        }
        let before = self.list().await?;
        self.begin(labels).await?;
        self.settled(labels, &before, Goal::Ready).await
    }

    /// Stops modules and waits until all of them have ended.
    ///
    /// # Errors
    /// [`MeshError`].
    pub async fn stop(&self, labels: &[String]) -> Result<(), MeshError> {
        if labels.is_empty() {
            return Ok(());
        }
        let before = self.list().await?;
        self.end(labels).await?;
        self.settled(labels, &before, Goal::Ended).await
    }

    async fn settled(
        &self,
        labels: &[String],
        before: &[ModuleRecord],
        goal: Goal,
    ) -> Result<(), MeshError> {
        let of_these = before
            .iter()
            .filter(|module| labels.iter().any(|label| module.card.label.answers_to(label)));
        let slowest =
            of_these.map(|module| u64::from(module.card.readiness.timeout_s)).max().unwrap_or(0);
        let longest = SLACK + Duration::from_secs(if goal == Goal::Ready { slowest } else { 0 });
        let mut last: Vec<ModuleRecord> = before.to_vec();
        let settling = async {
            let mut connection = Connection::connect(&self.init).await?;
            connection
                .send(&encode_method::<method::Watch>(
                    &Empty {},
                    &CallOptions::default(),
                    true,
                    false,
                )?)
                .await?;
            loop {
                let word: WatchOut = connection.receive().await?.typed()?.value;
                last = word.modules;
                if all_settled(labels, before, &last, goal)? {
                    return Ok::<(), MeshError>(());
                }
            }
        };
        let settled = tokio::time::timeout(longest, settling).await;
        match settled {
            Ok(outcome) => outcome,
            Err(_) => Err(late(labels, &last, goal, longest)),
        }
    }
}

/// The modules that a label means: one, or a Card's replicas.
pub fn instances<'a>(
    table: &'a [ModuleRecord],
    label: &'a str,
) -> impl Iterator<Item = &'a ModuleRecord> {
    table.iter().filter(move |module| module.card.label.answers_to(label))
}

/// Whether a module has no process, and gets none by itself.
#[must_use]
pub fn has_ended(module: &ModuleRecord) -> bool {
    module.pid == 0 && matches!(module.state, ModuleState::Stopped | ModuleState::Failed)
}

/// Whether all of these are where the command leads to.
fn all_settled(
    labels: &[String],
    before: &[ModuleRecord],
    now: &[ModuleRecord],
    goal: Goal,
) -> Result<bool, MeshError> {
    let mut is_settled = true;
    for label in labels {
        let mut is_there = false;
        for module in instances(now, label) {
            is_there = true;
            is_settled &= match goal {
                Goal::Ended => has_ended(module),
                Goal::Ready => is_ready(module, before)?,
            };
        }
        // One that has left the table has ended.
        if !is_there && goal == Goal::Ready {
            return Err(MeshError::Missing { label: label.clone() });
        }
    }
    Ok(is_settled)
}

fn is_ready(module: &ModuleRecord, before: &[ModuleRecord]) -> Result<bool, MeshError> {
    let ends = |module: &ModuleRecord| module.deaths.unwrap_or(0) + module.kills.unwrap_or(0);
    let earlier = before.iter().find(|earlier| earlier.card.id == module.card.id).map_or(0, ends);
    let dies =
        module.state == ModuleState::Backoff && ends(module).saturating_sub(earlier) >= DEATHS_MAX;
    if dies || matches!(module.state, ModuleState::Failed | ModuleState::Stopped) {
        let reason = module.reason.clone().unwrap_or_else(|| "no reason is known".to_owned());
        return Err(MeshError::Failed {
            label: module.card.label.to_string(),
            state: module.state.as_str(),
            reason,
        });
    }
    Ok(module.state == ModuleState::Ready)
}

fn late(labels: &[String], last: &[ModuleRecord], goal: Goal, longest: Duration) -> MeshError {
    let is_late = |module: &&ModuleRecord| {
        if goal == Goal::Ready { module.state != ModuleState::Ready } else { !has_ended(module) }
    };
    let found = labels.iter().find_map(|label| instances(last, label).find(is_late));
    MeshError::Late {
        label: found.map_or_else(
            || labels.first().cloned().unwrap_or_default(),
            |module| module.card.label.to_string(),
        ),
        state: found.map_or("on its way", |module| module.state.as_str()),
        seconds: longest.as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::Card;

    use super::*;

    fn module(label: &str, state: ModuleState, kills: u64) -> ModuleRecord {
        let text = format!("schema_version = 1\nlabel = \"{label}\"\npayload = \"virtual\"\n");
        let card = Card::parse("t.toml", text.as_bytes()).expect("a good Card");
        ModuleRecord {
            socket: String::new(),
            card,
            state,
            pid: u32::from(state == ModuleState::Ready),
            incarnation: 1,
            restarts: 0,
            deaths: Some(0),
            kills: Some(kills),
            uptime_ms: 0,
            reason: Some("a reason".to_owned()),
            attributes: std::collections::BTreeMap::new(),
            shortfalls: Vec::new(),
            origin: None,
        }
    }

    #[test]
    fn a_start_ends_with_all_ready_or_with_the_one_that_will_not_be() {
        use ModuleState::{Backoff, Failed, Loading, Ready, Stopped};
        let labels = ["a".to_owned(), "b".to_owned()];
        let before = [module("a", Stopped, 1), module("b", Stopped, 0)];
        let settled = |a: (ModuleState, u64), b| {
            all_settled(&labels, &before, &[module("a", a.0, a.1), module("b", b, 0)], Goal::Ready)
        };
        assert!(settled((Ready, 1), Ready).is_ok_and(|settled| settled));
        assert!(settled((Loading, 1), Ready).is_ok_and(|settled| !settled));
        assert!(
            settled((Backoff, 2), Ready).is_ok_and(|settled| !settled),
            "one kill may be anybody's"
        );
        let failed = settled((Backoff, 3), Ready).expect_err("it dies each time");
        assert!(
            matches!(&failed, MeshError::Failed { label, .. } if label == "a")
                && failed.to_string().contains("a reason"),
            "{failed}"
        );
        assert!(settled((Ready, 1), Failed).is_err_and(|error| error.label() == Some("b")));
        assert!(matches!(
            all_settled(&labels, &before, &before[..1], Goal::Ready),
            Err(MeshError::Failed { .. } | MeshError::Missing { .. })
        ));
    }

    #[test]
    fn a_stop_ends_with_no_process_be_the_module_gone_from_the_table() {
        use ModuleState::{Draining, Ready, Stopped};
        let labels = ["a".to_owned()];
        let settled =
            |now: &[ModuleRecord]| all_settled(&labels, &[], now, Goal::Ended).expect("no error");
        assert!(settled(&[module("a", Stopped, 0)]) && settled(&[]));
        assert!(!settled(&[module("a", Draining, 0)]) && !settled(&[module("a", Ready, 0)]));
    }
}
