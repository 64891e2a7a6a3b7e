//! Tables that are read by and by: what is above a cursor, and part by part after a kill.

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::Mesh;
use brahman_tests::servers::{MariaDb, Postgres};
use serde_json::{Value, json};

use crate::tables::{mesh, pyarrow};

async fn dataset(mesh: &Mesh) -> Value {
    mesh.call("org.brahman.Catalog.Get", json!({"name": "t"})).await.expect("there")["dataset"]
        .clone()
}

fn more(mut ask: Value, fields: Value) -> Value {
    let fields = fields.as_object().expect("fields").clone();
    ask.as_object_mut().expect("an object").extend(fields);
    ask
}

/// All rows of the dataset as it is, by id.
async fn rows(mesh: &Mesh) -> String {
    pyarrow(
        &dataset(mesh).await,
        "sorted(zip(t.column('id').to_pylist(), t.column('v').to_pylist()))",
    )
}

#[tokio::test]
async fn rows_above_the_cursor_take_the_place_of_old_ones_and_late_commits_are_not_lost() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql(
        "CREATE TABLE t (id int8 PRIMARY KEY, v text, at timestamptz);
         INSERT INTO t SELECT i, 'v' || i, '2026-01-01 00:00:00Z'::timestamptz + i * interval '1 second' FROM generate_series(1, 1000) i;
         INSERT INTO t VALUES (5000, 'without a time', NULL)",
    );
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "t", "mode": "incremental", "cursor": "at", "key": ["id"], "lag": 30});
    let run = async || mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("read");
    let first = run().await;
    assert_eq!((&first["rows"], &first["mode"]), (&json!(1001), &json!("incremental")));
    assert!(
        dataset(&mesh).await["watermark"]["bound"]
            .as_str()
            .is_some_and(|b| b.contains("2026-01-01 00:16:40")),
        "{first}"
    );

    // Nothing new is no new generation, though thirty seconds are read again.
    let nothing = run().await;
    assert_eq!(
        (&nothing["generation"], &nothing["rows"]),
        (&first["generation"], &json!(30)),
        "what is read again is what it was: {nothing}"
    );
    let note = nothing["notes"].to_string();
    assert!(note.contains("less the lag of 30: nothing new"), "{note}");

    // A change, a new row, and one whose commit came late: its time is below the cursor.
    server.psql(
        "UPDATE t SET v = 'changed', at = '2026-01-01 00:20:00Z' WHERE id = 7;
         INSERT INTO t VALUES (2000, 'new', '2026-01-01 00:20:01Z'), (2001, 'late', '2026-01-01 00:16:35Z')",
    );
    let second = run().await;
    let note = second["notes"].to_string();
    assert!(note.contains("2 new") && note.contains("rows deleted at the source stay"), "{note}");
    let expected = server.psql(
        "SELECT '[' || string_agg(format('(%s, ''%s'')', id, v), ', ' ORDER BY id) || ']' FROM t",
    );
    assert_eq!(rows(&mesh).await, expected);

    // Without a lag and without a change there is nothing to publish.
    let quiet = more(ask.clone(), json!({"lag": 0}));
    let generation = dataset(&mesh).await["generation"].clone();
    let out = mesh.call("org.brahman.Ingest.Postgres", quiet).await.expect("read");
    assert_eq!((&out["rows"], &out["generation"]), (&json!(0), &generation));

    // What cannot be is refused by name, and what was committed stands.
    server.psql(
        "ALTER TABLE t ADD COLUMN w int; UPDATE t SET at = '2026-01-01 00:30:00Z' WHERE id = 8",
    );
    for (fields, why) in [
        (json!({}), "columns have changed"),
        (json!({"cursor": "id"}), "was read by `at`"),
        (json!({"cursor": "v", "lag": 3}), "was read by `at`"),
        (json!({"key": []}), "with a lag"),
        (json!({"mode": "sideways"}), "expected full, incremental or keyset"),
        (json!({"table": null, "query": "SELECT 1"}), "expected a table"),
    ] {
        let fault = mesh.fault("org.brahman.Ingest.Postgres", more(ask.clone(), fields)).await;
        assert!(fault.message().contains(why), "{fault}");
    }
    assert_eq!(rows(&mesh).await, expected);
}

