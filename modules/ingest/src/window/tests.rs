//! Windows that leave no row out, and values as SQL has them.

use super::*;

fn window(since: Option<&str>, lag: u64, rows: Option<u64>) -> Window {
    Window { column: "c".into(), since: since.map(str::to_owned), lag, rows, ..Window::default() }
}

#[test]
fn parts_follow_one_another_without_a_gap() {
    let (pg, cut) = (Dialect::Postgres, Cut::default());
    let first = window(None, 0, None);
    assert_eq!(
        first.bound_query(pg, "c", "bigint", "t", &cut),
        "SELECT c::text FROM (SELECT c FROM t WHERE NOT (c IS NULL) ORDER BY c DESC LIMIT 1) AS brahman_last"
    );
    let all = Cut { strays: true, ..Cut::default() };
    assert_eq!(
        first.condition(pg, "c", "bigint", Some("9"), &all),
        "((c <= '9'::bigint) OR (c IS NULL))"
    );
    let next = window(Some("9"), 2, None);
    assert_eq!(
        next.condition(pg, "c", "bigint", Some("12"), &cut),
        "c > ('9'::bigint - 2) AND c <= '12'::bigint"
    );
    assert_eq!(next.condition(pg, "c", "bigint", None, &cut), "1 = 0");
    let again = Cut { inclusive: true, ..Cut::default() };
    assert_eq!(
        window(Some("9"), 0, None).condition(pg, "c", "uuid", Some("a"), &again),
        "c >= '9'::uuid AND c <= 'a'::uuid"
    );
    let times = window(Some("2026-01-01 00:00:00"), 60, None);
    assert!(
        times
            .condition(Dialect::Mysql, "c", "datetime(6)", Some("x"), &cut)
            .contains("- INTERVAL 60 SECOND")
    );
    let chunk = window(None, 0, Some(5));
    assert!(chunk.bound_query(pg, "c", "text", "t", &cut).contains("ORDER BY c LIMIT 5"));
    assert!(
        !chunk.bound_query(pg, "c", "date", "t", &cut).contains("isfinite"),
        "a key may be infinite"
    );
}

#[test]
fn rows_that_no_bound_tells_apart_are_read_again_by_their_key_or_refused() {
    let at = |since: Option<&str>, ties, strays, keyed| Window {
        ties,
        strays,
        keyed,
        ..window(since, 0, None)
    };
    let now = |strays, far, ties| Standing { strays, far, ties, ..Standing::default() };
    let what =
        |window: Window, now: Standing| window.cut(&now).map(|cut| (cut.inclusive, cut.strays));
    assert_eq!(
        what(at(None, None, None, false), now(2, 0, 0)),
        Ok((false, true)),
        "the first run reads them"
    );
    assert_eq!(
        what(at(Some("9"), Some(1), Some(2), false), now(2, 0, 1)),
        Ok((false, false)),
        "nothing has come"
    );
    assert_eq!(what(at(Some("9"), Some(1), Some(2), true), now(3, 1, 2)), Ok((true, true)));
    assert_eq!(
        what(at(Some("9"), None, None, true), now(3, 0, 1)),
        Ok((true, true)),
        "as an earlier version left it"
    );
    assert!(matches!(
        what(at(Some("9"), Some(1), Some(2), false), now(3, 0, 1)),
        Err(WindowError::Strays { now: 3, .. })
    ));
    assert!(matches!(
        what(at(Some("9"), Some(1), Some(0), false), now(0, 0, 2)),
        Err(WindowError::Ties { was: 1, now: 2, .. })
    ));
    assert!(matches!(
        what(at(None, None, None, false), now(1, 1, 0)),
        Err(WindowError::Far { rows: 1, .. })
    ));
    assert_eq!(what(at(None, None, None, true), now(1, 1, 0)), Ok((false, true)));
    assert!(matches!(
        window(None, 0, Some(5)).cut(&now(1, 0, 0)),
        Err(WindowError::NullKey { rows: 1, .. })
    ));
    let words =
        at(Some("9"), None, None, false).cut(&now(1, 0, 0)).expect_err("refused").to_string();
    assert!(words.contains("an unknown number of them") && words.contains("--key"), "{words}");
}

