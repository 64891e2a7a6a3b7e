//! Synthetic tables, for clients that are tested without a database: every kind of type, and
//! columns of made-up personal data that say so. The same seed and number of rows give the same
//! table on every machine and day.
//!
//! `rows` (1,000 unless said) and `seed` stand in the DSN's query; without a seed it is the table's
//! or query's own text.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, Decimal128Builder, Decimal256Builder, ListBuilder, StringBuilder,
    StringDictionaryBuilder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow_buffer::i256;
use arrow_schema::{DataType, Field, Fields, Schema};
use brahman_card::interface::catalog::Column;
use brahman_storage::digest::sha256;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dsn::Dsn;
use crate::run::Progress;
use crate::sink::{Place, Sink};
use crate::table::{
    HeldTables, ReadError, ReadOptions, TableName, TableRead, TableSet, TableSource,
};
use crate::window::Reach;

/// Rows unless the DSN says otherwise.
const ROWS: u64 = 1000;
/// Most rows: minutes of writing.
const ROWS_MAX: u64 = 100_000_000;
/// Rows a batch.
const BATCH_ROWS: u64 = 8192;
/// 2020-01-01 in days and in microseconds since 1970.
const DAY_2020: i32 = 18_262;
const US_2020: i64 = DAY_2020 as i64 * 86_400_000_000;

const COLOURS: [&str; 4] = ["red", "green", "blue", "black"];
const FIRST: [&str; 8] = ["Ada", "Björn", "Chen", "Dilnoza", "Emeka", "Fátima", "Grace", "Hiro"];
const LAST: [&str; 8] =
    ["Ahlström", "Botha", "Costa", "Dubois", "Eze", "Fischer", "Gupta", "Haddad"];

/// The n-th number of a cell: splitmix64, whose words are even and need no state.
struct Cell(u64);

impl Cell {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between 0 and 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }

    fn digits(&mut self, n: usize) -> String {
        (0..n).map(|_| char::from(b'0' + (self.below(10) as u8))).collect()
    }
}

