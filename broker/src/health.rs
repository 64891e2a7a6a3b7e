//! How a provider is doing: latency, breaker, and the mesh's retry budget. Pure; time comes from
//! outside.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Failures in a row that open the breaker.
const FAILURES_IN_ROW: u32 = 5;
/// Least calls in the window before its success rate counts, and the rate below which the breaker
/// opens.
const RATE: (u32, f64) = (20, 0.5);
/// Length of the success-rate window and of the retry budget's memory.
const WINDOW: Duration = Duration::from_secs(10);
/// How long an open breaker waits before it lets one probe through; doubled by each failed probe up
/// to the maximum.
const OPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Latencies older than this leave the percentiles.
const LATENCY_WINDOW: Duration = Duration::from_secs(60);
/// Weight of the newest latency in the average, unless it is a peak, which counts whole.
const EWMA_WEIGHT: f64 = 0.2;

/// An idle provider's latency is half forgotten in this time: who was slow once is tried again, and
/// not left aside for good.
const FORGOTTEN_HALF: Duration = Duration::from_millis(100);

/// What a call came to, as far as the provider's health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered, be it with an error of its own.
    Answered,
    /// It said that it was overloaded: counts in the rate, not in the row.
    Overloaded,
    /// It hung up, or could not be reached.
    Failed,
}

/// One provider's health.
#[derive(Debug)]
pub(crate) struct Health {
    ewma_us: f64,
    /// When it answered last.
    heard: Option<Instant>,
    recent: Option<[Histogram<u32>; 2]>,
    turned: Option<Instant>,
    row: u32,
    window: (Option<Instant>, u32, u32),
    open_until: Option<Instant>,
    open_for: Duration,
    /// When the probe that is out counts as lost: its caller may have hung up without a verdict.
    probe_until: Option<Instant>,
    pub(crate) calls: u64,
    pub(crate) failures: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            ewma_us: 0.0,
            heard: None,
            recent: None,
            turned: None,
            row: 0,
            window: (None, 0, 0),
            open_until: None,
            open_for: OPEN.0,
            probe_until: None,
            calls: 0,
            failures: 0,
        }
    }
}

impl Health {
    /// Whether the last answers came within `limit`.
    pub(crate) fn is_quick(&self, limit: Duration) -> bool {
        self.calls > 0 && self.ewma_us < limit.as_micros() as f64
    }

    /// Peak EWMA latency times load: rises at once, falls with each answer, and with time while
    /// nothing runs there.
    pub(crate) fn cost(&self, load: usize, now: Instant) -> f64 {
        let idle = self
            .heard
            .filter(|_| load == 0)
            .map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard));
        let remembered = self.ewma_us * 0.5_f64.powf(idle.div_duration_f64(FORGOTTEN_HALF));
        (remembered + 1.0) * (load as f64 + 1.0)
    }

    /// Whether the breaker would let a call through now. Asking changes nothing; [`Self::begin`] is
    /// for the one chosen.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let probing = self.probe_until.is_some_and(|until| now < until);
        self.open_until.is_none_or(|until| now >= until && !probing)
    }

    /// A call goes there now; in half-open it is the probe, and no other passes until its verdict.
    pub(crate) fn begin(&mut self, now: Instant) {
        if self.open_until.is_some_and(|until| now >= until) {
            self.probe_until = Some(now + OPEN.1);
        }
    }

    /// The breaker in a word, while it holds anything back.
    pub(crate) fn breaker(&self, now: Instant) -> Option<&'static str> {
        self.open_until.map(|until| if now < until { "open" } else { "half-open" })
    }

    pub(crate) fn note(&mut self, outcome: Outcome, took: Duration, now: Instant) {
        self.calls += 1;
        let good = outcome == Outcome::Answered;
        if outcome == Outcome::Failed {
            self.failures += 1;
            self.row += 1;
        } else {
            self.row = 0;
            self.latency(took, now);
        }
        let (since, total, failed) = &mut self.window;
        if since.is_none_or(|since| now.duration_since(since) > WINDOW) {
            (*since, *total, *failed) = (Some(now), 0, 0);
        }
        *total += 1;
        *failed += u32::from(!good);
        let bad_rate = *total >= RATE.0 && f64::from(*failed) / f64::from(*total) > 1.0 - RATE.1;
        if self.open_until.is_some() {
            self.probe_until = None;
            if good {
                (self.open_until, self.open_for, self.window) = (None, OPEN.0, (None, 0, 0));
            } else {
                self.open_for = (self.open_for * 2).min(OPEN.1);
                self.open_until = Some(now + self.open_for);
            }
        } else if self.row >= FAILURES_IN_ROW || bad_rate {
            self.open_until = Some(now + self.open_for);
        }
    }

    fn latency(&mut self, took: Duration, now: Instant) {
        let us = took.as_micros() as f64;
        self.heard = Some(now);
        self.ewma_us =
            if us > self.ewma_us { us } else { self.ewma_us + EWMA_WEIGHT * (us - self.ewma_us) };
        if self.recent.is_none() {
            // 1 µs to an hour at two digits: 20 KiB a histogram.
            let fresh = || Histogram::new_with_bounds(1, 3_600_000_000, 2);
            self.recent = fresh().and_then(|a| Ok([a, fresh()?])).ok();
            self.turned = Some(now);
        }
        if let Some(recent) = &mut self.recent {
            if self.turned.is_some_and(|turned| now.duration_since(turned) > LATENCY_WINDOW) {
                recent.swap(0, 1);
                recent[0].reset();
                self.turned = Some(now);
            }
            recent[0].saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
        }
    }

    /// Median and 99th percentile of recent calls in microseconds.
    pub(crate) fn percentiles(&self) -> Option<(u64, u64)> {
        let [current, last] = self.recent.as_ref()?;
        let mut both = current.clone();
        both.add(last).ok()?;
        (!both.is_empty()).then(|| (both.value_at_quantile(0.5), both.value_at_quantile(0.99)))
    }

    /// The provider was started anew: what its predecessor did is no longer held against it.
    pub(crate) fn renewed(&mut self) {
        (self.row, self.window, self.open_until, self.open_for, self.probe_until) =
            (0, (None, 0, 0), None, OPEN.0, None);
    }
}