#[test]
fn one_stray_row_that_took_the_place_of_another_is_seen_by_the_sum_of_all() {
    let read = |keyed, was: Option<&str>, now: &str| {
        let window = Window {
            strays: Some(2),
            strays_sum: was.map(str::to_owned),
            keyed,
            ..window(Some("9"), 0, None)
        };
        window.cut(&Standing { strays: 2, strays_sum: Some(now.to_owned()), ..Standing::default() })
    };
    let what = |cut: Result<Cut, WindowError>| cut.map(|cut| (cut.strays, cut.note.is_some()));
    for keyed in [true, false] {
        assert_eq!(
            what(read(keyed, Some("7"), "7")),
            Ok((false, false)),
            "each is what it was, and there is nothing to say"
        );
    }
    assert_eq!(what(read(true, Some("7"), "8")), Ok((true, true)), "read again by their key");
    assert!(matches!(
        read(false, Some("7"), "8"),
        Err(WindowError::Strays { now: 2, was: Some(2), .. })
    ));
    assert_eq!(
        what(read(true, None, "8")),
        Ok((true, true)),
        "an earlier version summed up nothing"
    );
    assert_eq!(what(read(false, None, "8")), Ok((false, true)));
    let fewer = Window { strays: Some(3), ..window(Some("9"), 0, None) };
    assert!(
        fewer
            .cut(&Standing { strays: 2, ..Standing::default() })
            .is_ok_and(|cut| cut.note.is_some_and(|note| note.contains("fewer")))
    );
    let columns =
        [("`a`".to_owned(), "float".to_owned()), ("`c`".to_owned(), "datetime".to_owned())];
    let sum = |dialect| {
        window(None, 0, None)
            .sum_query(dialect, ("c", "timestamp"), "t", &columns)
            .expect("a query")
    };
    assert!(sum(Dialect::Postgres).ends_with(
        "FROM t AS brahman_row WHERE (c IS NULL OR NOT isfinite(c) OR c > now() + interval '1 day')"
    ));
    assert!(
        sum(Dialect::Mysql).contains("HEX(QUOTE(`a` * 1e0)), HEX(QUOTE(`c`))"),
        "{}",
        sum(Dialect::Mysql)
    );
    assert_eq!(
        window(None, 0, Some(5)).sum_query(Dialect::Postgres, ("c", "date"), "t", &columns),
        None
    );
}

#[test]
fn values_are_quoted_and_rounded_ones_refused() {
    assert_eq!(Dialect::Postgres.literal("o'b", "text"), "'o''b'::text");
    assert_eq!(Dialect::Mysql.literal(r"a\'", "varchar(9)"), "_utf8mb4 X'615C27'");
    assert_eq!(
        Dialect::Mysql.literal("2026-01-01 00:00:00.5", "datetime(6)"),
        "'2026-01-01 00:00:00.5'"
    );
    assert_eq!(
        Dialect::Mysql.literal("-0.12345678901234567890", "decimal(30,20)"),
        "-0.12345678901234567890"
    );
    assert_eq!(Dialect::Mysql.literal("00FF", "binary(2)"), "X'00FF'");
    assert_eq!(
        Dialect::Mysql.literal("' OR 1=1", "varbinary(9)"),
        "_utf8mb4 X'27204F5220313D31'",
        "read before its type changed"
    );
    assert_eq!(Dialect::Mysql.text("c", "binary(2)"), "HEX(c)");
    assert!(window(None, 0, None).check(Dialect::Mysql, "double").is_err());
    assert!(window(None, 0, None).check(Dialect::Mysql, "enum('b','a')").is_err());
    assert!(window(None, 3, None).check(Dialect::Postgres, "text").is_err());
    assert!(window(None, 3, None).check(Dialect::Postgres, "timestamp with time zone").is_ok());
    assert!(
        window(None, 0, None)
            .stray(Dialect::Postgres, "c", "timestamp(3) with time zone")
            .contains("isfinite")
    );
}
