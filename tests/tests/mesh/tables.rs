//! Tables of real servers into Parquet: every type, one snapshot, and what goes wrong.

mod mariadb;

use std::process::Command;

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::servers::{MariaDb, Postgres};
use brahman_tests::{Mesh, Setup, repository, shipped};
use serde_json::{Value, json};

use crate::foreign::tool;

pub(crate) async fn mesh() -> Mesh {
    mesh_with(|setup| setup).await
}

async fn mesh_with(more: impl FnOnce(Setup) -> Setup) -> Mesh {
    let mesh = more(Setup::new(&["broker", "catalog", "ingest"].map(shipped))).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

pub(crate) fn files(out: &Value) -> Vec<String> {
    let objects = out["objects"].as_array().expect("objects").iter();
    objects
        .map(|o| o["url"].as_str().expect("a url").trim_start_matches("file://").to_owned())
        .collect()
}

/// Runs a line of Python over a table that pyarrow has read from an answer's objects.
pub(crate) fn pyarrow(out: &Value, expression: &str) -> String {
    let program = format!(
        "import sys, pyarrow as pa, pyarrow.parquet as pq\nt = pa.concat_tables([pq.read_table(f) for f in sys.argv[1:]])\nprint({expression})"
    );
    let out = Command::new(tool("python3"))
        .arg("-c")
        .arg(program)
        .args(files(out))
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

async fn read(mesh: &Mesh, dsn: &str, table: &str) -> Value {
    mesh.call("org.brahman.Ingest.Postgres", json!({"dataset": "t", "dsn": dsn, "table": table}))
        .await
        .expect("read")
}

#[tokio::test]
async fn every_postgres_type_reads_as_psql_prints_it() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    let folder = repository().join("tests/tests/mesh/tables");
    server.psql(&std::fs::read_to_string(folder.join("postgres.sql")).expect("there"));
    let out = read(&mesh, &server.dsn(), "every").await;
    assert_eq!(out["rows"], 4);
    let columns = out["columns"].to_string();
    let (host, port) = (server.socket().display().to_string(), server.port().to_string());
    let compared = Command::new(tool("python3"))
        .arg(folder.join("compare.py"))
        .args([&host, &port, "every", &columns])
        .args(files(&out))
        .output()
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&compared.stdout).trim(),
        "fine",
        "{}",
        String::from_utf8_lossy(&compared.stderr)
    );
    let made: Vec<(&str, u64)> = out["columns"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| Some((c["name"].as_str()?, c["nulls_made"].as_u64().filter(|n| *n > 0)?)))
        .collect();
    assert_eq!(
        made,
        [("n122", 1), ("n3810", 1), ("d", 1), ("ti", 1), ("ts", 1), ("tstz", 2), ("ia", 1)],
        "NaN, infinities, 24:00:00, a matrix"
    );
    // The catalog has the source's types, and no index was asked for them.
    let dataset = mesh.brahman_json(&["datasets", "t"])["dataset"].clone();
    assert_eq!(dataset["columns"][8]["source_type"], "numeric(12,2)");
    assert!(
        dataset["lineage"]["inputs"][0]
            .as_str()
            .is_some_and(|i| i.ends_with("/postgres.public.every") && !i.contains("tester"))
    );
}

/// A table of enough pages for several workers.
fn large(server: &Postgres, rows: u32) {
    server.psql(&format!(
        "create table large as select i as id, 100::int8 as amount, repeat(md5(i::text), 20) as filler from generate_series(1, {rows}) i; \
         alter table large add primary key (id)"
    ));
}

