//! Ingest: tables and CSV into Parquet, beside ConnectorX, pyarrow and DuckDB on the same servers
//! and files.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use brahman_sidecar::Connection;
use brahman_tests::servers::{MariaDb, Postgres};
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::{head, row};

/// Rows of the PostgreSQL table, in millions; of the MariaDB table.
const MILLIONS: u64 = 5;
const MARIADB_MILLIONS: u64 = 2;
/// Bytes of the CSV file.
const CSV_BYTES: u64 = 1_000_000_000;
/// Calls on the small table.
const SMALL_CALLS: usize = 20;

/// Sixteen columns of what tables hold.
const MIXED: &str = "i::int8 AS id, (i::int8 * 7919 % 1000003)::int4 AS customer, (i % 300)::int2 AS store, \
    (random() * 1e4)::numeric(12,2) AS price, random() AS score, random()::float4 AS ratio, i % 3 = 0 AS flag, \
    'product ' || i % 50000 AS name, md5(i::text) AS code, timestamp '2020-01-01' + i * interval '1 second' AS created, \
    timestamptz '2020-01-01 00:00:00+00' + i * interval '3 seconds' AS updated, date '2020-01-01' + i % 2000 AS day, \
    CASE WHEN i % 10 > 0 THEN 'note ' || i % 977 END AS note, gen_random_uuid() AS uid, \
    (array['red', 'green', 'blue', 'black'])[1 + i % 4] AS colour, i::int8 * 13 AS large";
const MIXED_MARIADB: &str = "seq AS id, seq * 7919 % 1000003 AS customer, CAST(seq % 300 AS INT) AS store, CAST(rand() * 1e4 AS DECIMAL(12,2)) AS price, \
    rand() AS score, CAST(rand() AS FLOAT) AS ratio, seq % 3 = 0 AS flag, concat('product ', seq % 50000) AS name, md5(seq) AS code, \
    timestamp('2020-01-01') + INTERVAL seq SECOND AS created, timestamp('2020-01-01') + INTERVAL 3 * seq SECOND AS updated, \
    date('2020-01-01') + INTERVAL seq % 2000 DAY AS day, IF(seq % 10 > 0, concat('note ', seq % 977), NULL) AS note, uuid() AS uid, \
    elt(1 + seq % 4, 'red', 'green', 'blue', 'black') AS colour, seq * 13 AS large";

fn peer(arguments: &[&str]) -> f64 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ingest_peers.py");
    let python = std::env::var_os("BRAHMAN_BENCH_INGEST_PYTHON")
        .expect("BRAHMAN_BENCH_INGEST_PYTHON: run `make bench-ingest`");
    let out = Command::new(python).arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).trim().parse();
    said.unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&out.stderr)))
}

/// From call to committed, in seconds.
async fn ours(mesh: &Mesh, method: &str, ask: Value, rows: u64) -> f64 {
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    let started = Instant::now();
    let out: Value = connection.call(&format!("org.brahman.Ingest.{method}"), &ask).await.unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert!(out["rows"] == rows, "{out}");
    seconds
}

/// The least of some runs: whatever disturbs the machine only adds.
macro_rules! best {
    ($run:expr) => {{
        let mut best = f64::INFINITY;
        for _ in 0..2 {
            best = best.min($run);
        }
        best
    }};
}

