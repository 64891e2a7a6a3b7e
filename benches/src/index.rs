//! The index: against hnswlib, faiss and usearch on the same vectors, and its own promises on disk
//! and on the mesh.

mod vectors;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::interface::index::{SearchIn, SearchOut};
use brahman_index::embedder::Model;
use brahman_index::folder::{Content, Folder};
use brahman_index::generation::{Generation, Manifest, SearchOptions};
use brahman_index::rows::{Row, RowStore};
use brahman_index::segment;
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use brahman_storage::Steps;
use flat_hnsw::build::{Parameters, in_parallel, mix};
use flat_hnsw::store::LiveRows;
use flat_hnsw::{FlatIndex, SearchParameters};
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::{head, percentiles, row};
use vectors::{Set, minilm, mixture};

/// Rows of the generated sets.
const ROWS: usize = 100_000;
/// Queries, none of which is a row.
const QUERIES: usize = 1000;
/// Calls before the first that is measured: behind its first answers the module still compares
/// checksums, for a second or two.
const WARM_UP: usize = 20_000;
/// Neighbours looked for.
const K: usize = 10;
const EFS: [usize; 18] =
    [10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 200, 256, 400, 800];

/// Recall and queries a second on one thread, by setting.
type Curve = Vec<(f64, f64)>;

fn fastest(curve: &Curve, recall: f64) -> Option<f64> {
    curve.iter().filter(|(r, _)| *r >= recall).map(|(_, qps)| *qps).reduce(f64::max)
}

fn curve(set: &Set, flat: &FlatIndex, order: &[u32]) -> Curve {
    let measure = |ef: usize| {
        let (mut best, mut hits) = (f64::INFINITY, 0);
        for _ in 0..3 {
            let started = Instant::now();
            let found: Vec<_> = set
                .queries
                .chunks(set.dim)
                .map(|q| flat.search(q, &SearchParameters { k: K, ef, live: None }))
                .collect();
            best = best.min(started.elapsed().as_secs_f64());
            let right = |(found, truth): (&Vec<_>, &[u32])| {
                found
                    .iter()
                    .filter(|f: &&flat_hnsw::store::Neighbour| {
                        truth.contains(&order[f.row as usize])
                    })
                    .count()
            };
            hits = found.iter().zip(set.truth.chunks(K)).map(right).sum();
        }
        (hits as f64 / set.truth.len() as f64, QUERIES as f64 / best)
    };
    EFS.iter().map(|ef| measure(*ef)).collect()
}

fn peers(set: &Set, folder: &Path) -> Result<Value, String> {
    let python = std::env::var("BRAHMAN_BENCH_INDEX_PYTHON")
        .map_err(|_| "BRAHMAN_BENCH_INDEX_PYTHON is not set: run `make bench-index`".to_owned())?;
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.join(name), bytes).map_err(|e| e.to_string())
    };
    write("base.f32", set.base.iter().flat_map(|x| x.to_le_bytes()).collect())?;
    write("queries.f32", set.queries.iter().flat_map(|x| x.to_le_bytes()).collect())?;
    write("truth.u32", set.truth.iter().flat_map(|x| x.to_le_bytes()).collect())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("index_peers.py");
    let out = Command::new(python)
        .arg(script)
        .arg(folder)
        .arg(set.dim.to_string())
        .output()
        .map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr)
            .lines()
            .last()
            .unwrap_or("failed")
            .to_owned());
    }
    serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())
}

