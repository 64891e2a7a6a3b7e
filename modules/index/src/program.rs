//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_sidecar::{Client, Module, ModuleError, Scope, run};

use crate::rescue;
use crate::service::IndexService;
use crate::threads::endless;

/// `brahman-index`: started by init.
pub fn index() -> ExitCode {
    run("index", async |module: Module| {
        let client = Client::new(&module.mesh);
        let folder = module.state.join("indexes");
        let settings = std::env::var_os("BRAHMAN_INDEX_CONFIG")
            .map_or_else(|| module.state.join("index.toml"), PathBuf::from);
        let service = IndexService::open(&folder, &settings, client).map_err(|e| {
            ModuleError::cannot(format!("open the indexes in {}", folder.display()), e)
        })?;
        let scope = Scope::unknown();
        let service = Arc::new(service.scoped(scope.clone()));
        service.verify_behind();
        let scoping = tokio::spawn(endless(
            "following the active profile",
            scope.follow(module.mesh.clone()),
        ));
        let follower =
            tokio::spawn(endless("following the catalog", Arc::clone(&service).follow_catalog()));
        let refresher =
            tokio::spawn(endless("refreshing what is stale", Arc::clone(&service).run_refreshes()));
        let agent = tokio::spawn(endless("the agent", Arc::clone(&service).run_agent()));
        service.when_told().await;
        let attributes = service.attributes();
        let outcome = module.serve_with(service, attributes).await;
        follower.abort();
        refresher.abort();
        agent.abort();
        scoping.abort();
        outcome
    })
}

/// The mock index: context `test`. The same service beside the mesh's socket, in memory where the
/// system keeps that folder there (`/run`), with `exact` as its engine unless an index names
/// another.
pub fn mock() -> ExitCode {
    run("index-mock", async |module: Module| {
        // Not the state folder: what is tested there must not be found among what counts.
        let folder = module.mesh.with_file_name("index-mock");
        // An earlier version copied a mock's indexes among the real ones' replicas: none is to be
        // opened from there, or to remove them.
        rescue::remember(&folder, None).map_err(|e| {
            ModuleError::cannot(format!("forget the replicas of {}", folder.display()), e)
        })?;
        let service =
            IndexService::open(&folder, &folder.join("index.toml"), Client::new(&module.mesh))
                .map_err(|e| {
                    ModuleError::cannot(format!("open the indexes in {}", folder.display()), e)
                })?;
        let scope = Scope::unknown();
        let service = Arc::new(service.with_engine("exact").for_mock().scoped(scope.clone()));
        let scoping = tokio::spawn(endless(
            "following the active profile",
            scope.follow(module.mesh.clone()),
        ));
        let follower =
            tokio::spawn(endless("following the catalog", Arc::clone(&service).follow_catalog()));
        let refresher =
            tokio::spawn(endless("refreshing what is stale", Arc::clone(&service).run_refreshes()));
        service.when_told().await;
        let attributes = service.attributes();
        let outcome = module.serve_with(service, attributes).await;
        follower.abort();
        refresher.abort();
        scoping.abort();
        outcome
    })
}
