//! Folders that are followed: editors that save by renaming, files that grow, ten thousand at once,
//! restarts.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_card::ModuleState;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_tests::{Mesh, Setup, binary, shipped};
use serde_json::{Value, json};

/// Short, for a test waits for it again and again.
const DEBOUNCE_MS: u64 = 150;

async fn mesh() -> Mesh {
    let mesh = Setup::new(&["broker", "catalog", "ingest"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

/// Generations as the catalog tells them.
struct Told(Connection);

impl Told {
    async fn by(mesh: &Mesh) -> Self {
        let mut connection = Connection::connect(&mesh.socket()).await.expect("connects");
        let call = encode_call(
            "org.brahman.Catalog.Watch",
            &json!({}),
            &CallOptions::default(),
            true,
            false,
        );
        connection.send(&call.expect("encodes")).await.expect("sent");
        Self(connection)
    }

    async fn until(&mut self, dataset: &str, generation: u64) -> u64 {
        let told = async {
            loop {
                let word: Value =
                    self.0.receive().await.expect("a reply").typed().expect("generations").value;
                if let Some(now) =
                    word["generations"][dataset].as_u64().filter(|now| *now >= generation)
                {
                    return now;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("the change is ingested")
    }
}

async fn watch(mesh: &Mesh, folder: &Path) -> Value {
    let ask = json!({"dataset": "n", "paths": [folder.display().to_string()], "debounce_ms": DEBOUNCE_MS});
    mesh.call("org.brahman.Ingest.Watch", ask).await.expect("watched")["watching"].clone()
}

fn folder(mesh: &Mesh) -> PathBuf {
    let folder = mesh.folder.path().join("followed");
    std::fs::create_dir_all(&folder).expect("made");
    folder
}

fn texts(mesh: &Mesh) -> Vec<(String, String)> {
    let out = mesh.brahman_json(&["datasets", "show", "n", "--rows", "20"]);
    let rows = out["sample"]["rows"].as_array().expect("rows").iter();
    let text = |row: &Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    rows.map(|row| (text(row, "id"), text(row, "text"))).collect()
}

#[tokio::test]
async fn what_an_editor_saves_and_what_goes_is_ingested_once_it_rests() {
    let mesh = mesh().await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    std::fs::write(folder.join("a.md"), "one").expect("written");
    assert_eq!(watch(&mesh, &folder).await["state"], "starting");
    assert_eq!(told.until("n", 1).await, 1);
    assert_eq!(texts(&mesh), [("a.md".into(), "one".into())]);

    // As vim saves: a swap file, a try of the folder, the old file aside, the new one in its place.
    std::fs::write(folder.join(".a.md.swp"), "junk").expect("written");
    std::fs::write(folder.join("4913"), "").expect("written");
    std::fs::remove_file(folder.join("4913")).expect("removed");
    std::fs::rename(folder.join("a.md"), folder.join("a.md~")).expect("renamed");
    std::fs::write(folder.join("a.md"), "two").expect("written");
    std::fs::remove_file(folder.join("a.md~")).expect("removed");
    told.until("n", 2).await;
    assert_eq!(texts(&mesh), [("a.md".into(), "two".into())]);

    // A new folder below, and a file that goes.
    std::fs::create_dir(folder.join("deep")).expect("made");
    std::fs::write(folder.join("deep/b.md"), "three").expect("written");
    std::fs::remove_file(folder.join("a.md")).expect("removed");
    let now = told.until("n", 3).await;
    assert_eq!(texts(&mesh), [("deep/b.md".into(), "three".into())]);

    // Ended, it is ended; twice is no error.
    assert_eq!(mesh.brahman_json(&["ingest", "unwatch", "n"])["stopped"], true);
    assert_eq!(mesh.brahman_json(&["ingest", "unwatch", "n"])["stopped"], false);
    std::fs::write(folder.join("late.md"), "late").expect("written");
    tokio::time::timeout(Duration::from_millis(4 * DEBOUNCE_MS), told.until("n", now + 1))
        .await
        .expect_err("nobody looks");
}

#[tokio::test]
async fn a_file_that_grows_is_read_whole_and_ten_thousand_are_one_generation_or_few() {
    let mesh = mesh().await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    std::fs::write(folder.join("first.md"), "first").expect("written");
    watch(&mesh, &folder).await;
    told.until("n", 1).await;
    // Written in pieces, each well within the time after which a change has come to rest.
    let mut growing = std::fs::File::create(folder.join("grows.md")).expect("made");
    for _ in 0..10 {
        growing.write_all(&[b'x'; 10]).expect("written");
        growing.flush().expect("flushed");
        tokio::time::sleep(Duration::from_millis(DEBOUNCE_MS / 3)).await;
    }
    drop(growing);
    assert_eq!(told.until("n", 2).await, 2, "one generation, not one a piece");
    assert!(texts(&mesh).iter().any(|(id, text)| id == "grows.md" && text.len() == 100));
    for i in 0..10_000 {
        std::fs::write(folder.join(format!("f{i}.txt")), format!("text {i}")).expect("written");
    }
    let mut generation = told.until("n", 3).await;
    let get = async || {
        mesh.call("org.brahman.Catalog.Get", json!({"name": "n"})).await.expect("there")["dataset"]
            ["rows"]
            .as_u64()
    };
    while get().await != Some(10_002) {
        generation = told.until("n", generation + 1).await;
    }
    assert!(generation < 20, "{generation} generations for one change");
}

/// The only watch, once it is as a test wants it.
async fn watching(mesh: &Mesh, is_so: impl Fn(&Value) -> bool) -> Value {
    let started = std::time::Instant::now();
    loop {
        let watch = mesh.brahman_json(&["ingest", "watches"])["watches"][0].clone();
        if is_so(&watch) {
            return watch;
        }
        assert!(started.elapsed().as_secs() < 30, "{watch}");
    }
}

#[tokio::test]
async fn a_folder_of_tables_is_followed_as_the_table_that_files_makes_of_it_and_stays_one() {
    let mesh = mesh().await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
    let columns = async |name: &str| {
        let dataset = mesh
            .call("org.brahman.Catalog.Get", json!({"name": name}))
            .await
            .expect("there")["dataset"]
            .clone();
        let columns = dataset["columns"].as_array().expect("columns").iter();
        columns
            .map(|column| format!("{}: {}", column["name"], column["arrow_type"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    write("a.csv", "id,price,note\n1,2,x\n2,3,y\n");
    assert_eq!(watch(&mesh, &folder).await["format"], "csv");
    told.until("n", 1).await;
    mesh.brahman_json(&["ingest", "files", "once", &folder.display().to_string()]);
    let first = columns("n").await;
    assert_eq!(
        (first.clone(), columns("once").await),
        (vec!["id: Int64".into(), "price: Int64".into(), "note: Utf8".into()], first)
    );

    // A wider type and a new column.
    write("b.csv", "id,price,note,more\n3,0.5,z,7\n");
    told.until("n", 2).await;
    assert_eq!(columns("n").await, ["id: Int64", "price: Float64", "note: Utf8", "more: Int64"]);
    let watch = watching(&mesh, |watch| watch["generation"] == 2).await;
    let drift = json!([{"column": "price", "was": "Int64", "now": "Float64"}, {"column": "more", "was": null, "now": "Int64"}]);
    let same = |a: &Value, b: &Value| ["column", "was", "now"].iter().all(|key| a[*key] == b[*key]);
    let found = watch["drift"].as_array().expect("columns that changed");
    assert!(
        found.len() == 2
            && found.iter().zip(drift.as_array().expect("two")).all(|(a, b)| same(a, b)),
        "{watch}"
    );

    // The wider value goes: the type stays, and it is said what a new dataset would have. A column
    // goes.
    write("b.csv", "id,price,note\n3,4,z\n");
    told.until("n", 3).await;
    assert_eq!(columns("n").await, ["id: Int64", "price: Float64", "note: Utf8"]);
    let watch = watching(&mesh, |watch| watch["generation"] == 3).await;
    let notes = watch["notes"].to_string();
    assert!(notes.contains("`price` keeps its type Float64") && notes.contains("Int64"), "{watch}");
    assert!(watch["drift"][0]["column"] == "more" && watch["drift"][0]["now"].is_null(), "{watch}");

    // No number any more: text, said.
    write("b.csv", "id,price,note\n3,dear,z\n");
    told.until("n", 4).await;
    assert_eq!(columns("n").await, ["id: Int64", "price: Utf8", "note: Utf8"]);

    // A document among them is left out and named, also after a restart; and the table stays one.
    let pid = mesh.module("ingest").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "ingest" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    write("README.md", "a note");
    told.until("n", 5).await;
    assert_eq!(columns("n").await, ["id: Int64", "price: Utf8", "note: Utf8"]);
    let watch = watching(&mesh, |watch| watch["generation"] == 5).await;
    assert!(
        watch["format"] == "csv"
            && watch["rows"] == 3
            && watch["error"].to_string().contains("README.md"),
        "{watch}"
    );

    // Watched anew it is decided again, as `files` would.
    let again = mesh
        .call(
            "org.brahman.Ingest.Watch",
            json!({"dataset": "n", "paths": [folder.display().to_string()]}),
        )
        .await;
    assert_eq!(again.expect("watched")["watching"]["format"], "documents");
}

#[tokio::test]
async fn a_dataset_that_was_deleted_does_not_come_back_by_its_watch_until_it_is_watched_again() {
    let mesh = mesh().await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    std::fs::write(folder.join("a.md"), "one").expect("written");
    watch(&mesh, &folder).await;
    told.until("n", 1).await;
    watching(&mesh, |watch| watch["generation"] == 1).await;
    mesh.brahman_json(&["datasets", "delete", "n"]);
    let is_told = |watch: &Value| {
        watch["error"]
            .as_str()
            .is_some_and(|why| why.contains("was deleted") && why.contains("unwatch n"))
    };
    // Before anything changes in the folder, and with nothing told of what is gone.
    let of_none =
        |watch: &Value| ["generation", "rows", "run_id"].iter().all(|f| watch[f].is_null());
    watching(&mesh, |watch| is_told(watch) && of_none(watch)).await;
    std::fs::write(folder.join("b.md"), "two").expect("written");
    watching(&mesh, is_told).await;
    let gone = mesh.fault("org.brahman.Catalog.Get", json!({"name": "n"})).await;
    assert_eq!(gone.name, "org.brahman.Catalog.NoSuchDataset");
    let pid = mesh.module("ingest").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "ingest" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    watching(&mesh, is_told).await;
    // Nor does it overwrite what somebody else makes by that name, when another watch of the folder
    // has long seen the change.
    let table = mesh.folder.path().join("table.csv");
    std::fs::write(&table, "a\n1\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "n", &table.display().to_string()]);
    let ask = json!({"dataset": "seen", "paths": [folder.display().to_string()]});
    mesh.call("org.brahman.Ingest.Watch", ask).await.expect("watched");
    told.until("seen", 1).await;
    std::fs::write(folder.join("c.md"), "three").expect("written");
    told.until("seen", 2).await;
    let own = mesh.call("org.brahman.Catalog.Get", json!({"name": "n"})).await.expect("there");
    assert_eq!(own["dataset"]["rows"], 1, "the table's: {own}");
    std::fs::remove_file(folder.join("c.md")).expect("removed");
    watch(&mesh, &folder).await;
    watching(&mesh, |watch| watch["rows"] == 2).await;
    assert_eq!(texts(&mesh).len(), 2);
}

#[tokio::test]
async fn an_empty_folder_is_decided_by_its_first_files_and_mixed_tables_are_refused() {
    let mesh = mesh().await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    assert_eq!(watch(&mesh, &folder).await["format"], Value::Null);
    std::fs::write(folder.join("a.jsonl"), "{\"a\": 1}\n{\"a\": 2}\n").expect("written");
    told.until("n", 1).await;
    let watch = watching(&mesh, |watch| watch["generation"] == 1).await;
    assert_eq!((&watch["format"], &watch["rows"]), (&json!("jsonl"), &json!(2)), "{watch}");
    std::fs::write(folder.join("b.csv"), "a\n3\n").expect("written");
    let fault = mesh
        .fault(
            "org.brahman.Ingest.Watch",
            json!({"dataset": "m", "paths": [folder.display().to_string()]}),
        )
        .await;
    assert!(fault.message().contains("another kind"), "{fault}");
}

#[tokio::test]
async fn watches_that_cannot_be_read_stop_nothing_else_and_stay_as_they_are() {
    let mesh = mesh().await;
    let (folder, file) = (folder(&mesh), mesh.folder.path().join("state/ingest/watches.json"));
    std::fs::write(folder.join("a.md"), "one").expect("written");
    watch(&mesh, &folder).await;
    std::fs::write(&file, "{bad").expect("damaged");
    let pid = mesh.module("ingest").await.pid;
    mesh.signal(pid, "KILL");
    mesh.when(|m| {
        m.iter().any(|m| {
            m.card.label.as_str() == "ingest" && m.state == ModuleState::Ready && m.pid != pid
        })
    })
    .await;
    mesh.brahman_json(&["ingest", "files", "other", &folder.display().to_string()]);
    for asked in [
        &["ingest", "watches"][..],
        &["ingest", "unwatch", "n"],
        &["ingest", "watch", "x", &folder.display().to_string()],
    ] {
        let out = mesh.brahman(asked);
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success()
                && words.contains("watches.json")
                && words.contains("restart ingest"),
            "{words}"
        );
    }
    assert!(
        String::from_utf8_lossy(&mesh.brahman(&["status"]).stdout).contains("nothing is watched")
    );
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "{bad");
}

#[tokio::test]
async fn a_watch_survives_kills_and_restarts_and_does_not_ingest_again_what_it_has() {
    let mesh = mesh().await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    std::fs::write(folder.join("a.md"), "one").expect("written");
    watch(&mesh, &folder).await;
    told.until("n", 1).await;
    let watching = async |state: &'static str| loop {
        let out = mesh.brahman_json(&["ingest", "watches"]);
        if out["watches"][0]["state"] == state {
            return out["watches"][0].clone();
        }
    };
    watching("watching").await;
    let restart = async || {
        let pid = mesh.module("ingest").await.pid;
        mesh.signal(pid, "KILL");
        mesh.when(|m| {
            m.iter().any(|m| {
                m.card.label.as_str() == "ingest" && m.state == ModuleState::Ready && m.pid != pid
            })
        })
        .await;
    };
    restart().await;
    while watching("watching").await["files"] != 1 {}
    let after = watching("watching").await;
    assert_eq!(
        (&after["generation"], &after["rows"], after["run_id"].is_string()),
        (&json!(1), &json!(1), true),
        "what it committed before the restart: {after}"
    );
    tokio::time::timeout(Duration::from_millis(4 * DEBOUNCE_MS), told.until("n", 2))
        .await
        .expect_err("nothing has changed");
    // What changes while nobody looks is seen at the next start.
    let pid = mesh.module("ingest").await.pid;
    mesh.signal(pid, "STOP");
    std::fs::write(folder.join("b.md"), "two").expect("written");
    mesh.signal(pid, "KILL");
    told.until("n", 2).await;
    assert_eq!(texts(&mesh).len(), 2);

    // The folder goes: what was committed stands, and the watch says what it waits for; it comes
    // back.
    let aside = mesh.folder.path().join("aside");
    std::fs::rename(&folder, &aside).expect("renamed");
    std::fs::write(aside.join("c.md"), "three").expect("written");
    let waits = watching("waiting").await;
    assert!(waits["reason"].as_str().is_some_and(|why| why.contains("followed")), "{waits}");
    assert_eq!(texts(&mesh).len(), 2);
    std::fs::rename(&aside, &folder).expect("renamed");
    told.until("n", 3).await;
    assert_eq!(texts(&mesh).len(), 3);
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_by_name() {
    let mesh = mesh().await;
    let file = mesh.folder.path().join("a.md");
    std::fs::write(&file, "a").expect("written");
    for (path, why) in [
        ("relative", "absolute"),
        ("/no/such/folder", "folder"),
        (&file.display().to_string(), "watch the folder"),
        (&mesh.folder.path().join("state/ingest").display().to_string(), "mesh's own state"),
    ] {
        let fault =
            mesh.fault("org.brahman.Ingest.Watch", json!({"dataset": "n", "paths": [path]})).await;
        assert!(fault.message().contains(why), "{fault}");
    }
    assert_eq!(mesh.brahman_json(&["ingest", "watches"])["watches"], json!([]));
}

#[tokio::test]
async fn what_is_written_into_a_followed_folder_is_found_without_another_word() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "[agent]\nrefresh = true\n").expect("written");
    let cards = ["broker", "embed-mock", "catalog", "ingest", "index"].map(shipped);
    let mesh =
        Setup::new(&cards).context("test").env("BRAHMAN_INDEX_CONFIG", file.path()).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let (folder, mut told) = (folder(&mesh), Told::by(&mesh).await);
    std::fs::write(folder.join("a.md"), "the first note").expect("written");
    watch(&mesh, &folder).await;
    told.until("n", 1).await;
    mesh.brahman_json(&["index", "create", "n", "--dataset", "n"]);
    mesh.brahman_json(&["index", "refresh", "n"]);
    std::fs::write(folder.join("b.html"), "<h1>Onions</h1><p>boil them for an hour")
        .expect("written");
    let started = std::time::Instant::now();
    let found = loop {
        let found = mesh.brahman_json(&["search", "n", "onions", "--lexical"]);
        if found["results"][0][0]["doc_id"] == "b.html" {
            break found;
        }
        assert!(started.elapsed().as_secs() < 30, "{found}");
    };
    assert_eq!(
        (&found["stale"], &found["results"][0][0]["text"]),
        (&json!(false), &json!("# Onions\n\nboil them for an hour"))
    );
    // What was refreshed answers a moment before the agent says so.
    loop {
        let agent = mesh.brahman_json(&["index", "agent"]);
        if agent["last"].as_str().is_some_and(|last| last.contains("n: refreshed to generation")) {
            break;
        }
        assert!(started.elapsed().as_secs() < 30, "{agent}");
    }
}

#[tokio::test]
async fn where_the_kernel_will_not_tell_of_changes_it_is_looked_and_said() {
    // A user namespace has a limit of its own.
    let limited = format!(
        "echo 1 > /proc/sys/user/max_inotify_watches && exec {}",
        binary("brahman-ingest").display()
    );
    let start = format!("exec unshare --user --map-root-user sh -c '{limited}'");
    let flows = "kind = \"ingest\"\nrequires = [\"org.brahman.Catalog\"]\n\
        [[flow.output]]\nname = \"ingest\"\ntype.interface.name = \"org.brahman.Ingest\"\n";
    let ingest = brahman_tests::script("ingest", &start, flows);
    let mesh = Setup::new(&[shipped("broker"), shipped("catalog"), ingest]).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let folder = folder(&mesh);
    std::fs::create_dir_all(folder.join("deep/er")).expect("made");
    std::fs::write(folder.join("deep/a.md"), "one").expect("written");
    let mut told = Told::by(&mesh).await;
    let ask = json!({"dataset": "n", "paths": [folder.display().to_string()], "debounce_ms": DEBOUNCE_MS, "reconcile_s": 1});
    mesh.call("org.brahman.Ingest.Watch", ask).await.expect("watched");
    told.until("n", 1).await;
    let watched = mesh.brahman_json(&["ingest", "watches"])["watches"][0].clone();
    assert_eq!(watched["state"], "polling", "{watched}");
    let reason = watched["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("every 1 s") && reason.contains("fs.inotify.max_user_watches"),
        "{reason}"
    );
    std::fs::write(folder.join("deep/er/b.md"), "two").expect("written");
    told.until("n", 2).await;
    assert_eq!(texts(&mesh).len(), 2);
}
