//! Trials as a plot: recall against the 95th percentile of latency, the Pareto front, which is
//! best, what answers now. Pure: places on a drawing, and nothing of how it is drawn.
//!
//! Invariant: no axis goes above a recall of 1 or below a latency of 0, and no label covers a dot
//! or another label.

use brahman_card::counted;
use brahman_card::interface::index::{Config, TrialRecord};
use serde::Serialize;

/// Width and height of the drawing, in its own units.
const SIZE: (f64, f64) = (900.0, 520.0);
/// Room at the left, top, right and bottom for what the axes say.
const MARGIN: (f64, f64, f64, f64) = (72.0, 16.0, 16.0, 56.0);
/// About how wide a label's letter is, and how high.
const LETTER: (f64, f64) = (6.4, 12.0);
/// Half of a dot's width.
const DOT: f64 = 6.0;
/// How far from its dot a label may stand.
const REACH: [f64; 4] = [8.0, 20.0, 36.0, 56.0];
/// About how many lines an axis has.
const TICKS: f64 = 6.0;

/// A line across, and what stands at its end.
#[derive(Debug, Serialize)]
pub(super) struct Tick {
    at: f64,
    label: String,
}

/// A trial.
#[derive(Debug, Serialize)]
struct Dot {
    x: f64,
    y: f64,
    /// What it is, in words.
    title: String,
    is_front: bool,
    is_best: bool,
}

/// Where what answers now stands.
#[derive(Debug, Serialize)]
struct Ring {
    x: f64,
    y: f64,
    title: String,
}

/// A configuration beside its dot; `x` and `y` are where its text begins, at its foot.
#[derive(Debug, Serialize)]
struct Label {
    text: String,
    x: f64,
    y: f64,
    dot_x: f64,
    dot_y: f64,
    /// It stands so far away that a line has to say whose it is.
    has_line: bool,
}

/// What is drawn.
#[derive(Debug, Serialize)]
pub(super) struct Plot {
    width: f64,
    height: f64,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    /// Neighbours of which recall is the share.
    k: String,
    /// All of it in words, for whoever does not see it.
    words: String,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    /// Points of the line that joins the front.
    front: String,
    dots: Vec<Dot>,
    live: Option<Ring>,
    labels: Vec<Label>,
    /// How many labels have no room.
    unlabelled: usize,
}

impl Plot {
    /// Whether what answers now is on it.
    pub(super) fn has_live(&self) -> bool {
        self.live.is_some()
    }
}

/// An axis: what it shows, and where that is drawn.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// All values and some room, none of it above `most` or below 0.
    fn of(values: impl Iterator<Item = f64>, most: f64, (from, to): (f64, f64)) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let room = ((high - low) * 0.1).max(high.abs() * 0.002).max(1e-6);
        Self { low: (low - room).max(0.0), high: (high + room).min(most.max(high)), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        rounded(self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from))
    }

    /// Lines at round numbers.
    fn ticks(&self) -> Vec<Tick> {
        let raw = (self.high - self.low) / TICKS;
        let power = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|n| n * power)
            .find(|step| *step >= raw)
            .unwrap_or(raw);
        let digits = if step >= 1.0 {
            0
        } else {
            [0.1, 0.01, 0.001, 0.000_1].iter().take_while(|unit| step < **unit * 0.999).count() + 1
        };
        let first = (self.low / step).ceil() * step;
        let values = std::iter::successors(Some(first), |value| Some(value + step))
            .take_while(|value| *value <= self.high + step * 1e-6);
        values
            .map(|value| Tick { at: self.place(value), label: format!("{value:.digits$}") })
            .collect()
    }
}

/// To a tenth, which is as fine as anybody sees.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// `m/ef_construction/ef_search` of a configuration.
pub(super) fn label(config: &Config) -> String {
    let number =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    format!("{}/{}/{}", number(config.m), number(config.ef_construction), number(config.ef_search))
}

/// Whether two configurations are the same but for how they were drawn by lot.
pub(super) fn is_same(one: &Config, other: &Config) -> bool {
    Config { seed: None, ..one.clone() } == Config { seed: None, ..other.clone() }
}

/// Trials that no other beats both in recall and in latency, by latency.
fn front<'a>(trials: &[&'a TrialRecord]) -> Vec<&'a TrialRecord> {
    let mut sorted = trials.to_vec();
    sorted.sort_by(|a, b| {
        a.metrics
            .p95_us
            .total_cmp(&b.metrics.p95_us)
            .then(b.metrics.recall_at_k.total_cmp(&a.metrics.recall_at_k))
    });
    let mut best = f64::NEG_INFINITY;
    sorted.retain(|trial| {
        let is_better = trial.metrics.recall_at_k > best;
        best = best.max(trial.metrics.recall_at_k);
        is_better
    });
    sorted
}

