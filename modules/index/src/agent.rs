//! What the agent tries next, purely: ε-greedy around the champion, within bounds, never the same twice.
//!
//! The choice depends only on the data's fingerprint and the number of trials on it, so a run can be repeated. Whether it
//! may run now is a matter of monotonic time; a wall clock that jumps changes nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use brahman_card::interface::index::{Config, TrialRecord};
use serde::Deserialize;

use crate::flat::build::mix;
use crate::trials::best;

/// Choices looked at before saying that everything near has been tried.
const ATTEMPTS: u64 = 256;
/// The window of the rate limit.
const HOUR: Duration = Duration::from_secs(3600);

/// `[agent]` in the module's configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Off unless said.
    pub enabled: bool,
    /// Whether indexes follow their datasets; that needs no trials.
    pub refresh: bool,
    /// Most trials within any hour.
    pub max_trials_per_hour: usize,
    /// Pause after a trial, in seconds.
    pub cooldown_s: u64,
    /// All indexes are looked at this often, in seconds.
    pub period_s: u64,
    /// Share of choices made at random.
    pub epsilon: f64,
    /// Recall that `ef_search` is found for.
    pub target_recall: f64,
    /// Least and most of `m`.
    pub m: [u64; 2],
    /// Least and most of `ef_construction`.
    pub ef_construction: [u64; 2],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: false,
            refresh: false,
            max_trials_per_hour: 6,
            cooldown_s: 300,
            period_s: 3600,
            epsilon: 0.25,
            target_recall: 0.95,
            m: [6, 48],
            ef_construction: [32, 400],
        }
    }
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Its only table so far.
    pub agent: Settings,
}

impl Settings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// In words, with the field that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let settings = toml::from_str::<File>(text).map_err(|e| e.to_string())?.agent;
        let within = |name: &str, [least, most]: [u64; 2], low: u64, high: u64| {
            if low <= least && least <= most && most <= high {
                return Ok(());
            }
            Err(format!("agent.{name} is [{least}, {most}], expected least and most within {low} to {high}"))
        };
        within("m", settings.m, 2, 256)?;
        within("ef_construction", settings.ef_construction, 4, 4096)?;
        if !(0.0..=1.0).contains(&settings.epsilon) || !(0.0..=1.0).contains(&settings.target_recall) {
            return Err("agent.epsilon and agent.target_recall are shares: expected 0 to 1".to_owned());
        }
        Ok(settings)
    }
}

/// What to try next on this data; `None` if everything near has been tried.
#[must_use]
pub fn next(settings: &Settings, fingerprint: &str, history: &[TrialRecord]) -> Option<Config> {
    let same: Vec<&TrialRecord> = history.iter().filter(|t| t.fingerprint == fingerprint).collect();
    let champion = best(history, fingerprint, "pareto");
    let seed = fingerprint.bytes().fold(same.len() as u64, |seed, byte| mix(seed ^ u64::from(byte)));
    let tried = |m: u64, ef: u64| same.iter().any(|t| (t.config.m, t.config.ef_construction) == (Some(m), Some(ef)));
    let share = |n: u64| (mix(n) >> 11) as f64 / (1_u64 << 53) as f64;
    (0..ATTEMPTS).find_map(|attempt| {
        let draw = |axis: u64| share(seed ^ mix(attempt * 8 + axis));
        let anywhere = |[least, most]: [u64; 2], draw: f64| least + ((most - least + 1) as f64 * draw) as u64;
        let near = |value: u64, [least, most]: [u64; 2], draw: f64| ((value as f64 * (0.7 + 0.7 * draw)).round() as u64).clamp(least, most);
        let greedy = champion.filter(|_| draw(0) >= settings.epsilon).map(|t| &t.config);
        let (m, ef_construction) = match greedy {
            Some(Config { m: Some(m), ef_construction: Some(ef), .. }) => {
                (near(*m, settings.m, draw(1)), near(*ef, settings.ef_construction, draw(2)))
            }
            _ => (anywhere(settings.m, draw(3)), anywhere(settings.ef_construction, draw(4))),
        };
        (!tried(m, ef_construction)).then(|| Config { m: Some(m), ef_construction: Some(ef_construction), ..Config::default() })
    })
}

/// When trials began, for the rate limit.
#[derive(Debug, Default)]
pub struct Pace(VecDeque<Instant>);

impl Pace {
    /// How long to wait before the next trial.
    #[must_use]
    pub fn wait(&self, settings: &Settings, now: Instant) -> Duration {
        let cooldown =
            self.0.back().map_or(Duration::ZERO, |last| Duration::from_secs(settings.cooldown_s).saturating_sub(now.duration_since(*last)));
        let within: Vec<&Instant> = self.0.iter().filter(|at| now.duration_since(**at) < HOUR).collect();
        let most = settings.max_trials_per_hour.max(1);
        let rate = if within.len() < most { Duration::ZERO } else { HOUR.saturating_sub(now.duration_since(*within[within.len() - most])) };
        cooldown.max(rate)
    }

    /// A trial begins.
    pub fn begin(&mut self, now: Instant) {
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            self.0.pop_front();
        }
    }

    /// Trials begun within the last hour.
    #[must_use]
    pub fn last_hour(&self, now: Instant) -> usize {
        self.0.iter().filter(|at| now.duration_since(**at) < HOUR).count()
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::index::Metrics;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_tried_twice_nothing_is_out_of_bounds_and_the_same_history_gives_the_same_choice(recalls in prop::collection::vec(0.5_f64..1.0, 1..40)) {
            let settings = Settings { m: [4, 12], ef_construction: [16, 40], ..Settings::default() };
            let mut history: Vec<TrialRecord> = Vec::new();
            for recall in recalls {
                let config = next(&settings, "data", &history).expect("225 choices are not used up by 40");
                let again = next(&settings, "data", &history);
                prop_assert_eq!(again.as_ref(), Some(&config));
                let (m, ef) = (config.m.unwrap_or(0), config.ef_construction.unwrap_or(0));
                prop_assert!((4..=12).contains(&m) && (16..=40).contains(&ef));
                prop_assert!(history.iter().all(|t| t.config != config));
                let metrics = Metrics { recall_at_k: recall, ..Metrics::default() };
                history.push(TrialRecord { config, metrics, fingerprint: "data".into(), ..TrialRecord::default() });
            }
        }

        #[test]
        fn no_hour_has_more_trials_than_allowed_and_no_pause_is_shorter_than_the_cooldown(gaps in prop::collection::vec(0_u64..1000, 1..60)) {
            let settings = Settings { max_trials_per_hour: 5, cooldown_s: 60, ..Settings::default() };
            let (mut pace, mut now, mut begun) = (Pace::default(), Instant::now(), Vec::new());
            for gap in gaps {
                now += Duration::from_secs(gap) + pace.wait(&settings, now + Duration::from_secs(gap));
                pace.begin(now);
                begun.push(now);
            }
            prop_assert!(begun.windows(2).all(|w| w[1] - w[0] >= Duration::from_secs(60)));
            prop_assert!(begun.windows(6).all(|w| w[5] - w[0] >= HOUR));
        }
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused_by_field() {
        assert!(Settings::parse("[agent]\nenabled = true\nm = [8, 24]\n").expect("parses").enabled);
        for (text, words) in [("[agent]\nm = [24, 8]", "agent.m"), ("[agent]\nepsilon = 2", "epsilon"), ("[agent]\nspeed = 1", "speed")] {
            assert!(Settings::parse(text).expect_err("refused").contains(words), "{text}");
        }
    }
}
