//! A score matrix as a heat map, by the rules of the command line's own page: a shade for what a
//! response loses without a memory, the strongest for the most that any loses, and under each
//! response the tokens that count. Pure.
//!
//! Invariant: a page is bounded, whatever the matrix is: what is left out is counted.

use brahman_card::interface::score::{Cell, MatrixSummary, Row};
use serde::Serialize;

/// Rows that are shown.
const ROWS_MAX: usize = 100;
/// Responses that are shown.
const RESPONSES_MAX: usize = 64;
/// Memories whose tokens are shown with a response: those by which it loses most.
const PARTS_MAX: usize = 5;
/// How many of a cell's tokens are asked for.
pub(super) const TOKENS: u64 = 40;
/// Parts of the most that is lost, of which the legend has the shades.
const LEGEND: [f64; 5] = [0.01, 0.1, 0.25, 0.5, 1.0];
/// Shades lie so many hundredths apart: nobody sees less.
const SHADE_STEP: u32 = 2;
/// From these shades on text is black, and on what is likelier without the memory white in the
/// light: else nobody could read it.
const SHADES_STRONG: (u32, u32) = (66, 90);

#[derive(Debug, Serialize)]
struct LegendStep {
    shade: String,
    nats: String,
}

#[derive(Debug, Serialize)]
struct HeatCell {
    /// Which response.
    at: usize,
    /// Class of its colour; empty of one that loses nothing.
    shade: String,
    delta: String,
    below_noise: bool,
}

#[derive(Debug, Serialize)]
struct HeatRow<'a> {
    key: &'a str,
    approximate: bool,
    error: Option<&'a str>,
    /// What all responses lose together.
    total: String,
    cells: Vec<HeatCell>,
}

#[derive(Debug, Serialize)]
struct HeatToken<'a> {
    /// Tokens before it are not named.
    gap: bool,
    text: &'a str,
    shade: String,
    delta: String,
}

#[derive(Debug, Serialize)]
struct ResponsePart<'a> {
    key: &'a str,
    delta: String,
    below_noise: bool,
    tokens: Vec<HeatToken<'a>>,
}

#[derive(Debug, Serialize)]
struct HeatResponse<'a> {
    at: usize,
    entry: u64,
    tokens: u64,
    logprob: String,
    text: &'a str,
    parts: Vec<ResponsePart<'a>>,
}

/// The heat map, and what belongs to it.
#[derive(Debug, Serialize)]
pub(super) struct Heat<'a> {
    rows: Vec<HeatRow<'a>>,
    responses: Vec<HeatResponse<'a>>,
    legend: Vec<LegendStep>,
    /// Class of the colour of a token that was likelier without the memory.
    cold: String,
    floor: String,
    rows_left_out: usize,
    responses_left_out: usize,
}

impl<'a> Heat<'a> {
    /// Of a matrix that came in one reply.
    pub(super) fn of(done: &'a MatrixSummary) -> Self {
        let sum = |row: &Row| row.divergences.iter().sum::<f64>();
        let mut order: Vec<&Row> = done.rows.iter().flatten().collect();
        order.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
        let most = order.iter().flat_map(|row| &row.divergences).copied().fold(1e-9, f64::max);
        let rows_left_out = order.len().saturating_sub(ROWS_MAX);
        order.truncate(ROWS_MAX);
        let row = |row: &&'a Row| HeatRow {
            key: &row.key,
            approximate: row.approximate,
            error: row.error.as_deref(),
            total: format!("{:.2}", sum(row)),
            cells: cells(row, most),
        };
        Self {
            rows: order.iter().map(row).collect(),
            responses: responses(done, &order),
            legend: LEGEND
                .into_iter()
                .map(|part| LegendStep {
                    shade: shade(most * part, most),
                    nats: format!("{:.2}", most * part),
                })
                .collect(),
            cold: shade(-most / 4.0, most),
            floor: if done.noise_floor == 0.0 {
                "0".to_owned()
            } else {
                format!("{:.1e}", done.noise_floor)
            },
            rows_left_out,
            responses_left_out: done.scored.len().saturating_sub(RESPONSES_MAX),
        }
    }
}

fn cells(row: &Row, most: f64) -> Vec<HeatCell> {
    let below = |at: usize| cell_of(row, at).is_some_and(|cell| cell.below_noise);
    let pairs = row.divergences.iter().zip(&row.deltas).take(RESPONSES_MAX).enumerate();
    let cell = |(at, (divergence, delta)): (usize, (&f64, &f64))| HeatCell {
        at,
        shade: if *divergence > 0.0 { shade(*divergence, most) } else { String::new() },
        delta: format!("{delta:+.3}"),
        below_noise: below(at),
    };
    pairs.map(cell).collect()
}

/// What is told of a response in a row, if it lost anything.
fn cell_of(row: &Row, at: usize) -> Option<&Cell> {
    row.cells
        .iter()
        .find(|cell| usize::try_from(cell.response).is_ok_and(|response| response == at))
}