/// What answers now as the newest trial measured it beside its own, or as a trial of the same
/// configuration did: latency and recall.
fn live_point(trials: &[&TrialRecord], live: &Config) -> Option<(f64, f64)> {
    let beside = trials
        .iter()
        .rev()
        .filter_map(|trial| trial.live.as_ref())
        .find(|measured| is_same(&measured.config, live));
    let beside = beside.map(|measured| (measured.p95_us, measured.recall_at_k));
    beside.or_else(|| {
        trials.iter().rev().find(|trial| is_same(&trial.config, live)).map(|trial| point(trial))
    })
}

fn point(trial: &TrialRecord) -> (f64, f64) {
    (trial.metrics.p95_us, trial.metrics.recall_at_k)
}

/// Draws trials of one data and one set of queries; nothing if there are none, or if one measured
/// what is no number.
pub(super) fn plot(
    trials: &[&TrialRecord],
    best: Option<&str>,
    live: Option<&Config>,
) -> Option<Plot> {
    let live = live.and_then(|live| Some((live_point(trials, live)?, live)));
    let all: Vec<(f64, f64)> =
        trials.iter().map(|trial| point(trial)).chain(live.map(|(at, _)| at)).collect();
    if trials.is_empty() || !all.iter().all(|(x, y)| x.is_finite() && y.is_finite()) {
        return None;
    }
    let (left, top, right, bottom) = (MARGIN.0, MARGIN.1, SIZE.0 - MARGIN.2, SIZE.1 - MARGIN.3);
    let x = Axis::of(all.iter().map(|at| at.0), f64::INFINITY, (left, right));
    let y = Axis::of(all.iter().map(|at| at.1), 1.0, (bottom, top));
    let place = |(us, recall): (f64, f64)| (x.place(us), y.place(recall));
    let on_front = front(trials);
    let dot = |trial: &&TrialRecord| {
        let (x, y) = place(point(trial));
        let title = format!(
            "{}: recall {:.4}, p95 {:.0} µs",
            label(&trial.config),
            trial.metrics.recall_at_k,
            trial.metrics.p95_us
        );
        let is_front = on_front.iter().any(|one| one.id == trial.id);
        Dot { x, y, title, is_front, is_best: best == Some(trial.id.as_str()) }
    };
    let dots: Vec<Dot> = trials.iter().map(dot).collect();
    let texts: Vec<String> = trials.iter().map(|trial| label(&trial.config)).collect();
    let labels = labels(&dots, &texts, (left, top, right, bottom));
    let points = on_front.iter().map(|trial| place(point(trial))).map(|(x, y)| format!("{x},{y}"));
    let listed: Vec<String> = on_front
        .iter()
        .map(|trial| {
            format!(
                "{} {:.4} at {:.0} µs",
                label(&trial.config),
                trial.metrics.recall_at_k,
                trial.metrics.p95_us
            )
        })
        .collect();
    Some(Plot {
        width: SIZE.0,
        height: SIZE.1,
        left,
        top,
        right,
        bottom,
        k: trials
            .iter()
            .find_map(|trial| trial.k)
            .map_or_else(|| "k".to_owned(), |k| k.to_string()),
        words: format!(
            "{}. On the front, from the fastest: {}.",
            counted(trials.len() as u64, "trial", "trials"),
            listed.join("; ")
        ),
        x_ticks: x.ticks(),
        y_ticks: y.ticks(),
        front: points.collect::<Vec<_>>().join(" "),
        live: live.map(|(at, config)| Ring {
            x: place(at).0,
            y: place(at).1,
            title: format!("what answers now: {}", label(config)),
        }),
        unlabelled: dots.len() - labels.len(),
        dots,
        labels,
    })
}

