//! The accept loop: who may come in, how many, and what happens when descriptors run out.
//!
//! Invariant: no accept error ends the loop. Out of descriptors, a spare one is given up to tell
//! the caller so.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brahman_card::wire::fault::Fault;
use nix::errno::Errno;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call::encode_fault;

/// Pause after a failed accept: long enough to let a connection end, short enough not to be felt.
const PAUSE: Duration = Duration::from_millis(20);

/// How many connections are let in.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// In all. One uid gets at most what is left halved, so that no one can shut the others out.
    pub connections: usize,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self { connections: 4096 }
    }
}

/// Who is at the other end, from `SO_PEERCRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group that the process ran in.
    pub gid: u32,
    /// Process at the time of the connect.
    pub pid: i32,
}

/// One connection's place in the count, given back on drop.
struct Place {
    counts: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// Accepts until `stop` is cancelled; each connection runs `handle` as a task of `tracker`.
pub async fn accept<F, Fut>(
    listener: UnixListener,
    limits: AcceptLimits,
    stop: &CancellationToken,
    tracker: &TaskTracker,
    handle: F,
) where
    F: Fn(UnixStream, Peer) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let own_uid = nix::unistd::geteuid().as_raw();
    let counts = Arc::new(Mutex::new(HashMap::new()));
    let mut spare = File::open("/dev/null").ok();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EMFILE | Errno::ENFILE)
                ) {
                    tracing::warn!(%error, "out of file descriptors: refusing a connection");
                    drop(spare.take());
                    if let Ok(Ok((stream, _))) =
                        tokio::time::timeout(PAUSE, listener.accept()).await
                    {
                        refuse(
                            &stream,
                            &Fault::overloaded("this service is out of file descriptors", 200),
                        );
                    }
                    spare = File::open("/dev/null").ok();
                } else {
                    tracing::warn!(%error, "accept failed");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let peer = match stream.peer_cred() {
            Ok(cred) => Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid().unwrap_or(0) },
            Err(error) => {
                tracing::warn!(%error, "a peer without credentials was turned away");
                continue;
            }
        };
        if peer.uid != own_uid && peer.uid != 0 && !is_of_group(&peer) {
            tracing::warn!(uid = peer.uid, pid = peer.pid, "another user was turned away");
            refuse(
                &stream,
                &Fault::permission_denied(format!(
                    "this mesh belongs to uid {own_uid}, not to uid {}",
                    peer.uid
                )),
            );
            continue;
        }
        match place(&counts, peer.uid, limits) {
            Ok(place) => {
                let conversation = handle(stream, peer);
                tracker.spawn(async move {
                    conversation.await;
                    drop(place);
                });
            }
            Err(fault) => {
                tracing::warn!(
                    uid = peer.uid,
                    pid = peer.pid,
                    "connection refused: {}",
                    fault.message()
                );
                refuse(&stream, &fault);
            }
        }
    }
}

/// Whether a peer belongs to the group that this process's socket is open to, if it is to one.
fn is_of_group(peer: &Peer) -> bool {
    match crate::place::mesh_group() {
        Ok(Some(group)) => peer.gid == group || crate::place::is_member(peer.uid, peer.pid, group),
        _ => false,
    }
}

fn place(
    counts: &Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
    limits: AcceptLimits,
) -> Result<Place, Fault> {
    let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let total: usize = held.values().sum();
    let own = held.get(&uid).copied().unwrap_or(0);
    // A lone uid may fill all but an eighth; beside others, each newcomer shares what is left.
    let reserve = limits.connections / 8;
    if total >= limits.connections
        || (own > 0 && total + reserve >= limits.connections && own * 2 > total)
    {
        return Err(Fault::overloaded(
            format!(
                "{total} connections are open, {own} of them uid {uid}'s; the limit is {}",
                limits.connections
            ),
            500,
        ));
    }
    held.insert(uid, own + 1);
    Ok(Place { counts: Arc::clone(counts), uid })
}

/// Tells the peer why, as far as its buffer takes it, and hangs up.
fn refuse(stream: &UnixStream, fault: &Fault) {
    let result: io::Result<usize> = stream.try_write(&encode_fault(b"{", fault, 0));
    if let Err(error) = result {
        tracing::debug!(%error, "the refusal itself was not taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_cannot_take_the_last_eighth() {
        let counts = Arc::default();
        let limits = AcceptLimits { connections: 16 };
        let held: Vec<Place> = std::iter::from_fn(|| place(&counts, 1000, limits).ok()).collect();
        assert_eq!(held.len(), 14);
        let others: Vec<Place> = std::iter::from_fn(|| place(&counts, 0, limits).ok()).collect();
        assert_eq!(others.len(), 2);
        drop(held);
        assert!(place(&counts, 1000, limits).is_ok(), "places come back");
    }
}
