//! The types of columns: what values were seen, and the narrowest type that holds them all.
//!
//! A column is not a type that is widened step by step, but what was seen of its values: [`Facts`].
//! Facts join in any order and any grouping to the same, and the type follows from all of them: so
//! it depends neither on where a batch, a piece or a file ends nor on which came first.
//!
//! | values | type |
//! |---|---|
//! | whole numbers | Int64; UInt64; else a decimal |
//! | numbers with a point or an exponent | Float64 if a double holds each of them ([`number`]); else a decimal of at most 38 digits |
//! | dates, times, timestamps with and without a zone, as ISO 8601 writes them | Date32, Time64, Timestamp; dates among timestamps are midnights |
//! | objects, lists | a struct, a list |
//! | objects or lists and something else; objects without keys, with too many, or too deep | JSON as it stands there |
//! | anything else, or two of those | text as it stands there |
//!
//! Invariants: a type holds every value that was seen exactly, or it is text; what made it one that
//! is not expected is counted, with an example. A UUID is a text. A string of JSON is a text,
//! whatever it looks like: JSON says so.

pub(crate) mod cells;
pub(crate) mod keys;
pub(crate) mod moment;
pub(crate) mod number;
mod scalars;
pub(crate) mod tally;

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};

pub(crate) use keys::Keys;
use moment::Moment;
use number::{DECIMAL_DIGITS, Number};
use scalars::Scalars;
use tally::{Class, Tally};

/// Objects of more different keys are no struct: the keys are data.
const KEYS_MAX: usize = 1000;
/// Structs and lists within one another; deeper ones are kept as JSON.
pub(crate) const DEPTH_MAX: usize = 16;
/// What stands for a value that is missing, in a column of something else.
pub(crate) const ABSENT: [&str; 7] = ["NA", "N/A", "n/a", "#N/A", "NULL", "null", "\\N"];

/// A value as it is told by its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// Nothing stands there.
    Null,
    /// A word for a missing value, if the other values are no texts.
    Absent,
    Bool(bool),
    Number(Number),
    /// NaN or an infinity.
    Special(f64),
    /// Digits after a zero, as codes have them.
    Coded,
    Moment(Moment),
    Text,
}

impl Value {
    /// The value of a field that has only its text.
    pub(crate) fn of_field(text: &str) -> Self {
        let bytes = text.as_bytes();
        let Some(first) = bytes.first() else { return Self::Null };
        match first {
            b'0'..=b'9' | b'-' | b'.' => Self::of_digits(bytes),
            b't' | b'T' | b'f' | b'F' | b'n' | b'N' | b'i' | b'I' | b'#' | b'\\'
                if bytes.len() < 9 =>
            {
                Self::of_word(text)
            }
            _ => Self::Text,
        }
    }

    fn of_digits(bytes: &[u8]) -> Self {
        if let Some(number) = Number::scan(bytes) {
            return Self::Number(number);
        }
        if let Some(moment) = Moment::scan(bytes) {
            return Self::Moment(moment);
        }
        let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
        match digits {
            b"inf" | b"Inf" | b"Infinity" => Self::Special(f64::NEG_INFINITY),
            [b'0', rest @ ..] if rest.iter().all(|b| b.is_ascii_digit() || *b == b'.') => {
                Self::Coded
            }
            _ => Self::Text,
        }
    }

    fn of_word(text: &str) -> Self {
        match text {
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            "nan" | "NaN" => Self::Special(f64::NAN),
            "inf" | "Inf" | "Infinity" => Self::Special(f64::INFINITY),
            word if ABSENT.contains(&word) => Self::Absent,
            _ => Self::Text,
        }
    }
}

/// The type of a column, or of what is within one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing was seen.
    Null,
    Bool,
    Int,
    UInt,
    /// Digits, and those of them after the point.
    Decimal(u8, u8),
    Float,
    Date,
    Time,
    /// Whether it is an instant, and whether it counts nanoseconds.
    Stamp {
        zoned: bool,
        fine: bool,
    },
    Text,
    /// JSON as it was written.
    Json,
    Struct(Vec<(String, Kind)>),
    List(Box<Kind>),
}

