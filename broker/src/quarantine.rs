//! Calls that ended their provider: which are refused, for how long.
//!
//! Invariants: bounded in entries and time; nothing is refused that has not been seen to end a
//! provider twice; a hash stands for a call, salted anew in each process, so that nobody can make
//! another's call look like one of these.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brahman_card::wire::fault::Fault;

/// How long such a call is refused: long enough that a caller in a loop cannot keep a provider
/// down, short enough for a provider that was repaired.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// Deaths after which a call is refused.
const DEATHS: u32 = 2;
/// Most calls remembered.
const ENTRIES_MAX: usize = 1024;

/// One call's content: method and parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn of(interface: &str, method: &str, parameters: &[u8]) -> Self {
        static SALT: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(SALT.hash_one((interface, method, parameters)))
    }
}

#[derive(Debug)]
struct Entry {
    deaths: u32,
    label: String,
    last: Instant,
}

/// The calls that ended a provider.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    entries: Mutex<HashMap<Fingerprint, Entry>>,
}

impl Quarantine {
    fn held(&self) -> MutexGuard<'_, HashMap<Fingerprint, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a call that is known to end its provider. Costs nothing while none is known.
    pub(crate) fn check(&self, call: impl FnOnce() -> Fingerprint) -> Result<(), Fault> {
        let entries = self.held();
        if entries.is_empty() {
            return Ok(());
        }
        match entries.get(&call()) {
            Some(entry) if entry.deaths >= DEATHS && entry.last.elapsed() < REFUSED_FOR => {
                let left = (REFUSED_FOR - entry.last.elapsed()).as_secs() + 1;
                let why = format!(
                    "died during this very call {} times: the call is refused for another {left} s",
                    entry.deaths
                );
                Err(Fault::provider_failed(&entry.label, why)
                    .with("retryable", false)
                    .with("quarantined_s", left))
            }
            _ => Ok(()),
        }
    }

    /// The call was answered: an end that it met before was none of its doing.
    pub(crate) fn survived(&self, call: impl FnOnce() -> Fingerprint) {
        let mut entries = self.held();
        if !entries.is_empty() {
            entries.remove(&call());
        }
    }

    /// A provider ended while it worked on this call alone, or for the second time (`deaths`) in a
    /// row.
    pub(crate) fn ended_on(&self, call: Fingerprint, label: &str, deaths: u32) {
        let mut entries = self.held();
        entries.retain(|_, entry| entry.last.elapsed() < REFUSED_FOR);
        if entries.len() >= ENTRIES_MAX {
            return;
        }
        let entry = entries.entry(call).or_insert_with(|| Entry {
            deaths: 0,
            label: label.to_owned(),
            last: Instant::now(),
        });
        entry.deaths = (entry.deaths + 1).max(deaths);
        entry.last = Instant::now();
        if entry.deaths == DEATHS {
            tracing::error!(
                label,
                "a call has killed its provider twice: it is refused from now on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_refused_from_its_second_death_on_and_no_other() {
        let quarantine = Quarantine::default();
        let (poison, other) =
            (Fingerprint::of("a.b", "C", b"{1}"), Fingerprint::of("a.b", "C", b"{2}"));
        assert_ne!(poison, other);
        quarantine.ended_on(poison, "p", 1);
        assert!(quarantine.check(|| poison).is_ok(), "once may be chance");
        quarantine.ended_on(poison, "p", 2);
        let fault = quarantine.check(|| poison).expect_err("twice is not");
        assert!(!fault.retryable() && fault.message().contains("`p`"), "{fault}");
        assert!(quarantine.check(|| other).is_ok());
        quarantine.ended_on(other, "p", 1);
        quarantine.survived(|| other);
        quarantine.ended_on(other, "p", 1);
        assert!(quarantine.check(|| other).is_ok(), "it was answered in between");
    }
}
