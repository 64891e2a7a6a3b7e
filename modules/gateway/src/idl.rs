//! Varlink's interface texts, read. Pure. <https://varlink.github.io/Interface-Definition.md>
//!
//! Invariants: whatever a stranger's module says of itself is read within bounds, and what is no
//! IDL is an error, and no panic.

use thiserror::Error;

/// Longest text that is read: ours have 20 KiB.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Deepest type: ours need 3.
const DEPTH_MAX: usize = 16;

/// Why a text is no interface.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{expected} (at byte {at})")]
pub(crate) struct IdlError {
    /// Byte in the text.
    pub(crate) at: usize,
    /// What was expected there.
    pub(crate) expected: &'static str,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IdlType {
    Bool,
    Int,
    Float,
    Text,
    /// Any JSON value.
    Object,
    Optional(Box<IdlType>),
    List(Box<IdlType>),
    /// By text.
    Map(Box<IdlType>),
    /// Of a name that the interface declares.
    Named(String),
    Struct(Vec<IdlField>),
    /// One of these words.
    Words(Vec<String>),
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdlField {
    pub(crate) name: String,
    pub(crate) kind: IdlType,
}

/// A method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdlMethod {
    pub(crate) name: String,
    /// What the comment above it says.
    pub(crate) doc: String,
    pub(crate) takes: IdlType,
    pub(crate) gives: IdlType,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdlInterface {
    pub(crate) name: String,
    /// What the comment at its head says.
    pub(crate) doc: String,
    pub(crate) types: Vec<(String, IdlType)>,
    pub(crate) methods: Vec<IdlMethod>,
    pub(crate) errors: Vec<(String, IdlType)>,
}

impl IdlInterface {
    /// Reads an interface's text.
    pub(crate) fn read(text: &str) -> Result<Self, IdlError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(IdlError { at: 0, expected: "expected at most 1 MiB" });
        }
        let mut reader = Reader { text, at: 0, doc: String::new() };
        reader.blank();
        let doc = std::mem::take(&mut reader.doc);
        reader.keyword("interface")?;
        let mut interface = Self { name: reader.name(true)?, doc, ..Self::default() };
        loop {
            reader.blank();
            let doc = std::mem::take(&mut reader.doc);
            if reader.rest().is_empty() {
                return Ok(interface);
            }
            match reader.name(false)?.as_str() {
                "type" => {
                    let name = reader.name(false)?;
                    interface.types.push((name, reader.kind(0)?));
                }
                "error" => {
                    let name = reader.name(false)?;
                    interface.errors.push((name, reader.kind(0)?));
                }
                "method" => {
                    let name = reader.name(false)?;
                    let takes = reader.kind(0)?;
                    reader.blank();
                    reader.sign("->")?;
                    let gives = reader.kind(0)?;
                    interface.methods.push(IdlMethod { name, doc, takes, gives });
                }
                _ => return Err(reader.wrong("expected `type`, `method` or `error`")),
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The comment that was passed last.
    doc: String,
}

impl Reader<'_> {
    fn wrong(&self, expected: &'static str) -> IdlError {
        IdlError { at: self.at, expected }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Steps over space and comments, and keeps the latter.
    fn blank(&mut self) {
        self.doc.clear();
        loop {
            let space = self.rest().len() - self.rest().trim_start().len();
            self.at += space;
            let Some(comment) = self.rest().strip_prefix('#') else { return };
            let line = comment.split('\n').next().unwrap_or_default();
            let length = 1 + line.len();
            let said = line.trim().to_owned();
            if !self.doc.is_empty() {
                self.doc.push('\n');
            }
            self.doc.push_str(&said);
            self.at += length;
        }
    }

    fn sign(&mut self, sign: &'static str) -> Result<(), IdlError> {
        if !self.rest().starts_with(sign) {
            return Err(self.wrong("expected a sign such as `(`, `)`, `->` or `]`"));
        }
        self.at += sign.len();
        Ok(())
    }

    fn accept(&mut self, sign: &str) -> bool {
        self.blank();
        let hit = self.rest().starts_with(sign);
        if hit {
            self.at += sign.len();
        }
        hit
    }

    fn keyword(&mut self, word: &'static str) -> Result<(), IdlError> {
        if self.name(false)? == word { Ok(()) } else { Err(self.wrong("expected `interface`")) }
    }

    fn name(&mut self, dotted: bool) -> Result<String, IdlError> {
        let space = self.rest().len() - self.rest().trim_start().len();
        self.at += space;
        let is_part =
            |c: char| c.is_ascii_alphanumeric() || c == '_' || (dotted && (c == '.' || c == '-'));
        let length = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.wrong("expected a name"));
        }
        let name = self.rest()[..length].to_owned();
        self.at += length;
        Ok(name)
    }

