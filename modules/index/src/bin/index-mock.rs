//! The mock index: context `test`. The same service beside the mesh's socket, in memory where the system keeps that
//! folder there (`/run`), with `exact` as its engine unless an index names another.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_index::service::IndexService;
use brahman_index::threads::endless;
use brahman_sidecar::{Client, Module, ModuleError, run};

fn main() -> ExitCode {
    run("index-mock", async |module: Module| {
        // Not the state folder: what is tested there must not be found among what counts.
        let folder = module.mesh.with_file_name("index-mock");
        let service = IndexService::open(&folder, &folder.join("index.toml"), Client::new(&module.mesh))
            .map_err(|e| ModuleError::cannot(format!("open the indexes in {}", folder.display()), e))?;
        let service = Arc::new(service.with_engine("exact").for_mock());
        let follower = tokio::spawn(endless("following the catalog", Arc::clone(&service).follow_catalog()));
        let refresher = tokio::spawn(endless("refreshing what is stale", Arc::clone(&service).run_refreshes()));
        service.when_told().await;
        let attributes = service.attributes();
        let outcome = module.serve_with(service, attributes).await;
        follower.abort();
        refresher.abort();
        outcome
    })
}
