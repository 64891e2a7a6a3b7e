//! How a file or a table is read, as a command line says it.

use std::collections::BTreeMap;

use brahman_card::interface::ingest::CsvFormat;
use clap::Args;

/// How CSV is written; what is not said is guessed, and the reply says what was.
#[derive(Args, Debug)]
pub(crate) struct Csv {
    /// CSV: what separates fields, one character or tab [default: guessed]
    #[arg(long, value_name = "CHAR")]
    delimiter: Option<String>,
    /// CSV: what surrounds fields; none if nothing does [default: "]
    #[arg(long, value_name = "CHAR")]
    quote: Option<String>,
    /// CSV: what stands before a quote within a field; none if it is doubled [default: guessed]
    #[arg(long, value_name = "CHAR")]
    escape: Option<String>,
    /// CSV: whether the first record names the columns [default: guessed]
    #[arg(long, value_name = "BOOL")]
    header: Option<bool>,
    /// CSV: lines left out before the header [default: guessed]
    #[arg(long, value_name = "LINES")]
    skip: Option<u64>,
    /// CSV: a word for a missing value; may be repeated [default: NA, N/A, #N/A, NULL and \N,
    /// except in columns of text]
    #[arg(long, value_name = "WORD")]
    null: Vec<String>,
    /// CSV: utf-8, utf-16le, utf-16be or windows-1252 [default: guessed]
    #[arg(long)]
    encoding: Option<String>,
    /// CSV: guess, or text for every column, or NAME=TYPE,… for some [default: guess]
    #[arg(long, value_name = "TYPES")]
    types: Vec<String>,
    /// CSV: what stands before a number's fraction, point or comma [default: point]
    #[arg(long, value_parser = ["point", "comma"])]
    decimal: Option<String>,
    /// CSV: how dates are written besides 2024-12-31: day-first or month-first [default: iso]
    #[arg(long, value_parser = ["iso", "day-first", "month-first"])]
    dates: Option<String>,
    /// CSV: read what a record has too few of as NULL [default: leave such records out]
    #[arg(long)]
    null_padding: bool,
}

impl Csv {
    /// As it goes to the mesh; none if nothing is said.
    ///
    /// # Errors
    /// If a type is said of no column.
    pub(crate) fn format(self) -> anyhow::Result<Option<CsvFormat>> {
        let Self {
            delimiter,
            quote,
            escape,
            header,
            skip,
            null,
            encoding,
            types,
            decimal,
            dates,
            null_padding,
        } = self;
        let nulls = Some(null).filter(|null| !null.is_empty());
        let (mut all, mut of_columns) = (None, BTreeMap::new());
        for types in types {
            match types.as_str() {
                "guess" | "text" => all = Some(types),
                _ => of_columns.extend(column_types(&types)?),
            }
        }
        let column_types = Some(of_columns).filter(|types| !types.is_empty());
        let null_padding = null_padding.then_some(true);
        let said = CsvFormat {
            delimiter,
            quote,
            escape,
            header,
            skip,
            nulls,
            encoding,
            types: all,
            column_types,
            decimal,
            dates,
            null_padding,
        };
        Ok((said != CsvFormat::default()).then_some(said))
    }
}

/// `id=int64,price=decimal(10,2)`: types by the names of columns. A comma within a name or a type's
/// digits separates nothing.
pub(super) fn column_types(said: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let (mut types, mut part, mut depth) = (BTreeMap::new(), String::new(), 0_usize);
    for c in said.chars().chain([',']) {
        match c {
            ',' if depth == 0 && part.contains('=') => {
                let (name, kind) = part.rsplit_once('=').unwrap_or_default();
                types.insert(name.to_owned(), kind.to_owned());
                part.clear();
                continue;
            }
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        part.push(c);
    }
    let rest = part.trim_end_matches(',');
    anyhow::ensure!(
        rest.is_empty(),
        "--types: `{rest}` says no type: expected guess, text, or NAME=TYPE,… such as id=int64"
    );
    Ok(types)
}

/// Where a table is and how it is read.
#[derive(Args, Debug)]
pub(crate) struct Table {
    /// URL of the database, or secret:NAME; prefer a secret, since a password on the command line
    /// is visible to other users
    #[arg(long, env = "BRAHMAN_DSN", hide_env_values = true)]
    pub(super) dsn: String,
    /// A table or view, as SQL names it; may be repeated, then each becomes a dataset DATASET.TABLE
    #[arg(long, required_unless_present_any = ["query", "schema"], conflicts_with_all = ["query", "schema"])]
    pub(super) table: Vec<String>,
    /// A SELECT, instead of a table; - reads it from standard input
    #[arg(long, conflicts_with = "schema")]
    pub(super) query: Option<String>,
    /// All tables of a schema instead, each a dataset DATASET.TABLE
    #[arg(long)]
    pub(super) schema: Option<String>,
    /// full: one snapshot; incremental: rows above the last --cursor; keyset: in parts by --key,
    /// resumable, not one snapshot
    #[arg(long, default_value = "full", value_parser = ["full", "incremental", "keyset"])]
    pub(super) mode: String,
    /// Column whose values only grow, such as updated_at (incremental)
    #[arg(long, value_name = "COLUMN")]
    pub(super) cursor: Option<String>,
    /// Column that identifies a row; may be repeated (incremental), once (keyset)
    #[arg(long, value_name = "COLUMN")]
    pub(super) key: Vec<String>,
    /// Read again this many seconds or units below the last cursor, for late commits (incremental)
    #[arg(long)]
    pub(super) lag: Option<u64>,
    /// Rows per part (keyset) [default: 500000]
    #[arg(long, value_name = "ROWS")]
    pub(super) chunk: Option<u64>,
    /// Maximum number of workers [default: one per core]
    #[arg(long)]
    pub(super) parallel: Option<u64>,
    /// Seconds for which the snapshot may be held [default: 3600]
    #[arg(long, value_name = "S")]
    pub(super) deadline: Option<u64>,
    /// Seconds for which the server may send nothing [default: 300]
    #[arg(long, value_name = "S")]
    pub(super) stall: Option<u64>,
    /// Do not look for personal data
    #[arg(long)]
    pub(super) no_pii: bool,
    /// Bucket to write to [default: where the dataset is already stored, at first primary]
    #[arg(long)]
    pub(super) bucket: Option<String>,
}
