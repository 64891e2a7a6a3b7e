//! Promise 3: any tool can talk to it. Somebody else's clients on our wire, somebody else's
//! language as a module, somebody else's reader on our files. `make test` installs them;
//! `BRAHMAN_TEST_TOOLS` says where.

use std::path::PathBuf;
use std::process::Command;

use brahman_card::ModuleState;
use brahman_tests::{Mesh, Setup, repository, shipped};
use serde_json::{Value, json};

use crate::tables::pyarrow;

pub(crate) fn tool(name: &str) -> PathBuf {
    let folder = std::env::var_os("BRAHMAN_TEST_TOOLS").expect(
        "BRAHMAN_TEST_TOOLS is not set: run `make test`, which installs the foreign clients",
    );
    let path = PathBuf::from(folder).join("bin").join(name);
    assert!(path.exists(), "{} is missing: run `make test`, which installs it", path.display());
    path
}

async fn mesh() -> Mesh {
    let mesh = Setup::new(&[
        shipped("broker"),
        shipped("embed-mock"),
        shipped("catalog"),
        shipped("ingest"),
        shipped("index"),
        shipped("score-mock"),
    ])
    .context("test")
    .up()
    .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    mesh
}

#[tokio::test]
async fn pythons_varlink_package_talks_to_the_mesh() {
    let mesh = mesh().await;
    let program = r#"
import sys, varlink
client = varlink.Client(address="unix:" + sys.argv[1])
names = client.get_interfaces()
assert "org.brahman.Embed" in names, names
with client.open("org.brahman.Embed") as embed:
    out = embed.EmbedText(texts=["hello"])
    assert out["dim"] == 32 and out["mock"] is True, out
    try:
        embed.EmbedFile(path="/nonexistent")
        raise SystemExit("no error came")
    except varlink.VarlinkError as e:
        assert e.error() == "org.brahman.Embed.FileUnreadable", e
with client.open("org.brahman.Score") as score:
    assert score.Logprobs(text="abc")["logprobs"][0] is None
    said = "The boat is called Kolva."
    talk = [{"role": "memory", "key": "boat", "text": said}, {"role": "assistant", "text": said}]
    *rows, done = score.ScoreMatrix(conversation={"conversation": talk}, _more=True)
    assert rows[0]["key"] == "boat" and rows[0]["deltas"][0] > 5 and done["memories"] == 1, rows
with client.open("org.brahman.Broker") as broker:
    seen = []
    for word in broker.Watch(flow="org.brahman.Embed", _more=True):
        seen.append(word["match"]["label"])
        break
    assert seen == ["embed-mock"], seen
with client.open("org.brahman.Init") as init:
    assert len(init.List()["modules"]) == 6
print("fine")
"#;
    let out = Command::new(tool("python3"))
        .args(["-c", program])
        .arg(mesh.socket())
        .output()
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).trim(),
        "fine",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// sd-varlink refuses every key that the specification does not name, and parses less of the IDL
