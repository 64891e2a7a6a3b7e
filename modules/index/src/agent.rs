//! What the agent tries next, purely: what a plan of its bounds says, and sometimes anything; then
//! near the champion. Never the same twice.
//!
//! The choice depends only on the data's name and the trials on it, so a run can be repeated.
//! Whether it may run now is a matter of monotonic time; a wall clock that jumps changes nothing.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use brahman_card::interface::index::{Config, TrialRecord};
use serde::Deserialize;

use crate::better::Goal;
use crate::data::DataNames;
use crate::plan::{Grid, GridPoint};
use crate::trials::{Choice, alike, figures, with_best_width};
use flat_hnsw::build::mix;

/// Choices looked at before saying that everything near has been tried.
const ATTEMPTS: u64 = 256;
/// Values that a plan has of each parameter, bounds included.
const STEPS: u32 = 6;
/// The window of the rate limit.
const HOUR: Duration = Duration::from_secs(3600);

/// `[agent]` in the module's configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// It is off unless this says so.
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

/// What stands in the module's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// What runs in the background.
    pub agent: Settings,
    /// What a refresh may take.
    pub memory: MemorySettings,
}

/// `[memory]` in the module's configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {
    /// Most that a refresh may take, in MiB; a share of the machine's unless said.
    pub refresh_mib: Option<u64>,
}

/// Why a configuration makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It is no TOML, or not of these fields.
    #[error("{0}")]
    Syntax(String),
    /// Least and most that are not in order, or out of bounds.
    #[error("agent.{field} is [{least}, {most}], expected least and most within {low} to {high}")]
    Bounds {
        /// Which field.
        field: &'static str,
        /// Least that it says.
        least: u64,
        /// Most that it says.
        most: u64,
        /// Least that it may say.
        low: u64,
        /// Most that it may say.
        high: u64,
    },
    /// A number that is no share.
    #[error("agent.{field} is {value}, a share: expected {expected}")]
    Share {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: f64,
        /// What would do.
        expected: &'static str,
    },
}

impl Settings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`SettingsError`], with the field that is wrong.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let malformed = |error| SettingsError::Syntax(brahman_card::toml_words(text, &error));
        let settings = toml::from_str::<File>(text).map_err(malformed)?.agent;
        let within = |field: &'static str, [least, most]: [u64; 2], low: u64, high: u64| {
            if low <= least && least <= most && most <= high {
                return Ok(());
            }
            Err(SettingsError::Bounds { field, least, most, low, high })
        };
        within("m", settings.m, 2, 256)?;
        within("ef_construction", settings.ef_construction, 4, 4096)?;
        if !(0.0..=1.0).contains(&settings.epsilon) {
            return Err(SettingsError::Share {
                field: "epsilon",
                value: settings.epsilon,
                expected: "0 to 1",
            });
        }
        if !is_recall(settings.target_recall) {
            let (value, expected) = (settings.target_recall, "above 0, at most 1");
            return Err(SettingsError::Share { field: "target_recall", value, expected });
        }
        Ok(settings)
    }
}

/// Whether a number can be a recall to reach: there is none above 1, and anything reaches 0.
#[must_use]
pub fn is_recall(target: f64) -> bool {
    target > 0.0 && target <= 1.0
}

/// Trials that count for what comes next.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Of all data and queries.
    pub trials: &'a [TrialRecord],
    /// The data there is now.
    pub data: &'a DataNames,
    /// Id of the set of queries; none before one was made.
    pub eval: Option<&'a str>,
    /// Name of what builds the graphs.
    pub engine: &'a str,
}

impl<'a> History<'a> {
    /// Those on the same data and queries, by the same engine.
    fn alike(&self) -> Vec<&'a TrialRecord> {
        let all = self.eval.map(|eval| alike(self.trials, self.data, eval)).unwrap_or_default();
        all.into_iter()
            .filter(|trial| trial.config.engine.as_ref().is_none_or(|engine| engine == self.engine))
            .collect()
    }
}

/// Graphs that were tried, each by the best of its widths.
#[must_use]
pub fn tried(trials: &[&TrialRecord], goal: Goal) -> Vec<GridPoint> {
    let of = |trial: &&TrialRecord| {
        let (m, ef_construction) = (trial.config.m?, trial.config.ef_construction?);
        Some(GridPoint {
            m,
            ef_construction,
            figures: figures(&with_best_width(trial, Choice::Better(goal))),
        })
    };
    trials.iter().filter_map(of).collect()
}