/// The responses, each with the memories by which it loses most.
fn responses<'a>(done: &'a MatrixSummary, rows: &[&'a Row]) -> Vec<HeatResponse<'a>> {
    let shown = done.scored.iter().take(RESPONSES_MAX).enumerate();
    let response = |(at, response): (usize, &'a brahman_card::interface::score::Response)| {
        let mut parts: Vec<(&'a Row, &'a Cell)> =
            rows.iter().copied().filter_map(|row| Some((row, cell_of(row, at)?))).collect();
        parts.retain(|(_, cell)| cell.top.as_ref().is_some_and(|top| !top.is_empty()));
        parts.sort_by(|a, b| b.1.delta.total_cmp(&a.1.delta));
        HeatResponse {
            at,
            entry: response.entry,
            tokens: response.tokens,
            logprob: format!("{:.1}", response.logprob),
            text: &response.text,
            parts: parts.into_iter().take(PARTS_MAX).map(|(row, cell)| part(row, cell)).collect(),
        }
    };
    shown.map(response).collect()
}

fn part<'a>(row: &'a Row, cell: &'a Cell) -> ResponsePart<'a> {
    let mut top: Vec<_> = cell.top.iter().flatten().collect();
    top.sort_by_key(|token| token.at);
    let strongest = top.iter().map(|token| token.delta.abs()).fold(1e-9, f64::max);
    let mut next = 0;
    let token = |token: &'a brahman_card::interface::score::Token| {
        let gap = token.at > next;
        next = token.at + 1;
        HeatToken {
            gap,
            text: &token.text,
            shade: shade(token.delta, strongest),
            delta: format!("{:+.2}", token.delta),
        }
    };
    let tokens = top.into_iter().map(token).collect();
    ResponsePart {
        key: &row.key,
        delta: format!("{:+.3}", cell.delta),
        below_noise: cell.below_noise,
        tokens,
    }
}

/// The class of a delta's colour: `h` of what is lost, `c` of what is gained, and how opaque it is,
/// of a hundred.
fn shade(delta: f64, most: f64) -> String {
    let opacity = 0.1 + 0.9 * (delta.abs() / most).min(1.0).sqrt();
    let step = f64::from(SHADE_STEP);
    format!("{}{:.0}", if delta < 0.0 { 'c' } else { 'h' }, (opacity * 100.0 / step).round() * step)
}

/// Rules for all those classes.
pub(super) fn style() -> String {
    let mut rules = String::new();
    for level in (10..=100).step_by(usize::try_from(SHADE_STEP).unwrap_or(1)) {
        let opacity = f64::from(level) / 100.0;
        let (on_heat, on_cold) = match level {
            _ if level < SHADES_STRONG.0 => ("", ""),
            _ if level < SHADES_STRONG.1 => (";color:#000", ";color:#000"),
            _ => (";color:#000", ";color:var(--on-cold)"),
        };
        rules.push_str(&format!(
            ".h{level}{{background:rgba(var(--heat),{opacity:.2}){on_heat}}}\n"
        ));
        rules.push_str(&format!(
            ".c{level}{{background:rgba(var(--cold),{opacity:.2}){on_cold}}}\n"
        ));
    }
    rules
}

#[cfg(test)]
mod tests {
    use brahman_card::interface::score::{Response, Token};

    use super::*;

    #[test]
    fn shades_are_those_of_the_command_lines_page() {
        for (delta, class) in
            [(4.0, "h100"), (1.0, "h56"), (0.0, "h10"), (-1.0, "c56"), (9.0, "h100")]
        {
            assert_eq!(shade(delta, 4.0), class, "{delta}");
        }
        let rules = style();
        for class in [".h10{", ".h56{", ".h100{", ".c100{"] {
            assert!(rules.contains(class), "{class}");
        }
    }

    #[test]
    fn what_is_lost_most_comes_first_and_what_is_not_shown_is_counted() {
        let token = |at: u64, delta: f64| Token { at, token: 7, text: format!("t{at}"), delta };
        let cell = Cell {
            response: 1,
            delta: 2.0,
            divergence: 2.0,
            top: Some(vec![token(5, 2.0), token(1, -0.5)]),
            ..Cell::default()
        };
        let row = |key: &str, divergences: Vec<f64>, cells: Vec<Cell>| Row {
            key: key.to_owned(),
            deltas: divergences.clone(),
            divergences,
            cells,
            ..Row::default()
        };
        let rows = vec![
            row("weather", vec![0.0, 0.0], Vec::new()),
            row("boat", vec![0.0, 2.0], vec![cell]),
        ];
        let scored = vec![
            Response { text: "Hi".into(), ..Response::default() },
            Response { text: "Kolva".into(), ..Response::default() },
        ];
        let mut done = MatrixSummary { rows: Some(rows), scored, ..MatrixSummary::default() };
        let heat = Heat::of(&done);
        assert_eq!(heat.rows.iter().map(|row| row.key).collect::<Vec<_>>(), ["boat", "weather"]);
        let shades: Vec<&str> = heat.rows[0].cells.iter().map(|cell| cell.shade.as_str()).collect();
        assert_eq!((shades, heat.floor.as_str()), (vec!["", "h100"], "0"));
        let tokens: Vec<(bool, &str)> = heat.responses[1].parts[0]
            .tokens
            .iter()
            .map(|token| (token.gap, token.shade.as_str()))
            .collect();
        assert_eq!(tokens, [(true, "c56"), (true, "h100")]);
        done.rows = Some((0..130).map(|n| row(&n.to_string(), vec![1.0], Vec::new())).collect());
        assert_eq!((Heat::of(&done).rows.len(), Heat::of(&done).rows_left_out), (ROWS_MAX, 30));
    }
}