#[tokio::test]
async fn a_dataset_of_several_runs_whose_manifest_is_lost_comes_back_whole_and_is_read_on_from_where_it_stood()
 {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 1000) i");
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "t", "mode": "incremental", "cursor": "id"});
    let run = async || mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("read");
    run().await;
    server.psql("INSERT INTO t SELECT i, 'v' || i FROM generate_series(2001, 2010) i");
    run().await;
    let before = dataset(&mesh).await;
    assert_eq!(
        (&before["rows"], before["objects"].as_array().map(Vec::len)),
        (&json!(1010), Some(2))
    );
    let lose = async || {
        let pid = mesh.module("catalog").await.pid;
        std::fs::remove_file(mesh.folder.path().join("state/catalog/t.json")).expect("removed");
        mesh.signal(pid, "KILL");
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "catalog" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
    };
    lose().await;
    assert_eq!(mesh.brahman_json(&["datasets"])["datasets"][0]["state"], "lost");
    mesh.brahman_json(&["datasets", "resync"]);
    let back = dataset(&mesh).await;
    for field in ["rows", "objects", "watermark", "run_id", "generation"] {
        assert_eq!(back[field], before[field], "{field}");
    }
    // It goes on from there.
    server.psql("INSERT INTO t VALUES (3000, 'next')");
    let next = run().await;
    assert!(next["notes"].to_string().contains("1 new"), "{next}");
    assert_eq!(dataset(&mesh).await["rows"], 1011);

    // With an object gone it does not add up: that is said by name, and nothing is published or
    // deleted.
    let gone = before["objects"][0]["path"].as_str().expect("a path").to_owned();
    std::fs::remove_file(&gone).expect("removed");
    lose().await;
    let fault = mesh.fault("org.brahman.Catalog.Resync", json!({"name": "t"})).await;
    assert_eq!(
        (&*fault.name, &fault.parameters["expected_rows"]),
        ("org.brahman.Catalog.Incomplete", &json!(1011)),
        "{fault}"
    );
    assert!(fault.message().contains("part-0.parquet"), "{fault}");
    let out = mesh.brahman(&["datasets", "resync", "t"]);
    assert!(!out.status.success());
    assert!(std::path::Path::new(before["objects"][1]["path"].as_str().expect("a path")).is_file());
}

#[tokio::test]
async fn what_is_read_above_a_cursor_is_looked_through_for_personal_data_as_what_was_read_whole() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql("CREATE TABLE t (id int PRIMARY KEY, email text)");
    server.psql(
        "INSERT INTO t SELECT i, 'user' || i || '@example.org' FROM generate_series(1, 200) i",
    );
    let whole = json!({"dataset": "t", "dsn": server.dsn(), "table": "t"});
    let above = json!({"dataset": "t", "dsn": server.dsn(), "table": "t", "mode": "incremental", "cursor": "id", "key": ["id"]});
    for ask in [&whole, &above, &above] {
        mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("read");
        server.psql("INSERT INTO t SELECT max(id) + 1, 'nobody' FROM t");
        let shown = mesh.brahman_json(&["datasets", "show", "t", "--rows", "1"]);
        let email = shown["dataset"]["pii"]["columns"]
            .as_array()
            .and_then(|all| all.iter().find(|c| c["column"] == "email"));
        assert_eq!(email.map(|column| &column["status"]), Some(&json!("found")), "{shown}");
        assert_eq!(shown["sample"]["masked"], json!(["email"]), "{shown}");
    }
}