fn engines(set: &Set) {
    head(&format!(
        "index: {} × {} {}, one thread a search, M = 16",
        set.base.len() / set.dim,
        set.dim,
        set.name
    ));
    let parameters = Parameters { m: 16, ef_construction: 100, seed: 0 };
    let started = Instant::now();
    let (flat, order) = FlatIndex::build(&set.base, set.dim, parameters, 2, &|_| true).unwrap();
    let build = started.elapsed().as_secs_f64();
    let ours = curve(set, &flat, &order);
    let scratch = tempfile::tempdir().unwrap();
    let peers = match peers(set, scratch.path()) {
        Ok(peers) => peers,
        Err(why) => return row("peers", why, "", false),
    };
    // Once more, so that whatever disturbed the machine the first time counts less.
    let ours: Curve =
        ours.iter().zip(curve(set, &flat, &order)).map(|(a, b)| (a.0, a.1.max(b.1))).collect();
    let curves: HashMap<String, Curve> = serde_json::from_value(peers["curves"].clone()).unwrap();
    for (recall, bar) in [(0.95, 2.5), (0.99, 2.0), (0.999, 2.0)] {
        let own = fastest(&ours, recall);
        let graphs = ["hnswlib", "faiss HNSWFlat", "usearch"]
            .iter()
            .filter_map(|name| Some((*name, fastest(&curves[*name], recall)?)));
        let best = graphs.max_by(|a, b| a.1.total_cmp(&b.1));
        let figure = format!("queries/s at recall@10 ≥ {recall} / best HNSW peer");
        match (own, best) {
            (Some(own), Some((name, peer))) => {
                row(
                    &figure,
                    format!("{own:.0} / {peer:.0} ({name}) = {:.2}×", own / peer),
                    &format!("≥ {bar}×"),
                    own / peer >= bar,
                );
            }
            (Some(own), None) => {
                row(&figure, format!("{own:.0} / none reaches it"), &format!("≥ {bar}×"), true);
            }
            (None, _) => row(&figure, "not reached".into(), &format!("≥ {bar}×"), false),
        }
        let figure = format!("queries/s at recall@10 ≥ {recall} / faiss IVF-SQ8");
        match (own, fastest(&curves["faiss IVF-SQ8"], recall)) {
            (Some(own), Some(peer)) => row(
                &figure,
                format!("{own:.0} / {peer:.0} = {:.2}×", own / peer),
                "≥ 1.1×",
                own / peer >= 1.1,
            ),
            (Some(own), None) => {
                row(&figure, format!("{own:.0} / IVF-SQ8 never reaches it"), "≥ 1.1×", true);
            }
            (None, _) => row(&figure, "not reached".into(), "≥ 1.1×", false),
        }
    }
    let hnswlib = peers["builds"]["hnswlib"].as_f64().unwrap_or(0.0);
    row(
        "build on two threads / hnswlib's",
        format!("{build:.1} / {hnswlib:.1} s = {:.2}×", build / hnswlib),
        "≤ 0.9×",
        build <= 0.9 * hnswlib,
    );
    let (memory, raw) = (flat.memory_bytes() as f64, (set.base.len() * 4) as f64);
    row(
        "memory / raw f32 vectors",
        format!("{:.1} / {:.1} MB = {:.2}×", memory / 1e6, raw / 1e6, memory / raw),
        "≤ 1.45×",
        memory <= 1.45 * raw,
    );
    let started = Instant::now();
    for query in set.queries.chunks(set.dim).take(100) {
        std::hint::black_box(flat.store.exact(query, K, None, 1));
    }
    let exact_single = 100.0 / started.elapsed().as_secs_f64();
    let many: Vec<&[f32]> = set.queries.chunks(set.dim).take(400).collect();
    let started = Instant::now();
    std::hint::black_box(flat.store.exact_many(&many, K, None, 1));
    let exact_batch = 400.0 / started.elapsed().as_secs_f64();
    let (single, batch) = (
        peers["flat_single_qps"].as_f64().unwrap_or(0.0),
        peers["flat_batch_qps"].as_f64().unwrap_or(0.0),
    );
    for (how, own, peer) in
        [("one by one", exact_single, single), ("400 in a call", exact_batch, batch)]
    {
        let figure = format!("exact search on one thread, {how}, queries/s / faiss Flat");
        row(&figure, format!("{own:.0} / {peer:.0} = {:.2}×", own / peer), "≥ 1.0×", own >= peer);
    }
    for share in [0.001, 0.01, 0.1, 0.5] {
        let rows = flat.store.len();
        let live =
            LiveRows::of(rows, |r| (mix(77 ^ mix(r as u64)) as f64) < share * u64::MAX as f64);
        let started = Instant::now();
        let found: Vec<_> = set
            .queries
            .chunks(set.dim)
            .map(|q| flat.search(q, &SearchParameters { k: K, ef: 64, live: Some(&live) }))
            .collect();
        let us = started.elapsed().as_secs_f64() * 1e6 / QUERIES as f64;
        let wanted = in_parallel(
            QUERIES,
            2,
            || (),
            |(), i| flat.store.exact(&set.queries[i * set.dim..][..set.dim], K, Some(&live), 1),
        );
        let hits: usize = found
            .iter()
            .zip(&wanted)
            .map(|(f, w)| w.iter().filter(|x| f.contains(x)).count())
            .sum();
        let all: usize = wanted.iter().map(Vec::len).sum();
        let recall = hits as f64 / all.max(1) as f64;
        row(
            &format!("recall@10 with a filter that lets {} % through", share * 100.0),
            format!("{recall:.4} at {us:.0} µs"),
            "≥ 0.99",
            recall >= 0.99,
        );
    }
}

