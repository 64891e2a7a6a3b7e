//! A number as it is written: which types hold it exactly.
//!
//! Invariants: nothing is rounded in silence. A double holds a text if, printed with as many digits
//! as the text has, it is that text: so what programs print of their doubles is one, with 17 digits
//! or with 50, and 9007199254740993 is none.

/// Digits that a decimal of 128 bits holds, and a `u128`.
pub(crate) const DECIMAL_DIGITS: u32 = 38;
/// Whole numbers up to this are doubles, all of them.
const WHOLE_DOUBLES: u128 = 1 << 53;
/// So many digits are always a double's, within its range.
const DIGITS_SURE: u32 = 15;
/// Longer than the longest double that is written out (767 digits).
const DIGITS_PRINTED: u32 = 800;
/// Powers of ten that are doubles exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Powers of ten that a mantissa of 53 bits may be multiplied by within 128 bits.
const TENS: [u128; 23] = {
    let mut tens = [1; 23];
    let mut power = 1;
    while power < tens.len() {
        tens[power] = tens[power - 1] * 10;
        power += 1;
    }
    tens
};
/// Digits whose magnitude takes 57 bits.
const DIGITS_SHORT: u32 = 17;
/// Bits by which such a magnitude may be shifted within 127.
const SHIFT_MAX: u32 = 70;
/// Bits of a double's fraction.
const FRACTION_BITS: u32 = 52;
/// What is added to the exponent of a double whose mantissa is a whole number.
const BIAS: u32 = 1075;

/// A number: its magnitude times ten to its exponent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number {
    negative: bool,
    /// All digits as a whole number; of no use if there are more than [`DECIMAL_DIGITS`].
    magnitude: u128,
    /// From the first that is not zero to the last that is written.
    digits: u32,
    exponent: i32,
    /// It has a point, an exponent or the sign of a negative zero: no type of whole numbers holds
    /// it.
    real: bool,
    /// The double that is nearest.
    double: f64,
    /// Whether that is the number.
    exact: bool,
}

/// Digits on their way to a magnitude.
#[derive(Default)]
struct Digits {
    low: u64,
    high: u128,
    count: u32,
}

impl Digits {
    #[inline]
    fn push(&mut self, digit: u8) {
        let digit = digit - b'0';
        self.count += 1;
        // Nineteen digits fit into 64 bits.
        if self.count < 20 {
            self.low = self.low * 10 + u64::from(digit);
        } else if self.count <= DECIMAL_DIGITS {
            let before = if self.count == 20 { u128::from(self.low) } else { self.high };
            self.high = before * 10 + u128::from(digit);
        }
    }

    fn magnitude(&self) -> u128 {
        if self.count < 20 { u128::from(self.low) } else { self.high }
    }
}

/// Where a run of digits that begins at a place ends; they go to `digits`, but for zeros before the
/// first other one.
#[inline]
fn run(text: &[u8], mut at: usize, digits: &mut Digits) -> usize {
    if digits.count == 0 {
        while text.get(at) == Some(&b'0') {
            at += 1;
        }
    }
    while let Some(digit @ b'0'..=b'9') = text.get(at).copied() {
        digits.push(digit);
        at += 1;
    }
    at
}

impl Number {
    /// A text that is a number from its first to its last byte: `-1`, `.5`, `5.`, `1e9`; no plus
    /// before it, and no zero before its other digits, for that is part of a code or a telephone
    /// number.
    pub(crate) fn scan(text: &[u8]) -> Option<Self> {
        let negative = text.first() == Some(&b'-');
        let begin = usize::from(negative);
        let mut digits = Digits::default();
        let whole_end = run(text, begin, &mut digits);
        if whole_end - begin > 1 && text[begin] == b'0' {
            return None;
        }
        let (mut at, mut exponent, mut real) = (whole_end, 0_i32, false);
        let mut written = whole_end - begin;
        if text.get(at) == Some(&b'.') {
            let end = run(text, at + 1, &mut digits);
            written += end - (at + 1);
            exponent = -i32::try_from(end - (at + 1)).ok()?;
            (at, real) = (end, true);
        }
        if written == 0 {
            return None;
        }
        if let Some(b'e' | b'E') = text.get(at) {
            let signed = matches!(text.get(at + 1), Some(b'+' | b'-'));
            let down = text.get(at + 1) == Some(&b'-');
            let mut end = at + 1 + usize::from(signed);
            let first = end;
            let mut power = 0_i32;
            while let Some(digit @ b'0'..=b'9') = text.get(end).copied() {
                // Far beyond any double already.
                power = (power * 10 + i32::from(digit - b'0')).min(1_000_000);
                end += 1;
            }
            if end == first {
                return None;
            }
            exponent = exponent.saturating_add(if down { -power } else { power });
            (at, real) = (end, true);
        }
        if at != text.len() {
            return None;
        }
        let magnitude = digits.magnitude();
        let real = real || (negative && digits.count == 0);
        let mut number = Self {
            negative,
            magnitude,
            digits: digits.count,
            exponent,
            real,
            double: 0.0,
            exact: true,
        };
        number.set_double(text);
        Some(number)
    }