impl Kind {
    /// The type of Arrow that holds it.
    pub(crate) fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::UInt => DataType::UInt64,
            Self::Decimal(precision, scale) => {
                DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(0))
            }
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Stamp { zoned, fine } => {
                let unit = if *fine { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
                DataType::Timestamp(unit, zoned.then(|| "UTC".into()))
            }
            Self::Null | Self::Text | Self::Json => DataType::Utf8,
            Self::Struct(fields) => DataType::Struct(Self::fields(fields)),
            Self::List(item) => DataType::List(Arc::new(item.item())),
        }
    }

    /// The type that an Arrow type is; none if no column of ours has that.
    pub(crate) fn of(arrow: &DataType) -> Option<Self> {
        Some(match arrow {
            DataType::Boolean => Self::Bool,
            DataType::Int64 => Self::Int,
            DataType::UInt64 => Self::UInt,
            DataType::Decimal128(precision, scale) => {
                Self::Decimal(*precision, u8::try_from(*scale).ok()?)
            }
            DataType::Float64 => Self::Float,
            DataType::Date32 => Self::Date,
            DataType::Time64(TimeUnit::Microsecond) => Self::Time,
            DataType::Timestamp(unit @ (TimeUnit::Microsecond | TimeUnit::Nanosecond), zone) => {
                if zone.as_ref().is_some_and(|zone| zone.as_ref() != "UTC") {
                    return None;
                }
                Self::Stamp { zoned: zone.is_some(), fine: *unit == TimeUnit::Nanosecond }
            }
            DataType::Utf8 => Self::Text,
            _ => return None,
        })
    }

    /// The same of structs and lists, too.
    fn within(arrow: &DataType) -> Option<Self> {
        let field =
            |field: &Arc<Field>| Some((field.name().clone(), Self::within(field.data_type())?));
        match arrow {
            DataType::Struct(fields) => {
                Some(Self::Struct(fields.iter().map(field).collect::<Option<_>>()?))
            }
            DataType::List(item) => Some(Self::List(Box::new(Self::within(item.data_type())?))),
            other => Self::of(other),
        }
    }

    /// The type that a person names so.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        if let Some(digits) = name.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'))
        {
            let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
            let (precision, scale) =
                (precision.trim().parse::<u8>().ok()?, scale.trim().parse::<u8>().ok()?);
            let is_one = (1..=DECIMAL_DIGITS).contains(&u32::from(precision)) && scale <= precision;
            return is_one.then_some(Self::Decimal(precision, scale));
        }
        Some(match name.as_str() {
            "text" | "string" | "varchar" | "utf8" => Self::Text,
            "int64" | "int" | "integer" | "bigint" => Self::Int,
            "uint64" | "ubigint" => Self::UInt,
            "float64" | "float" | "double" => Self::Float,
            "boolean" | "bool" => Self::Bool,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Stamp { zoned: false, fine: false },
            "timestamptz" => Self::Stamp { zoned: true, fine: false },
            "timestamp_ns" => Self::Stamp { zoned: false, fine: true },
            _ => return None,
        })
    }

    /// What a value is where a column is said to be of this type: zeros before a number are no part
    /// of it, and 0 and 1 are truths.
    pub(crate) fn meant(&self, value: Value, text: &str) -> Value {
        match (self, value) {
            (Self::Int | Self::UInt | Self::Float | Self::Decimal(..), Value::Coded) => {
                let (sign, digits) =
                    text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
                let digits = digits.trim_start_matches('0');
                let digits = if digits.starts_with(|c: char| c.is_ascii_digit()) {
                    digits.to_owned()
                } else {
                    format!("0{digits}")
                };
                Number::scan(format!("{sign}{digits}").as_bytes()).map_or(value, Value::Number)
            }
            (Self::Bool, Value::Number(number)) => match number.int() {
                Some(0) => Value::Bool(false),
                Some(1) => Value::Bool(true),
                _ => value,
            },
            _ => value,
        }
    }

    /// Whether it holds a value exactly, which is then pushed to its cells.
    pub(crate) fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null | Value::Absent) | (Self::Text, _) | (Self::Bool, Value::Bool(_)) => {
                true
            }
            (Self::Int, Value::Number(number)) => number.int().is_some(),
            (Self::UInt, Value::Number(number)) => number.uint().is_some(),
            (Self::Float, Value::Number(number)) => number.is_double(),
            (Self::Float, Value::Special(_)) | (Self::Date, Value::Moment(Moment::Date(_))) => true,
            (Self::Time, Value::Moment(Moment::Time(_))) => true,
            (Self::Decimal(precision, scale), Value::Number(number)) => {
                let held = number.decimal_digits().is_some_and(|(before, after)| {
                    after <= *scale && before + *scale <= *precision
                });
                held && number.unscaled(*scale).is_some()
            }
            (Self::Stamp { zoned, fine }, Value::Moment(moment)) => {
                let stamp = cells::stamp(*moment, *zoned);
                stamp.and_then(|stamp| if *fine { stamp.nanos() } else { stamp.micros() }).is_some()
            }
            _ => false,
        }
    }

    /// The fields of a struct, or of a table.
    pub(crate) fn fields(fields: &[(String, Self)]) -> Fields {
        fields.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect()
    }

    /// The field of a list's items.
    pub(crate) fn item(&self) -> Field {
        Field::new("item", self.arrow(), true)
    }
}

/// What was seen of a column's values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    scalars: Scalars,
    pub(crate) tally: Tally,
    keys: Option<Box<Keys>>,
    item: Option<Box<Facts>>,
    /// Whether a list was there: else its items are only expected.
    lists: bool,
}

