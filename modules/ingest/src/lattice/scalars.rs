//! What single values have in common: which numbers they are, and which type holds all of them.

use super::moment::{Moment, Stamp};
use super::number::{DECIMAL_DIGITS, Number};
use super::tally::Class;
use super::{Kind, Value};

/// Digits of the narrower decimal, which Parquet keeps in 64 bits.
const SHORT_DECIMAL: u8 = 18;

/// What was seen of a column's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) any: bool,
    /// One has a point, an exponent or a sign of zero.
    pub(super) real: bool,
    below_zero: bool,
    /// One is above the largest of 64 bits with a sign.
    large: bool,
    /// One is outside both kinds of 64 bits.
    huge: bool,
    /// A double does not hold one.
    inexact: bool,
    /// A decimal does not hold one.
    beyond_decimal: bool,
    /// Most digits before the point, and after it.
    before: u8,
    after: u8,
}

impl Numbers {
    pub(super) fn add(&mut self, number: &Number) {
        self.any = true;
        if number.is_whole() {
            match (number.int(), number.uint()) {
                (Some(_), _) => self.below_zero |= number.is_negative(),
                (None, Some(_)) => self.large = true,
                (None, None) => self.huge = true,
            }
        } else {
            self.real = true;
        }
        self.inexact |= !number.is_double();
        match number.decimal_digits() {
            Some((before, after)) => {
                (self.before, self.after) = (self.before.max(before), self.after.max(after));
            }
            None => self.beyond_decimal = true,
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.any |= other.any;
        self.real |= other.real;
        self.below_zero |= other.below_zero;
        self.large |= other.large;
        self.huge |= other.huge;
        self.inexact |= other.inexact;
        self.beyond_decimal |= other.beyond_decimal;
        self.before = self.before.max(other.before);
        self.after = self.after.max(other.after);
    }

    pub(super) fn kind(&self, special: bool) -> Kind {
        let decimal = match self.before + self.after {
            _ if self.beyond_decimal || special => None,
            digits if digits <= SHORT_DECIMAL => Some(Kind::Decimal(SHORT_DECIMAL, self.after)),
            digits if u32::from(digits) <= DECIMAL_DIGITS => Some(Kind::Decimal(38, self.after)),
            _ => None,
        };
        let float = (!self.inexact).then_some(Kind::Float);
        if self.real || special {
            return float.or(decimal).unwrap_or(Kind::Text);
        }
        if self.huge || (self.large && self.below_zero) {
            return decimal.or(float).unwrap_or(Kind::Text);
        }
        if self.large { Kind::UInt } else { Kind::Int }
    }
}

/// What was seen of a column's values, but objects and lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scalars {
    bools: bool,
    pub(super) numbers: Numbers,
    /// NaN or an infinity.
    pub(super) specials: bool,
    /// Words for missing values.
    absent: bool,
    dates: bool,
    times: bool,
    /// Timestamps without a zone.
    stamps: bool,
    /// Those with one.
    instants: bool,
    /// A timestamp is finer than microseconds.
    pub(super) fine: bool,
    /// A timestamp, or a date, is outside what 64 bits of nanoseconds hold.
    far: bool,
    pub(super) texts: bool,
}

impl Scalars {
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }

    pub(super) fn add(&mut self, value: &Value) -> Option<Class> {
        Some(match value {
            Value::Null => return None,
            Value::Absent => {
                self.absent = true;
                Class::Absent
            }
            Value::Bool(_) => {
                self.bools = true;
                Class::Bool
            }
            Value::Number(number) => {
                self.numbers.add(number);
                if number.is_double() { Class::Number } else { Class::Inexact }
            }
            Value::Special(_) => {
                self.specials = true;
                Class::Special
            }
            Value::Coded => {
                self.texts = true;
                Class::Coded
            }
            Value::Moment(Moment::Date(day)) => {
                self.dates = true;
                self.far |= Stamp::midnight(*day).nanos().is_none();
                Class::Date
            }
            Value::Moment(Moment::Time(_)) => {
                self.times = true;
                Class::Time
            }
            Value::Moment(Moment::Stamp(stamp)) => {
                self.fine |= stamp.micros().is_none();
                self.far |= stamp.nanos().is_none();
                match (stamp.zoned, stamp.offset) {
                    (false, _) => {
                        self.stamps = true;
                        Class::Stamp
                    }
                    (true, offset) => {
                        self.instants = true;
                        if offset { Class::Offset } else { Class::Instant }
                    }
                }
            }
            Value::Text => {
                self.texts = true;
                Class::Text
            }
        })
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.numbers.join(&other.numbers);
        self.bools |= other.bools;
        self.specials |= other.specials;
        self.absent |= other.absent;
        self.dates |= other.dates;
        self.times |= other.times;
        self.stamps |= other.stamps;
        self.instants |= other.instants;
        self.fine |= other.fine;
        self.far |= other.far;
        self.texts |= other.texts;
    }

    pub(super) fn kind(&self) -> Kind {
        let numbers = self.numbers.any || self.specials;
        let (moments, sorts) =
            (self.dates || self.stamps, [self.bools, numbers, self.times, self.instants]);
        let count = sorts.iter().filter(|there| **there).count() + usize::from(moments);
        if self.texts || count > 1 || (count == 0 && self.absent) {
            return Kind::Text;
        }
        match sorts {
            // By themselves they are words.
            _ if self.specials && !self.numbers.any => Kind::Text,
            [true, ..] => Kind::Bool,
            [_, true, ..] => self.numbers.kind(self.specials),
            [_, _, true, _] => Kind::Time,
            _ if self.fine && self.far => Kind::Text,
            [_, _, _, true] => Kind::Stamp { zoned: true, fine: self.fine },
            _ if self.stamps => Kind::Stamp { zoned: false, fine: self.fine },
            _ if self.dates => Kind::Date,
            _ => Kind::Null,
        }
    }

    /// Whether a type holds all of them exactly.
    pub(super) fn fit(&self, kind: &Kind) -> bool {
        // Words for no value are NULL in any type but text, and NaN is a double: by themselves they
        // change no type.
        let others =
            Self { absent: false, specials: self.specials && *kind != Kind::Float, ..*self };
        if !others.any() {
            return true;
        }
        let own = self.kind();
        if own == *kind || own == Kind::Null || *kind == Kind::Text {
            return true;
        }
        let numbers = &self.numbers;
        match (own, kind) {
            (Kind::Int, Kind::UInt) => !numbers.below_zero,
            (Kind::Int | Kind::UInt | Kind::Decimal(..), Kind::Float) => !numbers.inexact,
            (
                Kind::Int | Kind::UInt | Kind::Decimal(..) | Kind::Float,
                Kind::Decimal(precision, scale),
            ) => {
                let held = numbers.after <= *scale && numbers.before + *scale <= *precision;
                held && !numbers.beyond_decimal && !self.specials
            }
            (Kind::Stamp { zoned, fine: false }, Kind::Stamp { zoned: other, fine: true }) => {
                zoned == *other && !self.far
            }
            (Kind::Date, Kind::Stamp { zoned: false, fine }) => !*fine || !self.far,
            _ => false,
        }
    }
}
