//! What killed uploads have left in folders.
//!
//! A put is staged beside its key, as `key#1`, and a download as `.tmp-…`; a kill leaves these. Of
//! S3 nothing can be listed here: [`object_store`] has no call that lists uploads, so that parts of
//! killed ones stay until a lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) removes
//! them; failed ones are aborted as they fail. Invariants: only files of these names, older than a
//! day, below what we write, in a bucket whose marker is to be seen; no link is followed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Buckets, Entry, Reach, is_name, lock};

/// An upload that has not moved for this long has no process any more.
const LEFT_AGE: Duration = Duration::from_secs(24 * 3600);
/// What we write below, and stage beside.
const WRITTEN: [&str; 3] = ["datasets", "manifests", "objects"];
/// Folders within one another that are looked into: a key of ours has five parts, one of a person's
/// may have more.
const DEPTH_MAX: usize = 16;

/// Whether a name is that of a file on its way to another.
fn is_staged(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let numbered = name.rsplit_once('#').is_some_and(|(key, n)| {
        !key.is_empty() && !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())
    });
    numbered || name.starts_with(".tmp-")
}

/// Removes staged files that are old; what cannot be looked at stays. Gives what was removed.
fn clear(folder: &Path, depth: usize, removed: &mut Vec<PathBuf>) {
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = file.metadata() else { continue };
        let path = file.path();
        if meta.is_dir() && depth < DEPTH_MAX {
            clear(&path, depth + 1, removed);
        }
        let old = || {
            meta.modified()
                .ok()
                .and_then(|touched| touched.elapsed().ok())
                .is_some_and(|age| age > LEFT_AGE)
        };
        if meta.is_file() && is_staged(&file.file_name()) && old() && fs::remove_file(&path).is_ok()
        {
            removed.push(path);
        }
    }
}

impl Buckets {
    /// Removes what killed uploads and downloads have left in folders more than a day ago. Gives
    /// what was removed.
    pub async fn clear_leftovers(&self) -> Vec<PathBuf> {
        let all: Vec<Entry> =
            lock(&self.all).values().filter(|entry| is_name(&entry.bucket.name)).cloned().collect();
        let home = self.home.clone();
        let clearing = tokio::task::spawn_blocking(move || {
            let mut removed = Vec::new();
            for entry in all {
                let folder = match &entry.reach {
                    Reach::Folder(folder) if entry.sighted_in_time(folder).is_ok() => {
                        folder.clone()
                    }
                    Reach::Folder(_) | Reach::Closed(_) => continue,
                    Reach::S3(_) => home.join(&entry.bucket.name),
                };
                WRITTEN.iter().for_each(|below| clear(&folder.join(below), 1, &mut removed));
            }
            removed
        });
        let removed = clearing.await.unwrap_or_default();
        removed.iter().for_each(|path| {
            tracing::info!("removed {}, which a killed upload had left", path.display());
        });
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_old_staged_files_below_what_we_write_go() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let buckets = Buckets::open(state.path()).expect("opens");
        let primary = state.path().join("buckets/primary");
        let old = std::time::SystemTime::now() - 2 * LEFT_AGE;
        for (key, aged) in [
            ("datasets/d/r/part-0.parquet", true),
            ("datasets/d/r/part-0.parquet#1", true),
            ("datasets/d/r/part-1.parquet#1", false),
            ("datasets/d/r/.tmp-x", true),
            ("datasets/d/r/a#b", true),
            ("elsewhere/x#1", true),
        ] {
            let path = primary.join(key);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let file = fs::File::create(&path).expect("made");
            if aged {
                file.set_modified(old).expect("aged");
            }
        }
        let mut removed = buckets.clear_leftovers().await;
        removed.sort();
        assert_eq!(
            removed,
            ["datasets/d/r/.tmp-x", "datasets/d/r/part-0.parquet#1"].map(|key| primary.join(key))
        );
        assert!(
            primary.join("elsewhere/x#1").exists()
                && primary.join("datasets/d/r/part-1.parquet#1").exists()
        );
    }
}
