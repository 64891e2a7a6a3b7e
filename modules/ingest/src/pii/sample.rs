//! Up to 2,000 distinct values of each column, taken evenly from all rows as they go by.
//!
//! The values kept are those of smallest hash (a bottom-k sketch), so that samples of several workers merge into the same
//! sample as one worker's. Every value is looked at until a column has filled its sample; then a few of each batch.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use chrono::NaiveDate;

/// Distinct values kept of a column.
const DISTINCT_MAX: usize = 2000;
/// Values looked at in a batch once a column's sample is full, or will not fill.
const LOOKS: usize = 64;
/// Values after which a column of few distinct ones is no longer looked at whole.
const LOOKS_WHOLE: u64 = 50_000;
/// Longest part of a value that is looked at: prose is judged by its beginning.
const VALUE_BYTES: usize = 512;
/// Memory of all samples together.
const BYTES_MAX: usize = 24 << 20;

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Whole numbers.
    Number,
    /// Days, or instants, as ISO 8601.
    Date,
}

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
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never a value.
        f.debug_struct("Sample").field("kind", &self.kind).field("distinct", &self.values.len()).finish_non_exhaustive()
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
        Self { kind, values: BTreeMap::new(), bytes: 0, bytes_max, full: false, seen: 0 }
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

    fn take(&mut self, value: &str) {
        let value = value.trim();
        if value.is_empty() {
            return;
        }
        self.seen += 1;
        let cut = (0..=VALUE_BYTES.min(value.len())).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
        let value = &value[..cut];
        self.keep(hash(value), value);
    }

    fn keep(&mut self, hash: u64, value: &str) {
        if self.full && self.values.last_key_value().is_some_and(|(last, _)| hash > *last) || self.values.contains_key(&hash) {
            return;
        }
        self.bytes += value.len();
        self.values.insert(hash, value.into());
        while self.values.len() > DISTINCT_MAX || (self.bytes > self.bytes_max && self.values.len() > 1) {
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
            DataType::Int32 => rows.for_each(|row| self.take(&column.as_primitive::<Int32Type>().value(row).to_string())),
            DataType::UInt32 => rows.for_each(|row| self.take(&column.as_primitive::<UInt32Type>().value(row).to_string())),
            DataType::Int64 => rows.for_each(|row| self.take(&column.as_primitive::<Int64Type>().value(row).to_string())),
            DataType::UInt64 => rows.for_each(|row| self.take(&column.as_primitive::<UInt64Type>().value(row).to_string())),
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>();
                rows.for_each(|row| self.take(&date(i64::from(days.value(row)))));
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let instants = column.as_primitive::<TimestampMicrosecondType>();
                rows.for_each(|row| {
                    let (days, rest) = (instants.value(row).div_euclid(DAY_US), instants.value(row).rem_euclid(DAY_US));
                    self.take(&if rest == 0 { date(days) } else { format!("{}T{}", date(days), rest / 1_000_000) });
                });
            }
            _ => {}
        }
    }
}

const DAY_US: i64 = 86_400_000_000;

/// Days since 1970 as ISO 8601.
fn date(days: i64) -> String {
    let date = i32::try_from(days).ok().and_then(NaiveDate::from_epoch_days);
    date.map_or_else(String::new, |date| date.to_string())
}

fn kind(data_type: &DataType) -> Option<Kind> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => Kind::Text,
        DataType::Int32 | DataType::UInt32 | DataType::Int64 | DataType::UInt64 => Kind::Number,
        DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _) => Kind::Date,
        _ => return None,
    })
}

/// Samples of all columns that could hold personal data.
#[derive(Clone, Debug, Default)]
pub struct Sampler(Vec<(usize, String, Sample)>);

impl Sampler {
    /// Looks at a batch; the first says which columns there are.
    pub fn look(&mut self, batch: &RecordBatch) {
        if self.0.is_empty() {
            let schema = batch.schema_ref();
            let kinds = schema.fields().iter().enumerate().filter_map(|(i, f)| Some((i, f.name().clone(), kind(f.data_type())?)));
            let kinds: Vec<_> = kinds.collect();
            let share = BYTES_MAX / kinds.len().max(1);
            self.0 = kinds.into_iter().map(|(i, name, kind)| (i, name, Sample::new(kind, share))).collect();
        }
        for (i, _, sample) in &mut self.0 {
            sample.look(batch.column(*i));
        }
    }

    fn merge(&mut self, other: Self) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for ((_, _, mine), (_, _, theirs)) in self.0.iter_mut().zip(other.0) {
            mine.seen += theirs.seen;
            theirs.values.iter().for_each(|(hash, value)| mine.keep(*hash, value));
            mine.full |= theirs.full;
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

    /// Takes all, by column.
    #[must_use]
    pub fn take(&self) -> Vec<(String, Sample)> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.0.into_iter().map(|(_, name, sample)| (name, sample)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(["1970-01-01", "2000-02-29", "1899-12-31"], [0, 11_016, -25_568].map(date).each_ref().map(String::as_str));
    }

    proptest! {
        #[test]
        fn parts_make_the_sample_of_the_whole(values in prop::collection::vec("[a-z]{1,6}", 0..6000), cut in 0.0..1.0) {
            let cut = (values.len() as f64 * cut) as usize;
            let of = |values: &[String]| Sampler(vec![(0, "c".into(), Sample::of_texts(values.iter().cloned()))]);
            let mut parts = of(&values[..cut]);
            parts.merge(of(&values[cut..]));
            let whole = of(&values);
            prop_assert!(parts.0[0].2.values == whole.0[0].2.values);
            prop_assert!(whole.0[0].2.values.len() <= DISTINCT_MAX && whole.0[0].2.seen == values.len() as u64);
        }
    }
}