fn content(set: &Set, rows: std::ops::Range<usize>, prefix: &str) -> Content {
    let mut store = RowStore::default();
    for number in rows.clone() {
        let id = format!("{prefix}{number}");
        store.push(&Row {
            doc_id: &id,
            content_hash: &[0; 32],
            chunk: 0,
            start: 0,
            line: 1,
            context: "",
            text: "",
        });
    }
    let columns = segment::no_columns(rows.len()).unwrap();
    Content {
        rows: store,
        vectors: set.base[rows.start * set.dim..rows.end * set.dim].to_vec(),
        columns,
    }
}

fn manifest(number: u64, dim: usize, parent: Option<&Generation>) -> Manifest {
    let model =
        Model { name: "dataset".into(), fingerprint: format!("dataset:{dim}"), dim, mock: false };
    let first = Manifest::first(
        model,
        "flat-hnsw".into(),
        Parameters { m: 16, ef_construction: 100, seed: 0 },
        64,
    );
    parent.map_or_else(|| first.clone(), |parent| first.after(&parent.folder, number, "refresh"))
}

/// Makes an index's folder as the module would find it.
fn folder_of(indexes: &Path, name: &str) -> Folder {
    let path = indexes.join(name);
    std::fs::create_dir_all(&path).unwrap();
    let parameters =
        json!({"name": name, "dataset": "none", "id_column": "id", "vector_column": "vector"});
    std::fs::write(path.join("index.json"), parameters.to_string()).unwrap();
    Folder::new(&path, Steps::default())
}

fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            forget(&entry.path());
        } else if let Ok(file) = File::open(entry.path()) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

/// Opening and appending, then the module itself behind the broker.
async fn module(bin: &Path, set: &Set) {
    head(&format!("index on disk and on the mesh: {ROWS} × {}", set.dim));
    let cache = tempfile::tempdir().unwrap();
    let mesh = Mesh::up_with(bin, &["broker", "catalog", "index"], "prod", cache.path(), |state| {
        prepare(&state.join("indexes"), set);
        std::fs::write(state.join("index.toml"), "[agent]\nenabled = true\ncooldown_s = 0\n")
            .unwrap();
    });
    mesh.ready("index").await;
    served(&mesh, set).await;
}

/// How long the disk takes for a file without its last bytes: the floor of opening it.
fn read_all_but(path: &Path, last: u64) -> Duration {
    let (mut file, mut buffer) = (File::open(path).unwrap(), vec![0; 1 << 20]);
    let started = Instant::now();
    let mut left = file.metadata().unwrap().len() - last;
    while left > 0 {
        let n = file.read(&mut buffer).unwrap() as u64;
        left = left.saturating_sub(n);
    }
    started.elapsed()
}

