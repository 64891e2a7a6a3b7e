//! What a view shows of what is known: rows of cells, and all that is known of each row.
//!
//! Invariants: whatever is not ours is on one line and moves no cursor; a row is told from others
//! by its id, which stays the same as long as what it shows does.

use std::cmp::Ordering;

use brahman_card::ModuleState;
use brahman_card::interface::broker::ModuleStatus;
use brahman_card::interface::catalog::Dataset;
use brahman_card::interface::index::Description;
use brahman_card::interface::profiles::{SlotUse, VramOut};
use brahman_card::interface::storage::BucketHealth;

use super::super::status::{micros, storage_lines, tone_of};
use super::facts::{Facts, View};
use crate::output::{Tone, bytes, duration, one_line};

/// What stands where nothing is known.
const UNKNOWN: &str = "-";

/// A column of a table.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Its cells stand at its right edge.
    pub(super) is_number: bool,
    /// Where there is no place for all columns, those of little weight are left out.
    pub(super) weight: u8,
    /// Its cells may be cut.
    pub(super) may_shrink: bool,
}

const fn text(name: &'static str, weight: u8) -> Column {
    Column { name, is_number: false, weight, may_shrink: false }
}

const fn long(name: &'static str, weight: u8) -> Column {
    Column { name, is_number: false, weight, may_shrink: true }
}

const fn number(name: &'static str, weight: u8) -> Column {
    Column { name, is_number: true, weight, may_shrink: false }
}

const MODULES: &[Column] = &[
    long("MODULE", 100),
    text("STATE", 90),
    number("IN STATE", 50),
    number("RESTARTS", 70),
    number("MEMORY", 80),
    number("QUEUE", 75),
    number("P50", 60),
    number("P99", 65),
    long("MODEL", 30),
    text("DEVICE", 20),
    long("REASON", 85),
];
const PROVIDERS: &[Column] = &[
    long("PROVIDER", 100),
    text("STATE", 60),
    number("CALLS", 90),
    number("A SECOND", 70),
    number("FAILED", 85),
    number("QUEUE", 50),
    number("P50", 75),
    number("P99", 80),
    text("BREAKER", 65),
    long("FLOWS", 95),
];
const MEMORY: &[Column] = &[
    long("MEMORY", 90),
    long("HELD BY", 100),
    number("HELD", 95),
    number("MEASURED", 60),
    number("OF", 70),
    long("STATE", 80),
];
const DATASETS: &[Column] = &[
    long("DATASET", 100),
    number("GENERATION", 90),
    number("ROWS", 80),
    number("SIZE", 70),
    number("AGE", 60),
    text("STATE", 95),
    long("STALE INDEXES", 85),
];
const INDEXES: &[Column] = &[
    long("INDEX", 100),
    long("DATASET", 60),
    number("GENERATION", 90),
    number("DOCUMENTS", 80),
    number("CHUNKS", 50),
    number("SIZE", 55),
    number("RECALL", 45),
    number("NOT COPIED", 40),
    long("MODEL", 30),
    long("STATE", 95),
];
const BUCKETS: &[Column] = &[
    long("BUCKET", 100),
    text("STATE", 95),
    number("LATENCY", 60),
    number("NOT COPIED", 90),
    number("BYTES", 70),
    number("OLDEST", 80),
    number("DAMAGED", 75),
    long("ERROR", 85),
];

/// A cell of a row.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) text: String,
    /// By which it is sorted; a text if it is absent.
    number: Option<f64>,
    pub(super) tone: Option<Tone>,
}

impl Cell {
    fn text(text: impl AsRef<str>) -> Self {
        Self { text: one_line(text.as_ref()), number: None, tone: None }
    }

    /// A figure as people read it; absent if it is not known.
    fn number(value: Option<f64>, shown: impl FnOnce(f64) -> String) -> Self {
        let text = value.map_or_else(|| UNKNOWN.to_owned(), shown);
        Self { text, number: value, tone: None }
    }

    fn count(value: u64) -> Self {
        Self { text: value.to_string(), number: Some(value as f64), tone: None }
    }

