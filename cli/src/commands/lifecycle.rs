//! Starting, stopping and restarting modules: each command waits for the state that it leads to,
//! and says which one was reached.
//!
//! Invariants: a wait ends with the state, with the reason why it will not come, or with the time
//! that a start may take; whether a restart has happened is told by the module's incarnation, never
//! by a state that may be the one from before.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use brahman_card::card::{Lifecycle as CardLifecycle, Supervision, satisfies};
use brahman_card::interface::init::{LabelIn, WatchOut};
use brahman_card::interface::{Empty, Method, init};
use brahman_card::{ModuleRecord, ModuleState};
use brahman_sidecar::client::encode_method;
use brahman_sidecar::{CallOptions, ClientError, Connection, place};

use super::get;
use crate::Lifecycle;
use crate::output::{Output, Tone, duration, one_line};

/// Longest wait beyond the time that a Card gives its module to become ready: SIGTERM's grace, a
/// kill that is repeated, and a busy machine.
const SLACK: Duration = Duration::from_secs(15);

/// What a command leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// It serves.
    Ready,
    /// It serves, in another life than before.
    ReadyAnew,
    /// It does not run.
    Stopped,
}

/// How far one module is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Pending,
    Reached,
    /// It will not get there by itself.
    Missed,
}

pub(crate) async fn start(socket: &Path, of: &Lifecycle, output: &Output) -> anyhow::Result<()> {
    command::<init::method::Start>(socket, of, "start", Goal::Ready, output).await
}

pub(crate) async fn stop(socket: &Path, of: &Lifecycle, output: &Output) -> anyhow::Result<()> {
    command::<init::method::Stop>(socket, of, "stop", Goal::Stopped, output).await
}

pub(crate) async fn restart(socket: &Path, of: &Lifecycle, output: &Output) -> anyhow::Result<()> {
    command::<init::method::Restart>(socket, of, "restart", Goal::ReadyAnew, output).await
}

async fn command<M: Method<In = LabelIn>>(
    socket: &Path,
    of: &Lifecycle,
    word: &str,
    goal: Goal,
    output: &Output,
) -> anyhow::Result<()> {
    let (init, label) = (place::init_socket(socket), of.label.as_str());
    let begun = Instant::now();
    let before = named(label, get::<init::method::List>(&init, &Empty {}).await?.modules);
    get::<M>(&init, &LabelIn { label: label.to_owned() }).await?;
    if of.no_wait {
        if output.json() {
            output.print_json(
                &serde_json::json!({ "label": label, "command": word, "waited": false }),
            );
        } else {
            output.line(&format!(
                "{label}: {word} was taken; `brahman status` shows what comes of it"
            ));
        }
        return Ok(());
    }
    let slowest = before.iter().map(|module| module.card.readiness.timeout_s).max().unwrap_or(0);
    let longest =
        Duration::from_secs(u64::from(if goal == Goal::Stopped { 0 } else { slowest })) + SLACK;
    let bar = output.spinner(&format!("{label}: {word}"));
    let mut last = before.clone();
    let settling = async {
        let mut connection = Connection::connect(&init).await?;
        connection
            .send(&encode_method::<init::method::Watch>(
                &Empty {},
                &CallOptions::default(),
                true,
                false,
            )?)
            .await?;
        loop {
            let table: WatchOut = connection.receive().await?.typed()?.value;
            let outcomes: Vec<Outcome> =
                before.iter().map(|module| outcome(goal, module, &table.modules)).collect();
            last = named(label, table.modules);
            if !outcomes.contains(&Outcome::Pending) {
                return Ok::<_, ClientError>(!outcomes.contains(&Outcome::Missed));
            }
        }
    };
    let settled = tokio::time::timeout(longest, settling).await;
    bar.finish_and_clear();
    let is_reached = match settled {
        Ok(outcome) => outcome?,
        Err(_) => {
            show(label, word, &before, &last, begun, output);
            let late = ClientError::Deadline(longest);
            return Err(anyhow::Error::from(late)
                .context(format!("`{label}` is still on its way; `brahman status` shows it")));
        }
    };
    show(label, word, &before, &last, begun, output);
    if !is_reached {
        bail!(
            "{word} did not lead to a module that is ready; `brahman logs LABEL` and `brahman status` show why"
        );
    }
    Ok(())
}

