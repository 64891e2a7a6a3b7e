//! The mesh itself: what a hop costs, what a death costs, what starting costs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::interface::Empty;
use brahman_card::interface::init::{ListOut, WatchOut};
use brahman_card::{ModuleRecord, ModuleState};
use brahman_sidecar::client::encode_call;
use brahman_sidecar::{CallOptions, Client, Connection};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{head, nginx, percentiles, row};

/// Calls measured a way; enough for a steady 99th percentile.
const CALLS: usize = 20_000;

/// A private mesh of release binaries.
pub(crate) struct Mesh {
    pub(crate) folder: TempDir,
    init: Child,
    pub(crate) started: Instant,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.init.id().to_string()]).status();
        let _ = self.init.wait();
    }
}

impl Mesh {
    pub(crate) fn up(bin: &Path, cards: &[&str], context: &str, cache: &Path) -> Self {
        Self::up_with(bin, cards, context, cache, |_| {})
    }

    /// A mesh whose state is prepared first.
    pub(crate) fn up_with(
        bin: &Path,
        cards: &[&str],
        context: &str,
        cache: &Path,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        Self::up_edited(bin, cards, context, cache, prepare, |_, text| text)
    }

    /// The same with Cards that `edit` gives for the shipped ones.
    pub(crate) fn up_edited(
        bin: &Path,
        cards: &[&str],
        context: &str,
        cache: &Path,
        prepare: impl FnOnce(&Path),
        edit: impl Fn(&str, String) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(&folder.path().join("state"));
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging/cards");
        std::fs::create_dir(folder.path().join("cards")).unwrap();
        for card in cards {
            let name = format!("{card}.toml");
            let text = std::fs::read_to_string(source.join(&name)).unwrap();
            std::fs::write(folder.path().join("cards").join(&name), edit(card, text)).unwrap();
        }
        let started = Instant::now();
        // A bench that is killed must leave nothing behind: what is left works on beside the next
        // one, and spoils its figures.
        let init = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(bin.join("brahman-init"))
            .arg("--socket")
            .arg(folder.path().join("run/brahman.sock"))
            .arg("--state")
            .arg(folder.path().join("state"))
            .arg("--cards")
            .arg(folder.path().join("cards"))
            .args(["--context", context])
            .env("BRAHMAN_CACHE", cache)
            .env("BRAHMAN_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, init, started }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/brahman.sock")
    }

