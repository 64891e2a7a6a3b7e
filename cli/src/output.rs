//! What a person sees: tables, colours that respect NO_COLOR, progress where there is a terminal; or JSON and nothing else.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// A colour by what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    Good,
    Busy,
    Bad,
    Faint,
    Strong,
}

/// How to print.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    progress: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { json, colour: wanted && !json && stdout().is_terminal(), progress: !json && stderr().is_terminal() }
    }

    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// A line on standard output. A reader that has gone (`| head`) ends the program quietly, as it does others.
    pub(crate) fn line(&self, text: &str) {
        let _ = writeln!(stdout(), "{text}");
    }

    pub(crate) fn print_json<T: Serialize>(&self, value: &T) {
        if let Ok(text) = serde_json::to_string(value) {
            self.line(&text);
        }
    }

    /// A remark that is no result.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            let _ = writeln!(stderr(), "{text}");
        }
    }

    pub(crate) fn failure(&self, message: &str, hint: Option<&str>) {
        let colour = self.colour && stderr().is_terminal();
        let (red, plain) = if colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(stderr(), "{red}error:{plain} {message}");
        if let Some(hint) = hint {
            let _ = writeln!(stderr(), "hint: {hint}");
        }
    }

    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Busy => 33,
            Tone::Bad => 31,
            Tone::Faint => 2,
            Tone::Strong => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// One cell of a heat map, two characters wide: a background where there are colours, a denser block where there are none.
    pub(crate) fn shade(&self, value: f64, most: f64) -> String {
        let share = if most > 0.0 { (value / most).clamp(0.0, 1.0).sqrt() } else { 0.0 };
        if !self.colour {
            let blocks = ["··", "░░", "▒▒", "▓▓", "██"];
            return blocks[if value <= 0.0 { 0 } else { 1 + (share * 3.0).round() as usize }].to_owned();
        }
        // From the 256 colours: a ramp of dark to bright red.
        let ramp = [236, 52, 88, 124, 160, 196];
        format!("\x1b[48;5;{}m  \x1b[0m", ramp[if value <= 0.0 { 0 } else { 1 + (share * 4.0).round() as usize }])
    }

    /// A table with left-aligned columns as wide as their widest cell; nothing for no rows.
    pub(crate) fn table(&self, head: &[&str], rows: Vec<Vec<String>>) {
        if rows.is_empty() {
            return;
        }
        let widths: Vec<usize> =
            (0..head.len()).map(|i| rows.iter().map(|r| visible(&r[i])).chain([head[i].len()]).max().unwrap_or(0)).collect();
        let line = |cells: Vec<String>| {
            let last = cells.len() - 1;
            let cells = cells.into_iter().enumerate().map(|(i, cell)| {
                let pad = if i == last { 0 } else { widths[i].saturating_sub(visible(&cell)) };
                format!("{cell}{}", " ".repeat(pad))
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(&line(head.iter().map(|h| self.paint(h, Tone::Faint)).collect()));
        for row in rows {
            self.line(&line(row));
        }
    }

    fn bar(&self, length: u64, style: &str) -> ProgressBar {
        let target = if self.progress { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar
    }

    pub(crate) fn bytes_bar(&self, what: &str, length: u64) -> ProgressBar {
        let bar = self.bar(length, "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_message(what.to_owned());
        bar
    }

    pub(crate) fn count_bar(&self, what: &str, length: u64) -> ProgressBar {
        let bar = self.bar(length, "{msg} {bar:30} {pos}/{len} {per_sec} {eta}");
        bar.set_message(what.to_owned());
        bar
    }

    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        let bar = self.bar(0, "{spinner} {msg} {elapsed}");
        bar.set_message(what.to_owned());
        if self.progress {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }
}

/// Characters that take room, colour codes left out.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut escape = false;
    for c in text.chars() {
        match (escape, c) {
            (true, 'm') => escape = false,
            (true, _) => {}
            (false, '\x1b') => escape = true,
            (false, _) => count += 1,
        }
    }
    count
}

/// `3.2s`, `4m05s`, `2h03m`, `5d01h`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `12 B`, `3.4 KiB`, …
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}
