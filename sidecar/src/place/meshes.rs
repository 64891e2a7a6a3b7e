//! Which meshes run on this machine, by the states that they hold: no two may lie within one
//! another.
//!
//! The kernel says who holds which lock (`/proc/locks`), and the open files of that process say
//! where it is (`/proc/<pid>/fd`). What a file says of its holder only informs. Of other users'
//! meshes, and where there is no `/proc`, nothing is known. Invariants: looking holds no lock, and
//! waits for no pipe and no device; a mesh that has ended is not here, whatever it has left.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::holder::{self, Holder, LOCK};

/// The registry of buckets in a state. Its format is the storage crate's; only where folders lie is
/// read here.
const BUCKETS: &str = "catalog/.registry/buckets.json";
/// Far more than a registry has.
const BUCKETS_BYTES_MAX: u64 = 1 << 20;

/// A mesh that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMesh {
    /// Its state, by its real path.
    pub state: PathBuf,
    /// Who holds that.
    pub holder: Holder,
}

impl LiveMesh {
    /// Its buckets that are folders outside of its state, by their names, as far as they can be
    /// read.
    #[must_use]
    pub fn buckets(&self) -> Vec<(String, PathBuf)> {
        let text = holder::regular(&self.state.join(BUCKETS)).and_then(|file| {
            let mut text = Vec::new();
            file.take(BUCKETS_BYTES_MAX).read_to_end(&mut text).ok().map(|_| text)
        });
        folders(&text.unwrap_or_default())
            .into_iter()
            .filter(|(_, folder)| !folder.starts_with(&self.state))
            .collect()
    }
}

/// Names and folders in the text of a registry: a list, or what has one, and behind it whatever
/// there is.
fn folders(text: &[u8]) -> Vec<(String, PathBuf)> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>();
    let Some(Ok(read)) = values.next() else { return Vec::new() };
    let all = read.as_array().or_else(|| read["buckets"].as_array());
    let of = |bucket: &serde_json::Value| {
        let folder = bucket["url"].as_str()?.strip_prefix("file://")?;
        Some((bucket["name"].as_str()?.to_owned(), PathBuf::from(folder)))
    };
    all.into_iter().flatten().filter_map(of).collect()
}

/// All meshes of this user. Those of others have no say, for anybody may lock a file that is called
/// so.
#[must_use]
pub fn live() -> Vec<LiveMesh> {
    let (held, own) = (holder::held_locks(), nix::unistd::geteuid().as_raw());
    let pids: BTreeSet<u32> = held.iter().map(|(pid, _)| *pid).collect();
    let mut meshes = Vec::new();
    for pid in pids {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for file in files {
            // First its name: nothing else is looked at, for a disk may hang.
            let Ok(path) = fs::read_link(file.path()) else { continue };
            if path.file_name().is_none_or(|name| name != LOCK) {
                continue;
            }
            let (Ok(open), Ok(there)) = (fs::metadata(file.path()), fs::symlink_metadata(&path))
            else {
                continue;
            };
            if open.uid() != own || !open.is_file() {
                continue;
            }
            // In another mount namespace another file may be called so.
            if (open.dev(), open.ino()) != (there.dev(), there.ino())
                || !held.contains(&(pid, open.ino()))
            {
                continue;
            }
            if let (Some(state), Some(holder)) =
                (path.parent(), Holder::noted_in(&path).filter(|holder| holder.pid == pid))
            {
                meshes.push(LiveMesh { state: state.to_owned(), holder });
            }
        }
    }
    meshes.dedup();
    meshes
}

/// All meshes but the one that has this state.
#[must_use]
pub fn others(state: &Path) -> Vec<LiveMesh> {
    let identity = |folder: &Path| fs::metadata(folder).ok().map(|meta| (meta.dev(), meta.ino()));
    let own = identity(state);
    live().into_iter().filter(|mesh| own.is_none() || identity(&mesh.state) != own).collect()
}

#[cfg(test)]
mod tests {
    use super::super::state::StateLock;
    use super::*;

    #[test]
    fn a_mesh_is_found_by_its_lock_with_its_buckets_and_not_once_it_has_ended() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let state = home.path().canonicalize().expect("there").join("state");
        fs::create_dir_all(state.join("catalog/.registry")).expect("made");
        let registry = r#"{"version": 2, "buckets": [{"name": "lake", "url": "file:///mnt/lake"}, {"name": "sea", "url": "s3://sea"}]}"#;
        fs::write(state.join(BUCKETS), format!("{registry}\nbrahman-file 1 sha256 0\n"))
            .expect("written");
        let socket = Path::new("/run/x.sock");
        let lock = StateLock::take(&state, socket).expect("taken");
        let found = |all: Vec<LiveMesh>| all.into_iter().find(|mesh| mesh.state == state);
        let mesh = found(live()).expect("it runs");
        assert_eq!((mesh.holder.pid, mesh.holder.socket.as_path()), (std::process::id(), socket));
        assert_eq!(mesh.buckets(), [("lake".to_owned(), PathBuf::from("/mnt/lake"))]);
        assert!(found(others(&state)).is_none() && found(others(home.path())).is_some());
        drop(lock);
        assert!(
            found(live()).is_none() && state.join(LOCK).exists(),
            "what it has left is no mesh"
        );
    }

    #[test]
    fn buckets_of_any_version_are_read_and_what_is_damaged_has_none() {
        let old = br#"[{"name": "a", "url": "file:///a"}]"#;
        assert_eq!(folders(old), [("a".to_owned(), PathBuf::from("/a"))]);
        for bad in [&b""[..], b"{", b"7", b"{\"buckets\": 3}", b"[{}]"] {
            assert!(folders(bad).is_empty());
        }
    }

    #[test]
    fn a_registry_that_is_no_plain_file_is_not_waited_for() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mesh = LiveMesh {
            state: home.path().to_owned(),
            holder: Holder { pid: 1, socket: "/run/x.sock".into() },
        };
        let registry = home.path().join(BUCKETS);
        fs::create_dir_all(registry.parent().expect("a folder")).expect("made");
        std::os::unix::fs::symlink("/dev/zero", &registry).expect("linked");
        assert_eq!(mesh.buckets(), []);
        fs::remove_file(&registry).expect("removed");
        nix::unistd::mkfifo(&registry, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert_eq!(mesh.buckets(), []);
    }
}
