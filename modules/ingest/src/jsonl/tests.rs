//! Tests of the JSON reader: values, shapes that meet late, and what is refused.

use std::cell::RefCell;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow_schema::DataType;
use proptest::prelude::*;

use super::*;

struct Outcome {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bad: Vec<(u64, String)>,
    notes: Vec<String>,
}

impl Outcome {
    fn types(&self) -> Vec<String> {
        self.schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect()
    }

    fn texts(&self, column: usize) -> Vec<Option<String>> {
        let each =
            self.batches.iter().flat_map(|batch| batch.column(column).as_string::<i32>().iter());
        each.map(|text| text.map(str::to_owned)).collect()
    }
}

fn several(files: &[&[u8]], kept: Option<&Schema>) -> io::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let paths: Vec<_> =
        (0..files.len()).map(|i| folder.path().join(format!("{i}.jsonl"))).collect();
    for (path, bytes) in paths.iter().zip(files) {
        std::fs::write(path, bytes)?;
    }
    let paths: Vec<&Path> = paths.iter().map(std::path::PathBuf::as_path).collect();
    let (schema, batches, mut bad) = (RefCell::new(None), RefCell::new(Vec::new()), Vec::new());
    let mut open = |its| {
        *schema.borrow_mut() = Some(its);
        batches.borrow_mut().clear();
        Ok(())
    };
    let mut take = |batch, _| {
        batches.borrow_mut().push(batch);
        Ok(())
    };
    let mut told = |_: &Path, row, why| bad.push((row, why));
    let how = TextOptions { kept: kept.cloned().map(Arc::new), ..TextOptions::by(2) };
    let notes = read(&paths, &how, &CancellationToken::new(), &mut open, &mut take, &mut told)?;
    Ok(Outcome {
        schema: schema.into_inner().expect("a schema"),
        batches: batches.into_inner(),
        bad,
        notes,
    })
}

fn of_lines(lines: &[&str]) -> Outcome {
    of(&lines.join("\n"))
}

fn of(text: &str) -> Outcome {
    several(&[text.as_bytes()], None).expect("read")
}

#[test]
fn objects_are_read_and_the_rest_is_named_by_its_line() {
    let out = of("\u{feff}{\"a\":1}\nnot json\n\n[1]\n{\"a\":2,\"b\":{\"c\":[\"x\"]}}\r\n{\"a\":");
    let rows: usize = out.batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!((out.schema.fields().len(), rows), (2, 2));
    let lines: Vec<u64> = out.bad.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 4, 6], "{:?}", out.bad);
    assert!(
        out.bad[0].1.contains("is not JSON") && out.bad[1].1.contains("not an object"),
        "{:?}",
        out.bad
    );
}

#[test]
fn numbers_are_what_stands_there() {
    let out = of("{\"id\":18446744073709551615}\n{\"id\":5}\n");
    assert_eq!(out.types(), ["id UInt64"]);
    assert_eq!(out.batches[0].column(0).as_primitive::<UInt64Type>().values(), &[u64::MAX, 5]);
    let out = of("{\"amount\":99999999999999.99}\n{\"amount\":0.1}\n");
    assert_eq!(out.types(), ["amount Decimal128(18, 2)"]);
    assert_eq!(
        out.batches[0].column(0).as_primitive::<Decimal128Type>().values(),
        &[9_999_999_999_999_999, 10]
    );
    assert!(
        out.notes[0].contains("1 of 2 values")
            && out.notes[0].contains("99999999999999.99")
            && out.notes[0].contains("row 1"),
        "{:?}",
        out.notes
    );
    assert_eq!(of("{\"v\":-1}\n{\"v\":18446744073709551615}\n").types(), ["v Decimal128(38, 0)"]);
    assert_eq!(of("{\"v\":9007199254740993}\n{\"v\":0.5}\n").types(), ["v Decimal128(18, 1)"]);
    assert_eq!(of("{\"v\":9007199254740992}\n{\"v\":0.5}\n").types(), ["v Float64"]);
    let out = of("{\"v\":1e400}\n{\"v\":1}\n");
    assert_eq!(
        (out.types(), out.texts(0)),
        (vec!["v Utf8".to_owned()], vec![Some("1e400".to_owned()), Some("1".to_owned())])
    );
    assert!(
        out.notes[0].contains("it is text") && out.notes[0].contains("`1e400`"),
        "{:?}",
        out.notes
    );
    let out = of("{\"v\":NaN}\n{\"v\":-0.0}\n{\"v\":-Infinity}\n");
    let values = out.batches[0].column(0).as_primitive::<Float64Type>().values();
    assert!(
        values[0].is_nan()
            && values[1].to_bits() == (-0.0_f64).to_bits()
            && values[2] == f64::NEG_INFINITY,
        "{values:?}"
    );
}

