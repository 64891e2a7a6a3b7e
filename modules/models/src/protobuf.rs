//! Protobuf, as much of it as ONNX needs: the fields of a message as they stand, and messages
//! written field by field.
//!
//! Pure: bytes in, values out. Invariants: nothing is read beyond what the bytes hold; bytes that
//! are no protobuf are an error, and never a panic. What a field means, whoever reads it knows.

use thiserror::Error;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtobufError {
    /// A field ends after the bytes do.
    #[error("cut short, or no ONNX model: a field goes on behind byte {end}")]
    Cut {
        /// Where the bytes end, from where the message began.
        end: usize,
    },
    /// A field of a kind that protobuf does not have.
    #[error("no ONNX model: a field of wire type {kind} at byte {at}")]
    Kind {
        /// The wire type.
        kind: u64,
        /// Where it stands, from where the message began.
        at: usize,
    },
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes, the least significant first.
    Fixed(&'a [u8]),
}

/// A field as it stands in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldSpan<'a> {
    pub(crate) number: u64,
    pub(crate) field: Field<'a>,
    /// All of its bytes, the tag's too.
    pub(crate) bytes: &'a [u8],
}

/// The fields of a message, in order, each with all of its bytes. It ends behind the first that
/// cannot be read.
pub(crate) fn spans(bytes: &[u8]) -> impl Iterator<Item = Result<FieldSpan<'_>, ProtobufError>> {
    let mut at = 0;
    let mut is_broken = false;
    std::iter::from_fn(move || {
        if is_broken || at >= bytes.len() {
            return None;
        }
        let field = field_at(bytes, at);
        Some(match field {
            Ok((number, field, next)) => {
                let span = FieldSpan { number, field, bytes: &bytes[at..next] };
                at = next;
                Ok(span)
            }
            Err(error) => {
                is_broken = true;
                Err(error)
            }
        })
    })
}

/// The same by number alone.
pub(crate) fn fields(
    bytes: &[u8],
) -> impl Iterator<Item = Result<(u64, Field<'_>), ProtobufError>> {
    spans(bytes).map(|span| span.map(|span| (span.number, span.field)))
}

/// Numbers of a repeated field that are written together.
pub(crate) fn packed(bytes: &[u8]) -> Result<Vec<u64>, ProtobufError> {
    let (mut numbers, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (number, length) = varint(rest).ok_or(ProtobufError::Cut { end: bytes.len() })?;
        numbers.push(number);
        rest = &rest[length..];
    }
    Ok(numbers)
}

/// A field, its number, and where the next one begins.
fn field_at(bytes: &[u8], at: usize) -> Result<(u64, Field<'_>, usize), ProtobufError> {
    let cut = ProtobufError::Cut { end: bytes.len() };
    let (tag, length) = varint(&bytes[at..]).ok_or(cut)?;
    let begin = at + length;
    match tag & 7 {
        0 => {
            let (value, length) = varint(&bytes[begin..]).ok_or(cut)?;
            Ok((tag >> 3, Field::Number(value), begin + length))
        }
        2 => {
            let (size, length) = varint(&bytes[begin..]).ok_or(cut)?;
            let begin = begin + length;
            let end = usize::try_from(size)
                .ok()
                .and_then(|size| begin.checked_add(size))
                .filter(|end| *end <= bytes.len())
                .ok_or(cut)?;
            Ok((tag >> 3, Field::Bytes(&bytes[begin..end]), end))
        }
        kind @ (1 | 5) => {
            let end = begin + if kind == 1 { 8 } else { 4 };
            let fixed = bytes.get(begin..end).ok_or(cut)?;
            Ok((tag >> 3, Field::Fixed(fixed), end))
        }
        kind => Err(ProtobufError::Kind { kind, at }),
    }
}

/// A number and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i as u32).min(63);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// A message while it is written.
#[cfg(any(test, feature = "fetch", feature = "runtime"))]
#[derive(Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

#[cfg(any(test, feature = "fetch", feature = "runtime"))]
impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    #[cfg(any(test, feature = "fetch"))]
    pub(crate) fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub(crate) fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// Fields as they stand in another message.
    #[cfg(any(test, feature = "fetch"))]
    pub(crate) fn raw(mut self, fields: &[u8]) -> Self {
        self.0.extend(fields);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_each_field_has_its_own_bytes() {
        let inner = Message::default().text(2, "inner");
        let whole =
            Message::default().number(1, 300).float(2, 1.5).message(3, &inner).text(200, "far");
        let found: Vec<FieldSpan<'_>> =
            spans(&whole.0).collect::<Result<_, _>>().expect("a message");
        let numbers: Vec<u64> = found.iter().map(|span| span.number).collect();
        assert_eq!(numbers, [1, 2, 3, 200]);
        assert_eq!(found[0].field, Field::Number(300));
        assert_eq!(found[1].field, Field::Fixed(&1.5_f32.to_le_bytes()));
        assert_eq!(found[2].field, Field::Bytes(&inner.0));
        let again = found.iter().fold(Message::default(), |message, span| message.raw(span.bytes));
        assert_eq!(again.0, whole.0, "byte for byte");
        for end in 0..whole.0.len() {
            // Cut anywhere, it ends or says so.
            let _ = spans(&whole.0[..end]).count();
        }
        assert_eq!(packed(&[1, 0xac, 2]), Ok(vec![1, 300]));
        assert!(packed(&[0xac]).is_err());
    }
}
