//! What a document is divided into: headings in prose, items in source code; and where it may be
//! cut best.
//!
//! Invariants: items nest and are in the order of their beginnings; the time is linear in the text;
//! a text that is not what its name says, or that no parser can read, has an outline of what is
//! found in it, or an empty one.

use tree_sitter::{Node, Parser, TreeCursor};

/// Longer sources are taken as plain text: generated files, whose syntax trees would take hundreds
/// of megabytes.
const PARSED_MAX: usize = 1 << 20;
/// Levels of a syntax tree below which no item is looked for.
const DEPTH_MAX: usize = 8;
/// Lines above an item that are looked at for its comments and attributes.
const LEADING_LINES_MAX: usize = 60;
/// Characters of a heading or a signature that are kept.
const LABEL_CHARS: usize = 100;
/// Longest line, in characters, that can be a heading.
const HEADING_CHARS: usize = 160;
/// Characters that underline headings.
const UNDERLINES: &str = "=-~^\"'`#*+.:_";

/// How good a place is to cut at: a section or an item begins there,
pub const SECTION: u8 = 3;
/// a paragraph or a statement,
pub const PARAGRAPH: u8 = 2;
/// a sentence or a line,
pub const SENTENCE: u8 = 1;
/// or a word.
pub const WORD: u8 = 0;

/// A section under its heading, or an item of source code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// First byte, of its heading or of the comments that lead it.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Its heading, or its signature.
    pub label: String,
    /// The number of the one that it is in.
    pub parent: Option<usize>,
}

/// The outline of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// In the order of their beginnings.
    pub items: Vec<Item>,
    /// Where something begins, and what: ascending.
    pub bounds: Vec<(usize, u8)>,
    /// Whether each line is a piece by itself, as in source code.
    pub is_code: bool,
}

/// The languages whose items are known: the endings of files, the grammar, and the kinds of nodes
/// that are items.
type Grammar = (&'static [&'static str], tree_sitter_language::LanguageFn, &'static [&'static str]);

static GRAMMARS: [Grammar; 5] = [
    (
        &["c", "h"],
        tree_sitter_c::LANGUAGE,
        &["function_definition", "struct_specifier", "enum_specifier", "union_specifier"],
    ),
    (
        &["go"],
        tree_sitter_go::LANGUAGE,
        &["function_declaration", "method_declaration", "type_declaration"],
    ),
    (
        &["js", "mjs", "cjs", "jsx"],
        tree_sitter_javascript::LANGUAGE,
        &[
            "function_declaration",
            "generator_function_declaration",
            "class_declaration",
            "method_definition",
        ],
    ),
    (&["py", "pyi"], tree_sitter_python::LANGUAGE, &["function_definition", "class_definition"]),
    (
        &["rs"],
        tree_sitter_rust::LANGUAGE,
        &[
            "function_item",
            "impl_item",
            "struct_item",
            "enum_item",
            "trait_item",
            "mod_item",
            "macro_definition",
            "union_item",
        ],
    ),
];

/// The outline of a text; `id` tells by its ending what it is.
#[must_use]
pub fn outline(id: &str, text: &str) -> Outline {
    let ending = id.rsplit_once('.').map_or("", |(_, ending)| ending);
    let grammar = GRAMMARS
        .iter()
        .find(|(endings, _, _)| endings.contains(&ending))
        .filter(|_| text.len() <= PARSED_MAX);
    match grammar {
        Some((_, language, kinds)) => syntax(*language, kinds, text),
        None => headings(text, matches!(ending, "md" | "markdown" | "mdx" | "html" | "htm")),
    }
}

/// A label on one line, cut if it is long.
fn label(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > 4 * LABEL_CHARS {
            break;
        }
    }
    match out.char_indices().nth(LABEL_CHARS) {
        Some((at, _)) => format!("{}…", out[..at].trim_end()),
        None => out,
    }
}

/// Puts an item where it belongs among those that are open.
fn push(items: &mut Vec<Item>, open: &mut Vec<usize>, start: usize, end: usize, label: String) {
    while open.last().is_some_and(|last| items[*last].end <= start) {
        open.pop();
    }
    let parent = open.last().copied();
    open.push(items.len());
    items.push(Item { start, end, label, parent });
}

fn syntax(language: tree_sitter_language::LanguageFn, kinds: &[&str], text: &str) -> Outline {
    let mut outline = Outline { is_code: true, ..Outline::default() };
    let mut parser = Parser::new();
    if parser.set_language(&language.into()).is_err() {
        return outline;
    }
    let Some(tree) = parser.parse(text, None) else { return outline };
    let (mut cursor, mut depth, mut open) = (tree.walk(), 0, Vec::new());
    loop {
        let node = cursor.node();
        if depth > 0 && node.is_named() {
            visit(&node, kinds, depth, text, &mut outline, &mut open);
        }
        if depth < DEPTH_MAX && cursor.goto_first_child() {
            depth += 1;
            continue;
        }
        if !onwards(&mut cursor, &mut depth) {
            break;
        }
    }
    outline.bounds.sort_unstable();
    // Of what is said twice of a place the strongest counts.
    outline.bounds.reverse();
    outline.bounds.dedup_by_key(|(at, _)| *at);
    outline.bounds.reverse();
    outline
}

