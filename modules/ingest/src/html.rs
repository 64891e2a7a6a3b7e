//! HTML to text, as Markdown, so that headings, lists and links are still there to cut along and to
//! read.

use std::io;

use htmd::HtmlToMarkdown;

/// Deepest nesting: pages that people write stay below a hundred; the converter's stack is bounded
/// by it.
const DEPTH_MAX: usize = 4000;
/// Stack of the thread that converts, some kilobytes a level.
const STACK_BYTES: usize = 64 << 20;
/// Elements that hold nothing, or end where the next one begins.
const FLAT: [&str; 30] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr", "!doctype", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot",
    "option", "optgroup", "colgroup", "rt", "rp",
];

/// What drawings are made of: elements of SVG that hold nothing but others of these, and end where
/// they begin if they say so.
const DRAWN: [&str; 52] = [
    "g",
    "defs",
    "symbol",
    "use",
    "path",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "text",
    "tspan",
    "textpath",
    "lineargradient",
    "radialgradient",
    "stop",
    "pattern",
    "clippath",
    "mask",
    "marker",
    "filter",
    "image",
    "switch",
    "view",
    "animate",
    "animatetransform",
    "animatemotion",
    "set",
    "mpath",
    "metadata",
    "feblend",
    "fecolormatrix",
    "fecomponenttransfer",
    "fecomposite",
    "feconvolvematrix",
    "fediffuselighting",
    "fedisplacementmap",
    "fedropshadow",
    "feflood",
    "fefunca",
    "fefuncb",
    "fefuncg",
    "fefuncr",
    "fegaussianblur",
    "feimage",
    "femerge",
    "femergenode",
    "femorphology",
    "feoffset",
    "feturbulence",
    "fetile",
];
/// What stands beside a drawing and is none of it, up to its own end.
const BESIDE: [&str; 3] = ["title", "desc", "style"];
/// Bytes of a page in which its title is looked for.
const TITLE_BYTES: usize = 256 << 10;

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

/// Text of a page, under its title if it has one; scripts, styles and forms' parts are left out.
///
/// # Errors
/// [`HtmlError`].
pub fn text(html: &str) -> Result<String, HtmlError> {
    if depth(html) > DEPTH_MAX {
        return Err(HtmlError::TooDeep);
    }
    let convert = || {
        let converter = HtmlToMarkdown::builder()
            .skip_tags(vec!["script", "style", "noscript", "template", "svg", "head"])
            .build();
        let text = converter.convert(html)?;
        let title = match title(html) {
            // All that stands in it is text.
            Some(title) => {
                converter.convert(&format!("<h1>{}</h1>", title.replace('<', "&lt;")))?
            }
            None => String::new(),
        };
        let title = title.trim();
        let is_said =
            title.is_empty() || text.lines().any(|line| line.trim().eq_ignore_ascii_case(title));
        Ok::<_, io::Error>(if is_said { text } else { format!("{title}\n\n{text}") })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("ingest-html".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, convert);
        Ok(thread?.join().map_err(|_| HtmlError::Panicked)??)
    })
}

/// What stands in a page's own title, which comes before its body and its drawings.
fn title(html: &str) -> Option<&str> {
    let end = (0..=html.len().min(TITLE_BYTES)).rev().find(|at| html.is_char_boundary(*at))?;
    let lower = html[..end].to_ascii_lowercase();
    let begin = lower.find("<title")?;
    if ["<body", "<svg"].iter().any(|other| lower.find(other).is_some_and(|at| at < begin)) {
        return None;
    }
    let from = begin + lower[begin..].find('>')? + 1;
    let length = lower[from..].find("</title")?;
    html.get(from..from + length).map(str::trim).filter(|title| !title.is_empty())
}

/// How deeply elements may be nested, at most: those opened and not closed.
fn depth(html: &str) -> usize {
    let (mut now, mut most, mut in_drawing, mut beside) = (0_usize, 0, false, None);
    for tag in html.split('<').skip(1) {
        let end = tag.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(tag.len());
        let name = tag[..end].trim_end_matches('/').to_ascii_lowercase();
        let is_closed = tag.find('>').is_some_and(|end| tag[..end].ends_with('/'));
        match name.strip_prefix('/') {
            Some(ended) => {
                now = now.saturating_sub(1);
                in_drawing = (in_drawing && DRAWN.contains(&ended))
                    || beside.take().is_some_and(|name: String| name == ended);
            }
            None if !name.starts_with(|c: char| c.is_ascii_alphabetic()) => {}
            // Elsewhere than among these the sign that it ends at once means nothing, and anything
            // else may end the drawing.
            None if in_drawing && DRAWN.contains(&name.as_str()) => now += usize::from(!is_closed),
            None => {
                beside = (in_drawing && !is_closed && BESIDE.contains(&name.as_str()))
                    .then(|| name.clone());
                in_drawing = name == "svg" && !is_closed;
                now += usize::from(!FLAT.contains(&name.as_str()));
            }
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
        assert!(
            text.starts_with("# t\n\n# Backups")
                && text.contains("thirty")
                && text.contains("days & more")
                && text.contains("two"),
            "{text}"
        );
        assert!(!text.contains("alert") && !text.contains("color"), "{text}");
    }

    #[test]
    fn the_title_of_a_page_is_kept_once() {
        let of = |page: &str| text(page).expect("text");
        assert_eq!(
            of("<html><head><title>\nMinutes &amp; more </title></head><body><p>We met.").trim(),
            "# Minutes & more\n\nWe met."
        );
        assert_eq!(of("<title>Notes</title><h1>Notes</h1><p>x").matches("Notes").count(), 1);
        assert_eq!(of("<body><svg><title>drawn</title></svg><p>x").trim(), "x");
        assert!(of("<TITLE lang=de>a &lt;b></TITLE><p>x").contains('a'));
        assert_eq!(
            title(&format!("<title>{}", "\u{e9}".repeat(TITLE_BYTES))),
            None,
            "no end, and cut in a character"
        );
    }

    #[test]
    fn what_is_drawn_is_no_nesting_and_what_only_looks_so_is() {
        let drawn = format!(
            "<svg><title>A map</title><style>a {{}}</style>{}</svg><p>Every house",
            "<path d=\"M0 0L1 1\"/>\n".repeat(4500)
        );
        assert!(text(&drawn).is_ok_and(|text| text.contains("Every house")));
        assert!(text(&format!("<svg>{}", "<g>".repeat(100_000))).is_err());
        for before in [
            "<svg><foreignObject>",
            "<svg><title>",
            "<svg><desc><b></b></desc>",
            "<svg><div>",
            "<svg/>",
            "<svg></svg>",
            "<svg></div>",
            "",
        ] {
            assert!(text(&format!("{before}{}", "<path/>".repeat(100_000))).is_err(), "{before}");
        }
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
