//! However a read ends, its threads have ended: a full disk at the first and at the last byte, a
//! caller who goes, a panic, a server that takes a connection and says nothing. One test, for it
//! counts the threads of its process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use brahman_ingest::dsn::Dsn;
use brahman_ingest::run::Progress;
use brahman_ingest::sink::Place;
use brahman_ingest::source::{Format, WalkRules};
use brahman_ingest::table::{ReadError, ReadOptions, TableSource};
use brahman_ingest::{csv, files, merge, mock, mysql, postgres};
use tokio_util::sync::CancellationToken;

/// Far more than any of these needs, far less than for ever.
const PATIENCE: Duration = Duration::from_secs(60);

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

/// Runs what must come back, and looks whether a thread of it is left.
fn ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let before = threads();
    let (tell, told) = channel();
    let running = std::thread::spawn(move || tell.send(work()));
    let outcome =
        told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: it does not come back"));
    drop(running.join());
    let since = Instant::now();
    // The kernel takes a moment to forget a thread that was joined.
    while threads() > before {
        assert!(since.elapsed() < PATIENCE, "{what}: {before} threads before, {} after", threads());
        std::thread::yield_now();
    }
    outcome
}

fn place(folder: &Path) -> Place {
    std::fs::create_dir_all(folder).expect("made");
    Place {
        folder: folder.to_owned(),
        bucket: "primary".into(),
        prefix: "datasets/d/r".into(),
        url_prefix: "file:///d/r".into(),
        samples: Some(Arc::default()),
        first_part: 0,
    }
}

/// A place whose disk is full.
fn full(folder: &Path, part: usize) -> Place {
    let place = place(folder);
    std::os::unix::fs::symlink("/dev/full", folder.join(format!("part-{part}.parquet")))
        .expect("linked");
    place
}

fn text(rows: usize) -> String {
    (0..rows)
        .map(|row| format!("{row},{:x},{}\n", row.wrapping_mul(0x9e37_79b9_7f4a_7c15), row % 7))
        .collect()
}

fn parquet(path: &Path, rows: i64) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("v", DataType::Utf8, false),
    ]));
    let ids = Int64Array::from_iter_values(0..rows);
    let texts = StringArray::from_iter_values(
        (0..rows).map(|row| format!("{:x}", row.wrapping_mul(0x1e37_79b9_7f4a_7c15))),
    );
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids), Arc::new(texts)])
        .expect("a batch");
    let file = std::fs::File::create(path).expect("created");
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file, schema, None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

/// Files of each kind, some of them far longer than what is held at once.
fn sources(folder: &Path) -> Vec<(&'static str, Format, PathBuf)> {
    let path = |name: &str| folder.join(name);
    std::fs::write(path("long.csv"), format!("id,v,n\n{}", text(1_500_000))).expect("written");
    std::fs::write(path("short.csv"), format!("id,v,n\n{}", text(10))).expect("written");
    let lines: String =
        (0..200_000).map(|row| format!("{{\"id\":{row},\"v\":\"{:x}\"}}\n", row * 7_919)).collect();
    std::fs::write(path("long.jsonl"), lines).expect("written");
    parquet(&path("long.parquet"), 400_000);
    std::fs::create_dir_all(path("notes")).expect("made");
    (0..20).for_each(|n| {
        std::fs::write(path(&format!("notes/{n}.md")), text(20_000)).expect("written");
    });
    vec![
        ("a long CSV", Format::Csv, path("long.csv")),
        ("a short CSV", Format::Csv, path("short.csv")),
        ("JSON lines", Format::Jsonl, path("long.jsonl")),
        ("Parquet", Format::Parquet, path("long.parquet")),
        ("documents", Format::Documents, path("notes")),
    ]
}

fn how() -> ReadOptions {
    ReadOptions {
        parallel: 4,
        deadline: Duration::from_secs(600),
        stall: Duration::from_secs(300),
        snapshot: None,
        window: None,
    }
}

fn progress() -> tokio::sync::watch::Sender<Progress> {
    tokio::sync::watch::channel(Progress::default()).0
}

