//! The model as a widget: a line of what there is, the views' names, rows or details, and keys.
//!
//! Invariants: it fits any size, down to nothing; without colours nothing is lost but them; what it
//! draws depends on the model and the area alone.

use brahman_card::ModuleState;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::super::status::context_words;
use super::facts::View;
use super::model::{Model, Shape};
use super::tables::{Column, Order, Row, Table};
use crate::output::{Tone, one_line, shortened, visible};

/// Columns between two columns of a table.
const GAP: usize = 2;
/// The narrowest that a column which may be cut becomes.
const SHRUNK: usize = 10;
/// Width from which there is place for a mark before the row that is selected.
const MARK_FROM: usize = 20;
/// Keys and what they do, for those who ask.
const HELP: [(&str, &str); 10] = [
    ("q, Ctrl-C", "quit"),
    ("Ctrl-Z", "stop until the shell has it go on (fg)"),
    ("Tab, Right", "next view (Shift-Tab, Left: the one before; 1 to 6)"),
    ("Down, j", "next row (Up, k: the one before; PgUp, PgDn, Home, End)"),
    ("Enter, l", "all that is known of the row, and a module's log"),
    ("Esc, h", "back from there"),
    ("s", "sort by the next column"),
    ("S, r", "sort the other way round"),
    ("?", "this help"),
    ("", "any other key goes back"),
];

/// What is drawn.
#[derive(Debug)]
pub(super) struct Screen<'a>(pub(super) &'a Model);

impl Widget for Screen<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        let shape = Shape::of(area);
        let model = self.0;
        let mut pen = Pen { buffer, area, y: area.y, has_colours: model.has_colours() };
        let table = model.table();
        if shape.has_head {
            head(model, &mut pen);
        }
        if shape.has_tabs {
            tabs(model, shape, &mut pen);
        }
        if model.has_help() {
            help(&mut pen);
        } else {
            if let Some(trouble) = model.trouble() {
                let trouble = shortened(&trouble, shape.columns);
                pen.line(&Line::from(pen.span(trouble, Some(Tone::Bad))));
            }
            match model.detail() {
                Some(_) => details(model, &table, shape, &mut pen),
                None => list(model, &table, shape, &mut pen),
            }
        }
        if shape.has_foot {
            pen.y = area.bottom().saturating_sub(1);
            foot(model, &table, shape, &mut pen);
        }
    }
}

/// Where the next line is drawn.
struct Pen<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    y: u16,
    has_colours: bool,
}

impl Pen<'_> {
    fn style(&self, tone: Option<Tone>) -> Style {
        let plain = Style::new();
        match (tone, self.has_colours) {
            (Some(Tone::Strong), _) | (Some(Tone::Bad), false) => {
                plain.add_modifier(Modifier::BOLD)
            }
            (Some(Tone::Faint), _) => plain.add_modifier(Modifier::DIM),
            (Some(Tone::Good), true) => plain.fg(Color::Green),
            (Some(Tone::Busy), true) => plain.fg(Color::Yellow),
            (Some(Tone::Bad), true) => plain.fg(Color::Red),
            (None, _) | (Some(Tone::Good | Tone::Busy), false) => plain,
        }
    }

    fn span(&self, text: impl Into<String>, tone: Option<Tone>) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }

    /// Draws a line, if there is place for it.
    fn line(&mut self, line: &Line<'_>) {
        if self.y < self.area.bottom() {
            self.buffer.set_line(self.area.x, self.y, line, self.area.width);
            self.y += 1;
        }
    }

    /// Draws a text so many columns from the left, no wider than said, into the line that is next.
    fn text(&mut self, at: usize, text: &str, columns: usize, style: Style) {
        let x = self.area.x.saturating_add(u16::try_from(at).unwrap_or(u16::MAX));
        if self.y < self.area.bottom() && x < self.area.right() {
            let room = usize::from(self.area.right() - x);
            self.buffer.set_stringn(x, self.y, text, columns.min(room), style);
        }
    }

    /// Goes on with the next line.
    fn feed(&mut self) {
        self.y = self.y.saturating_add(1);
    }
}

