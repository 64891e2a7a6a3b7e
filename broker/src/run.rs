//! Putting the broker together: its socket from init, its table from init, its context from the
//! environment.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_sidecar::serve::{AcceptLimits, accept};
use brahman_sidecar::{Module, ModuleError, place};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::service::Broker;
use crate::splice::converse;
use crate::table::{ContextFile, Table, follow};

/// `brahman-broker`. Here and not in `main.rs`, so that the code of its futures is generated once,
/// with the library.
pub fn program() -> ExitCode {
    brahman_sidecar::run("broker", run)
}

/// Runs the broker until it is drained; fails if it has no socket to serve on.
async fn run(mut module: Module) -> Result<(), ModuleError> {
    let listener = module.take_listener()?;
    let init = place::init_socket(&module.mesh);
    let context_file = ContextFile(module.mesh.with_file_name("context"));
    let from_environment = std::env::var("BRAHMAN_BROKER_CONTEXT").ok().filter(|c| !c.is_empty());
    let context = context_file.read().unwrap_or(from_environment);
    tracing::info!(context = context.as_deref().unwrap_or("(none)"), "broker starts");
    let (table, mut first) = watch::channel(Arc::new(Table::empty(context)));
    let broker =
        Arc::new(Broker::new(table.clone(), module.drain.clone(), init.clone(), context_file));
    let follower = tokio::spawn(follow(init, table));
    // Ready means able to match: after init's first word.
    let _ = first.wait_for(|table| !table.modules.is_empty()).await;
    module.report(ModuleState::Ready, None, std::collections::BTreeMap::new()).await;
    let tracker = TaskTracker::new();
    let connections = std::env::var("BRAHMAN_QUOTA_CONNECTIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4096);
    accept(listener, AcceptLimits { connections }, &module.drain, &tracker, |stream, peer| {
        converse(stream, peer, Arc::clone(&broker))
    })
    .await;
    tracker.close();
    tracker.wait().await;
    follower.abort();
    Ok(())
}
