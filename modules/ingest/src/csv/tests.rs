//! Tables that are read as what they are, and lines that are refused by number.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use proptest::prelude::*;

use super::*;

fn of(bytes: &[u8]) -> (SchemaRef, Vec<RecordBatch>, Vec<(u64, String)>) {
    let (schema, batches, bad, _) = several(&[bytes], &CsvOptions::default());
    (schema, batches, bad)
}

type Outcome = (SchemaRef, Vec<RecordBatch>, Vec<(u64, String)>, Vec<String>);

fn several(files: &[&[u8]], said: &CsvOptions) -> Outcome {
    tried(files, said).expect("read")
}

fn tried(files: &[&[u8]], said: &CsvOptions) -> io::Result<Outcome> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let paths: Vec<PathBuf> =
        (0..files.len()).map(|i| folder.path().join(format!("{i}.csv"))).collect();
    paths.iter().zip(files).for_each(|(path, bytes)| std::fs::write(path, bytes).expect("written"));
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let (schema, batches, mut bad) =
        (std::cell::RefCell::new(None), std::cell::RefCell::new(Vec::new()), Vec::new());
    let mut open = |s| {
        *schema.borrow_mut() = Some(s);
        batches.borrow_mut().clear();
        Ok(())
    };
    let mut take = |b, _| {
        batches.borrow_mut().push(b);
        Ok(())
    };
    let how = TextOptions { csv: said.clone(), ..TextOptions::by(2) };
    let mut told = |_: &Path, row, why| bad.push((row, why));
    let notes = read(&paths, &how, &CancellationToken::new(), &mut open, &mut take, &mut told)?;
    Ok((schema.into_inner().expect("a schema"), batches.into_inner(), bad, notes))
}

#[test]
fn types_hold_for_every_row_and_bad_rows_are_named() {
    let (schema, batches, bad) =
        of(b"\xef\xbb\xbfid;zip;price;ok;note\n1;00123;1.5;true;x\n2;4;2;false;\n3;only three\n-4;5;1e3;true;\"a;\"\"b\"\n");
    let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
    assert_eq!(
        types,
        [
            &DataType::Int64,
            &DataType::Utf8,
            &DataType::Float64,
            &DataType::Boolean,
            &DataType::Utf8
        ]
    );
    assert_eq!(schema.field(0).name(), "id", "without the byte-order mark");
    let batch = &batches[0];
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, -4]);
    assert_eq!(batch.column(2).as_primitive::<Float64Type>().values(), &[1.5, 2.0, 1000.0]);
    assert!(batch.column(4).is_null(1));
    assert_eq!(batch.column(4).as_string::<i32>().value(2), "a;\"b");
    assert!(
        bad.len() == 1
            && bad[0].0 == 3
            && bad[0].1.starts_with("has 2 fields, the header has 5 (--null-padding"),
        "{bad:?}"
    );
    assert_eq!(
        of(b"id,n\n12345678901234567890,1\n2,2\n").0.field(0).data_type(),
        &DataType::UInt64,
        "to the last digit"
    );
}

#[test]
fn a_value_far_behind_widens_its_column_for_all_rows() {
    let mut text = String::from("id,n,e\n");
    (0..600_000).for_each(|i| text.push_str(&format!("{i},{},\n", i % 100)));
    text.push_str("last,0.5,late\n");
    assert!(text.len() > PIECE_BYTES, "{} bytes are one piece", text.len());
    let (schema, batches, bad) = of(text.as_bytes());
    let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
    assert_eq!(types, [&DataType::Utf8, &DataType::Float64, &DataType::Utf8]);
    assert_eq!((batches.iter().map(RecordBatch::num_rows).sum::<usize>(), bad.len()), (600_001, 0));
    let ids: Vec<&str> =
        batches.iter().flat_map(|b| b.column(0).as_string::<i32>().iter().flatten()).collect();
    assert!(
        ids[..600_000].iter().enumerate().all(|(i, id)| *id == i.to_string())
            && ids[600_000] == "last",
        "in order"
    );
}

