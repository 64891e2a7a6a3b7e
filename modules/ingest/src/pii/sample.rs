//! Up to 2,000 distinct values of each column, taken evenly from all rows as they go by.
//!
//! The values kept are those of smallest hash (a bottom-k sketch), so that samples of several
//! workers merge into the same sample as one worker's. Every value is looked at until a column has
//! filled its sample; then a few of each batch.
//!
//! A column is also what lies within it: fields of structs, items of lists, keys and values of
//! maps, and what stands in texts that are JSON. Of a long text its beginning is kept, and whatever
//! was found in the rest.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use chrono::NaiveDate;
use serde_json::Value;

use super::{Kind, entities};

/// Distinct values kept of a column.
const DISTINCT_MAX: usize = 2000;
/// Values looked at in a batch once a column's sample is full, or will not fill.
const LOOKS: usize = 64;
/// Values after which a column of few distinct ones is no longer looked at whole.
const LOOKS_WHOLE: u64 = 50_000;
/// Longest part of a value that is kept.
const VALUE_BYTES: usize = 512;
/// Of a longer one, its beginning; the rest of the room is for what was found in it.
const BEGINNING_BYTES: usize = 256;
/// Bytes of long texts, and of JSON, that are looked through in a column.
const SCANNED_BYTES_MAX: usize = 64 << 20;
/// Places in the JSON of a column that have a sample of their own.
const PLACES_MAX: usize = 100;
/// Structs and lists within one another, and columns within one, that are looked at.
const DEPTH_MAX: usize = 16;
const LEAVES_MAX: usize = 20_000;
/// Memory of all samples together.
const BYTES_MAX: usize = 24 << 20;

/// A sample of one column.
#[derive(Clone, PartialEq, Eq)]
pub struct Sample {
    kind: Kind,
    /// By hash.
    values: BTreeMap<u64, Box<str>>,
    bytes: usize,
    bytes_max: usize,
    /// Values that were left out for want of room.
    full: bool,
    seen: u64,
    /// Bytes that were looked through for what stands within.
    scanned: usize,
    /// Some of a value was not looked at.
    partial: bool,
    /// What stands in values that are JSON, by its place (`.a.b[]`).
    within: BTreeMap<String, Sample>,
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never a value.
        f.debug_struct("Sample")
            .field("kind", &self.kind)
            .field("distinct", &self.values.len())
            .finish_non_exhaustive()
    }
}

fn hash(value: &str) -> u64 {
    // Without a seed: the same values are kept on every machine.
    let mut hasher = DefaultHasher::new();
    hasher.write(value.as_bytes());
    hasher.finish()
}

impl Sample {
    fn new(kind: Kind, bytes_max: usize) -> Self {
        Self {
            kind,
            values: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            full: false,
            seen: 0,
            scanned: 0,
            partial: false,
            within: BTreeMap::new(),
        }
    }

    /// A sample of these texts.
    #[must_use]
    pub fn of_texts(values: impl IntoIterator<Item = String>) -> Self {
        let mut sample = Self::new(Kind::Text, BYTES_MAX);
        values.into_iter().for_each(|value| sample.take(&value));
        sample
    }

