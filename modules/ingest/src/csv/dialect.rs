//! How a CSV file is written, told by its beginning where nobody says it.
//!
//! Invariants: a guess is made on whole records only and is the same on every machine; what was
//! guessed against the custom (a comma, a double quote doubled within quotes, a header first,
//! UTF-8) is said.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::encoding::Encoding;
use crate::lattice::moment::Moment;
use crate::lattice::{Kind, Value};

/// What may stand between fields.
const DELIMITERS: &[u8] = b",;\t|";
/// Bytes that are looked at, and all of a header that is longer.
pub(super) const LOOKED_BYTES: usize = 256 << 10;
/// Records that are looked at.
const LOOKED_RECORDS: usize = 100;
/// A number among them may be the year that a column is of.
const YEARS: std::ops::Range<i64> = 1800..2200;
/// Records below the first that tell whether it is a header.
const HEADER_RECORDS: usize = 1000;
/// Lines before the header that are left out, at most.
const TITLE_LINES: usize = 20;

/// In which order a date has its parts, unless it is that of ISO 8601.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DateOrder {
    /// `2024-12-31` alone is a date.
    #[default]
    Iso,
    /// `31/12/2024` is one, too.
    DayFirst,
    /// `12/31/2024` is one, too.
    MonthFirst,
}

/// What somebody says of how files are written; what is not said is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvOptions {
    /// What stands between fields.
    pub delimiter: Option<u8>,
    /// What stands around them; `Some(None)` if nothing does.
    pub quote: Option<Option<u8>>,
    /// What stands before a quote that is part of a field; `Some(None)` if it is doubled.
    pub escape: Option<Option<u8>>,
    /// Whether the first record is the names of the columns.
    pub header: Option<bool>,
    /// Lines that are left out at the beginning.
    pub skip: Option<u64>,
    /// Words for a value that is missing, in every column.
    pub nulls: Option<Vec<String>>,
    /// How the text is encoded.
    pub encoding: Option<Encoding>,
    /// Every column is text.
    pub all_text: bool,
    /// Of a record that has fewer fields than the header, the others are NULL.
    pub padded: bool,
    /// Numbers have a comma before their fraction, and perhaps points between their thousands.
    pub decimal_comma: bool,
    /// How dates are written.
    pub dates: DateOrder,
    /// Types of columns by their names; the others' are guessed.
    pub(crate) kinds: BTreeMap<String, Kind>,
}

impl CsvOptions {
    /// What a field says.
    pub(super) fn value(&self, field: &str) -> Value {
        let value = match self.decimal_comma && field.contains([',', '.']) {
            true => match (with_point(field), Value::of_field(field)) {
                (Some(number), _) => Value::of_field(&number),
                // A point is in no number, but perhaps in a time.
                (None, Value::Number(_) | Value::Coded) => Value::Text,
                (None, value) => value,
            },
            false => Value::of_field(field),
        };
        match (value, self.dates) {
            (Value::Text | Value::Coded, DateOrder::DayFirst | DateOrder::MonthFirst) => {
                Moment::scan_by(field.as_bytes(), self.dates == DateOrder::DayFirst)
                    .map_or(value, Value::Moment)
            }
            _ => value,
        }
    }
}

/// A number that has a comma before its fraction as one with a point; none if it is no such number.
fn with_point(field: &str) -> Option<String> {
    let (sign, number) = field.strip_prefix('-').map_or(("", field), |number| ("-", number));
    let (whole, fraction) =
        number.split_once(',').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mut groups = whole.split('.');
    let first = groups.next().filter(|first| are_digits(first))?;
    let is_grouped = whole.contains('.');
    let wrong = is_grouped
        && (!(1..=3).contains(&first.len())
            || groups.any(|group| group.len() != 3 || !are_digits(group)));
    if wrong || fraction.is_some_and(|fraction| fraction.contains(['.', ','])) {
        return None;
    }
    let point = if fraction.is_some() { "." } else { "" };
    Some(format!("{sign}{}{point}{}", whole.replace('.', ""), fraction.unwrap_or_default()))
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) quote: Option<u8>,
    pub(super) escape: Option<u8>,
    /// Spaces before fields are none of them.
    pub(super) spaced: bool,
}

