//! HTML to text, as Markdown, so that headings, lists and links are still there to cut along and to read.

use std::io;

use htmd::HtmlToMarkdown;

/// Deepest nesting: pages that people write stay below a hundred; the converter's stack is bounded by it.
const DEPTH_MAX: usize = 4000;
/// Stack of the thread that converts, some kilobytes a level.
const STACK_BYTES: usize = 64 << 20;
/// Elements that hold nothing, or end where the next one begins.
const FLAT: [&str; 30] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr", "!doctype", "p", "li",
    "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "colgroup", "rt", "rp",
];

/// Why a page has no text.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    /// Nobody writes such a page.
    #[error("its elements are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// It could not be converted, or there was no thread for that.
    #[error("it could not be read as HTML")]
    Failed(#[from] io::Error),
    /// The converter panicked.
    #[error("it could not be read as HTML; the log has more")]
    Panicked,
}

/// Text of a page; scripts, styles and forms' parts are left out.
///
/// # Errors
/// [`HtmlError`].
pub fn text(html: &str) -> Result<String, HtmlError> {
    if depth(html) > DEPTH_MAX {
        return Err(HtmlError::TooDeep);
    }
    let convert = || {
        let converter = HtmlToMarkdown::builder().skip_tags(vec!["script", "style", "noscript", "template", "svg", "head"]).build();
        converter.convert(html)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("ingest-html".into()).stack_size(STACK_BYTES).spawn_scoped(scope, convert);
        Ok(thread?.join().map_err(|_| HtmlError::Panicked)??)
    })
}

/// How deeply elements may be nested, at most: those opened and not closed.
fn depth(html: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for tag in html.split('<').skip(1) {
        let end = tag.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(tag.len());
        let name = tag[..end].trim_end_matches('/').to_ascii_lowercase();
        match name.strip_prefix('/') {
            Some(_) => now = now.saturating_sub(1),
            None if name.starts_with(|c: char| c.is_ascii_alphabetic()) && !FLAT.contains(&name.as_str()) => now += 1,
            None => {}
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_its_text() {
        let page = "<!DOCTYPE html><html><head><title>t</title><style>p {color: red}</style></head><body><h1>Backups</h1>\
                    <p>We keep <b>thirty</b> days &amp; more.<script>alert(1)</script><ul><li>one<li>two</ul>";
        let text = text(page).expect("text");
        assert!(text.starts_with("# Backups") && text.contains("thirty") && text.contains("days & more") && text.contains("two"), "{text}");
        assert!(!text.contains("alert") && !text.contains("color"), "{text}");
    }

    #[test]
    fn what_is_nested_without_end_is_refused_and_what_is_deep_is_read() {
        let nested = |n: usize| format!("{}x{}", "<div>".repeat(n), "</div>".repeat(n));
        assert!(text(&nested(1_000_000)).is_err());
        assert!(text(&nested(DEPTH_MAX)).is_ok_and(|text| text.contains('x')));
        assert!(text(&"<b>".repeat(100_000)).is_err());
        assert!(text(&"<p>word ".repeat(20_000)).is_ok(), "paragraphs need no end");
    }
}