#[test]
fn a_quote_that_never_closes_costs_its_line() {
    let mut text = String::from("a,b\n1,\"open\n");
    (0..10).for_each(|i| text.push_str(&format!("{i},x\n")));
    let (_, batches, bad) = of(text.as_bytes());
    assert_eq!(batches[0].num_rows(), 10);
    assert_eq!(
        bad,
        [(1, "line 2 opens a quote that is not closed before the file ends".to_owned())]
    );
    let long = format!("a,b\n1,{}\n2,y\n", "z".repeat(RECORD_BYTES_MAX + 10));
    let (_, batches, bad) = of(long.as_bytes());
    assert_eq!((batches[0].num_rows(), bad.len()), (1, 1), "{:?}", bad.first().map(|(_, why)| why));
}

fn types(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = arrow_cast::display::FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| arrow_cast::display::ArrayFormatter::try_new(c, &options).expect("shown"))
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|")
        }));
    }
    rows
}

#[test]
fn numbers_and_dates_are_what_stands_there_or_text_that_says_why() {
    for (text, kind, first) in [
        ("v\n9007199254740993\n0.5\n", "Decimal128(18, 1)", "9007199254740993.0"),
        (
            "v\n99999999999999.99\n1.5\n1234567890123456.7\n",
            "Decimal128(18, 2)",
            "99999999999999.99",
        ),
        ("v\n0.5\n0.05123456789012345\n0.25\n", "Float64", "0.5"),
        ("v\n.5\n0.25\n-.75\n", "Float64", "0.5"),
        ("v\n34\nNA\nNULL\n\\N\n41\n", "Int64", "34"),
        ("v\n007\n8\n", "Utf8", "007"),
        ("v\n18446744073709551615\n5\n", "UInt64", "18446744073709551615"),
        ("v\n2024-01-31\n", "Date32", "2024-01-31"),
    ] {
        let (schema, batches, _, _) = several(&[text.as_bytes()], &CsvOptions::default());
        assert_eq!(
            (schema.field(0).data_type().to_string().as_str(), rows(&batches)[0].as_str()),
            (kind, first),
            "{text}"
        );
    }
    let notes = |text: &str| several(&[text.as_bytes()], &CsvOptions::default()).3.join("\n");
    assert!(notes("v\n007\n8\n").contains("digits after a zero, such as `007`"));
    assert!(
        notes("v\n34\nNA\n\\N\n").contains("2 of 3 values are words for no value, and became NULL")
    );
    assert!(notes("v\n1\n2\n3\nx\n").contains("1 other texts, such as `x` (0.csv row 4)"));
    assert_eq!(notes("v,w\n1,a\n2,7\n,b\n"), "", "nothing to be said");
}

