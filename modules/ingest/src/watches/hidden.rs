//! Watches that the active profile keeps from their datasets: they look again once another one is.
//!
//! Invariant: a change of profiles is missed by no try that was refused, whichever of the two comes
//! first.

use std::sync::atomic::Ordering;

use super::Watches;

impl Watches {
    /// Another profile is active, or none: what one had kept from its dataset looks again at once,
    /// and says no longer that it is.
    pub fn look_again(&self, binds: impl Fn(&str) -> bool) {
        let mut all = self.lock();
        self.profiles.fetch_add(1, Ordering::Relaxed);
        for (dataset, watch) in all.iter_mut() {
            if watch.is_hidden && binds(dataset) {
                (watch.is_hidden, watch.told.error) = (false, None);
                watch.changed.notify_one();
            }
        }
    }

    /// Notes whether a profile kept a try from its dataset that began with so many changes of them.
    /// After another one it is tried again at once: nobody else says so.
    pub(super) fn hidden(&self, dataset: &str, is_hidden: bool, since: u64) {
        let mut all = self.lock();
        let Some(watch) = all.get_mut(dataset) else { return };
        let is_late = self.profiles.load(Ordering::Relaxed) != since;
        watch.is_hidden = is_hidden && !is_late;
        if is_hidden && is_late {
            watch.changed.notify_one();
        }
    }
}
