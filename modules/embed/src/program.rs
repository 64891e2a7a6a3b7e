//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use brahman_card::ModuleState;
use brahman_models::device;
use brahman_sidecar::{Module, ModuleError, Reporter, chain, run};

use crate::engine::Engine;
use crate::http::{self, HttpEngine};
use crate::mock::Mock;
use crate::real::check::{CheckError, check};
use crate::real::pipeline::{Pipeline, Settings};
use crate::service::EmbedService;

/// How often it is looked whether the cache's folder is still there.
const CACHE_EVERY: Duration = Duration::from_secs(5);

/// The real embedder: a model in ONNX Runtime.
pub fn real() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("check") {
        return checked(arguments.next());
    }
    run("embed-real", async |module: Module| {
        let settings = Settings::from_env(&module.cache).map_err(ModuleError::refused)?;
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
        let info = pipeline.info();
        let mut attributes = pipeline.identity().attributes();
        attributes.extend(device::attributes(&info.device));
        attributes.insert("cache".to_owned(), info.cache.map(|c| c.state).unwrap_or_default());
        let watching =
            tokio::spawn(tell_cache(Arc::clone(&pipeline), module.reporter(), attributes.clone()));
        let outcome =
            module.serve_with(Arc::new(EmbedService::new(Arc::clone(&pipeline))), attributes).await;
        watching.abort();
        pipeline.close();
        outcome
    })
}

/// Tells for ever how the cache stands whenever that changes: somebody may delete its folder.
async fn tell_cache(
    pipeline: Arc<Pipeline>,
    reporter: Reporter,
    mut attributes: BTreeMap<String, String>,
) {
    loop {
        tokio::time::sleep(CACHE_EVERY).await;
        let state = pipeline.cache_state();
        if attributes.get("cache") != Some(&state) {
            tracing::warn!("the vector cache: {state}");
            attributes.insert("cache".to_owned(), state);
            reporter.tell(attributes.clone()).await;
        }
    }
}

/// `embed-real check [DIR]`: whether a model will do. Prints what was found; exit 0 or 78.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command that a person runs"
)]
fn checked(folder: Option<String>) -> ExitCode {
    let settings = Settings::from_env(&brahman_sidecar::place::cache_dir());
    let settings = settings.map(|settings| match folder {
        Some(folder) => Settings { model: folder.into(), ..settings },
        None => settings,
    });
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

/// The remote embedder: a server that is asked over HTTP. One that is not there may come: that is
/// tried again.
pub fn http() -> ExitCode {
    run("embed-http", async |module: Module| {
        let settings = http::Settings::from_env(&module.cache, module.label())
            .map_err(ModuleError::refused)?;
        module
            .report(ModuleState::Loading, Some(format!("asks {}", settings.base)), BTreeMap::new())
            .await;
        let opened = HttpEngine::open(settings, &module.state, module.label()).await;
        let engine = Arc::new(opened.map_err(|error| {
            if error.is_passing() {
                ModuleError::Failed(std::io::Error::other(error))
            } else {
                ModuleError::refused(error)
            }
        })?);
        let attributes = engine.attributes();
        let outcome =
            module.serve_with(Arc::new(EmbedService::new(Arc::clone(&engine))), attributes).await;
        engine.close();
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