impl Dialect {
    /// The csv crate's reader, as all of this module reads.
    pub(super) fn records<'a>(&self, bytes: &'a [u8]) -> ::csv::Reader<&'a [u8]> {
        let mut builder = ::csv::ReaderBuilder::new();
        builder
            .delimiter(self.delimiter)
            .flexible(true)
            .has_headers(false)
            .escape(self.escape)
            .double_quote(self.escape.is_none());
        match self.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        builder.from_reader(bytes)
    }

    /// Bytes without the spaces that stand before fields.
    pub(super) fn unspaced(&self, bytes: Vec<u8>) -> Vec<u8> {
        if !self.spaced {
            return bytes;
        }
        let mut out = Vec::with_capacity(bytes.len());
        let (mut quoted, mut begins, mut escaped) = (false, true, false);
        for byte in bytes {
            if begins && byte == b' ' {
                continue;
            }
            if quoted {
                quoted = escaped || Some(byte) != self.quote;
                escaped = !escaped && Some(byte) == self.escape;
            } else if Some(byte) == self.quote {
                // Also the second of two, which are one quote within a field.
                quoted = begins || out.last().copied() == self.quote;
            }
            begins = !quoted && (byte == self.delimiter || byte == b'\n');
            out.push(byte);
        }
        out
    }

    /// The end of the last whole record, and whether a quote stays open behind it. The bytes begin
    /// with a record.
    pub(super) fn last_record(&self, bytes: &[u8]) -> (Option<usize>, bool) {
        use memchr::{memchr, memchr2, memrchr};
        let (mut at, mut end) = (0, None);
        loop {
            let quote = self.quote.and_then(|quote| memchr(quote, &bytes[at..])).map(|q| at + q);
            let plain = &bytes[at..quote.unwrap_or(bytes.len())];
            end = memrchr(b'\n', plain).map(|n| at + n + 1).or(end);
            let (Some(at_quote), Some(quote)) = (quote, self.quote) else { return (end, false) };
            // Elsewhere than at a field's beginning a quote is a character like any other.
            let before =
                if self.spaced { without_spaces(&bytes[..at_quote]) } else { &bytes[..at_quote] };
            if before.last().is_some_and(|byte| ![self.delimiter, b'\n', b'\r'].contains(byte)) {
                at = at_quote + 1;
                continue;
            }
            let mut inside = at_quote + 1;
            at = loop {
                let next = match self.escape {
                    Some(escape) => memchr2(quote, escape, &bytes[inside..]),
                    None => memchr(quote, &bytes[inside..]),
                };
                match next.map(|q| inside + q) {
                    None => return (end, true),
                    Some(mark) if bytes[mark] != quote => {
                        if mark + 1 >= bytes.len() {
                            return (end, true);
                        }
                        inside = mark + 2;
                    }
                    Some(close)
                        if self.escape.is_none() && bytes.get(close + 1) == Some(&quote) =>
                    {
                        inside = close + 2;
                    }
                    Some(close) => break close + 1,
                }
            };
        }
    }
}

/// Bytes without the spaces at their end.
fn without_spaces(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &bytes[..end]
}

/// What the beginning of a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sniff {
    pub(super) dialect: Dialect,
    /// The names of the columns as they stand there; none if the first record is one of values.
    pub(super) header: Option<Vec<String>>,
    /// How many columns there are.
    pub(super) columns: usize,
    /// Bytes up to the first record.
    pub(super) begins: usize,
    /// What was guessed against the custom.
    pub(super) guesses: Vec<String>,
}

/// Records at the beginning of a text: their fields, and where they end.
fn records(dialect: &Dialect, bytes: &[u8], whole: bool) -> Vec<(Vec<String>, usize)> {
    let unspaced = dialect.spaced.then(|| dialect.unspaced(bytes.to_vec()));
    let mut reader = dialect.records(unspaced.as_deref().unwrap_or(bytes));
    let (mut record, mut all) = (::csv::ByteRecord::new(), Vec::new());
    while all.len() < LOOKED_RECORDS && reader.read_byte_record(&mut record).unwrap_or(false) {
        let fields =
            record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
        let end = usize::try_from(reader.position().byte()).unwrap_or(bytes.len());
        let text = unspaced.as_deref().unwrap_or(bytes);
        all.push((fields, end + usize::from(is_split(text, end))));
    }
    // The last may be cut.
    if !whole && all.len() > 1 && all.len() < LOOKED_RECORDS {
        all.pop();
    }
    all
}

