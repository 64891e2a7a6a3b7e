//! Trials as a picture that can be read by itself: recall against the 95th percentile of latency,
//! the Pareto front, which is best, what answers now, and a legend that says all of this.

use std::path::Path;

use brahman_card::interface::index::{Config, TrialRecord};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::failure::{BadInput, NotFound};

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 640);
/// Height of the legend, of these.
const LEGEND: u32 = 92;
/// Height of its lines.
const LINE: i32 = 20;
/// Height of a label's letters, and about how wide one is.
const LETTER: (i32, i32) = (7, 12);
/// How far from its dot a label may stand.
const REACH: [i32; 4] = [8, 20, 36, 56];

/// What is drawn.
pub(crate) struct Picture<'a> {
    /// Of one data and one set of queries.
    pub(crate) trials: &'a [&'a TrialRecord],
    /// Id of the best.
    pub(crate) best: Option<&'a str>,
    /// By what it is the best.
    pub(crate) by: &'a str,
    /// What answers now.
    pub(crate) live: Option<&'a Config>,
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
    sorted.retain(|t| {
        let better = t.metrics.recall_at_k > best;
        best = best.max(t.metrics.recall_at_k);
        better
    });
    sorted
}

/// What an axis shows: all values and some room, which is not above `most`.
fn range(values: impl Iterator<Item = f64>, most: f64) -> std::ops::Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let room = ((high - low) * 0.1).max(high.abs() * 0.002).max(1e-6);
    (low - room).max(0.0)..(high + room).min(most.max(high))
}

/// A place for each label beside its dot, where it covers no dot and no other label; none where
/// there is no such place. Places are of the upper left corner, in pixels.
fn places(
    dots: &[(i32, i32)],
    labels: &[String],
    bounds: (i32, i32, i32, i32),
) -> Vec<Option<(i32, i32)>> {
    let overlaps = |a: (i32, i32, i32, i32), b: (i32, i32, i32, i32)| {
        a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
    };
    let mut taken: Vec<(i32, i32, i32, i32)> =
        dots.iter().map(|(x, y)| (x - 5, y - 5, x + 5, y + 5)).collect();
    let mut out = Vec::with_capacity(labels.len());
    for ((x, y), label) in dots.iter().zip(labels) {
        let (width, height) = (
            LETTER.0 * i32::try_from(label.chars().count()).unwrap_or(i32::MAX / LETTER.0),
            LETTER.1,
        );
        let around = REACH.into_iter().flat_map(|r| {
            let (left, above, middle) = (x - r - width, y - r - height, y - height / 2);
            let (right, below, centre) = (x + r, y + r, x - width / 2);
            let beside = [(right, middle), (left, middle), (centre, above), (centre, below)];
            beside.into_iter().chain([(right, above), (right, below), (left, above), (left, below)])
        });
        let place = around.into_iter().find(|(left, top)| {
            let own = (*left, *top, left + width, top + height);
            let is_inside =
                own.0 >= bounds.0 && own.1 >= bounds.1 && own.2 <= bounds.2 && own.3 <= bounds.3;
            is_inside && !taken.iter().any(|other| overlaps(own, *other))
        });
        taken.extend(place.map(|(left, top)| (left, top, left + width, top + height)));
        out.push(place);
    }
    out
}

/// `m/ef_construction/ef_search` of a configuration.
fn label(config: &Config) -> String {
    let n = |v: Option<u64>| v.map_or_else(|| "-".to_owned(), |v| v.to_string());
    format!("{}/{}/{}", n(config.m), n(config.ef_construction), n(config.ef_search))
}

