//! `brahman-ingest`: started by init.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_ingest::service::IngestService;
use brahman_sidecar::{Client, Module, run};

fn main() -> ExitCode {
    run("ingest", async |module: Module| {
        let client = Client::new(&module.mesh);
        let service = Arc::new(IngestService::new(client, module.label()));
        service.bury().await;
        module.serve(service).await
    })
}