#[tokio::test]
async fn rows_that_no_cursor_tells_apart_are_read_by_their_key_or_refused_by_name() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql(
        "CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz);
         INSERT INTO t VALUES (1, 'a', '2024-01-01 12:00:00Z'), (2, 'b', 'infinity'), (3, 'c', NULL), (4, 'd', '9999-01-01 12:00:00Z'), (5, 'e', '2024-01-02 12:00:00Z')",
    );
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "t", "mode": "incremental", "cursor": "at", "key": ["id"]});
    let keyless = more(ask.clone(), json!({"dataset": "keyless", "key": []}));
    let run = async || mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("read");
    let whole = || {
        server.psql("SELECT '[' || string_agg(format('(%s, ''%s'')', id, v), ', ' ORDER BY id) || ']' FROM t")
    };
    let first = run().await;
    assert!(first["notes"].to_string().contains("3 rows whose `at` is NULL"), "{first}");
    assert!(
        dataset(&mesh).await["watermark"]["bound"]
            .as_str()
            .is_some_and(|bound| bound.starts_with("2024-01-02")),
        "{first}"
    );
    // Nothing has come: nothing is published.
    assert_eq!((&run().await["generation"], rows(&mesh).await), (&json!(1), whole()));
    // The same time as the last one's, no time, and no end of time.
    server.psql(
        "INSERT INTO t VALUES (6, 'f', '2024-01-02 12:00:00Z'), (7, 'g', NULL), (8, 'h', 'infinity'), (9, 'i', '2024-01-03 12:00:00Z')",
    );
    run().await;
    assert_eq!(rows(&mesh).await, whole());
    // Without a key nobody knows.
    let fault = mesh.fault("org.brahman.Ingest.Postgres", keyless.clone()).await;
    assert!(
        fault.message().contains("3 rows have a `at` that is infinite or later than tomorrow"),
        "{fault}"
    );
    server.psql("DELETE FROM t WHERE at > '9000-01-01 12:00:00Z'");
    mesh.call("org.brahman.Ingest.Postgres", keyless.clone()).await.expect("read");
    server.psql("INSERT INTO t VALUES (10, 'j', '2024-01-03 12:00:00Z')");
    let fault = mesh.fault("org.brahman.Ingest.Postgres", keyless.clone()).await;
    assert!(fault.message().contains("2 rows have `at` = 2024-01-03"), "{fault}");
    server.psql("DELETE FROM t WHERE id = 10; INSERT INTO t VALUES (11, 'k', NULL)");
    let fault = mesh.fault("org.brahman.Ingest.Postgres", keyless).await;
    assert!(fault.message().contains("3 rows have a `at` that is NULL"), "{fault}");

    // Keys that are NULL are refused, and every type that sorts is one.
    server.psql(
        "CREATE TABLE n (k int, v text); INSERT INTO n SELECT i, 'v' FROM generate_series(1, 100) i; INSERT INTO n VALUES (NULL, 'n');
         CREATE TABLE u (k uuid PRIMARY KEY DEFAULT gen_random_uuid()); INSERT INTO u SELECT FROM generate_series(1, 50);
         CREATE TABLE f (k float8 PRIMARY KEY); INSERT INTO f SELECT random() FROM generate_series(1, 50);
         INSERT INTO f VALUES ('NaN'), ('Infinity'), ('-Infinity');
         ALTER DATABASE postgres SET extra_float_digits = -10; ALTER DATABASE postgres SET datestyle = 'SQL, DMY'",
    );
    let by_key = |table: &str| json!({"dataset": table, "dsn": server.dsn(), "table": table, "mode": "keyset", "key": ["k"], "chunk_rows": 7});
    let fault = mesh.fault("org.brahman.Ingest.Postgres", by_key("n")).await;
    assert!(fault.message().contains("1 rows have NULL in the key `k`"), "{fault}");
    for (table, count) in [("u", 50), ("f", 53)] {
        let out = mesh.call("org.brahman.Ingest.Postgres", by_key(table)).await.expect("read");
        assert_eq!(
            (&out["rows"], pyarrow(&out, "len(set(map(str, t.column('k').to_pylist())))")),
            (&json!(count), count.to_string())
        );
    }
    // A cursor whose server prints dates in another order goes on from where it was.
    server.psql("INSERT INTO t VALUES (12, 'l', '2024-02-13 12:00:00Z')");
    run().await;
    server.psql("INSERT INTO t VALUES (13, 'm', '2024-03-12 12:00:00Z')");
    run().await;
    assert_eq!(rows(&mesh).await, server.psql(
        "SELECT '[' || string_agg(format('(%s, ''%s'')', id, v), ', ' ORDER BY id) || ']' FROM (SELECT id, v FROM t UNION VALUES (2, 'b'), (4, 'd'), (8, 'h')) t"
    ), "what was deleted at the source stays");
}

