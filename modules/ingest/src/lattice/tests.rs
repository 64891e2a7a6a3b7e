//! Tests of the lattice: what joins keep, and which values each type holds.

use arrow_array::Array as _;
use proptest::prelude::*;

use super::cells::Cells;
use super::*;

fn facts(texts: &[String]) -> Facts {
    let mut facts = Facts::default();
    texts.iter().zip(1..).for_each(|(text, row)| facts.add(&Value::of_field(text), text, row));
    facts
}

fn kind(texts: &[&str]) -> Kind {
    facts(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).kind()
}

#[test]
fn the_narrowest_type_that_holds_all_is_taken() {
    let stamp = |zoned, fine| Kind::Stamp { zoned, fine };
    let cases: &[(&[&str], Kind)] = &[
        (&[], Kind::Null),
        (&["", ""], Kind::Null),
        (&["true", "FALSE"], Kind::Bool),
        (&["1", "-2"], Kind::Int),
        (&["18446744073709551615", "5"], Kind::UInt),
        (&["18446744073709551615", "-5"], Kind::Decimal(38, 0)),
        (&["18446744073709551616"], Kind::Decimal(38, 0)),
        (&["1", "0.5"], Kind::Float),
        (&["9007199254740993", "0.5"], Kind::Decimal(18, 1)),
        (&["99999999999999.99", "1.5", "1234567890123456.7"], Kind::Decimal(18, 2)),
        (&[".5", "0.25", "-.75"], Kind::Float),
        (&["0.5", "0.05123456789012345", "0.25"], Kind::Float),
        (&["1e400", "1"], Kind::Text),
        (&["1", "nan", "-inf"], Kind::Float),
        (&["nan"], Kind::Text),
        (&["007", "1"], Kind::Text),
        (&["34", "NA", "NULL", "\\N"], Kind::Int),
        (&["NA", "NULL"], Kind::Text),
        (&["Anna", "NA"], Kind::Text),
        (&["true", "1"], Kind::Text),
        (&["2024-01-31", ""], Kind::Date),
        (&["2024-01-31", "2024-01-31 12:00"], stamp(false, false)),
        (&["2024-01-31T12:00:00Z", "2024-01-31T12:00:00+02:00"], stamp(true, false)),
        (&["2024-01-31T12:00:00.123456789Z"], stamp(true, true)),
        (&["2024-01-31T12:00:00.123456789", "0001-01-01"], Kind::Text),
        (&["2024-01-31T12:00:00Z", "2024-01-31T12:00:00"], Kind::Text),
        (&["12:00:00", "23:59:59.999999"], Kind::Time),
        (&["12:00:00", "2024-01-31"], Kind::Text),
        (&["31.01.2024"], Kind::Text),
        (&["f81d4fae-7dec-11d0-a765-00a0c91e6bf6"], Kind::Text),
    ];
    for (texts, expected) in cases {
        assert_eq!(kind(texts), *expected, "{texts:?}");
    }
}

#[test]
fn a_column_keeps_its_type_if_that_holds_what_is_there() {
    let kept = |texts: &[&str], kind: DataType| {
        facts(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
            .kind_or(Some(&kind))
            .arrow()
    };
    assert_eq!(kept(&["1"], DataType::Utf8), DataType::Utf8);
    assert_eq!(kept(&["1"], DataType::Float64), DataType::Float64);
    assert_eq!(kept(&["9007199254740993"], DataType::Float64), DataType::Int64);
    assert_eq!(kept(&["1.5"], DataType::Decimal128(18, 2)), DataType::Decimal128(18, 2));
    assert_eq!(kept(&["1.555"], DataType::Decimal128(18, 2)), DataType::Float64);
    assert_eq!(kept(&["-1"], DataType::UInt64), DataType::Int64);
    assert_eq!(
        kept(&["2024-01-31"], Kind::Stamp { zoned: false, fine: false }.arrow()),
        Kind::Stamp { zoned: false, fine: false }.arrow()
    );
    for kind in [
        DataType::Int64,
        DataType::Boolean,
        DataType::Date32,
        DataType::Decimal128(18, 2),
        DataType::Float64,
        DataType::Utf8,
    ] {
        assert_eq!(kept(&["", "NA"], kind.clone()), kind, "words for no value change no type");
        let mut cells = Cells::new(&Kind::of(&kind).expect("one of ours"));
        assert!(cells.push(&Value::of_field("NA"), "NA"));
        assert_eq!(cells.finish().is_null(0), kind != DataType::Utf8, "{kind}");
    }
    assert_eq!(kept(&["nan", "NA", "-inf"], DataType::Float64), DataType::Float64);
    assert_eq!(kept(&["nan"], DataType::Int64), DataType::Utf8, "no whole number is NaN");
    assert_eq!(kept(&["NA", "x"], DataType::Int64), DataType::Utf8);
    assert_eq!(kept(&["x"], DataType::Int64), DataType::Utf8);
    // As an earlier version or another program made it: no type of these files.
    assert_eq!(kept(&["1"], DataType::Int32), DataType::Int64);
}

/// Fields of every sort, those on the edges among them.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{1,22}",
        "-?[0-9]{0,18}\\.[0-9]{0,18}",
        any::<i64>().prop_map(|value| value.to_string()),
        any::<u64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| format!("{value:?}")),
        any::<f64>().prop_map(|value| format!("{value:.16e}")),
        "(0[0-9]{3}|1[0-9]{3}|20[0-9]{2})-[01][0-9]-[0-3][0-9]([ T][0-2][0-9]:[0-5][0-9](:[0-5][0-9](\\.[0-9]{1,9})?)?(Z|\\+0[0-9]:00)?)?",
        "[0-2][0-9]:[0-5][0-9]:[0-5][0-9]",
        "(true|FALSE|nan|-inf|NA|NULL|)",
        "[a-z ]{0,6}",
    ]
}

