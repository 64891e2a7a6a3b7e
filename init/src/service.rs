//! `org.brahman.Init` on init's own socket: questions are turned into requests to the one owner of
//! the state.
//!
//! Invariant: administration is for the mesh's own user and root. Members of its group may look at
//! the table, without what the Cards put into environments.

use std::sync::Arc;

use brahman_card::card::Payload;
use brahman_card::interface::init::{
    self, AttachIn, AttachOut, CheckIn, CheckOut, LabelIn, ListOut, LogsIn, LogsOut, ReloadOut,
    UpdateIn, WatchOut,
};
use brahman_card::{Card, Fault, Interface, ModuleRecord};
use brahman_sidecar::logs::{JOURNAL, is_journal};
use brahman_sidecar::{Call, Peer, Reply, Service, chain, telemetry};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::logs::Logs;
use crate::state::Command;

/// What the service asks of the supervisor.
#[derive(Debug)]
pub(crate) enum Request {
    List {
        reply: oneshot::Sender<Vec<ModuleRecord>>,
    },
    Command {
        label: String,
        command: Command,
        /// The process that asks.
        pid: i32,
        reply: oneshot::Sender<Result<(), Fault>>,
    },
    Reload {
        reply: oneshot::Sender<Result<ReloadOut, Fault>>,
    },
    Attach {
        card: Option<Box<Card>>,
        id: Option<String>,
        peer: Peer,
        drain: mpsc::Sender<()>,
        gone: oneshot::Receiver<()>,
        reply: oneshot::Sender<Result<String, Fault>>,
    },
    Update {
        update: UpdateIn,
        reply: oneshot::Sender<Result<(), Fault>>,
    },
    Warnings {
        card: Box<Card>,
        reply: oneshot::Sender<Vec<String>>,
    },
    Shutdown,
}

/// The service.
#[derive(Debug)]
pub(crate) struct InitService {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) table: watch::Receiver<Arc<WatchOut>>,
    pub(crate) logs: Arc<Logs>,
}

