//! Types of CSV columns: the narrowest that holds a value, and the narrowest that holds two.

use arrow_schema::DataType;

/// Type of a column, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Empty,
    Boolean,
    Integer,
    Float,
    Text,
}

impl Kind {
    /// The narrowest type of a field.
    pub(super) fn of(text: &str) -> Self {
        match text {
            "" => Self::Empty,
            "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => Self::Boolean,
            // A leading zero or plus is part of a code or a telephone number, not of a number.
            _ if plain_number(text) && text.parse::<i64>().is_ok() => Self::Integer,
            _ if plain_number(text) && text.parse::<f64>().is_ok_and(f64::is_finite) && exact(text) => Self::Float,
            _ => Self::Text,
        }
    }

    /// The narrowest type that holds both.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Empty, k) | (k, Self::Empty) => k,
            (a, b) if a == b => a,
            (Self::Integer, Self::Float) | (Self::Float, Self::Integer) => Self::Float,
            _ => Self::Text,
        }
    }

    pub(super) fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Empty | Self::Text => DataType::Utf8,
        }
    }
}

/// Whether a text is written as a number is: digits, and no zero before others.
pub(super) fn plain_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let zero_led = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    digits.starts_with(|c: char| c.is_ascii_digit()) && !zero_led
}

/// Whether a float holds the text's digits: more than 17 significant ones are an identifier, not a measurement.
fn exact(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    mantissa.bytes().filter(u8::is_ascii_digit).count() <= 17
}
