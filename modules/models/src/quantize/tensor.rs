//! Weights as ONNX writes them: in the graph in one of two ways, or in files beside it.

use std::collections::BTreeMap;

use super::QuantizeError;
use crate::protobuf::{Field, Message, ProtobufError, fields, packed, spans};

/// ONNX's number for float32.
pub(super) const FLOAT: u64 = 1;
/// And for bytes without a sign.
pub(super) const UINT8: u64 = 2;

/// A weight, as far as it has to be known.
pub(super) struct Tensor<'a> {
    pub(super) name: &'a [u8],
    pub(super) dims: Vec<u64>,
    pub(super) kind: u64,
    /// Where it lies, if not in the graph.
    pub(super) external: Option<ExternalPlace>,
    raw: Option<&'a [u8]>,
    /// Numbers of float32, written one by one.
    numbers: Vec<u8>,
    bytes: &'a [u8],
}

/// Where a weight lies in a file beside the graph.
pub(super) struct ExternalPlace {
    file: String,
    offset: usize,
    length: Option<usize>,
}

/// TensorProto: dims = 1, data_type = 2, float_data = 4, name = 8, raw_data = 9, external_data = 13
/// (key = 1, value = 2), data_location = 14.
pub(super) fn tensor(bytes: &[u8]) -> Result<Tensor<'_>, ProtobufError> {
    let mut tensor = Tensor {
        name: &[],
        dims: Vec::new(),
        kind: 0,
        external: None,
        raw: None,
        numbers: Vec::new(),
        bytes,
    };
    let mut place = ExternalPlace { file: String::new(), offset: 0, length: None };
    let mut is_external = false;
    for field in fields(bytes) {
        match field? {
            (1, Field::Number(n)) => tensor.dims.push(n),
            (1, Field::Bytes(together)) => tensor.dims.extend(packed(together)?),
            (2, Field::Number(n)) => tensor.kind = n,
            // Together, or one by one.
            (4, Field::Bytes(numbers) | Field::Fixed(numbers)) => tensor.numbers.extend(numbers),
            (8, Field::Bytes(name)) => tensor.name = name,
            (9, Field::Bytes(raw)) => tensor.raw = Some(raw),
            (13, Field::Bytes(entry)) => place.add(entry)?,
            (14, Field::Number(n)) => is_external = n == 1,
            _ => {}
        }
    }
    tensor.external = is_external.then_some(place);
    Ok(tensor)
}

impl ExternalPlace {
    fn add(&mut self, entry: &[u8]) -> Result<(), ProtobufError> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (mut key, mut value) = (&[][..], String::new());
        for field in fields(entry) {
            match field? {
                (1, Field::Bytes(bytes)) => key = bytes,
                (2, Field::Bytes(bytes)) => value = text(bytes),
                _ => {}
            }
        }
        match key {
            b"location" => self.file = value.strip_prefix("./").unwrap_or(&value).to_owned(),
            // What is no number is nowhere.
            b"offset" => self.offset = value.parse().unwrap_or(usize::MAX),
            b"length" => self.length = Some(value.parse().unwrap_or(usize::MAX)),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Tensor<'a> {
    /// Its name, for people.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(self.name).into_owned()
    }

    /// Lengths of its two axes, if it has two.
    pub(super) fn matrix(&self) -> Option<[usize; 2]> {
        let [rows, columns] = self.dims[..] else { return None };
        Some([usize::try_from(rows).ok()?, usize::try_from(columns).ok()?])
    }

    /// Its bytes by its shape and type; `None` if the type is none of a fixed length, or there are
    /// more than can be.
    pub(super) fn expected(&self) -> Option<usize> {
        let each: usize = match self.kind {
            // uint8, int8, bool.
            UINT8 | 3 | 9 => 1,
            // uint16, int16, float16, bfloat16.
            4 | 5 | 10 | 16 => 2,
            // float32, int32, uint32.
            FLOAT | 6 | 12 => 4,
            // int64, float64, uint64.
            7 | 11 | 13 => 8,
            _ => return None,
        };
        self.dims.iter().try_fold(each, |bytes, n| bytes.checked_mul(usize::try_from(*n).ok()?))
    }

    /// Its numbers of float32, four bytes each, the least significant first.
    pub(super) fn floats<'b>(
        &'b self,
        files: &'b BTreeMap<String, Vec<u8>>,
    ) -> Result<&'b [u8], QuantizeError> {
        let expected = self.expected().unwrap_or(usize::MAX);
        let found: &[u8] = match (&self.external, self.raw) {
            (Some(place), _) => self.beside(place, files)?,
            (None, Some(raw)) => raw,
            (None, None) => &self.numbers,
        };
        if found.len() == expected {
            Ok(found)
        } else {
            Err(QuantizeError::Length { tensor: self.shown(), found: found.len(), expected })
        }
    }

    /// Its bytes in a file beside the graph.
    fn beside<'b>(
        &self,
        place: &ExternalPlace,
        files: &'b BTreeMap<String, Vec<u8>>,
    ) -> Result<&'b [u8], QuantizeError> {
        let Some(expected) = self.expected() else {
            return Err(QuantizeError::Kind { tensor: self.shown(), kind: self.kind });
        };
        let (begin, end) = (place.offset, place.offset.saturating_add(expected));
        let is_said = place.length.is_none_or(|length| length == expected);
        files.get(&place.file).filter(|_| is_said).and_then(|file| file.get(begin..end)).ok_or_else(
            || QuantizeError::External {
                tensor: self.shown(),
                file: place.file.clone(),
                begin,
                end,
            },
        )
    }
}

/// A weight that lies beside the graph, as one in it; `None` if it lies there already.
pub(super) fn external(
    tensor: &Tensor<'_>,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<Option<Message>, QuantizeError> {
    let Some(place) = &tensor.external else { return Ok(None) };
    let raw = tensor.beside(place, files)?;
    let mut made = Message::default();
    for span in spans(tensor.bytes) {
        let span = span?;
        // Its numbers, and where they lay.
        if !matches!(span.number, 9 | 13 | 14) {
            made = made.raw(span.bytes);
        }
    }
    Ok(Some(made.bytes(9, raw)))
}
