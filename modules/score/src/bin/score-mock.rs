//! The mock scorer: context `test`.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_score::engine::Engine;
use brahman_score::kept::ResultStore;
use brahman_score::mock::Mock;
use brahman_score::service::ScoreService;
use brahman_sidecar::{Module, ModuleError, run};

/// A mock's results are cheap: enough for what a test looks at twice.
const KEPT_BYTES: u64 = 64 << 20;

fn main() -> ExitCode {
    run("score-mock", async |module: Module| {
        // Beside the sockets: what a mock says does not belong to the lasting state.
        let folder = module.mesh.with_file_name(format!("{}.kept", module.label()));
        let engine = Arc::new(Mock::default());
        let attributes = engine.identity().attributes();
        let service = ScoreService::open(engine, ResultStore::open(&folder, KEPT_BYTES)).map_err(ModuleError::Failed)?;
        module.serve_with(Arc::new(service), attributes).await
    })
}