#[test]
fn a_type_that_is_met_late_is_every_rows_wherever_a_batch_ends() {
    let mut text: String = (0..8192).map(|i| format!("{{\"id\":{i},\"price\":{i}}}\n")).collect();
    text.push_str("{\"id\":8192,\"price\":1.5}\n");
    let out = of(&text);
    assert_eq!(out.types(), ["id Int64", "price Float64"]);
    assert_eq!(out.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 8193);
    assert!(out.notes.is_empty() && out.bad.is_empty(), "{:?}", out.notes);
    // Far beyond the first piece, and a key that is new there.
    let mut text: String =
        (0..300_000).map(|i| format!("{{\"id\":{i},\"price\":{i}}}\n")).collect();
    assert!(text.len() > PIECE_BYTES);
    text.push_str("{\"id\":\"last\",\"price\":99999999999999.99,\"new\":true}\n");
    let out = of(&text);
    assert_eq!(out.types(), ["id Utf8", "price Decimal128(18, 2)", "new Boolean"]);
    let ids = out.texts(0);
    assert!(
        ids.len() == 300_001
            && ids[77].as_deref() == Some("77")
            && ids[300_000].as_deref() == Some("last")
    );
    assert!(
        out.notes[0].contains("`id`")
            && out.notes[0].contains("300000 numbers")
            && out.notes[0].contains("row 300001"),
        "{:?}",
        out.notes
    );
}

#[test]
fn mixed_values_are_text_and_with_objects_json() {
    let out = of(
        "{\"id\":1,\"v\":1}\n{\"id\":2,\"v\":\"two\"}\n{\"id\":3,\"v\":true}\n{\"id\":4,\"v\":null}\n",
    );
    let texts = ["1", "two", "true"].map(|text| Some(text.to_owned()));
    assert_eq!(
        (out.types(), &out.texts(1)[..3], out.texts(1)[3].clone()),
        (vec!["id Int64".to_owned(), "v Utf8".to_owned()], &texts[..], None)
    );
    assert!(
        out.notes[0].contains("column `v`: it is text")
            && out.notes[0].contains("1 numbers, such as `1`"),
        "{:?}",
        out.notes
    );
    let out = of("{\"v\":\"a\\n\"}\n{\"v\":{\"b\": 1.50}}\n{\"v\":[1]}\n{\"v\":2}\n");
    let texts = ["\"a\\n\"", "{\"b\": 1.50}", "[1]", "2"].map(|text| Some(text.to_owned()));
    assert_eq!(out.texts(0), texts);
    assert!(out.notes[0].contains("JSON text"), "{:?}", out.notes);
}

#[test]
fn empty_objects_are_json_until_one_has_a_key() {
    let out = of("{\"id\":1,\"o\":{}}\n{\"id\":2,\"o\":{}}\n");
    assert_eq!(
        (out.types(), out.texts(1)),
        (vec!["id Int64".to_owned(), "o Utf8".to_owned()], vec![Some("{}".to_owned()); 2])
    );
    assert!(out.notes[0].contains("`o`"), "{:?}", out.notes);
    let out = of("{\"o\":{}}\n{\"o\":{\"a\":1}}\n{\"o\":null}\n");
    let column = out.batches[0].column(0).as_struct();
    assert_eq!((column.is_valid(0), column.is_valid(1), column.is_null(2)), (true, true, true));
    assert_eq!(
        column.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
        [None, Some(1), None]
    );
    assert!(
        several(&[b"{}\n{}\n"], None)
            .is_err_and(|error| error.to_string().contains("no object has a key"))
    );
}

#[test]
fn lists_and_objects_nest_and_what_is_too_deep_or_too_wide_is_json() {
    let out = of("{\"v\":[[1,2],[]],\"o\":[{\"a\":1},{\"b\":\"x\"}]}\n{\"v\":[],\"o\":null}\n{}\n");
    let DataType::List(item) = out.schema.field(0).data_type() else { panic!("{:?}", out.types()) };
    assert!(matches!(item.data_type(), DataType::List(_)));
    let lists = out.batches[0].column(0).as_list::<i32>();
    assert_eq!((lists.value_length(0), lists.value_length(1), lists.is_null(2)), (2, 0, true));
    assert_eq!(
        lists.value(0).as_list::<i32>().value(0).as_primitive::<Int64Type>().values(),
        &[1, 2]
    );
    let objects = out.batches[0].column(1).as_list::<i32>().value(0);
    assert!(objects.as_struct().column(0).is_null(1) && objects.as_struct().column(1).is_null(0));
    let deep = format!("{{\"v\":{}1{}}}\n", "[".repeat(100), "]".repeat(100));
    let out = of(&deep);
    let mut kind = out.schema.field(0).data_type();
    let mut depth = 0;
    while let DataType::List(item) = kind {
        (kind, depth) = (item.data_type(), depth + 1);
    }
    assert_eq!((kind, depth), (&DataType::Utf8, crate::lattice::DEPTH_MAX));
    let many: String = (0..1001).map(|i| format!("\"k{i}\":{i},")).collect();
    let wide = format!("{{\"o\":{{{}}}}}\n", many.trim_end_matches(','));
    assert_eq!((of(&wide).types(), of(&wide).texts(0).len()), (vec!["o Utf8".to_owned()], 1));
    let more: String = (0..=COLUMNS_MAX).map(|i| format!("{{\"k{i}\":1}}\n")).collect();
    assert!(
        several(&[more.as_bytes()], None)
            .is_err_and(|error| error.to_string().contains("different keys"))
    );
}

