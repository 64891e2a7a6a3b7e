//! Work that waits for a disk or a lock, on a thread of the runtime's that may.
//!
//! Invariants: the work begins when [`blocking`] is called and goes on when nobody waits any more;
//! a panic of it is told to whoever waits.
//!
//! `tokio::task::spawn_blocking` compiles the whole machinery of a task, some five kilobytes, for
//! every closure that it is given: of a hundred of them in the catalog that was a sixth of its
//! code, and of the time to build it. Here all are one kind of task, and what each costs is two
//! boxes.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::{JoinError, JoinHandle};

/// What any work gives.
type Outcome = Box<dyn Any + Send>;

/// Work that has begun, and its end.
#[derive(Debug)]
pub struct BlockingWork<T> {
    task: JoinHandle<Outcome>,
    outcome: PhantomData<fn() -> T>,
}

/// Runs work on a thread that may wait. It needs a runtime, as `spawn_blocking` does.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> BlockingWork<T> {
    BlockingWork {
        task: begin(Box::new(move || -> Outcome { Box::new(work()) })),
        outcome: PhantomData,
    }
}

/// The one kind of task.
fn begin(work: Box<dyn FnOnce() -> Outcome + Send>) -> JoinHandle<Outcome> {
    tokio::task::spawn_blocking(work)
}

impl<T: 'static> Future for BlockingWork<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.task).poll(context));
        Poll::Ready(outcome.map(|outcome| {
            *outcome.downcast::<T>().expect("the work gives what its closure returns")
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::blocking;

    #[tokio::test]
    async fn whoever_waits_gets_what_the_work_gives_or_hears_of_its_panic() {
        assert_eq!(blocking(|| vec![1, 2]).await.expect("done"), [1, 2]);
        blocking(|| ()).await.expect("done");
        let error = blocking::<u8>(|| panic!("it is broken")).await.expect_err("it panicked");
        assert!(error.is_panic());
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits() {
        let (sender, receiver) = mpsc::channel();
        drop(blocking(move || sender.send(7)));
        assert_eq!(blocking(move || receiver.recv()).await.expect("done").expect("sent"), 7);
    }
}
