//! A broker without init, sockets or processes, for fuzzing: it is given its table, and each
//! connection.

use std::path::Path;
use std::sync::Arc;

use brahman_card::ModuleRecord;
use brahman_sidecar::Peer;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::service::Broker;
use crate::splice::converse;
use crate::table::{ContextFile, Table};

/// The broker of one table that never changes.
#[derive(Clone, Debug)]
pub struct Alone(Arc<Broker>);

impl Alone {
    /// Over these modules, whose sockets lie in a folder.
    #[must_use]
    pub fn new(folder: &Path, modules: Vec<ModuleRecord>) -> Self {
        let table = Table { modules, ..Table::empty(None) };
        let (table, _) = watch::channel(Arc::new(table));
        Self(Arc::new(Broker::new(
            table,
            CancellationToken::new(),
            folder.join("init.sock"),
            ContextFile(folder.join("context")),
        )))
    }

    /// Serves one client, of this process's own user, until it goes.
    pub async fn converse(self, client: UnixStream) {
        let peer = Peer {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: 0,
        };
        converse(client, peer, self.0).await;
    }
}
