//! The way to one flow: who serves it now, by the broker's word, and idle connections to that
//! provider.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_card::ModuleState;
use brahman_card::interface::broker::{FlowIn, Match, WatchOut, method};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::connection::encode_method;
use super::pool::Pool;
use super::{CallOptions, ClientError, Connection, PAUSES, RawReply};
use crate::chain;

/// What the broker last said; `None` until it has said anything.
type Latest = Option<Option<Match>>;

#[derive(Debug)]
pub(super) struct Route {
    latest: watch::Receiver<Latest>,
    idle: Pool,
    follower: JoinHandle<()>,
    mesh: PathBuf,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Route {
    pub(super) fn follow(mesh: &Path, interface: &str, options: &CallOptions) -> Self {
        let (sender, latest) = watch::channel(None);
        let require = Some(options.require.clone()).filter(|r| !r.is_empty());
        let question =
            FlowIn { flow: interface.to_owned(), context: options.context.clone(), require };
        let follower = tokio::spawn(follow(mesh.to_owned(), question, sender));
        Self { latest, idle: Pool::default(), follower, mesh: mesh.to_owned() }
    }

    /// A provider's socket: beside the mesh's own where its record has a bare name.
    pub(super) fn socket_of(&self, target: &Match) -> PathBuf {
        self.mesh.with_file_name("").join(&target.socket)
    }

    /// The provider now. Waits for the broker's first word, and for a provider that is on its way;
    /// not for one that nothing says will come.
    pub(super) async fn target(&self, wait: Duration) -> Option<Match> {
        let decided = |latest: &Latest| match latest {
            None => false,
            Some(None) => true,
            Some(Some(matched)) => matched.state == ModuleState::Ready,
        };
        let mut latest = self.latest.clone();
        if !decided(&latest.borrow()) {
            // A time-out leaves the answer to what is known by then.
            let _ = tokio::time::timeout(wait, latest.wait_for(decided)).await;
        }
        let now = latest.borrow().clone().flatten();
        now.filter(|m| m.state == ModuleState::Ready)
    }

    /// Sends a message to the provider on an idle or a fresh connection.
    pub(super) async fn exchange(
        &self,
        target: &Match,
        message: &[u8],
    ) -> Result<RawReply, ClientError> {
        let mut connection = self.idle.connect(&self.socket_of(target)).await?;
        let mut outcome = connection.exchange(message).await;
        if let Ok(reply) = &mut outcome {
            // Who answers is known here, whatever it calls itself.
            reply.provider = Some(target.label.clone());
            reply.mock = target.mock;
        }
        self.idle.put(connection);
        outcome
    }
}

/// Keeps `latest` at the broker's word. While the broker is away the last word stands.
async fn follow(mesh: PathBuf, question: FlowIn, latest: watch::Sender<Latest>) {
    let mut pauses = PAUSES;
    loop {
        let watching = async {
            let message =
                encode_method::<method::Watch>(&question, &CallOptions::default(), true, false)?;
            let mut connection = Connection::connect(&mesh).await?;
            connection.send(&message).await?;
            loop {
                let word: WatchOut = connection.receive().await?.typed()?.value;
                pauses.reset();
                latest.send_replace(Some(word.matched));
            }
        };
        let ended: Result<(), ClientError> = watching.await;
        if let Err(error) = ended {
            tracing::debug!(
                error = chain(&error),
                flow = question.flow,
                "the broker's watch ended"
            );
        }
        pauses.wait().await;
    }
}