#[test]
fn files_are_read_as_people_write_them_and_guesses_are_said() {
    let utf_16: Vec<u8> =
        "\u{feff}id,name\r\n1,Zo\u{eb}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: &[(&[u8], &str, &str, &str)] = &[
        (&utf_16, "id Int64, name Utf8", "1|Zo\u{eb}", "UTF-16LE"),
        (b"id,Gr\xf6\xdfe\n1,klein\n", "id Int64, Gr\u{f6}\u{df}e Utf8", "1|klein", "Windows-1252"),
        (b"sep=;\nid;name\n1;Anna\n", "id Int64, name Utf8", "1|Anna", ""),
        (
            b"a,b,,\n1,2,,\n",
            "a Int64, b Int64, column3 Utf8, column4 Utf8",
            "1|2|NULL|NULL",
            "column 3 (``) is `column3`",
        ),
        (b"a,a,a_2\n1,2,3\n", "a Int64, a_3 Int64, a_2 Int64", "1|2|3", "column 2 (`a`) is `a_3`"),
        (
            b"id,text\n1,\"He said \\\"hi\\\" twice\"\n2,\"x, \\\"y\\\", z\"\n",
            "id Int64, text Utf8",
            "1|He said \"hi\" twice",
            "backslash",
        ),
        (
            b"id, name, note\n1, \"Smith, John\", ok\n",
            "id Int64, name Utf8, note Utf8",
            "1|Smith, John|ok",
            "spaces",
        ),
        (
            b"# exported 2024\n# by tool, v1\nid,name\n1,Anna\n",
            "id Int64, name Utf8",
            "1|Anna",
            "2 lines of comment",
        ),
        (
            b"Report of May\n\nid,name,x\n1,Anna,2\n2,Bob,3\n",
            "id Int64, name Utf8, x Int64",
            "1|Anna|2",
            "1 line before the header",
        ),
        (b"1,2\n3,4\n", "column1 Int64, column2 Int64", "1|2", "no header"),
        (
            b"1|Anna|2.5\n3|Bob|4.5\n",
            "column1 Int64, column2 Utf8, column3 Float64",
            "1|Anna|2.5",
            "no header",
        ),
        (
            b"land,2019,2020\nFrance,1,2\n",
            "land Utf8, 2019 Int64, 2020 Int64",
            "France|1|2",
            "though it has `2019`",
        ),
        (b"land,2019\nFrance,1\n", "land Utf8, 2019 Int64", "France|1", "though it has `2019`"),
        (b"name,2\n1,2\n", "name Int64, 2 Int64", "1|2", "though it has `2`"),
        (
            b"\"Last, first\";\"City, state\"\n\"Smith, J\";\"Rome, IT\"\n",
            "Last, first Utf8, City, state Utf8",
            "Smith, J|Rome, IT",
            "`;`",
        ),
        (b"a;b\n1,5;2,5\n3,5;4,5\n", "a Utf8, b Utf8", "1,5|2,5", "`;`"),
    ];
    for (bytes, kinds, first, words) in cases {
        let (schema, batches, bad, notes) = several(&[*bytes], &CsvOptions::default());
        let of = String::from_utf8_lossy(bytes);
        assert_eq!(
            (types(&schema).join(", ").as_str(), rows(&batches)[0].as_str(), bad.len()),
            (*kinds, *first, 0),
            "{of}: {notes:?}"
        );
        assert!(notes.join("\n").contains(words), "{of}: {notes:?}");
    }
}