/// To the next node that is not below this one; false at the end.
fn onwards(cursor: &mut TreeCursor<'_>, depth: &mut usize) -> bool {
    while !cursor.goto_next_sibling() {
        if !cursor.goto_parent() {
            return false;
        }
        *depth -= 1;
    }
    true
}

fn visit(
    node: &Node<'_>,
    kinds: &[&str],
    depth: usize,
    text: &str,
    outline: &mut Outline,
    open: &mut Vec<usize>,
) {
    let is_item = kinds.contains(&node.kind());
    if !is_item && depth > 1 {
        return;
    }
    let start = if is_item {
        leading(text, line_start(text, node.start_byte()))
    } else {
        line_start(text, node.start_byte())
    };
    if !is_item {
        outline.bounds.push((start, PARAGRAPH));
        return;
    }
    let body = node.child_by_field_name("body");
    // A type that is only named in another declaration has no body.
    if body.is_none() && node.kind().ends_with("_specifier") {
        return;
    }
    let until = body.map_or_else(|| node.end_byte(), |body| body.start_byte());
    let signature = text.get(node.start_byte()..until).unwrap_or_default();
    let signature =
        if body.is_some() { signature } else { signature.lines().next().unwrap_or_default() };
    let signature = signature.trim_end().trim_end_matches(['{', ':']);
    // Comments never reach into what comes before.
    let start = outline.items.last().map_or(start, |last| start.max(last.start));
    push(&mut outline.items, open, start, node.end_byte(), label(signature));
    let is_within = outline.items.last().is_some_and(|item| item.parent.is_some());
    outline.bounds.push((start, if is_within { PARAGRAPH } else { SECTION }));
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where the comments and attributes begin that stand right above a line.
fn leading(text: &str, line: usize) -> usize {
    let mut start = line;
    for _ in 0..LEADING_LINES_MAX {
        if start == 0 {
            break;
        }
        let above = line_start(text, start - 1);
        let words = text[above..start].trim();
        let is_leading = ["//", "/*", "*", "#", "@"].iter().any(|mark| words.starts_with(mark))
            && !words.starts_with("#include");
        if !is_leading {
            break;
        }
        start = above;
    }
    start
}

/// Whether a line underlines a heading, and with what.
fn underline(line: &str) -> Option<char> {
    let line = line.trim_end();
    let first = line.chars().next().filter(|c| UNDERLINES.contains(*c))?;
    (line.len() >= 3 && line.chars().all(|c| c == first)).then_some(first)
}

/// The level and the words of a Markdown heading that begins with `#`.
fn marked(line: &str) -> Option<(usize, &str)> {
    let level = line.bytes().take_while(|b| *b == b'#').count();
    let words = line[level..].strip_prefix(' ')?.trim().trim_end_matches('#').trim_end();
    ((1..=6).contains(&level) && !words.is_empty()).then_some((level, words))
}

/// A line that is looked at with those around it.
#[derive(Clone, Copy)]
struct Line<'a> {
    start: usize,
    text: &'a str,
}

fn headings(text: &str, is_markdown: bool) -> Outline {
    let mut found: Vec<(usize, usize, String)> = Vec::new();
    // Underlines, in the order in which they come, are levels.
    let mut styles: Vec<(char, bool)> =
        if is_markdown { vec![('=', false), ('-', false)] } else { Vec::new() };
    let (mut before, mut last): (Option<Line<'_>>, Option<Line<'_>>) = (None, None);
    let (mut at, mut is_fenced) = (0, false);
    let mut is_front_matter = is_markdown && text.starts_with("---\n");
    for line in text.split_inclusive('\n') {
        let here = Line { start: at, text: line };
        at += line.len();
        if is_front_matter {
            is_front_matter = here.start == 0 || line.trim_end() != "---";
            continue;
        }
        if is_markdown && ["```", "~~~"].iter().any(|fence| line.trim_start().starts_with(fence)) {
            is_fenced = !is_fenced;
            (before, last) = (None, None);
            continue;
        }
        if is_fenced {
            continue;
        }
        if is_markdown && let Some((level, words)) = marked(line) {
            found.push((here.start, level, label(words)));
            (before, last) = (None, None);
            continue;
        }
        if let (Some(mark), Some(title)) = (underline(line), last) {
            let words = title.text.trim_end();
            let over =
                before.map(|before| before.text).and_then(underline).filter(|over| *over == mark);
            let is_alone =
                before.is_none_or(|before| before.text.trim().is_empty()) || over.is_some();
            let is_title = over.is_some() || !words.starts_with([' ', '\t']);
            let length = words.chars().count();
            let fits = (1..=HEADING_CHARS).contains(&length)
                && line.trim_end().len() + 2 >= length
                && underline(words).is_none();
            if is_title && is_alone && fits && words.chars().any(char::is_alphanumeric) {
                let style = (mark, over.is_some());
                let place = styles.iter().position(|known| *known == style).unwrap_or_else(|| {
                    styles.push(style);
                    styles.len() - 1
                });
                let start = if over.is_some() {
                    before.map_or(title.start, |before| before.start)
                } else {
                    title.start
                };
                found.push((start, place + 1, label(words.trim())));
                (before, last) = (None, None);
                continue;
            }
        }
        (before, last) = (last, Some(here));
    }
    nested(&found, text.len())
}

