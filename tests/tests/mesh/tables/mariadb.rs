//! Tables of a real MariaDB: every type, one snapshot to all who read it, and what goes wrong.

use std::process::Command;

use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::servers::MariaDb;
use brahman_tests::{Mesh, repository};
use serde_json::{Value, json};

use super::{error_of, files, mesh, mesh_with, pyarrow};
use crate::foreign::tool;

async fn read_mysql(mesh: &Mesh, ask: Value) -> Value {
    mesh.call("org.brahman.Ingest.Mysql", ask).await.expect("read")
}

#[tokio::test]
async fn every_mariadb_type_reads_as_mariadb_prints_it() {
    let (server, mesh) = (MariaDb::start(), mesh().await);
    let folder = repository().join("tests/tests/mesh/tables");
    server.sql(&std::fs::read_to_string(folder.join("mysql.sql")).expect("there"));
    let out =
        read_mysql(&mesh, json!({"dataset": "t", "dsn": server.dsn(), "table": "every"})).await;
    assert_eq!(out["rows"], 4);
    let compared = Command::new(tool("python3"))
        .arg(folder.join("compare_mysql.py"))
        .args([&server.socket().display().to_string(), "every", &out["columns"].to_string()])
        .args(files(&out))
        .output()
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&compared.stdout).trim(),
        "fine",
        "{}",
        String::from_utf8_lossy(&compared.stderr)
    );
    let column = |name: &str| {
        out["columns"]
            .as_array()
            .expect("columns")
            .iter()
            .find(|c| c["name"] == name)
            .expect("there")
            .clone()
    };
    assert_eq!(
        (&column("da")["nulls_made"], &column("dt")["nulls_made"], &column("ts")["nulls_made"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert_eq!(
        (&column("lu")["arrow_type"], &column("n65")["source_type"]),
        (&json!("UInt64"), &json!("decimal(65,30)"))
    );
}

#[tokio::test]
async fn a_mariadb_table_is_one_snapshot_and_what_goes_wrong_is_named() {
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    let (server, mesh) =
        (MariaDb::start(), mesh_with(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await);
    server.sql(
        "CREATE TABLE pairs (id INT PRIMARY KEY, amount BIGINT, filler CHAR(200)) ENGINE=InnoDB; \
         INSERT INTO pairs SELECT seq, 100, md5(seq) FROM seq_1_to_60000; \
         CREATE TABLE old (id INT) ENGINE=MyISAM; INSERT INTO old VALUES (1); CREATE VIEW seen AS SELECT id FROM pairs WHERE id < 11; \
         CREATE TABLE `odd ``name``` (`se lect` INT); INSERT INTO `odd ``name``` VALUES (5)",
    );
    let writer = server.writer(
        "UPDATE pairs SET amount = amount + IF(id % 2 = 0, 7, -7) WHERE id IN (1000, 1001); \
         SELECT max(id) INTO @last FROM pairs; DELETE FROM pairs WHERE id = @last; INSERT INTO pairs VALUES (@last + 1, 100, 'x');",
    );
    for _ in 0..3 {
        let out =
            read_mysql(&mesh, json!({"dataset": "t", "dsn": server.dsn(), "table": "d.pairs"}))
                .await;
        let checked = pyarrow(
            &out,
            "t.num_rows, len(set(t.column('id').to_pylist())), sum(t.column('amount').to_pylist())",
        );
        assert_eq!(
            checked, "60000 60000 6000000",
            "no row twice, none missing, no half of a transaction"
        );
    }
    drop(writer);
    assert_eq!(
        server.sql("SELECT max(id) > 60000, count(*) FROM pairs"),
        "1\t60000",
        "there was a writer"
    );
    let old = read_mysql(&mesh, json!({"dataset": "t", "dsn": server.dsn(), "table": "old"})).await;
    assert!(old["notes"][0].as_str().is_some_and(|n| n.contains("MyISAM")), "{old}");
    assert_eq!(
        read_mysql(&mesh, json!({"dataset": "t", "dsn": server.dsn(), "table": "seen"})).await["rows"],
        10
    );
    let odd =
        read_mysql(&mesh, json!({"dataset": "t", "dsn": server.dsn(), "table": "odd `name`"}))
            .await;
    assert_eq!(pyarrow(&odd, "t.to_pylist()"), "[{'se lect': 5}]");
    let query = json!({"dataset": "t", "dsn": server.dsn(), "query": "SELECT count(*) AS n, avg(id) AS a FROM pairs WHERE id <= 100;"});
    assert_eq!(
        pyarrow(&read_mysql(&mesh, query).await, "t.to_pylist()"),
        "[{'n': 100, 'a': Decimal('50.5000')}]"
    );
    let password = "p@:/%'\" s";
    let quoted = password.replace('\'', "''");
    server.sql(&format!(
        "CREATE USER r@localhost IDENTIFIED BY '{quoted}'; GRANT SELECT ON d.* TO r@localhost"
    ));
    let secret = format!(
        "[r]\nurl = \"mysql://r@127.0.0.1:{}/d\"\npassword = {}\n",
        server.port(),
        json!(password)
    );
    std::fs::write(secrets.path(), secret).expect("written");
    assert_eq!(
        read_mysql(&mesh, json!({"dataset": "t", "dsn": "secret:r", "table": "old"})).await["rows"],
        1
    );
    for (ask, words) in [
        (json!({"table": "absent"}), "no table `absent`; it has d.odd `name`"),
        (json!({"query": "SELECT 1 AS a, 2 AS a"}), "two columns `a`"),
        (json!({"query": "DELETE FROM pairs"}), "READ ONLY"),
        (json!({"query": "SELECT sleep(600)", "stall_s": 1}), "sent nothing for 1 s"),
        (json!({"query": "SELEC 1"}), "syntax"),
        (
            json!({"table": "old", "dsn": format!("mysql://r:{password}@127.0.0.1:{}/d", server.port())}),
            "",
        ),
        (
            json!({"table": "old", "dsn": format!("mysql://r:wrong@127.0.0.1:{}/d", server.port())}),
            "Access denied",
        ),
        (json!({"table": "old", "dsn": "postgres://x"}), "scheme"),
    ] {
        let mut ask = ask;
        ask["dataset"] = json!("t");
        if ask["dsn"].is_null() {
            ask["dsn"] = json!(server.dsn());
        }
        let fault = mesh.fault("org.brahman.Ingest.Mysql", ask).await;
        assert!(
            fault.message().contains(words) && !format!("{fault:?}").contains(password),
            "{fault}"
        );
    }
    assert!(!mesh.log().contains(password));
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "query": "SELECT id, sleep(0.001) AS s FROM pairs", "stall_s": 30});
    let ask = encode_call("org.brahman.Ingest.Mysql", &ask, &CallOptions::default(), true, false)
        .expect("encodes");
    connection.send(&ask).await.expect("sent");
    let ours = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE '%sleep(0.001)%' AND info NOT LIKE '%processlist%'";
    while server.sql(ours) == "0" {}
    mesh.signal(server.pid(), "KILL");
    let fault = error_of(&mut connection).await;
    assert!(fault.contains("SourceFailed") && fault.contains("nothing was published"), "{fault}");
    assert_eq!(
        mesh.brahman_json(&["datasets", "t"])["dataset"]["rows"],
        1,
        "the last that was committed stands"
    );
}

#[tokio::test]
async fn a_large_mariadb_table_is_one_snapshot_to_all_who_read_it() {
    let (server, mesh) = (MariaDb::start(), mesh().await);
    let rows = 240_000;
    server.sql(&format!(
        "CREATE TABLE pairs (id INT, part INT UNSIGNED, amount BIGINT, filler CHAR(200), PRIMARY KEY (id, part)) ENGINE=InnoDB; \
         INSERT INTO pairs SELECT CAST(seq AS SIGNED) - 500, 1, 100, md5(seq) FROM seq_1_to_{rows}; ANALYZE TABLE pairs"
    ));
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "pairs", "parallel": 2});
    let summed =
        "t.num_rows, len(set(t.column('id').to_pylist())), sum(t.column('amount').to_pylist())";
    let whole = format!("{rows} {rows} {}", rows * 100);
    let quiet = read_mysql(&mesh, ask.clone()).await;
    assert_eq!(
        (&quiet["parallel"], quiet["objects"].as_array().map(Vec::len), &quiet["notes"]),
        (&json!(2), Some(2), &json!([])),
        "{quiet}"
    );
    assert_eq!(pyarrow(&quiet, summed), whole);

    // A transfer between the first and the last rows, again and again; nobody may see one half of
    // it.
    let writer = server.writer(&format!(
        "UPDATE pairs SET amount = amount + IF(id < 0, 7, -7) WHERE id IN (-400, {}); DELETE FROM pairs WHERE id = @gone; \
         SELECT max(id) INTO @gone FROM pairs; INSERT INTO pairs VALUES (@gone + 1, 1, 100, 'x'); COMMIT; DO SLEEP(0.02);",
        rows - 600
    ));
    let mut shared = 0;
    for _ in 0..4 {
        let out = read_mysql(&mesh, ask.clone()).await;
        let found = pyarrow(&out, summed);
        let sum = found.rsplit(' ').next().and_then(|n| n.parse::<i64>().ok()).expect("a sum");
        let count = found.split(' ').next().and_then(|n| n.parse::<i64>().ok()).expect("a count");
        assert_eq!(
            (sum, found.split(' ').nth(1)),
            (count * 100, found.split(' ').next()),
            "{found}: no row twice, no half of a transaction"
        );
        shared += usize::from(out["parallel"] == 2);
    }
    assert!(shared > 0, "between two transactions the lock can be had");
    drop(writer);

    // A writer that does not end its transaction is not waited for, nor is anybody behind it.
    let writer = server.writer("UPDATE pairs SET amount = 100 WHERE id = 7; DO SLEEP(600);");
    while server
        .sql("SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%'")
        == "0"
    {}
    let alone = read_mysql(&mesh, ask).await;
    let note = alone["notes"][0].as_str().unwrap_or_default();
    assert!(
        alone["parallel"] == 1
            && note.contains("read by one connection")
            && note.contains("cannot be had"),
        "{alone}"
    );
    drop(writer);
}
