//! An interface's IDL text, made from its types: their schemas give names, shapes and doc comments.
//!
//! Invariants: the text is what systemd's parser takes, which knows less than others: no list of
//! lists (it is a `[]object`, and its comment says of what), and no comment between fields, so that
//! what is said of fields stands above, a line each. Replies that are an enum, told apart by their
//! phase, are one record to it. Nothing here knows any one interface.

use std::collections::HashSet;
use std::fmt::Write;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use crate::interface::{Method, OURS, WireError};

/// Longest line, where words allow it.
const COLUMNS: usize = 120;

/// A text that grows.
pub(crate) struct Text {
    schemas: SchemaGenerator,
    /// Types that it has.
    types: HashSet<String>,
    text: String,
}

/// A field as the IDL has it.
struct Field {
    name: String,
    /// Its type, in the IDL's words.
    kind: String,
    /// The struct that it is made of, if any.
    made_of: Option<String>,
    /// What its comment says.
    doc: String,
}

impl Field {
    fn may_be_absent(&mut self) {
        if !self.kind.starts_with('?') {
            self.kind.insert(0, '?');
        }
    }
}

impl Text {
    /// A text with its head.
    pub(crate) fn new(interface: &str, docs: &[&str]) -> Self {
        // Of what is sent: a field that may be left out is optional.
        let schemas = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let mut text = Self { schemas, types: HashSet::new(), text: String::new() };
        text.paragraphs(&docs.join("\n"));
        text.line(&format!("interface {interface}"));
        text
    }

    /// Adds a method, below the types that it is the first to need.
    pub(crate) fn method<M: Method>(&mut self, docs: &[&str]) {
        let (takes, gives) = (self.fields_of::<M::In>(), self.fields_of::<M::Out>());
        self.add_method(last(M::NAME), &takes, &gives, docs);
    }

    /// The same for every method: what is generic is compiled once for each of them.
    fn add_method(&mut self, name: &str, takes: &[Field], gives: &[Field], docs: &[&str]) {
        self.types_of(takes);
        self.types_of(gives);
        self.line("");
        self.paragraphs(&docs.join("\n"));
        self.comments(takes, "");
        self.comments(gives, "-> ");
        let head = format!("method {name}");
        let short = format!("{head}{} -> {}", on_one_line(takes), on_one_line(gives));
        if short.len() <= COLUMNS {
            self.line(&short);
        } else {
            self.line(&format!("{head}{} -> {}", on_lines(takes), on_lines(gives)));
        }
    }

    /// Adds an error; one of ours has a message and a flag before its data.
    pub(crate) fn error<E: WireError>(&mut self, docs: &[&str]) {
        let fields = self.fields_of::<E>();
        self.add_error(E::NAME, fields, docs);
    }

