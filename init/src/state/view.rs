//! What can be asked of the table without changing it.

use std::collections::BTreeMap;

use brahman_card::{Card, ModuleRecord};

use super::{Command, Entry, Id, Millis, Shutdown, State};

impl State {
    /// Id of the module whose process this is.
    #[must_use]
    pub(crate) fn by_pid(&self, pid: u32) -> Option<&Id> {
        self.modules.iter().find(|(_, entry)| entry.pid() == Some(pid)).map(|(id, _)| id)
    }

    /// Whether a module of this label, or a replica of one, exists.
    #[must_use]
    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.modules.values().any(|entry| entry.card.label.answers_to(label))
    }

    /// Whether this session is open.
    #[must_use]
    pub(crate) fn has_session(&self, session: &str) -> bool {
        self.modules.values().any(|entry| entry.session.as_deref() == Some(session))
    }

    /// Cards that came from files, or that modules brought.
    pub(crate) fn cards(&self, brought: bool) -> impl Iterator<Item = &Card> {
        self.modules.values().filter(move |entry| entry.brought == brought).map(|entry| &entry.card)
    }

    /// Every process that runs, with its module's label.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&str, u32)> {
        self.modules.values().filter_map(|entry| Some((entry.card.label.as_str(), entry.pid()?)))
    }

    /// Modules that have no process and get none unless somebody asks for it: their labels, and
    /// why, for who calls them. While all ends there is none: calls that wait at a socket of
    /// systemd's are for the next init.
    #[must_use]
    pub(crate) fn absent(&self) -> BTreeMap<Id, (String, String)> {
        let all = self.modules.iter().filter(|_| self.shutdown == Shutdown::No);
        let absent = all.filter_map(|(id, entry)| {
            Some((id.clone(), (entry.card.label.to_string(), entry.absence()?)))
        });
        absent.collect()
    }

    /// Why a command on a label would do nothing; none if it does something, or if there is no such
    /// label.
    #[must_use]
    pub(crate) fn refusal(&self, label: &str, command: Command) -> Option<String> {
        let mut named =
            self.modules.values().filter(|entry| entry.card.label.answers_to(label)).peekable();
        let first = *named.peek()?;
        if named.any(|entry| {
            entry.is_started_here() || (command == Command::Stop && entry.session.is_some())
        }) {
            return None;
        }
        let attached = first.session.is_some();
        Some(match command {
            Command::Stop => format!(
                "`{label}` is not attached, and init does not run it: there is nothing to stop"
            ),
            Command::Start | Command::Restart if attached => {
                format!(
                    "`{label}` attached by itself: init cannot start it again; `brahman stop {label}` asks it to end"
                )
            }
            Command::Start | Command::Restart => {
                format!("init does not start `{label}`: its Card says that it attaches by itself")
            }
        })
    }

    /// The table as others see it, by label.
    #[must_use]
    pub(crate) fn records(&self, now: Millis) -> Vec<ModuleRecord> {
        let mut records: Vec<ModuleRecord> =
            self.modules.values().map(|entry| entry.record(now)).collect();
        records.sort_by(|a, b| (&a.card.label, &a.card.id).cmp(&(&b.card.label, &b.card.id)));
        records
    }

    /// When [`super::Event::Tick`] is due next.
    #[must_use]
    pub(crate) fn next_timer(&self) -> Option<Millis> {
        let all = match self.shutdown {
            Shutdown::Until(at) if self.modules.values().any(Entry::runs) => Some(at),
            _ => None,
        };
        self.modules.values().filter_map(|entry| entry.phase.timer()).chain(all).min()
    }
}