impl Facts {
    /// Of a type that is expected, nothing yet.
    fn expected(kind: &Kind) -> Self {
        match kind {
            Kind::Struct(fields) => {
                Self { keys: Some(Box::new(Keys::expected(fields, KEYS_MAX))), ..Self::default() }
            }
            Kind::List(item) => {
                Self { item: Some(Box::new(Self::expected(item))), ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    /// Adds a value, which stands in a row.
    #[inline]
    pub(crate) fn add(&mut self, value: &Value, text: &str, row: u64) {
        if let Some(class) = self.scalars.add(value) {
            self.tally.count(class, text, row);
        }
    }

    /// Adds a string of JSON.
    pub(crate) fn add_text(&mut self, text: &str, row: u64) {
        self.scalars.texts = true;
        self.tally.count(Class::Text, text, row);
    }

    /// Adds NaN or an infinity that stands where a number does, so that it is no word.
    pub(crate) fn add_special(&mut self, text: &str, row: u64) {
        (self.scalars.specials, self.scalars.numbers.any) = (true, true);
        self.tally.count(Class::Special, text, row);
    }

    /// Adds an object; gives its keys.
    pub(crate) fn add_object(&mut self, text: &str, row: u64) -> &mut Keys {
        self.tally.count(Class::Object, text, row);
        let keys = self.keys.get_or_insert_with(|| Box::new(Keys::at_most(KEYS_MAX)));
        keys.see();
        keys
    }

    /// Adds a list; gives its items.
    pub(crate) fn add_list(&mut self, text: &str, row: u64) -> &mut Self {
        self.tally.count(Class::List, text, row);
        self.lists = true;
        self.item.get_or_insert_default()
    }

    /// What was seen of it as an object, if it was.
    pub(crate) fn object(&self) -> Option<&Keys> {
        self.keys.as_deref().filter(|keys| keys.is_seen())
    }

    /// What was seen of a list's items, if it was one.
    pub(crate) fn items(&self) -> Option<&Self> {
        self.item.as_deref().filter(|_| self.lists)
    }

    /// With what was seen elsewhere.
    pub(crate) fn join(&mut self, other: Self) {
        self.scalars.join(&other.scalars);
        self.tally.join(other.tally);
        self.lists |= other.lists;
        match (&mut self.keys, other.keys) {
            (Some(own), Some(other)) => own.join(*other),
            (own @ None, other) => *own = other,
            (Some(_), None) => {}
        }
        match (&mut self.item, other.item) {
            (Some(own), Some(other)) => own.join(*other),
            (own @ None, other) => *own = other,
            (Some(_), None) => {}
        }
    }

    /// The narrowest type that holds all that was seen.
    pub(crate) fn kind(&self) -> Kind {
        self.kind_at(0)
    }

    fn kind_at(&self, depth: usize) -> Kind {
        match (self.scalars.any(), self.object(), self.items()) {
            (_, None, None) => self.scalars.kind(),
            (false, Some(keys), None)
                if depth < DEPTH_MAX && !keys.is_crowded() && keys.len() > 0 =>
            {
                Kind::Struct(keys.kinds(depth + 1))
            }
            (false, None, Some(item)) if depth < DEPTH_MAX => {
                Kind::List(Box::new(item.kind_at(depth + 1)))
            }
            _ => Kind::Json,
        }
    }

    /// The type that a column keeps, if that holds all that was seen; else the narrowest that does.
    pub(crate) fn kind_or(&self, kept: Option<&DataType>) -> Kind {
        self.kind_or_at(kept, 0)
    }

    fn kind_or_at(&self, kept: Option<&DataType>, depth: usize) -> Kind {
        let own = self.kind_at(depth);
        match (kept, &own, self.object(), self.items()) {
            // What is within keeps its type, each by itself.
            (Some(DataType::Struct(fields)), Kind::Struct(_), Some(keys), _) => {
                Kind::Struct(keys.kinds_or(fields, depth + 1))
            }
            (Some(DataType::List(item)), Kind::List(_), _, Some(items)) => {
                Kind::List(Box::new(items.kind_or_at(Some(item.data_type()), depth + 1)))
            }
            // As text it is what JSON is kept as, whatever else there was before.
            (Some(DataType::Utf8), Kind::Json | Kind::Struct(_) | Kind::List(_), ..) => Kind::Json,
            // Of no values it is what it was.
            (Some(kept @ (DataType::Struct(_) | DataType::List(_))), Kind::Null, ..) => {
                Kind::within(kept).unwrap_or(own)
            }
            (_, _, None, None) => {
                kept.and_then(Kind::of).filter(|kept| self.scalars.fit(kept)).unwrap_or(own)
            }
            _ => own,
        }
    }

    /// Adds to where its rows are counted.
    pub(crate) fn shift(&mut self, file: usize, before: u64) {
        self.tally.shift(file, before);
        if let Some(keys) = &mut self.keys {
            keys.shift(file, before);
        }
        if let Some(item) = &mut self.item {
            item.shift(file, before);
        }
    }
}

#[cfg(test)]
mod tests;