/// A text as the value that an array holds, if a type is no text.
fn same(kind: &Kind, text: &str, array: &arrow_array::ArrayRef) -> bool {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Date32Type, Decimal128Type, Float64Type, Int64Type, UInt64Type};
    let value = Value::of_field(text);
    if matches!(value, Value::Null) || (matches!(value, Value::Absent) && *kind != Kind::Text) {
        return array.is_null(0);
    }
    match kind {
        Kind::Text | Kind::Null => array.as_string::<i32>().value(0) == text,
        Kind::Bool => array.as_boolean().value(0).to_string() == text.to_lowercase(),
        Kind::Int => array.as_primitive::<Int64Type>().value(0).to_string() == text,
        Kind::UInt => array.as_primitive::<UInt64Type>().value(0).to_string() == text,
        Kind::Float => {
            let (own, theirs) = (
                array.as_primitive::<Float64Type>().value(0),
                text.parse::<f64>().expect("a double"),
            );
            own.to_bits() == theirs.to_bits() || (own.is_nan() && theirs.is_nan())
        }
        Kind::Decimal(_, scale) => {
            let digits = array.as_primitive::<Decimal128Type>().value(0);
            Value::Number(Number::scan(text.as_bytes()).expect("a number")) == value
                && Number::scan(text.as_bytes()).and_then(|number| number.unscaled(*scale))
                    == Some(digits)
        }
        Kind::Date => {
            chrono::NaiveDate::from_epoch_days(array.as_primitive::<Date32Type>().value(0))
                .map(|day| day.to_string())
                .as_deref()
                == Some(text)
        }
        // Compared by their own parser's tests.
        Kind::Time | Kind::Stamp { .. } => !array.is_null(0),
        Kind::Json | Kind::Struct(_) | Kind::List(_) => false,
    }
}

proptest! {
    #[test]
    fn facts_join_in_any_order_and_grouping(
        a in proptest::collection::vec(field(), 0..6),
        b in proptest::collection::vec(field(), 0..6),
        c in proptest::collection::vec(field(), 0..6),
    ) {
        let of = |parts: &[&[String]]| {
            let mut all = Facts::default();
            parts.iter().for_each(|part| all.join(facts(part)));
            (all.scalars, all.kind())
        };
        let whole = of(&[&a, &b, &c]);
        prop_assert_eq!(&of(&[&c, &a, &b]), &whole, "commutative");
        prop_assert_eq!(&of(&[&a, &[b.clone(), c.clone()].concat()]), &whole, "associative");
        prop_assert_eq!(&of(&[&a, &b, &c, &a]), &whole, "idempotent");
        prop_assert_eq!(of(&[&a, &[]]), of(&[&a]), "nothing changes nothing");
    }

    #[test]
    fn every_value_is_in_the_type_of_all_as_it_stands_there(
        texts in proptest::collection::vec(field(), 1..8),
    ) {
        let kind = facts(&texts).kind();
        for text in &texts {
            let mut cells = Cells::new(&kind);
            prop_assert!(
                cells.push(&Value::of_field(text), text),
                "{:?} does not hold {}",
                kind,
                text
            );
            let array = cells.finish();
            prop_assert!(same(&kind, text, &array), "{} in {:?} is {:?}", text, kind, array);
        }
    }

    #[test]
    fn a_type_that_fits_holds_every_value(
        texts in proptest::collection::vec(field(), 1..6),
        other in proptest::collection::vec(field(), 1..3),
    ) {
        let kept = facts(&other).kind();
        let kind = facts(&texts).kind_or(Some(&kept.arrow()));
        for text in &texts {
            prop_assert!(
                Cells::new(&kind).push(&Value::of_field(text), text),
                "{:?} does not hold {}",
                kind,
                text
            );
        }
    }
}