/// Whether a place is within the end of a line that is of two bytes: where the csv crate stands
/// after a record.
pub(super) fn is_split(text: &[u8], at: usize) -> bool {
    at > 0 && text.get(at - 1..=at) == Some(b"\r\n".as_slice())
}

/// Lines with nothing in them from a place on, up to the next record: the csv crate passes over
/// them.
pub(super) fn blank_lines(text: &[u8], from: usize) -> u64 {
    let mut rest = text.get(from + usize::from(is_split(text, from))..).unwrap_or_default();
    let mut lines = 0;
    while let Some(next) = rest
        .strip_prefix(b"\r\n")
        .or_else(|| rest.strip_prefix(b"\n"))
        .or_else(|| rest.strip_prefix(b"\r"))
    {
        (rest, lines) = (next, lines + 1);
    }
    lines
}

/// The most frequent number of fields, and how many records have it.
fn usual(records: &[(Vec<String>, usize)]) -> (usize, usize) {
    let mut counts = std::collections::BTreeMap::new();
    records.iter().for_each(|(fields, _)| *counts.entry(fields.len()).or_insert(0_usize) += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).unwrap_or((0, 0))
}

/// Quotes within quoted fields that end them in the middle: signs that the quotes are written
/// another way.
fn broken_quotes(dialect: &Dialect, bytes: &[u8]) -> usize {
    let Some(quote) = dialect.quote else { return 0 };
    let (mut at, mut broken) = (0, 0);
    while at < bytes.len() {
        let begins = bytes[at] == quote
            && (at == 0 || [dialect.delimiter, b'\n', b'\r'].contains(&bytes[at - 1]));
        at += 1;
        if !begins {
            continue;
        }
        while at < bytes.len() {
            match bytes[at] {
                byte if Some(byte) == dialect.escape => at += 2,
                byte if byte == quote
                    && dialect.escape.is_none()
                    && bytes.get(at + 1) == Some(&quote) =>
                {
                    at += 2;
                }
                byte if byte == quote => {
                    at += 1;
                    let ends = bytes
                        .get(at)
                        .is_none_or(|next| [dialect.delimiter, b'\n', b'\r'].contains(next));
                    broken += usize::from(!ends);
                    break;
                }
                _ => at += 1,
            }
        }
    }
    broken
}