    fn bytes(value: Option<u64>) -> Self {
        let text = value.map_or_else(|| UNKNOWN.to_owned(), bytes);
        Self { text, number: value.map(|value| value as f64), tone: None }
    }

    fn mib(value: u64) -> Self {
        Self::bytes(Some(mib(value)))
    }

    fn micros(value: Option<u64>) -> Self {
        let text = value.map_or_else(|| UNKNOWN.to_owned(), micros);
        Self { text, number: value.map(|value| value as f64), tone: None }
    }

    fn empty() -> Self {
        Self::text("")
    }

    fn toned(self, tone: Tone) -> Self {
        Self { tone: Some(tone), ..self }
    }

    /// Has a colour if it is a figure above 0.
    fn toned_if_any(self, tone: Tone) -> Self {
        if self.number.is_some_and(|number| number > 0.0) { self.toned(tone) } else { self }
    }

    /// Figures before what is not known, texts by their letters.
    fn compare(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.text.cmp(&other.text),
        }
    }
}

fn mib(value: u64) -> u64 {
    value.saturating_mul(1 << 20)
}

/// A row of a table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: String,
    /// As many as there are columns.
    pub(super) cells: Vec<Cell>,
    /// The module whose log belongs to it.
    pub(super) module: Option<String>,
    /// All that is known of it: names and texts, each text on one line.
    pub(super) details: Vec<(&'static str, String)>,
}

/// By which column, from 0, rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: usize,
    pub(super) is_descending: bool,
}

/// What a view shows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Row>,
    /// What is said where there are no rows.
    pub(super) emptiness: &'static str,
}

impl Table {
    /// The rows of a view, in the order in which the mesh gives them.
    pub(super) fn of(view: View, facts: &Facts) -> Self {
        let (columns, rows, emptiness) = match view {
            View::Modules => (MODULES, modules(facts), "no module is known"),
            View::Providers => (PROVIDERS, providers(facts), "no provider is known"),
            View::Memory => (MEMORY, memory(facts), "nothing holds memory for a model"),
            View::Datasets => {
                (DATASETS, datasets(facts), "no dataset; `brahman ingest files` makes one")
            }
            View::Indexes => {
                (INDEXES, indexes(facts), "no index; `brahman index create` makes one")
            }
            View::Buckets => (BUCKETS, buckets(facts), "no bucket is known"),
        };
        Self { columns, rows, emptiness }
    }

    /// Orders the rows; what is not known is last either way.
    pub(super) fn sort(&mut self, order: Order) {
        self.rows.sort_by(|one, other| {
            let (one, other) = (&one.cells[order.column], &other.cells[order.column]);
            let ordering = one.compare(other);
            let is_known = one.number.is_some() == other.number.is_some();
            if order.is_descending && is_known { ordering.reverse() } else { ordering }
        });
    }
}

fn named(label: &str, is_mock: bool) -> String {
    if is_mock { format!("{label} (mock)") } else { label.to_owned() }
}

fn modules(facts: &Facts) -> Vec<Row> {
    let row = |module: &ModuleStatus| {
        let attribute =
            |name: &str| Cell::text(module.attributes.get(name).map_or("", |value| value.as_str()));
        let reason = module.reason.as_deref().filter(|_| module.state != ModuleState::Ready);
        Row {
            id: module.label.clone(),
            cells: vec![
                Cell::text(named(&module.label, module.mock)),
                Cell::text(module.state.as_str()).toned(tone_of(module.state)),
                Cell::number(Some(module.uptime_s), duration),
                Cell::count(module.restarts).toned_if_any(Tone::Busy),
                Cell::bytes(facts.resident(module)),
                Cell::count(module.queue),
                Cell::micros(module.p50_us),
                Cell::micros(module.p99_us),
                attribute("model"),
                attribute("device"),
                Cell::text(reason.unwrap_or_default()),
            ],
            module: Some(module.label.clone()),
            details: module_details(facts, module),
        }
    };
    facts.modules().iter().map(row).collect()
}