    fn kind(&mut self, depth: usize) -> Result<IdlType, IdlError> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("expected types of at most 16 levels"));
        }
        self.blank();
        if self.accept("?") {
            return Ok(IdlType::Optional(Box::new(self.kind(depth + 1)?)));
        }
        if self.accept("[]") {
            return Ok(IdlType::List(Box::new(self.kind(depth + 1)?)));
        }
        if self.accept("[string]") {
            return Ok(IdlType::Map(Box::new(self.kind(depth + 1)?)));
        }
        if self.accept("(") {
            return self.fields(depth);
        }
        Ok(match self.name(false)?.as_str() {
            "bool" => IdlType::Bool,
            "int" => IdlType::Int,
            "float" => IdlType::Float,
            "string" => IdlType::Text,
            "object" => IdlType::Object,
            name => IdlType::Named(name.to_owned()),
        })
    }

    /// What stands between brackets: fields with their types, or words.
    fn fields(&mut self, depth: usize) -> Result<IdlType, IdlError> {
        let (mut fields, mut words) = (Vec::new(), Vec::new());
        while !self.accept(")") {
            let is_first = fields.is_empty() && words.is_empty();
            if !is_first && !self.accept(",") {
                return Err(self.wrong("expected `,` or `)`"));
            }
            self.blank();
            let name = self.name(false)?;
            if self.accept(":") {
                let kind = self.kind(depth + 1)?;
                fields.push(IdlField { name, kind });
            } else {
                words.push(name);
            }
        }
        match (fields.is_empty(), words.is_empty()) {
            (_, true) => Ok(IdlType::Struct(fields)),
            (true, false) => Ok(IdlType::Words(words)),
            (false, false) => Err(self.wrong("expected a type for each field, or words alone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_that_is_shipped_is_read() {
        for interface in brahman_card::interface::ALL {
            let read = IdlInterface::read(interface.idl())
                .unwrap_or_else(|error| panic!("{}: {error}", interface.name));
            assert_eq!(read.name, interface.name);
            let names: Vec<&str> = read.methods.iter().map(|method| method.name.as_str()).collect();
            assert_eq!(
                names,
                interface.methods.iter().map(|method| method.name).collect::<Vec<_>>(),
                "{}",
                interface.name
            );
        }
    }

    #[test]
    fn what_is_no_interface_is_an_error() {
        let read = IdlInterface::read(
            "# Says it.\ninterface a.b\n# Does it.\nmethod Do(x: ?[](y: int), z: (on, off)) -> ()\nerror Bad ()\n",
        );
        let read = read.expect("an interface");
        assert_eq!(
            (read.doc.as_str(), read.methods[0].doc.as_str(), read.errors[0].0.as_str()),
            ("Says it.", "Does it.", "Bad")
        );
        let deep = format!("interface a.b\ntype T {}int", "[]".repeat(10_000));
        for text in [
            "",
            "interface",
            "interface a.b method",
            "interface a.b\ntype T (x: int, y)",
            "interface a.b\ntype T (",
            "ä",
            deep.as_str(),
        ] {
            assert!(IdlInterface::read(text).is_err(), "{text:.40}");
        }
    }
}
