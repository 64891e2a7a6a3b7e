//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_models::device;
use brahman_sidecar::{Module, ModuleError, chain, run};

use crate::engine::Engine;
use crate::mock::Mock;
use crate::real::check::{CheckError, check};
use crate::real::pipeline::{Pipeline, Settings};
use crate::service::RerankService;

/// The real reranker: a cross-encoder in ONNX Runtime.
pub fn real() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("check") {
        return checked(arguments.next());
    }
    run("rerank-real", async |module: Module| {
        let settings = Settings::from_env(&module.cache, None).map_err(ModuleError::refused)?;
        module
            .report(
                ModuleState::Loading,
                Some(format!("loads {}", settings.model.display())),
                BTreeMap::new(),
            )
            .await;
        let opened = tokio::task::spawn_blocking(move || Pipeline::open(&settings)).await;
        let pipeline = opened
            .map_err(|e| ModuleError::cannot("load the model", e))?
            .map_err(ModuleError::refused)?;
        let pipeline = Arc::new(pipeline);
        let mut attributes = pipeline.identity().attributes();
        attributes.extend(device::attributes(&pipeline.info().device));
        let outcome = module
            .serve_with(Arc::new(RerankService::new(Arc::clone(&pipeline))), attributes)
            .await;
        pipeline.close();
        outcome
    })
}

/// `rerank-real check [DIR]`: whether a model will do. Prints what was found; exit 0 or 78.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command that a person runs"
)]
fn checked(folder: Option<String>) -> ExitCode {
    let settings = Settings::from_env(&brahman_sidecar::place::cache_dir(), folder.map(Into::into));
    match settings.map_err(CheckError::from).and_then(|settings| check(&settings)) {
        Ok(lines) => {
            println!("{}", lines.join("\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::from(brahman_sidecar::module::EXIT_CONFIG)
        }
    }
}

/// The mock reranker: context `test`.
pub fn mock() -> ExitCode {
    run("rerank-mock", async |module: Module| {
        let mock = Arc::new(Mock::default());
        let attributes = mock.identity().attributes();
        module.serve_with(Arc::new(RerankService::new(mock)), attributes).await
    })
}