fn providers(facts: &Facts) -> Vec<Row> {
    let row = |module: &ModuleStatus| {
        let flows: Vec<&str> = module.flows.iter().map(|flow| short(flow)).collect();
        Row {
            id: module.label.clone(),
            cells: vec![
                Cell::text(named(&module.label, module.mock)),
                Cell::text(module.state.as_str()).toned(tone_of(module.state)),
                Cell::count(module.calls),
                Cell::number(facts.rates.get(&module.label).copied(), |rate| format!("{rate:.1}")),
                Cell::count(module.failures).toned_if_any(Tone::Bad),
                Cell::count(module.queue),
                Cell::micros(module.p50_us),
                Cell::micros(module.p99_us),
                Cell::text(module.breaker.as_deref().unwrap_or_default()).toned(Tone::Bad),
                Cell::text(flows.join(" ")),
            ],
            module: Some(module.label.clone()),
            details: module_details(facts, module),
        }
    };
    facts.modules().iter().filter(|module| !module.flows.is_empty()).map(row).collect()
}

/// The last part of an interface's name.
fn short(interface: &str) -> &str {
    interface.rsplit_once('.').map_or(interface, |(_, name)| name)
}

/// Names and texts of which those that are empty are left out.
fn told(details: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    details
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (name, one_line(&text)))
        .collect()
}

fn module_details(facts: &Facts, module: &ModuleStatus) -> Vec<(&'static str, String)> {
    let process = if module.pid == 0 { "none".to_owned() } else { format!("pid {}", module.pid) };
    let memory = facts.resident(module).map_or_else(String::new, bytes);
    let latency = |us: Option<u64>| us.map_or_else(|| UNKNOWN.to_owned(), micros);
    let calls = format!(
        "{}, {} failed; p50 {}, p99 {}",
        module.calls,
        module.failures,
        latency(module.p50_us),
        latency(module.p99_us)
    );
    let mut details = vec![
        ("state", format!("{} for {}", module.state.as_str(), duration(module.uptime_s))),
        ("reason", module.reason.clone().unwrap_or_default()),
        ("process", process),
        ("memory", memory),
        ("restarts", module.restarts.to_string()),
        ("calls", calls),
        ("breaker", module.breaker.clone().unwrap_or_default()),
        ("flows", module.flows.join(" ")),
        ("card", module.origin.clone().unwrap_or_default()),
    ];
    let attributes =
        module.attributes.iter().map(|(name, value)| ("attribute", format!("{name} = {value}")));
    details.extend(attributes);
    details.extend(storage_lines(&module.attributes).into_iter().map(|line| ("storage", line)));
    let shortfalls = module.shortfalls.iter().flatten();
    details.extend(shortfalls.map(|shortfall| ("shortfall", shortfall.clone())));
    told(details)
}

fn memory(facts: &Facts) -> Vec<Row> {
    facts.memory.value.as_ref().map_or_else(Vec::new, memory_rows)
}

fn memory_rows(out: &VramOut) -> Vec<Row> {
    let gpus = out.gpus.iter().map(|gpu| Row {
        id: format!("gpu {}", gpu.uuid),
        cells: vec![
            Cell::text(&gpu.uuid),
            Cell::text(format!("GPU {} {}", gpu.index, gpu.name)).toned(Tone::Strong),
            Cell::mib(gpu.used_mib),
            Cell::empty(),
            Cell::mib(gpu.total_mib),
            Cell::text(format!("{} % busy", gpu.utilisation)),
        ],
        module: None,
        details: told(vec![
            ("name", gpu.name.clone()),
            ("uuid", gpu.uuid.clone()),
            ("used", bytes(mib(gpu.used_mib))),
            ("free", bytes(mib(gpu.free_mib))),
            ("of", bytes(mib(gpu.total_mib))),
        ]),
    });
    let external = out.external.iter().flat_map(|server| {
        server.models.iter().map(move |model| Row {
            id: format!("external {}", model.name),
            cells: vec![
                Cell::text(format!("Ollama {}", server.url)),
                Cell::text(&model.name),
                Cell::mib(model.mib),
                Cell::empty(),
                Cell::empty(),
                Cell::text(format!("{} on a GPU", bytes(mib(model.vram_mib)))),
            ],
            module: None,
            details: told(vec![("until", model.expires.clone().unwrap_or_default())]),
        })
    });
    gpus.chain(out.slots.iter().flat_map(slot_rows)).chain(external).collect()
}

