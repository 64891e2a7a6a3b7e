//! Trials as a picture: recall against the 95th percentile of latency, the Pareto front, the champion.

use std::path::Path;

use brahman_card::interface::index::TrialRecord;
use plotters::prelude::*;

use crate::failure::{BadInput, NotFound};

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 560);

/// Trials that no other beats both in recall and in latency, by latency.
fn front<'a>(trials: &[&'a TrialRecord]) -> Vec<&'a TrialRecord> {
    let mut sorted = trials.to_vec();
    sorted.sort_by(|a, b| a.metrics.p95_us.total_cmp(&b.metrics.p95_us).then(b.metrics.recall_at_k.total_cmp(&a.metrics.recall_at_k)));
    let mut best = f64::NEG_INFINITY;
    sorted.retain(|t| {
        let better = t.metrics.recall_at_k > best;
        best = best.max(t.metrics.recall_at_k);
        better
    });
    sorted
}

/// Draws trials into an SVG file.
pub(crate) fn trials(file: &Path, trials: &[&TrialRecord], champion: Option<&str>) -> anyhow::Result<()> {
    if file.extension().is_none_or(|extension| extension != "svg") {
        return Err(BadInput(format!("{}: expected a file whose name ends in .svg", file.display())).into());
    }
    if trials.is_empty() {
        return Err(NotFound("there is no trial on this data; `brahman index autotune` makes some".to_owned()).into());
    }
    let point = |t: &TrialRecord| (t.metrics.p95_us, t.metrics.recall_at_k);
    let range = |values: Vec<f64>| {
        let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let room = ((high - low) * 0.1).max(high.abs() * 0.002).max(1e-6);
        low - room..high + room
    };
    let (xs, ys) = (range(trials.iter().map(|t| point(t).0).collect()), range(trials.iter().map(|t| point(t).1).collect()));
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("recall against p95", ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(xs, ys)?;
        chart.configure_mesh().x_desc("p95 of one search, µs").y_desc("recall").light_line_style(WHITE).draw()?;
        chart.draw_series(LineSeries::new(front(trials).into_iter().map(point), &BLUE))?;
        chart.draw_series(trials.iter().map(|t| Circle::new(point(t), 4, BLUE.filled())))?;
        for t in trials.iter().filter(|t| champion == Some(t.id.as_str())) {
            chart.draw_series([Circle::new(point(t), 7, RED.stroke_width(2))])?;
        }
        let words = |t: &TrialRecord| {
            let n = |v: Option<u64>| v.map_or_else(String::new, |v| v.to_string());
            format!("  {}/{}/{}", n(t.config.m), n(t.config.ef_construction), n(t.config.ef_search))
        };
        chart.draw_series(trials.iter().map(|t| Text::new(words(t), point(t), ("sans-serif", 12))))?;
        root.present()?;
        Ok(())
    };
    // plotters' errors cannot be kept: they are not for other threads.
    draw().map_err(|error| BadInput(format!("cannot draw {}: {error}", file.display())).into())
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::index::Metrics;

    use super::*;

    #[test]
    fn the_front_is_what_nothing_else_beats_and_a_picture_is_drawn() {
        let trial = |id: &str, recall_at_k, p95_us| TrialRecord {
            id: id.into(),
            metrics: Metrics { recall_at_k, p95_us, ..Metrics::default() },
            ..TrialRecord::default()
        };
        let all = [trial("slow", 0.99, 900.0), trial("bad", 0.9, 500.0), trial("quick", 0.95, 100.0)];
        let all: Vec<&TrialRecord> = all.iter().collect();
        assert_eq!(front(&all).iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["quick", "slow"]);
        let file = std::env::temp_dir().join(format!("brahman-plot-{}.svg", std::process::id()));
        trials(&file, &all, Some("quick")).expect("drawn");
        let svg = std::fs::read_to_string(&file).expect("there");
        std::fs::remove_file(&file).expect("removed");
        assert!(svg.contains("<svg") && svg.matches("<circle").count() == 4, "{svg}");
    }
}
