//! `brahman-index`: started by init.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_index::service::IndexService;
use brahman_index::threads::endless;
use brahman_sidecar::{Client, Module, ModuleError, run};

fn main() -> ExitCode {
    run("index", async |module: Module| {
        let client = Client::new(&module.mesh);
        let folder = module.state.join("indexes");
        let settings = std::env::var_os("BRAHMAN_INDEX_CONFIG").map_or_else(|| module.state.join("index.toml"), PathBuf::from);
        let service = IndexService::open(&folder, &settings, client)
            .map_err(|e| ModuleError::cannot(format!("open the indexes in {}", folder.display()), e))?;
        let service = Arc::new(service);
        service.verify_behind();
        let follower = tokio::spawn(endless("following the catalog", Arc::clone(&service).follow_catalog()));
        let refresher = tokio::spawn(endless("refreshing what is stale", Arc::clone(&service).run_refreshes()));
        let agent = tokio::spawn(endless("the agent", Arc::clone(&service).run_agent()));
        service.when_told().await;
        let attributes = service.attributes();
        let outcome = module.serve_with(service, attributes).await;
        follower.abort();
        refresher.abort();
        agent.abort();
        outcome
    })
}