#[tokio::test]
async fn several_workers_see_one_snapshot_whatever_is_written_meanwhile() {
    let (server, mesh) = (Postgres::with(&["max_wal_size=4GB"]), mesh().await);
    large(&server, 60_000);
    // Amounts wander, rows are taken away and put elsewhere; their number and their sum stay in
    // every transaction.
    let writer = server.writer(
        "UPDATE large SET amount = amount + CASE WHEN id % 2 = 0 THEN 7 ELSE -7 END WHERE id IN (SELECT 2 * (random() * 14000)::int + k FROM generate_series(0, 1) k); \
         WITH gone AS (DELETE FROM large WHERE id = (SELECT id FROM large WHERE id > 30000 ORDER BY random() LIMIT 1) RETURNING amount, filler) \
         INSERT INTO large SELECT (SELECT max(id) + 1 FROM large), amount, filler FROM gone;",
    );
    for _ in 0..3 {
        let ask = json!({"dataset": "t", "dsn": server.dsn(), "table": "large", "parallel": 4});
        let out = mesh.call("org.brahman.Ingest.Postgres", ask).await.expect("read");
        assert_eq!(
            (&out["rows"], &out["parallel"], out["objects"].as_array().map(Vec::len)),
            (&json!(60_000), &json!(3), Some(3))
        );
        let checked = pyarrow(&out, "t.num_rows, len(set(t.column('id').to_pylist()))");
        assert_eq!(checked, "60000 60000", "no row twice, none missing");
    }
    drop(writer);
    assert_eq!(
        server.psql("select max(id) > 60000, count(*) from large"),
        "t|60000",
        "there was a writer"
    );
    let sum = server.psql("select sum(amount) from large");
    let out = read(&mesh, &server.dsn(), "large").await;
    assert_eq!(pyarrow(&out, "sum(t.column('amount').to_pylist())"), sum);
}

#[tokio::test]
async fn views_partitions_queries_and_odd_names_are_read_and_what_is_special_is_said() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql(
        "create table parts (id int, region text) partition by list (region); \
         create table parts_a partition of parts for values in ('a'); create table parts_b partition of parts for values in ('b'); \
         insert into parts select i, case when i % 3 = 0 then 'a' else 'b' end from generate_series(1, 900) i; \
         create view seen as select id, region from parts where id <= 10; \
         create table \"Odd Name\" (\"the \"\"id\"\"\" int, \"select\" text); insert into \"Odd Name\" values (1, 'x'); create table nothing (id int, t text)",
    );
    assert_eq!(read(&mesh, &server.dsn(), "parts").await["rows"], 900);
    let view = read(&mesh, &server.dsn(), "public.seen").await;
    assert_eq!(view["rows"], 10);
    assert!(view["notes"][0].as_str().is_some_and(|n| n.contains("is a view")), "{view}");
    let odd = read(&mesh, &server.dsn(), "Odd Name").await;
    assert_eq!(pyarrow(&odd, "t.to_pylist()"), "[{'the \"id\"': 1, 'select': 'x'}]");
    assert_eq!(
        odd["drift"].as_array().map(Vec::len),
        Some(4),
        "two columns came and two went: {odd}"
    );
    let none = read(&mesh, &server.dsn(), "nothing").await;
    assert_eq!(
        (&none["rows"], pyarrow(&none, "t.schema.names")),
        (&json!(0), "['id', 't']".to_owned())
    );
    let query = json!({"dataset": "t", "dsn": server.dsn(), "query": "select region, count(*) as n from parts group by 1 order by 1; "});
    let query = mesh.call("org.brahman.Ingest.Postgres", query).await.expect("read");
    assert_eq!(
        pyarrow(&query, "t.to_pylist()"),
        "[{'region': 'a', 'n': 300}, {'region': 'b', 'n': 600}]"
    );
    for (ask, words) in [
        (json!({"table": "absent"}), "no table `absent`; it has public.Odd Name"),
        (json!({"query": "select 1 as a, 2 as a"}), "two columns `a`"),
        (json!({"query": "delete from parts returning id"}), "syntax error"),
        (json!({"query": "select pg_notify('a', 'b'), setval('s', 1)"}), "does not exist"),
        (json!({"table": "parts", "query": "select 1"}), "exactly one"),
        (json!({"table": "parts", "parallel": 0}), "expected 1 to 64"),
        (json!({"table": "parts", "mode": "some"}), "expected full"),
    ] {
        let mut ask = ask;
        (ask["dataset"], ask["dsn"]) = (json!("t"), json!(server.dsn()));
        let fault = mesh.fault("org.brahman.Ingest.Postgres", ask).await;
        assert!(fault.message().contains(words), "{fault}");
    }
    assert_eq!(
        mesh.brahman_json(&["datasets", "t"])["dataset"]["rows"],
        2,
        "what failed published nothing"
    );
}