    /// Whether it is a whole number, written as one.
    pub(crate) fn is_whole(&self) -> bool {
        !self.real
    }

    /// Whether it has a minus.
    pub(crate) fn is_negative(&self) -> bool {
        self.negative
    }

    /// As a whole number of 64 bits with a sign.
    pub(crate) fn int(&self) -> Option<i64> {
        if self.real || self.digits > 19 {
            return None;
        }
        let magnitude = i128::try_from(self.magnitude).ok()?;
        i64::try_from(if self.negative { -magnitude } else { magnitude }).ok()
    }

    /// As one without.
    pub(crate) fn uint(&self) -> Option<u64> {
        if self.real || self.negative || self.digits > 20 {
            None
        } else {
            u64::try_from(self.magnitude).ok()
        }
    }

    /// The double that is nearest to it.
    pub(crate) fn double(&self) -> f64 {
        self.double
    }

    /// Whether that double is it.
    pub(crate) fn is_double(&self) -> bool {
        self.exact
    }

    /// Digits before and after the point of a decimal that holds it; none if there is none.
    pub(crate) fn decimal_digits(&self) -> Option<(u8, u8)> {
        // Decimals have no negative zero.
        if self.digits > DECIMAL_DIGITS || (self.negative && self.digits == 0) {
            return None;
        }
        let before = i64::from(self.digits) + i64::from(self.exponent);
        let before = if self.digits == 0 { 0 } else { before.max(0) };
        let after = (-i64::from(self.exponent)).max(0);
        let most = i64::from(DECIMAL_DIGITS);
        if before + after > most {
            return None;
        }
        Some((u8::try_from(before).ok()?, u8::try_from(after).ok()?))
    }

    /// Its digits in a decimal with so many after the point.
    pub(crate) fn unscaled(&self, scale: u8) -> Option<i128> {
        self.decimal_digits()?;
        if self.digits == 0 {
            return Some(0);
        }
        let shift = u32::try_from(self.exponent + i32::from(scale)).ok()?;
        let magnitude = i128::try_from(self.magnitude).ok()?;
        let scaled = magnitude.checked_mul(10_i128.checked_pow(shift)?)?;
        Some(if self.negative { -scaled } else { scaled })
    }

    /// A magnitude of up to nineteen digits.
    fn short(&self) -> u64 {
        u64::try_from(self.magnitude).unwrap_or(u64::MAX)
    }

    fn set_double(&mut self, text: &[u8]) {
        let magnitude = if self.exponent == 0
            && self.digits <= DECIMAL_DIGITS
            && self.magnitude <= WHOLE_DOUBLES
        {
            Some(self.short() as f64)
        } else if self.digits == 0 {
            Some(0.0)
        } else if self.digits <= DIGITS_SURE && self.exponent.unsigned_abs() < 23 {
            // Both are doubles, so their product or quotient is rounded once: it is the nearest.
            let power = POWERS[self.exponent.unsigned_abs() as usize];
            let digits = self.short() as f64;
            Some(if self.exponent < 0 { digits / power } else { digits * power })
        } else {
            None
        };
        if let Some(magnitude) = magnitude {
            self.double = if self.negative { -magnitude } else { magnitude };
            return;
        }
        self.double = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(f64::INFINITY);
        self.exact = self.double.is_finite() && self.double != 0.0 && self.prints_as(text);
    }

    /// Whether a double is nearer to it than half of its last digit, where whole numbers of 128
    /// bits tell: that is most of what programs print of their doubles. False says nothing.
    fn rounds_to(&self, value: f64) -> bool {
        let bits = value.to_bits();
        // It has no sign. Below the normal ones it would have no bit before its fraction.
        let Ok(biased @ 1..) = u32::try_from(bits >> FRACTION_BITS) else { return false };
        let mantissa = (bits & ((1 << FRACTION_BITS) - 1)) | (1 << FRACTION_BITS);
        let ten = usize::try_from(-i64::from(self.exponent)).ok().and_then(|n| TENS.get(n));
        let shift = BIAS.checked_sub(biased).filter(|shift| *shift <= SHIFT_MAX);
        let (Some(ten), Some(shift), true) = (ten, shift, self.digits <= DIGITS_SHORT) else {
            return false;
        };
        // Both times ten to its places and times two to the shift.
        let apart = (u128::from(mantissa) * ten).abs_diff(self.magnitude << shift);
        apart * 2 < 1 << shift
    }

