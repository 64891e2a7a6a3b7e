//! Places for what is bounded: connections, requests, streams, bytes of bodies.
//!
//! Invariant: whoever comes by TCP never has all of them, so that the mesh's own user is let in by
//! his socket whoever else comes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many places, of which a quarter is for the Unix socket alone.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    /// Those that may be taken by TCP.
    remote: Arc<Semaphore>,
}

/// One place, or several that were taken one after the other; given back with this.
#[derive(Debug)]
pub(crate) struct Place {
    all: OwnedSemaphorePermit,
    remote: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Takes in what another one holds, of the same places.
    pub(crate) fn merge(&mut self, more: Self) {
        self.all.merge(more.all);
        if let Some(more) = more.remote {
            match &mut self.remote {
                Some(remote) => remote.merge(more),
                remote => *remote = Some(more),
            }
        }
    }
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        let remote = (count - count / 4).max(1);
        Self { all: Arc::new(Semaphore::new(count)), remote: Arc::new(Semaphore::new(remote)) }
    }

    /// Takes so many, if they are there.
    pub(crate) fn take(&self, count: u32, is_remote: bool) -> Option<Place> {
        let remote = match is_remote {
            true => Some(Arc::clone(&self.remote).try_acquire_many_owned(count).ok()?),
            false => None,
        };
        let all = Arc::clone(&self.all).try_acquire_many_owned(count).ok()?;
        Some(Place { all, remote })
    }

    /// Waits for one. None only if there are none any more, which never is.
    pub(crate) async fn wait(&self, is_remote: bool) -> Option<Place> {
        let remote = match is_remote {
            true => Some(Arc::clone(&self.remote).acquire_owned().await.ok()?),
            false => None,
        };
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { all, remote })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_by_tcp_leaves_a_quarter_to_the_socket() {
        let places = Places::new(8);
        let mut taken: Vec<Place> = (0..6).filter_map(|_| places.take(1, true)).collect();
        assert!(taken.len() == 6 && places.take(1, true).is_none(), "six of eight");
        let own = places.take(2, false).expect("two are left");
        assert!(places.take(1, false).is_none());
        drop(own);
        let mut first = taken.remove(0);
        first.merge(taken.remove(0));
        drop(taken);
        assert!(places.take(4, true).is_some(), "two are held by the merged one");
        assert!(places.take(5, true).is_none());
        drop(first);
        assert!(places.take(6, true).is_some());
        assert!(places.take(8, false).is_some());
    }
}
