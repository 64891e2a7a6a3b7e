//! What a person sees: tables, colours that respect NO_COLOR, progress where there is a terminal;
//! or, with `--json`, results as JSON on standard output and an error as one JSON object on
//! standard error, and nothing else.
//!
//! Invariants: whatever a module, a document or a key holds, a terminal does nothing but show it:
//! everything printed for people passes through [`Output::line`], [`Output::text`],
//! [`Output::table`], [`Output::note`], [`Output::failure`] or the bars here, which escape it, and
//! the only escape sequences are the ones made of [`CODES`]; `top`, which has the terminal to
//! itself, passes what it shows through [`one_line`]. Output that could not be written is
//! remembered, and the command does not succeed.

use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) use brahman_card::counted;
use brahman_sidecar::telemetry;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::sync::Notify;

use crate::exit::ExitStatus;

/// Colours and their end, by number: in a text they stand as characters of Unicode that are none,
/// and become escape sequences only where the text is printed, so that a text of somebody else's
/// can bring none along.
const CODES: [&str; 12] = [
    "0", "1", "2", "31", "32", "33", "48;5;236", "48;5;52", "48;5;88", "48;5;124", "48;5;160",
    "48;5;196",
];
/// The first of 32 noncharacters.
const FIRST_MARK: u32 = 0xfdd0;

fn mark(code: &str) -> char {
    let number = CODES.iter().position(|known| *known == code).unwrap_or_default();
    u32::try_from(number).ok().and_then(|n| char::from_u32(FIRST_MARK + n)).unwrap_or(' ')
}

fn code_of(mark: char) -> Option<&'static str> {
    let number = u32::from(mark).checked_sub(FIRST_MARK)?;
    CODES.get(usize::try_from(number).ok()?).copied()
}

/// A colour by what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    Good,
    Busy,
    Bad,
    Faint,
    Strong,
}

/// An error as scripts read it.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport {
    /// Qualified name, if it is one of the mesh's.
    pub(crate) error: Option<String>,
    /// For people.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) exit: u8,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// The data of the mesh's error.
    pub(crate) parameters: Option<serde_json::Value>,
}

/// How to print.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    progress: bool,
    results: Results,
    lost: OnceLock<io::Error>,
    gone: Notify,
}

/// Where results go.
#[derive(Debug)]
enum Results {
    Standard,
    /// Kept for a test to look at.
    #[cfg(test)]
    Kept(std::sync::Mutex<Vec<u8>>),
}

impl Results {
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => {
                let mut out = stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            #[cfg(test)]
            Self::Kept(kept) => {
                kept.lock().map_err(|_| io::Error::other("poisoned"))?.write_all(bytes)
            }
        }
    }
}

/// Whether scripts read what is printed: they find `mock` in it, where people are told.
static FOR_SCRIPTS: OnceLock<bool> = OnceLock::new();