#[tokio::test]
async fn no_password_is_ever_shown() {
    let server = Postgres::start();
    let passwords = ["p@:/%'\" s", "hunter2-hunter2", "a%20b", "ends-with-@"];
    let secrets = tempfile::NamedTempFile::new().expect("a temporary file");
    let mesh = mesh_with(|setup| setup.env("BRAHMAN_SECRETS", secrets.path())).await;
    server.psql("create table t (id int); insert into t values (1), (2)");
    let mut toml = String::new();
    for (n, password) in passwords.iter().enumerate() {
        server.psql(&format!(
            "create role r{n} login password '{}'; grant select on t to r{n}",
            password.replace('\'', "''")
        ));
        toml.push_str(&format!(
            "[r{n}]\nurl = \"postgres://r{n}@127.0.0.1:{}/postgres\"\npassword = {}\n",
            server.port(),
            json!(password)
        ));
        toml.push_str(&format!(
            "[wrong{n}]\nurl = \"postgres://r{n}@127.0.0.1:{}/postgres\"\npassword = {}\n",
            server.port(),
            json!(format!("{password}!"))
        ));
    }
    std::fs::write(secrets.path(), toml).expect("written");
    for (n, password) in passwords.iter().enumerate() {
        assert_eq!(read(&mesh, &format!("secret:r{n}"), "t").await["rows"], 2, "{password}");
        let mut said = Vec::new();
        let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
        let at = format!("127.0.0.1:{}/postgres", server.port());
        for dsn in [
            format!("secret:wrong{n}"),
            format!("postgres://r{n}:{encoded}!@{at}"),
            format!("postgres://r{n}:{password}@{at}"),
            format!("postgres://r{n}:{password}@{at}?sslmode={password}"),
            format!("mysql://r{n}:{password}@{at}"),
            format!("r{n}:{password}@{at}"),
        ] {
            match mesh
                .call(
                    "org.brahman.Ingest.Postgres",
                    json!({"dataset": "t", "dsn": dsn, "table": "t"}),
                )
                .await
            {
                Ok(out) => said.push(out.to_string()),
                Err(error) => said.push(format!("{error:?}")),
            }
        }
        said.push(mesh.brahman_json(&["datasets", "t"]).to_string());
        said.push(mesh.call("org.brahman.Ingest.Runs", json!({})).await.expect("runs").to_string());
        said.push(mesh.log());
        let shown: Vec<&String> =
            said.iter().filter(|s| s.contains(password) || s.contains(&encoded)).collect();
        assert!(shown.is_empty(), "{password} is in {shown:?}");
    }
    // A file that others can read is not read.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(secrets.path(), mode).expect("set");
    let fault = mesh
        .fault(
            "org.brahman.Ingest.Postgres",
            json!({"dataset": "t", "dsn": "secret:r0", "table": "t"}),
        )
        .await;
    assert!(
        fault.message().contains("chmod 600")
            && fault.message().contains(&secrets.path().display().to_string()),
        "{fault}"
    );
}

/// Starts a call and waits until rows have come.
async fn under_way(mesh: &Mesh, ask: Value) -> Connection {
    let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
    let call =
        encode_call("org.brahman.Ingest.Postgres", &ask, &CallOptions::default(), true, false)
            .expect("encodes");
    connection.send(&call).await.expect("sent");
    loop {
        let word: Value =
            connection.receive().await.expect("a reply").typed().expect("progress").value;
        assert_ne!(word["phase"], "done", "it was too quick to be disturbed");
        if word["rows"].as_u64() > Some(0) {
            return connection;
        }
    }
}