#[test]
fn all_of_a_file_is_read_as_its_first_piece_is_guessed_or_not_at_all() {
    let row = format!("1,{}\n", "x".repeat(1000));
    let filled = |text: &mut Vec<u8>, bytes: usize| {
        while text.len() <= bytes {
            text.extend(row.as_bytes());
        }
    };
    let mut text = b"id,t\n".to_vec();
    filled(&mut text, 1 << 20);
    text.extend(b"2,a \x96 b\n");
    let (_, batches, bad, notes) = several(&[&text], &CsvOptions::default());
    assert_eq!((rows(&batches).last().map(String::as_str), bad.len()), (Some("2|a \u{2013} b"), 0));
    assert!(notes.join("\n").contains("Windows-1252"), "{notes:?}");
    filled(&mut text, PIECE_BYTES);
    let at = text.len() + "3,Zo".len();
    text.extend("3,Zo\u{eb}\n".as_bytes());
    let refused =
        tried(&[&text], &CsvOptions::default()).expect_err("of two encodings").to_string();
    for words in ["0.csv", &format!("UTF-8 from byte {at} on"), "--encoding"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let said = CsvOptions { encoding: Some(Encoding::Windows1252), ..CsvOptions::default() };
    assert_eq!(
        rows(&several(&[&text], &said).1).last().map(String::as_str),
        Some("3|Zo\u{c3}\u{ab}")
    );
}

#[test]
fn a_header_may_be_longer_than_what_a_dialect_is_told_by() {
    let name = "n".repeat(dialect::LOOKED_BYTES + 10);
    let (schema, batches, _, _) =
        several(&[format!("id,{name}\n1,2\n").as_bytes()], &CsvOptions::default());
    assert_eq!((schema.field(1).name(), rows(&batches)), (&name, vec!["1|2".to_owned()]));
}

#[test]
fn columns_of_several_files_meet_by_name() {
    let (schema, batches, _, notes) =
        several(&[b"id,name\n1,Anna\n", b"name,id,new\nBob,2,0.5\n"], &CsvOptions::default());
    assert_eq!(types(&schema), ["id Int64", "name Utf8", "new Float64"]);
    assert_eq!(rows(&batches), ["1|Anna|NULL", "2|Bob|0.5"]);
    assert!(notes.iter().any(|note| note.contains("by name")), "{notes:?}");
}

#[test]
fn what_is_said_is_not_guessed() {
    let said = |said: CsvOptions, text: &str| rows(&several(&[text.as_bytes()], &said).1);
    let default = CsvOptions::default;
    assert_eq!(said(CsvOptions { header: Some(true), ..default() }, "1,2\n3,4\n"), ["3|4"]);
    assert_eq!(said(CsvOptions { header: Some(false), ..default() }, "a,b\n3,4\n"), ["a|b", "3|4"]);
    assert_eq!(said(CsvOptions { delimiter: Some(b'^'), ..default() }, "a^b\n3,1^4\n"), ["3,1|4"]);
    assert_eq!(said(CsvOptions { skip: Some(1), ..default() }, "x,y\na,b\n3,4\n"), ["3|4"]);
    assert_eq!(
        said(CsvOptions { nulls: Some(vec!["-".into()]), ..default() }, "a,b\n-,NA\n3,x\n"),
        ["NULL|NA", "3|x"]
    );
    assert_eq!(said(CsvOptions { all_text: true, ..default() }, "a,b\n007,1e3\n"), ["007|1e3"]);
    assert_eq!(said(CsvOptions { quote: Some(None), ..default() }, "a,b\n\"x,1\n"), ["\"x|1"]);
    assert_eq!(said(CsvOptions { padded: true, ..default() }, "a,b\n1\n2,3\n"), ["1|NULL", "2|3"]);
    let comma = CsvOptions { decimal_comma: true, ..default() };
    assert_eq!(
        said(comma.clone(), "a;b;c\n1,5;1.234,25;1.5\n-0,25;7;x\n"),
        ["1.5|1234.25|1.5", "-0.25|7.0|x"]
    );
    assert_eq!(said(comma, "a;b\n1.234;12:00:00.5\n"), ["1234|12:00:00.500"]);
    let dates = |order| CsvOptions { dates: order, ..default() };
    assert_eq!(
        said(dates(DateOrder::DayFirst), "d,t\n31/01/2024,1.2.2024 12:30\n"),
        ["2024-01-31|2024-02-01T12:30:00"]
    );
    assert_eq!(
        said(dates(DateOrder::MonthFirst), "d,e\n01/31/2024,31/01/2024\n"),
        ["2024-01-31|31/01/2024"]
    );
}

#[test]
fn columns_are_of_the_types_that_are_said_and_values_that_are_not_are_named() {
    let kinds = |said: &[(&str, &str)]| CsvOptions {
        kinds: said
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), Kind::named(kind).expect("a type")))
            .collect(),
        ..CsvOptions::default()
    };
    let text = b"zip,n,ok,price\n00123,007,1,1.5\n4,x,0,2\n5,6,2,3\n".as_slice();
    let said =
        kinds(&[("zip", "text"), ("n", "int64"), ("ok", "boolean"), ("price", "decimal(10,2)")]);
    let (schema, batches, bad, notes) = several(&[text], &said);
    assert_eq!(types(&schema), ["zip Utf8", "n Int64", "ok Boolean", "price Decimal128(10, 2)"]);
    assert_eq!(rows(&batches), ["00123|7|true|1.50"]);
    assert_eq!(
        (bad.len(), bad[0].1.as_str()),
        (2, "column `n`: `x` is no Int64, which --types says it is"),
        "{bad:?}"
    );
    assert!(bad[1].1.contains("`ok`") && notes.is_empty(), "{bad:?} {notes:?}");
    let refused =
        tried(&[text], &kinds(&[("id", "int64")])).expect_err("no such column").to_string();
    assert!(refused.contains("no column `id`") && refused.contains("`zip`"), "{refused}");
    assert!(Kind::named("decimal(39,2)").is_none() && Kind::named("number").is_none());
}