    /// Whether the double, with as many digits as the text has, is the text.
    fn prints_as(&self, text: &[u8]) -> bool {
        let value = self.double.abs();
        // Nearer than half of its last digit, so it rounds to it.
        let step = f64::from_bits(value.to_bits() + 1) - value;
        if self.digits <= DIGITS_SHORT && step < 0.99 * 10_f64.powi(self.exponent) {
            return true;
        }
        if self.rounds_to(value) {
            return true;
        }
        if !self.real && self.digits <= DECIMAL_DIGITS {
            // A whole number is one or the other; below 2^127 as a double, too.
            return value < 1e38 && value as u128 == self.magnitude;
        }
        if self.digits > DIGITS_PRINTED {
            return false;
        }
        let own = if self.digits <= DECIMAL_DIGITS {
            self.magnitude.to_string()
        } else {
            significant(text)
        };
        let power = i64::from(self.digits) + i64::from(self.exponent) - 1;
        let is = |printed: &str, own: &str| {
            let Some((mantissa, exponent)) = printed.split_once('e') else { return false };
            exponent.parse() == Ok(power) && mantissa.bytes().filter(|b| *b != b'.').eq(own.bytes())
        };
        let trimmed = own.trim_end_matches('0');
        is(&format!("{value:e}"), trimmed)
            || is(&format!("{value:.*e}", own.len().saturating_sub(1)), &own)
    }
}