/// The error that ends a call.
async fn error_of(connection: &mut Connection) -> String {
    loop {
        if let Err(error) =
            connection.receive().await.and_then(|reply| reply.typed::<Value>().map(drop))
        {
            return format!("{error:?}");
        }
    }
}

/// Queries that run on the server for us.
fn running(server: &Postgres) -> String {
    server.psql("select count(*) from pg_stat_activity where application_name = 'brahman-ingest' and state = 'active'")
}

#[tokio::test]
async fn kills_stalls_and_hang_ups_publish_nothing_and_leave_nothing_running() {
    let (server, mesh) = (Postgres::start(), mesh().await);
    server.psql("create table small (id int); insert into small values (1)");
    assert_eq!(read(&mesh, &server.dsn(), "small").await["generation"], 1);
    // Slow from its hundred thousandth row on: somebody can do something meanwhile.
    let slow = "select i as id, md5(i::text) as t, case when i > 100000 then pg_sleep(0.01)::text end as s from generate_series(1, 200000) i";
    let ask = json!({"dataset": "t", "dsn": server.dsn(), "query": slow});
    let stands = |why: &str| {
        let dataset = mesh.brahman_json(&["datasets", "t"])["dataset"].clone();
        assert_eq!((&dataset["generation"], &dataset["rows"]), (&json!(1), &json!(1)), "{why}");
    };

    drop(under_way(&mesh, ask.clone()).await);
    while running(&server) != "0" {}
    stands("a hang-up");

    // The table is neither altered nor dropped under the read; both wait for its end.
    server
        .psql("create table slow_one as select i as id, case when i > 100000 then 0.01 else 0 end as s from generate_series(1, 200000) i");
    server.psql("create view slow as select id, case when s > 0 then pg_sleep(s)::text end as t from slow_one");
    let going =
        under_way(&mesh, json!({"dataset": "t", "dsn": server.dsn(), "table": "slow"})).await;
    for change in [
        "drop view slow",
        "alter table slow_one drop column s cascade",
        "drop table slow_one cascade",
    ] {
        server.psql(&format!(
            "set lock_timeout = '20ms'; do $$ begin execute '{change}'; raise exception 'done under the read'; exception when lock_not_available then null; end $$"
        ));
    }
    drop(going);
    while running(&server) != "0" {}
    stands("a hang-up of a view's read");

    let mut cancelled = under_way(&mesh, ask.clone()).await;
    let run =
        mesh.call("org.brahman.Ingest.Runs", json!({})).await.expect("runs")["runs"][0]["run_id"]
            .clone();
    assert_eq!(
        mesh.call("org.brahman.Ingest.Cancel", json!({"run_id": run})).await.expect("heard")["cancelled"],
        true
    );
    let fault = error_of(&mut cancelled).await;
    assert!(fault.contains("Cancelled"), "{fault}");
    while running(&server) != "0" {}
    stands("a cancel");

    let going = under_way(&mesh, ask.clone()).await;
    let pid = mesh.module("ingest").await.pid;
    mesh.signal(pid, "KILL");
    drop(going);
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "ingest" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    while running(&server) != "0" {}
    stands("SIGKILL of ingest");

    let stalling =
        json!({"dataset": "t", "dsn": server.dsn(), "query": "select pg_sleep(600)", "stall_s": 1});
    let fault = mesh.fault("org.brahman.Ingest.Postgres", stalling).await;
    assert!(fault.message().contains("sent nothing for 1 s") && fault.retryable(), "{fault}");
    let late = json!({"dataset": "t", "dsn": server.dsn(), "query": slow, "deadline_s": 1});
    let fault = mesh.fault("org.brahman.Ingest.Postgres", late).await;
    assert!(fault.message().contains("deadline") || fault.message().contains("timeout"), "{fault}");
    while running(&server) != "0" {}
    stands("a deadline");

    // A table is neither dropped nor altered while it is read.
    large(&server, 40_000);
    let going = under_way(&mesh, ask.clone()).await;
    drop(going);
    let mut broken = under_way(&mesh, ask).await;
    mesh.signal(server.pid(), "KILL");
    let fault = error_of(&mut broken).await;
    assert!(fault.contains("SourceFailed") && fault.contains("nothing was published"), "{fault}");
    stands("SIGKILL of the server");
    let unreachable = mesh
        .fault(
            "org.brahman.Ingest.Postgres",
            json!({"dataset": "t", "dsn": server.dsn(), "table": "small"}),
        )
        .await;
    assert!(
        unreachable.message().contains("connecting") && unreachable.retryable(),
        "{unreachable}"
    );
    let runs = mesh.folder.path().join("state/buckets/primary/datasets/t");
    let left = std::fs::read_dir(runs).expect("there").count();
    assert!(
        left <= 2,
        "{left} folders: that of the dataset, and that of the run whose process was killed"
    );
}

