//! Cutting a row's text into chunks: on sentence, paragraph and Unicode boundaries; along headings
//! in Markdown, and along the syntax in source code. The ending of the row's id says which.

use text_splitter::{Characters, ChunkConfig, CodeSplitter, MarkdownSplitter, TextSplitter};
use thiserror::Error;

/// Characters a chunk, unless the index says otherwise: source code has about three characters a
/// token, and MiniLM's window is 256 tokens.
pub const SIZE_DEFAULT: usize = 700;
/// Characters that neighbours share, unless the index says otherwise.
pub const OVERLAP_DEFAULT: usize = 80;

/// Parameters that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "chunk_size {size} and overlap {overlap}: expected a size of 16 to 100000 characters and less overlap than size"
)]
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
    /// The piece of text that it is.
    pub text: &'a str,
}

/// The grammar of a language, by the ending of a file's name.
const GRAMMARS: &[(&[&str], tree_sitter_language::LanguageFn)] = &[
    (&["c", "h"], tree_sitter_c::LANGUAGE),
    (&["go"], tree_sitter_go::LANGUAGE),
    (&["js", "mjs", "cjs", "jsx"], tree_sitter_javascript::LANGUAGE),
    (&["py", "pyi"], tree_sitter_python::LANGUAGE),
    (&["rs"], tree_sitter_rust::LANGUAGE),
];
/// Longer sources are cut as plain text: generated files, whose syntax trees would take hundreds of
/// megabytes.
const PARSED_MAX: usize = 1 << 20;

/// Cuts texts one way.
pub struct Chunker {
    plain: TextSplitter<Characters>,
    markdown: MarkdownSplitter<Characters>,
    /// As in [`GRAMMARS`].
    code: Vec<CodeSplitter<Characters>>,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunker").finish_non_exhaustive()
    }
}

impl Chunker {
    /// A chunker for pieces of at most `size` characters, of which neighbours share up to
    /// `overlap`.
    ///
    /// # Errors
    /// [`BadSize`].
    ///
    /// # Panics
    /// Never: the grammars are those that the parser was built with.
    pub fn new(size: usize, overlap: usize) -> Result<Self, BadSize> {
        let bad = BadSize { size, overlap };
        if !(16..=100_000).contains(&size) {
            return Err(bad);
        }
        let config = || ChunkConfig::new(size).with_overlap(overlap).map_err(|_| bad.clone());
        let of = |language| {
            Ok(CodeSplitter::new(language, config()?).expect("a grammar of this parser's version"))
        };
        Ok(Self {
            plain: TextSplitter::new(config()?),
            markdown: MarkdownSplitter::new(config()?),
            code: GRAMMARS.iter().map(|(_, language)| of(*language)).collect::<Result<_, _>>()?,
        })
    }

    fn pieces<'a>(&self, id: &str, text: &'a str) -> Vec<(usize, &'a str)> {
        let ending = id.rsplit_once('.').map_or("", |(_, ending)| ending);
        let grammar = GRAMMARS
            .iter()
            .position(|(endings, _)| endings.contains(&ending))
            .filter(|_| text.len() <= PARSED_MAX);
        match grammar {
            Some(grammar) => self.code[grammar].chunk_indices(text).collect(),
            None if matches!(ending, "md" | "markdown" | "html" | "htm") => {
                self.markdown.chunk_indices(text).collect()
            }
            None => self.plain.chunk_indices(text).collect(),
        }
    }

    /// Cuts a text; `id` tells by its ending what it is. Blank texts have no chunks.
    #[must_use]
    pub fn cut<'a>(&self, id: &str, text: &'a str) -> Vec<Chunk<'a>> {
        let (mut line, mut at) = (1, 0);
        let pieces =
            self.pieces(id, text).into_iter().filter(|(_, piece)| !piece.trim().is_empty());
        let chunks = pieces.map(|(start, text_of)| {
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

    #[test]
    fn source_code_is_cut_between_functions() {
        let chunker = Chunker::new(70, 0).expect("sizes");
        let rust = "fn first() {\n    let a = 1;\n\n    let b = 2;\n}\n\nfn second() {\n    let c = 3;\n\n    let d = 4;\n}\n";
        let starts =
            |id: &str, text: &str| chunker.cut(id, text).iter().map(|c| c.line).collect::<Vec<_>>();
        assert_eq!(starts("a.rs", rust), [1, 7]);
        let python = "def first():\n    a = 1\n\n    b = 2\n    return a\n\ndef second():\n    c = 3\n\n    return c\n";
        assert_eq!(starts("a.py", python), [1, 7]);
        // Nested deeper than any stack, and not the language it says: cut all the same.
        for text in ["(".repeat(200_000), "\u{0}\u{ffff} }}}} fn".repeat(900)] {
            assert!(!chunker.cut("a.rs", &text).is_empty());
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_too_long(
            text in "[a-zé(){}; \n.]{0,400}",
            size in 16_usize..80,
            id in "a\\.(txt|md|rs|py|c|go|js)",
        ) {
            let chunks = Chunker::new(size, size / 4).expect("sizes").cut(&id, &text);
            prop_assert!(chunks.iter().all(|c| c.text.chars().count() <= size));
            for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
                prop_assert!(
                    chunks.iter().any(|k| k.start <= at && at < k.start + k.text.len()),
                    "{c} at {at} is in no chunk"
                );
            }
        }
    }
}
