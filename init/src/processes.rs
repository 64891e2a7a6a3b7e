//! Processes that init did not start itself: what a former init left behind, and whose a strange
//! process is.
//!
//! Invariants: a process is killed only if its start time or its environment marks it as this
//! mesh's, and through a pidfd; `/proc` is only ever read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::pidfd::Pidfd;

/// Ancestors looked at before a process counts as nobody's: a wrapper in a wrapper is common,
/// thirty-two are not.
const ANCESTORS_MAX: usize = 32;
/// After SIGKILL only the kernel's own work is waited for.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// A process by more than its number, which the kernel gives out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessRecord {
    pub(crate) label: String,
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start.
    pub(crate) started: u64,
}

impl ProcessRecord {
    /// A process as it is now; none if it is not there.
    pub(crate) fn now(label: &str, pid: u32) -> Option<Self> {
        Some(Self { label: label.to_owned(), pid, started: Stat::of(pid)?.started })
    }
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    zombie: bool,
    parent: u32,
    group: u32,
    started: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Fields after the name, which stands in brackets and may hold anything: state, ppid, pgrp, …,
    /// starttime the twentieth.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The one among `known` processes that `pid` belongs to: itself, an ancestor, or the leader of its
/// group.
pub(crate) fn owner(pid: u32, known: &BTreeSet<u32>) -> Option<u32> {
    let first = Stat::of(pid);
    let mut at = pid;
    for _ in 0..ANCESTORS_MAX {
        if known.contains(&at) {
            return Some(at);
        }
        match Stat::of(at) {
            Some(stat) if stat.parent > 1 => at = stat.parent,
            _ => break,
        }
    }
    // A child whose wrapper has ended has another parent, and the same group.
    first.map(|stat| stat.group).filter(|group| known.contains(group))
}

/// Processes of this mesh that run though no init does: those that the former init recorded, and
/// those whose environment names the mesh's socket and a Card; of the mesh that held this state
/// before (its socket, and the state) those that use it.
pub(crate) fn left_behind(
    recorded: &[ProcessRecord],
    mesh: &Path,
    on_state: Option<(&Path, &Path)>,
) -> Vec<ProcessRecord> {
    let runs = |r: &&ProcessRecord| {
        Stat::of(r.pid).is_some_and(|stat| stat.started == r.started && !stat.zombie)
    };
    let mut left: Vec<ProcessRecord> = recorded.iter().filter(runs).cloned().collect();
    let own = ancestors(std::process::id());
    let namespaces =
        |pid: u32| ["mnt", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
    let here = namespaces(std::process::id());
    let uid = geteuid().as_raw();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if own.contains(&pid)
            || left.iter().any(|r| r.pid == pid)
            || !entry.metadata().is_ok_and(|m| m.uid() == uid)
        {
            continue;
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let on_it =
            |(mesh, state)| marked(&environment, mesh).filter(|_| uses(&environment, state));
        // In another namespace the same path is another mesh.
        if let Some(label) = marked(&environment, mesh).or_else(|| on_state.and_then(on_it))
            && namespaces(pid) == here
        {
            left.extend(ProcessRecord::now(&label, pid));
        }
    }
    left
}

fn value<'a>(environment: &'a [u8], name: &str) -> Option<&'a OsStr> {
    let mut variables = environment.split(|b| *b == 0);
    variables
        .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .map(OsStr::from_bytes)
}

/// The label in a module's environment, if it is one of this mesh.
fn marked(environment: &[u8], mesh: &Path) -> Option<String> {
    value(environment, "BRAHMAN_CARD_ID")?;
    let label =
        || value(environment, "BRAHMAN_LABEL").unwrap_or_default().to_string_lossy().into_owned();
    (value(environment, "BRAHMAN_SOCKET")? == mesh.as_os_str()).then(label)
}

/// Whether a module's state is in this folder, whatever way leads there.
fn uses(environment: &[u8], state: &Path) -> bool {
    let same = |theirs: &OsStr| {
        theirs == state.as_os_str()
            || fs::canonicalize(theirs)
                .ok()
                .is_some_and(|t| Some(t) == fs::canonicalize(state).ok())
    };
    value(environment, "BRAHMAN_STATE").is_some_and(same)
}

fn ancestors(pid: u32) -> BTreeSet<u32> {
    let mut all = BTreeSet::from([pid]);
    let mut at = pid;
    while let Some(stat) = Stat::of(at).filter(|stat| stat.parent > 0) {
        if !all.insert(stat.parent) {
            break;
        }
        at = stat.parent;
    }
    all
}