    /// What the values are.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Values looked at, repeated ones too.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Distinct values that were kept.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.values().map(AsRef::as_ref)
    }

    /// Whether some of its values was not looked at.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    fn take(&mut self, value: &str) {
        let value = value.trim();
        if value.is_empty() {
            return;
        }
        self.seen += 1;
        let hash = hash(value);
        if !self.wants(hash) {
            return;
        }
        if self.kind == Kind::Text && value.starts_with(['{', '[']) {
            self.look_into(value);
        }
        let kept = if value.len() > VALUE_BYTES {
            Cow::Owned(self.excerpt(value))
        } else {
            Cow::Borrowed(value)
        };
        self.keep(hash, &kept);
    }

    /// Whether so many more bytes may be looked through.
    fn may_scan(&mut self, bytes: usize) -> bool {
        self.scanned = self.scanned.saturating_add(bytes);
        self.partial |= self.scanned > SCANNED_BYTES_MAX;
        self.scanned <= SCANNED_BYTES_MAX
    }

    /// The beginning of a long text, and what was found in all of it.
    fn excerpt(&mut self, value: &str) -> String {
        let cut = (0..=BEGINNING_BYTES).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
        let mut kept = value[..cut].to_owned();
        if self.may_scan(value.len()) {
            for (_, found) in entities::found_within(value) {
                if kept.len() + found.len() < VALUE_BYTES {
                    kept.push_str(" … ");
                    kept.push_str(found);
                }
            }
        }
        kept
    }

    /// Looks at what stands in a text that is JSON.
    fn look_into(&mut self, text: &str) {
        if self.may_scan(text.len())
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            self.look_at(&value, String::new());
        }
    }

    fn look_at(&mut self, value: &Value, place: String) {
        let text = match value {
            Value::Object(fields) => {
                fields
                    .iter()
                    .for_each(|(name, value)| self.look_at(value, format!("{place}.{name}")));
                return;
            }
            Value::Array(items) => {
                items.iter().for_each(|item| self.look_at(item, format!("{place}[]")));
                return;
            }
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) => return,
        };
        if self.within.len() >= PLACES_MAX && !self.within.contains_key(&place) {
            self.partial = true;
            return;
        }
        let room = (self.bytes_max / PLACES_MAX).max(VALUE_BYTES);
        self.within.entry(place).or_insert_with(|| Self::new(Kind::Text, room)).take(&text);
    }

    /// With what another worker has seen.
    fn absorb(&mut self, other: Self) {
        self.seen += other.seen;
        self.scanned = self.scanned.saturating_add(other.scanned);
        self.partial |= other.partial;
        other.values.iter().for_each(|(hash, value)| self.keep(*hash, value));
        self.full |= other.full;
        for (place, sample) in other.within {
            match self.within.get_mut(&place) {
                Some(own) => own.absorb(sample),
                None => drop(self.within.insert(place, sample)),
            }
        }
    }

    /// This sample and those of what stands within its values, each by its place.
    fn flatten(mut self, name: String, all: &mut Vec<(String, Option<Self>)>) {
        let within = std::mem::take(&mut self.within);
        all.push((name.clone(), Some(self)));
        within
            .into_iter()
            .for_each(|(place, sample)| sample.flatten(format!("{name}{place}"), all));
    }

    fn wants(&self, hash: u64) -> bool {
        let is_above =
            self.full && self.values.last_key_value().is_some_and(|(last, _)| hash > *last);
        !is_above && !self.values.contains_key(&hash)
    }

    fn keep(&mut self, hash: u64, value: &str) {
        if !self.wants(hash) {
            return;
        }
        self.bytes += value.len();
        self.values.insert(hash, value.into());
        while self.values.len() > DISTINCT_MAX
            || (self.bytes > self.bytes_max && self.values.len() > 1)
        {
            self.full = true;
            if let Some((_, gone)) = self.values.pop_last() {
                self.bytes -= gone.len();
            }
        }
    }

    /// Looks at a column of a batch.
    fn look(&mut self, column: &ArrayRef) {
        let whole = !self.full && self.seen < LOOKS_WHOLE;
        let step = if whole { 1 } else { (column.len() / LOOKS).max(1) };
        let rows = (0..column.len()).step_by(step).filter(|row| column.is_valid(*row));
        match column.data_type() {
            DataType::Utf8 => {
                let texts = column.as_string::<i32>();
                rows.for_each(|row| self.take(texts.value(row)));
            }
            DataType::LargeUtf8 => {
                let texts = column.as_string::<i64>();
                rows.for_each(|row| self.take(texts.value(row)));
            }
            DataType::Utf8View => {
                let texts = column.as_string_view();
                rows.for_each(|row| self.take(texts.value(row)));
            }
            DataType::Decimal128(_, 0) => rows.for_each(|row| {
                self.take(&column.as_primitive::<Decimal128Type>().value(row).to_string());
            }),
            DataType::Int32 => rows.for_each(|row| {
                self.take(&column.as_primitive::<Int32Type>().value(row).to_string());
            }),
            DataType::UInt32 => rows.for_each(|row| {
                self.take(&column.as_primitive::<UInt32Type>().value(row).to_string());
            }),
            DataType::Int64 => rows.for_each(|row| {
                self.take(&column.as_primitive::<Int64Type>().value(row).to_string());
            }),
            DataType::UInt64 => rows.for_each(|row| {
                self.take(&column.as_primitive::<UInt64Type>().value(row).to_string());
            }),
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>();
                rows.for_each(|row| self.take(&date(i64::from(days.value(row)))));
            }
            DataType::Timestamp(unit, _) => rows.for_each(|row| {
                let (instant, second) = match unit {
                    TimeUnit::Second => {
                        (column.as_primitive::<TimestampSecondType>().value(row), 1)
                    }
                    TimeUnit::Millisecond => {
                        (column.as_primitive::<TimestampMillisecondType>().value(row), 1000)
                    }
                    TimeUnit::Microsecond => {
                        (column.as_primitive::<TimestampMicrosecondType>().value(row), 1_000_000)
                    }
                    TimeUnit::Nanosecond => {
                        (column.as_primitive::<TimestampNanosecondType>().value(row), 1_000_000_000)
                    }
                };
                let (days, rest) =
                    (instant.div_euclid(DAY_S * second), instant.rem_euclid(DAY_S * second));
                self.take(&if rest == 0 {
                    date(days)
                } else {
                    format!("{}T{}", date(days), rest / second)
                });
            }),
            _ => {}
        }
    }
}

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// Days since 1970 as ISO 8601.
fn date(days: i64) -> String {
    let date = i32::try_from(days).ok().and_then(NaiveDate::from_epoch_days);
    date.map_or_else(String::new, |date| date.to_string())
}

