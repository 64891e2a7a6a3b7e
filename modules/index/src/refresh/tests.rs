//! Columns and templates: what is refused by name, and the text that is made; and how far a dataset
//! is read.

use std::sync::Arc;

use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema};
use brahman_card::interface::catalog::Object;
use parquet::arrow::ArrowWriter;

use super::*;
use crate::cutter::{Limits, Window};

/// A model that nobody may ask.
#[derive(Debug)]
struct Unasked;

impl Measure for Unasked {
    fn window(&self) -> Result<Option<Window>, Fault> {
        panic!("the model was asked for its window")
    }

    fn tokens(&self, _: &[String]) -> Result<Option<Vec<u64>>, Fault> {
        panic!("the model was asked for tokens")
    }
}

#[test]
fn a_dataset_is_read_ahead_without_its_model_and_heard_of_part_by_part() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("d.parquet");
    let text = |n: i64| format!("# Page\n\nword{n} stands here.\n");
    let ids: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..600).map(|n| format!("{n}.md"))));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..600).map(text)));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..600));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts), ("number", numbers)])
        .expect("columns");
    let file = File::create(&path).expect("made");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("opened");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    let object = Object { url: format!("file://{}", path.display()), ..Object::default() };
    let dataset = Dataset { name: "d".into(), objects: vec![object], ..Dataset::default() };
    let parameters = CreateIn {
        id_column: "id".into(),
        text_column: Some("text".into()),
        filter_columns: Some(vec!["number".into()]),
        ..CreateIn::default()
    };
    let limits = Limits { tokens: 256, chars: None, overlap: 0 };
    let by_model = Cutting::Tokens(Cutter::new(limits), Box::new(Unasked));
    let cutting = by_model.guessing().expect("it counts tokens");
    let mut heard = Vec::new();
    let whole = plan(&dataset, &parameters, &cutting, None, 256, &mut |so_far| {
        let (rows, columns) = (&so_far.plan.fresh, so_far.columns()?);
        assert_eq!(columns.num_rows(), rows.len());
        let last = rows.row(rows.len() - 1).expect("a row");
        let number = columns.column(0).as_primitive::<Int64Type>().value(rows.len() - 1);
        assert_eq!(last.doc_id, format!("{number}.md"));
        assert!(last.text.contains(&format!("word{number} stands")), "{}", last.text);
        heard.push(so_far.documents);
        Ok(true)
    });
    let whole = whole.expect("read").expect("to its end");
    assert_eq!((heard, whole.dataset_docs), (vec![256, 512, 600], 600));
    let cut_off = plan(&dataset, &parameters, &cutting, None, 256, &mut |_| Ok(false));
    assert!(cut_off.expect("read").is_none(), "nobody wanted the rest");
}

/// What `Create` took and `Refresh` refused: both ask this.
#[test]
fn columns_that_cannot_be_used_are_refused_by_name_and_the_others_are_taken() {
    use DataType::{
        Binary, Decimal128, Dictionary, Float32, Float64, Int8, Int32, LargeUtf8, List, UInt32,
        Utf8, Utf8View,
    };
    let list = |kind: DataType| List(Arc::new(Field::new("item", kind, true)));
    let words = Dictionary(Box::new(Int32), Box::new(Utf8));
    let fields = [
        ("small", Int8),
        ("wide", UInt32),
        ("large", LargeUtf8),
        ("view", Utf8View),
        ("words", words),
        ("money", Decimal128(10, 2)),
        ("vector", list(Float32)),
        ("texts", list(Utf8)),
        ("bytes", Binary),
        ("ratio", Float64),
    ];
    let schema = Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec());
    let check = |id: &str, text: &str, vector: Option<&str>, filter: &str| {
        let parameters = CreateIn {
            id_column: id.into(),
            text_column: Some(text.into()),
            vector_column: vector.map(str::to_owned),
            filter_columns: Some(vec![filter.to_owned()]),
            ..CreateIn::default()
        };
        check_columns(&schema, "d", &parameters).map_err(|fault| fault.message().to_owned())
    };
    for (id, text, filter) in [
        ("small", "large", "money"),
        ("wide", "view", "texts"),
        ("words", "words", "words"),
        ("ratio", "large", "ratio"),
    ] {
        assert_eq!(check(id, text, Some("vector"), filter), Ok(()), "{id} {text} {filter}");
    }
    for (refused, words) in [
        (
            check("bytes", "large", None, "small"),
            "column `bytes` is Binary, expected text, a number",
        ),
        (check("texts", "large", None, "small"), "column `texts`"),
        (check("small", "bytes", None, "small"), "column `bytes` is Binary, expected text"),
        (check("small", "large", Some("texts"), "small"), "column `texts`"),
        (check("small", "large", None, "bytes"), "or a list of these"),
        (check("small", "large", None, "gone"), "no column `gone`"),
    ] {
        assert!(refused.as_ref().is_err_and(|why| why.contains(words)), "{refused:?}");
    }
}

#[test]
fn a_template_is_filled_once_and_columns_without_one_are_lines() {
    let title: ArrayRef = Arc::new(StringArray::from(vec![Some("A {body}"), None]));
    let body: ArrayRef = Arc::new(StringArray::from(vec!["b", "c"]));
    let names = ["title".to_owned(), "body".to_owned()];
    let text = |template, row| text_of(&[&title, &body], &names, template, row).expect("texts");
    assert_eq!(text(Some("# {title}\n{body} {x} {"), 0), "# A {body}\nb {x} {");
    assert_eq!(text(None, 1), "\nc");
}

#[test]
fn an_instant_of_a_named_zone_identifies_a_document() {
    let at = |zone: &str| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![1_i64, 0]).with_timezone(zone))
    };
    assert_eq!(id_of(&at("UTC"), "at", 1).expect("an id"), "1970-01-01T00:00:00Z");
    // As it was ever printed.
    assert_eq!(id_of(&at("+02:00"), "at", 1).expect("an id"), "1970-01-01T02:00:00+02:00");
}

#[test]
fn a_column_that_is_not_there_is_named_with_its_parameter() {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, true),
    ]);
    let good = CreateIn {
        id_column: "id".into(),
        text_column: Some("text".into()),
        ..CreateIn::default()
    };
    check_columns(&schema, "d", &good).expect("there");
    for (parameter, parameters) in [
        ("id_column", CreateIn { id_column: "no".into(), ..good.clone() }),
        ("text_column", CreateIn { text_column: Some("no".into()), ..good.clone() }),
        ("vector_column", CreateIn { vector_column: Some("no".into()), ..good.clone() }),
        ("filter_columns", CreateIn { filter_columns: Some(vec!["no".into()]), ..good.clone() }),
    ] {
        let fault = check_columns(&schema, "d", &parameters).expect_err("refused");
        assert_eq!(fault.parameters["parameter"], parameter);
        assert!(fault.message().contains("no column `no`"), "{fault}");
    }
}
