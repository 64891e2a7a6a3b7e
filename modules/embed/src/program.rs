//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are polled, so once, with the
//! library, and not again in each program.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_sidecar::{Module, ModuleError, run};

use crate::engine::Engine;
use crate::mock::Mock;
use crate::real::pipeline::{Pipeline, Settings};
use crate::service::EmbedService;

/// The real embedder: a model in ONNX Runtime.
pub fn real() -> ExitCode {
    run("embed-real", async |module: Module| {
        let settings = Settings::from_env(&module.cache).map_err(ModuleError::refused)?;
        module.report(ModuleState::Loading, Some(format!("loads {}", settings.model.display())), BTreeMap::new()).await;
        let opened = tokio::task::spawn_blocking(move || Pipeline::open(&settings)).await;
        let pipeline = opened.map_err(|e| ModuleError::cannot("load the model", e))?.map_err(ModuleError::refused)?;
        let pipeline = Arc::new(pipeline);
        let info = pipeline.info();
        let mut attributes = pipeline.identity().attributes();
        attributes.insert("device_reason".to_owned(), info.device.reason);
        attributes.insert("cache".to_owned(), info.cache.map(|c| c.state).unwrap_or_default());
        let outcome = module.serve_with(Arc::new(EmbedService::new(Arc::clone(&pipeline))), attributes).await;
        pipeline.close();
        outcome
    })
}

/// The mock embedder: context `test`.
pub fn mock() -> ExitCode {
    run("embed-mock", async |module: Module| {
        let mock = Arc::new(Mock::default());
        let attributes = mock.identity().attributes();
        module.serve_with(Arc::new(EmbedService::new(mock)), attributes).await
    })
}