/// than others.
#[tokio::test]
async fn systemds_varlinkctl_talks_to_the_mesh() {
    let mesh = mesh().await;
    let varlinkctl = |arguments: &[&str], socket: &std::path::Path| {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let out = Command::new(tool("varlinkctl"))
            .arg(verb)
            .arg(socket)
            .args(rest)
            .output()
            .expect("it runs");
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned()
                + &String::from_utf8_lossy(&out.stderr),
        )
    };
    let socket = mesh.socket();
    let (ok, info) = varlinkctl(&["info"], &socket);
    assert!(ok && info.contains("org.brahman.Broker"), "{info}");
    for interface in info.split_whitespace().filter(|word| word.starts_with("org.brahman.")) {
        let (ok, text) = varlinkctl(&["introspect", interface], &socket);
        assert!(ok && text.contains("method"), "{interface}: {text}");
    }
    for (method, parameters, want) in [
        ("org.brahman.Embed.EmbedText", r#"{"texts": ["a"]}"#, "\"dim\":32"),
        ("org.brahman.Broker.Status", "{}", "embed-mock"),
        ("org.brahman.Init.List", "{}", "embed-mock"),
        ("org.brahman.Catalog.List", "{}", "datasets"),
        ("org.brahman.Index.List", "{}", "indexes"),
    ] {
        let (ok, text) = varlinkctl(&["call", method, parameters], &socket);
        assert!(ok && text.contains(want), "{method}: {text}");
    }
    let (ok, text) =
        varlinkctl(&["call", "org.brahman.Embed.EmbedText", r#"{"texts": 7}"#], &socket);
    assert!(!ok && text.contains("InvalidParameter"), "{text}");
    for module in mesh
        .when(|_| true)
        .await
        .iter()
        .map(|m| m.socket.clone())
        .chain([mesh.beside("init.sock").display().to_string()])
    {
        let (ok, text) = varlinkctl(&["info"], std::path::Path::new(&module));
        assert!(ok && text.contains("Brahman"), "{module}: {text}");
    }
}

/// Varlink's own certification, server and client, straight and through the broker: every type, a
/// stream, a oneway call whose order counts.
#[tokio::test]
async fn the_certification_passes_through_the_broker() {
    let server = r#"
import os, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
from varlink.tests import test_certification
test_certification.run_server("unix:" + os.environ["BRAHMAN_SOCKET"])
"#;
    let card = format!(
        "schema_version = 1\nlabel = \"certification\"\n[payload.native]\nexec = {:?}\nargv = [\"-c\", {}]\n[[flow.output]]\n\
         name = \"certification\"\ntype.interface.name = \"org.varlink.certification\"\n",
        tool("python3"),
        serde_json::to_string(server).expect("a string is JSON")
    );
    let mesh = Setup::new(&[shipped("broker"), ("certification".into(), card)]).up().await;
    mesh.when_module("certification", ModuleState::Ready).await;
    let client = "import sys, varlink\nfrom varlink.tests import test_certification\ntest_certification.run_client(varlink.Client(sys.argv[1]))";
    for socket in [mesh.beside("certification.sock"), mesh.socket()] {
        for round in 0..3 {
            let out = Command::new(tool("python3"))
                .args(["-c", client, &format!("unix:{}", socket.display())])
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&out.stdout);
            assert!(
                said.contains("'all_ok': True"),
                "{} {round}: {said}{}",
                socket.display(),
                String::from_utf8_lossy(&out.stderr)
            );
        }
    }
}

#[tokio::test]
async fn the_varlink_command_talks_to_the_mesh() {
    let mesh = mesh().await;
    let address = format!("unix:{}", mesh.socket().display());
    let varlink = |arguments: &[&str]| {
        let out = Command::new(tool("varlink")).args(arguments).output().expect("it runs");
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    };
    assert!(varlink(&["info", &address]).contains("org.brahman.Embed"));
    for interface in [
        "org.brahman.Embed",
        "org.brahman.Broker",
        "org.brahman.Init",
        "org.brahman.Index",
        "org.brahman.Score",
    ] {
        assert!(
            varlink(&["help", &format!("{address}/{interface}")]).contains(interface),
            "{interface}"
        );
    }
    let out = varlink(&[
        "call",
        &format!("{address}/org.brahman.Embed.EmbedText"),
        "{\"texts\": [\"x\"]}",
    ]);
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["dim"], 32);
}