/// Where what answers now stands: as a trial of the same configuration measured it, or as the
/// newest trial measured it beside its own.
fn live_point(trials: &[&TrialRecord], live: &Config) -> Option<(f64, f64)> {
    let is_same = |config: &Config| {
        Config { seed: None, ..config.clone() } == Config { seed: None, ..live.clone() }
    };
    let beside = trials.iter().rev().find_map(|t| {
        t.live.as_ref().filter(|l| is_same(&l.config)).map(|l| (l.p95_us, l.recall_at_k))
    });
    beside.or_else(|| {
        trials
            .iter()
            .rev()
            .find(|t| is_same(&t.config))
            .map(|t| (t.metrics.p95_us, t.metrics.recall_at_k))
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawResult = Result<(), Box<dyn std::error::Error>>;

/// Draws trials into an SVG file.
pub(crate) fn trials(file: &Path, picture: &Picture<'_>) -> anyhow::Result<()> {
    if file.extension().is_none_or(|extension| extension != "svg") {
        return Err(BadInput(format!(
            "{}: expected a file whose name ends in .svg",
            file.display()
        ))
        .into());
    }
    if picture.trials.is_empty() {
        return Err(NotFound(
            "there is no trial on this data and these queries; `brahman index autotune` makes some"
                .to_owned(),
        )
        .into());
    }
    let root: Area<'_> = SVGBackend::new(file, SIZE).into_drawing_area();
    // plotters' errors cannot be kept: they are not for other threads.
    draw(&root, picture)
        .map_err(|error| BadInput(format!("cannot draw {}: {error}", file.display())).into())
}

fn draw(root: &Area<'_>, picture: &Picture<'_>) -> DrawResult {
    let trials = picture.trials;
    let point = |t: &TrialRecord| (t.metrics.p95_us, t.metrics.recall_at_k);
    let live = picture.live.and_then(|live| live_point(trials, live));
    let all = || trials.iter().map(|t| point(t)).chain(live);
    let (xs, ys) = (range(all().map(|p| p.0), f64::INFINITY), range(all().map(|p| p.1), 1.0));
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(SIZE.1 - LEGEND);
    let mut chart = ChartBuilder::on(&upper)
        .caption("recall against p95", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(xs, ys)?;
    let k = trials.iter().find_map(|t| t.k).map_or_else(|| "k".to_owned(), |k| k.to_string());
    chart
        .configure_mesh()
        .x_desc("95th percentile of one search, µs (in the module's process, without the socket)")
        .y_desc(format!("recall@{k}: share of the true neighbours found"))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(LineSeries::new(front(trials).into_iter().map(point), &BLUE))?;
    chart.draw_series(trials.iter().map(|t| Circle::new(point(t), 4, BLUE.filled())))?;
    for t in trials.iter().filter(|t| picture.best == Some(t.id.as_str())) {
        chart.draw_series([Circle::new(point(t), 8, RED.stroke_width(2))])?;
    }
    let area = chart.plotting_area();
    if let Some(live) = live {
        root.draw(&square(area.map_coordinate(&live)))?;
    }
    let dots: Vec<(i32, i32)> = trials.iter().map(|t| area.map_coordinate(&point(t))).collect();
    let labels: Vec<String> = trials.iter().map(|t| label(&t.config)).collect();
    let (x, y) = area.get_pixel_range();
    let placed = places(&dots, &labels, (x.start, y.start, x.end, y.end));
    for ((dot, label), place) in dots.iter().zip(labels).zip(&placed) {
        let Some((left, top)) = place else { continue };
        let (from_dot, width) = (
            (left - dot.0).abs().max((top - dot.1).abs()),
            LETTER.0 * i32::try_from(label.len()).unwrap_or(0),
        );
        // Where it stands farther away a line says whose it is.
        if from_dot > REACH[0] + width + LETTER.1 {
            root.draw(&PathElement::new(
                [*dot, (left + width / 2, top + LETTER.1 / 2)],
                BLACK.mix(0.3),
            ))?;
        }
        root.draw(&Text::new(label, (*left, *top), ("sans-serif", LETTER.1)))?;
    }
    legend(&lower, picture, live.is_some(), placed.iter().filter(|place| place.is_none()).count())?;
    root.present()?;
    Ok(())
}

fn square((x, y): (i32, i32)) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x - 7, y - 7), (x + 7, y + 7)], GREEN.stroke_width(2))
}