/// A card number with a right last digit (Luhn).
fn card(cell: &mut Cell) -> String {
    let digits = format!("4{}", cell.digits(14));
    let sum: u32 = digits
        .bytes()
        .rev()
        .zip(0..)
        .map(|(b, i)| {
            let digit = u32::from(b - b'0') * if i % 2 == 0 { 2 } else { 1 };
            digit / 10 + digit % 10
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

/// A German IBAN with right check digits (ISO 7064, mod 97).
fn iban(cell: &mut Cell) -> String {
    let account = cell.digits(18);
    // D and E are 13 and 14; the check digits stand as 00 while they are reckoned.
    let rest = format!("{account}131400")
        .bytes()
        .fold(0_u64, |rest, b| (rest * 10 + u64::from(b - b'0')) % 97);
    format!("DE{:02}{account}", 98 - rest)
}

/// Rows `from..to` of the table of a seed.
fn batch(seed: u64, from: u64, to: u64) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let cells = |column: u64| {
        (from..to)
            .map(move |row| Cell(seed ^ (column << 56) ^ row.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    };
    let texts = |column: u64, make: &dyn Fn(&mut Cell) -> String| -> ArrayRef {
        Arc::new(cells(column).map(|mut c| Some(make(&mut c))).collect::<StringArray>())
    };
    let mut price = Decimal128Builder::new().with_precision_and_scale(12, 2)?;
    cells(9).for_each(|mut c| price.append_value(i128::from(c.below(1_000_000))));
    let mut wide = Decimal256Builder::new().with_precision_and_scale(50, 5)?;
    cells(10).for_each(|mut c| {
        wide.append_value(i256::from_i128(i128::from(c.next()) * i128::from(c.next() >> 8)));
    });
    let mut raw = BinaryBuilder::new();
    cells(16).for_each(|mut c| raw.append_value(c.next().to_be_bytes()));
    let mut colour = StringDictionaryBuilder::<Int32Type>::new();
    cells(17).try_for_each(|mut c| colour.append(c.pick(&COLOURS)).map(drop))?;
    let mut tags = ListBuilder::new(StringBuilder::new());
    for mut c in cells(18) {
        (0..c.below(3)).for_each(|_| tags.values().append_value(c.pick(&COLOURS)));
        tags.append(true);
    }
    let point: Fields =
        ["x", "y"].map(|name| Field::new(name, DataType::Float64, false)).into_iter().collect();
    let xs = |column| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(cells(column).map(|mut c| c.share())))
    };
    let place = StructArray::try_new(point, vec![xs(19), xs(20)], None)?;
    let day = |c: &mut Cell, days: u64| DAY_2020 + i32::try_from(c.below(days)).unwrap_or(0);
    let instant = |c: &mut Cell| US_2020 + i64::try_from(c.below(100_000_000_000_000)).unwrap_or(0);
    let note = |mut c: Cell| {
        (c.below(10) > 0).then(|| format!("{} note {}", c.pick(&COLOURS), c.below(1000)))
    };
    let columns: Vec<(&str, ArrayRef, Option<&str>)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values((from..to).map(|row| row as i64 + 1))), None),
        (
            "flag",
            Arc::new(cells(1).map(|mut c| Some(c.below(2) == 1)).collect::<BooleanArray>()),
            None,
        ),
        ("tiny", Arc::new(Int8Array::from_iter_values(cells(2).map(|mut c| c.next() as i8))), None),
        (
            "small",
            Arc::new(Int16Array::from_iter_values(cells(3).map(|mut c| c.next() as i16))),
            None,
        ),
        (
            "medium",
            Arc::new(Int32Array::from_iter_values(cells(4).map(|mut c| c.next() as i32))),
            None,
        ),
        (
            "large",
            Arc::new(
                cells(5)
                    .map(|mut c| (c.below(10) > 0).then(|| c.next() as i64))
                    .collect::<Int64Array>(),
            ),
            None,
        ),
        (
            "count",
            Arc::new(UInt32Array::from_iter_values(cells(6).map(|mut c| c.next() as u32))),
            None,
        ),
        (
            "ratio",
            Arc::new(Float32Array::from_iter_values(cells(7).map(|mut c| c.share() as f32))),
            None,
        ),
        (
            "score",
            Arc::new(Float64Array::from_iter_values(cells(8).map(|mut c| c.share() * 2.0 - 1.0))),
            None,
        ),
        ("price", Arc::new(price.finish()), None),
        ("wide", Arc::new(wide.finish()), None),
        (
            "day",
            Arc::new(Date32Array::from_iter_values(cells(11).map(|mut c| day(&mut c, 2000)))),
            None,
        ),
        (
            "at",
            Arc::new(Time64MicrosecondArray::from_iter_values(
                cells(12).map(|mut c| c.below(86_400_000_000) as i64),
            )),
            None,
        ),
        (
            "created",
            Arc::new(TimestampMicrosecondArray::from_iter_values(
                cells(13).map(|mut c| instant(&mut c)),
            )),
            None,
        ),
        (
            "updated",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(cells(14).map(|mut c| instant(&mut c)))
                    .with_timezone("UTC"),
            ),
            None,
        ),
        ("note", Arc::new(cells(15).map(note).collect::<StringArray>()), None),
        ("raw", Arc::new(raw.finish()), None),
        ("colour", Arc::new(colour.finish()), None),
        ("tags", Arc::new(tags.finish()), None),
        ("place", Arc::new(place), None),
        (
            "full_name",
            texts(21, &|c| format!("{} {}", c.pick(&FIRST), c.pick(&LAST))),
            Some("person_name"),
        ),
        (
            "email",
            texts(22, &|c| {
                format!("{}{}@example.org", c.pick(&FIRST).to_lowercase(), c.below(1000))
            }),
            Some("email"),
        ),
        ("phone", texts(23, &|c| format!("+49 30 {}", c.digits(8))), Some("phone")),
        ("iban", texts(24, &iban), Some("iban")),
        ("card", texts(25, &card), Some("credit_card")),
        ("ip", texts(26, &|c| format!("192.0.2.{}", c.below(256))), Some("ip_address")),
        (
            "born",
            Arc::new(Date32Array::from_iter_values(
                cells(27).map(|mut c| day(&mut c, 20_000) - 25_000),
            )),
            Some("date_of_birth"),
        ),
    ];
    let fields = columns.iter().map(|(name, column, pii)| {
        let metadata: HashMap<String, String> =
            pii.iter().map(|label| ("pii".to_owned(), (*label).to_owned())).collect();
        Field::new(*name, column.data_type().clone(), true).with_metadata(metadata)
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(
        Arc::new(schema),
        columns.into_iter().map(|(_, column, _)| column).collect(),
    )
}

/// Why no table is made up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MockError {
    /// A number of the URL is none.
    #[error("dsn: its {name} is not a number")]
    NoNumber {
        /// What it is called.
        name: String,
    },
    /// More rows than anybody wants.
    #[error("dsn: {rows} rows, expected at most {ROWS_MAX}")]
    TooMany {
        /// So many.
        rows: u64,
    },
    /// There is nothing that would be listed.
    #[error("schema: the mock has none; expected table or tables")]
    NoSchemas,
}