/// Tells how a text is written by its beginning; `whole` if there is no more of it. None if there
/// is no record.
pub(super) fn sniff(beginning: &[u8], whole: bool, said: &CsvOptions) -> Option<Sniff> {
    let mut guesses = Vec::new();
    // All of a header, however long it is.
    let header = memchr::memchr(b'\n', beginning).map_or(0, |end| end + 1);
    let looked = &beginning[..beginning.len().min(LOOKED_BYTES.max(header))];
    let whole = whole && looked.len() == beginning.len();
    let mut skipped = 0;
    for _ in 0..said.skip.unwrap_or(0) {
        skipped += memchr::memchr(b'\n', &looked[skipped..]).map(|end| end + 1)?;
    }
    // Excel's way to say it.
    let mut named = None;
    if let Some([delimiter, rest @ ..]) =
        looked[skipped..].strip_prefix(b"sep=").or_else(|| looked[skipped..].strip_prefix(b"SEP="))
        && (rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
    {
        named = Some(*delimiter);
        skipped += 5 + if rest[0] == b'\r' { 2 } else { 1 };
    }
    let skipped = if said.skip.is_none() {
        skipped + comments(&looked[skipped..], &mut guesses)
    } else {
        skipped
    };
    let text = &looked[skipped..];
    let quote = said.quote.unwrap_or(Some(b'"'));
    let plain = Dialect { delimiter: b',', quote, escape: said.escape.flatten(), spaced: false };
    let delimiter = said.delimiter.or(named).unwrap_or_else(|| delimiter(text, &plain, whole));
    let mut dialect = Dialect { delimiter, ..plain };
    if said.delimiter.is_none() && named.is_none() && delimiter != b',' {
        guesses.push(format!(
            "fields are separated by `{}` (--delimiter)",
            char::from(delimiter).escape_default()
        ));
    }
    if said.escape.is_none() && memchr::memmem::find(text, b"\\\"").is_some() {
        let escaped = Dialect { escape: Some(b'\\'), ..dialect };
        let even = |dialect: &Dialect| {
            let records = records(dialect, text, whole);
            let (_, count) = usual(&records);
            records.len() - count
        };
        if (even(&escaped), broken_quotes(&escaped, text))
            < (even(&dialect), broken_quotes(&dialect, text))
        {
            dialect = escaped;
            guesses.push("quotes within fields have a backslash before them (--escape)".to_owned());
        }
    }
    let mut all = records(&dialect, text, whole);
    if let Some(quote) = quote {
        let is_late = |field: &String| {
            field.starts_with(' ')
                && field.trim_start_matches(' ').as_bytes().first() == Some(&quote)
        };
        if all.iter().any(|(fields, _)| fields.iter().any(is_late)) {
            dialect.spaced = true;
            guesses.push("spaces before fields are left out, for quotes follow them".to_owned());
            all = records(&dialect, text, whole);
        }
    }
    let (columns, count) = usual(&all);
    // A title: fewer fields than the table has, and nothing but its first.
    let mut title = 0;
    if said.skip.is_none() && said.header != Some(false) && columns > 1 && count > 1 {
        let is_title = |(fields, _): &&(Vec<String>, usize)| {
            fields.len() < columns && fields.iter().skip(1).all(String::is_empty)
        };
        title = all.iter().take(TITLE_LINES).take_while(is_title).count();
    }
    let mut before = 0;
    if title > 0 {
        before = all[title - 1].1;
        all.drain(..title);
        let lines = if title == 1 {
            "1 line before the header is"
        } else {
            &format!("{title} lines before the header are")
        };
        guesses.push(format!("{lines} left out (--skip)"));
    }
    let (first, end) = all.first()?;
    let no_header = lacks_header(first, &all[1..]);
    let has_header = said.header.unwrap_or(!no_header);
    if said.header.is_none() && no_header {
        guesses.push("there is no header: columns are named by their number (--header)".to_owned());
    } else if said.header.is_none()
        && let Some(number) = first
            .iter()
            .find(|field| matches!(Value::of_field(field), Value::Number(_) | Value::Moment(_)))
    {
        guesses.push(format!(
            "the first record is the header, though it has `{}` (--header)",
            number.chars().take(40).collect::<String>()
        ));
    }
    // With spaces left out, places are found by the lines; a header goes over one.
    let place = |end: usize| if dialect.spaced { line_end(text, title + 1) } else { end };
    let before_place = if dialect.spaced { line_end(text, title) } else { before };
    Some(Sniff {
        dialect,
        columns: first.len(),
        begins: skipped + if has_header { place(*end) } else { before_place },
        header: has_header.then(|| first.clone()),
        guesses,
    })
}

/// Whether the first record is one of the table's own and no header: nothing in it is a word, or it
/// has numbers or times where all records have them and no word where they have none. Numbers that
/// go up by one are names of columns, and so is one year.
fn lacks_header(first: &[String], others: &[(Vec<String>, usize)]) -> bool {
    let is_value = |value: &Value| !matches!(value, Value::Text | Value::Null | Value::Absent);
    let values: Vec<Value> = first.iter().map(|field| Value::of_field(field)).collect();
    let (mut like, mut unlike) = (Vec::new(), false);
    for (column, value) in values.iter().enumerate() {
        let below =
            others.iter().take(HEADER_RECORDS).filter(|(fields, _)| fields.len() == first.len());
        let below: Vec<Value> = below
            .map(|(fields, _)| Value::of_field(&fields[column]))
            .filter(|value| !matches!(value, Value::Null))
            .collect();
        if below.is_empty()
            || !below.iter().all(|value| is_value(value) || matches!(value, Value::Absent))
        {
            continue;
        }
        if is_value(value) {
            like.push(&first[column]);
        } else {
            unlike |= matches!(value, Value::Text);
        }
    }
    let whole: Vec<i64> = like.iter().filter_map(|text| text.trim().parse().ok()).collect();
    let is_year = |whole: &[i64]| matches!(whole, [one] if YEARS.contains(one));
    let are_names = whole.len() == like.len()
        && (is_year(&whole)
            || whole.len() > 1
                && whole.windows(2).all(|pair| pair[1] == pair[0].saturating_add(1)));
    let has_no_word =
        values.iter().any(is_value) && !values.iter().any(|value| matches!(value, Value::Text));
    !others.is_empty() && (has_no_word || !like.is_empty() && !unlike && !are_names)
}

/// Where so many lines end.
fn line_end(text: &[u8], lines: usize) -> usize {
    let mut at = 0;
    for _ in 0..lines {
        at = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |end| at + end + 1);
    }
    at
}