/// Tells a person, once, that what follows is synthetic.
pub(crate) fn say_mock(provider: &str) {
    static SAID: OnceLock<()> = OnceLock::new();
    if FOR_SCRIPTS.get().is_some_and(|scripts| !scripts) && SAID.set(()).is_ok() {
        // What cannot be written to a person is not worth an error: the answer itself goes to
        // standard output.
        let _ = writeln!(
            stderr(),
            "note: answered by the mock {}, with synthetic results (`brahman context prod` switches to real providers)",
            one_line(provider)
        );
    }
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let _ = FOR_SCRIPTS.set(json);
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self {
            json,
            colour: wanted && !json && stdout().is_terminal(),
            progress: !json && stderr().is_terminal(),
            results: Results::Standard,
            lost: OnceLock::new(),
            gone: Notify::new(),
        }
    }

    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether a person sees colours.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// One for people that keeps what is printed, without colours.
    #[cfg(test)]
    pub(crate) fn kept() -> Self {
        let results = Results::Kept(std::sync::Mutex::default());
        Self {
            json: false,
            colour: false,
            progress: false,
            results,
            lost: OnceLock::new(),
            gone: Notify::new(),
        }
    }

    /// What was printed so far.
    #[cfg(test)]
    pub(crate) fn printed(&self) -> String {
        let Results::Kept(kept) = &self.results else { return String::new() };
        String::from_utf8(kept.lock().expect("no test panicked with it").clone()).expect("text")
    }

    /// A line on standard output.
    pub(crate) fn line(&self, text: &str) {
        self.put(format!("{}\n", shown(text, self.colour, false)).as_bytes());
    }

    /// Lines that belong together, such as a description.
    pub(crate) fn text(&self, text: &str) {
        self.put(format!("{}\n", shown(text, self.colour, true)).as_bytes());
    }

    pub(crate) fn print_json<T: Serialize>(&self, value: &T) {
        match serde_json::to_string(value) {
            Ok(text) => self.put(format!("{text}\n").as_bytes()),
            Err(error) => self.lose(error.into()),
        }
    }

    /// JSON for a person's eyes: the same value, where a terminal would act on a character by its
    /// escape in JSON.
    pub(crate) fn pretty_json(&self, value: &serde_json::Value) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.put(format!("{}\n", safe_json(&text)).as_bytes()),
            Err(error) => self.lose(error.into()),
        }
    }

    /// Bytes as they are, for a script that the shell reads.
    pub(crate) fn put(&self, bytes: &[u8]) {
        if self.lost.get().is_none()
            && let Err(error) = self.results.put(bytes)
        {
            self.lose(error);
        }
    }

    /// Notes that standard output took less than there was, and why.
    pub(crate) fn lose(&self, error: io::Error) {
        // The first reason is the one that counts.
        let _ = self.lost.set(error);
        self.gone.notify_one();
    }

    /// Resolves once output was lost: what goes on writes to nobody.
    pub(crate) async fn until_lost(&self) {
        while self.lost.get().is_none() {
            self.gone.notified().await;
        }
    }

    /// The exit code, which is never 0 if output was lost. A reader that has gone (`| head`) is no
    /// matter for a message.
    pub(crate) fn end(&self, code: ExitCode) -> ExitCode {
        self.lost.get().map_or(code, |error| self.lost_code(error))
    }

    /// The exit code for output that was lost, once that was said.
    pub(crate) fn lost_code(&self, error: &io::Error) -> ExitCode {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return ExitStatus::ReaderGone.into();
        }
        let (message, exit) =
            (format!("cannot write to standard output: {error}"), ExitStatus::OutputLost);
        self.failure(&ErrorReport {
            error: None,
            message,
            exit: exit.code(),
            hint: None,
            parameters: None,
        });
        exit.into()
    }

    /// A remark that is no result.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            // What is no result may be lost.
            let _ = writeln!(stderr(), "{}", shown(text, false, false));
        }
    }

    /// An error, on standard error: in words or, for scripts, as one JSON object on one line.
    /// Standard output has results alone.
    pub(crate) fn failure(&self, report: &ErrorReport) {
        // What cannot be said is in the exit code.
        if self.json {
            let text = serde_json::to_string(report).unwrap_or_default();
            let _ = writeln!(stderr(), "{}", safe_json(&text));
            return;
        }
        let colour = self.colour && stderr().is_terminal();
        let (red, plain) = if colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(stderr(), "{red}error:{plain} {}", shown(&report.message, false, true));
        if let Some(hint) = &report.hint {
            let _ = writeln!(stderr(), "hint: {}", shown(hint, false, true));
        }
    }

    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("{}{text}{}", mark(code), mark("0"))
    }

    /// One cell of a heat map, two characters wide: a background where there are colours, a denser
    /// block where there are none.
    pub(crate) fn shade(&self, value: f64, most: f64) -> String {
        let share = if most > 0.0 { (value / most).clamp(0.0, 1.0).sqrt() } else { 0.0 };
        if !self.colour {
            let blocks = ["··", "░░", "▒▒", "▓▓", "██"];
            return blocks[if value <= 0.0 { 0 } else { 1 + (share * 3.0).round() as usize }]
                .to_owned();
        }
        // From the 256 colours: a ramp of dark to bright red.
        let ramp = ["48;5;236", "48;5;52", "48;5;88", "48;5;124", "48;5;160", "48;5;196"];
        format!(
            "{}  {}",
            mark(ramp[if value <= 0.0 { 0 } else { 1 + (share * 4.0).round() as usize }]),
            mark("0")
        )
    }

    /// A table with left-aligned columns as wide as their widest cell; nothing for no rows.
    pub(crate) fn table(&self, head: &[&str], rows: Vec<Vec<String>>) {
        if rows.is_empty() {
            return;
        }
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|i| {
                rows.iter().map(|r| visible(&r[i])).chain([visible(head[i])]).max().unwrap_or(0)
            })
            .collect();
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
        let target = if self.progress {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar
    }

    /// Lines that say how far a work is, for where there is no bar.
    pub(crate) fn progress_lines(&self) -> ProgressLines<'_> {
        let now = Instant::now();
        ProgressLines {
            output: self,
            phase: String::new(),
            since: (now, 0),
            next: now + FIRST_LINE,
            pause: FIRST_LINE / 2,
            told: None,
        }
    }

    pub(crate) fn bytes_bar(&self, what: &str, length: u64) -> ProgressBar {
        let bar = self.bar(length, "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_message(one_line(what));
        bar
    }

    pub(crate) fn count_bar(&self, what: &str, length: u64) -> ProgressBar {
        let bar = self.bar(length, "{msg} {bar:30} {pos}/{len} {per_sec} {eta}");
        bar.set_message(one_line(what));
        bar
    }

    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        let bar = self.bar(0, "{spinner} {msg} {elapsed}");
        bar.set_message(one_line(what));
        if self.progress {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }
}

