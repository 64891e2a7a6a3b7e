//! Filters: what is accepted, what is refused by name, and what they let through.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::types::Int64Type;
use arrow_cast::cast;
use arrow_schema::{Field, TimeUnit};
use serde_json::json;

use super::values::decimals;
use super::*;

#[test]
fn a_filter_means_what_mongodb_means_by_it() {
    let of = |field: &str| match field {
        "lang" => Value::Text("rust".into()),
        "year" => Value::Int(2021),
        "score" => Value::Float(0.5),
        "draft" => Value::Bool(false),
        "tags" => Value::List(vec![Value::Text("a".into()), Value::Text("b".into())]),
        _ => Value::Null,
    };
    for (filter, holds) in [
        (json!({}), true),
        (json!({"lang": "rust"}), true),
        (json!({"lang": "rust", "year": 2020}), false),
        (json!({"year": {"$gte": 2020, "$lt": 2022}}), true),
        (json!({"year": {"$gt": 2021}}), false),
        (json!({"score": {"$lte": 0.5}}), true),
        (json!({"score": {"$gt": 0}}), true),
        (json!({"lang": {"$in": ["go", "rust"]}}), true),
        (json!({"lang": {"$nin": ["go", "rust"]}}), false),
        (json!({"$or": [{"lang": "go"}, {"draft": false}]}), true),
        (json!({"$not": {"lang": "go"}}), true),
        (json!({"gone": null}), true),
        (json!({"gone": "x"}), false),
        (json!({"gone": {"$ne": "x"}}), true),
        (json!({"year": "2021"}), false),
        (json!({"gone": {"$exists": false}}), true),
        (json!({"lang": {"$exists": true}}), true),
        (json!({"lang": {"$exists": false}}), false),
        (json!({"tags": {"$contains": "b"}}), true),
        (json!({"tags": {"$contains": "c"}}), false),
        (json!({"$not": {"tags": {"$contains": "c"}}}), true),
        (json!({"gone": {"$contains": "c"}}), false),
    ] {
        assert_eq!(Filter::parse(&filter).expect("parses").holds(&of), holds, "{filter}");
    }
}

#[test]
fn what_is_no_filter_is_refused_by_name() {
    for (filter, words) in [
        (json!("x"), "is an object"),
        (json!({"$xor": []}), "$xor"),
        (json!({"year": {"$near": 3}}), "$near"),
        (json!({"$or": {}}), "list of filters"),
        (json!({"year": [1]}), "list or an object"),
        (json!({"year": {"$in": 3}}), "expects a list"),
        (json!({"$or": []}), "says nothing"),
        (json!({"$and": []}), "says nothing"),
        (json!({"$or": [{}]}), "matches nothing in particular"),
        (json!({"$not": {}}), "matches nothing in particular"),
        (json!({"year": {}}), "says nothing"),
        (json!({"year": {"$gt": null}}), "neither more nor less"),
        (json!({"year": {"$exists": 1}}), "true or false"),
    ] {
        assert!(
            Filter::parse(&filter).expect_err("refused").to_string().contains(words),
            "{filter}"
        );
    }
}

fn column(kind: &DataType, texts: &[&str]) -> ArrayRef {
    let texts: ArrayRef = std::sync::Arc::new(arrow_array::StringArray::from(texts.to_vec()));
    cast(&texts, kind).expect("the texts are values of the type")
}

/// Rows of a column of a type that a filter finds, or why it is refused.
fn found(kind: &DataType, texts: &[&str], filter: &Json) -> Result<Vec<usize>, FilterError> {
    let column = plain(&column(kind, texts)).expect("plain");
    let of = Kind::of(column.data_type()).expect("filterable");
    let filter =
        Filter::parse(filter).expect("parses").typed(&|_| Ok(column.data_type().clone()))?;
    Ok((0..texts.len()).filter(|row| filter.holds(&|_| of.of_column(&column, *row))).collect())
}