/// Sections from headings: each goes on to the next of its level, or of one above.
fn nested(found: &[(usize, usize, String)], end: usize) -> Outline {
    let mut ends = vec![end; found.len()];
    let mut open: Vec<usize> = Vec::new();
    for (i, (start, level, _)) in found.iter().enumerate() {
        while open.last().is_some_and(|last| found[*last].1 >= *level) {
            if let Some(last) = open.pop() {
                ends[last] = *start;
            }
        }
        open.push(i);
    }
    let (mut outline, mut open) = (Outline::default(), Vec::new());
    for ((start, _, label), end) in found.iter().zip(ends) {
        push(&mut outline.items, &mut open, *start, end, label.clone());
        outline.bounds.push((*start, SECTION));
    }
    outline
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(id: &str, text: &str) -> Vec<(String, Option<usize>)> {
        outline(id, text).items.into_iter().map(|item| (item.label, item.parent)).collect()
    }

    fn own(all: &[(&str, Option<usize>)]) -> Vec<(String, Option<usize>)> {
        all.iter().map(|(label, parent)| ((*label).to_owned(), *parent)).collect()
    }

    #[test]
    fn headings_nest_as_their_levels_do() {
        let markdown = "---\ntitle: x\n---\n# One #\n\ntext\n\n## Two\n\n```\n# no heading\n```\n\nThree\n-----\n\n# Four\n";
        assert_eq!(
            labels("a.md", markdown),
            own(&[("One", None), ("Two", Some(0)), ("Three", Some(0)), ("Four", None)])
        );
        let rst = "=====\nTitle\n=====\n\nSome text.\n\nFirst part\n==========\n\nA table:\n\n---- ----\n  a    b\n---- ----\n\n\
                   Second\n======\n\nDeep\n----\n\nText\n";
        assert_eq!(
            labels("howto/a.rst", rst),
            own(&[
                ("Title", None),
                ("First part", Some(0)),
                ("Second", Some(0)),
                ("Deep", Some(2))
            ])
        );
        assert!(labels("a.txt", "No heading\nof any kind\n- a\n- b\n").is_empty());
        let one = outline("a.md", "# A\nx\n# B\ny\n");
        assert_eq!(
            one.items.iter().map(|item| item.start..item.end).collect::<Vec<_>>(),
            [0..6, 6..12]
        );
    }

    #[test]
    fn items_have_their_signatures_and_their_comments() {
        let rust = "use a;\n\n/// Doc.\n#[test]\nfn first(a: u8)\n    -> u8 {\n    a\n}\n\nimpl Thing {\n    fn second(&self) {}\n}\n";
        let all = outline("a.rs", rust);
        assert_eq!(
            labels("a.rs", rust),
            own(&[
                ("fn first(a: u8) -> u8", None),
                ("impl Thing", None),
                ("fn second(&self)", Some(1))
            ])
        );
        assert!(rust[all.items[0].start..].starts_with("/// Doc."));
        assert!(
            all.is_code
                && all
                    .bounds
                    .iter()
                    .any(|(at, level)| *at == all.items[1].start && *level == SECTION)
        );
        let python =
            "import os\n\nclass A(B):\n    @property\n    def x(self):\n        return 1\n";
        assert_eq!(labels("a.py", python), own(&[("class A(B)", None), ("def x(self)", Some(0))]));
        let go = "package a\n\nfunc (t *T) Run(n int) error {\n\treturn nil\n}\n";
        assert_eq!(labels("a.go", go), own(&[("func (t *T) Run(n int) error", None)]));
        let js = "export class A {\n  run(x) { return x }\n}\n";
        assert_eq!(labels("a.js", js), own(&[("class A", None), ("run(x)", Some(0))]));
        let c = "#include <a.h>\n/* Adds. */\nint add(int a, int b)\n{\n  return a + b;\n}\n";
        assert_eq!(labels("a.c", c), own(&[("int add(int a, int b)", None)]));
        // Nested deeper than any stack, and not the language it says: outlined all the same.
        for text in ["(".repeat(200_000), "\u{0}\u{ffff} }}}} fn".repeat(900)] {
            let _ = outline("a.rs", &text);
        }
    }
}
