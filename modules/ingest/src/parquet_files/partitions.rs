//! Columns that folders are named after, as Hive and Spark write them:
//! `year=2024/month=01/part-0.parquet`.
//!
//! Invariants: they are columns if every file lies in folders of the same names in the same order,
//! and has no column of its own called so; else they are none, which is said. Their type is the
//! narrowest that holds every value: whole numbers, dates, or text.

use std::io;

use arrow_array::ArrayRef;
use arrow_schema::{Field, Schema};

use crate::lattice::cells::Cells;
use crate::lattice::{Facts, Kind, Value};
use crate::source::File;

/// What stands for NULL.
const NULL_NAME: &str = "__HIVE_DEFAULT_PARTITION__";

/// Columns that the folders of files are named after.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    names: Vec<String>,
    kinds: Vec<Kind>,
    /// Of each file, by column.
    values: Vec<Vec<Option<String>>>,
}

impl Partitions {
    /// Those of files whose own columns are called so; and what is to be said of them, or if there
    /// are none where there could be. A type that the dataset's column has already stays, if it
    /// holds all values.
    pub(super) fn of(files: &[File], own: &[&str], kept: Option<&Schema>) -> (Self, Vec<String>) {
        let folders: Vec<Vec<(String, Option<String>)>> =
            files.iter().map(|file| folders(&file.id)).collect();
        let Some(first) = folders.iter().find(|folders| !folders.is_empty()) else {
            return (Self::default(), Vec::new());
        };
        let names: Vec<String> = first.iter().map(|(name, _)| name.clone()).collect();
        let is_same = |folders: &Vec<(String, Option<String>)>| {
            folders.iter().map(|(name, _)| name).eq(&names)
        };
        if let Some(at) = folders.iter().position(|folders| !is_same(folders)) {
            let words = format!(
                "folders such as `{}=` are no columns: not every file lies in such, as {} does not",
                names[0], files[at].id
            );
            return (Self::default(), vec![words]);
        }
        let twice = names
            .iter()
            .enumerate()
            .find(|(at, name)| own.contains(&name.as_str()) || names[..*at].contains(name));
        if let Some((_, name)) = twice {
            return (
                Self::default(),
                vec![format!(
                    "folders `{name}=` are no column: there is one of this name in the files"
                )],
            );
        }
        let values: Vec<Vec<Option<String>>> = folders
            .into_iter()
            .map(|of| of.into_iter().map(|(_, value)| value).collect())
            .collect();
        let mut notes = vec![format!("columns of folders' names: {}", names.join(", "))];
        let kind = |column: usize| {
            let mut facts = Facts::default();
            for value in values.iter().filter_map(|of| of[column].as_deref()) {
                facts.add(&scanned(value), value, 0);
            }
            let plain =
                |kind: Kind| if matches!(kind, Kind::Int | Kind::Date) { kind } else { Kind::Text };
            let before = kept
                .and_then(|schema| schema.field_with_name(&names[column]).ok())
                .map(Field::data_type);
            let (kind, own) = (plain(facts.kind_or(before)), plain(facts.kind()));
            if kind != own {
                let (name, kind, own) = (&names[column], kind.arrow(), own.arrow());
                notes.push(format!(
                    "column `{name}` keeps its type {kind}; read as a new dataset it is {own}"
                ));
            }
            kind
        };
        let kinds = (0..names.len()).map(kind).collect();
        (Self { names, kinds, values }, notes)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The columns.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field> {
        self.names.iter().zip(&self.kinds).map(|(name, kind)| Field::new(name, kind.arrow(), true))
    }

    /// Their values in so many rows of a file.
    pub(super) fn columns(&self, file: usize, rows: usize) -> io::Result<Vec<ArrayRef>> {
        let column = |(kind, value): (&Kind, &Option<String>)| {
            let mut cells = Cells::new(kind);
            for _ in 0..rows {
                let is_held = match value {
                    None => {
                        cells.push_null();
                        true
                    }
                    Some(text) => cells.push(&scanned(text), text),
                };
                if !is_held {
                    return Err(io::Error::other(
                        "a folder's name is not of the type that all are of",
                    ));
                }
            }
            Ok(cells.finish())
        };
        self.kinds.iter().zip(&self.values[file]).map(column).collect()
    }
}

/// What a folder's name says: a word for no value is none there, and an empty one is a text.
fn scanned(text: &str) -> Value {
    match Value::of_field(text) {
        Value::Absent | Value::Null => Value::Text,
        value => value,
    }
}

/// `name=value` of the folders that a file lies in.
fn folders(id: &str) -> Vec<(String, Option<String>)> {
    let above = id.rsplit_once('/').map_or("", |(above, _)| above);
    let named = above
        .split('/')
        .filter_map(|folder| folder.split_once('='))
        .filter(|(name, _)| !name.is_empty());
    named
        .map(|(name, value)| (decoded(name), (value != NULL_NAME).then(|| decoded(value))))
        .collect()
}

/// Without the escapes that stand for what no name of a folder has (`%2F`).
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escape = text
            .get(at + 1..at + 3)
            .filter(|_| *byte == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(escape.unwrap_or(*byte));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(ids: &[&str]) -> Vec<File> {
        ids.iter()
            .map(|id| File { path: format!("/data/{id}").into(), id: (*id).to_owned() })
            .collect()
    }

    #[test]
    fn folders_are_columns_if_all_files_have_them() {
        let of = |ids: &[&str], own: &[&str]| {
            let (parts, notes) = Partitions::of(&files(ids), own, None);
            let fields: Vec<String> = parts
                .fields()
                .map(|field| format!("{} {}", field.name(), field.data_type()))
                .collect();
            (fields.join(", "), !notes.is_empty())
        };
        let two = ["y=2024/d=2024-01-31/a", "y=2023/d=2023-01-01/b"];
        assert_eq!(of(&two, &["v"]), ("y Int64, d Date32".to_owned(), true));
        assert_eq!(of(&["y=01/a", "y=2/b"], &[]).0, "y Utf8", "digits after a zero");
        assert_eq!(of(&["y=1/a", "y=__HIVE_DEFAULT_PARTITION__/b"], &[]).0, "y Int64");
        assert_eq!(of(&two, &["d"]), (String::new(), true));
        assert_eq!(of(&["y=1/a", "b"], &[]), (String::new(), true));
        assert_eq!(of(&["x/a", "b"], &[]), (String::new(), false));
        let kept = Schema::new(vec![Field::new("y", arrow_schema::DataType::Utf8, true)]);
        let (parts, notes) = Partitions::of(&files(&two), &["v"], Some(&kept));
        let fields: Vec<String> =
            parts.fields().map(|field| field.data_type().to_string()).collect();
        assert!(
            fields == ["Utf8", "Date32"]
                && notes[1].contains("`y` keeps its type Utf8")
                && notes[1].contains("Int64"),
            "{notes:?}"
        );
        let (parts, _) = Partitions::of(&files(&["k=a%2Fb %é/x"]), &[], None);
        let column = &parts.columns(0, 2).expect("made")[0];
        let column = column.as_any().downcast_ref::<arrow_array::StringArray>().expect("text");
        assert_eq!(column.iter().flatten().collect::<Vec<_>>(), ["a/b %é", "a/b %é"]);
    }
}
