//! `brahman-ingest`: started by init.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_ingest::service::IngestService;
use brahman_sidecar::{Client, Module, ModuleError, run};

fn main() -> ExitCode {
    run("ingest", async |module: Module| {
        let client = Client::new(&module.mesh);
        let service = IngestService::new(client, module.label(), &module.state);
        let service = Arc::new(service.map_err(|e| ModuleError::cannot("read the watches", e))?);
        service.bury().await;
        let attributes = service.attributes();
        module.serve_with(service, attributes).await
    })
}