#[tokio::test]
async fn a_module_in_python_is_supervised_like_any_other() {
    let card = std::fs::read_to_string(repository().join("examples/python-module/wordcount.toml"))
        .expect("the example");
    let script = repository().join("examples/python-module/wordcount.py").display().to_string();
    let card =
        card.replace("/usr/local/share/brahman/examples/python-module/wordcount.py", &script);
    let mesh = Setup::new(&[shipped("broker"), ("wordcount".into(), card)]).up().await;
    let first = mesh.when_module("wordcount", ModuleState::Ready).await.pid;
    let count =
        async || mesh.call("org.example.WordCount.Count", json!({"text": "one two three"})).await;
    assert_eq!(count().await.expect("counted")["words"], 3);
    assert_eq!(
        mesh.fault("org.example.WordCount.Count", json!({})).await.name,
        "org.varlink.service.InvalidParameter"
    );
    let text = mesh.brahman_json(&["introspect", "org.example.WordCount"]);
    assert!(text["description"].as_str().is_some_and(|t| t.contains("method Count")));
    mesh.signal(first, "KILL");
    assert_eq!(count().await.expect("its Card says that Count may be repeated")["words"], 3);
    assert_ne!(mesh.when_module("wordcount", ModuleState::Ready).await.pid, first);
}

#[tokio::test]
async fn pyarrow_reads_what_we_write() {
    let mesh = mesh().await;
    let folder = mesh.folder.path().join("docs");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("a.md"), "# Title\n\nBody with é and 漢字.\n").expect("written");
    mesh.brahman_json(&["ingest", "files", "docs", &folder.display().to_string()]);
    mesh.brahman_json(&["index", "create", "docs", "--dataset", "docs"]);
    mesh.brahman_json(&["index", "refresh", "docs"]);
    let url = mesh.brahman_json(&["datasets", "docs"])["dataset"]["objects"][0]["url"]
        .as_str()
        .expect("a url")
        .to_owned();
    let program = r#"
import glob, sys
import pyarrow.parquet as pq
from pyarrow import fs
files, path = fs.FileSystem.from_uri(sys.argv[1])
table = pq.read_table(path, filesystem=files)
assert table.num_rows == 1 and table["text"][0].as_py().endswith("漢字.\n"), table
segment, = glob.glob(sys.argv[2] + "/indexes/docs/segments/*.parquet")
vectors = pq.read_table(segment)["vector"]
assert str(vectors.type).startswith("fixed_size_list<") and vectors.type.list_size == 32, vectors.type
print("fine")
"#;
    let out = Command::new(tool("python3"))
        .args(["-c", program, &url])
        .arg(mesh.folder.path().join("state"))
        .output()
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).trim(),
        "fine",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[tokio::test]
async fn the_example_module_in_rust_runs_as_shown() {
    let card = std::fs::read_to_string(repository().join("examples/rust-module/echo.toml"))
        .expect("the example");
    let program = brahman_tests::binary("examples/echo").display().to_string();
    let mesh = Setup::new(&[
        shipped("broker"),
        ("echo".into(), card.replace("/usr/local/bin/echo-module", &program)),
    ])
    .up()
    .await;
    mesh.when_module("echo", ModuleState::Ready).await;
    assert_eq!(
        mesh.call("org.example.Echo.Echo", json!({"text": "a", "times": 2})).await.expect("echoed")
            ["texts"],
        json!(["a", "a"])
    );
    assert_eq!(
        mesh.fault("org.example.Echo.Echo", json!({"text": "a", "times": 9999})).await.parameters["parameter"],
        "times"
    );
}

