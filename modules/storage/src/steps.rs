//! Named moments at which a test can stop a program as if it were killed.
//!
//! Code that must survive a crash anywhere passes each of its steps here. In a product nothing is
//! asked; a test hands in a function that fails at the step it wants, and afterwards looks at what
//! is on disk.

use std::fmt;
use std::io;
use std::sync::Arc;

type Ask = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// Where to stop, if anywhere.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<Ask>>);

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steps").field(&self.0.is_some()).finish()
    }
}

impl Steps {
    /// Steps that ask `ask` by name.
    #[must_use]
    pub fn asking(ask: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// Steps that fail from the `n`-th on, counted from 0, as after a crash.
    #[must_use]
    pub fn stopping_at(n: usize) -> Self {
        let passed = std::sync::atomic::AtomicUsize::new(0);
        Self::asking(move |name| {
            if passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < n {
                return Ok(());
            }
            Err(io::Error::other(format!("stopped at `{name}`")))
        })
    }

    /// Passes a step.
    ///
    /// # Errors
    /// If a test stops here.
    pub fn pass(&self, name: &str) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |ask| ask(name))
    }
}