/// Until the first line says how far a work is: what is done sooner needs none.
const FIRST_LINE: Duration = Duration::from_secs(1);
/// The longest pause between two such lines.
const LINE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The shortest, where a work's next phase begins.
const PHASE_PAUSE: Duration = Duration::from_millis(100);

/// How far a long work is, by lines on standard error, where there is no bar: for people in words,
/// with `--json` one object a line.
#[derive(Debug)]
pub(crate) struct ProgressLines<'a> {
    output: &'a Output,
    phase: String,
    /// When this phase began, and how much was done then.
    since: (Instant, u64),
    next: Instant,
    pause: Duration,
    /// The last line.
    told: Option<Instant>,
}

impl ProgressLines<'_> {
    /// Takes a reply that says how far the work is; says it if it is time to. `of` is 0 where
    /// nobody knows how much there is.
    pub(crate) fn take<T: Serialize>(
        &mut self,
        reply: &T,
        phase: &str,
        (done, of): (u64, u64),
        words: impl FnOnce() -> String,
    ) {
        if self.output.progress {
            return;
        }
        let now = Instant::now();
        if self.phase != phase {
            phase.clone_into(&mut self.phase);
            self.since = (now, done);
            // What it does now is told at once, however long the last one took.
            self.pause = FIRST_LINE;
            if let Some(told) = self.told {
                self.next = self.next.min(told + PHASE_PAUSE);
            }
        }
        if now < self.next {
            return;
        }
        self.pause = (self.pause * 2).min(LINE_PAUSE_MAX);
        self.next = now + self.pause;
        self.told = Some(now);
        let left_s =
            left(now - self.since.0, done.saturating_sub(self.since.1), of.saturating_sub(done));
        // What is no result may be lost.
        if self.output.json {
            let Ok(mut object) = serde_json::to_value(reply) else { return };
            object["left_s"] = left_s.into();
            let _ = writeln!(stderr(), "{}", safe_json(&object.to_string()));
            return;
        }
        let left = left_s.map(|left_s| format!(", {} left", duration(left_s))).unwrap_or_default();
        let _ =
            writeln!(stderr(), "{}", shown(&format!("{phase}: {}{left}", words()), false, false));
    }
}

/// Seconds that are left if it goes on as it did; none before anything is done.
fn left(elapsed: Duration, done: u64, rest: u64) -> Option<f64> {
    (done > 0).then(|| elapsed.as_secs_f64() * rest as f64 / done as f64).filter(|_| rest > 0)
}

/// A text as it is printed: marks of colour become escape sequences (or nothing), and whatever else
/// a terminal would act on becomes `\u{…}`.
fn shown(text: &str, colour: bool, newlines: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match code_of(c) {
            Some(code) if colour => {
                out.push_str("\x1b[");
                out.push_str(code);
                out.push('m');
            }
            Some(_) => {}
            None if telemetry::is_unsafe(c) || (c == '\n' && !newlines) => {
                out.extend(c.escape_unicode());
            }
            None => out.push(c),
        }
    }
    out
}

/// Somebody else's text on one line, for the middle of a line, a cell or a bar: no line feed, no
/// tab, nothing that a terminal acts on. Marks of colour stay; line feeds at its end, with which
/// libraries end what they say, are left out.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\n', '\r']).chars() {
        if telemetry::is_unsafe(c) || c == '\n' || c == '\t' {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON text whose strings hold nothing that a terminal acts on: the characters in question can
/// stand in strings alone.
fn safe_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if telemetry::is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Columns that a text takes on a terminal, marks of colour left out: an East Asian character takes
/// two, a combining one none.
pub(crate) fn visible(text: &str) -> usize {
    let plain: String = text.chars().filter(|c| code_of(*c).is_none()).collect();
    console::measure_text_width(&plain)
}

/// The beginning of somebody else's text, at most so many columns wide; an ellipsis says that it
/// was cut.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    // Escaped first: what is cut must not begin or end within what a terminal acts on.
    console::truncate_str(&one_line(text), columns, "…").into_owned()
}

/// `3.2s`, `4m05s`, `2h03m`, `5d01h`. Not indicatif's `HumanDuration`, which rounds to whole
/// seconds and to one unit.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A path as a shell takes it for one word, in a command that a person may copy.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// `12 B`, `3.40 KiB`, …
pub(crate) fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

#[cfg(test)]
mod tests;