/// A memory that is shared out, and below it who holds of it.
fn slot_rows(slot: &SlotUse) -> Vec<Row> {
    let reserved: u64 = slot.reservations.iter().map(|held| held.mib).sum();
    let unowned = slot.unowned_mib.map_or_else(String::new, |unowned| bytes(mib(unowned)));
    let mut details = vec![
        ("capacity", bytes(mib(slot.capacity_mib))),
        ("to be had", bytes(mib(slot.available_mib))),
        ("unowned", unowned),
    ];
    details.extend(slot.notes.iter().flatten().map(|note| ("warning", note.clone())));
    let mut rows = vec![Row {
        id: format!("slot {}", slot.slot),
        cells: vec![
            Cell::text(&slot.slot),
            Cell::text("all reservations").toned(Tone::Strong),
            Cell::mib(reserved),
            Cell::empty(),
            Cell::mib(slot.capacity_mib),
            Cell::text(format!("{} to be had", bytes(mib(slot.available_mib)))),
        ],
        module: None,
        details: told(details),
    }];
    rows.extend(slot.reservations.iter().map(|held| {
        let idle = held.idle_s.map_or_else(
            || "at work".to_owned(),
            |idle_s| format!("idle for {}", duration(idle_s as f64)),
        );
        let pinned = if held.pinned { ", pinned" } else { "" };
        Row {
            id: format!("held {} {}", slot.slot, held.module),
            cells: vec![
                Cell::text(&slot.slot),
                Cell::text(&held.module),
                Cell::mib(held.mib),
                Cell::bytes(held.measured_mib.map(mib)),
                Cell::empty(),
                Cell::text(format!("{}{pinned}, {idle}", held.state)),
            ],
            module: Some(held.module.clone()),
            details: told(vec![("state", held.state.clone())]),
        }
    }));
    rows.extend(slot.quarantined.iter().flatten().map(|lost| Row {
        id: format!("lost {} {}", slot.slot, lost.module),
        cells: vec![
            Cell::text(&slot.slot),
            Cell::text(&lost.module),
            Cell::mib(lost.mib),
            Cell::empty(),
            Cell::empty(),
            Cell::text("did not come back").toned(Tone::Bad),
        ],
        module: Some(lost.module.clone()),
        details: told(vec![("reason", lost.reason.clone())]),
    }));
    rows
}

fn datasets(facts: &Facts) -> Vec<Row> {
    let Some(out) = &facts.datasets.value else { return Vec::new() };
    let row = |dataset: &Dataset| {
        let is_mock = dataset.mock == Some(true);
        let age_s = facts.now_ms.saturating_sub(dataset.committed_ms) as f64 / 1000.0;
        let state = match &dataset.state {
            Some(state) => Cell::text(state).toned(Tone::Bad),
            None => Cell::text("whole").toned(Tone::Good),
        };
        Row {
            id: format!("{} {}", dataset.name, dataset.maker.as_deref().unwrap_or_default()),
            cells: vec![
                Cell::text(named(&dataset.name, is_mock)),
                Cell::count(dataset.generation),
                Cell::count(dataset.rows),
                Cell::bytes(Some(dataset.bytes)),
                Cell::number(Some(age_s), duration),
                state,
                Cell::text(dataset.stale.join(" ")).toned(Tone::Busy),
            ],
            module: None,
            details: told(vec![
                ("state", dataset.state.clone().unwrap_or_default()),
                ("reason", dataset.reason.clone().unwrap_or_default()),
                ("stale", dataset.stale.join(" ")),
                ("objects", dataset.objects.len().to_string()),
                ("columns", dataset.columns.len().to_string()),
                ("producer", dataset.lineage.producer.clone()),
                ("run", dataset.lineage.run_id.clone()),
                ("inputs", dataset.lineage.inputs.join(" ")),
                ("maker", dataset.maker.clone().unwrap_or_default()),
            ]),
        }
    };
    out.datasets.iter().chain(out.apart.iter().flatten()).map(row).collect()
}