#[test]
fn a_value_is_compared_as_the_columns_type_has_it() {
    use DataType::{
        Boolean, Date32, Date64, Decimal128, Dictionary, Float32, Int64, LargeUtf8, Timestamp,
        UInt64, Utf8View,
    };
    let days = ["2023-12-31", "2024-01-01", "2024-01-02"];
    let seconds = Timestamp(TimeUnit::Second, None);
    let of_offset = Timestamp(TimeUnit::Nanosecond, Some("+02:00".into()));
    let dictionary = Dictionary(Box::new(DataType::Int32), Box::new(LargeUtf8));
    for (kind, texts, filter, rows) in [
        (&Float32, ["0.1", "0.2", "0.5"], json!({"x": 0.1}), vec![0]),
        (&Float32, ["0.1", "0.2", "0.5"], json!({"x": {"$lte": 0.1}}), vec![0]),
        (&Float32, ["0.1", "0.2", "0.5"], json!({"x": {"$gt": 0.1}}), vec![1, 2]),
        (&Float32, ["0.1", "0.2", "0.5"], json!({"x": {"$in": [0.2]}}), vec![1]),
        (&Date32, days, json!({"x": {"$gte": "2024-01-01"}}), vec![1, 2]),
        (&Date32, days, json!({"x": "2024-01-01"}), vec![1]),
        (&Date32, days, json!({"x": {"$lt": "9999-12-31"}}), vec![0, 1, 2]),
        (&Date64, days, json!({"x": {"$gt": "2024-01-01T00:00:00Z"}}), vec![2]),
        (&seconds, days, json!({"x": {"$lt": "2024-01-01T00:00:00.5Z"}}), vec![0, 1]),
        (&seconds, days, json!({"x": {"$lt": "2024-01-01T02:00:00+02:00"}}), vec![0]),
        (&seconds, days, json!({"x": {"$gte": 1_704_067_200}}), vec![1, 2]),
        (&of_offset, days, json!({"x": "2024-01-01T00:00:00+02:00"}), vec![1]),
        (&Decimal128(10, 2), ["9.99", "10.00", "19.99"], json!({"x": {"$lt": 10}}), vec![0]),
        (&Decimal128(10, 2), ["9.99", "10.00", "19.99"], json!({"x": 9.99}), vec![0]),
        (&Decimal128(10, 2), ["9.99", "10.00", "19.99"], json!({"x": {"$gte": "+10"}}), vec![1, 2]),
        (
            &Decimal128(30, 2),
            ["12345678901234567890.12", "12345678901234567890.13", "1.00"],
            json!({"x": "12345678901234567890.13"}),
            vec![1],
        ),
        (&LargeUtf8, ["a", "b", "c"], json!({"x": "b"}), vec![1]),
        (&Utf8View, ["a", "b", "c"], json!({"x": {"$gt": "a"}}), vec![1, 2]),
        (&dictionary, ["a", "b", "a"], json!({"x": "a"}), vec![0, 2]),
        (
            &UInt64,
            ["1", "9223372036854775807", "18446744073709551615"],
            json!({"x": 18_446_744_073_709_551_615_u64}),
            vec![2],
        ),
        (&Int64, ["1", "2", "3"], json!({"x": {"$gt": 1.5}}), vec![1, 2]),
        (&Boolean, ["true", "false", "true"], json!({"x": {"$ne": true}}), vec![1]),
    ] {
        assert_eq!(found(kind, &texts, &filter), Ok(rows), "{kind} {filter}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_column_its_type_and_what_was_expected() {
    use DataType::{Boolean, Date32, Decimal128, Int64, Utf8};
    let long = serde_json::from_str(r#"{"x": {"$lt": 12345678901234567890.12}}"#).expect("JSON");
    for (kind, text, filter, words) in [
        (
            Int64,
            "1",
            json!({"x": "2021"}),
            "`x` is Int64 and is compared with the text \"2021\": expected a number",
        ),
        (Int64, "1", json!({"x": {"$in": [1, "2"]}}), "the text \"2\""),
        (Int64, "1", json!({"x": {"$ne": true}}), "compared with true"),
        (Boolean, "true", json!({"x": 1}), "expected true or false"),
        (Utf8, "a", json!({"$or": [{"x": "a"}, {"x": 3}]}), "expected a text"),
        (Utf8, "a", json!({"$not": {"x": 3}}), "expected a text"),
        (Date32, "2024-01-01", json!({"x": "yesterday"}), "2024-01-31"),
        (Date32, "2024-01-01", json!({"x": {"$lt": 1.5}}), "the number 1.5"),
        (
            Decimal128(10, 2),
            "1.50",
            json!({"x": "1,50"}),
            "the text \"1,50\": expected a number of at most 15 digits, or its",
        ),
        (Decimal128(38, 2), "1.50", long, "compared with the number 1234567890123456"),
        (
            Decimal128(38, 2),
            "1.50",
            json!({"x": 0.1 + 0.2}),
            "compared with the number 0.30000000000000004",
        ),
        (Decimal128(10, 2), "1.50", json!({"x": "."}), "the text \".\""),
        (Decimal128(10, 2), "1.50", json!({"x": true}), "compared with true"),
    ] {
        let why = found(&kind, &[text], &filter).expect_err("refused").to_string();
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(found(&Int64, &["1"], &json!({"x": null})), Ok(vec![]), "null fits every type");
}

#[test]
fn parts_of_a_dataset_that_differ_have_a_common_type() {
    use DataType::{
        Date32, Decimal128, Decimal256, Float32, Int8, Int32, Int64, Null, Timestamp, UInt32,
        UInt64, Utf8,
    };
    let list = |kind: DataType| DataType::List(Arc::new(Field::new("item", kind, true)));
    let nanos = |zone: Option<&str>| Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
    for (a, b, common) in [
        (Int8, Int32, Int64),
        (Int64, Float32, DataType::Float64),
        (UInt64, UInt32, UInt64),
        (UInt64, Int64, Decimal128(20, 0)),
        (Int64, Decimal128(10, 2), Decimal128(21, 2)),
        (Decimal128(38, 2), Decimal128(10, 9), Decimal256(45, 9)),
        (Decimal128(10, 2), Float32, DataType::Float64),
        (nanos(None), nanos(Some("+02:00")), nanos(None)),
        (nanos(None), Date32, Timestamp(TimeUnit::Microsecond, None)),
        (Null, Int8, Int8),
        (list(Null), list(Int8), list(Int8)),
        (list(Utf8), list(Int8), list(Utf8)),
        (Int64, Utf8, Utf8),
        (Date32, Int64, Utf8),
    ] {
        assert_eq!((common_type(&a, &b), common_type(&b, &a)), (common.clone(), common));
    }
    assert_eq!(
        (settled_type(&Null), settled_type(&list(Null)), settled_type(&Int8)),
        (Utf8, list(Utf8), Int8)
    );
    assert!(is_filterable(&Null) && is_filterable(&list(Null)) && !is_scalar(&Null));
}

#[test]
fn numbers_are_compared_exactly() {
    use Ordering::{Equal, Greater, Less};
    let large = 9_007_199_254_740_993_i128;
    for (a, b, wanted) in [
        (large, 9_007_199_254_740_992.0, Greater),
        (-large, -9_007_199_254_740_992.0, Less),
        (3, 3.5, Less),
        (-3, -3.5, Greater),
        (4, 4.0, Equal),
        (0, -0.0, Equal),
        (i128::MAX, f64::INFINITY, Less),
        (i128::MIN, f64::NEG_INFINITY, Greater),
    ] {
        assert_eq!(order(&Value::Int(a), &Value::Float(b)), Some(wanted), "{a} {b}");
        assert_eq!(order(&Value::Float(b), &Value::Int(a)), Some(wanted.reverse()), "{b} {a}");
    }
    assert_eq!(order(&Value::Int(1), &Value::Float(f64::NAN)), None);
    for (a, b, wanted) in [
        ("12345678901234567890.12", "12345678901234567890.13", Less),
        ("9.990", "9.99", Equal),
        ("-1.5", "-1.25", Less),
        ("-0.00", "0", Equal),
        ("10", "9.99", Greater),
        ("0.1", ".10", Equal),
    ] {
        assert_eq!((decimals(a, b), decimals(b, a)), (wanted, wanted.reverse()), "{a} {b}");
    }
}

/// A base's columns in order find what looking at every row finds.
#[test]
fn columns_in_order_and_the_map_of_ids_find_what_looking_at_each_row_finds() {
    use arrow_array::{Float64Array, Int64Array, ListArray, StringArray};
    let numbers: ArrayRef =
        Arc::new(Int64Array::from_iter((0..500).map(|n| (n % 7 != 0).then_some(n % 50))));
    let words: ArrayRef = Arc::new(StringArray::from_iter(
        (0..500).map(|n| (n % 11 != 0).then(|| format!("w{}", n % 13))),
    ));
    let shares: ArrayRef = Arc::new(Float64Array::from_iter(
        (0..500).map(|n| Some(if n == 9 { f64::NAN } else { f64::from(n) / 10.0 })),
    ));
    let list = |n: i64| {
        (n % 5 != 0)
            .then(|| (0..n % 4).map(move |i| (i != 2).then_some(n % 50 + i)).collect::<Vec<_>>())
    };
    let lists: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>((0..500).map(list)));
    let columns =
        RecordBatch::try_from_iter([("n", numbers), ("w", words), ("s", shares), ("l", lists)])
            .expect("a batch");
    let mut rows = RowStore::default();
    for n in 0..500 {
        let id = format!("d{}", n / 2);
        rows.push(&crate::rows::Row {
            doc_id: &id,
            content_hash: &[0; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "",
            text: "",
        });
    }
    let sorted = sorted::SortedColumns::default();
    let of = |sorted| Part { columns: &columns, rows: &rows, source: "d", sorted };
    for filter in [
        json!({}),
        json!({"n": 3}),
        json!({"n": {"$gte": 10, "$lt": 20}}),
        json!({"n": {"$ne": 3}}),
        json!({"n": null}),
        json!({"n": {"$exists": true}}),
        json!({"n": {"$gt": 10.5}}),
        json!({"w": {"$in": ["w1", "w2", null]}}),
        json!({"w": {"$nin": ["w1"]}}),
        json!({"s": {"$lte": 0.9}}),
        json!({"l": {"$contains": 7}}),
        json!({"l": {"$contains": 1000}}),
        json!({"l": {"$exists": false}}),
        json!({"$not": {"l": {"$contains": 12}}}),
        json!({"doc_id": "d17"}),
        json!({"doc_id": {"$in": ["d1", "d249", "gone"]}}),
        json!({"doc_id": {"$gt": "d9"}}),
        json!({"source": "d", "n": 3}),
        json!({"source": "other"}),
        json!({"$or": [{"n": 3}, {"w": "w4"}], "$not": {"s": {"$gt": 30}}}),
    ] {
        let parsed = Filter::parse(&filter).expect("parses");
        let (one, other) = (
            of(Some(&sorted)).allowed(&parsed).expect("fits"),
            of(None).allowed(&parsed).expect("fits"),
        );
        assert_eq!(one.rows(0, 500), other.rows(0, 500), "{filter}");
    }
}

#[test]
fn a_list_is_asked_for_one_of_its_values_and_nothing_else() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let of = |_: &str| Ok(list.clone());
    let typed = |filter: &Json| {
        Filter::parse(filter).expect("parses").typed(&of).map_err(|why| why.to_string())
    };
    assert!(
        typed(&json!({"x": {"$contains": 3}})).is_ok()
            && typed(&json!({"x": {"$exists": true}})).is_ok()
    );
    for (filter, words) in
        [(json!({"x": 3}), "$contains"), (json!({"x": {"$contains": "3"}}), "expected a number")]
    {
        assert!(typed(&filter).is_err_and(|why| why.contains(words)), "{filter}");
    }
    let text = |_: &str| Ok(DataType::Utf8);
    let why = Filter::parse(&json!({"x": {"$contains": "a"}}))
        .expect("parses")
        .typed(&text)
        .expect_err("refused");
    assert!(why.to_string().contains("is for lists"), "{why}");
    assert!(is_filterable(&list) && !is_scalar(&list) && !is_filterable(&DataType::Binary));
}