fn prepare(indexes: &Path, set: &Set) {
    let folder = folder_of(indexes, "bench");
    let started = Instant::now();
    let base = folder
        .commit_base(manifest(1, set.dim, None), "none", content(set, 0..ROWS, "a"), 2, &|_| true)
        .unwrap();
    let rewrite = started.elapsed();
    let dead: Vec<u32> = (0..100).map(|i| i * 997).collect();
    let added = content(set, 0..100, "changed");
    let started = Instant::now();
    let appended = folder
        .commit_delta(&base, manifest(2, set.dim, Some(&base)), "none", &added, &dead)
        .unwrap();
    let append = started.elapsed();
    let folder_bytes: u64 = std::fs::read_dir(folder.path().join(&appended.folder))
        .unwrap()
        .flatten()
        .map(|e| e.metadata().unwrap().len())
        .sum();
    let written = appended.manifest.segments[0].file.bytes + folder_bytes;
    let delta = (added.vectors.len() * 4 + 100 * 60) as u64;
    let times = written as f64 / delta as f64;
    row(
        "append of 100 changed rows, bytes written / bytes of the rows",
        format!("{written} / {delta} = {times:.2}×"),
        "≤ 3×",
        times <= 3.0,
    );
    let share = rewrite.as_secs_f64() / append.as_secs_f64();
    row(
        "append / rewrite, time",
        format!(
            "{:.1} / {:.0} ms = 1/{share:.0}",
            append.as_secs_f64() * 1e3,
            rewrite.as_secs_f64() * 1e3
        ),
        "≤ 1/100",
        share >= 100.0,
    );
    // What is mapped cannot be forgotten.
    drop((base, appended));
    let (mut opened, mut read) = (Vec::new(), Vec::new());
    for query in set.queries.chunks(set.dim).take(5) {
        forget(folder.path());
        let started = Instant::now();
        let (generation, _) = folder.open().unwrap();
        let generation = generation.unwrap();
        let found = generation.search(
            query,
            &SearchOptions { k: K, ..SearchOptions::default() },
            &generation.allowed(None),
        );
        let numbers: Vec<u32> = found.iter().map(|f| f.row).collect();
        assert_eq!(generation.rows(&numbers).unwrap().len(), K);
        opened.push(started.elapsed().as_secs_f64() * 1e3);
        let graph = folder.path().join(&generation.manifest.base.as_ref().unwrap().graph.path);
        drop(generation);
        forget(folder.path());
        read.push(read_all_but(&graph, (ROWS * set.dim * 4) as u64).as_secs_f64() * 1e3);
    }
    opened.sort_by(f64::total_cmp);
    read.sort_by(f64::total_cmp);
    row(
        "cold open to first answer, hits' texts included, page cache dropped, p50 / reading its codes and lists alone",
        format!("{:.1} / {:.1} ms", opened[2], read[2]),
        "≤ 50 ms",
        opened[2] <= 50.0,
    );
    // Two small generations whose rows can be told apart.
    let pair = folder_of(indexes, "pair");
    let one = pair
        .commit_base(manifest(1, set.dim, None), "none", content(set, 0..5000, "one-"), 2, &|_| {
            true
        })
        .unwrap();
    pair.commit_base(
        manifest(2, set.dim, Some(&one)),
        "none",
        content(set, 5000..10_000, "two-"),
        2,
        &|_| true,
    )
    .unwrap();
}

/// Calls as they go over the wire: writing the JSON is the client's own time.
fn messages(set: &Set) -> Vec<Vec<u8>> {
    let ask = |query: &[f32]| {
        let ask = SearchIn {
            index: "bench".into(),
            vector: Some(query.to_vec()),
            k: Some(K as u64),
            ..SearchIn::default()
        };
        encode_call("org.brahman.Index.Search", &ask, &CallOptions::default(), false, false)
            .unwrap()
    };
    set.queries.chunks(set.dim).map(ask).collect()
}