/// How many retries the mesh may add to its load: a fifth of recent calls, and ten a second.
#[derive(Debug, Default)]
pub(crate) struct RetryBudget {
    slots: [(u64, u32, u32); 10],
    origin: Option<Instant>,
}

impl RetryBudget {
    fn slot(&mut self, now: Instant) -> &mut (u64, u32, u32) {
        let origin = *self.origin.get_or_insert(now);
        let second = now.duration_since(origin).as_secs() + 1;
        let slot = &mut self.slots[(second % 10) as usize];
        if slot.0 != second {
            *slot = (second, 0, 0);
        }
        slot
    }

    pub(crate) fn called(&mut self, now: Instant) {
        self.slot(now).1 += 1;
    }

    /// Takes one retry from the budget.
    pub(crate) fn retry(&mut self, now: Instant) -> bool {
        let second = self.slot(now).0;
        let live = self.slots.iter().filter(|slot| slot.0 + 10 > second);
        let (calls, retries) = live.fold((0, 0), |(c, r), slot| (c + slot.1, r + slot.2));
        let allowed = f64::from(retries) < f64::from(calls) * 0.2 + 100.0;
        if allowed {
            self.slot(now).2 += 1;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn five_failures_open_the_breaker_and_one_good_probe_closes_it() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..4 {
            health.note(Outcome::Failed, MS, now);
        }
        assert!(health.allows(now));
        health.note(Outcome::Failed, MS, now);
        assert!(!health.allows(now));
        let later = now + OPEN.0;
        assert!(health.allows(later) && health.allows(later), "asking takes nothing");
        health.begin(later);
        assert!(!health.allows(later), "one probe at a time");
        assert!(health.allows(later + OPEN.1), "a probe without a verdict is given up");
        health.note(Outcome::Failed, MS, later);
        assert!(!health.allows(later + OPEN.0), "a failed probe doubles the wait");
        let last = later + OPEN.0 * 2;
        assert!(health.allows(last));
        health.note(Outcome::Answered, MS, last);
        assert!(health.allows(last) && health.breaker(last).is_none());
    }

    #[test]
    fn who_was_slow_once_is_tried_again_but_not_while_it_works() {
        let (mut slow, mut busy, now) = (Health::default(), Health::default(), Instant::now());
        slow.note(Outcome::Answered, 20 * MS, now);
        busy.note(Outcome::Answered, MS / 5, now);
        assert!(slow.cost(0, now) > busy.cost(10, now));
        let later = now + 10 * FORGOTTEN_HALF;
        assert!(slow.cost(0, later) < busy.cost(1, later));
        assert!(slow.cost(1, later) > busy.cost(10, later));
    }

    #[test]
    fn overload_counts_in_the_rate_only() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..RATE.0 - 1 {
            health.note(Outcome::Overloaded, MS, now);
        }
        assert!(health.allows(now));
        health.note(Outcome::Overloaded, MS, now);
        assert!(!health.allows(now));
    }

    #[test]
    fn the_budget_allows_a_hundred_and_a_fifth_and_forgets() {
        let (mut budget, now) = (RetryBudget::default(), Instant::now());
        for _ in 0..500 {
            budget.called(now);
        }
        assert_eq!((0..1000).filter(|_| budget.retry(now)).count(), 200);
        assert!(budget.retry(now + Duration::from_secs(11)));
    }

    #[test]
    fn percentiles_follow_recent_calls() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.percentiles(), None);
        for i in 1..=100 {
            health.note(Outcome::Answered, Duration::from_micros(i), now);
        }
        let (p50, p99) = health.percentiles().expect("calls were made");
        assert!((49..=51).contains(&p50) && (98..=100).contains(&p99));
    }
}
