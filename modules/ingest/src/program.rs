//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_sidecar::{Client, Module, ModuleError, Scope, run};

use crate::service::IngestService;

/// `brahman-ingest`: started by init.
pub fn ingest() -> ExitCode {
    run("ingest", async |module: Module| {
        let client = Client::new(&module.mesh);
        let service = IngestService::new(client, module.label(), &module.state);
        let service = service.map_err(|e| ModuleError::cannot("read the watches", e))?;
        let service = Arc::new(service.scoped(Scope::unknown()));
        let (keeping, mesh) = (Arc::clone(&service), module.mesh.clone());
        let scoping = tokio::spawn(async move { keeping.keep_scope(mesh).await });
        service.bury().await;
        let attributes = service.attributes();
        let outcome = module.serve_with(service, attributes).await;
        scoping.abort();
        outcome
    })
}

/// The mock of ingest: context `test`. Files are read as ever; tables are synthetic, so that
/// clients need no database. Datasets of both kinds are the mocks': real ones are neither changed
/// nor hidden from who is no mock.
pub fn mock() -> ExitCode {
    run("ingest-mock", async |module: Module| {
        let client = Client::new(&module.mesh);
        let scope = Scope::unknown();
        let service =
            Arc::new(IngestService::synthetic(client, module.label()).scoped(scope.clone()));
        let scoping = tokio::spawn(scope.follow(module.mesh.clone()));
        service.bury().await;
        let outcome = module.serve(service).await;
        scoping.abort();
        outcome
    })
}
