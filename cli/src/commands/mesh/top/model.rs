//! What a person looks at, and how keys and news change it. Pure: nothing here reads a terminal, a
//! socket or a clock.
//!
//! Invariants: what is selected stays selected while it is there, however the rows around it
//! change; nothing scrolls beyond its end.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;

use super::facts::{Facts, LogTail, News, View};
use super::tables::{Order, Row, Table};
use crate::output::visible;

/// Height from which there is a line above the views' names.
const HEAD_FROM: u16 = 2;
/// Height from which the views' names are shown.
const TABS_FROM: u16 = 3;
/// Height from which a last line says which keys there are.
const FOOT_FROM: u16 = 6;
/// Columns of the names in front of what is known of a row.
const NAME_COLUMNS: usize = 11;
/// Narrowest line that a text is cut into: a long log on a screen of one column would be a million
/// lines.
const WRAP_COLUMNS_MIN: usize = 20;

/// How the lines of a screen are shared out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    pub(super) has_head: bool,
    pub(super) has_tabs: bool,
    pub(super) has_foot: bool,
    /// Lines between them.
    pub(super) body: usize,
    pub(super) columns: usize,
}

impl Shape {
    pub(super) fn of(area: Rect) -> Self {
        let [has_head, has_tabs, has_foot] =
            [HEAD_FROM, TABS_FROM, FOOT_FROM].map(|from| area.height >= from);
        let taken = [has_head, has_tabs, has_foot].into_iter().filter(|is_there| *is_there).count();
        Self {
            has_head,
            has_tabs,
            has_foot,
            body: usize::from(area.height) - taken,
            columns: usize::from(area.width),
        }
    }
}

/// A view as it was left.
#[derive(Debug, Default)]
struct Place {
    /// The row that is selected; the one at `at` if it is not there.
    id: Option<String>,
    at: usize,
    order: Option<Order>,
}

/// What is known of one row fills the screen.
#[derive(Debug)]
struct Detail {
    id: String,
    label: Option<String>,
    /// Lines from its beginning or, of a log, from its end.
    away: usize,
}

/// Whether it goes on after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    /// Until the shell has it go on.
    Suspend,
    Quit,
}

/// How far the selection goes.
#[derive(Clone, Copy, Debug)]
enum Motion {
    Up(usize),
    Down(usize),
    First,
    Last,
}

impl Motion {
    fn of(code: KeyCode, page: usize) -> Option<Self> {
        Some(match code {
            KeyCode::Up | KeyCode::Char('k') => Self::Up(1),
            KeyCode::Down | KeyCode::Char('j') => Self::Down(1),
            KeyCode::PageUp => Self::Up(page.max(1)),
            KeyCode::PageDown => Self::Down(page.max(1)),
            KeyCode::Home | KeyCode::Char('g') => Self::First,
            KeyCode::End | KeyCode::Char('G') => Self::Last,
            _ => return None,
        })
    }

    /// Where it leads from a row.
    fn reach(self, at: usize, last: usize) -> usize {
        match self {
            Self::Up(rows) => at.saturating_sub(rows),
            Self::Down(rows) => at.saturating_add(rows).min(last),
            Self::First => 0,
            Self::Last => last,
        }
    }
}

/// What is shown.
#[derive(Debug)]
pub(super) struct Model {
    facts: Facts,
    /// The mesh's.
    socket: String,
    has_colours: bool,
    shape: Shape,
    view: View,
    places: [Place; View::ALL.len()],
    detail: Option<Detail>,
    has_help: bool,
}

