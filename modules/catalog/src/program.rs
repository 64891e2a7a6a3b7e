//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_sidecar::serve::{AcceptLimits, ServeOptions, serve};
use brahman_sidecar::{Module, ModuleError, run};
use tokio::task::JoinSet;

use crate::service::CatalogService;

/// `brahman-catalog`: started by init.
pub fn catalog() -> ExitCode {
    run("catalog", async |mut module: Module| {
        let service = CatalogService::open(&module.state).map_err(|e| {
            ModuleError::cannot(format!("open the catalog in {}", module.state.display()), e)
        })?;
        let service = Arc::new(service.on_mesh(&module.mesh));
        let listener = module.take_listener()?;
        // What nobody waits for: copies, a look at everything, and what earlier lives have left. It
        // ends with this process.
        let mut beside = JoinSet::new();
        let (copying, scrubbing, sweeping) =
            (Arc::clone(&service), Arc::clone(&service), Arc::clone(&service));
        beside.spawn(async move { copying.keep_copies().await });
        beside.spawn(async move { scrubbing.keep_scrubbing().await });
        beside.spawn(async move { sweeping.keep_sweeping().await });
        let (scoping, mesh) = (Arc::clone(&service), module.mesh.clone());
        beside.spawn(async move { scoping.keep_scope(&mesh).await });
        let mut options = ServeOptions::named(module.label());
        if let Some(connections) =
            std::env::var("BRAHMAN_QUOTA_CONNECTIONS").ok().and_then(|n| n.parse().ok())
        {
            options.limits = AcceptLimits { connections };
        }
        // The first word of how far copies are behind is the one that the module is ready.
        let telling = service.keep_telling(async |attributes| {
            if !module.drain.is_cancelled() {
                module.report(ModuleState::Ready, None, attributes).await;
            }
        });
        tokio::select! {
            () = serve(listener, Arc::clone(&service), options, module.drain.clone()) => {}
            () = telling => {}
        }
        Ok(())
    })
}