fn indexes(facts: &Facts) -> Vec<Row> {
    let Some(out) = &facts.indexes.value else { return Vec::new() };
    out.indexes.iter().map(index_row).collect()
}

fn index_row(index: &Description) -> Row {
    let (mut state, tone) = match &index.degraded {
        Some(_) => ("damaged".to_owned(), Tone::Bad),
        None if index.dataset_gone == Some(true) => ("dataset deleted".to_owned(), Tone::Bad),
        None if index.stale => ("stale".to_owned(), Tone::Busy),
        None => ("up to date".to_owned(), Tone::Good),
    };
    if let Some(busy) = &index.busy {
        state.push_str(", ");
        state.push_str(busy);
    }
    if index.pinned == Some(true) {
        state.push_str(", pinned");
    }
    let failing = index.replicas.as_ref().and_then(|lag| lag.failing.clone());
    let not_copied = index.replicas.as_ref().map(|lag| lag.files as f64);
    let model = index.model.clone().unwrap_or_default();
    Row {
        id: index.name.clone(),
        cells: vec![
            Cell::text(named(&index.name, index.mock == Some(true))),
            Cell::text(&index.dataset),
            Cell::count(index.generation),
            Cell::count(index.docs),
            Cell::count(index.chunks),
            Cell::bytes(Some(index.bytes)),
            Cell::number(index.recall, |recall| format!("{recall:.3}")),
            Cell::number(not_copied, |files| format!("{files:.0}")).toned_if_any(Tone::Busy),
            Cell::text(&model),
            Cell::text(&state).toned(tone),
        ],
        module: None,
        details: told(vec![
            ("state", state),
            ("damage", index.degraded.clone().unwrap_or_default()),
            ("dataset", format!("{} at generation {}", index.dataset, index.dataset_generation)),
            ("model", model),
            ("engine", index.engine.clone()),
            ("bucket", index.bucket.clone()),
            ("appended", index.appended.to_string()),
            ("dead", index.dead.to_string()),
            ("replicas", failing.unwrap_or_default()),
            ("old files", index.sweep.clone().unwrap_or_default()),
        ]),
    }
}

fn buckets(facts: &Facts) -> Vec<Row> {
    let Some(out) = &facts.buckets.value else { return Vec::new() };
    let row = |bucket: &BucketHealth| {
        let state = if bucket.reachable {
            Cell::text("reachable").toned(Tone::Good)
        } else {
            Cell::text("away").toned(Tone::Bad)
        };
        let count = |figure: Option<u64>| {
            Cell::number(figure.map(|figure| figure as f64), |figure| format!("{figure:.0}"))
        };
        let since =
            |seconds: Option<u64>| Cell::number(seconds.map(|seconds| seconds as f64), duration);
        let scrub = bucket.last_scrub_ms.map_or_else(String::new, |at_ms| {
            format!("{} ago", duration(facts.now_ms.saturating_sub(at_ms) as f64 / 1000.0))
        });
        Row {
            id: bucket.name.clone(),
            cells: vec![
                Cell::text(&bucket.name),
                state,
                Cell::micros(Some(bucket.latency_us)),
                count(bucket.backlog_objects).toned_if_any(Tone::Busy),
                Cell::bytes(bucket.backlog_bytes),
                since(bucket.oldest_unsaved_s),
                count(bucket.damaged).toned_if_any(Tone::Bad),
                Cell::text(bucket.error.as_deref().unwrap_or_default()),
            ],
            module: None,
            details: told(vec![
                ("error", bucket.error.clone().unwrap_or_default()),
                ("hint", bucket.hint.clone().unwrap_or_default()),
                ("verified", scrub),
            ]),
        }
    };
    out.health.iter().map(row).collect()
}