/// A label beside each dot, where it covers no dot and no other label; none where there is no such
/// place.
fn labels(dots: &[Dot], texts: &[String], bounds: (f64, f64, f64, f64)) -> Vec<Label> {
    type Area = (f64, f64, f64, f64);
    let overlap = |a: Area, b: Area| a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3;
    let mut taken: Vec<Area> =
        dots.iter().map(|dot| (dot.x - DOT, dot.y - DOT, dot.x + DOT, dot.y + DOT)).collect();
    let mut out = Vec::new();
    for (dot, text) in dots.iter().zip(texts) {
        // A configuration is digits and slashes: a few letters.
        let width = text.chars().map(|_| LETTER.0).sum::<f64>();
        let around = REACH.into_iter().flat_map(|reach| {
            let (left, above, middle) =
                (dot.x - reach - width, dot.y - reach - LETTER.1, dot.y - LETTER.1 / 2.0);
            let (right, below, centre) = (dot.x + reach, dot.y + reach, dot.x - width / 2.0);
            let beside = [(right, middle), (left, middle), (centre, above), (centre, below)];
            let corners = [(right, above), (right, below), (left, above), (left, below)];
            beside.into_iter().chain(corners).map(move |place| (reach, place))
        });
        let own = |(x, y): (f64, f64)| (x, y, x + width, y + LETTER.1);
        let found = around.into_iter().find(|(_, place)| {
            let own = own(*place);
            let is_inside =
                own.0 >= bounds.0 && own.1 >= bounds.1 && own.2 <= bounds.2 && own.3 <= bounds.3;
            is_inside && !taken.iter().any(|other| overlap(own, *other))
        });
        if let Some((reach, (x, y))) = found {
            taken.push(own((x, y)));
            let (x, y) = (rounded(x), rounded(y + LETTER.1 - 2.0));
            out.push(Label {
                text: text.clone(),
                x,
                y,
                dot_x: dot.x,
                dot_y: dot.y,
                has_line: reach > REACH[1],
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::index::{LiveMetrics, Metrics};

    use super::*;

    fn trial(id: &str, m: u64, recall_at_k: f64, p95_us: f64) -> TrialRecord {
        TrialRecord {
            id: id.into(),
            config: Config {
                m: Some(m),
                ef_construction: Some(64),
                ef_search: Some(12),
                ..Config::default()
            },
            metrics: Metrics { recall_at_k, p95_us, ..Metrics::default() },
            k: Some(10),
            ..TrialRecord::default()
        }
    }

    #[test]
    fn the_front_is_drawn_and_what_answers_is_ringed() {
        let mut all = [
            trial("slow", 32, 0.99, 900.0),
            trial("bad", 4, 0.9, 500.0),
            trial("quick", 16, 0.95, 100.0),
        ];
        let live = Config { m: Some(24), ..Config::default() };
        all[2].live = Some(LiveMetrics {
            config: live.clone(),
            p95_us: 300.0,
            recall_at_k: 1.0,
            ..LiveMetrics::default()
        });
        let all: Vec<&TrialRecord> = all.iter().collect();
        let drawn = plot(&all, Some("quick"), Some(&live)).expect("drawn");
        let flags: Vec<(bool, bool)> =
            drawn.dots.iter().map(|dot| (dot.is_front, dot.is_best)).collect();
        assert_eq!(flags, [(true, false), (false, false), (true, true)]);
        assert_eq!(
            drawn.front,
            format!(
                "{},{} {},{}",
                drawn.dots[2].x, drawn.dots[2].y, drawn.dots[0].x, drawn.dots[0].y
            )
        );
        assert!(
            drawn.has_live()
                && drawn.k == "10"
                && drawn.words.contains("16/64/12 0.9500 at 100 µs; 32/64/12"),
            "{}",
            drawn.words
        );
        assert!(
            !plot(&all[..2], None, Some(&live)).expect("drawn").has_live(),
            "it was not measured"
        );
        assert!(
            plot(&[], None, None).is_none()
                && plot(&[&trial("odd", 1, f64::NAN, 1.0)], None, None).is_none()
        );
    }

    #[test]
    fn no_recall_is_above_one_and_no_latency_below_nothing() {
        let all = [trial("a", 1, 1.0, 0.0), trial("b", 2, 0.9, 90.0), trial("c", 3, 0.97, 40.0)];
        let drawn = plot(&all.iter().collect::<Vec<_>>(), None, None).expect("drawn");
        assert!(drawn.dots.iter().all(|dot| dot.y >= drawn.top
            && dot.y <= drawn.bottom
            && dot.x >= drawn.left
            && dot.x <= drawn.right));
        for tick in &drawn.y_ticks {
            assert!(
                tick.label.parse::<f64>().is_ok_and(|recall| recall <= 1.0) && tick.at >= drawn.top,
                "{tick:?}"
            );
        }
        assert!(
            drawn.x_ticks.iter().all(|tick| !tick.label.starts_with('-'))
                && drawn.x_ticks.len() > 2,
            "{:?}",
            drawn.x_ticks
        );
        let alone = plot(&[&trial("a", 1, 1.0, 12.0)], None, None).expect("drawn");
        assert!(
            alone.x_ticks.iter().chain(&alone.y_ticks).all(|tick| tick.at.is_finite()),
            "{alone:?}"
        );
    }

    #[test]
    fn labels_cover_neither_dots_nor_one_another() {
        // Thirty trials close together, as those of a grid are.
        let all: Vec<TrialRecord> = (0_u32..30)
            .map(|n| {
                trial(&n.to_string(), 16, 0.9 + f64::from(n / 6) * 0.001, 100.0 + f64::from(n % 6))
            })
            .collect();
        let drawn = plot(&all.iter().collect::<Vec<_>>(), None, None).expect("drawn");
        assert_eq!(drawn.labels.len() + drawn.unlabelled, 30);
        let area = |label: &Label| {
            let width = label.text.chars().map(|_| LETTER.0).sum::<f64>();
            (label.x, label.y + 2.0 - LETTER.1, label.x + width, label.y + 2.0)
        };
        let areas: Vec<(f64, f64, f64, f64)> = drawn.labels.iter().map(area).collect();
        for (n, a) in areas.iter().enumerate() {
            // Less what rounding moves.
            assert!(
                !areas[n + 1..].iter().any(|b| a.0 + 0.2 < b.2
                    && b.0 + 0.2 < a.2
                    && a.1 + 0.2 < b.3
                    && b.1 + 0.2 < a.3),
                "{a:?}"
            );
            assert!(
                !drawn
                    .dots
                    .iter()
                    .any(|dot| dot.x > a.0 && dot.x < a.2 && dot.y > a.1 && dot.y < a.3),
                "{a:?}"
            );
        }
    }
}
