//! Sizes as people write them in Cards: `536870912`, `"512M"`, `"2GiB"`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A number of bytes; K, M, G and T are powers of 1024, as in systemd's `MemoryMax=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    fn from_text(text: &str) -> Option<u64> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok()?;
        let shift = match text[digits..].trim() {
            "" | "B" => 0,
            "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return None,
        };
        number.checked_mul(1 << shift)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "bytes as a number or as text such as \"512M\"")]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => Self::from_text(&text).map(Self).ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "`{text}` is not a size: expected bytes, or a number with K, M, G or T"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn sizes_read_as_systemd_reads_them() {
        for (text, bytes) in
            [("0", 0), ("12", 12), ("4K", 4096), ("512M", 512 << 20), ("2 GiB", 2 << 30)]
        {
            assert_eq!(ByteSize::from_text(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "1.5G", "-1", "12X", "99999999999999T"] {
            assert_eq!(ByteSize::from_text(text), None, "{text}");
        }
    }
}