fn head(model: &Model, pen: &mut Pen<'_>) {
    let mut spans = vec![pen.span("Brahman", Some(Tone::Strong))];
    if let Some(report) = &model.facts().status {
        let context = one_line(context_words(&report.status));
        let modules = &report.status.modules;
        let ready = modules.iter().filter(|module| module.state == ModuleState::Ready).count();
        spans.push(pen.span(format!("  context {context}"), None));
        spans.push(pen.span(format!("  {ready} of {} ready", modules.len()), None));
    }
    spans.push(pen.span(format!("  {}", model.socket()), Some(Tone::Faint)));
    pen.line(&Line::from(spans));
}

/// The views' names or, where they are too wide, that of the one which is shown.
fn tabs(model: &Model, shape: Shape, pen: &mut Pen<'_>) {
    let shown = model.view();
    let style = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
    let name = |view: View| {
        if view == shown {
            Span::styled(format!("[{}]", view.name()), style)
        } else {
            Span::raw(format!(" {} ", view.name()))
        }
    };
    let all: Vec<Span<'_>> = View::ALL.into_iter().map(name).collect();
    let line = if all.iter().map(Span::width).sum::<usize>() <= shape.columns {
        Line::from(all)
    } else {
        let place = format!(" {} of {}", shown.place() + 1, View::ALL.len());
        Line::from(vec![name(shown), Span::raw(place)])
    };
    pen.line(&line);
}

fn help(pen: &mut Pen<'_>) {
    for (keys, words) in HELP {
        let keys = pen.span(format!("{keys:<12}"), Some(Tone::Strong));
        pen.line(&Line::from(vec![keys, Span::raw(words)]));
    }
}

/// Which keys there are now.
fn foot(model: &Model, table: &Table, shape: Shape, pen: &mut Pen<'_>) {
    let words = if model.has_help() {
        "q quit  any key back".to_owned()
    } else if model.detail().is_some() {
        "q quit  Esc back  Up/Down scroll  Home/End  ? help".to_owned()
    } else {
        let sorted = model.order().map_or_else(String::new, |order| {
            let name = table.columns.get(order.column).map_or("", |column| column.name);
            format!(" ({name})")
        });
        format!("q quit  Tab view  Up/Down select  Enter details  s sort{sorted}  ? help")
    };
    pen.line(&Line::from(pen.span(shortened(&words, shape.columns), Some(Tone::Faint))));
}

fn details(model: &Model, table: &Table, shape: Shape, pen: &mut Pen<'_>) {
    if shape.body > 1 {
        let name = one_line(model.detail().unwrap_or_default());
        pen.line(&Line::from(pen.span(shortened(&name, shape.columns), Some(Tone::Strong))));
    }
    let rows = model.content_rows(shape);
    let lines = model.detail_lines(table, shape.columns);
    let first = model.detail_first(lines.len(), rows);
    for line in lines.iter().skip(first).take(rows) {
        pen.line(&Line::raw(line.as_str()));
    }
}