fn kind(data_type: &DataType) -> Option<Kind> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Int32
        | DataType::UInt32
        | DataType::Int64
        | DataType::UInt64
        | DataType::Decimal128(_, 0) => Kind::Number,
        DataType::Date32 | DataType::Timestamp(..) => Kind::Date,
        _ => return None,
    })
}

/// A step from an array to one within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A field of a struct.
    Field(usize),
    /// Items of a list, or values of a dictionary.
    Items,
    /// Of a map.
    Keys,
    /// Of a map.
    Values,
}

/// What lies at the end of a way: values of one type.
#[derive(Clone, Debug)]
struct Leaf {
    root: usize,
    steps: Vec<Step>,
    /// The column's name, and the way from it: `a.b[]`.
    name: String,
    /// None of a type that is not looked at.
    sample: Option<Sample>,
}

/// Adds the leaves of a type.
fn leaves(
    name: String,
    data_type: &DataType,
    (root, steps): (usize, &[Step]),
    all: &mut Vec<Leaf>,
) {
    let further = |step: Step| [steps, &[step]].concat();
    let is_too_much = steps.len() >= DEPTH_MAX || all.len() >= LEAVES_MAX;
    match data_type {
        _ if is_too_much => all.push(Leaf { root, steps: steps.to_vec(), name, sample: None }),
        DataType::Struct(fields) => {
            for (at, field) in fields.iter().enumerate() {
                leaves(
                    format!("{name}.{}", field.name()),
                    field.data_type(),
                    (root, &further(Step::Field(at))),
                    all,
                );
            }
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            leaves(format!("{name}[]"), item.data_type(), (root, &further(Step::Items)), all);
        }
        DataType::Dictionary(_, value) => leaves(name, value, (root, &further(Step::Items)), all),
        DataType::Map(entries, _) => {
            if let DataType::Struct(fields) = entries.data_type()
                && let [key, value] = &fields[..]
            {
                leaves(
                    format!("{name}.{}", key.name()),
                    key.data_type(),
                    (root, &further(Step::Keys)),
                    all,
                );
                leaves(
                    format!("{name}.{}", value.name()),
                    value.data_type(),
                    (root, &further(Step::Values)),
                    all,
                );
            }
        }
        other => {
            let sample = kind(other).map(|kind| Sample::new(kind, 0));
            all.push(Leaf { root, steps: steps.to_vec(), name, sample });
        }
    }
}