/// The digits of a number before its exponent, from the first that is not zero.
fn significant(text: &[u8]) -> String {
    let mantissa =
        text.iter().take_while(|b| !matches!(b, b'e' | b'E')).filter(|b| b.is_ascii_digit());
    mantissa.skip_while(|b| **b == b'0').map(|b| char::from(*b)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Number {
        Number::scan(text.as_bytes()).unwrap_or_else(|| panic!("{text} is a number"))
    }

    proptest! {
        #[test]
        fn whole_numbers_tell_of_a_double_what_printing_it_tells(
            value in prop::num::f64::POSITIVE | prop::num::f64::NORMAL,
            scale in -30..30_i32,
            digits in 1..18_usize,
            near in -3..4_i64,
        ) {
            let value = value.abs();
            let value = if scale < 25 { (value % 1.0) * 10_f64.powi(scale) } else { value };
            prop_assume!(value.is_finite() && value > 0.0);
            // Its digits, and some that are a few units of the last away.
            let printed = format!("{value:.*e}", digits - 1);
            let (mantissa, exponent) = printed.split_once('e').expect("an exponent");
            let whole: i64 = mantissa.replace('.', "").parse().expect("digits");
            let exponent: i32 = exponent.parse().expect("an exponent");
            let whole = (whole + near).max(1);
            let text = format!("{whole}e{}", exponent - i32::try_from(digits).expect("few") + 1);
            let Some(number) = Number::scan(text.as_bytes()) else { return Ok(()) };
            let double = number.double();
            if number.digits <= DIGITS_SHORT && double.is_finite() && double > 0.0 {
                let own = format!("{double:.*e}", usize::try_from(number.digits).expect("few") - 1);
                let same = {
                    let (mantissa, power) = own.split_once('e').expect("an exponent");
                    let first = i64::from(number.digits) + i64::from(number.exponent) - 1;
                    mantissa.replace('.', "") == number.magnitude.to_string()
                        && power.parse() == Ok(first)
                };
                prop_assert!(!number.rounds_to(double) || same, "{text}: {double:e} {own}");
            }
        }
    }

    #[test]
    fn what_programs_print_of_doubles_is_told_by_whole_numbers() {
        for text in [
            "0.8444218515250481",
            "0.7579544029403025",
            "0.05123456789012345",
            "12.340000000000002",
        ] {
            let number = of(text);
            assert!(number.rounds_to(number.double()) && number.is_double(), "{text}");
        }
        let coarse = of("99999999999999.99");
        assert!(!coarse.rounds_to(coarse.double()) && !coarse.is_double());
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "", "-", ".", "-.", "007", "-01", "00.5", "+1", "1e", "1e+", "e5", "1 ", " 1", "1_000",
            "1,5", "0x10", "1.2.3", "--1", "inf",
        ] {
            assert!(Number::scan(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_those_of_64_bits_both_ways() {
        assert_eq!((of("0").int(), of("-1").int(), of("-1").uint()), (Some(0), Some(-1), None));
        assert_eq!(
            (of("9223372036854775807").int(), of("9223372036854775808").int()),
            (Some(i64::MAX), None)
        );
        assert_eq!(
            (of("-9223372036854775808").int(), of("-9223372036854775809").int()),
            (Some(i64::MIN), None)
        );
        assert_eq!(
            (of("18446744073709551615").uint(), of("18446744073709551616").uint()),
            (Some(u64::MAX), None)
        );
        assert!(
            !of("-0").is_whole()
                && of("-0").double().is_sign_negative()
                && of("-0").decimal_digits().is_none()
        );
        assert!(!of("1.0").is_whole() && !of("1e3").is_whole());
    }

    #[test]
    fn doubles_are_those_that_print_as_what_is_written() {
        for (text, double) in [
            (".5", 0.5),
            ("-.75", -0.75),
            ("5.", 5.0),
            ("0.05123456789012345", 0.051_234_567_890_123_45),
            ("0.10000000000000001", 0.1),
            ("0.1000000000000000055511151231257827", 0.1),
            ("1e23", 1e23),
            ("5e-324", 5e-324),
            ("1.7976931348623157e+308", f64::MAX),
            ("9007199254740994", 9_007_199_254_740_994.0),
            ("100000000000000000000", 1e20),
            ("1.50", 1.5),
            ("0e999999999", 0.0),
            ("1234567890123456.8", 1_234_567_890_123_456.8),
        ] {
            let number = of(text);
            assert!(
                number.is_double() && number.double().to_bits() == double.to_bits(),
                "{text}: {number:?}"
            );
        }
        for text in [
            "9007199254740993",
            "99999999999999.99",
            "1234567890123456.7",
            "1e400",
            "1e-400",
            "123456789.123456789",
            "3e-324",
        ] {
            assert!(!of(text).is_double(), "{text}: {:?}", of(text));
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(of("99999999999999.99").decimal_digits(), Some((14, 2)));
        assert_eq!(of("99999999999999.99").unscaled(2), Some(9_999_999_999_999_999));
        assert_eq!(
            (of("-0.1").decimal_digits(), of("-0.1").unscaled(3)),
            (Some((0, 1)), Some(-100))
        );
        assert_eq!(
            (of("1.5e3").decimal_digits(), of("1.5e3").unscaled(1)),
            (Some((4, 0)), Some(15_000))
        );
        assert_eq!((of("5e-7").decimal_digits(), of("5e-7").unscaled(7)), (Some((0, 7)), Some(5)));
        assert_eq!((of("0.00").decimal_digits(), of("0.00").unscaled(5)), (Some((0, 2)), Some(0)));
        assert_eq!((of("1e39").decimal_digits(), of("1e-39").decimal_digits()), (None, None));
        assert_eq!(of("1.5").unscaled(0), None, "it would lose its half");
        let most = "9".repeat(38);
        assert_eq!(of(&most).unscaled(0), Some(99_999_999_999_999_999_999_999_999_999_999_999_999));
    }

    proptest! {
        #[test]
        fn every_double_as_programs_print_it_is_read_back(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            for text in [
                format!("{value:e}"),
                format!("{value:.16e}"),
                format!("{value:?}"),
                format!("{value:.20e}"),
            ] {
                let number = of(&text);
                prop_assert!(
                    number.is_double() && number.double().to_bits() == value.to_bits(),
                    "{} {:?}",
                    text,
                    number
                );
            }
        }

        #[test]
        fn whole_numbers_are_read_back(value: i64, large: u64) {
            prop_assert_eq!(of(&value.to_string()).int(), Some(value));
            prop_assert_eq!(of(&large.to_string()).uint(), Some(large));
            prop_assert_eq!(
                of(&large.to_string()).is_double(),
                large as f64 as u128 == u128::from(large)
            );
        }

        #[test]
        fn decimals_are_read_back(
            digits in -999_999_999_999_999_999_i128..999_999_999_999_999_999,
            scale in 1_u8..18,
        ) {
            let (sign, magnitude) = (if digits < 0 { "-" } else { "" }, digits.unsigned_abs());
            let unit = 10_u128.pow(u32::from(scale));
            let text = format!(
                "{sign}{}.{:0width$}",
                magnitude / unit,
                magnitude % unit,
                width = usize::from(scale)
            );
            prop_assert_eq!(of(&text).unscaled(scale), Some(digits));
        }
    }
}