/// zlink serves one call at a time on a connection, and knows no key but the specification's.
#[tokio::test]
async fn zlink_provides_and_calls() {
    let program = brahman_tests::binary("examples/zlink_peer");
    let card = format!(
        "schema_version = 1\nlabel = \"sums\"\n[payload.native]\nexec = {program:?}\nargv = [\"serve\"]\n[[flow.output]]\n\
         name = \"sums\"\ntype.interface.name = \"org.example.Sums\"\n"
    );
    let mesh = Setup::new(&[shipped("broker"), shipped("embed-mock"), ("sums".into(), card)])
        .context("test")
        .up()
        .await;
    mesh.when(|m| m.iter().all(|m| m.state == ModuleState::Ready)).await;
    let out = Command::new(&program).arg("call").arg(mesh.socket()).output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // Ours to theirs: additions go to nobody whose Card does not want them, and the reply says all
    // the same who gave it.
    assert_eq!(
        mesh.call("org.example.Sums.Add", json!({"a": 2, "b": 3})).await.expect("added")["sum"],
        5
    );
    let fault = mesh.fault("org.example.Sums.Add", json!({"a": 2_000_000, "b": 3})).await;
    assert_eq!(fault.parameters["most"], 1_000_000, "{fault:?}");
    // A second client is served while a first one only stays connected.
    let idle = std::os::unix::net::UnixStream::connect(mesh.socket()).expect("connected");
    assert_eq!(
        mesh.call("org.example.Sums.Add", json!({"a": 1, "b": 1})).await.expect("added")["sum"],
        2
    );
    drop(idle);
}

#[tokio::test]
async fn what_others_wrote_is_read_compressed_or_not() {
    let mesh = mesh().await;
    let folder = mesh.folder.path().display().to_string();
    let program = r#"
import gzip, sys, decimal, datetime, pyarrow as pa, pyarrow.parquet as pq, pyarrow.csv as csv
folder = sys.argv[1]
table = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "price": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.25")]),
                  "day": pa.array([datetime.date(2024, 2, 29)] * 3), "tags": pa.array([["a"], [], None])})
pq.write_table(table, folder + "/t.parquet", compression="snappy")
pq.write_table(table.slice(0, 2).select(["id"]), folder + "/other.parquet")
pq.write_table(pa.table({"id": ["x"]}), folder + "/apart.parquet")
with gzip.open(folder + "/t.csv.gz", "wt") as out:
    out.write("id,note\n1,one\n2,\"two\nlines\"\n")
with pa.CompressedOutputStream(folder + "/t.jsonl.zst", "zstd") as out:
    out.write(b'{"id": "a", "n": 1}\n{"id": "b", "n": 2.5}\n')
"#;
    let out =
        Command::new(tool("python3")).args(["-c", program, &folder]).output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for (name, rows, types) in [
        (
            "t.parquet",
            3,
            vec!["Int32", "Decimal128(3, 2)", "Date32", "List(Utf8, field: 'element')"],
        ),
        ("t.csv.gz", 2, vec!["Int64", "Utf8"]),
        ("t.jsonl.zst", 2, vec!["Utf8", "Float64"]),
    ] {
        let out = mesh.brahman_json(&["ingest", "files", "d", &format!("{folder}/{name}")]);
        let told: Vec<&str> = out["columns"]
            .as_array()
            .expect("columns")
            .iter()
            .filter_map(|c| c["arrow_type"].as_str())
            .collect();
        assert_eq!((out["rows"].as_u64(), told), (Some(rows), types), "{name}");
    }
    let both = json!({"dataset": "d", "paths": [format!("{folder}/t.parquet"), format!("{folder}/other.parquet")]});
    let out = mesh.call("org.brahman.Ingest.Files", both).await.expect("columns meet by name");
    assert!(
        out["rows"] == 5
            && out["notes"][0].as_str().is_some_and(|note| note.contains("other.parquet")),
        "{out}"
    );
    assert_eq!(pyarrow(&out, "t.column('price').null_count"), "3");
    let apart = json!({"dataset": "d", "paths": [format!("{folder}/t.parquet"), format!("{folder}/apart.parquet")]});
    let fault = mesh.fault("org.brahman.Ingest.Files", apart).await;
    assert!(
        fault.message().contains("apart.parquet") && fault.message().contains("column `id` is"),
        "{fault}"
    );
    std::fs::write(mesh.folder.path().join("broken.parquet"), "PAR1 and no more").expect("written");
    let broken = json!({"dataset": "d", "paths": [format!("{folder}/broken.parquet")]});
    assert!(
        mesh.fault("org.brahman.Ingest.Files", broken).await.message().contains("broken.parquet")
    );
}
