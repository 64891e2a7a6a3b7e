//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_sidecar::{Module, ModuleError, chain, run};

use crate::service::ProfilesService;
use crate::settings::Settings;

/// `brahman-profiles`: started by init.
pub fn profiles() -> ExitCode {
    run("profiles", async |module: Module| {
        let settings = Settings::from_env().map_err(ModuleError::refused)?;
        let service =
            ProfilesService::open(settings, &module.state, &module.mesh).map_err(|e| {
                ModuleError::cannot(format!("open the profiles in {}", module.state.display()), e)
            })?;
        let service = Arc::new(service);
        // A mesh of one module has no init: nothing can be loaded there, and the rest is served.
        if std::env::var_os("BRAHMAN_INIT").is_some()
            && let Err(error) = service.take_up().await
        {
            tracing::error!("what the active profile needs was not started: {}", chain(&error));
        }
        let watching = tokio::spawn(Arc::clone(&service).keep_watch());
        let outcome = module.serve(service).await;
        watching.abort();
        outcome
    })
}
