//! The mock embedder: context `test`.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_embed::engine::Engine;
use brahman_embed::mock::Mock;
use brahman_embed::service::EmbedService;
use brahman_sidecar::{Module, run};

fn main() -> ExitCode {
    run("embed-mock", async |module: Module| {
        let mock = Arc::new(Mock::default());
        let attributes = mock.identity().attributes();
        module.serve_with(Arc::new(EmbedService::new(mock)), attributes).await
    })
}