fn legend(
    area: &Area<'_>,
    picture: &Picture<'_>,
    live_is_drawn: bool,
    unlabelled: usize,
) -> DrawResult {
    let style = ("sans-serif", 13);
    let row = |n: i32| 8 + n * LINE;
    let text = |words: String, n: i32| Text::new(words, (48, row(n)), style);
    area.draw(&Circle::new((32, row(0) + 6), 4, BLUE.filled()))?;
    let left_out = if unlabelled > 0 {
        format!("; {unlabelled} have no room for theirs")
    } else {
        String::new()
    };
    let words = format!(
        "a trial, labelled m/ef_construction/ef_search{left_out}; the line joins those that no other beats in both"
    );
    area.draw(&text(words, 0))?;
    area.draw(&Circle::new((32, row(1) + 6), 8, RED.stroke_width(2)))?;
    area.draw(&text(format!("the best by {}", picture.by), 1))?;
    area.draw(&square((32, row(2) + 6)))?;
    let live = match picture.live {
        None => "what answers now: nothing does yet".to_owned(),
        Some(live) if live_is_drawn => format!("what answers now: {}", label(live)),
        Some(live) => format!(
            "what answers now, {}, was not measured on these queries: the next trial does so",
            label(live)
        ),
    };
    area.draw(&text(live, 2))?;
    Ok(())
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

    fn drawn(name: &str, picture: &Picture<'_>) -> String {
        let file =
            std::env::temp_dir().join(format!("brahman-plot-{name}-{}.svg", std::process::id()));
        trials(&file, picture).expect("drawn");
        let svg = std::fs::read_to_string(&file).expect("there");
        std::fs::remove_file(&file).expect("removed");
        svg
    }

    #[test]
    fn the_front_is_what_nothing_else_beats_and_a_picture_says_what_it_shows() {
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
        assert_eq!(
            front(&all).iter().map(|t| t.id.as_str()).collect::<Vec<_>>(),
            ["quick", "slow"]
        );
        let svg = drawn(
            "whole",
            &Picture {
                trials: &all,
                best: Some("quick"),
                by: "target recall 0.95",
                live: Some(&live),
            },
        );
        // Three dots and a ring, and one of each in the legend.
        assert!(svg.contains("<svg") && svg.matches("<circle").count() == 6, "{svg}");
        for words in [
            "16/64/12",
            "the best by target recall 0.95",
            "what answers now: 24/-/-",
            "recall@10",
            "without the socket",
        ] {
            assert!(
                svg.contains(words) || svg.contains(&words.replace('\'', "&apos;")),
                "{words}: {svg}"
            );
        }
        let svg = drawn(
            "unmeasured",
            &Picture { trials: &all[..2], best: None, by: "pareto", live: Some(&live) },
        );
        assert!(svg.contains("was not measured on these queries"), "{svg}");
    }

    #[test]
    fn no_recall_is_above_one_and_no_latency_below_nothing() {
        let ys = range([0.9, 1.0].into_iter(), 1.0);
        assert!(ys.end <= 1.0 && ys.start < 0.9, "{ys:?}");
        let alone = range(std::iter::once(1.0), 1.0);
        assert!(alone.start < alone.end && alone.end <= 1.0, "{alone:?}");
        assert!(range(std::iter::once(0.0), f64::INFINITY).start >= 0.0);
    }

    #[test]
    fn labels_cover_neither_dots_nor_one_another() {
        // Thirty trials close together, as those of a grid are.
        let dots: Vec<(i32, i32)> = (0..30).map(|n| (200 + n % 6 * 9, 200 + n / 6 * 7)).collect();
        let labels: Vec<String> = (0..30).map(|n| format!("{n}/100/64")).collect();
        let bounds = (60, 20, 880, 560);
        let placed = places(&dots, &labels, bounds);
        let boxes: Vec<(i32, i32, i32, i32)> = placed
            .iter()
            .zip(&labels)
            .filter_map(|(place, label)| {
                place.map(|(x, y)| (x, y, x + LETTER.0 * label.len() as i32, y + LETTER.1))
            })
            .collect();
        assert!(boxes.len() >= 10, "{placed:?}");
        for (n, a) in boxes.iter().enumerate() {
            assert!(
                a.0 >= bounds.0 && a.1 >= bounds.1 && a.2 <= bounds.2 && a.3 <= bounds.3,
                "{a:?}"
            );
            assert!(
                !boxes[n + 1..].iter().any(|b| a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3),
                "{a:?}"
            );
            assert!(
                !dots.iter().any(|(x, y)| (a.0..a.2).contains(x) && (a.1..a.3).contains(y)),
                "{a:?}"
            );
        }
        assert!(
            places(&[(100, 100)], &["16/100/64".into()], (0, 0, 20, 20))[0].is_none(),
            "there is no room"
        );
    }
}
