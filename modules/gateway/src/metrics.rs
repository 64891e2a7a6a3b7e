//! Figures for Prometheus: what the gateway counts itself, and what the mesh says of its modules
//! when it is asked.
//!
//! Invariants: labels come from closed sets (routes, statuses, error names, modules), never from
//! what a client sends; a module that does not answer is left out, and does not hold the others up.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use brahman_card::Fault;
use brahman_card::interface::broker::{self, ModuleStatus};
use brahman_card::interface::{self, INTERNAL, embed};
use hyper::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::refusal::Refusal;

/// How long a module may take to say how its cache is doing.
const INFO_PATIENCE: Duration = Duration::from_millis(500);
/// Bounds of the buckets of a request's time, in seconds: from a cached vector to a whole document.
const SECONDS: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// The text format of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The text format of Prometheus.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Amount = Gauge<f64, AtomicU64>;

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// What the gateway counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    truncations: Family<Labels, Counter>,
    duration: Family<Labels, Histogram>,
    /// Open connections.
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("brahman_http");
        let [requests, errors, truncations]: [Family<Labels, Counter>; 3] = Default::default();
        let duration: Family<Labels, Histogram> =
            Family::new_with_constructor(seconds as fn() -> Histogram);
        let connections: Gauge = Gauge::default();
        registry.register("requests", "Requests by path and status", Family::clone(&requests));
        registry.register(
            "errors",
            "Requests that were refused, by the error's name",
            Family::clone(&errors),
        );
        registry.register("truncations", "Texts that were cut", Family::clone(&truncations));
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its answer's",
            Family::clone(&duration),
        );
        registry.register("connections", "Open connections", Gauge::clone(&connections));
        Self { registry, requests, errors, truncations, duration, connections }
    }

    /// Counts a request that was answered.
    pub(crate) fn note(&self, route: &'static str, answer: &Answer, took: Duration) {
        let path = || ("path", route.to_owned());
        self.requests
            .get_or_create(&vec![path(), ("status", answer.status().as_u16().to_string())])
            .inc();
        self.duration.get_or_create(&vec![path()]).observe(took.as_secs_f64());
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(name) = header("brahman-error") {
            self.errors.get_or_create(&vec![path(), ("error", known_error(name).to_owned())]).inc();
        }
        if let Some(count) = header(answer::TRUNCATED).and_then(|count| count.parse().ok()) {
            self.truncations.get_or_create(&vec![path()]).inc_by(count);
        }
    }

    fn text(&self) -> Result<String, Refusal> {
        text_of(&self.registry)
    }
}

/// An error's name if it is one of an interface that is shipped: somebody else's module may make up
/// as many as it likes.
fn known_error(name: &str) -> &str {
    let is_known = name == INTERNAL
        || name
            .rsplit_once('.')
            .is_some_and(|(interface, _)| interface::known(interface).is_some());
    if is_known { name } else { "other" }
}

fn text_of(registry: &Registry) -> Result<String, Refusal> {
    let mut text = String::new();
    encode(&mut text, registry).map_err(|_| Fault::internal("the figures cannot be written"))?;
    Ok(text)
}

/// `GET /metrics`.
pub(crate) async fn scrape(
    metrics: &Metrics,
    mesh: &Mesh,
    caller: &Caller,
    is_open: bool,
) -> Result<Answer, Refusal> {
    let status = mesh
        .ask::<broker::method::Status>(caller, &Default::default(), Default::default())
        .await?
        .value;
    let mut registry = Registry::with_prefix("brahman");
    modules(&mut registry, &status.modules);
    caches(&mut registry, mesh, caller).await;
    let own = metrics.text()?;
    // One end for both.
    let text = format!("{}{}", own.trim_end_matches("# EOF\n"), text_of(&registry)?);
    Ok(if is_open {
        answer::bytes(StatusCode::OK, OPEN_METRICS, text)
    } else {
        answer::bytes(StatusCode::OK, PLAIN, plain(&text))
    })
}