/// What to try next on this data; `None` if everything near has been tried.
#[must_use]
pub fn next(settings: &Settings, history: &History<'_>) -> Option<Config> {
    let (same, goal) = (history.alike(), Goal::Target(settings.target_recall));
    let all = tried(&same, goal);
    let seed =
        history.data.now.bytes().fold(same.len() as u64, |seed, byte| mix(seed ^ u64::from(byte)));
    let is_new = |m: u64, ef: u64| !all.iter().any(|t| (t.m, t.ef_construction) == (m, ef));
    let share = |n: u64| (mix(n) >> 11) as f64 / (1_u64 << 53) as f64;
    let config =
        |(m, ef): (u64, u64)| Config { m: Some(m), ef_construction: Some(ef), ..Config::default() };
    let explores = share(seed) < settings.epsilon;
    if !explores
        && let Some(planned) =
            Grid::between(settings.m, settings.ef_construction, STEPS).next(goal, &all)
    {
        return Some(config(planned));
    }
    let champion =
        goal.best(&all.iter().map(|t| t.figures).collect::<Vec<_>>()).map(|place| all[place]);
    (0..ATTEMPTS).find_map(|attempt| {
        let draw = |axis: u64| share(seed ^ mix(attempt * 8 + axis));
        let anywhere =
            |[least, most]: [u64; 2], draw: f64| least + ((most - least + 1) as f64 * draw) as u64;
        let near = |value: u64, [least, most]: [u64; 2], draw: f64| {
            ((value as f64 * (0.7 + 0.7 * draw)).round() as u64).clamp(least, most)
        };
        let (m, ef_construction) = match champion.filter(|_| !explores) {
            Some(best) => (
                near(best.m, settings.m, draw(1)),
                near(best.ef_construction, settings.ef_construction, draw(2)),
            ),
            None => (anywhere(settings.m, draw(3)), anywhere(settings.ef_construction, draw(4))),
        };
        is_new(m, ef_construction).then(|| config((m, ef_construction)))
    })
}

/// When trials began and when the last ended, for the rate limit and the pause.
#[derive(Debug, Default)]
pub struct Pace {
    begun: VecDeque<Instant>,
    ended: Option<Instant>,
}

impl Pace {
    /// What the journals tell of the agent's trials before this life of the module: when each
    /// ended, in milliseconds since 1970, and how late it is now. A trial that seems to be still to
    /// come, because the clock was set back, ended just now.
    #[must_use]
    pub fn resumed(ends_ms: impl Iterator<Item = u64>, now_ms: u64, now: Instant) -> Self {
        let ago = |end: u64| Duration::from_millis(now_ms.saturating_sub(end));
        let mut ages: Vec<Duration> = ends_ms.map(ago).collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        let at: Vec<Instant> = ages.into_iter().filter_map(|age| now.checked_sub(age)).collect();
        let within = at.iter().filter(|at| now.duration_since(**at) < HOUR).copied();
        Self { begun: within.collect(), ended: at.last().copied() }
    }

    /// How long to wait before the next trial; for ever where none is allowed.
    #[must_use]
    pub fn wait(&self, settings: &Settings, now: Instant) -> Duration {
        let most = settings.max_trials_per_hour;
        if most == 0 {
            return Duration::MAX;
        }
        let since = self.begun.back().copied().max(self.ended);
        let pause = Duration::from_secs(settings.cooldown_s);
        let cooldown =
            since.map_or(Duration::ZERO, |last| pause.saturating_sub(now.duration_since(last)));
        let within: Vec<&Instant> =
            self.begun.iter().filter(|at| now.duration_since(**at) < HOUR).collect();
        let rate = if within.len() < most {
            Duration::ZERO
        } else {
            HOUR.saturating_sub(now.duration_since(*within[within.len() - most]))
        };
        cooldown.max(rate)
    }