#[tokio::test]
async fn mariadb_finds_its_own_values_again_whatever_a_backslash_means_there() {
    let (server, mesh) = (MariaDb::start(), mesh().await);
    server.sql("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'");
    server.sql(
        "CREATE TABLE s (k VARCHAR(20) COLLATE utf8mb4_bin PRIMARY KEY);
         CREATE TABLE b (k VARBINARY(4) PRIMARY KEY); INSERT INTO b VALUES (X'00FF'), (X'27'), (X'5C27'), (X'FF');
         CREATE TABLE d (k DECIMAL(40,20) PRIMARY KEY); INSERT INTO d VALUES (0.00000000000000000001), (0.00000000000000000002), (1);
         CREATE TABLE e (k ENUM('z', 'a') PRIMARY KEY)",
    );
    server.sql("INSERT INTO s VALUES ('a'), (CONCAT('a', CHAR(92), 'b')), (CONCAT('a', CHAR(92), 'c')), (CONCAT('a', CHAR(39)))");
    for (table, count) in [("s", 4), ("b", 4), ("d", 3)] {
        for ask in [
            json!({"mode": "keyset", "key": ["k"], "chunk_rows": 1}),
            json!({"mode": "incremental", "cursor": "k", "key": ["k"]}),
        ] {
            let ask = more(
                json!({"dataset": format!("{table}.{}", ask["mode"].as_str().expect("a mode")), "dsn": server.dsn(), "table": table}),
                ask,
            );
            let out = mesh.call("org.brahman.Ingest.Mysql", ask).await.expect("read");
            assert_eq!(out["rows"], json!(count), "{out}");
        }
    }
    let ask =
        json!({"dataset": "e", "dsn": server.dsn(), "table": "e", "mode": "keyset", "key": ["k"]});
    assert!(
        mesh.fault("org.brahman.Ingest.Mysql", ask).await.message().contains("as it sorts them")
    );
}

#[tokio::test]
async fn a_schema_is_read_beyond_a_table_that_may_not_be() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql(
        "CREATE SCHEMA shop; CREATE TABLE shop.a (id int); CREATE TABLE shop.b (id int); CREATE TABLE shop.c (id int);
         INSERT INTO shop.a VALUES (1); INSERT INTO shop.b VALUES (1); INSERT INTO shop.c VALUES (1);
         CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA shop TO guest; GRANT SELECT ON shop.a, shop.c TO guest",
    );
    let dsn = format!(
        "postgres://guest@/postgres?host={}&port={}",
        server.socket().display(),
        server.port()
    );
    let out = mesh
        .call("org.brahman.Ingest.Postgres", json!({"dataset": "s", "dsn": dsn, "schema": "shop"}))
        .await
        .expect("read");
    let names: Vec<&str> = out["datasets"]
        .as_array()
        .expect("datasets")
        .iter()
        .filter_map(|d| d["dataset"].as_str())
        .collect();
    assert_eq!((names, &out["quarantined"]), (vec!["s.a", "s.c"], &json!(1)));
    assert!(
        out["quarantine"][0]["source"].as_str().is_some_and(|source| source.contains("\"b\"")),
        "{out}"
    );
    server.psql("REVOKE SELECT ON shop.a, shop.c FROM guest");
    let fault = mesh
        .fault("org.brahman.Ingest.Postgres", json!({"dataset": "s", "dsn": dsn, "schema": "shop"}))
        .await;
    assert!(fault.message().contains("none of 3 tables could be read"), "{fault}");
}

/// Cursors of every kind whose order as text is another than their own: of a thousand rows each,
/// and of as many later ones, not one is passed over.
#[tokio::test]
async fn a_cursor_goes_by_its_own_order_and_not_by_that_of_its_text() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    let kinds = [
        ("int2", "i - 500"),
        ("int4", "i"),
        ("int8", "i * 1000003 - 400000000"),
        ("numeric", "(i - 300) / 7.0"),
        ("float4", "(i - 300) * 0.37"),
        ("float8", "(i - 300) / 7.0::float8"),
        ("date", "'0100-01-01'::date + i * 500"),
    ];
    for (kind, value) in kinds {
        let table = format!("of_{kind}");
        server.psql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, u {kind});
             INSERT INTO {table} SELECT i, {value} FROM generate_series(1, 1000) i"
        ));
        let ask = json!({"dataset": &table, "dsn": server.dsn(), "table": &table, "mode": "incremental", "cursor": "u"});
        let first = mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("read");
        assert_eq!(first["rows"], 1000, "{kind}: {first}");
        server.psql(&format!(
            "INSERT INTO {table} SELECT i, {value} FROM generate_series(1001, 1100) i"
        ));
        let second = mesh.call("org.brahman.Ingest.Postgres", ask).await.expect("read");
        assert_eq!(second["rows"], 100, "{kind}: {second}");
        let kept =
            mesh.call("org.brahman.Catalog.Get", json!({"name": &table})).await.expect("there");
        assert_eq!(kept["dataset"]["rows"], 1100, "{kind}");
    }
    // In parts, from below nothing to above it: as many as their size says.
    server.psql("ALTER TABLE of_int2 ADD UNIQUE (u); ALTER TABLE of_int2 ALTER u SET NOT NULL");
    let ask = json!({"dataset": "k", "dsn": server.dsn(), "table": "of_int2", "mode": "keyset", "key": ["u"], "chunk_rows": 100});
    let out = mesh.call("org.brahman.Ingest.Postgres", ask).await.expect("read");
    assert_eq!((&out["rows"], out["objects"].as_array().map(Vec::len)), (&json!(1100), Some(11)));
}

