//! Columns and templates: what is refused by name, and the text that is made.

use arrow_array::StringArray;

use super::*;

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
