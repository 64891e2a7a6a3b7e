//! Threads and tasks of this module, and what becomes of a panic in one: the call that waits is
//! answered with a fault, or, where nobody waits, the process ends and init starts another. Never
//! is a part of the module missing in silence.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use brahman_card::Fault;
use tokio::sync::oneshot;

/// A panic that was caught.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing} panicked: {words}")]
pub struct Panic {
    /// What was being done.
    pub doing: String,
    /// The panic's own words.
    pub words: String,
}

impl From<Panic> for Fault {
    fn from(panicked: Panic) -> Self {
        Self::internal(format!(
            "{panicked}; it is a fault of ours, the log of `index` has the place"
        ))
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// Does something that may panic on bytes that a disk has changed.
///
/// # Errors
/// The panic, which is in the log by then.
pub fn caught<T>(doing: &str, work: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let panicked = Panic { doing: doing.to_owned(), words: words(&*panic) };
        tracing::error!("{panicked}");
        panicked
    })
}

/// Work on a thread of its own; ends with what it gave, or with a fault if it panicked.
#[derive(Debug)]
pub struct OwnThread<T>(oneshot::Receiver<Result<T, Panic>>);

impl<T> Future for OwnThread<T> {
    type Output = Result<T, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| match outcome {
            Ok(done) => done.map_err(Fault::from),
            Err(_) => Err(Fault::internal(
                "no thread could be started for it: the limit of the module's processes is reached",
            )),
        })
    }
}

/// Runs long work on a thread of its own, at the lowest priority if nobody waits for it: a pool's
/// thread would stay so.
pub fn on_own_thread<T: Send + 'static>(
    doing: &'static str,
    polite: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> OwnThread<T> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        if polite {
            // On Linux this is of the thread. A refusal costs politeness only.
            let _ = rustix::process::nice(19);
        }
        // Whoever waited may have gone.
        let _ = sender.send(caught(doing, work));
    };
    // Without a thread the sender is dropped, and whoever waits hears of it.
    if let Err(error) = std::thread::Builder::new().name("index-work".into()).spawn(run) {
        tracing::error!("{doing}: no thread could be started: {error}");
    }
    OwnThread(receiver)
}

/// Follows what must go on for as long as the process lives: a panic in it ends the process, and
/// init starts another.
pub async fn endless(doing: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let mut work = std::pin::pin!(work);
    let poll = |context: &mut Context<'_>| {
        caught(doing, || work.as_mut().poll(context)).unwrap_or_else(|_| {
            tracing::error!("{doing} cannot go on: the module exits, so that init restarts it");
            std::process::abort()
        })
    };
    std::future::poll_fn(poll).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_fault_to_whoever_waits() {
        let done = on_own_thread("counting", false, || 7).await;
        assert_eq!(done.expect("counted"), 7);
        let fault = on_own_thread::<u8>("counting", true, || panic!("at {}", 3))
            .await
            .expect_err("it panicked");
        assert!(
            fault.name == "org.brahman.Fault.Internal"
                && fault.message().contains("counting panicked: at 3"),
            "{fault}"
        );
    }
}
