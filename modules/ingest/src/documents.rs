//! Documents: a row a file. Text, Markdown and source code are read whole, of HTML the text; what
//! is no text in UTF-8, UTF-16 or Windows-1252 is quarantined.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use brahman_storage::digest::{hex, sha256};

use crate::encoding::{self, Encoding};
use crate::html::{self, HtmlError};
use crate::source::{File, path_text};

/// A longer file is no document that a person wrote.
pub const DOCUMENT_BYTES_MAX: u64 = 16 << 20;
/// A batch is closed at this much text.
const BATCH_BYTES: usize = 4 << 20;

/// One document, as it becomes a row.
#[derive(Debug)]
pub struct Document {
    id: String,
    path: String,
    kind: &'static str,
    text: String,
    sha256: String,
    modified_us: i64,
    encoding: Encoding,
}

impl Document {
    /// Bytes of its text.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty document is as good as any")]
    pub fn len(&self) -> u64 {
        self.text.len() as u64
    }
}

/// Columns of a dataset of documents.
#[must_use]
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("id"),
        text("path"),
        text("kind"),
        text("text"),
        Field::new("bytes", DataType::UInt64, false),
        text("sha256"),
        Field::new(
            "modified",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            false,
        ),
    ]))
}

/// Why a file is left out.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// No person wrote so much.
    #[error("has {bytes} bytes, a document at most {DOCUMENT_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// It holds bytes that no text has.
    #[error("is binary")]
    Binary,
    /// Its bytes are no text.
    #[error("is not UTF-8 at byte {at}, nor all of it Windows-1252")]
    NotUtf8 {
        /// The first that is none.
        at: usize,
    },
    /// It is a page that cannot be read.
    #[error(transparent)]
    Html(#[from] HtmlError),
}

/// Reads a file.
///
/// # Errors
/// [`DocumentError`], why it is left out.
pub fn read(file: &File) -> Result<Document, DocumentError> {
    let meta = std::fs::metadata(&file.path)?;
    if meta.len() > DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLong { bytes: meta.len() });
    }
    let bytes = std::fs::read(&file.path)?;
    let hash = hex(&sha256(&bytes));
    let read = encoding::whole_text(bytes).map_err(|at| DocumentError::NotUtf8 { at })?;
    let (text, encoding) = read.ok_or(DocumentError::Binary)?;
    let kind = kind(&file.id);
    let text = if kind == "html" { html::text(&text)? } else { text };
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok(Document {
        id: file.id.clone(),
        path: path_text(&file.path),
        kind,
        text,
        sha256: hash,
        encoding,
        modified_us: modified.and_then(|d| i64::try_from(d.as_micros()).ok()).unwrap_or(0),
    })
}

/// What a file is, by its ending.
fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase().as_str() {
        "md" | "markdown" | "mdx" => "markdown",
        "html" | "htm" => "html",
        "rs" | "py" | "c" | "h" | "cc" | "cpp" | "hpp" | "go" | "js" | "ts" | "tsx" | "jsx"
        | "java" | "kt" | "rb" | "sh" | "sql" | "swift" | "scala" | "lua" | "pl" => "source",
        "toml" | "yaml" | "yml" | "json" | "ini" | "cfg" | "conf" | "service" | "socket"
        | "varlink" => "configuration",
        _ => "text",
    }
}

/// Gathers documents into batches of bounded size.
#[derive(Debug, Default)]
pub struct Batcher {
    documents: Vec<Document>,
    bytes: usize,
    /// Documents that are not in UTF-8, by how they are written, with the first of each.
    foreign: BTreeMap<&'static str, (u64, String)>,
}

impl Batcher {
    /// Adds a document; gives a batch once there is enough.
    ///
    /// # Errors
    /// Never in practice: columns of one length.
    pub fn push(&mut self, document: Document) -> Result<Option<RecordBatch>, ArrowError> {
        self.bytes += document.text.len();
        if document.encoding != Encoding::Utf8 {
            self.foreign
                .entry(document.encoding.name())
                .or_insert_with(|| (0, document.id.clone()))
                .0 += 1;
        }
        self.documents.push(document);
        if self.bytes >= BATCH_BYTES { self.finish() } else { Ok(None) }
    }

    /// How texts were written that are not in UTF-8.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let words = |(name, (count, first)): (&&str, &(u64, String))| match count {
            1 => format!("`{first}` was read as {name}"),
            _ => format!("{count} files were read as {name}, the first of them `{first}`"),
        };
        self.foreign.iter().map(words).collect()
    }

    /// What is left.
    ///
    /// # Errors
    /// Never in practice: columns of one length.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let all = std::mem::take(&mut self.documents);
        self.bytes = 0;
        if all.is_empty() {
            return Ok(None);
        }
        let text = |f: fn(&Document) -> &str| {
            Arc::new(all.iter().map(|d| Some(f(d))).collect::<StringArray>()) as ArrayRef
        };
        let columns = vec![
            text(|d| &d.id),
            text(|d| &d.path),
            text(|d| d.kind),
            text(|d| &d.text),
            Arc::new(all.iter().map(|d| d.text.len() as u64).collect::<UInt64Array>()) as ArrayRef,
            text(|d| &d.sha256),
            Arc::new(
                all.iter()
                    .map(|d| Some(d.modified_us))
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
        ];
        RecordBatch::try_new(schema(), columns).map(Some)
    }
}
