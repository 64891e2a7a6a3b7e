//! The mock embedder: context `test`.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_embed::mock::Mock;
use brahman_embed::service::EmbedService;
use brahman_sidecar::{Module, run};

fn main() -> ExitCode {
    run("embed-mock", async |module: Module| module.serve(Arc::new(EmbedService::new(Arc::new(Mock::default())))).await)
}