/// The modules that a label means.
fn named(label: &str, modules: Vec<ModuleRecord>) -> Vec<ModuleRecord> {
    modules.into_iter().filter(|module| module.card.label.answers_to(label)).collect()
}

/// How far a module is, by the table as it was before the command and as it is now.
fn outcome(goal: Goal, before: &ModuleRecord, table: &[ModuleRecord]) -> Outcome {
    let Some(now) = table.iter().find(|module| module.card.id == before.card.id) else {
        // One that attached by itself leaves the table with its end.
        return if goal == Goal::Stopped { Outcome::Reached } else { Outcome::Missed };
    };
    let is_same_life = goal == Goal::ReadyAnew && now.incarnation == before.incarnation;
    let is_one_shot = now.card.lifecycle == CardLifecycle::Oneshot
        || now.card.supervision == Supervision::OneShot;
    match (goal, now.state) {
        // Waiting is where one that init does not start goes when it has detached.
        (Goal::Stopped, ModuleState::Stopped | ModuleState::Failed | ModuleState::Waiting) => {
            Outcome::Reached
        }
        (Goal::Stopped, _) => Outcome::Pending,
        (_, ModuleState::Ready) if !is_same_life => Outcome::Reached,
        (_, ModuleState::Stopped) if is_one_shot && now.incarnation > before.incarnation => {
            Outcome::Reached
        }
        (_, ModuleState::Failed | ModuleState::Stopped) => Outcome::Missed,
        (_, ModuleState::Waiting) if waits_for_nobody(now, table) => Outcome::Missed,
        _ => Outcome::Pending,
    }
}

/// Whether a module waits for something that nobody brings.
fn waits_for_nobody(module: &ModuleRecord, table: &[ModuleRecord]) -> bool {
    let comes = |wanted: &String| {
        table.iter().any(|other| {
            satisfies(&other.card, wanted)
                && (other.state == ModuleState::Ready || other.state.is_coming())
        })
    };
    module.pid == 0 && !module.card.requires.iter().all(comes)
}

/// Says the state that each module has reached.
fn show(
    label: &str,
    word: &str,
    before: &[ModuleRecord],
    last: &[ModuleRecord],
    begun: Instant,
    output: &Output,
) {
    let gone = before.iter().filter(|module| !last.iter().any(|now| now.card.id == module.card.id));
    if output.json() {
        let now = last.iter().map(|module| {
            let pid = Some(module.pid).filter(|pid| *pid != 0);
            serde_json::json!({ "label": module.card.label, "state": module.state, "pid": pid, "reason": module.reason })
        });
        let left =
            gone.map(|module| serde_json::json!({ "label": module.card.label, "state": null, "pid": null, "reason": "left the mesh" }));
        let modules: Vec<serde_json::Value> = now.chain(left).collect();
        let first = modules.first().map(|module| module["state"].clone());
        let state = first.filter(|state| modules.iter().all(|module| module["state"] == *state));
        output.print_json(&serde_json::json!({ "label": label, "command": word, "waited": true, "state": state, "modules": modules }));
        return;
    }
    for module in last {
        let tone = match module.state {
            ModuleState::Ready => Tone::Good,
            ModuleState::Failed => Tone::Bad,
            ModuleState::Stopped => Tone::Faint,
            _ => Tone::Busy,
        };
        let process =
            if module.pid == 0 { String::new() } else { format!(", process {}", module.pid) };
        let reason = module.reason.as_deref().filter(|_| module.state != ModuleState::Ready);
        let reason = reason.map(|reason| format!(": {}", one_line(reason))).unwrap_or_default();
        let took = duration(begun.elapsed().as_secs_f64());
        output.line(&format!(
            "{} is {}{process} after {took}{reason}",
            module.card.label,
            output.paint(module.state.as_str(), tone)
        ));
    }
    for module in gone {
        output.line(&format!("{} has left the mesh", module.card.label));
    }
}