#[tokio::test]
async fn the_mock_makes_tables_up_by_seed_and_never_answers_in_prod() {
    let mesh = Setup::new(&["broker", "catalog", "ingest", "ingest-mock"].map(shipped))
        .context("test")
        .up()
        .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh.when_served_by("org.brahman.Ingest", "ingest-mock").await;
    let ask = |seed: u64| json!({"dataset": "t", "dsn": format!("postgres://nowhere/db?seed={seed}&rows=20000"), "table": "orders"});
    let make =
        async |seed: u64| mesh.call("org.brahman.Ingest.Postgres", ask(seed)).await.expect("made");
    let (one, two, other) = (make(7).await, make(7).await, make(8).await);
    assert_eq!(
        (&one["rows"], &one["objects"][0]["sha256"]),
        (&json!(20_000), &two["objects"][0]["sha256"])
    );
    assert_ne!(one["objects"][0]["sha256"], other["objects"][0]["sha256"]);
    assert!(one["notes"][0].as_str().is_some_and(|n| n.contains("synthetic")), "{one}");
    assert_eq!(
        pyarrow(
            &other,
            "t.schema.field('iban').metadata, t.num_rows, len(set(t.column('id').to_pylist()))"
        ),
        "{b'pii': b'iban'} 20000 20000"
    );
    mesh.brahman_json(&["context", "prod"]);
    let real = json!({"dataset": "t", "dsn": "postgres://127.0.0.1:1/db", "table": "orders"});
    let fault = mesh.fault("org.brahman.Ingest.Postgres", real).await;
    assert!(fault.message().contains("connecting"), "the real one asks the server: {fault}");
}

