//! A vector among a call's parameters, read twice as fast as a general parser would.
//!
//! Only what a program writes by itself is read here: decimal numbers of at most 19 significant
//! digits, without exponent. Whatever else there is, errors among it, is left to `serde_json`.
//! Invariant: both give the same bits.

use super::header::{HeaderError, top_level};

/// 10 to the power of its index, each exact.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
/// So many digits fit a `u64`, whichever they are; an `f64` has 17.
const DIGITS_MAX: usize = 19;
/// Above this, converting to an `f64` takes twice as long.
const VALUE_MAX: u64 = i64::MAX.cast_unsigned();
/// Below this a whole number is exact in an `f64`.
const WHOLE_MAX: u64 = 1 << 53;

/// Takes a list of numbers out of an object: the numbers, and the object without them.
///
/// `None` if the object has not exactly one such member, or if it is not a list of common numbers.
#[must_use]
pub fn take_vector(object: &[u8], key: &str) -> Option<(Vec<f32>, Vec<u8>)> {
    let (mut numbers, mut rest) = (None, Vec::with_capacity(128));
    let members = top_level(object, |at, name, value| {
        if name != key {
            rest.extend_from_slice(if rest.is_empty() { b"{\"" } else { b",\"" });
            rest.extend_from_slice(name.as_bytes());
            rest.extend_from_slice(b"\":");
            rest.extend_from_slice(value);
            return Ok(());
        }
        let first = if numbers.is_none() { list(value) } else { None };
        numbers =
            Some(first.ok_or(HeaderError { at, expected: "expected one list of common numbers" })?);
        Ok(())
    });
    members.ok()?;
    rest.extend_from_slice(if rest.is_empty() { b"{}" } else { b"}" });
    Some((numbers?, rest))
}

fn list(text: &[u8]) -> Option<Vec<f32>> {
    // A number of a unit vector is written in 9 to 13 bytes.
    let mut numbers = Vec::with_capacity(text.len() / 8);
    let mut rest = text.strip_prefix(b"[")?;
    loop {
        let (value, after) = number(past_blank(rest))?;
        numbers.push(value);
        match past_blank(after) {
            [b',', more @ ..] => rest = more,
            b"]" => return Some(numbers),
            _ => return None,
        }
    }
}

fn past_blank(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = text {
        text = rest;
    }
    text
}

/// The number that begins a text, and what follows it.
fn number(text: &[u8]) -> Option<(f32, &[u8])> {
    let negative = text.first() == Some(&b'-');
    let unsigned = &text[usize::from(negative)..];
    // Nearly every number of a vector is below 1.
    let (mut digits, mut rest) = match unsigned {
        [b'0', rest @ ..] => (0, rest),
        _ => digits_of(0, unsigned),
    };
    let whole = unsigned.len() - rest.len();
    if whole == 0 {
        return None;
    }
    let mut fraction = 0;
    if let [b'.', after @ ..] = rest {
        (digits, rest) = digits_of(digits, after);
        fraction = after.len() - rest.len();
        if fraction == 0 {
            return None;
        }
    }
    if whole + fraction > DIGITS_MAX
        && (fraction >= POWERS.len() || significant(unsigned) > DIGITS_MAX)
    {
        return None;
    }
    if digits > VALUE_MAX
        || (fraction == 0 && digits >= WHOLE_MAX)
        || matches!(rest, [b'0'..=b'9' | b'.' | b'e' | b'E', ..])
    {
        return None;
    }
    let value = (digits.cast_signed() as f64 / POWERS[fraction]) as f32;
    // By its bits: half the numbers of a vector are negative, and no guess is right oftener than
    // that.
    Some((f32::from_bits(value.to_bits() | u32::from(negative) << 31), rest))
}

/// How many digits the number that begins a text has after its leading zeros.
fn significant(text: &[u8]) -> usize {
    let number = text.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'.'));
    number.skip_while(|b| matches!(b, b'0' | b'.')).filter(|b| **b != b'.').count()
}