impl InitService {
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        let ending = || Fault::overloaded("init is shutting down", 1000);
        self.requests.send(request(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    async fn command(&self, call: &Call, command: Command) -> Result<Reply, Fault> {
        let LabelIn { label } = call.parameters()?;
        let pid = call.peer.pid;
        self.ask(|reply| Request::Command { label, command, pid, reply }).await??;
        Ok(Reply::empty())
    }

    async fn attach(&self, call: &Call) -> Result<Reply, Fault> {
        let AttachIn { card, id } = call.parameters()?;
        let card = card.map(|value| parse(&value)).transpose()?.map(Box::new);
        if card.is_none() && id.is_none() {
            return Err(Fault::invalid_parameter(
                "id",
                "expected the `id` that init passed in BRAHMAN_CARD_ID, or a `card`",
            ));
        }
        if !call.more {
            return Err(Fault::expected_more("Attach"));
        }
        // Dropped with this future, when the module hangs up.
        let (_alive, gone) = oneshot::channel::<()>();
        let (drain, mut drains) = mpsc::channel(1);
        let peer = call.peer;
        let session =
            self.ask(|reply| Request::Attach { card, id, peer, drain, gone, reply }).await??;
        call.send(&AttachOut { session: session.clone(), drain: false }).await?;
        while drains.recv().await.is_some() {
            call.send(&AttachOut { session: session.clone(), drain: true }).await?;
        }
        Reply::of(&AttachOut { session, drain: true })
    }

    async fn watch(&self, call: &Call) -> Result<Reply, Fault> {
        let whole = administers(call);
        let mut table = self.table.clone();
        loop {
            let now = Arc::clone(&table.borrow_and_update());
            let shown = if whole {
                now
            } else {
                Arc::new(WatchOut { modules: without_environment(&now.modules), ..*now })
            };
            call.send(&*shown).await?;
            if table.changed().await.is_err() {
                return Reply::of(&*shown);
            }
        }
    }

    async fn logs(&self, call: &Call) -> Result<Reply, Fault> {
        let LogsIn { label, follow, lines } = call.parameters()?;
        let replicas: Vec<String> = {
            let table = self.table.borrow();
            let named = table.modules.iter().filter(|m| m.card.label.answers_to(&label));
            named.map(|m| m.card.label.to_string()).collect()
        };
        // Each has logs of its own.
        if !replicas.contains(&label) {
            let fault = no_such_module(&label);
            return Err(if replicas.is_empty() {
                fault
            } else {
                fault.adding(&format!("; its replicas are {}", replicas.join(", ")))
            });
        }
        let wanted = usize::try_from(lines.unwrap_or(100)).unwrap_or(usize::MAX);
        let (lines, mut dropped, mut news) = self.logs.tail(&label, wanted);
        if follow != Some(true) {
            return Reply::of(&LogsOut { lines, dropped });
        }
        call.send(&LogsOut { lines, dropped }).await?;
        loop {
            match news.recv().await {
                Ok(line) => call.send(&LogsOut { lines: vec![line], dropped }).await?,
                Err(broadcast::error::RecvError::Lagged(n)) => dropped += n,
                Err(broadcast::error::RecvError::Closed) => {
                    return Reply::of(&LogsOut { lines: Vec::new(), dropped });
                }
            }
        }
    }
}

impl Service for InitService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&init::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        let open = matches!(call.method(), "List" | "Watch" | "Check");
        if !open && !administers(&call) {
            let own = nix::unistd::geteuid().as_raw();
            let why = format!(
                "{} is for the mesh's own user (uid {own}) and root, not for uid {}",
                call.method(),
                call.uid
            );
            return Err(Fault::permission_denied(why));
        }
        match call.method() {
            "List" => {
                let modules = self.ask(|reply| Request::List { reply }).await?;
                let modules =
                    if administers(&call) { modules } else { without_environment(&modules) };
                Reply::of(&ListOut {
                    modules,
                    log_lines_lost: Some(telemetry::lost()).filter(|n| *n > 0),
                    logs: self
                        .logs
                        .folder()
                        .map(|folder| folder.display().to_string())
                        .or_else(|| is_journal().then(|| JOURNAL.to_owned())),
                    log_lines_unkept: Some(self.logs.unkept()).filter(|n| *n > 0),
                })
            }
            "Start" => self.command(&call, Command::Start).await,
            "Stop" => self.command(&call, Command::Stop).await,
            "Restart" => self.command(&call, Command::Restart).await,
            "Reload" => Reply::of(&self.ask(|reply| Request::Reload { reply }).await??),
            "Check" => {
                let CheckIn { card } = call.parameters()?;
                let card = parse(&card)?;
                let (label, id) = (card.label.to_string(), card.id.clone());
                let warnings =
                    self.ask(|reply| Request::Warnings { card: Box::new(card), reply }).await?;
                Reply::of(&CheckOut { label, id, warnings })
            }
            "Logs" => self.logs(&call).await,
            "Attach" => self.attach(&call).await,
            "Update" => {
                let update = call.parameters()?;
                self.ask(|reply| Request::Update { update, reply }).await??;
                Ok(Reply::empty())
            }
            "Watch" => self.watch(&call).await,
            "Shutdown" => {
                self.requests
                    .send(Request::Shutdown)
                    .await
                    .map_err(|_| Fault::internal("init is shutting down"))?;
                Ok(Reply::empty())
            }
            _ => Err(call.unknown()),
        }
    }
}

/// Whether the caller, or the one on whose behalf the broker calls, is the mesh's own user or root.
fn administers(call: &Call) -> bool {
    call.uid == 0 || call.uid == nix::unistd::geteuid().as_raw()
}

/// What others than the mesh's user may see: environments may hold secrets.
fn without_environment(modules: &[ModuleRecord]) -> Vec<ModuleRecord> {
    let bare = |record: &ModuleRecord| {
        let mut record = record.clone();
        record.card.environment.clear();
        if let Payload::Native(native) = &mut record.card.payload {
            native.env.clear();
        }
        record
    };
    modules.iter().map(bare).collect()
}

fn parse(value: &serde_json::Value) -> Result<Card, Fault> {
    let text = serde_json::to_vec(value).map_err(|e| bad_card(&chain(&e)))?;
    Card::parse("card.json", &text).map_err(|e| bad_card(&chain(&e)))
}

pub(crate) fn bad_card(why: &str) -> Fault {
    Fault::of(&init::error::BadCard {}, false, why)
}

pub(crate) fn not_supervised(label: &str, why: &str) -> Fault {
    Fault::of(&init::error::NotSupervised { label: label.to_owned() }, false, why)
}

pub(crate) fn no_such_module(label: &str) -> Fault {
    let message = format!("no module is called `{label}`; `brahman status` lists them");
    Fault::of(&init::error::NoSuchModule { label: label.to_owned() }, false, message)
}