#[tokio::test]
async fn labelled_columns_of_personal_data_are_found_and_no_value_is_told() {
    let mesh = Setup::new(&["broker", "catalog", "ingest", "ingest-mock"].map(shipped))
        .context("test")
        .up()
        .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh.when_served_by("org.brahman.Ingest", "ingest-mock").await;
    let ask = json!({"dataset": "t", "dsn": "postgres://nowhere/db?rows=3000", "table": "people"});
    let made = mesh.call("org.brahman.Ingest.Postgres", ask.clone()).await.expect("made");
    let kept = mesh.brahman_json(&["datasets", "t"])["dataset"]["pii"].clone();
    assert_eq!(kept, made["pii"], "the manifest has the report");
    let said = |column: &str| {
        let all = kept["columns"].as_array().expect("columns");
        let column = all.iter().find(|c| c["column"] == column).expect("looked at");
        (
            column["status"].as_str().unwrap_or_default().to_owned(),
            column["findings"][0]["entity"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let labels = [
        ("email", "email"),
        ("phone", "phone"),
        ("iban", "iban"),
        ("card", "credit_card"),
        ("ip", "ip_address"),
        ("born", "date_of_birth"),
    ];
    for (column, entity) in labels {
        assert_eq!(said(column), ("found".into(), entity.into()), "{column}");
    }
    for column in ["id", "medium", "large", "count", "note", "day", "created"] {
        assert_eq!(said(column).0, "clean", "{column}");
    }
    let values = pyarrow(&made, "*[t.column(c).to_pylist()[0] for c in ('email', 'iban', 'card')]");
    for value in values.split_whitespace() {
        assert!(!kept.to_string().contains(value), "{value} is in the report");
    }
    let shown = mesh.brahman(&["datasets", "t"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("iban (1.00") && !shown.contains("@example.org"), "{shown}");
    let mut quietly = ask;
    quietly["pii"] = json!(false);
    assert!(
        mesh.call("org.brahman.Ingest.Postgres", quietly).await.expect("made")["pii"].is_null()
    );
}

/// A socket that hangs up on the first callers and leads the others to `server`.
fn flaky(
    at: &std::path::Path,
    server: std::path::PathBuf,
    hang_ups: usize,
) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    use std::os::unix::net::{UnixListener, UnixStream};
    let listener = UnixListener::bind(at).expect("bound");
    let called = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&called);
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < hang_ups {
                continue;
            }
            let mut behind = UnixStream::connect(&server).expect("the server is there");
            let (mut from, mut to) =
                (behind.try_clone().expect("cloned"), caller.try_clone().expect("cloned"));
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut caller, &mut behind));
        }
    });
    called
}

#[tokio::test]
async fn a_connection_is_tried_again_as_long_as_nothing_was_read() {
    let mesh = mesh().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    postgres.psql("CREATE TABLE few AS SELECT generate_series(1, 10) AS id");
    mariadb.sql("CREATE TABLE few AS SELECT seq AS id FROM seq_1_to_10");
    let socket = |name: &str| folder.path().join(name);
    let real = postgres.socket().join(format!(".s.PGSQL.{}", postgres.port()));
    let dsn = format!("postgres://tester@/postgres?host={}&port=5432", folder.path().display());
    let (called, load) =
        (flaky(&socket(".s.PGSQL.5432"), real, 2), std::sync::atomic::Ordering::Relaxed);
    let out = mesh
        .call("org.brahman.Ingest.Postgres", json!({"dataset": "t", "dsn": dsn, "table": "few"}))
        .await
        .expect("read");
    assert!(out["rows"] == 10 && called.load(load) >= 3, "{out}");
    let called = flaky(&socket("my.sock"), mariadb.socket(), 2);
    let dsn = format!("mysql://tester@localhost/d?socket={}", socket("my.sock").display());
    let out = mesh
        .call("org.brahman.Ingest.Mysql", json!({"dataset": "t", "dsn": dsn, "table": "few"}))
        .await
        .expect("read");
    assert!(out["rows"] == 10 && called.load(load) >= 3, "{out}");
    // What another try would not mend is told at once; what never mends is told in the end.
    let called = flaky(&socket("my2.sock"), mariadb.socket(), 0);
    let dsn = format!("mysql://nobody:wrong@localhost/d?socket={}", socket("my2.sock").display());
    let fault = mesh
        .fault("org.brahman.Ingest.Mysql", json!({"dataset": "t", "dsn": dsn, "table": "few"}))
        .await;
    assert!(fault.message().contains("denied") && called.load(load) == 1, "{fault}");
    let dsn = format!("mysql://tester@localhost/d?socket={}", socket("nobody.sock").display());
    let fault = mesh
        .fault("org.brahman.Ingest.Mysql", json!({"dataset": "t", "dsn": dsn, "table": "few"}))
        .await;
    assert!(
        fault.message().contains("tried 6 times")
            || fault.message().contains("tried 5 times") && fault.retryable(),
        "{fault}"
    );
}