fn list(model: &Model, table: &Table, shape: Shape, pen: &mut Pen<'_>) {
    if table.rows.is_empty() {
        let words = match (model.is_known(), model.trouble()) {
            (true, _) => table.emptiness,
            (false, None) => "asking …",
            (false, Some(_)) => "",
        };
        pen.line(&Line::from(pen.span(words, Some(Tone::Faint))));
        return;
    }
    let margin = if shape.columns >= MARK_FROM { GAP } else { 0 };
    let widths = widths(table, model.order(), shape.columns.saturating_sub(margin));
    if shape.body > 1 {
        titles(table.columns, &widths, model.order(), margin, pen);
    }
    let rows = model.content_rows(shape);
    let selected = model.selected(table);
    // The one that is selected stands in the middle, except at both ends.
    let first = selected.saturating_sub(rows / 2).min(table.rows.len().saturating_sub(rows));
    for (at, row) in table.rows.iter().enumerate().skip(first).take(rows) {
        let is_selected = at == selected;
        if is_selected && margin > 0 {
            pen.text(0, ">", 1, Style::new());
        }
        cells(row, table.columns, &widths, margin, pen);
        if is_selected && pen.y < pen.area.bottom() {
            let line = Rect::new(pen.area.x, pen.y, pen.area.width, 1);
            pen.buffer.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
        pen.feed();
    }
}

/// A column's name, with a mark if rows are ordered by it.
fn title(columns: &[Column], at: usize, order: Option<Order>) -> String {
    let name = columns.get(at).map_or("", |column| column.name);
    match order {
        Some(order) if order.column == at && order.is_descending => format!("{name}↓"),
        Some(order) if order.column == at => format!("{name}↑"),
        _ => name.to_owned(),
    }
}

fn titles(
    columns: &[Column],
    widths: &[Option<usize>],
    order: Option<Order>,
    margin: usize,
    pen: &mut Pen<'_>,
) {
    let style = pen.style(Some(Tone::Faint));
    let mut x = margin;
    for (at, width) in widths.iter().enumerate() {
        let Some(width) = *width else { continue };
        let title = title(columns, at, order);
        let is_number = columns.get(at).is_some_and(|column| column.is_number);
        pen.text(x + indent(&title, width, is_number), &title, width, style);
        x += width + GAP;
    }
    pen.feed();
}

fn cells(
    row: &Row,
    columns: &[Column],
    widths: &[Option<usize>],
    margin: usize,
    pen: &mut Pen<'_>,
) {
    let mut x = margin;
    for ((cell, column), width) in row.cells.iter().zip(columns).zip(widths) {
        let Some(width) = *width else { continue };
        let text = shortened(&cell.text, width);
        let style = pen.style(cell.tone);
        pen.text(x + indent(&text, width, column.is_number), &text, width, style);
        x += width + GAP;
    }
}

/// Columns before a text that stands at the right edge of its column.
fn indent(text: &str, width: usize, is_number: bool) -> usize {
    if is_number { width.saturating_sub(visible(text)) } else { 0 }
}

/// The width of each column that is shown: of those whose cells are all empty none is, and where
/// there is no place for all, the weightiest are.
fn widths(table: &Table, order: Option<Order>, space: usize) -> Vec<Option<usize>> {
    let natural: Vec<usize> = (0..table.columns.len())
        .map(|at| {
            let cells = table.rows.iter().filter_map(|row| row.cells.get(at));
            let widest = cells.map(|cell| visible(&cell.text)).max().unwrap_or(0);
            let title = visible(&title(table.columns, at, order));
            if widest == 0 { 0 } else { widest.max(title) }
        })
        .collect();
    let least = |at: usize| {
        let natural = natural[at];
        if table.columns[at].may_shrink { natural.min(SHRUNK) } else { natural }
    };
    let mut shown: Vec<usize> = (0..table.columns.len()).filter(|at| natural[*at] > 0).collect();
    let taken = |shown: &[usize]| {
        shown.iter().map(|at| least(*at) + GAP).sum::<usize>().saturating_sub(GAP)
    };
    while shown.len() > 1 && taken(&shown) > space {
        let lightest = shown.iter().min_by_key(|at| table.columns[**at].weight).copied();
        shown.retain(|at| Some(*at) != lightest);
    }
    let mut left = space.saturating_sub(taken(&shown));
    let mut widths = vec![None; table.columns.len()];
    for at in shown {
        let more = left.min(natural[at] - least(at));
        left -= more;
        widths[at] = Some((least(at) + more).min(space));
    }
    widths
}
