//! systemd's registry of Varlink services, for a mesh whose socket is none of systemd's: a link by
//! each interface's name, as the units have them. `varlinkctl list-registry` shows it.
//!
//! Invariants: a mesh at its usual place alone is registered, so that a second one does not take
//! its names; the registry is systemd's to make; what somebody else has put there is neither
//! replaced nor removed.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use brahman_card::interface;

/// The mesh socket's usual place below a folder of runtime files: `/run`, or a user's own.
const USUAL: &str = "brahman/brahman.sock";
/// The registry below the same.
const REGISTRY: &str = "varlink/registry";

/// What was registered, until [`Self::end`].
#[derive(Debug)]
pub(crate) struct Registration {
    mesh: PathBuf,
    links: Vec<PathBuf>,
}

impl Registration {
    /// Registers a mesh, if it is at its usual place and there is a registry. A mesh that cannot be
    /// registered is served all the same.
    pub(crate) fn begin(mesh: &Path) -> Self {
        let mut links = Vec::new();
        let names = interface::ALL.iter().map(|known| known.name);
        let ours = names.filter(|name| name.starts_with(interface::OURS));
        let wanted = registry_beside(mesh).map(|folder| ours.map(move |name| folder.join(name)));
        for link in wanted.into_iter().flatten() {
            match symlink(mesh, &link) {
                Ok(()) => links.push(link),
                // That of an init that was killed.
                Err(_) if leads_to(&link, mesh) => links.push(link),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::info!(link = %link.display(), "another service is registered so, and stays");
                }
                Err(error) => {
                    tracing::info!(link = %link.display(), %error, "the mesh is not in systemd's registry of Varlink services");
                    break;
                }
            }
        }
        Self { mesh: mesh.to_owned(), links }
    }

    /// Takes away what was registered, if it has not become somebody else's.
    pub(crate) fn end(self) {
        for link in self.links.iter().filter(|link| leads_to(link, &self.mesh)) {
            // One that stays leads nowhere, and to the next mesh here once there is one.
            let _ = std::fs::remove_file(link);
        }
    }
}

fn registry_beside(mesh: &Path) -> Option<PathBuf> {
    let runtime = mesh.ends_with(USUAL).then(|| mesh.ancestors().nth(2))??;
    Some(runtime.join(REGISTRY)).filter(|folder| folder.is_dir())
}

fn leads_to(link: &Path, mesh: &Path) -> bool {
    std::fs::read_link(link).is_ok_and(|target| target == mesh)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder.join(REGISTRY)).expect("the registry");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_mesh_is_registered_while_it_runs_and_nobody_elses_link_is_touched() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let folder = folder.path();
        let mesh = folder.join(USUAL);
        // There is no registry, and none is made.
        Registration::begin(&mesh).end();
        assert!(!folder.join("varlink").exists());
        std::fs::create_dir_all(folder.join(REGISTRY)).expect("made");
        let (theirs, left) = (interface::embed::INTERFACE.name, interface::index::INTERFACE.name);
        symlink("/elsewhere", folder.join(REGISTRY).join(theirs)).expect("linked");
        symlink(&mesh, folder.join(REGISTRY).join(left)).expect("linked");
        let registration = Registration::begin(&mesh);
        let ours: std::collections::BTreeSet<&str> =
            interface::ALL.iter().map(|known| known.name).collect();
        let names = registered(folder);
        assert!(names.iter().all(|name| ours.contains(name.as_str())), "{names:?}");
        assert_eq!(names.len(), ours.len() - 1, "all but org.varlink.service: {names:?}");
        assert!(leads_to(&folder.join(REGISTRY).join(left), &mesh));
        registration.end();
        assert_eq!(registered(folder), [theirs], "of a killed init as well, and not another's");
        assert!(leads_to(&folder.join(REGISTRY).join(theirs), Path::new("/elsewhere")));
        // One elsewhere is nobody's usual mesh.
        std::fs::create_dir_all(folder.join("run")).expect("made");
        Registration::begin(&folder.join("run/brahman.sock")).end();
        assert_eq!(registered(folder), [theirs]);
    }
}