/// What the broker and the kernel say of each module.
fn modules(registry: &mut Registry, modules: &[ModuleStatus]) {
    let [up, restarts, queue, calls, failures, memory, latency]: [Family<Labels, Amount>; 7] =
        Default::default();
    registry.register("module_up", "Whether the module is ready", Family::clone(&up));
    registry.register(
        "module_restarts",
        "Starts since init itself started",
        Family::clone(&restarts),
    );
    registry.register(
        "module_queue",
        "Brokered calls that the module has not answered yet",
        Family::clone(&queue),
    );
    registry.register(
        "module_calls",
        "Brokered calls of the broker's present life",
        Family::clone(&calls),
    );
    registry.register(
        "module_failures",
        "Brokered calls that the module failed",
        Family::clone(&failures),
    );
    registry.register(
        "module_resident_memory_bytes",
        "Memory of the module's process",
        Family::clone(&memory),
    );
    registry.register(
        "module_latency_seconds",
        "Latency of recent brokered calls",
        Family::clone(&latency),
    );
    for module in modules {
        let labels = || vec![("module", module.label.clone()), ("mock", module.mock.to_string())];
        let is_ready = module.state == brahman_card::ModuleState::Ready;
        up.get_or_create(&[labels(), vec![("state", module.state.as_str().to_owned())]].concat())
            .set(f64::from(u8::from(is_ready)));
        for (family, value) in [
            (&restarts, module.restarts),
            (&queue, module.queue),
            (&calls, module.calls),
            (&failures, module.failures),
        ] {
            family.get_or_create(&labels()).set(value as f64);
        }
        if let Some(bytes) = resident_bytes(module.pid) {
            memory.get_or_create(&labels()).set(bytes as f64);
        }
        // Not `quantile`: Prometheus keeps that label for summaries.
        for (percentile, value) in [("50", module.p50_us), ("99", module.p99_us)] {
            if let Some(us) = value {
                latency
                    .get_or_create(
                        &[labels(), vec![("percentile", percentile.to_owned())]].concat(),
                    )
                    .set(us as f64 / 1e6);
            }
        }
    }
}

/// How the caches of the models that answer are doing.
async fn caches(registry: &mut Registry, mesh: &Mesh, caller: &Caller) {
    let [hits, misses, entries, bytes, queue]: [Family<Labels, Amount>; 5] = Default::default();
    registry.register(
        "embed_cache_hits",
        "Vectors that were not computed, since the module started",
        Family::clone(&hits),
    );
    registry.register(
        "embed_cache_misses",
        "Vectors that were computed, since the module started",
        Family::clone(&misses),
    );
    registry.register("embed_cache_entries", "Vectors in the cache", Family::clone(&entries));
    registry.register(
        "embed_cache_bytes",
        "Bytes of the vectors in the cache",
        Family::clone(&bytes),
    );
    registry.register("embed_queue", "Texts that wait for inference", Family::clone(&queue));
    // Whoever may not embed sees nothing of it.
    let Ok(models) = mesh.models(caller, embed::INTERFACE.name).await else { return };
    for model in models.iter() {
        let ask = Default::default();
        let asked = mesh.ask::<embed::method::Info>(caller, &ask, model.requirements());
        let Ok(Ok(info)) = tokio::time::timeout(INFO_PATIENCE, asked).await else { continue };
        let labels = vec![("module", model.label.clone()), ("model", model.name.clone())];
        queue.get_or_create(&labels).set(info.value.queue as f64);
        let Some(cache) = info.value.cache else { continue };
        for (family, value) in [
            (&hits, cache.hits),
            (&misses, cache.misses),
            (&entries, cache.entries),
            (&bytes, cache.bytes),
        ] {
            family.get_or_create(&labels).set(value as f64);
        }
    }
}

/// What the kernel says of a process's memory.
fn resident_bytes(pid: u32) -> Option<u64> {
    if pid == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// OpenMetrics as Prometheus's older text format has it: there a counter is declared by the name
/// that its samples have.
fn plain(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let declared = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|mark| Some((mark, line.strip_prefix(mark)?.split_once(' ')?)));
        match declared {
            Some((mark, (name, rest))) if counters.contains(&name) => {
                out.push_str(&format!("{mark}{name}_total {rest}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_a_stranger_made_up_is_one_of_others() {
        let known = embed::INTERFACE.name.to_owned() + ".TextTooLong";
        assert_eq!(
            (known_error(&known), known_error("org.example.Made.Up"), known_error("x")),
            (known.as_str(), "other", "other")
        );
        assert_eq!(known_error(INTERNAL), INTERNAL);
    }

    #[test]
    fn the_older_format_declares_a_counter_by_its_samples_name() {
        let metrics = Metrics::new();
        metrics.note(
            "/v1/embeddings",
            &answer::bytes(StatusCode::OK, "text/plain", "x"),
            Duration::from_millis(3),
        );
        let open = metrics.text().expect("written");
        assert!(
            open.contains("# TYPE brahman_http_requests counter\n") && open.ends_with("# EOF\n"),
            "{open}"
        );
        let plain = plain(&open);
        assert!(
            plain.contains("# TYPE brahman_http_requests_total counter\n")
                && !plain.contains("EOF"),
            "{plain}"
        );
        assert!(
            plain.contains(
                "brahman_http_requests_total{path=\"/v1/embeddings\",status=\"200\"} 1\n"
            ),
            "{plain}"
        );
    }

    #[test]
    fn a_latency_is_told_by_its_percentile() {
        let mut registry = Registry::with_prefix("brahman");
        let module = ModuleStatus {
            label: "embed-mock".into(),
            p50_us: Some(1500),
            ..ModuleStatus::default()
        };
        modules(&mut registry, &[module]);
        let text = text_of(&registry).expect("written");
        assert!(text.contains("brahman_module_latency_seconds{module=\"embed-mock\",mock=\"false\",percentile=\"50\"} 0.0015\n"), "{text}");
        assert!(!text.contains("quantile"), "{text}");
    }
}