#[tokio::test]
async fn mariadb_reads_above_a_cursor_too() {
    let (server, mesh) = (MariaDb::start(), mesh().await);
    server.sql("CREATE TABLE t (id BIGINT UNSIGNED PRIMARY KEY, v VARCHAR(20), at DATETIME(6)) ENGINE=InnoDB");
    server.sql("INSERT INTO t SELECT seq, concat('v', seq), '2026-01-01' + INTERVAL seq SECOND FROM seq_1_to_500");
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "t", "mode": "incremental", "cursor": "at", "key": ["id"], "lag": 10});
    mesh.call("org.brahman.Ingest.Mysql", ask.clone()).await.expect("read");
    server.sql("UPDATE t SET v = 'it\\'s', at = '2026-02-01' WHERE id = 3");
    server.sql("INSERT INTO t VALUES (18446744073709551615, 'largest', '2026-02-02')");
    let out = mesh.call("org.brahman.Ingest.Mysql", ask).await.expect("read");
    assert!(out["notes"].to_string().contains("1 new"), "{out}");
    let expected = server.sql("SET group_concat_max_len = 1000000; SELECT concat('[', group_concat(concat('(', id, ', ', if(v LIKE '%\\'%', concat('\"', v, '\"'), quote(v)), ')') ORDER BY id SEPARATOR ', '), ']') FROM t");
    assert_eq!(rows(&mesh).await, expected);
    // In parts, by a key above what an i64 holds.
    let ask = json!({"dataset": "k", "dsn": server.dsn(), "table": "t", "mode": "keyset", "key": ["id"], "chunk_rows": 100});
    let out = mesh.call("org.brahman.Ingest.Mysql", ask).await.expect("read");
    assert_eq!((&out["rows"], out["objects"].as_array().map(Vec::len)), (&json!(501), Some(6)));
}

#[tokio::test]
async fn a_read_in_parts_goes_on_where_a_kill_stopped_it() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql("CREATE TABLE t (id text PRIMARY KEY, v int); INSERT INTO t SELECT 'it''s ' || i, i FROM generate_series(1, 20000) i");
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "t", "mode": "keyset", "key": ["id"], "chunk_rows": 500});
    let book = mesh.folder.path().join("state/ingest/keyset/t.json");
    let parts = || {
        let text = std::fs::read_to_string(&book).unwrap_or_default();
        serde_json::Deserializer::from_str(&text)
            .into_iter::<Value>()
            .next()
            .and_then(Result::ok)
            .and_then(|book| book["objects"].as_array().map(Vec::len))
            .unwrap_or(0)
    };
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    let call =
        encode_call("org.brahman.Ingest.Postgres", &ask, &CallOptions::default(), true, false)
            .expect("encodes");
    connection.send(&call).await.expect("sent");
    while parts() < 5 {}
    let pid = mesh.module("ingest").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "ingest" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    let there = parts();
    assert!((5..40).contains(&there), "{there} parts were there");
    mesh.fault("org.brahman.Catalog.Get", json!({"name": "t"})).await;
    let out = mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("it goes on");
    let notes = out["notes"].to_string();
    assert!(
        notes.contains("not in one snapshot")
            && notes.contains(&format!("with {there} objects that were there already")),
        "{notes}"
    );
    assert_eq!(out["rows"], 20_000);
    assert_eq!(
        pyarrow(
            &out,
            "t.num_rows, len(set(t.column('id').to_pylist())), sum(t.column('v').to_pylist())"
        ),
        "20000 20000 200010000"
    );
    assert!(!book.exists(), "what is finished is forgotten");
    // Again, from the beginning; an empty table is a dataset without rows.
    assert_eq!(
        mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("read")["rows"],
        20_000
    );
    server.psql("TRUNCATE t");
    let empty = mesh.call("org.brahman.Ingest.Postgres", ask).await.expect("read");
    assert_eq!((&empty["rows"], empty["columns"].as_array().map(Vec::len)), (&json!(0), Some(2)));
}