/// Appends the digits that begin a text to a number, and gives what follows them.
fn digits_of(mut number: u64, mut text: &[u8]) -> (u64, &[u8]) {
    while let [byte, rest @ ..] = text
        && let digit @ 0..=9 = byte.wrapping_sub(b'0')
    {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        text = rest;
    }
    (number, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[derive(serde::Deserialize)]
    struct Asked {
        v: Vec<f32>,
    }

    #[test]
    fn a_vector_is_taken_out_wherever_it_stands() {
        for text in [
            r#"{"v":[1,-0.5],"k":3,"f":{"v":[]}}"#,
            r#" { "k" : 3, "v" : [ 1 ,-0.5 ] ,"f":{"v":[]} } "#,
            r#"{"k":3,"f":{"v":[]},"v":[1,-0.5]}"#,
        ] {
            let (vector, rest) = take_vector(text.as_bytes(), "v").expect(text);
            assert_eq!(vector, [1.0, -0.5]);
            let rest: Value = serde_json::from_slice(&rest).expect("JSON");
            assert_eq!(rest, json!({"k": 3, "f": {"v": []}}));
        }
        let (vector, rest) = take_vector(br#"{"v":[0]}"#, "v").expect("a vector");
        assert_eq!((vector.as_slice(), rest.as_slice()), (&[0.0][..], &b"{}"[..]));
    }

    #[test]
    fn what_is_not_common_is_left_to_others() {
        for numbers in [
            "",
            "[]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1",
            "1]",
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[-]",
            "[--1]",
            "[1e3]",
            "[1.5E-3]",
            "[NaN]",
            "[null]",
            "[\"1\"]",
            "[[1]]",
            "[1]]",
            "[9007199254740992]",
            "[0.12345678901234567890]",
            "[0.00000000000000000000001]",
            "[1\u{c}]",
            "null",
            "[1]x",
        ] {
            assert!(
                take_vector(format!(r#"{{"v":{numbers}}}"#).as_bytes(), "v").is_none(),
                "{numbers}"
            );
        }
        for object in
            [r#"{"v":[1],"v":[1]}"#, r#"{"k":1}"#, r#"{"v":[1]"#, r#"[1]"#, r#"{"v":[1]} x"#]
        {
            assert!(take_vector(object.as_bytes(), "v").is_none(), "{object}");
        }
    }

    proptest! {
        #[test]
        fn both_parsers_give_the_same_bits(
            numbers in prop::collection::vec(
                (any::<bool>(), any::<u64>(), 1_usize..=DIGITS_MAX, 0_usize..DIGITS_MAX),
                1..20,
            ),
        ) {
            let texts: Vec<String> = numbers
                .iter()
                .map(|(negative, digits, count, fraction)| {
                    let fraction = (*fraction).min(count - 1);
                    let digits = digits
                        % 10_u64.pow(*count as u32).min(if fraction == 0 {
                            WHOLE_MAX
                        } else {
                            VALUE_MAX
                        });
                    let mut text = format!("{digits:0width$}", width = fraction + 1);
                    if fraction > 0 {
                        text.insert(text.len() - fraction, '.');
                    }
                    format!("{}{text}", if *negative { "-" } else { "" })
                })
                .collect();
            let object = format!(r#"{{"v":[{}]}}"#, texts.join(","));
            let (vector, _) = take_vector(object.as_bytes(), "v").expect("common numbers");
            let asked: Asked = serde_json::from_str(&object).expect("JSON");
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&vector), bits(&asked.v));
        }

        #[test]
        fn what_was_written_is_read(vector in prop::collection::vec(-1.0_f32..1.0, 1..20)) {
            // As Rust writes them, and as Python does: with the digits of an f64.
            let texts = [
                serde_json::to_string(&vector),
                serde_json::to_string(&vector.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()),
            ];
            for text in texts {
                let object = format!(r#"{{"v":{}}}"#, text.expect("JSON"));
                if !object.contains('e') {
                    prop_assert_eq!(
                        &take_vector(object.as_bytes(), "v").expect("common numbers").0,
                        &vector
                    );
                }
            }
        }

        #[test]
        fn what_one_parser_takes_the_other_takes(text in r#"[-0-9.eE+, \[\]]{0,12}"#) {
            let object = format!(r#"{{"v":[{text}]}}"#);
            if let Some((vector, _)) = take_vector(object.as_bytes(), "v") {
                let asked: Asked = serde_json::from_str(&object).expect("JSON");
                prop_assert_eq!(vector, asked.v);
            }
        }
    }
}
