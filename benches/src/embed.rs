//! Embedding: against fastembed in Rust and in Python with equal threads, cached against uncached,
//! bulk against JSON.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use brahman_sidecar::bulk::{BulkStream, Frame};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Connection};
use fastembed::{
    InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel,
};
use ort::environment::Environment;
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::{head, percentiles, row};

/// Texts of 20 to 200 words from real words, the same on every machine.
pub(crate) fn texts(n: usize, salt: u64) -> Vec<String> {
    let vocabulary: Vec<&str> = include_str!("../../README.md")
        .split(|c: char| !c.is_alphabetic())
        .filter(|w| w.len() > 2)
        .collect();
    let mut state = 0x9e37_79b9_u64 ^ salt;
    let mut next = |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    (0..n)
        .map(|_| {
            (0..20 + next(181))
                .map(|_| vocabulary[next(vocabulary.len())])
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

fn cosine_least(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>())
        .fold(1.0, f32::min)
}

pub(crate) async fn run(bin: &Path) {
    head("embed (all-MiniLM-L6-v2, fp32, CPU, all cores on each side)");
    let shared = brahman_sidecar::place::cache_dir();
    let cache = tempfile::tempdir().unwrap();
    for part in ["models", "onnxruntime"] {
        std::os::unix::fs::symlink(shared.join(part), cache.path().join(part)).unwrap();
    }
    let n = std::env::var("BRAHMAN_BENCH_TEXTS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let corpus = texts(n, 0);
    let (ours, our_rate) = ours(bin, cache.path(), &corpus).await;
    let (rust, rust_rate) = fastembed_rust(&shared, &corpus);
    let ratio = our_rate / rust_rate;
    row(
        "embed-real / fastembed (Rust), texts/s",
        format!("{our_rate:.1} / {rust_rate:.1} = {ratio:.2}×"),
        "≥ 2.4×",
        ratio >= 2.4,
    );
    let cosine = cosine_least(&ours, &rust);
    row("least cosine to fastembed (Rust)", format!("{cosine:.6}"), "≥ 0.9999", cosine >= 0.9999);
    int8(bin, &shared, &corpus, &ours, rust_rate).await;
    match fastembed_python(&shared, &corpus, cache.path()) {
        Ok((python, python_rate)) => {
            let ratio = our_rate / python_rate;
            row(
                "embed-real / fastembed (Python), texts/s",
                format!("{our_rate:.1} / {python_rate:.1} = {ratio:.2}×"),
                "≥ 2.4×",
                ratio >= 2.4,
            );
            let cosine = cosine_least(&ours, &python);
            row(
                "least cosine to fastembed (Python)",
                format!("{cosine:.6}"),
                "≥ 0.9999",
                cosine >= 0.9999,
            );
        }
        Err(why) => row("embed-real / fastembed (Python), texts/s", why, "≥ 2.4×", false),
    }
}

async fn ours(bin: &Path, cache: &Path, corpus: &[String]) -> (Vec<Vec<f32>>, f64) {
    let mesh = Mesh::up(bin, &["broker", "embed-real"], "prod", cache);
    mesh.ready("embed-real").await;
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    let (vectors, rate) = embedded(&mut connection, corpus).await;

    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for text in &texts(100, 7) {
        for times in [&mut cold, &mut warm] {
            let started = Instant::now();
            let _: Value = connection
                .call("org.brahman.Embed.EmbedText", &json!({"texts": [text], "truncate": true}))
                .await
                .unwrap();
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    let (c50, w50) = (percentiles(cold).0, percentiles(warm).0);
    row(
        "cached / uncached embed of one text through the broker, p50",
        format!("{w50:.0} / {c50:.0} µs = 1/{:.0}", c50 / w50),
        "≤ 1/50",
        c50 / w50 >= 50.0,
    );

    let many: Vec<&String> = corpus.iter().cycle().take(1024).collect();
    let options = CallOptions::default();
    let upgrade = encode_call(
        "org.brahman.Embed.EmbedBulk",
        &json!({"truncate": true}),
        &options,
        false,
        true,
    )
    .unwrap();
    let mut leaving = Connection::connect(&mesh.socket()).await.unwrap();
    leaving.exchange(&upgrade).await.unwrap();
    let mut bulk = BulkStream::new(leaving.into_upgraded());
    let (mut by_json, mut by_bulk) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        let started = Instant::now();
        let out: brahman_card::interface::embed::EmbedTextOut = connection
            .call("org.brahman.Embed.EmbedText", &json!({"texts": many, "truncate": true}))
            .await
            .unwrap();
        by_json.push(started.elapsed().as_secs_f64() * 1e3);
        assert_eq!(out.vectors.len(), 1024);
        let started = Instant::now();
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(&many));
        bulk.send(&RecordBatch::try_from_iter([("text", column)]).unwrap()).await.unwrap();
        let Frame::Batches(batches) = bulk.receive().await.unwrap() else { panic!("no batches") };
        let lists = batches[0].column_by_name("vector").unwrap().as_fixed_size_list();
        assert_eq!(lists.values().as_primitive::<Float32Type>().values().len(), 1024 * 384);
        by_bulk.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let (j50, b50) = (percentiles(by_json).0, percentiles(by_bulk).0);
    row(
        "JSON EmbedText / EmbedBulk, 1,024 cached texts",
        format!("{j50:.1} / {b50:.1} ms = {:.1}×", j50 / b50),
        "≥ 4×",
        j50 / b50 >= 4.0,
    );
    (vectors, rate)
}

/// Vectors of texts, and how many of them come a second.
async fn embedded(connection: &mut Connection, corpus: &[String]) -> (Vec<Vec<f32>>, f64) {
    let started = Instant::now();
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    for part in corpus.chunks(1000) {
        let out: Value = connection
            .call("org.brahman.Embed.EmbedText", &json!({"texts": part, "truncate": true}))
            .await
            .unwrap();
        vectors.extend(serde_json::from_value::<Vec<Vec<f32>>>(out["vectors"].clone()).unwrap());
    }
    (vectors, corpus.len() as f64 / started.elapsed().as_secs_f64())
}

/// The same model in 8 bits: in blocks, as `brahman models quantize` makes it; and scaled by what
/// is computed at the time, one text a pass, where `BRAHMAN_BENCH_DYNAMIC` names a folder with it.
async fn int8(bin: &Path, shared: &Path, corpus: &[String], whole: &[Vec<f32>], peer_rate: f64) {
    let cache = tempfile::tempdir().unwrap();
    let library = cache.path().join("onnxruntime");
    std::os::unix::fs::symlink(shared.join("onnxruntime"), library).unwrap();
    let out = Command::new(bin.join("brahman"))
        .args(["models", "quantize"])
        .arg(shared.join("models/all-MiniLM-L6-v2"))
        .env("BRAHMAN_CACHE", cache.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let blocks = cache.path().join("models/all-MiniLM-L6-v2-int8");
    let (vectors, rate) = served(bin, cache.path(), &blocks, corpus).await;
    let ratio = rate / peer_rate;
    row(
        "embed-real in int8 blocks / fastembed (Rust) in fp32, texts/s",
        format!("{rate:.1} / {peer_rate:.1} = {ratio:.2}×"),
        "≥ 2.4×",
        ratio >= 2.4,
    );
    let cosine = cosine_least(&vectors, whole);
    row("least cosine of int8 blocks to fp32", format!("{cosine:.6}"), "≥ 0.999", cosine >= 0.999);
    let figure = "embed-real in dynamic int8 / fastembed (Rust) in fp32, texts/s";
    let Some(folder) = std::env::var_os("BRAHMAN_BENCH_DYNAMIC") else {
        row(figure, "BRAHMAN_BENCH_DYNAMIC names no such model".to_owned(), "reported", true);
        return;
    };
    let (vectors, rate) = served(bin, cache.path(), Path::new(&folder), corpus).await;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cpu = cpu.trim_start_matches([' ', '\t', ':']);
    let ratio = rate / peer_rate;
    let value = format!("{rate:.1} / {peer_rate:.1} = {ratio:.2}× on {cpu}");
    row(figure, value, "reported", true);
    let cosine = cosine_least(&vectors, whole);
    row("least cosine of dynamic int8 to fp32", format!("{cosine:.6}"), "≥ 0.98", cosine >= 0.98);
}

/// Vectors and rate of a model in another folder, by a mesh of its own.
async fn served(
    bin: &Path,
    cache: &Path,
    folder: &Path,
    corpus: &[String],
) -> (Vec<Vec<f32>>, f64) {
    let model = format!("\n[environment]\nBRAHMAN_MODEL_DIR = \"{}\"\n", folder.display());
    let edit = |card: &str, text: String| if card == "embed-real" { text + &model } else { text };
    let mesh = Mesh::up_edited(bin, &["broker", "embed-real"], "prod", cache, |_| {}, edit);
    mesh.ready("embed-real").await;
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    embedded(&mut connection, corpus).await
}

/// ONNX Runtime's environment, of which a process has one.
pub(crate) fn environment(cache: &Path) -> Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    let open =
        || ort::init_from(cache.join("onnxruntime/libonnxruntime.so")).unwrap().build().unwrap();
    ENVIRONMENT.get_or_init(open).clone()
}

fn fastembed_rust(cache: &Path, corpus: &[String]) -> (Vec<Vec<f32>>, f64) {
    let environment = environment(cache);
    let folder = cache.join("models/all-MiniLM-L6-v2");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let files = TokenizerFiles {
        tokenizer_file: read("tokenizer.json"),
        config_file: read("config.json"),
        special_tokens_map_file: read("special_tokens_map.json"),
        tokenizer_config_file: read("tokenizer_config.json"),
    };
    let model =
        UserDefinedEmbeddingModel::new(read("model.onnx"), files).with_pooling(Pooling::Mean);
    let options = InitOptionsUserDefined::new().with_max_length(256).with_environment(environment);
    let mut engine = TextEmbedding::try_new_from_user_defined(model, options).unwrap();
    let started = Instant::now();
    let vectors = engine.embed(corpus, None).unwrap();
    (vectors, corpus.len() as f64 / started.elapsed().as_secs_f64())
}

/// fastembed's Python package on the same files, with its defaults. `packaging/bench.sh` installs
/// it.
fn fastembed_python(
    cache: &Path,
    corpus: &[String],
    scratch: &Path,
) -> Result<(Vec<Vec<f32>>, f64), String> {
    let python = std::env::var("BRAHMAN_BENCH_PYTHON")
        .map_err(|_| "BRAHMAN_BENCH_PYTHON is not set: run `make bench`".to_owned())?;
    let input = scratch.join("texts.json");
    std::fs::write(&input, serde_json::to_vec(corpus).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fastembed_peer.py");
    let out = Command::new(python)
        .arg(script)
        .arg(cache.join("models/all-MiniLM-L6-v2"))
        .arg(&input)
        .output()
        .map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr)
            .lines()
            .last()
            .unwrap_or("failed")
            .to_owned());
    }
    let out: Value = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
    let vectors = serde_json::from_value(out["vectors"].clone()).map_err(|e| e.to_string())?;
    Ok((vectors, out["rate"].as_f64().unwrap_or(0.0)))
}
