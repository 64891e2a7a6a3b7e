//! cgroup v2, where it was delegated to us: memory, process and CPU limits that hold for a module's whole tree.
//!
//! Used only under systemd with `Delegate=yes`, or where `$BRAHMAN_CGROUP` names a folder that is ours; anywhere else
//! the shortfall is listed in `status`.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brahman_card::Card;

/// A delegated folder, with the controllers that can be used in it.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    controllers: Vec<String>,
}

impl Cgroups {
    /// Takes the delegated folder, if there is one.
    pub(crate) fn claim() -> Option<Self> {
        let root = match env::var_os("BRAHMAN_CGROUP").filter(|v| !v.is_empty()) {
            Some(root) => PathBuf::from(root),
            None => {
                // INVOCATION_ID is systemd's word that this is a unit; whether it delegated shows when we write.
                env::var_os("INVOCATION_ID")?;
                let own = fs::read_to_string("/proc/self/cgroup").ok()?;
                Path::new("/sys/fs/cgroup").join(own.lines().find_map(|line| line.strip_prefix("0::/"))?.trim())
            }
        };
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
        for controller in offered.split_whitespace().filter(|c| ["memory", "pids", "cpu"].contains(c)) {
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
        // Absent where the module never ran, or on kernels before 5.14, where the group kill has to do.
        let _ = fs::write(self.root.join(card.id.as_str()).join("cgroup.kill"), "1");
    }
}

/// What of a Card's limits this machine does not enforce, or enforces in a weaker way.
pub(crate) fn shortfalls(card: &Card, cgroups: Option<&Cgroups>) -> Vec<String> {
    let limits = &card.limits;
    let has = |controller: &str| cgroups.is_some_and(|c| c.has(controller));
    let mut short = Vec::new();
    if limits.memory.is_some() && !has("memory") {
        let how =
            if cgroups.is_some() { "not enforced: no memory controller" } else { "RLIMIT_DATA for each process: no delegated cgroup" };
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