#[cfg(test)]
mod tests {
    use brahman_card::Card;

    use super::*;

    fn module(label: &str, state: ModuleState, incarnation: u64, more: &str) -> ModuleRecord {
        let text = format!(
            "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"x\"\n"
        );
        let card = Card::parse("test.toml", text.as_bytes()).expect("a good Card");
        ModuleRecord {
            card,
            state,
            socket: String::new(),
            pid: u32::from(state == ModuleState::Ready),
            incarnation,
            restarts: 0,
            deaths: None,
            kills: None,
            uptime_ms: 0,
            reason: None,
            attributes: Default::default(),
            shortfalls: Vec::new(),
            origin: None,
        }
    }

    #[test]
    fn a_command_is_over_when_its_state_is_reached_or_will_not_come() {
        let before = module("a", ModuleState::Ready, 1, "");
        let at = |goal, state, incarnation| {
            outcome(goal, &before, &[module("a", state, incarnation, "")])
        };
        assert_eq!(
            at(Goal::Ready, ModuleState::Ready, 1),
            Outcome::Reached,
            "it was ready already"
        );
        assert_eq!(
            at(Goal::ReadyAnew, ModuleState::Ready, 1),
            Outcome::Pending,
            "that is the life from before"
        );
        assert_eq!(at(Goal::ReadyAnew, ModuleState::Ready, 2), Outcome::Reached);
        assert_eq!(
            at(Goal::ReadyAnew, ModuleState::Waiting, 1),
            Outcome::Pending,
            "its previous process ends"
        );
        assert_eq!(at(Goal::Ready, ModuleState::Backoff, 1), Outcome::Pending);
        assert_eq!(at(Goal::Ready, ModuleState::Failed, 2), Outcome::Missed);
        assert_eq!(at(Goal::Stopped, ModuleState::Draining, 1), Outcome::Pending);
        assert_eq!(at(Goal::Stopped, ModuleState::Stopped, 1), Outcome::Reached);
        assert_eq!(outcome(Goal::Stopped, &before, &[]), Outcome::Reached, "it has left the mesh");
    }

    #[test]
    fn what_waits_for_nobody_is_not_waited_for() {
        let needy = module("a", ModuleState::Waiting, 0, "requires = [\"b\"]");
        for (state, expected) in
            [(ModuleState::Starting, Outcome::Pending), (ModuleState::Stopped, Outcome::Missed)]
        {
            let table = [needy.clone(), module("b", state, 1, "")];
            assert_eq!(outcome(Goal::Ready, &needy, &table), expected, "{state:?}");
        }
    }

    #[test]
    fn a_task_that_runs_once_is_done_when_it_has_ended() {
        let before = module("a", ModuleState::Stopped, 1, "lifecycle = \"oneshot\"");
        let at = |incarnation| {
            outcome(
                Goal::Ready,
                &before,
                &[module("a", ModuleState::Stopped, incarnation, "lifecycle = \"oneshot\"")],
            )
        };
        assert_eq!((at(1), at(2)), (Outcome::Missed, Outcome::Reached));
    }

    #[test]
    fn the_state_reached_is_said() {
        let output = Output::kept();
        let modules =
            [module("a", ModuleState::Ready, 2, ""), module("b", ModuleState::Stopped, 1, "")];
        show("a", "start", &modules, &modules[..1], Instant::now(), &output);
        let printed = output.printed();
        assert!(
            printed.starts_with("a is ready, process 1 after ")
                && printed.contains("b has left the mesh"),
            "{printed}"
        );
    }
}