#[test]
fn a_blank_line_of_a_table_of_one_column_is_a_row() {
    for (text, expected) in [
        ("a\n1\n\n2\n", vec!["1", "NULL", "2"]),
        ("a\r\n1\r\n\r\n2\r\n", vec!["1", "NULL", "2"]),
        ("a\n\n1\n\n\n", vec!["NULL", "1", "NULL", "NULL"]),
        ("a\n\"x\n\ny\"\n\nz", vec!["x\n\ny", "NULL", "z"]),
    ] {
        assert_eq!(rows(&of(text.as_bytes()).1), expected, "{text:?}");
    }
    assert_eq!(rows(&of(b"a,b\n1,2\n\n3,4\n").1), ["1|2", "3|4"]);
}

#[test]
fn tables_that_have_nothing_in_common_are_no_dataset_unless_it_is_said() {
    let files = [b"id,name\n1,Anna\n".as_slice(), b"city,zip\nRome,7\n".as_slice()];
    let refused = tried(&files, &CsvOptions::default()).expect_err("two tables").to_string();
    assert!(refused.contains("1.csv") && refused.contains("no column in common"), "{refused}");
    let check = |own: &[&str], union| {
        ApartError::check(&["a", "b"], own, union).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["c"], Some(true)), Ok(()));
    assert_eq!(check(&["b", "a"], Some(false)), Ok(()));
    let refused = check(&["a", "c"], Some(false)).expect_err("other columns");
    assert!(refused.contains("more: `c`; missing: `b`"), "{refused}");
}

proptest! {
    #[test]
    fn doubles_come_back_bit_for_bit(bits in proptest::collection::vec(any::<u64>(), 1..50)) {
        let values: Vec<f64> =
            bits.into_iter().map(f64::from_bits).filter(|value| value.is_finite()).collect();
        prop_assume!(!values.is_empty());
        let text: String = std::iter::once("v\n".to_owned())
            .chain(values.iter().map(|value| format!("{value:e}\n")))
            .collect();
        let batches = of(text.as_bytes()).1;
        let read: Vec<u64> = batches
            .iter()
            .flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec())
            .map(f64::to_bits)
            .collect();
        prop_assert_eq!(read, values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    }

    /// Cut anywhere, a file's pieces hold the records that the csv crate finds in the whole.
    #[test]
    fn pieces_are_cut_between_records(
        rows in proptest::collection::vec(("[a\"\n, ;é]{0,9}", "[a\"\n, ]{0,9}", "[0-9]{0,3}"), 0..60),
        cut in 1_usize..400,
    ) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["x", "y", "z"]).expect("written");
        rows.iter().for_each(|(a, b, c)| writer.write_record([a, b, c]).expect("written"));
        let bytes = writer.into_inner().expect("bytes");
        let dialect = Dialect { delimiter: b',', quote: Some(b'"'), escape: None, spaced: false };
        let (end, open) = dialect.last_record(&bytes);
        prop_assert!(!open && end == Some(bytes.len()));
        let part = &bytes[..cut.min(bytes.len())];
        let end = dialect.last_record(part).0.unwrap_or(0);
        let count = |bytes: &[u8]| dialect.records(bytes).byte_records().count();
        prop_assert_eq!(count(&bytes[..end]) + count(&bytes[end..]), count(&bytes));
    }
}