impl Model {
    pub(super) fn new(socket: String, has_colours: bool) -> Self {
        Self {
            facts: Facts::default(),
            socket,
            has_colours,
            shape: Shape::default(),
            view: View::default(),
            places: Default::default(),
            detail: None,
            has_help: false,
        }
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn socket(&self) -> &str {
        &self.socket
    }

    pub(super) fn has_colours(&self) -> bool {
        self.has_colours
    }

    pub(super) fn has_help(&self) -> bool {
        self.has_help
    }

    pub(super) fn view(&self) -> View {
        self.view
    }

    pub(super) fn order(&self) -> Option<Order> {
        self.place().order
    }

    /// The module whose log is to be followed.
    pub(super) fn followed(&self) -> Option<&str> {
        self.detail.as_ref()?.label.as_deref()
    }

    /// The screen's size, which paging and scrolling need to know.
    pub(super) fn resize(&mut self, area: Rect) {
        self.shape = Shape::of(area);
    }

    pub(super) fn take(&mut self, news: News) {
        self.facts.take(news);
    }

    /// Why what is shown may be old, if it may.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(absence) = &self.facts.absence {
            return Some(format!("disconnected, trying again: {}", absence.0));
        }
        let trouble = match self.view {
            View::Modules | View::Providers => None,
            View::Memory => self.facts.memory.trouble.as_ref(),
            View::Datasets => self.facts.datasets.trouble.as_ref(),
            View::Indexes => self.facts.indexes.trouble.as_ref(),
            View::Buckets => self.facts.buckets.trouble.as_ref(),
        };
        trouble.map(|trouble| format!("no answer, trying again: {}", trouble.0))
    }

    /// Whether anything was said of what is looked at.
    pub(super) fn is_known(&self) -> bool {
        match self.view {
            View::Modules | View::Providers => self.facts.status.is_some(),
            View::Memory => self.facts.memory.value.is_some(),
            View::Datasets => self.facts.datasets.value.is_some(),
            View::Indexes => self.facts.indexes.value.is_some(),
            View::Buckets => self.facts.buckets.value.is_some(),
        }
    }

    /// The view's rows, in the order that was chosen.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::of(self.view, &self.facts);
        if let Some(order) = self.place().order {
            table.sort(order);
        }
        table
    }

    /// Which row is selected; 0 of none.
    pub(super) fn selected(&self, table: &Table) -> usize {
        let place = self.place();
        let is_it = |row: &Row| place.id.as_ref() == Some(&row.id);
        let last = table.rows.len().saturating_sub(1);
        table.rows.iter().position(is_it).unwrap_or(place.at.min(last))
    }

    /// Rows of a table, or lines of details, that the screen has place for beside their head and
    /// what is wrong.
    pub(super) fn content_rows(&self, shape: Shape) -> usize {
        let head = usize::from(shape.body > 1);
        shape.body.saturating_sub(head + usize::from(self.trouble().is_some()))
    }

    /// The id of the row whose details fill the screen, if they do.
    pub(super) fn detail(&self) -> Option<&str> {
        self.detail.as_ref().map(|detail| detail.id.as_str())
    }

    /// All lines of what is known of a row, cut into so many columns.
    pub(super) fn detail_lines(&self, table: &Table, columns: usize) -> Vec<String> {
        let Some(detail) = &self.detail else { return Vec::new() };
        let mut lines = Vec::new();
        match table.rows.iter().find(|row| row.id == detail.id) {
            Some(row) => {
                for (name, text) in &row.details {
                    wrap(&format!("{name:<NAME_COLUMNS$}{text}"), columns, &mut lines);
                }
            }
            None => lines.push("it is not there any more".to_owned()),
        }
        if detail.label.is_none() {
            return lines;
        }
        lines.push(String::new());
        for line in &self.facts.log.lines {
            wrap(line, columns, &mut lines);
        }
        if let Some(trouble) = &self.facts.log.trouble {
            wrap(&format!("(the log, trying again: {})", trouble.0), columns, &mut lines);
        }
        lines
    }

    /// The first of so many lines of details that is shown, where the screen has place for `rows`.
    pub(super) fn detail_first(&self, lines: usize, rows: usize) -> usize {
        let beyond = lines.saturating_sub(rows);
        self.detail.as_ref().map_or(0, |detail| {
            let away = detail.away.min(beyond);
            if detail.label.is_some() { beyond - away } else { away }
        })
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
            return match key.code {
                KeyCode::Char('c') if is_control => Step::Quit,
                KeyCode::Char('z') if is_control => Step::Suspend,
                _ => Step::Stay,
            };
        }
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('?') => self.has_help = !self.has_help,
            _ if self.has_help => self.has_help = false,
            code if self.detail.is_some() => self.detail_key(code),
            code => self.list_key(code),
        }
        Step::Stay
    }

    fn list_key(&mut self, code: KeyCode) {
        let tabs = View::ALL.len();
        match code {
            KeyCode::Tab | KeyCode::Right => self.view = self.view.after(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
                self.view = self.view.after(tabs - 1);
            }
            KeyCode::Char(digit @ '1'..='6') => {
                let place = digit.to_digit(10).and_then(|digit| usize::try_from(digit).ok());
                let view = place.and_then(|place| View::ALL.into_iter().nth(place.checked_sub(1)?));
                self.view = view.unwrap_or(self.view);
            }
            KeyCode::Enter | KeyCode::Char('l') => self.open(),
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('S' | 'r') => {
                if let Some(order) = &mut self.place_mut().order {
                    order.is_descending = !order.is_descending;
                }
            }
            _ => {
                if let Some(motion) = Motion::of(code, self.content_rows(self.shape)) {
                    self.select(motion);
                }
            }
        }
    }

    fn detail_key(&mut self, code: KeyCode) {
        if matches!(code, KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('h')) {
            self.detail = None;
            return;
        }
        let rows = self.content_rows(self.shape);
        let Some(motion) = Motion::of(code, rows) else { return };
        let lines = self.detail_lines(&self.table(), self.shape.columns).len();
        let beyond = lines.saturating_sub(rows);
        let first = motion.reach(self.detail_first(lines, rows), beyond);
        if let Some(detail) = &mut self.detail {
            detail.away = if detail.label.is_some() { beyond - first } else { first };
        }
    }

    fn select(&mut self, motion: Motion) {
        let table = self.table();
        let Some(last) = table.rows.len().checked_sub(1) else { return };
        let at = motion.reach(self.selected(&table), last);
        let id = table.rows[at].id.clone();
        let place = self.place_mut();
        place.at = at;
        place.id = Some(id);
    }

    /// Shows all that is known of the row that is selected and, of a module, its log.
    fn open(&mut self) {
        let table = self.table();
        let Some(row) = table.rows.get(self.selected(&table)) else { return };
        let (id, label) = (row.id.clone(), row.module.clone());
        if let Some(label) = &label
            && *label != self.facts.log.label
        {
            self.facts.log = LogTail { label: label.clone(), ..LogTail::default() };
        }
        self.place_mut().id = Some(id.clone());
        self.detail = Some(Detail { id, label, away: 0 });
    }

    /// By the next column or, after the last one, as the mesh gives them.
    fn sort_by_next(&mut self) {
        let columns = self.table().columns;
        let column = self.place().order.map_or(0, |order| order.column + 1);
        // Of figures the greatest are looked for, of names the first.
        let order =
            columns.get(column).map(|chosen| Order { column, is_descending: chosen.is_number });
        self.place_mut().order = order;
    }

    fn place(&self) -> &Place {
        &self.places[self.view.place()]
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.places[self.view.place()]
    }
}

/// Cuts a text of one line into lines of so many columns, or of [`WRAP_COLUMNS_MIN`].
fn wrap(text: &str, columns: usize, lines: &mut Vec<String>) {
    let columns = columns.max(WRAP_COLUMNS_MIN);
    let (mut line, mut used) = (String::new(), 0);
    for c in text.chars() {
        let width = if c.is_ascii() { 1 } else { visible(c.encode_utf8(&mut [0; 4])) };
        if used > 0 && used + width > columns {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        line.push(c);
        used += width;
    }
    lines.push(line);
}
