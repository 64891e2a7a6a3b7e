//! `brahman-catalog`: started by init.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_catalog::service::CatalogService;
use brahman_sidecar::{Module, ModuleError, run};

fn main() -> ExitCode {
    run("catalog", async |module: Module| {
        let service = CatalogService::open(&module.state)
            .map_err(|e| ModuleError::Config(format!("cannot open the catalog in {}: {e}", module.state.display())))?;
        let service = service.on_mesh(&module.mesh);
        module.serve(Arc::new(service)).await
    })
}
