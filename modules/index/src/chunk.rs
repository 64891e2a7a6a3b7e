//! Cutting a row's text into chunks: on sentence, paragraph and Unicode boundaries, and along headings in Markdown.

use text_splitter::{ChunkConfig, MarkdownSplitter, TextSplitter};
use thiserror::Error;

/// Characters a chunk, unless the index says otherwise: source code has about three characters a token, and MiniLM's
/// window is 256 tokens.
pub const SIZE_DEFAULT: usize = 700;
/// Characters that neighbours share, unless the index says otherwise.
pub const OVERLAP_DEFAULT: usize = 80;

/// Parameters that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("chunk_size {size} and overlap {overlap}: expected a size of 16 to 100000 characters and less overlap than size")]
pub struct BadSize {
    size: usize,
    overlap: usize,
}

/// A piece of a row's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// First byte in the text.
    pub start: usize,
    /// Line of that byte, from 1.
    pub line: usize,
    /// The piece.
    pub text: &'a str,
}

/// Cuts texts one way.
pub struct Chunker {
    plain: TextSplitter<text_splitter::Characters>,
    markdown: MarkdownSplitter<text_splitter::Characters>,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunker").finish_non_exhaustive()
    }
}

impl Chunker {
    /// A chunker for pieces of at most `size` characters, of which neighbours share up to `overlap`.
    ///
    /// # Errors
    /// [`BadSize`].
    pub fn new(size: usize, overlap: usize) -> Result<Self, BadSize> {
        let bad = BadSize { size, overlap };
        if !(16..=100_000).contains(&size) {
            return Err(bad);
        }
        let config = || ChunkConfig::new(size).with_overlap(overlap).map_err(|_| bad.clone());
        Ok(Self { plain: TextSplitter::new(config()?), markdown: MarkdownSplitter::new(config()?) })
    }

    /// Cuts a text; `id` tells by its ending whether it is Markdown. Blank texts have no chunks.
    #[must_use]
    pub fn cut<'a>(&self, id: &str, text: &'a str) -> Vec<Chunk<'a>> {
        let pieces: Vec<(usize, &'a str)> = if id.ends_with(".md") || id.ends_with(".markdown") {
            self.markdown.chunk_indices(text).collect()
        } else {
            self.plain.chunk_indices(text).collect()
        };
        let (mut line, mut at) = (1, 0);
        let chunks = pieces.into_iter().filter(|(_, piece)| !piece.trim().is_empty()).map(|(start, text_of)| {
            // Overlapping chunks begin in order, so the count only goes on.
            if start > at {
                line += text[at..start].bytes().filter(|b| *b == b'\n').count();
                at = start;
            }
            Chunk { start, line, text: text_of }
        });
        chunks.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_knows_its_place() {
        let text = "# One\n\nFirst words here.\n\n# Two\n\nSecond words there.\n";
        let chunks = Chunker::new(30, 0).expect("sizes").cut("a.md", text);
        assert_eq!(chunks.iter().map(|c| c.line).collect::<Vec<_>>(), [1, 5]);
        assert!(chunks.iter().all(|c| text[c.start..].starts_with(c.text)));
        assert!(Chunker::new(5, 0).is_err() && Chunker::new(100, 100).is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_too_long(text in "[a-zé \n.]{0,400}", size in 16_usize..80) {
            let chunks = Chunker::new(size, size / 4).expect("sizes").cut("a.txt", &text);
            prop_assert!(chunks.iter().all(|c| c.text.chars().count() <= size));
            for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
                prop_assert!(chunks.iter().any(|k| k.start <= at && at < k.start + k.text.len()), "{c} at {at} is in no chunk");
            }
        }
    }
}
