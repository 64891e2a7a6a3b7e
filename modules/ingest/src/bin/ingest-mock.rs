//! The mock of ingest: context `test`. Files are read as ever; tables are synthetic, so that clients need no database. Datasets of both
//! kinds are the mocks': real ones are neither changed nor hidden from who is no mock.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_ingest::service::IngestService;
use brahman_sidecar::{Client, Module, run};

fn main() -> ExitCode {
    run("ingest-mock", async |module: Module| {
        let client = Client::new(&module.mesh);
        let service = Arc::new(IngestService::synthetic(client, module.label()));
        service.bury().await;
        module.serve(service).await
    })
}
