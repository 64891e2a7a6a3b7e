//! JSON files that carry their own checksum: the last field, `crc32`, is the CRC-32 of everything
//! before it.
//!
//! A field `format` says of what format the rest is; without it that is the first. Any reader of
//! JSON opens such a file. One that was written before there were checksums is read as it is; one
//! whose checksum was damaged itself is told from it by what is left of that field.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::bad;

/// What stands before the eight digits, and behind them.
const BEFORE: &[u8] = b",\n  \"crc32\": \"";
const BEHIND: &[u8] = b"\"\n}";
const DIGITS: usize = 8;
/// How the objects that are sealed end.
const END: &[u8] = b"\n}";
/// The format of what is written, and the newest that is read.
const FORMAT: u64 = 1;
/// Bytes of the field that may be damaged while it is still known for what it was.
const DAMAGED_MAX: usize = 2;

/// What a file of any format says of itself.
#[derive(Deserialize)]
struct FileFormat {
    format: Option<u64>,
}

fn digits(body: &[u8]) -> Vec<u8> {
    format!("{:08x}", crc32fast::hash(body)).into_bytes()
}

/// As JSON that ends with its checksum.
///
/// # Errors
/// If it is not an object of at least one field.
pub fn to_vec(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec_pretty(value)?;
    let body = text
        .strip_suffix(END)
        .ok_or_else(|| bad("only an object with fields can carry its checksum"))?;
    Ok([body, BEFORE, &digits(body), BEHIND].concat())
}

/// Reads what [`to_vec`] wrote, or JSON that has no checksum.
///
/// # Errors
/// `InvalidData` with what is wrong; the caller names the file.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let seal = BEFORE.len() + DIGITS + BEHIND.len();
    let Some((body, field)) = bytes.len().checked_sub(seal).map(|at| bytes.split_at(at)) else {
        return parsed(bytes);
    };
    let (before, rest) = field.split_at(BEFORE.len());
    let (found, behind) = rest.split_at(DIGITS);
    let differing = |a: &[u8], b: &[u8]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    match differing(before, BEFORE) + differing(behind, BEHIND) {
        0 if digits(body) == found => parsed(&[body, END].concat()),
        damage if damage <= DAMAGED_MAX => Err(bad("its checksum does not match")),
        _ => parsed(bytes),
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match serde_json::from_slice::<FileFormat>(bytes).ok().and_then(|file| file.format) {
        Some(format) if format > FORMAT => Err(bad(format!(
            "it is of format {format}, expected at most {FORMAT}: a newer brahman has written it"
        ))),
        _ => serde_json::from_slice(bytes).map_err(bad),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Fields = BTreeMap<String, u64>;

    proptest! {
        #[test]
        fn what_is_sealed_is_read_and_no_damaged_byte_goes_unseen(
            fields in prop::collection::btree_map("[a-z]{1,8}", any::<u64>(), 1..6),
            at in any::<usize>(),
            bit in 0_u8..8,
        ) {
            let bytes = to_vec(&fields).expect("sealed");
            prop_assert_eq!(from_slice::<Fields>(&bytes).expect("reads"), fields.clone());
            let json: serde_json::Value = serde_json::from_slice(&bytes).expect("it is JSON");
            prop_assert!(json["crc32"].is_string());
            let mut damaged = bytes.clone();
            let at = at % bytes.len();
            damaged[at] ^= 1 << bit;
            prop_assert!(from_slice::<Fields>(&damaged).is_err(), "bit {} of byte {}", bit, at);
            prop_assert!(from_slice::<Fields>(&bytes[..at]).is_err(), "cut at {}", at);
        }
    }

    #[test]
    fn what_a_newer_version_has_written_is_refused_as_that() {
        for text in [
            &b"{\"format\": 2, \"a\": 1}"[..],
            &to_vec(&serde_json::json!({"format": 7, "who": "knows"})).expect("sealed")[..],
        ] {
            let refused = from_slice::<Fields>(text).expect_err("it is newer").to_string();
            assert!(refused.contains("newer brahman"), "{refused}");
        }
    }

    #[test]
    fn what_was_written_before_there_were_checksums_is_read() {
        for text in ["{\"a\": 1}", "{}", "{\n  \"a\": 1,\n  \"checksum\": 12345678\n}"] {
            from_slice::<Fields>(text.as_bytes()).expect("reads");
        }
    }
}