    /// A trial begins, which counts from now.
    pub fn begin(&mut self, now: Instant) {
        self.begun.push_back(now);
        while self.begun.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            self.begun.pop_front();
        }
    }

    /// The trial that began last came to nothing, because others went first: it does not count
    /// against the hour.
    pub fn take_back(&mut self) {
        self.begun.pop_back();
    }

    /// A trial has ended: the pause begins.
    pub fn end(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Trials begun within the last hour.
    #[must_use]
    pub fn last_hour(&self, now: Instant) -> usize {
        self.begun.iter().filter(|at| now.duration_since(**at) < HOUR).count()
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::index::Metrics;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_tried_twice_nothing_is_out_of_bounds_and_the_same_history_gives_the_same_choice(
            recalls in prop::collection::vec(0.5_f64..1.0, 1..40),
        ) {
            let settings =
                Settings { m: [4, 12], ef_construction: [16, 40], ..Settings::default() };
            let (mut all, data): (Vec<TrialRecord>, _) =
                (Vec::new(), DataNames::new("data".into(), "", std::iter::empty()));
            for recall in recalls {
                let history =
                    History { trials: &all, data: &data, eval: Some("set"), engine: "flat-hnsw" };
                let config = next(&settings, &history).expect("225 choices are not used up by 40");
                let again = next(&settings, &history);
                prop_assert_eq!(again.as_ref(), Some(&config));
                let (m, ef) = (config.m.unwrap_or(0), config.ef_construction.unwrap_or(0));
                prop_assert!((4..=12).contains(&m) && (16..=40).contains(&ef));
                prop_assert!(all.iter().all(|t| t.config != config));
                let metrics = Metrics {
                    recall_at_k: recall,
                    recall_low: recall,
                    recall_high: recall,
                    ..Metrics::default()
                };
                let (fingerprint, eval) = ("data".into(), "set".into());
                all.push(TrialRecord {
                    config,
                    metrics,
                    fingerprint,
                    eval,
                    ..TrialRecord::default()
                });
            }
        }

        #[test]
        fn no_hour_has_more_trials_than_allowed_and_no_pause_is_shorter_than_the_cooldown(
            gaps in prop::collection::vec(0_u64..1000, 1..60),
        ) {
            let settings =
                Settings { max_trials_per_hour: 5, cooldown_s: 60, ..Settings::default() };
            let (mut pace, mut now, mut begun) = (Pace::default(), Instant::now(), Vec::new());
            for gap in gaps {
                now +=
                    Duration::from_secs(gap) + pace.wait(&settings, now + Duration::from_secs(gap));
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
        for (text, words) in [
            ("[agent]\nm = [24, 8]", "agent.m"),
            ("[agent]\nepsilon = 2", "epsilon"),
            ("[agent]\nepsilon = nan", "epsilon"),
            ("[agent]\ntarget_recall = 0", "target_recall"),
            ("[agent]\ntarget_recall = nan", "target_recall"),
            ("[agent]\nspeed = 1", "speed"),
        ] {
            assert!(
                Settings::parse(text).expect_err("refused").to_string().contains(words),
                "{text}"
            );
        }
    }

    #[test]
    fn trials_on_other_queries_other_data_or_by_another_engine_do_not_count() {
        let (settings, data) = (
            Settings { epsilon: 0.0, ..Settings::default() },
            DataNames::new("data".into(), "", std::iter::empty()),
        );
        let of = |trials: &[TrialRecord]| {
            next(
                &settings,
                &History { trials, data: &data, eval: Some("set"), engine: "flat-hnsw" },
            )
        };
        let first = of(&[]).expect("nothing was tried");
        let config = Config { engine: Some("flat-hnsw".into()), ..first.clone() };
        let same = TrialRecord {
            config,
            fingerprint: "data".into(),
            eval: "set".into(),
            ..TrialRecord::default()
        };
        assert_ne!(of(std::slice::from_ref(&same)), Some(first.clone()), "it was tried");
        for other in [
            TrialRecord { eval: "other".into(), ..same.clone() },
            TrialRecord { fingerprint: "other".into(), ..same.clone() },
            TrialRecord {
                config: Config { engine: Some("exact".into()), ..first.clone() },
                ..same.clone()
            },
        ] {
            assert_eq!(of(&[other]), Some(first.clone()));
        }
    }

    #[test]
    fn what_gave_way_does_not_count_against_the_hour() {
        let settings = Settings { max_trials_per_hour: 1, cooldown_s: 0, ..Settings::default() };
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(now);
        assert!(pace.wait(&settings, now) > Duration::ZERO);
        pace.take_back();
        assert_eq!((pace.wait(&settings, now), pace.last_hour(now)), (Duration::ZERO, 0));
    }

    #[test]
    fn limit_and_pause_hold_over_a_restart_and_none_means_none() {
        let settings = Settings { max_trials_per_hour: 3, cooldown_s: 300, ..Settings::default() };
        let (now, now_ms) = (Instant::now(), 10_000_000_000);
        let minutes = |n: u64| now_ms - n * 60_000;
        let pace = Pace::resumed([minutes(50), minutes(2), minutes(90)].into_iter(), now_ms, now);
        assert_eq!(
            (pace.last_hour(now), pace.wait(&settings, now)),
            (2, Duration::from_secs(180)),
            "two minutes of the pause are over"
        );
        let pace = Pace::resumed([minutes(50), minutes(20), minutes(10)].into_iter(), now_ms, now);
        assert_eq!(
            pace.wait(&settings, now),
            Duration::from_secs(600),
            "the first of three is ten minutes from being an hour old"
        );
        let pace = Pace::resumed(std::iter::once(now_ms + 5_000), now_ms, now);
        assert_eq!(
            pace.wait(&settings, now),
            Duration::from_secs(300),
            "a clock that was set back gives nothing away"
        );
        let mut pace = Pace::default();
        assert_eq!(
            pace.wait(&Settings { max_trials_per_hour: 0, ..settings.clone() }, now),
            Duration::MAX
        );
        pace.begin(now);
        pace.end(now + Duration::from_secs(18));
        assert_eq!(
            pace.wait(&settings, now + Duration::from_secs(18)),
            Duration::from_secs(300),
            "the pause begins at the end"
        );
    }
}
