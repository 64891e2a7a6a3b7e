//! What is known of the mesh: what each of its modules said last, or why it said nothing.
//!
//! Invariants: everything is bounded by what one reply may hold, and the log by [`LOG_LINES`]; what
//! was said before is kept when an answer fails, together with the reason.

use std::collections::{BTreeMap, VecDeque};

use brahman_card::interface::broker::{ModuleStatus, StatusOut};
use brahman_card::interface::{catalog, index, profiles, storage};
use brahman_sidecar::{ClientError, chain};

/// Lines of a module's log that are kept to scroll in: some screens full.
pub(super) const LOG_LINES: usize = 500;

/// What is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    #[default]
    Modules,
    Providers,
    Memory,
    Datasets,
    Indexes,
    Buckets,
}

impl View {
    /// In the order of their tabs.
    pub(super) const ALL: [Self; 6] = [
        Self::Modules,
        Self::Providers,
        Self::Memory,
        Self::Datasets,
        Self::Indexes,
        Self::Buckets,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Modules => "Modules",
            Self::Providers => "Providers",
            Self::Memory => "Memory",
            Self::Datasets => "Datasets",
            Self::Indexes => "Indexes",
            Self::Buckets => "Buckets",
        }
    }

    /// Its place among the tabs, from 0.
    pub(super) fn place(self) -> usize {
        Self::ALL.iter().position(|view| *view == self).unwrap_or_default()
    }

    /// The one so many tabs further, beyond the last one the first again.
    pub(super) fn after(self, tabs: usize) -> Self {
        Self::ALL[(self.place() + tabs) % Self::ALL.len()]
    }
}

/// Why a question was not answered, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble(pub(super) String);

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self(chain(&error))
    }
}

/// The state of the modules, and the main memory that their processes hold.
#[derive(Debug, Default)]
pub(super) struct StatusReport {
    pub(super) status: StatusOut,
    /// In bytes, by process; a process that is not of this machine is left out.
    pub(super) resident: BTreeMap<u32, u64>,
}

/// What has come from the mesh.
#[derive(Debug)]
pub(super) enum News {
    Status {
        /// Unix time in milliseconds.
        at_ms: u64,
        answer: Result<StatusReport, Trouble>,
    },
    Memory(Result<profiles::VramOut, Trouble>),
    Datasets(Result<catalog::ListOut, Trouble>),
    Indexes(Result<index::ListOut, Trouble>),
    Buckets(Result<storage::HealthOut, Trouble>),
    Log {
        label: String,
        /// The oldest first.
        lines: Vec<String>,
        /// They are the first of a stream: what was there before may be among them.
        is_first: bool,
    },
    /// A module's log cannot be read just now.
    LogEnd {
        label: String,
        trouble: Trouble,
    },
}

/// What a module said last, and why it said nothing since.
#[derive(Debug, Default)]
pub(super) struct Report<T> {
    pub(super) value: Option<T>,
    pub(super) trouble: Option<Trouble>,
}

impl<T> Report<T> {
    fn take(&mut self, answer: Result<T, Trouble>) {
        match answer {
            Ok(value) => {
                self.value = Some(value);
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }
}

/// The last lines of the module that is followed.
#[derive(Debug, Default)]
pub(super) struct LogTail {
    pub(super) label: String,
    pub(super) lines: VecDeque<String>,
    pub(super) trouble: Option<Trouble>,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Unix time of the last answer, or of the last failure to get one, in milliseconds.
    pub(super) now_ms: u64,
    /// Of the modules; absent before the first answer.
    pub(super) status: Option<StatusReport>,
    /// Why the mesh does not answer now.
    pub(super) absence: Option<Trouble>,
    /// Calls a second between the last two answers, by label.
    pub(super) rates: BTreeMap<String, f64>,
    pub(super) memory: Report<profiles::VramOut>,
    pub(super) datasets: Report<catalog::ListOut>,
    pub(super) indexes: Report<index::ListOut>,
    pub(super) buckets: Report<storage::HealthOut>,
    pub(super) log: LogTail,
}

impl Facts {
    pub(super) fn modules(&self) -> &[ModuleStatus] {
        self.status.as_ref().map_or(&[][..], |report| report.status.modules.as_slice())
    }

    /// Main memory that a module's process holds, in bytes.
    pub(super) fn resident(&self, module: &ModuleStatus) -> Option<u64> {
        self.status.as_ref()?.resident.get(&module.pid).copied()
    }

    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Status { at_ms, answer: Ok(report) } => {
                self.rates = self.rates_until(at_ms, &report.status);
                self.now_ms = at_ms;
                self.status = Some(report);
                self.absence = None;
            }
            News::Status { at_ms, answer: Err(trouble) } => {
                self.now_ms = at_ms;
                self.rates.clear();
                self.absence = Some(trouble);
            }
            News::Memory(answer) => self.memory.take(answer),
            News::Datasets(answer) => self.datasets.take(answer),
            News::Indexes(answer) => self.indexes.take(answer),
            News::Buckets(answer) => self.buckets.take(answer),
            // Of a module that was followed before.
            News::Log { label, .. } | News::LogEnd { label, .. } if label != self.log.label => {}
            News::Log { lines, is_first, .. } => {
                if is_first {
                    self.log.lines.clear();
                }
                self.log.trouble = None;
                self.log.lines.extend(lines);
                let surplus = self.log.lines.len().saturating_sub(LOG_LINES);
                self.log.lines.drain(..surplus);
            }
            News::LogEnd { trouble, .. } => self.log.trouble = Some(trouble),
        }
    }

    /// Calls a second since the last answer, of the modules whose count did not begin anew.
    fn rates_until(&self, at_ms: u64, status: &StatusOut) -> BTreeMap<String, f64> {
        let passed_ms = at_ms.saturating_sub(self.now_ms);
        if passed_ms == 0 || self.absence.is_some() {
            return BTreeMap::new();
        }
        let rate = |module: &ModuleStatus| {
            let before = self.modules().iter().find(|before| before.label == module.label)?;
            let calls = module.calls.checked_sub(before.calls)?;
            Some((module.label.clone(), calls as f64 * 1000.0 / passed_ms as f64))
        };
        status.modules.iter().filter_map(rate).collect()
    }
}
