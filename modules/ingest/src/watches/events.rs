//! What the kernel tells of changes below the watched folders, and what is said where it does not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brahman_sidecar::chain;
use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, EventKind, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::ABSENT;
use crate::source::is_passed_over;

/// Whether an event can mean that a listing is another. Our own reading makes events too.
pub(super) fn matters(event: &notify::Event) -> bool {
    if event.need_rescan() {
        return true;
    }
    let change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    change && (event.paths.is_empty() || event.paths.iter().any(|path| !is_passed_over(path)))
}

/// Asks the kernel to tell of changes below the paths.
pub(super) fn tellers(
    paths: &[String],
    changed: &Arc<Notify>,
) -> notify::Result<notify::RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error is a reason to look as well.
        if event.as_ref().map_or(true, matters) {
            changed.notify_one();
        }
    })?;
    for path in paths {
        watcher
            .watch(Path::new(path), RecursiveMode::Recursive)
            .map_err(|error| error.add_path(path.into()))?;
    }
    Ok(watcher)
}

/// What is said of a watch of which the kernel will not notify us: its state, and why.
pub(super) fn untold(error: &notify::Error, every: Duration) -> (String, String) {
    let is_absent = match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    if !is_absent {
        return ("polling".into(), why_polling(error, every));
    }
    let path = error
        .paths
        .first()
        .map_or_else(|| "a folder".to_owned(), |path| path.display().to_string());
    (
        "waiting".into(),
        format!("{path} is not there: it is looked for every {} s", ABSENT.as_secs()),
    )
}

/// Why the kernel will not notify us, and what remedies that.
fn why_polling(error: &notify::Error, every: Duration) -> String {
    let every = every.as_secs();
    let full = matches!(error.kind, ErrorKind::MaxFilesWatch)
        || matches!(
            &error.kind,
            ErrorKind::Io(e)
                if e.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error())
        );
    match full {
        true => format!(
            "the kernel's limit on watches is reached: polling every {every} s; raise fs.inotify.max_user_watches with sysctl"
        ),
        false => format!("{}: polling every {every} s", chain(error)),
    }
}
