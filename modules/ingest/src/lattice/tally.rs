//! How many values of each sort a column has, and one example of each: what is said of a type that
//! nobody expects.

use std::path::Path;

use super::{Facts, Keys, Kind};

/// Characters of an example.
const EXAMPLE_CHARS: usize = 40;
/// Columns of which something is said; the others are counted.
const NOTES_MAX: usize = 20;

/// A sort of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Absent,
    Bool,
    Number,
    /// A number that no double holds.
    Inexact,
    Special,
    Coded,
    Date,
    Time,
    Stamp,
    Instant,
    /// An instant with an offset from UTC.
    Offset,
    Text,
    Object,
    List,
}

impl Class {
    const ALL: [Self; 14] = [
        Self::Absent,
        Self::Bool,
        Self::Number,
        Self::Inexact,
        Self::Special,
        Self::Coded,
        Self::Date,
        Self::Time,
        Self::Stamp,
        Self::Instant,
        Self::Offset,
        Self::Text,
        Self::Object,
        Self::List,
    ];

    /// Several of it, in words.
    fn words(self) -> &'static str {
        match self {
            Self::Absent => "words for no value",
            Self::Bool => "true or false",
            Self::Number => "numbers",
            Self::Inexact => "numbers that no double holds",
            Self::Special => "NaN or infinite",
            Self::Coded => "digits after a zero",
            Self::Date => "dates",
            Self::Time => "times of day",
            Self::Stamp => "timestamps without a zone",
            Self::Instant | Self::Offset => "timestamps with a zone",
            Self::Text => "other texts",
            Self::Object => "objects",
            Self::List => "lists",
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Example {
    class: Class,
    text: String,
    file: usize,
    row: u64,
}

/// Counts of values by their sort, and the first example of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counts: [u64; Class::ALL.len()],
    examples: Vec<Example>,
}

impl Tally {
    #[inline]
    pub(crate) fn count(&mut self, class: Class, text: &str, row: u64) {
        let count = &mut self.counts[class as usize];
        *count += 1;
        if *count == 1 {
            self.exemplify(class, text, row);
        }
    }

    #[cold]
    fn exemplify(&mut self, class: Class, text: &str, row: u64) {
        let mut short: String = text
            .chars()
            .take(EXAMPLE_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if short.len() < text.len() {
            short.push('…');
        }
        self.examples.push(Example { class, text: short, file: 0, row });
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, other)| *own += other);
        for example in other.examples {
            if !self.examples.iter().any(|own| own.class == example.class) {
                self.examples.push(example);
            }
        }
    }

    pub(crate) fn shift(&mut self, file: usize, before: u64) {
        for example in &mut self.examples {
            (example.file, example.row) = (file, example.row + before);
        }
    }