    /// The same for every error.
    fn add_error(&mut self, qualified: &str, own: Vec<Field>, docs: &[&str]) {
        let mut fields = Vec::new();
        if qualified.starts_with(OURS) {
            let common = [("message", "string"), ("retryable", "bool")];
            let field = |(name, kind): (&str, &str)| Field {
                name: name.into(),
                kind: kind.into(),
                made_of: None,
                doc: String::new(),
            };
            fields.extend(common.map(field));
        }
        fields.extend(own);
        self.types_of(&fields);
        self.line("");
        self.paragraphs(&docs.join("\n"));
        self.line(&format!("error {} {}", last(qualified), on_one_line(&fields)));
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Writes a doc comment: what stands between empty lines is filled up.
    fn paragraphs(&mut self, doc: &str) {
        for paragraph in doc.split("\n\n") {
            self.filled(paragraph, "# ", "# ");
        }
    }

    /// Writes what is said of fields.
    fn comments(&mut self, fields: &[Field], mark: &str) {
        for field in fields.iter().filter(|field| !field.doc.is_empty()) {
            self.filled(&format!("{mark}{}: {}", field.name, field.doc), "#   ", "#     ");
        }
    }

    /// Writes words on as many lines as they need.
    fn filled(&mut self, words: &str, first: &str, next: &str) {
        let mut line = String::new();
        for word in words.split_whitespace() {
            if line.is_empty() {
                line = format!("{first}{word}");
            } else if line.chars().count() + 1 + word.chars().count() <= COLUMNS {
                line.push(' ');
                line.push_str(word);
            } else {
                self.line(&line);
                line = format!("{next}{word}");
            }
        }
        if !line.is_empty() {
            self.line(&line);
        }
    }

    /// Writes the types that these fields are made of, and what those are made of, unless they
    /// stand there already.
    fn types_of(&mut self, fields: &[Field]) {
        for name in fields.iter().filter_map(|field| field.made_of.as_deref()) {
            if !self.types.insert(name.to_owned()) {
                continue;
            }
            let schema = self.definition(name).clone();
            let fields = self.fields(&schema);
            self.line("");
            self.paragraphs(schema["description"].as_str().unwrap_or_default());
            self.comments(&fields, "");
            let short = format!("type {name} {}", on_one_line(&fields));
            if short.len() <= COLUMNS {
                self.line(&short);
            } else {
                self.line(&format!("type {name} {}", on_lines(&fields)));
            }
            self.types_of(&fields);
        }
    }

    /// The fields of a Rust struct, or of an enum's variants.
    fn fields_of<T: JsonSchema>(&mut self) -> Vec<Field> {
        let schema = self.schemas.subschema_for::<T>().to_value();
        self.fields(&schema)
    }

    /// The fields of a schema: of a struct, or of an enum whose variants are structs.
    fn fields(&self, schema: &Value) -> Vec<Field> {
        if let Some(variants) = schema["anyOf"].as_array() {
            return one_record(variants.iter().map(|variant| self.fields(variant)).collect());
        }
        // Of a variant the tag stands beside the reference to what it holds.
        let mut fields = self.own_fields(schema);
        if let Some(reference) = schema["$ref"].as_str() {
            fields.extend(self.fields(self.definition(named(reference))));
        }
        fields
    }

    /// The fields that stand in a schema itself.
    fn own_fields(&self, schema: &Value) -> Vec<Field> {
        let always = |name: &str| {
            schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let field = |(name, schema): (&String, &Value)| {
            let mut kind = self.kind(schema);
            let mut doc = schema["description"].as_str().unwrap_or_default().to_owned();
            let made_of = kind
                .rsplit(['?', ']'])
                .next()
                .filter(|last| last.starts_with(char::is_uppercase))
                .map(str::to_owned);
            if let Some(at) = kind.find("[][]") {
                let _ = write!(doc, " (A list of lists of {}.)", &kind[at + 4..]);
                kind.replace_range(at + 2.., "object");
            }
            let mut field = Field { name: name.clone(), kind, made_of, doc };
            if !always(name) {
                field.may_be_absent();
            }
            field
        };
        properties.map(field).collect()
    }

    /// A schema in the IDL's words.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str().map(named) {
            // An enum of words is a string: the words of an IDL enum could not grow.
            return if self.definition(name)["properties"].is_object() {
                name.to_owned()
            } else {
                "string".to_owned()
            };
        }
        if let Some(inner) =
            schema["anyOf"].as_array().and_then(|any| any.iter().find(|one| one["type"] != "null"))
        {
            return format!("?{}", self.kind(inner));
        }
        let (plain, is_null_too) = match &schema["type"] {
            Value::String(one) => (one.as_str(), false),
            Value::Array(many) => {
                let mut names = many.iter().filter_map(Value::as_str);
                (names.find(|name| *name != "null").unwrap_or_default(), many.len() > 1)
            }
            // Any JSON: its schema has no type.
            _ => ("", false),
        };
        let kind = match plain {
            "boolean" => "bool".to_owned(),
            "integer" => "int".to_owned(),
            "number" => "float".to_owned(),
            "string" => "string".to_owned(),
            "array" => format!("[]{}", self.kind(&schema["items"])),
            "object" if schema["additionalProperties"].is_object() => {
                format!("[string]{}", self.kind(&schema["additionalProperties"]))
            }
            _ => "object".to_owned(),
        };
        if is_null_too { format!("?{kind}") } else { kind }
    }

    fn definition(&self, name: &str) -> &Value {
        &self.schemas.definitions()[name]
    }
}

/// The fields of all variants as those of one record: first what every variant has, then the
/// others, which may be absent. What is said of a field is what the first variant says that says
/// anything.
fn one_record(variants: Vec<Vec<Field>>) -> Vec<Field> {
    let count = variants.len();
    let mut all: Vec<(Field, usize)> = Vec::new();
    for field in variants.into_iter().flatten() {
        let Some((known, times)) = all.iter_mut().find(|(known, _)| known.name == field.name)
        else {
            all.push((field, 1));
            continue;
        };
        *times += 1;
        if field.kind.starts_with('?') {
            known.may_be_absent();
        }
        if known.doc.is_empty() {
            known.doc = field.doc;
        }
    }
    let (everywhere, mut others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, times)| *times == count);
    others.iter_mut().for_each(|(field, _)| field.may_be_absent());
    everywhere.into_iter().chain(others).map(|(field, _)| field).collect()
}

/// The name at the end of a schema's reference.
fn named(reference: &str) -> &str {
    last_after(reference, '/')
}

/// A method's or an error's own name.
fn last(qualified: &str) -> &str {
    last_after(qualified, '.')
}

fn last_after(text: &str, mark: char) -> &str {
    text.rsplit(mark).next().unwrap_or(text)
}

fn on_one_line(fields: &[Field]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|field| format!("{}: {}", field.name, field.kind)).collect();
    format!("({})", fields.join(", "))
}

fn on_lines(fields: &[Field]) -> String {
    if on_one_line(fields).len() <= COLUMNS / 2 {
        return on_one_line(fields);
    }
    let fields: Vec<String> =
        fields.iter().map(|field| format!("  {}: {}", field.name, field.kind)).collect();
    format!("(\n{}\n)", fields.join(",\n"))
}