impl From<MockError> for ReadError {
    fn from(error: MockError) -> Self {
        Self::bad(error)
    }
}

fn number(dsn: &Dsn, name: &str) -> Result<Option<u64>, ReadError> {
    let query = dsn.url().split_once('?').map_or("", |(_, query)| query);
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found
        .map(|n| n.parse().map_err(|_| MockError::NoNumber { name: name.to_owned() }.into()))
        .transpose()
}

/// The tables that were named; there are no schemas.
///
/// # Errors
/// If a schema is asked for.
pub fn hold(
    _dsn: &Dsn,
    _how: &ReadOptions,
    which: &TableSet,
    _cancel: &CancellationToken,
) -> Result<HeldTables, ReadError> {
    match which {
        TableSet::Tables(tables) => Ok(HeldTables {
            tables: tables.iter().map(|table| TableName::of(table)).collect(),
            snapshot: None,
            end: None,
        }),
        TableSet::Schema(_) => Err(MockError::NoSchemas.into()),
    }
}

/// Makes the table that a DSN asks for.
///
/// # Errors
/// If it asks for too much, is cancelled, or the disk refuses.
pub fn read(
    dsn: &Dsn,
    what: &TableSource,
    _how: &ReadOptions,
    place: &Place,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<TableRead, ReadError> {
    let (TableSource::Table(text) | TableSource::Query(text)) = what;
    let rows = number(dsn, "rows")?.unwrap_or(ROWS);
    if rows > ROWS_MAX {
        return Err(MockError::TooMany { rows }.into());
    }
    let own = || sha256(text.as_bytes()).first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let seed = number(dsn, "seed")?.unwrap_or_else(own);
    let schema = batch(seed, 0, 0).map_err(ReadError::malformed)?.schema();
    let mut sink = Sink::create(place, 0, Arc::clone(&schema))?;
    progress.send_modify(|p| p.phase = "read");
    for from in (0..rows).step_by(usize::try_from(BATCH_ROWS).unwrap_or(1)) {
        if cancel.is_cancelled() {
            return Err(ReadError::Cancelled);
        }
        let batch = batch(seed, from, rows.min(from + BATCH_ROWS)).map_err(ReadError::malformed)?;
        sink.write(&batch)?;
        let (count, bytes) = (batch.num_rows() as u64, batch.get_array_memory_size() as u64);
        progress.send_modify(|p| (p.rows, p.bytes) = (p.rows + count, p.bytes + bytes));
    }
    let columns = schema.fields().iter().map(|field| Column {
        name: field.name().clone(),
        arrow_type: field.data_type().to_string(),
        source_type: field
            .metadata()
            .get("pii")
            .map_or_else(|| "synthetic".to_owned(), |label| format!("synthetic {label}")),
        nulls_made: 0,
    });
    Ok(TableRead {
        objects: vec![sink.finish()?],
        columns: columns.collect(),
        notes: vec![format!("synthetic rows of seed {seed}: no database was asked")],
        input: format!("mock://brahman/synthetic?seed={seed}&rows={rows}"),
        parallel: 1,
        reach: Reach::default(),
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;

    #[test]
    fn a_seed_gives_one_table_however_it_is_cut() {
        let whole = batch(7, 0, 100).expect("made");
        assert_eq!(whole.slice(40, 60), batch(7, 40, 100).expect("made").slice(0, 60));
        assert_ne!(whole, batch(8, 0, 100).expect("made"));
        // The values themselves: another machine, another day.
        let text = |name: &str| {
            whole.column_by_name(name).expect("there").as_string::<i32>().value(0).to_owned()
        };
        let numbers =
            whole.column_by_name("medium").expect("there").as_primitive::<Int32Type>().clone();
        assert_eq!((text("iban").len(), text("card").len(), numbers.len()), (22, 16, 100));
    }

    #[test]
    fn numbers_with_check_digits_are_right() {
        for n in 0..500 {
            let number = card(&mut Cell(n));
            let sum: u32 = number
                .bytes()
                .rev()
                .zip(0..)
                .map(|(b, i)| {
                    let digit = u32::from(b - b'0') * (1 + i % 2);
                    digit / 10 + digit % 10
                })
                .sum();
            assert!(sum.is_multiple_of(10) && number.len() == 16, "{number}");
            let iban = iban(&mut Cell(n));
            let moved = format!("{}1314{}", &iban[4..], &iban[2..4]);
            assert_eq!(
                moved.bytes().fold(0_u64, |rest, b| (rest * 10 + u64::from(b - b'0')) % 97),
                1,
                "{iban}"
            );
        }
    }
}