#[test]
fn a_key_that_is_there_twice_is_counted_and_its_last_value_is_read() {
    let out = of("{\"a\":1,\"b\":0,\"a\":2}\n{\"\\u0061\":3}\n");
    assert_eq!(out.batches[0].column(0).as_primitive::<Int64Type>().values(), &[2, 3]);
    assert!(
        out.notes.iter().any(|note| note.contains("1 objects")
            && note.contains("`a`")
            && note.contains("row 1")),
        "{:?}",
        out.notes
    );
}

#[test]
fn lists_of_objects_are_read_whatever_their_lines() {
    let out = of("[\n  {\"a\": 1,\n   \"b\": \"x,]\"},\n  {\"a\": 2.5}\n]\n");
    assert_eq!(out.types(), ["a Float64", "b Utf8"]);
    assert_eq!(out.batches[0].num_rows(), 2);
}

#[test]
fn what_a_dataset_has_stays_if_it_holds_what_is_there() {
    let field = |name: &str, kind| arrow_schema::Field::new(name, kind, true);
    let kept = Schema::new(vec![
        field("a", DataType::Float64),
        field("b", DataType::Utf8),
        field("c", DataType::Int64),
    ]);
    let out = several(&[b"{\"a\":1,\"b\":2,\"c\":0.5}\n"], Some(&kept)).expect("read");
    assert_eq!(out.types(), ["a Float64", "b Utf8", "c Float64"]);
    assert!(
        out.notes.iter().any(|note| note.contains("`a` keeps its type Float64")),
        "{:?}",
        out.notes
    );
}

#[test]
fn what_is_within_a_column_keeps_its_type_too() {
    let of =
        |text: &str, kept: &Outcome| several(&[text.as_bytes()], Some(&kept.schema)).expect("read");
    let first = of_lines(&[
        r#"{"s":{"a":0.5,"b":"x"},"l":[1.5],"j":1,"n":{"d":"2024-01-31"}}"#,
        r#"{"j":{"k":1}}"#,
    ]);
    assert_eq!(first.types()[2], "j Utf8", "one of several sorts is JSON");
    let next = of(r#"{"s":{"a":1,"c":true},"l":[2],"j":{"k":2},"n":null}"#, &first);
    let kind = |out: &Outcome, name: &str| {
        out.schema.field_with_name(name).expect("a column").data_type().clone()
    };
    let DataType::Struct(fields) = kind(&next, "s") else { panic!("{:?}", next.types()) };
    let fields: Vec<String> =
        fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    assert_eq!(fields, ["a Float64", "b Utf8", "c Boolean"], "what no object has any more is NULL");
    for name in ["l", "j", "n"] {
        assert_eq!(kind(&next, name), kind(&first, name), "{name}");
    }
    assert_eq!(next.texts(2), [Some(r#"{"k":2}"#.to_owned())]);
    assert!(
        next.notes.iter().any(|note| note.contains("`j` keeps its type Utf8")),
        "{:?}",
        next.notes
    );
    // What does not fit widens.
    assert_eq!(kind(&of(r#"{"l":["x"]}"#, &first), "l"), kind(&of_lines(&[r#"{"l":["x"]}"#]), "l"));
}

#[test]
fn files_meet_in_the_types_of_all() {
    let out = several(&[b"{\"a\":1}\n", b"{\"b\":\"x\"}\n", b"{\"a\":0.5}\n"], None).expect("read");
    assert_eq!(out.types(), ["a Float64", "b Utf8"]);
    assert_eq!(out.texts(1), [None, Some("x".to_owned()), None]);
}

proptest! {
    /// Whatever order rows come in, and however they are cut into files, their types are the same.
    #[test]
    fn types_do_not_depend_on_order(
        values in proptest::collection::vec(
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?|true|null|\"[a-z]?\"|\\{\\}|\\[1?\\]",
            1..12,
        ),
        cut in 0_usize..12,
    ) {
        let lines: Vec<String> =
            values.iter().map(|value| format!("{{\"v\":{value}}}\n")).collect();
        let back: Vec<String> = lines.iter().rev().cloned().collect();
        let (one, two) = back.split_at(cut.min(back.len()));
        let whole = of(&lines.concat());
        let parts =
            several(&[one.concat().as_bytes(), two.concat().as_bytes()], None).expect("read");
        prop_assert_eq!(whole.types(), parts.types());
    }

    #[test]
    fn doubles_come_back_bit_for_bit(bits in proptest::collection::vec(any::<u64>(), 1..50)) {
        let values: Vec<f64> =
            bits.into_iter().map(f64::from_bits).filter(|value| value.is_finite()).collect();
        prop_assume!(!values.is_empty());
        let text: String = values.iter().map(|value| format!("{{\"v\":{value:e}}}\n")).collect();
        let out = of(&text);
        let read: Vec<u64> = out
            .batches
            .iter()
            .flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec())
            .map(f64::to_bits)
            .collect();
        prop_assert_eq!(read, values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    }
}