/// Peak resident memory of ingest, in MiB, since it started.
async fn peak(mesh: &Mesh) -> f64 {
    let pid = mesh.ready("ingest").await.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

pub(crate) async fn run(bin: &Path) {
    let cache = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("peer.parquet").display().to_string();
    let up = || Mesh::up(bin, &["broker", "catalog", "ingest"], "prod", cache.path());
    let workers = std::thread::available_parallelism().unwrap().get().to_string();

    head(&format!("PostgreSQL: {MILLIONS} M rows of 16 columns over a Unix socket"));
    let server = Postgres::with(&["max_wal_size=8GB", "shared_buffers=512MB"]);
    for (table, rows) in [("large", MILLIONS * 1_000_000), ("million", 1_000_000), ("small", 586)] {
        server.psql(&format!(
            "CREATE UNLOGGED TABLE {table} AS SELECT {MIXED} FROM generate_series(1, {rows}) i"
        ));
        server.psql(&format!("VACUUM ANALYZE {table}"));
    }
    server.psql("ALTER TABLE small DROP large, DROP uid, DROP colour");
    let rows = MILLIONS * 1_000_000;
    let ask = |table: &str| json!({"dataset": table, "dsn": server.dsn(), "table": table});
    // Each in a process of its own: a peak is for ever.
    let mut peaks = Vec::new();
    for (table, rows) in [("million", 1_000_000), ("large", rows)] {
        let mesh = up();
        mesh.ready("catalog").await;
        mesh.ready("ingest").await;
        ours(&mesh, "Postgres", ask(table), rows).await;
        peaks.push(peak(&mesh).await);
    }
    let (one, five) = (peaks[0], peaks[1]);
    let mesh = up();
    mesh.ready("catalog").await;
    mesh.ready("ingest").await;
    let own = best!(ours(&mesh, "Postgres", ask("large"), rows).await);
    let host = server.socket().display().to_string().replace('/', "%2F");
    let url = format!("postgresql://tester@{host}:{}/postgres", server.port());
    let other = best!(peer(&["connectorx", &url, "SELECT * FROM large", "id", &workers, &out]));
    let rate = |seconds: f64| rows as f64 / seconds / 1e3;
    let words = |own: f64, other: f64| {
        format!("{:.0} / {:.0} k rows/s = {:.2}×", rate(own), rate(other), other / own)
    };
    row("rows a second / ConnectorX with pyarrow", words(own, other), "≥ 1.3×", other / own >= 1.3);
    let floor = best!({
        let mut psql = Command::new("psql");
        psql.args([
            "-XAtq",
            "-U",
            "tester",
            "-d",
            "postgres",
            "-p",
            &server.port().to_string(),
            "-h",
        ])
        .arg(server.socket());
        psql.args(["-c", "COPY (SELECT * FROM large) TO STDOUT (FORMAT binary)"])
            .stdout(Stdio::null());
        let started = Instant::now();
        assert!(psql.status().unwrap().success());
        started.elapsed().as_secs_f64()
    });
    row(
        "rows a second / one binary COPY to /dev/null (the floor)",
        words(own, floor),
        "reported",
        true,
    );
    row("peak memory reading 5 M rows", format!("{five:.0} MiB"), "≤ 192 MiB", five <= 192.0);
    row(
        "peak memory, 5 M / 1 M rows",
        format!("{five:.0} / {one:.0} MiB = {:.2}×", five / one),
        "≤ 1.1×",
        five <= 1.1 * one,
    );
    let mut small = Vec::new();
    for _ in 0..SMALL_CALLS {
        small.push(ours(&mesh, "Postgres", ask("small"), 586).await);
    }
    small.sort_by(f64::total_cmp);
    let (p50, worst) = (small[SMALL_CALLS / 2] * 1e3, small[SMALL_CALLS - 1] * 1e3);
    row(
        "586 rows × 13 columns, call to committed, p50 (worst)",
        format!("{p50:.0} ms ({worst:.0})"),
        "≤ 60 ms",
        p50 <= 60.0,
    );
    drop(server);

    head(&format!("MariaDB: {MARIADB_MILLIONS} M rows of 16 columns"));
    let server = MariaDb::start();
    let rows = MARIADB_MILLIONS * 1_000_000;
    server.sql(&format!(
        "CREATE TABLE large ENGINE=InnoDB AS SELECT {MIXED_MARIADB} FROM seq_1_to_{rows}; ALTER TABLE large ADD PRIMARY KEY (id)"
    ));
    // ConnectorX speaks TCP only.
    server.sql(
        "CREATE USER peer@localhost IDENTIFIED BY 'peer'; GRANT SELECT ON d.* TO peer@localhost",
    );
    let ask = json!({"dataset": "maria", "dsn": server.dsn(), "table": "large"});
    let own = best!(ours(&mesh, "Mysql", ask.clone(), rows).await);
    let url = format!("mysql://peer:peer@127.0.0.1:{}/d", server.port());
    let other = best!(peer(&["connectorx", &url, "SELECT * FROM large", "id", &workers, &out]));
    let rate = |seconds: f64| rows as f64 / seconds / 1e3;
    let words = format!("{:.0} / {:.0} k rows/s = {:.2}×", rate(own), rate(other), other / own);
    row("rows a second / ConnectorX with pyarrow", words, "≥ 1.2×", other / own >= 1.2);
    drop(server);

    head("CSV of 1 GB");
    let source = scratch.path().join("large.csv");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&source).unwrap());
    let (mut bytes, mut rows) = (0, 0_u64);
    writeln!(file, "id,customer,price,score,flag,name,note,day").unwrap();
    while bytes < CSV_BYTES {
        rows += 1;
        let (day, mix) = (rows % 28 + 1, rows.wrapping_mul(6_364_136_223_846_793_005) >> 33);
        let line = format!(
            "{rows},{},{}.{:02},{:.6},{},product {},\"note, {} of many\",2024-01-{day:02}\n",
            mix % 1_000_003,
            mix % 10_000,
            mix % 100,
            mix as f64 / 1e9,
            rows.is_multiple_of(3),
            mix % 50_000,
            mix % 977
        );
        bytes += line.len() as u64;
        file.write_all(line.as_bytes()).unwrap();
    }
    file.flush().unwrap();
    let path = source.display().to_string();
    let own = best!(ours(&mesh, "Files", json!({"dataset": "csv", "paths": [path]}), rows).await);
    let (arrow, duck) =
        (best!(peer(&["pyarrow", &path, &out])), best!(peer(&["duckdb", &path, &out])));
    let rate = |seconds: f64| bytes as f64 / seconds / 1e6;
    for (name, other) in [("pyarrow", arrow), ("DuckDB", duck)] {
        let words = format!("{:.0} / {:.0} MB/s = {:.2}×", rate(own), rate(other), other / own);
        row(&format!("bytes a second / {name}"), words, "≥ 0.8× the faster", other / own >= 0.8);
    }
}
