//! safetensors: a JSON header, then raw numbers.
//!
//! Pure. Invariants: nothing outside the file's bytes is read; a tensor has as many bytes as its
//! shape says.

use std::collections::BTreeMap;

use thiserror::Error;

/// Why a file is no safetensors, or lacks a tensor.
#[derive(Debug, Error)]
pub enum TensorsError {
    /// There is no length of the header.
    #[error("shorter than its header")]
    Short,
    /// The header goes on behind the end.
    #[error("header longer than the file")]
    LongHeader,
    /// The header is no JSON.
    #[error("the header")]
    Header(#[from] serde_json::Error),
    /// The header does not say what a tensor is like.
    #[error("{name} has no shape or no offsets")]
    Undescribed {
        /// The tensor.
        name: String,
    },
    /// A tensor is not in the file.
    #[error("{name} lies outside the file")]
    Outside {
        /// The tensor.
        name: String,
    },
    /// A tensor is longer or shorter than its shape.
    #[error("{name} has {bytes} bytes for shape {shape:?}")]
    Length {
        /// The tensor.
        name: String,
        /// Its bytes in the file.
        bytes: usize,
        /// What they should fill.
        shape: Vec<usize>,
    },
    /// There is no such tensor.
    #[error("no tensor {name}")]
    Absent {
        /// What it should have.
        name: String,
    },
    /// Numbers of a kind that is not read.
    #[error("{name} is of type {dtype}, expected F32, F16 or BF16")]
    Kind {
        /// The tensor.
        name: String,
        /// As the file has it.
        dtype: String,
    },
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Its numbers' type, such as `F32`.
    pub dtype: String,
    /// The lengths of its axes, the outermost first.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian.
    pub raw: &'a [u8],
}

/// Bytes of a number of this type.
fn width(dtype: &str) -> Option<usize> {
    match dtype {
        "F64" | "I64" | "U64" => Some(8),
        "F32" | "I32" | "U32" => Some(4),
        "F16" | "BF16" | "I16" | "U16" => Some(2),
        "I8" | "U8" | "BOOL" => Some(1),
        _ => None,
    }
}

/// The tensors of a file, by name. Those of types that are not known are there without a check of
/// their length.
///
/// # Errors
/// [`TensorsError`].
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Tensor<'_>>, TensorsError> {
    let length =
        bytes.first_chunk::<8>().map(|l| u64::from_le_bytes(*l)).ok_or(TensorsError::Short)?;
    let end = usize::try_from(length)
        .ok()
        .and_then(|l| l.checked_add(8))
        .filter(|end| *end <= bytes.len())
        .ok_or(TensorsError::LongHeader)?;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..end])?;
    let data = &bytes[end..];
    let mut tensors = BTreeMap::new();
    for (name, meta) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let list = |key: &str| -> Option<Vec<usize>> {
            meta[key].as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
        };
        let (Some(shape), Some(offsets), Some(dtype)) =
            (list("shape"), list("data_offsets"), meta["dtype"].as_str())
        else {
            return Err(TensorsError::Undescribed { name });
        };
        let [from, to] = offsets[..] else { return Err(TensorsError::Undescribed { name }) };
        let Some(raw) = data.get(from..to) else { return Err(TensorsError::Outside { name }) };
        let expected = width(dtype)
            .and_then(|width| shape.iter().try_fold(width, |product, n| product.checked_mul(*n)));
        if width(dtype).is_some() && expected != Some(raw.len()) {
            return Err(TensorsError::Length { name, bytes: raw.len(), shape });
        }
        tensors.insert(name, Tensor { dtype: dtype.to_owned(), shape, raw });
    }
    Ok(tensors)
}

impl Tensor<'_> {
    /// Its numbers. `name` is for the error.
    ///
    /// # Errors
    /// [`TensorsError::Kind`] if they are no floating-point numbers of 32 or 16 bits.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, TensorsError> {
        let halves = || self.raw.as_chunks::<2>().0.iter().map(|c| u16::from_le_bytes(*c));
        match self.dtype.as_str() {
            "F32" => {
                Ok(self.raw.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect())
            }
            "BF16" => Ok(halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect()),
            "F16" => Ok(halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect()),
            dtype => Err(TensorsError::Kind { name: name.to_owned(), dtype: dtype.to_owned() }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file of tensors of 32 bits.
    pub(crate) fn file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, numbers) in tensors {
            let from = data.len();
            data.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
            header.insert((*name).to_owned(), serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}));
        }
        let header = serde_json::Value::Object(header).to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
    }

    #[test]
    fn tensors_are_found_by_name_and_their_numbers_are_theirs() {
        let bytes =
            file(&[("linear.weight", &[1, 2], &[1.5, -2.0]), ("linear.bias", &[1], &[0.25])]);
        let tensors = parse(&bytes).expect("tensors");
        assert_eq!(tensors["linear.weight"].shape, [1, 2]);
        assert_eq!(tensors["linear.weight"].floats("w").expect("numbers"), [1.5, -2.0]);
        assert_eq!(tensors["linear.bias"].floats("b").expect("numbers"), [0.25]);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn numbers_of_16_bits_are_read_as_those_of_32() {
        let of = |dtype: &str, raw: &[u8]| {
            Tensor { dtype: dtype.to_owned(), shape: vec![raw.len() / 2], raw }.floats("x")
        };
        assert_eq!(of("F16", &[0x00, 0x3c, 0x00, 0xc0]).expect("numbers"), [1.0, -2.0]);
        assert_eq!(of("BF16", &[0x80, 0x3f, 0x00, 0xc0]).expect("numbers"), [1.0, -2.0]);
        assert!(matches!(of("I16", &[0, 0]), Err(TensorsError::Kind { .. })));
    }
}
