//! Folders that cannot be watched beside one another, or at all.

use std::path::{Path, PathBuf};

use crate::source::{is_bucket, is_state};

/// Two of the folders of which the first is the other one or below it, by whatever links.
pub(super) fn overlap(paths: &[String]) -> Option<(&str, &str)> {
    let real: Vec<PathBuf> = paths
        .iter()
        .map(|path| std::fs::canonicalize(path).unwrap_or_else(|_| path.into()))
        .collect();
    let below = |one: usize| {
        (0..paths.len())
            .find(|other| *other != one && real[one].starts_with(&real[*other]))
            .map(|other| (one, other))
    };
    (0..paths.len())
        .find_map(below)
        .map(|(one, other)| (paths[one].as_str(), paths[other].as_str()))
}

/// The first of the folders that is a bucket or the state of a mesh, or within one, by whatever
/// links: what is ingested from it would be found there as new files.
pub(super) fn in_mesh(paths: &[String]) -> Option<&str> {
    let is_in = |path: &&String| {
        std::fs::canonicalize(path)
            .is_ok_and(|path| path.ancestors().any(|folder| is_bucket(folder) || is_state(folder)))
    };
    paths.iter().find(is_in).map(String::as_str)
}

/// The first of the folders that is within this one, by whatever links: a watch of the mesh's state
/// would find new files of its own making for ever.
pub(super) fn within<'a>(state: &Path, paths: &'a [String]) -> Option<&'a str> {
    let state = std::fs::canonicalize(state).ok()?;
    let is_within =
        |path: &&String| std::fs::canonicalize(path).is_ok_and(|path| path.starts_with(&state));
    paths.iter().find(is_within).map(String::as_str)
}
