//! Binary COPY into Arrow columns.
//!
//! The stream is a header, then rows: a count of fields, and each field as a length (−1 is NULL)
//! and big-endian bytes. A value that the Arrow type cannot hold becomes NULL and is counted; a
//! value that is not what its type says ends the reading. Pure. This file cuts the stream into rows
//! and values; `column` holds them, `numeric` reads PostgreSQL's own decimals.

mod column;
mod numeric;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use thiserror::Error;

use super::shape::Shape;
use column::Column;

/// What a binary COPY begins with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Rows a batch.
const BATCH_ROWS: usize = 8192;
/// Bytes of the source a batch.
const BATCH_BYTES: usize = 4 << 20;

/// Bytes that are not what they should be.
#[derive(Debug, Error)]
pub enum Malformed {
    /// They are no binary COPY of these columns.
    #[error("the server's binary COPY is not understood: {what}")]
    Copy {
        /// What is wrong with them.
        what: String,
    },
    /// They cannot be put into columns.
    #[error("the server's binary COPY does not fit its columns")]
    Columns(#[from] ArrowError),
}

impl From<Malformed> for crate::table::ReadError {
    fn from(error: Malformed) -> Self {
        Self::malformed(error)
    }
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed::Copy { what: what.into() })
}

/// Reads a value from the front of bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        match self.0.split_at_checked(n) {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(bytes)
            }
            None => malformed(format!("{} bytes where {n} were announced", self.0.len())),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.0.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(*bytes)
            }
            None => malformed(format!("{} bytes, expected {N}", self.0.len())),
        }
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A length and that many bytes; `None` for NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            n => match usize::try_from(n) {
                Ok(n) => self.bytes(n).map(Some),
                Err(_) => malformed(format!("a length of {n}")),
            },
        }
    }
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().or_else(|_| malformed(format!("{} bytes for a type of {N}", bytes.len())))
}

/// Adds what could be held; whether it could.
pub(crate) fn put<T>(value: Option<T>, append: impl FnOnce(T)) -> bool {
    value.map(append).is_some()
}

/// Rows while they are read.
pub struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// NULLs put for what Arrow cannot hold, by column.
    pub nulls_made: Vec<u64>,
    rows: usize,
    bytes: usize,
    carry: Vec<u8>,
    begun: bool,
    ended: bool,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// The end of the row that begins here, if it is whole.
fn row_end(bytes: &[u8]) -> Option<usize> {
    let fields = i16::from_be_bytes(*bytes.first_chunk()?);
    let mut at = 2;
    for _ in 0..fields.max(0) {
        let length = i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    (at <= bytes.len()).then_some(at)
}

impl Rows {
    /// An empty batch of this schema, whose columns have these shapes.
    #[must_use]
    pub fn new(schema: SchemaRef, shapes: &[Shape]) -> Self {
        Self {
            schema,
            columns: shapes.iter().map(Column::of).collect(),
            nulls_made: vec![0; shapes.len()],
            rows: 0,
            bytes: 0,
            carry: Vec::new(),
            begun: false,
            ended: false,
        }
    }

    /// A new COPY begins.
    pub fn begin(&mut self) {
        (self.begun, self.ended) = (false, false);
        self.carry.clear();
    }

    /// Takes a piece of the stream; the server sends a row at a time, but need not.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn take(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        if self.carry.is_empty() {
            let rest = self.whole_rows(piece)?;
            self.carry.extend_from_slice(rest);
        } else {
            let mut all = std::mem::take(&mut self.carry);
            all.extend_from_slice(piece);
            let rest = self.whole_rows(&all)?.len();
            all.drain(..all.len() - rest);
            self.carry = all;
        }
        Ok(())
    }

    fn whole_rows<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        if !self.begun {
            let Some(head) = bytes.get(..SIGNATURE.len() + 8) else { return Ok(bytes) };
            if !head.starts_with(SIGNATURE) {
                return malformed("it does not begin with PGCOPY");
            }
            let extension = i32::from_be_bytes(exact(&head[SIGNATURE.len() + 4..])?);
            let Some(rest) = bytes.get(head.len() + usize::try_from(extension).unwrap_or(0)..)
            else {
                return Ok(bytes);
            };
            (self.begun, bytes) = (true, rest);
        }
        while let Some(end) = row_end(bytes) {
            let (row, rest) = bytes.split_at(end);
            bytes = rest;
            self.row(row)?;
        }
        Ok(bytes)
    }

    fn row(&mut self, row: &[u8]) -> Result<(), Malformed> {
        let mut cursor = Cursor(row);
        let fields = cursor.i16()?;
        if fields == -1 {
            self.ended = true;
            return Ok(());
        }
        if usize::try_from(fields) != Ok(self.columns.len()) || self.ended {
            return malformed(format!("a row of {fields} fields, expected {}", self.columns.len()));
        }
        for (column, made) in self.columns.iter_mut().zip(&mut self.nulls_made) {
            *made += column.add(cursor.value()?)?;
        }
        self.rows += 1;
        self.bytes += row.len();
        Ok(())
    }

    /// Whether the batch is large enough to be written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// Whether the stream ended where a stream ends.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ended && self.carry.is_empty()
    }

    /// The rows so far and their bytes at the source, if there are any; the next batch is empty.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn batch(&mut self) -> Result<Option<(RecordBatch, u64)>, Malformed> {
        if self.rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let bytes = self.bytes as u64;
        (self.rows, self.bytes) = (0, 0);
        Ok(Some((batch, bytes)))
    }
}