#[test]
fn however_a_read_ends_its_threads_have_ended() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| folder.path().join(name.replace(' ', "-"));
    for (what, format, path) in sources(folder.path()) {
        let paths = vec![path.display().to_string()];
        // The disk is full.
        let (target, asked) = (full(&at(&format!("full {what}")), 0), paths.clone());
        let outcome = ends(&format!("{what}, a full disk"), move || {
            files::read(
                &asked,
                &WalkRules::default(),
                format,
                &files::by_all_cores(),
                &target,
                &progress(),
                &CancellationToken::new(),
            )
            .map(|read| read.objects)
        });
        let fault = outcome.expect_err(what);
        assert!(fault.message().contains("No space left"), "{what}: {fault}");
        // The caller goes before the first row, and at the first.
        for at_once in [true, false] {
            let (target, asked, cancel) = (
                place(&at(&format!("gone {what} {at_once}"))),
                paths.clone(),
                CancellationToken::new(),
            );
            let outcome = ends(&format!("{what}, nobody waits"), move || {
                let (progress, mut seen) = tokio::sync::watch::channel(Progress::default());
                if at_once {
                    cancel.cancel();
                }
                let ender = cancel.clone();
                let ending = std::thread::spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    // Ends with the read, at the latest.
                    let _ = runtime.block_on(seen.wait_for(|p| p.rows > 0));
                    ender.cancel();
                });
                let outcome = files::read(
                    &asked,
                    &WalkRules::default(),
                    format,
                    &files::by_all_cores(),
                    &target,
                    &progress,
                    &cancel,
                )
                .map(|read| read.objects);
                drop(progress);
                ending.join().expect("it ended");
                outcome
            });
            match outcome {
                Err(fault) => {
                    assert_eq!(fault.name, "org.brahman.Ingest.Cancelled", "{what}: {fault}");
                }
                // A short one may be done before it hears.
                Ok(_) => assert!(!at_once, "{what}"),
            }
        }
        // It is read, after all that.
        let (target, asked) = (place(&at(&format!("whole {what}"))), paths.clone());
        let whole = ends(what, move || {
            files::read(
                &asked,
                &WalkRules::default(),
                format,
                &files::by_all_cores(),
                &target,
                &progress(),
                &CancellationToken::new(),
            )
        });
        assert!(whole.expect(what).objects[0].rows > 0);
    }

    // Whoever takes the rows refuses, or panics, at once or later; or the schema is refused.
    let long = at("long.csv");
    for stage in ["open", "open panics", "first", "first panics", "later", "later panics"] {
        let path = long.clone();
        let outcome = ends(&format!("CSV, {stage}"), move || {
            let fails = |panics: bool| -> std::io::Result<()> {
                assert!(!panics, "as this test wants");
                Err(std::io::Error::other("as this test wants"))
            };
            let reading = std::panic::AssertUnwindSafe(|| {
                let mut taken = 0;
                let mut open = |_| {
                    if stage.starts_with("open") {
                        fails(stage.ends_with("panics"))
                    } else {
                        Ok(())
                    }
                };
                let mut take = |_: RecordBatch, _: u64| {
                    taken += 1;
                    match stage.starts_with("first") || taken > 40 {
                        true => fails(stage.ends_with("panics")),
                        false => Ok(()),
                    }
                };
                csv::read(
                    &[path.as_path()],
                    &csv::TextOptions::by(3),
                    &CancellationToken::new(),
                    &mut open,
                    &mut take,
                    &mut |_, _, _| {},
                )
            });
            std::panic::catch_unwind(reading).is_ok_and(|outcome| outcome.is_ok())
        });
        assert!(!outcome, "{stage}");
    }

    // Rows that take the place of others, and a table that is made up.
    let (old, new) = (at("old.parquet"), at("new.parquet"));
    parquet(&old, 100_000);
    parquet(&new, 10);
    let object = |path: &Path, rows| brahman_card::interface::catalog::Object {
        bucket: "primary".into(),
        key: "datasets/d/r/x".into(),
        url: format!("file://{}", path.display()),
        rows,
        bytes: 0,
        sha256: String::new(),
        path: None,
    };
    for (stage, rewritten) in [("full", Some(1001)), ("cancelled", None)] {
        let target =
            rewritten.map_or_else(|| place(&at("merge")), |part| full(&at("merge full"), part));
        let (old, new, cancel) =
            (object(&old, 100_000), object(&new, 10), CancellationToken::new());
        if rewritten.is_none() {
            cancel.cancel();
        }
        let outcome = ends(&format!("merge, {stage}"), move || {
            merge::merge(&[old], vec![new], &["id".to_owned()], &target, &cancel)
        });
        assert!(
            matches!(outcome, Err(ReadError::Io(_) | ReadError::Cancelled)),
            "{stage}: {outcome:?}"
        );
    }
    let dsn = |text: &str| Dsn::new(text, &["postgres", "mysql"]).expect("a URL");
    let (target, made_up) = (full(&at("mock full"), 0), dsn("postgres://any?rows=200000"));
    let outcome = ends("mock, a full disk", move || {
        mock::read(
            &made_up,
            &TableSource::Table("t".into()),
            &how(),
            &target,
            &progress(),
            &CancellationToken::new(),
        )
    });
    assert!(matches!(outcome, Err(ReadError::Io(_))), "{outcome:?}");

    // Servers that take a connection and say nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    for scheme in ["postgres", "mysql"] {
        let (target, silent, cancel) = (
            place(&at(scheme)),
            dsn(&format!("{scheme}://me@127.0.0.1:{port}/db")),
            CancellationToken::new(),
        );
        let accepting = listener.try_clone().expect("cloned");
        let outcome = ends(&format!("{scheme}, a silent server"), move || {
            let ender = cancel.clone();
            let ending = std::thread::spawn(move || {
                let held = accepting.accept().expect("it connects");
                ender.cancel();
                held
            });
            let read = if scheme == "mysql" { mysql::read } else { postgres::read };
            let outcome = read(
                &silent,
                &TableSource::Table("t".into()),
                &how(),
                &target,
                &progress(),
                &cancel,
            );
            drop(ending.join().expect("it ended"));
            outcome
        });
        assert!(matches!(outcome, Err(ReadError::Cancelled)), "{scheme}: {outcome:?}");
    }
}