/// Ends these processes: SIGTERM, and SIGKILL for what is there after the grace. Says which, and
/// gives their number.
pub(crate) async fn end(left: Vec<ProcessRecord>, grace: Duration) -> usize {
    let mut ending = Vec::new();
    for process in left {
        let Ok(pidfd) = Pidfd::open(process.pid) else { continue };
        // Looked at again with the descriptor in hand: the number cannot be another's from here on.
        if ProcessRecord::now(&process.label, process.pid).as_ref() != Some(&process) {
            continue;
        }
        tracing::warn!(label = %process.label, pid = process.pid, "left by a previous init: sent SIGTERM");
        // It may have ended meanwhile.
        let _ = pidfd.send(Signal::SIGTERM);
        ending.push((process, pidfd));
    }
    let count = ending.len();
    let until = Instant::now() + grace;
    let mut stubborn = Vec::new();
    for (process, pidfd) in ending {
        if !has_ended(&pidfd, until).await {
            tracing::warn!(label = %process.label, pid = process.pid, "left by a previous init and ignoring SIGTERM: killed");
            let _ = pidfd.send(Signal::SIGKILL);
            stubborn.push(pidfd);
        }
    }
    let until = Instant::now() + KILLED_WITHIN;
    for pidfd in stubborn {
        has_ended(&pidfd, until).await;
    }
    count
}

async fn has_ended(pidfd: &Pidfd, until: Instant) -> bool {
    let Ok(copy) = pidfd.watch() else { return false };
    #[expect(
        deprecated,
        reason = "an OwnedFd stays open as long as it is held; the replacement is unsafe code"
    )]
    let Ok(watched) = AsyncFd::new(copy) else { return false };
    // Readable is ended.
    timeout_at(until, watched.readable()).await.is_ok_and(|ready| ready.is_ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let line = format!("7 (a) b (Z)) S 5 6 {} 1234 9", vec!["0"; 16].join(" "));
        assert_eq!(
            Stat::parse(&line),
            Some(Stat { zombie: false, parent: 5, group: 6, started: 1234 })
        );
        let own = Stat::of(std::process::id()).expect("this process");
        assert!(own.started > 0 && !own.zombie);
    }

    #[test]
    fn a_child_of_a_child_belongs_to_its_module_and_a_stranger_to_nobody() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("100").spawn().expect("sleep runs");
        assert_eq!(owner(child.id(), &BTreeSet::from([own])), Some(own));
        assert_eq!(owner(child.id(), &BTreeSet::from([child.id()])), Some(child.id()));
        assert_eq!(owner(own, &BTreeSet::from([child.id()])), None);
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    #[test]
    fn only_this_mesh_marks_a_process_as_its_own() {
        let environment = b"PATH=/bin\0BRAHMAN_SOCKET=/run/a/brahman.sock\0BRAHMAN_CARD_ID=01\0BRAHMAN_LABEL=embed-mock\0";
        assert_eq!(
            marked(environment, Path::new("/run/a/brahman.sock")).as_deref(),
            Some("embed-mock")
        );
        assert_eq!(marked(environment, Path::new("/run/b/brahman.sock")), None);
        // A person's shell that talks to the mesh is no module.
        assert_eq!(
            marked(b"BRAHMAN_SOCKET=/run/a/brahman.sock\0", Path::new("/run/a/brahman.sock")),
            None
        );
        let environment = b"BRAHMAN_STATE=/var/lib/a\0BRAHMAN_SOCKET=/run/a/brahman.sock\0";
        assert!(
            uses(environment, Path::new("/var/lib/a"))
                && !uses(environment, Path::new("/var/lib/b"))
                && !uses(b"", Path::new("/"))
        );
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed_after_the_grace() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo set; while :; do sleep 1; done"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut line = [0; 4];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut line)
            .expect("the trap is set");
        let recorded = ProcessRecord::now("stubborn", child.id()).expect("it runs");
        let other = ProcessRecord { started: recorded.started + 1, ..recorded.clone() };
        assert_eq!(end(vec![other], Duration::ZERO).await, 0, "the number alone is not enough");
        assert_eq!(end(vec![recorded], Duration::from_millis(20)).await, 1);
        assert!(!child.wait().expect("ended").success());
    }
}
