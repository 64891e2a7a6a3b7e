//! A generation in another folder, for a backup: what it is made of, and nothing else.
//!
//! Its files are written once, so a second name of each is as good as a copy; where the disk has
//! none they are copied. Invariants: `CURRENT` is written last; a folder of an older generation
//! whose base is used says that this one does not count.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use brahman_card::clock::now_ms;

use super::{CURRENT, Folder, MANIFEST, Pointer, RETIRED};
use crate::files::named;
use crate::generation::Generation;
use crate::sealed;

/// Files of eval sets, which are written once.
const EVALS: &str = "evals";

impl Folder {
    /// Puts a generation that somebody holds into a folder that is there.
    ///
    /// # Errors
    /// As the file system gives them, naming the file.
    pub fn snapshot(&self, generation: &Generation, to: &Path) -> io::Result<()> {
        let own = format!("{}/{MANIFEST}", generation.folder);
        let mut folders = BTreeSet::new();
        for file in generation.manifest.files().map(|file| file.path.as_str()).chain([own.as_str()])
        {
            link(&self.path().join(file), &to.join(file)).map_err(|e| named(file, e))?;
            folders.extend(
                file.split_once('/')
                    .map(|(folder, _)| folder)
                    .filter(|folder| folder.starts_with("gen-")),
            );
        }
        for other in folders.into_iter().filter(|folder| *folder != generation.folder) {
            let manifest = format!("{other}/{MANIFEST}");
            link(&self.path().join(&manifest), &to.join(&manifest))
                .map_err(|e| named(manifest, e))?;
            fs::write(to.join(other).join(RETIRED), "")?;
        }
        match fs::read_dir(self.path().join(EVALS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries? {
                    let name = entry?.file_name();
                    link(&self.path().join(EVALS).join(&name), &to.join(EVALS).join(&name))?;
                }
            }
        }
        let known =
            self.pointer().ok().flatten().filter(|pointer| pointer.generation == generation.folder);
        let pointer = known.unwrap_or_else(|| Pointer {
            sequence: 1,
            generation: generation.folder.clone(),
            reason: generation.manifest.reason.clone(),
            at_ms: now_ms(),
            pinned: false,
            before: None,
        });
        // What answered before is not in the copy.
        let pointer = Pointer { before: None, ..pointer };
        fs::write(to.join(CURRENT), sealed::to_vec(&pointer)?)
    }
}

/// Gives a file another name, or copies it.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)?;
    }
    Ok(())
}