    fn of(&self, class: Class) -> u64 {
        self.counts[class as usize]
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// An example of a sort and where it stands.
    fn example(&self, class: Class, paths: &[&Path]) -> String {
        let Some(example) = self.examples.iter().find(|example| example.class == class) else {
            return String::new();
        };
        let file = paths
            .get(example.file)
            .and_then(|path| path.file_name())
            .map(|name| name.display().to_string())
            .unwrap_or_default();
        format!(", such as `{}` ({file} row {})", example.text, example.row)
    }

    /// What of it is not as expected of its type, in words.
    fn said(&self, kind: &Kind, paths: &[&Path], typed: bool) -> Vec<String> {
        let total = self.total();
        let some = |classes: &[Class], words: &str| {
            let count: u64 = classes.iter().map(|class| self.of(*class)).sum();
            let first = classes.iter().find(|class| self.of(**class) > 0);
            first.map(|first| {
                format!("{count} of {total} values {words}{}", self.example(*first, paths))
            })
        };
        let mut said = Vec::new();
        match kind {
            Kind::Text | Kind::Json => said.extend(self.mixed(kind, paths, typed)),
            Kind::Decimal(..) => {
                let words = format!("are numbers that no double holds: it is {}", kind.arrow());
                said.extend(some(&[Class::Inexact], &words));
            }
            Kind::Stamp { zoned: true, .. } => said
                .extend(some(&[Class::Offset], "have an offset: their instants are kept, in UTC")),
            Kind::Stamp { .. } => {
                said.extend(some(&[Class::Date], "are dates: they are timestamps at midnight"));
            }
            _ => {}
        }
        if !matches!(kind, Kind::Text | Kind::Json | Kind::Null) {
            said.extend(some(&[Class::Absent], "are words for no value, and became NULL"));
        }
        if *kind == Kind::Float {
            said.extend(some(&[Class::Special], "are NaN or infinite"));
        }
        said
    }

    /// Why a column is text or JSON, if its values are not all just that.
    fn mixed(&self, kind: &Kind, paths: &[&Path], typed: bool) -> Option<String> {
        let there: Vec<Class> =
            Class::ALL.into_iter().filter(|class| self.of(*class) > 0).collect();
        // Where types are guessed, texts among which a few look like something else are texts.
        let texts = self.of(Class::Text) + self.of(Class::Absent) + self.of(Class::Special);
        let is_plain = !typed && *kind == Kind::Text && texts * 2 > self.total();
        let needs_words = matches!(
            there[..],
            [Class::Coded | Class::Inexact | Class::Object | Class::List] | [_, _, ..]
        );
        if is_plain || !needs_words {
            return None;
        }
        let sorts: Vec<String> = there
            .iter()
            .map(|class| {
                format!("{} {}{}", self.of(*class), class.words(), self.example(*class, paths))
            })
            .collect();
        let what = match kind {
            Kind::Json => "JSON text",
            _ => "text",
        };
        let why = match there[..] {
            [Class::Object] => ": keys that no table holds (none, too many, or too deep)",
            [Class::List] => ": too deep",
            _ => "",
        };
        Some(format!("it is {what}: {}{why}", sorts.join("; ")))
    }
}

/// What a person should know of the types of a table's columns: at most [`NOTES_MAX`] lines and how
/// many there are more. Whether the source says types itself (`typed`) decides what is worth a
/// word.
pub(crate) fn notes<'a>(
    columns: impl Iterator<Item = (&'a str, &'a Facts, &'a Kind)>,
    paths: &[&Path],
    typed: bool,
) -> Vec<String> {
    let mut all = Vec::new();
    for (name, facts, kind) in columns {
        note(name, facts, kind, (paths, typed), &mut all);
    }
    if all.len() > NOTES_MAX {
        let more = all.len() - NOTES_MAX;
        all.truncate(NOTES_MAX);
        all.push(format!("and {more} more notes on columns"));
    }
    all
}

/// Types that columns keep, though all that was read has another.
pub(crate) fn kept_notes<'a>(
    columns: impl Iterator<Item = (&'a str, &'a Facts, &'a Kind)>,
) -> Vec<String> {
    let other = |(name, facts, kind): (&str, &Facts, &Kind)| {
        let own = facts.kind().arrow();
        (own != kind.arrow()).then(|| {
            format!(
                "column `{name}` keeps its type {}; read as a new dataset it is {own}",
                kind.arrow()
            )
        })
    };
    columns.filter_map(other).take(NOTES_MAX).collect()
}

/// Why a column has its type: what its values are, with a count and an example of each sort.
pub(crate) fn reason(name: &str, facts: &Facts, kind: &Kind, paths: &[&Path]) -> String {
    let tally = &facts.tally;
    let sorts = Class::ALL.into_iter().filter(|class| tally.of(*class) > 0);
    let sorts: Vec<String> = sorts
        .map(|class| {
            format!("{} {}{}", tally.of(class), class.words(), tally.example(class, paths))
        })
        .collect();
    let sorts = if sorts.is_empty() { "it has no values".to_owned() } else { sorts.join("; ") };
    format!("column `{name}` is {}: {sorts}", kind.arrow())
}

fn note(
    path: &str,
    facts: &Facts,
    kind: &Kind,
    (paths, typed): (&[&Path], bool),
    all: &mut Vec<String>,
) {
    all.extend(
        facts
            .tally
            .said(kind, paths, typed)
            .into_iter()
            .map(|said| format!("column `{path}`: {said}")),
    );
    match kind {
        Kind::Struct(fields) => {
            for ((name, facts), (_, kind)) in
                facts.object().into_iter().flat_map(Keys::iter).zip(fields)
            {
                note(&format!("{path}.{name}"), facts, kind, (paths, typed), all);
            }
        }
        Kind::List(item) => {
            if let Some(facts) = facts.items() {
                note(&format!("{path}[]"), facts, item, (paths, typed), all);
            }
        }
        _ => {}
    }
}