async fn served(mesh: &Mesh, set: &Set) {
    let mut client = Connection::connect(&mesh.socket()).await.unwrap();
    let calls = messages(set);
    let measure = async |client: &mut Connection, count: usize| {
        let (mut whole, mut engine) = (Vec::new(), Vec::new());
        for i in 0..count {
            let started = Instant::now();
            let reply = client.exchange(&calls[i % QUERIES]).await.unwrap();
            whole.push(started.elapsed().as_nanos() as f64 / 1e3);
            engine.push(reply.typed::<SearchOut>().unwrap().value.elapsed_us.search as f64);
        }
        (percentiles(whole), percentiles(engine))
    };
    measure(&mut client, WARM_UP).await;
    let ((w50, idle99), (e50, _)) = measure(&mut client, 5000).await;
    row(
        "search through the broker p50 over the engine's own",
        format!("{w50:.0} − {e50:.0} = {:.0} µs", w50 - e50),
        "≤ 60 µs",
        w50 - e50 <= 60.0,
    );

    let _: Value =
        client.call("org.brahman.Index.AgentEnqueue", &json!({"name": "bench"})).await.unwrap();
    let working = async |client: &mut Connection| {
        let out: Value = client.call("org.brahman.Index.AgentStatus", &json!({})).await.unwrap();
        out["running"] == "bench"
    };
    while !working(&mut client).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ((_, busy99), _) = measure(&mut client, 20_000).await;
    let still = if working(&mut client).await { "" } else { " (the build ended early)" };
    let figure = "p99 of live search while the agent builds / idle";
    row(
        figure,
        format!("{busy99:.0} / {idle99:.0} µs = {:.2}×{still}", busy99 / idle99),
        "≤ 1.5×",
        busy99 <= 1.5 * idle99,
    );

    let (stop, failed, mixed, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut clients = Vec::new();
    for n in 0..32 {
        let (stop, failed, mixed, answered, socket) = (
            Arc::clone(&stop),
            Arc::clone(&failed),
            Arc::clone(&mixed),
            Arc::clone(&answered),
            mesh.socket(),
        );
        let queries: Vec<f32> = set.queries[n * set.dim..(n + 1) * set.dim].to_vec();
        clients.push(tokio::spawn(async move {
            let mut connection = Connection::connect(&socket).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let out: Result<Value, _> = connection
                    .call(
                        "org.brahman.Index.Search",
                        &json!({"index": "pair", "vector": queries, "k": K}),
                    )
                    .await;
                let Ok(out) = out else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                answered.fetch_add(1, Ordering::Relaxed);
                let prefix = if out["generation"] == 1 { "one-" } else { "two-" };
                let pure = out["results"][0]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|hit| hit["doc_id"].as_str().unwrap().starts_with(prefix));
                mixed.fetch_add(u64::from(!pure), Ordering::Relaxed);
            }
        }));
    }
    let mut admin = Connection::connect(&mesh.socket()).await.unwrap();
    for n in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let wanted = json!({"name": "pair", "generation": 1 + n % 2, "force": true});
        let out: Value = admin.call("org.brahman.Index.Promote", &wanted).await.unwrap();
        assert_eq!(out["promoted"], true, "{out}");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let [failed, mixed, answered] = [failed, mixed, answered].map(|n| n.load(Ordering::Relaxed));
    row(
        "10 promotions under 32 searchers",
        format!("{failed} failed, {mixed} mixed of {answered}"),
        "0, 0",
        failed + mixed == 0,
    );
}

/// The module's part alone: a minute instead of ten.
pub(crate) async fn run_on_mesh(bin: &Path) {
    module(bin, &mixture("mixture", 384)).await;
}

pub(crate) async fn run(bin: &Path) {
    let first = mixture("mixture", 384);
    module(bin, &first).await;
    engines(&first);
    drop(first);
    engines(&mixture("mixture", 768));
    match minilm(bin).await {
        Ok(set) => engines(&set),
        Err(why) => row("MiniLM vectors", why, "≥ 50,000", false),
    }
}