#[tokio::test]
async fn a_schema_is_read_in_one_snapshot_of_all_its_tables() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql(
        "CREATE SCHEMA shop; CREATE TABLE shop.a (id int PRIMARY KEY, n int8); CREATE TABLE shop.b (id int PRIMARY KEY, n int8);
         CREATE TABLE shop.\"odd name\" (v text); CREATE VIEW shop.seen AS SELECT 1 AS one;
         CREATE TABLE shop.parts (id int) PARTITION BY RANGE (id); CREATE TABLE shop.part0 PARTITION OF shop.parts FOR VALUES FROM (0) TO (9);
         INSERT INTO shop.a SELECT i, 100 FROM generate_series(1, 50000) i; INSERT INTO shop.b SELECT i, 100 FROM generate_series(1, 50000) i",
    );
    // Every transaction moves something from one table to the other.
    let writer = server.writer(
        "UPDATE shop.a SET n = n - 7 WHERE id = 3; UPDATE shop.b SET n = n + 7 WHERE id = 49999;",
    );
    for _ in 0..3 {
        let ask = json!({"dataset": "s", "dsn": server.dsn(), "schema": "shop"});
        let out = mesh.call("org.brahman.Ingest.Postgres", ask).await.expect("read");
        let names: Vec<&str> = out["datasets"]
            .as_array()
            .expect("datasets")
            .iter()
            .filter_map(|d| d["dataset"].as_str())
            .collect();
        assert_eq!(
            (names, &out["rows"]),
            (vec!["s.a", "s.b", "s.odd_name", "s.parts"], &json!(100_000))
        );
        let mut sum = 0;
        for name in ["s.a", "s.b"] {
            let there =
                mesh.call("org.brahman.Catalog.Get", json!({"name": name})).await.expect("there");
            sum += pyarrow(&there["dataset"], "sum(t.column('n').to_pylist())")
                .parse::<i64>()
                .expect("a number");
        }
        assert_eq!(sum, 10_000_000, "one snapshot of both");
        assert!(
            out["notes"][0].as_str().is_some_and(|n| n.contains("4 tables in one snapshot")),
            "{out}"
        );
    }
    drop(writer);
    let held = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'brahman-ingest'";
    while server.psql(held) != "0" {}
    let two = mesh.brahman_json(&[
        "ingest",
        "postgres",
        "two",
        "--dsn",
        &server.dsn(),
        "--table",
        "shop.a",
        "--table",
        "shop.b",
    ]);
    assert_eq!(two["datasets"].as_array().map(Vec::len), Some(2));
    for (fields, why) in [
        (json!({"schema": "none"}), "no tables in a schema `none`"),
        (json!({"tables": ["shop.a", "shop.none"]}), "committed before it: s.a"),
        (json!({"tables": ["shop.a", "public.a"]}), "would both be dataset s.a"),
        (json!({"tables": []}), "expected 1 to"),
        (json!({"schema": "shop", "mode": "incremental", "cursor": "id"}), "mode full"),
    ] {
        let fault = mesh
            .fault(
                "org.brahman.Ingest.Postgres",
                more(json!({"dataset": "s", "dsn": server.dsn()}), fields),
            )
            .await;
        assert!(fault.message().contains(why), "{fault}");
    }
    let server = MariaDb::start();
    server.sql("CREATE TABLE a (id INT); CREATE TABLE b (id INT); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1), (2)");
    let out = mesh
        .call(
            "org.brahman.Ingest.Mysql",
            json!({"dataset": "m", "dsn": server.dsn(), "schema": "d"}),
        )
        .await
        .expect("read");
    assert_eq!(out["rows"], 3);
    assert!(out["notes"][0].as_str().is_some_and(|n| n.contains("a snapshot of its own")), "{out}");
}
