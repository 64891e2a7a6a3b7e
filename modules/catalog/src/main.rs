//! `brahman-catalog`: started by init.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_catalog::books::Books;
use brahman_catalog::service::CatalogService;
use brahman_sidecar::{Module, ModuleError, run};
use brahman_storage::buckets::Buckets;

fn main() -> ExitCode {
    run("catalog", async |module: Module| {
        let books = Books::open(&module.state)
            .map_err(|e| ModuleError::Config(format!("cannot open the catalog in {}: {e}", module.state.display())))?;
        let buckets = Buckets::open(&module.state)
            .map_err(|e| ModuleError::Config(format!("cannot open the buckets in {}: {e}", module.state.display())))?;
        module.serve(Arc::new(CatalogService::new(books, buckets))).await
    })
}
