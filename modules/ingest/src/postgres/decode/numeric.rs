//! PostgreSQL's `numeric`: as text, and as the exact integers of Arrow's decimals.

use arrow_buffer::i256;

use super::{Cursor, Malformed, malformed};

/// A numeric as it is sent: base-10000 digits, the first worth 10000^weight.
struct Numeric<'a> {
    digits: &'a [[u8; 2]],
    weight: i32,
    negative: bool,
    scale: usize,
}

impl<'a> Numeric<'a> {
    /// `Err` with the word for what is no number.
    fn parse(bytes: &'a [u8]) -> Result<Result<Self, &'static str>, Malformed> {
        let mut cursor = Cursor(bytes);
        let (count, weight, sign, scale) =
            (cursor.i16()?, cursor.i16()?, cursor.array::<2>()?, cursor.i16()?);
        let digits = cursor.0.as_chunks::<2>().0;
        if usize::try_from(count) != Ok(digits.len())
            || scale < 0
            || digits.iter().any(|d| !(0..10_000).contains(&i16::from_be_bytes(*d)))
        {
            return malformed("a numeric with digits beyond its count");
        }
        Ok(match u16::from_be_bytes(sign) {
            sign @ (0 | 0x4000) => Ok(Self {
                digits,
                weight: weight.into(),
                negative: sign != 0,
                scale: usize::try_from(scale).unwrap_or(0),
            }),
            0xC000 => Err("NaN"),
            0xD000 => Err("Infinity"),
            0xF000 => Err("-Infinity"),
            other => return malformed(format!("a numeric of sign {other:#06x}")),
        })
    }

    fn digit(&self, at: i32) -> i16 {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.digits.get(at))
            .map_or(0, |d| i16::from_be_bytes(*d))
    }

    /// As PostgreSQL prints it.
    fn text(&self) -> String {
        let mut out = String::from(if self.negative { "-" } else { "" });
        if self.weight < 0 {
            out.push('0');
        }
        for at in 0..=self.weight {
            out.push_str(&if at == 0 {
                self.digit(at).to_string()
            } else {
                format!("{:04}", self.digit(at))
            });
        }
        if self.scale > 0 {
            out.push('.');
            let point = out.len();
            let mut at = self.weight + 1;
            while out.len() - point < self.scale {
                out.push_str(&format!("{:04}", self.digit(at)));
                at += 1;
            }
            out.truncate(point + self.scale);
        }
        out
    }
}

pub(super) fn numeric_text(bytes: &[u8]) -> Result<String, Malformed> {
    Ok(Numeric::parse(bytes)?.map_or_else(str::to_owned, |n| n.text()))
}

/// The unscaled value at this scale; `None` for NaN, infinity and what the scale would round.
pub(super) fn decimal128(bytes: &[u8], scale: i8) -> Result<Option<i128>, Malformed> {
    let Ok(n) = Numeric::parse(bytes)? else { return Ok(None) };
    // 36 digits fit; more may not before the last group is cut.
    if n.digits.len() > 9 {
        return Ok(decimal256(bytes, scale)?.and_then(i256::to_i128));
    }
    let whole =
        n.digits.iter().fold(0_i128, |sum, d| sum * 10_000 + i128::from(i16::from_be_bytes(*d)));
    let shift = i32::from(scale) + 4 * (n.weight + 1 - i32::try_from(n.digits.len()).unwrap_or(0));
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let value = match (power, shift >= 0) {
        _ if whole == 0 => Some(0),
        (Some(power), true) => whole.checked_mul(power),
        (Some(power), false) => (whole % power == 0).then_some(whole / power),
        (None, _) => None,
    };
    Ok(value.map(|v| if n.negative { -v } else { v }))
}

/// The same in 256 bits, by way of the digits as text: such numbers are rare.
pub(super) fn decimal256(bytes: &[u8], scale: i8) -> Result<Option<i256>, Malformed> {
    let Ok(n) = Numeric::parse(bytes)? else { return Ok(None) };
    let text = n.text();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let scale = usize::try_from(scale).unwrap_or(0);
    let (kept, cut) = fraction.split_at(fraction.len().min(scale));
    if cut.bytes().any(|b| b != b'0') {
        return Ok(None);
    }
    Ok(i256::from_string(&format!("{whole}{kept:0<scale$}")))
}
