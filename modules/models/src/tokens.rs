//! As many tokens of a text as a window can hold, whatever the text's length.
//!
//! Invariant: what a text costs is bounded by the window: what cannot fit is not looked at, and
//! then said to be "at least so many".

use tokenizers::{Encoding, Tokenizer};

/// Bytes of a text that are always made into tokens at once: so few cost nothing.
pub const PART_BYTES_MIN: usize = 64 * 1024;
/// Where a text is cut that has not filled the window by then: a word or blanks without end.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// Tokens of a word that may be cut at the end of a part: WordPiece takes words of up to 100
/// characters apart.
const WORD_TOKENS: usize = 128;

/// How much of a text is made into tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenBound {
    /// Bytes of a text that are made into tokens at first; more of them only if those did not fill
    /// the window.
    part_bytes: usize,
    /// Whether what is too long loses its beginning, and not its end.
    cuts_left: bool,
}

/// As much of a text as was made into tokens.
#[derive(Debug)]
pub struct TextPart {
    /// Its tokens as the tokenizer gives them.
    pub encoding: Encoding,
    /// Whether that was not all.
    pub is_least: bool,
    /// Bytes of the text before it.
    pub dropped: usize,
}

impl TokenBound {
    /// For a window of so many tokens.
    #[must_use]
    pub fn of(tokenizer: &Tokenizer, max_tokens: usize, cuts_left: bool) -> Self {
        let token_bytes_max = tokenizer.get_vocab(true).keys().map(String::len).max().unwrap_or(1);
        Self {
            part_bytes: max_tokens
                .saturating_mul(token_bytes_max)
                .clamp(PART_BYTES_MIN, TEXT_BYTES_MAX),
            cuts_left,
        }
    }

    /// Tokens of as much of a text as can fill `room`, made by `encode`.
    ///
    /// # Errors
    /// As `encode` gives them.
    pub fn encode(
        &self,
        text: &str,
        room: usize,
        encode: impl Fn(&str) -> Result<Encoding, tokenizers::Error>,
    ) -> Result<TextPart, tokenizers::Error> {
        let mut seen = self.part_bytes.min(text.len());
        loop {
            let part = self.part(text, seen);
            let encoding = encode(part)?;
            // The last word of a part may be cut, and then its tokens are others.
            if seen >= text.len() || encoding.len() > room + WORD_TOKENS || seen >= TEXT_BYTES_MAX {
                let dropped = if self.cuts_left { text.len() - part.len() } else { 0 };
                return Ok(TextPart { encoding, is_least: seen < text.len(), dropped });
            }
            seen = (seen * 4).min(text.len()).min(TEXT_BYTES_MAX);
        }
    }

    /// So many bytes of a text, from the end that is kept.
    fn part<'a>(&self, text: &'a str, bytes: usize) -> &'a str {
        if self.cuts_left {
            &text[text.ceil_char_boundary(text.len().saturating_sub(bytes))..]
        } else {
            &text[..text.floor_char_boundary(bytes)]
        }
    }
}

/// A tokenizer from the bytes of its `tokenizer.json`.
///
/// By the library's own `FromStr` and not by its generic `from_bytes`, of which every crate that
/// calls it would compile a copy: a sixth of what is in `embed` and `score`.
///
/// # Errors
/// If it is none: what the library says.
pub fn read_tokenizer(bytes: &[u8]) -> Result<Tokenizer, tokenizers::Error> {
    std::str::from_utf8(bytes)?.parse()
}

/// The largest id that a tokenizer gives.
#[must_use]
pub fn largest_id(tokenizer: &Tokenizer) -> u32 {
    tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::read_tokenizer;

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for bytes in [&b"\xff"[..], b"", b"{}"] {
            assert!(read_tokenizer(bytes).is_err(), "{bytes:?}");
        }
    }
}
