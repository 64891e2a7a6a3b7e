//! What asks the mesh, again and again: its modules always, of the rest what is looked at.
//!
//! Invariants: at most one question of a kind is on its way; none is asked for what nobody looks
//! at; what goes wrong is news like any other, and is asked again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_card::clock::now_ms;
use brahman_card::interface::catalog::RealmIn;
use brahman_card::interface::init::{LogsIn, LogsOut};
use brahman_card::interface::{Empty, Method, catalog, index, init, profiles, storage};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{CallOptions, Client, ClientError, Connection, place};
use tokio::sync::{mpsc, watch};

use super::super::status::read_status;
use super::facts::{News, StatusReport, Trouble, View};
use crate::commands::client;
use crate::output::shortened;

/// News that may wait to be shown: one of each kind, and some lines of a log.
pub(super) const NEWS_WAITING: usize = 16;
/// How long the mesh may take to say how it is: broker and supervisor do so in milliseconds.
const STATUS_WAIT: Duration = Duration::from_secs(4);
/// How long a module may take for what is looked at: buckets that are away take seconds.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// The shortest pause between two questions for lists and for the health of buckets, which cost
/// more than the modules' state.
const LIST_PAUSE_MIN: Duration = Duration::from_secs(2);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Lines of a log that are asked for at first.
const LOG_LINES_FIRST: u64 = 200;
/// Columns of a log's line that are kept: more is no line that a person reads.
const LOG_COLUMNS_MAX: usize = 2000;

/// Who asks.
#[derive(Debug)]
pub(super) struct NewsFeed {
    socket: PathBuf,
    client: Client,
    every: Duration,
    news: mpsc::Sender<News>,
}

impl NewsFeed {
    /// `every` is the pause between two questions for the modules' state.
    pub(super) fn new(socket: &Path, every: Duration, news: mpsc::Sender<News>) -> Self {
        Self { socket: socket.to_owned(), client: client(socket), every, news }
    }

    /// Asks until nobody takes the news any more, or nobody says any more what is looked at.
    pub(super) async fn run(
        &self,
        view: watch::Receiver<View>,
        label: watch::Receiver<Option<String>>,
    ) {
        tokio::join!(self.watch_status(), self.watch_view(view), self.watch_log(label));
    }

    async fn watch_status(&self) {
        loop {
            let asked = tokio::time::timeout(STATUS_WAIT, read_status(&self.socket)).await;
            let answer = asked.unwrap_or(Err(ClientError::Deadline(STATUS_WAIT)));
            let pause = if answer.is_ok() { self.every } else { self.every.min(AGAIN) };
            let answer = answer.map_err(Trouble::from).map(|status| {
                let pids = status.modules.iter().map(|module| module.pid);
                let resident = pids.filter_map(|pid| Some((pid, resident_bytes(pid)?)));
                StatusReport { resident: resident.collect::<BTreeMap<u32, u64>>(), status }
            });
            if self.news.send(News::Status { at_ms: now_ms(), answer }).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn watch_view(&self, mut looked_at: watch::Receiver<View>) {
        loop {
            let view = *looked_at.borrow_and_update();
            tokio::select! {
                news = self.ask(view) => {
                    if let Some(news) = news
                        && self.news.send(news).await.is_err()
                    {
                        return;
                    }
                }
                changed = looked_at.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            tokio::select! {
                () = tokio::time::sleep(self.every.max(LIST_PAUSE_MIN)) => {}
                changed = looked_at.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// What a view shows beside the modules' state; none of one that shows nothing else.
    async fn ask(&self, view: View) -> Option<News> {
        match view {
            View::Modules | View::Providers => None,
            View::Memory => {
                Some(News::Memory(self.answer::<profiles::method::Vram>(&Empty {}).await))
            }
            View::Datasets => {
                let ask = RealmIn::default();
                Some(News::Datasets(self.answer::<catalog::method::List>(&ask).await))
            }
            View::Indexes => {
                Some(News::Indexes(self.answer::<index::method::List>(&Empty {}).await))
            }
            View::Buckets => {
                Some(News::Buckets(self.answer::<storage::method::Health>(&Empty {}).await))
            }
        }
    }

    async fn answer<M: Method>(&self, ask: &M::In) -> Result<M::Out, Trouble> {
        let options = CallOptions { deadline: Some(ANSWER_WAIT), ..CallOptions::default() };
        Ok(self.client.call_method::<M>(ask, &options).await?.value)
    }

    async fn watch_log(&self, mut followed: watch::Receiver<Option<String>>) {
        loop {
            let label = followed.borrow_and_update().clone();
            let Some(label) = label else {
                if followed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                trouble = self.follow(&label) => {
                    if self.news.send(News::LogEnd { label, trouble }).await.is_err() {
                        return;
                    }
                }
                changed = followed.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                changed = followed.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Passes a module's lines on until there are no more, and says why.
    async fn follow(&self, label: &str) -> Trouble {
        match self.pass_lines(label).await {
            Ok(()) => Trouble("the log ended".to_owned()),
            Err(error) => error.into(),
        }
    }

    async fn pass_lines(&self, label: &str) -> Result<(), ClientError> {
        let ask =
            LogsIn { label: label.to_owned(), follow: Some(true), lines: Some(LOG_LINES_FIRST) };
        let options = CallOptions::default();
        let message = encode_method::<init::method::Logs>(&ask, &options, true, false)?;
        let mut connection = Connection::connect(&place::init_socket(&self.socket)).await?;
        connection.send(&message).await?;
        let mut is_first = true;
        loop {
            let reply = connection.receive().await?;
            let is_last = !reply.continues;
            let out = reply.typed::<LogsOut>()?.value;
            let lines = out.lines.iter().map(|line| shortened(&line.text, LOG_COLUMNS_MAX));
            let lines = lines.collect();
            let news = News::Log { label: label.to_owned(), lines, is_first };
            is_first = false;
            if self.news.send(news).await.is_err() || is_last {
                return Ok(());
            }
        }
    }
}

/// What the kernel says of a process's memory; none if there is no such process here.
fn resident_bytes(pid: u32) -> Option<u64> {
    if pid == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}
