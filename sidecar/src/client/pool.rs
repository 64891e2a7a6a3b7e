//! Idle connections to one socket, kept for the next call.
//!
//! Invariants: a connection is lent only if nothing of an earlier call can come on it, and only for
//! the socket that it leads to; a pool is bounded.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ClientError, Connection};

/// Idle connections kept to one socket: as many as calls are usually made at once.
const IDLE_MAX: usize = 64;

/// The socket that was used last, and connections to it.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<(PathBuf, Vec<Connection>)>);

impl Pool {
    fn idle(&self) -> MutexGuard<'_, (PathBuf, Vec<Connection>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection to this socket, if there is one. Those to another are dropped: it is not
    /// used any more.
    pub(super) fn take(&self, socket: &Path) -> Option<Connection> {
        let candidate = {
            let mut idle = self.idle();
            if idle.0 != socket {
                *idle = (socket.to_owned(), Vec::new());
            }
            idle.1.pop()
        };
        candidate.filter(Connection::is_reusable)
    }

    /// An idle connection to this socket, or a new one.
    pub(super) async fn connect(&self, socket: &Path) -> Result<Connection, ClientError> {
        match self.take(socket) {
            Some(connection) => Ok(connection),
            None => Connection::connect(socket).await,
        }
    }

    /// Keeps a connection whose call is over; after a fault it is as good as after a reply.
    pub(super) fn put(&self, connection: Connection) {
        if !connection.is_reusable() {
            return;
        }
        let mut idle = self.idle();
        if idle.0 == connection.path() && idle.1.len() < IDLE_MAX {
            idle.1.push(connection);
        }
    }
}