/// The array at the end of a way.
fn end_of(column: &ArrayRef, steps: &[Step]) -> Option<ArrayRef> {
    let mut at = Arc::clone(column);
    for step in steps {
        let next = match (step, at.data_type()) {
            (Step::Field(field), DataType::Struct(_)) => {
                Arc::clone(at.as_struct().columns().get(*field)?)
            }
            (Step::Items, DataType::List(_)) => {
                let list = at.as_list::<i32>();
                let (from, to) = (list.value_offsets().first()?, list.value_offsets().last()?);
                list.values().slice(usize::try_from(*from).ok()?, usize::try_from(to - from).ok()?)
            }
            (Step::Items, DataType::LargeList(_)) => {
                let list = at.as_list::<i64>();
                let (from, to) = (list.value_offsets().first()?, list.value_offsets().last()?);
                list.values().slice(usize::try_from(*from).ok()?, usize::try_from(to - from).ok()?)
            }
            (Step::Items, DataType::FixedSizeList(..)) => {
                Arc::clone(at.as_fixed_size_list().values())
            }
            (Step::Items, DataType::Dictionary(..)) => Arc::clone(at.as_any_dictionary().values()),
            (Step::Keys, DataType::Map(..)) => Arc::clone(at.as_map().keys()),
            (Step::Values, DataType::Map(..)) => Arc::clone(at.as_map().values()),
            _ => return None,
        };
        at = next;
    }
    Some(at)
}

/// Samples of all columns, and of what lies within them.
#[derive(Clone, Debug, Default)]
pub struct Sampler(Vec<Leaf>);

impl Sampler {
    /// Looks at a batch; the first says which columns there are.
    pub fn look(&mut self, batch: &RecordBatch) {
        if self.0.is_empty() {
            for (at, field) in batch.schema_ref().fields().iter().enumerate() {
                leaves(field.name().clone(), field.data_type(), (at, &[]), &mut self.0);
            }
            let share =
                BYTES_MAX / self.0.iter().filter(|leaf| leaf.sample.is_some()).count().max(1);
            self.0
                .iter_mut()
                .filter_map(|leaf| leaf.sample.as_mut())
                .for_each(|sample| sample.bytes_max = share);
        }
        for leaf in &mut self.0 {
            if let Some(sample) = &mut leaf.sample
                && let Some(values) = end_of(batch.column(leaf.root), &leaf.steps)
            {
                sample.look(&values);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            if let (Some(mine), Some(theirs)) = (&mut mine.sample, theirs.sample) {
                mine.absorb(theirs);
            }
        }
    }
}

/// Where the workers of a run put their samples together.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Sampler>);

impl Samples {
    /// Adds the sample of one worker.
    pub fn add(&self, sampler: Sampler) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).merge(sampler);
    }

    /// Takes all, by column and by what lies within one; nothing of what is not looked at.
    #[must_use]
    pub fn take(&self) -> Vec<(String, Option<Sample>)> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut samples = Vec::new();
        for Leaf { name, sample, .. } in all.0 {
            match sample {
                Some(sample) => sample.flatten(name, &mut samples),
                None => samples.push((name, None)),
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests;
