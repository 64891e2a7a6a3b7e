//! cgroup v2, where it was delegated to us: memory, process and CPU limits that hold for a module's
//! whole tree.
//!
//! Used only under systemd with `Delegate=yes`, or where `$BRAHMAN_CGROUP` names a folder that is
//! ours; anywhere else the shortfall is listed in `status`.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::Card;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use thiserror::Error;

/// A delegated folder, with the controllers that can be used in it.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    controllers: Vec<String>,
}

impl Cgroups {
    /// The folder to use: the one that `$BRAHMAN_CGROUP` names, which has to be a cgroup; else the
    /// unit's own, if any.
    ///
    /// # Errors
    /// What is wrong with the folder named: nothing was made in it.
    pub(crate) fn folder() -> Result<Option<PathBuf>, NotACgroup> {
        let Some(named) =
            env::var_os("BRAHMAN_CGROUP").filter(|v| !v.is_empty()).map(PathBuf::from)
        else {
            return Ok(Self::folder_of_unit().filter(|folder| is_cgroup(folder)));
        };
        if is_cgroup(&named) { Ok(Some(named)) } else { Err(NotACgroup { path: named }) }
    }

    fn folder_of_unit() -> Option<PathBuf> {
        // INVOCATION_ID is systemd's word that this is a unit; whether it delegated shows when we
        // write.
        env::var_os("INVOCATION_ID")?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        Some(
            Path::new("/sys/fs/cgroup")
                .join(own.lines().find_map(|line| line.strip_prefix("0::/"))?.trim()),
        )
    }

    /// Takes a delegated folder, if it lets itself be taken.
    pub(crate) fn claim(root: PathBuf) -> Option<Self> {
        match Self::prepare_root(&root) {
            Ok(controllers) => Some(Self { root, controllers }),
            Err(error) => {
                tracing::info!(root = %root.display(), %error, "no delegated cgroup: limits fall back to rlimits");
                None
            }
        }
    }

    fn prepare_root(root: &Path) -> io::Result<Vec<String>> {
        // A cgroup with controllers for its children may hold no process itself: init moves aside.
        let own = root.join("supervisor");
        fs::create_dir_all(&own)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string())?;
        let offered = fs::read_to_string(root.join("cgroup.controllers"))?;
        let mut taken = Vec::new();
        for controller in
            offered.split_whitespace().filter(|c| ["memory", "pids", "cpu"].contains(c))
        {
            if fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")).is_ok() {
                taken.push(controller.to_owned());
            }
        }
        Ok(taken)
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// The module's own folder, with its limits set.
    pub(crate) fn prepare(&self, card: &Card) -> io::Result<PathBuf> {
        let folder = self.root.join(card.id.as_str());
        fs::create_dir_all(&folder)?;
        let limits = &card.limits;
        for (controller, file, value) in [
            ("memory", "memory.max", limits.memory.map(|m| m.0)),
            ("pids", "pids.max", limits.processes),
            ("cpu", "cpu.weight", limits.cpu_weight),
        ] {
            if let Some(value) = value.filter(|_| self.has(controller)) {
                fs::write(folder.join(file), value.to_string())?;
            }
        }
        Ok(folder)
    }

    /// Kills every process of a module, wherever it has hidden.
    pub(crate) fn kill(&self, card: &Card) {
        // Absent where the module never ran, or on kernels before 5.14, where the group kill has to
        // do.
        let _ = fs::write(self.root.join(card.id.as_str()).join("cgroup.kill"), "1");
    }
}

/// `$BRAHMAN_CGROUP` names something else.
#[derive(Debug, Error)]
#[error(
    "BRAHMAN_CGROUP: {path} is not a cgroup v2 folder; expected one below /sys/fs/cgroup that is delegated to this user"
)]
pub(crate) struct NotACgroup {
    path: PathBuf,
}

fn is_cgroup(folder: &Path) -> bool {
    folder.is_dir()
        && statfs(folder).is_ok_and(|system| system.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// What of a Card's limits this machine does not enforce, or enforces in a weaker way.
pub(crate) fn shortfalls(card: &Card, cgroups: Option<&Cgroups>) -> Vec<String> {
    let limits = &card.limits;
    let has = |controller: &str| cgroups.is_some_and(|c| c.has(controller));
    let mut short = Vec::new();
    if limits.memory.is_some() && !has("memory") {
        let how = if cgroups.is_some() {
            "not enforced: no memory controller"
        } else {
            "RLIMIT_DATA for each process: no delegated cgroup"
        };
        short.push(format!("limits.memory: {how}"));
    }
    if limits.processes.is_some() && !has("pids") {
        short.push("limits.processes: not enforced: no delegated cgroup with pids".into());
    }
    if limits.cpu_weight.is_some() && !has("cpu") {
        short.push("limits.cpu_weight: not enforced: no delegated cgroup with cpu".into());
    }
    if limits.vram_mib.is_some() {
        short.push("limits.vram_mib: advisory, passed on as BRAHMAN_VRAM_MIB".into());
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_folder_is_no_cgroup() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(!is_cgroup(folder.path()) && !is_cgroup(&folder.path().join("none")));
        let words = NotACgroup { path: folder.path().to_owned() }.to_string();
        assert!(
            words.contains("BRAHMAN_CGROUP")
                && words.contains(&folder.path().display().to_string()),
            "{words}"
        );
    }
}