    pub(crate) async fn when(
        &self,
        label: &str,
        wanted: impl Fn(&ModuleRecord) -> bool,
    ) -> ModuleRecord {
        loop {
            if let Ok(mut connection) =
                Connection::connect(&self.socket().with_file_name("init.sock")).await
            {
                let watch = encode_call(
                    "org.brahman.Init.Watch",
                    &Empty {},
                    &CallOptions::default(),
                    true,
                    false,
                )
                .unwrap();
                connection.send(&watch).await.unwrap();
                while let Ok(reply) = connection.receive().await {
                    let word: WatchOut = reply.typed().unwrap().value;
                    if let Some(module) = word
                        .modules
                        .into_iter()
                        .find(|m| m.card.label.as_str() == label && wanted(m))
                    {
                        return module;
                    }
                }
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    pub(crate) async fn ready(&self, label: &str) -> ModuleRecord {
        self.when(label, |m| m.state == ModuleState::Ready).await
    }

    async fn list(&self) -> Vec<ModuleRecord> {
        let mut connection =
            Connection::connect(&self.socket().with_file_name("init.sock")).await.unwrap();
        let list: ListOut = connection.call("org.brahman.Init.List", &Empty {}).await.unwrap();
        list.modules
    }
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

/// A call of about 100 bytes: the smallest real one.
fn message() -> Vec<u8> {
    encode_call(
        "org.brahman.Embed.EmbedText",
        &json!({"texts": ["a text of some words"]}),
        &CallOptions::default(),
        false,
        false,
    )
    .unwrap()
}

/// Latencies in microseconds, several connections measured in turn so that drift of the machine
/// hits all alike.
async fn interleaved(connections: &mut [Connection]) -> Vec<Vec<f64>> {
    let message = message();
    let mut all = vec![Vec::with_capacity(CALLS); connections.len()];
    for i in 0..CALLS + 500 {
        for (connection, times) in connections.iter_mut().zip(&mut all) {
            let started = Instant::now();
            connection.exchange(&message).await.unwrap();
            if i >= 500 {
                times.push(started.elapsed().as_nanos() as f64 / 1e3);
            }
        }
    }
    all
}

pub(crate) async fn run(bin: &Path) {
    let cache = tempfile::tempdir().unwrap();
    let mesh = Mesh::up(bin, &["broker", "embed-mock"], "test", cache.path());
    let first_answer = loop {
        if let Ok(mut connection) = Connection::connect(&mesh.socket()).await
            && connection.exchange(&message()).await.is_ok()
        {
            break mesh.started.elapsed();
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    };
    head("mesh");
    let ms = first_answer.as_secs_f64() * 1e3;
    row("`up` to first mock answer", format!("{ms:.0} ms"), "≤ 200 ms", ms <= 200.0);

    let provider = mesh.ready("embed-mock").await;
    let direct = Connection::connect(Path::new(&provider.socket)).await.unwrap();
    let brokered = Connection::connect(&mesh.socket()).await.unwrap();
    let times = interleaved(&mut [direct, brokered]).await;
    let [(d50, d99), (b50, b99)] = [0, 1].map(|i| percentiles(times[i].clone()));
    row(
        "brokered call p50 / direct p50",
        format!("{b50:.1} / {d50:.1} µs = {:.2}×", b50 / d50),
        "≤ 2.0×",
        b50 / d50 <= 2.0,
    );
    row("the hop adds, p50", format!("{:.1} µs", b50 - d50), "≤ 25 µs", b50 - d50 <= 25.0);
    row("the hop adds, p99", format!("{:.1} µs", b99 - d99), "≤ 100 µs", b99 - d99 <= 100.0);

    let idle: Vec<Connection> = {
        let mut idle = Vec::new();
        for _ in 0..1000 {
            idle.push(Connection::connect(&mesh.socket()).await.unwrap());
        }
        idle
    };
    let crowded = interleaved(&mut [Connection::connect(&mesh.socket()).await.unwrap()]).await;
    drop(idle);
    let alone = interleaved(&mut [Connection::connect(&mesh.socket()).await.unwrap()]).await;
    let (c50, a50) = (percentiles(crowded[0].clone()).0, percentiles(alone[0].clone()).0);
    row(
        "brokered p50 beside 1,000 idle connections / beside none",
        format!("{c50:.1} / {a50:.1} µs = {:.2}×", c50 / a50),
        "≤ 1.2×",
        c50 / a50 <= 1.2,
    );

    client(&mesh, &provider).await;
    nginx::compare(&mesh).await;
    memory(&mesh).await;
    deaths(&mesh).await;
}

async fn client(mesh: &Mesh, provider: &ModuleRecord) {
    let client = Client::new(&mesh.socket());
    let parameters = json!({"texts": ["a text of some words"]});
    let mut direct = Connection::connect(Path::new(&provider.socket)).await.unwrap();
    let (mut through, mut straight) = (Vec::new(), Vec::new());
    for i in 0..CALLS + 500 {
        let started = Instant::now();
        let _: Value = client
            .call("org.brahman.Embed.EmbedText", &parameters, &CallOptions::default())
            .await
            .unwrap()
            .value;
        let one = started.elapsed();
        let started = Instant::now();
        let _: Value = direct.call("org.brahman.Embed.EmbedText", &parameters).await.unwrap();
        let two = started.elapsed();
        if i >= 500 {
            through.push(one.as_nanos() as f64 / 1e3);
            straight.push(two.as_nanos() as f64 / 1e3);
        }
    }
    let (t50, s50) = (percentiles(through).0, percentiles(straight).0);
    row(
        "`sidecar::Client` p50 / direct p50",
        format!("{t50:.1} / {s50:.1} µs = {:.2}×", t50 / s50),
        "≤ 1.1×",
        t50 / s50 <= 1.1,
    );
}

async fn memory(mesh: &Mesh) {
    let rss = |pid: u32| -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    let broker = mesh.list().await.into_iter().find(|m| m.card.label.as_str() == "broker").unwrap();
    let sum = rss(mesh.init.id()) + rss(broker.pid);
    row("memory of init + broker", format!("{sum:.1} MiB RSS"), "≤ 24 MiB", sum <= 24.0);
}

/// Ten kills under fifty clients: of the provider, then of the broker.
async fn deaths(mesh: &Mesh) {
    for (label, resolving) in [("embed-mock", false), ("broker", true)] {
        let (stop, failed, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let (stop, failed, answered, socket) =
                    (Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&answered), mesh.socket());
                tokio::spawn(async move {
                    let client = Client::new(&socket);
                    let mut connection = Connection::connect(&socket).await.unwrap();
                    let parameters = json!({"texts": ["x"]});
                    while !stop.load(Ordering::Relaxed) {
                        let good = if resolving {
                            client
                                .call::<_, Value>(
                                    "org.brahman.Embed.EmbedText",
                                    &parameters,
                                    &CallOptions::default(),
                                )
                                .await
                                .is_ok()
                        } else {
                            connection
                                .call::<_, Value>("org.brahman.Embed.EmbedText", &parameters)
                                .await
                                .is_ok()
                        };
                        if good { &answered } else { &failed }.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let others: Vec<u32> = mesh
            .list()
            .await
            .iter()
            .filter(|m| m.card.label.as_str() != label)
            .map(|m| m.pid)
            .collect();
        let mut back = Vec::new();
        for _ in 0..10 {
            // A healthy life first: what is measured is the restart after one.
            tokio::time::sleep(Duration::from_millis(700)).await;
            let pid = mesh.ready(label).await.pid;
            let started = Instant::now();
            kill(pid);
            mesh.when(label, |m| m.state == ModuleState::Ready && m.pid != pid).await;
            back.push(started.elapsed().as_secs_f64() * 1e3);
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        let failed = failed.load(Ordering::Relaxed);
        let name = format!("SIGKILL of {label} under 50 clients, ten times");
        row(
            &name,
            format!("{failed} of {} calls failed", answered.load(Ordering::Relaxed) + failed),
            "0",
            failed == 0,
        );
        let (p50, worst) = (percentiles(back.clone()).0, back.iter().copied().fold(0.0, f64::max));
        row(
            &format!("{label} ready again, p50 (worst)"),
            format!("{p50:.0} ms ({worst:.0})"),
            "≤ 50 ms",
            p50 <= 50.0,
        );
        let now: Vec<u32> = mesh
            .list()
            .await
            .iter()
            .filter(|m| m.card.label.as_str() != label)
            .map(|m| m.pid)
            .collect();
        row(
            "other modules restarted meanwhile",
            (now != others).to_string(),
            "false",
            now == others,
        );
    }
}
