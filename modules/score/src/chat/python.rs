//! What chat templates expect of Python: how its values print, `json.dumps`, and the methods of its
//! strings and dictionaries.
//!
//! The reference is what `transformers` gives its templates: Jinja2 in a sandbox, `tojson` without
//! escapes of its own, values printed by `str`. Invariants: nothing here reads or writes anything
//! outside of its arguments; depth is bounded.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// How deep values are printed: far beyond any tool's schema, and far below the thread's stack.
const DEPTH_MAX: usize = 64;

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail.into())
}

/// Writes a value as Python's `str` gives it.
pub(super) fn print(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&string(value)?),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the output is too long"))
}

/// Python's `str` of a value; nothing for an undefined one, as Jinja2 has it.
pub(super) fn string(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    represent(value, 0, &mut out)?;
    Ok(out)
}

/// The test `sequence`: to Python a string is one, and so is whatever has a length and can be asked
/// for an item.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// Python's `repr`.
fn represent(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(invalid(format!("a value is deeper than {DEPTH_MAX}")));
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, ["nan", "inf"], out),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                represent(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                represent(&key, depth + 1, out)?;
                out.push_str(": ");
                represent(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// A number as Python writes it; the words are those for what is none and for what is infinite.
fn number(value: &Value, [nan, infinite]: [&str; 2], out: &mut String) {
    let float = if value.is_integer() { None } else { f64::try_from(value.clone()).ok() };
    let _ = match float {
        None => write!(out, "{value}"),
        Some(float) if float.is_nan() => write!(out, "{nan}"),
        Some(float) if float.is_infinite() => {
            write!(out, "{}{infinite}", if float < 0.0 { "-" } else { "" })
        }
        Some(float) => {
            // The fewest digits that tell it from all others, as Python has them, too.
            let digits = format!("{float:e}");
            let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
            match exponent.parse::<i32>().unwrap_or(0) {
                exponent @ ..-4 => write!(out, "{mantissa}e-{:02}", exponent.unsigned_abs()),
                exponent @ 16.. => write!(out, "{mantissa}e+{exponent:02}"),
                _ if float.fract() == 0.0 => write!(out, "{float}.0"),
                _ => write!(out, "{float}"),
            }
        }
    };
}

/// Whether Python shows a character as it is: Rust has the same sorts of characters that nobody
/// sees. Those of the first private plane are marks that the text is searched for afterwards.
fn is_shown(c: char) -> bool {
    // Behind another one a mark that goes on top of it is no reason.
    ('\u{f0000}'..='\u{ffffd}').contains(&c)
        || String::from_iter(['a', c]).escape_debug().nth(1) != Some('\\')
}

/// A string in quotes as Python writes them.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if c == '"' || c == '\'' || is_shown(c) => out.push(c),
            c => {
                let _ = match u32::from(c) {
                    code @ ..0x100 => write!(out, "\\x{code:02x}"),
                    code @ 0x100..0x1_0000 => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(mark);
}

/// How `json.dumps` is to write.
struct Dumps {
    ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sorted: bool,
}

/// The filter `tojson` as `transformers` has it: Python's `json.dumps`, without Jinja's escapes for
/// HTML.
pub(super) fn tojson(value: &Value, ascii: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let ascii_too: Option<Value> = options.get("ensure_ascii")?;
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Value> = options.get("separators")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(indent.clone()).unwrap_or(0).min(DEPTH_MAX)),
    });
    // A comma at a line's end has no space behind it.
    let (mut between, mut after_key) =
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = separators.filter(|separators| !separators.is_none()) {
        let pair: Vec<String> =
            separators.try_iter()?.filter_map(|one| one.as_str().map(str::to_owned)).collect();
        let [first, second] = &pair[..] else {
            return Err(invalid("separators: expected two strings"));
        };
        (between, after_key) = (first.clone(), second.clone());
    }
    let ascii = ascii_too.or(ascii).is_some_and(|ascii| ascii.is_true());
    let dumps = Dumps { ascii, indent, between, after_key, sorted: sorted.unwrap_or(false) };
    let mut out = String::new();
    dumps.write(value, 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

impl Dumps {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(invalid(format!("a value is deeper than {DEPTH_MAX}")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(value, ["NaN", "Infinity"], out),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), depth, &items, out, |item, out| {
                    self.write(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.list(('{', '}'), depth, &keys, out, |key, out| {
                    match key.as_str() {
                        Some(name) => self.string(name, out),
                        None => {
                            let mut name = String::new();
                            self.write(key, depth + 1, &mut name)?;
                            self.string(&name, out);
                        }
                    }
                    out.push_str(&self.after_key);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            kind => return Err(invalid(format!("a value of kind {kind} has no JSON"))),
        }
        Ok(())
    }

    fn list(
        &self,
        (open, close): (char, char),
        depth: usize,
        items: &[Value],
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { &self.between });
            self.line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            self.line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' => {
                    let _ = write!(out, "\\u{:04x}", c as u32);
                }
                c if self.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Methods that Python's values have and minijinja's do not: first those of which
/// `minijinja-contrib` knows less than templates use.
pub(super) fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let argument = |n: usize| arguments.get(n);
    let text_argument = |n: usize| {
        argument(n)
            .and_then(Value::as_str)
            .ok_or_else(|| invalid(format!("{name}: expected a string as argument {}", n + 1)))
    };
    let Some(text) = value.as_str() else {
        if value.kind() == ValueKind::Map && name == "get" {
            let key = argument(0).ok_or_else(|| invalid("get: expected a key"))?;
            let found = value.get_item(key)?;
            let other = || argument(1).cloned().unwrap_or_else(|| Value::from(()));
            return Ok(if found.is_undefined() { other() } else { found });
        }
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments);
    };
    let parts = |parts: [&str; 3]| Value::from(parts.map(Value::from).to_vec());
    match name {
        "removeprefix" => Ok(Value::from(text.strip_prefix(text_argument(0)?).unwrap_or(text))),
        "removesuffix" => Ok(Value::from(text.strip_suffix(text_argument(0)?).unwrap_or(text))),
        "partition" => {
            let mark = text_argument(0)?;
            Ok(text.split_once(mark).map_or_else(
                || parts([text, "", ""]),
                |(before, after)| parts([before, mark, after]),
            ))
        }
        "rpartition" => {
            let mark = text_argument(0)?;
            Ok(text.rsplit_once(mark).map_or_else(
                || parts(["", "", text]),
                |(before, after)| parts([before, mark, after]),
            ))
        }
        "split" | "rsplit" => split(text, name == "rsplit", argument(0), argument(1)),
        // Places are counted in characters.
        "find" | "rfind" | "index" => {
            let what = text_argument(0)?;
            let place = if name == "rfind" { text.rfind(what) } else { text.find(what) };
            match place {
                Some(place) => Ok(Value::from(text[..place].chars().count() as i64)),
                None if name == "index" => Err(invalid("index: substring not found")),
                None => Ok(Value::from(-1_i64)),
            }
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// `str.split` and `str.rsplit`: a list, which templates take items of.
fn split(
    text: &str,
    from_end: bool,
    mark: Option<&Value>,
    times: Option<&Value>,
) -> Result<Value, Error> {
    let times = times.and_then(|times| usize::try_from(times.clone()).ok());
    let parts: Vec<&str> = match (mark.and_then(Value::as_str), times) {
        (Some(""), _) => return Err(invalid("split: empty separator")),
        (Some(mark), None) => text.split(mark).collect(),
        (Some(mark), Some(times)) if from_end => {
            let mut parts: Vec<&str> = text.rsplitn(times.saturating_add(1), mark).collect();
            parts.reverse();
            parts
        }
        (Some(mark), Some(times)) => text.splitn(times.saturating_add(1), mark).collect(),
        (None, None) => text.split_whitespace().collect(),
        (None, Some(times)) => {
            let (mut parts, mut rest) = (Vec::new(), text.trim());
            while parts.len() < times && !from_end {
                let Some((word, after)) = rest.split_once(char::is_whitespace) else { break };
                parts.push(word);
                rest = after.trim_start();
            }
            while parts.len() < times && from_end {
                let Some((before, word)) = rest.rsplit_once(char::is_whitespace) else { break };
                parts.push(word);
                rest = before.trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            if from_end {
                parts.reverse();
            }
            parts
        }
    };
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}