/// Bytes of the lines of comment that stand before a header.
fn comments(text: &[u8], guesses: &mut Vec<String>) -> usize {
    let (mut at, mut lines) = (0, 0);
    while lines < TITLE_LINES && text[at..].starts_with(b"#") {
        let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |end| at + end + 1);
        // `#id,name` right before the values is a header of those who write so.
        let is_header = text.get(at + 1).is_some_and(u8::is_ascii_alphanumeric)
            && !text[end..].starts_with(b"#");
        if is_header || end == text.len() {
            break;
        }
        (at, lines) = (end, lines + 1);
    }
    if lines > 0 {
        let comment = if lines == 1 {
            "1 line of comment before the header is"
        } else {
            &format!("{lines} lines of comment before the header are")
        };
        guesses.push(format!("{comment} left out (--skip)"));
    }
    at
}

/// The delimiter that makes most records of one length; what stands in quotes does not count.
fn delimiter(text: &[u8], plain: &Dialect, whole: bool) -> u8 {
    let score = |delimiter: &u8| {
        // Of one field everything is, which need not be read to be known.
        if memchr::memchr(*delimiter, text).is_none() {
            return (false, 0, 0, 0);
        }
        let dialect = Dialect { delimiter: *delimiter, spaced: true, ..*plain };
        let all = records(&dialect, text, whole);
        let (fields, count) = usual(&all);
        let first = all.first().map_or(0, |(fields, _)| fields.len());
        // So it is where the delimiter stands within quotes alone.
        if fields < 2 && first < 2 {
            return (false, 0, 0, 0);
        }
        let share = if fields < 2 { 0 } else { count * 100 / all.len().max(1) };
        let broken = broken_quotes(&dialect, text);
        // A comma may be in every number, but not in the header.
        (first == fields, share, usize::MAX - broken, fields.max(first))
    };
    // Of equals, the first.
    let best = DELIMITERS.iter().rev().max_by_key(|delimiter| score(delimiter));
    best.copied().unwrap_or(b',')
}

/// Names that no two columns share: what is empty is named by its number, what is there twice gets
/// one behind it.
pub(super) fn names(
    header: Option<Vec<String>>,
    columns: usize,
    notes: &mut Vec<String>,
) -> Vec<String> {
    let given = header.unwrap_or_else(|| vec![String::new(); columns]);
    let had_none = given.iter().all(String::is_empty);
    let mut taken: std::collections::HashSet<String> =
        given.iter().filter(|name| !name.is_empty()).cloned().collect();
    let mut seen = std::collections::HashSet::new();
    let mut renamed = String::new();
    let mut names = Vec::with_capacity(given.len());
    for (name, number) in given.into_iter().zip(1..) {
        if !name.is_empty() && seen.insert(name.clone()) {
            names.push(name);
            continue;
        }
        let stem = if name.is_empty() { "column".to_owned() } else { name.clone() };
        let first = if name.is_empty() { number } else { 2 };
        let new = (first..)
            .map(|n| if name.is_empty() { format!("{stem}{n}") } else { format!("{stem}_{n}") })
            .find(|new| !taken.contains(new));
        let new = new.unwrap_or(stem);
        taken.insert(new.clone());
        if !had_none {
            let _ = write!(
                renamed,
                "{}column {number} (`{name}`) is `{new}`",
                if renamed.is_empty() { "" } else { ", " }
            );
        }
        names.push(new);
    }
    if !renamed.is_empty() {
        notes.push(format!("columns without a name of their own were named: {renamed}"));
    }
    names
}
