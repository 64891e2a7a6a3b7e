//! What this crate's programs run.
//!
//! Here and not in their `main.rs`: the code of a service's futures is generated where they are
//! polled, so once, with the library, and not again in each program.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_models::device;
use brahman_sidecar::{Module, ModuleError, chain, run};

use crate::chat::apart;
use crate::engine::{Engine, number};
use crate::http;
use crate::kept::ResultStore;
use crate::mock::Mock;
use crate::onnx::{Model, OpenError, Settings};
use crate::service::ScoreService;

/// This program, whatever lies at its path by now.
const ITSELF: &str = "/proc/self/exe";

/// Results of some thousand long conversations.
const KEPT_MIB: u64 = 256;

/// The real scorer: a causal language model in ONNX Runtime, or on a server.
pub fn real() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("check") => return check(arguments.next()),
        Some(apart::COMMAND) => return apart::serve(),
        _ => apart::use_program(Path::new(ITSELF)),
    }
    run("score-real", async |module: Module| {
        let kept_bytes = number("BRAHMAN_SCORE_KEPT_MIB")
            .map_err(ModuleError::refused)?
            .unwrap_or(KEPT_MIB)
            .saturating_mul(1 << 20);
        let (server, cache) =
            (http::Settings::from_env().map_err(ModuleError::refused)?, module.cache.clone());
        let what = server
            .as_ref()
            .map_or_else(|| "loads the model".to_owned(), |server| format!("asks {}", server.base));
        module.report(ModuleState::Loading, Some(what), BTreeMap::new()).await;
        let opened = tokio::task::spawn_blocking(move || open(server, &cache)).await;
        let engine = opened.map_err(|e| ModuleError::cannot("load the model", e))??;
        let mut attributes = engine.identity().attributes();
        attributes.extend(device::attributes(&engine.info().device));
        let kept = ResultStore::open(&module.state.join(module.label()), kept_bytes);
        let service = ScoreService::open(engine, kept).map_err(ModuleError::Failed)?;
        module.serve_with(Arc::new(service), attributes).await
    })
}

/// A server, if one is named, else the model. A server that is not there may come: that is tried
/// again.
fn open(server: Option<http::Settings>, cache: &Path) -> Result<Arc<dyn Engine>, ModuleError> {
    match server {
        Some(settings) => {
            let server = http::Server::open(settings);
            Ok(Arc::new(server.map_err(|error| ModuleError::Failed(std::io::Error::other(error)))?))
        }
        None => {
            let settings = Settings::from_env(cache).map_err(ModuleError::refused)?;
            Ok(Arc::new(Model::open(&settings).map_err(ModuleError::refused)?))
        }
    }
}

/// `score-real check DIR`: whether a model will do. Prints what was found; exit 0 or 78.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command that a person runs"
)]
fn check(folder: Option<String>) -> ExitCode {
    let cache = brahman_sidecar::place::cache_dir();
    let settings = match folder {
        Some(folder) => Settings::with(&cache, folder.into()),
        None => Settings::from_env(&cache),
    };
    match settings.map_err(OpenError::from).and_then(|settings| Model::open(&settings)) {
        Ok(model) => {
            println!("{}", model.describe());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::from(brahman_sidecar::module::EXIT_CONFIG)
        }
    }
}

/// A mock's results are cheap: enough for what a test looks at twice.
const KEPT_BYTES: u64 = 64 << 20;

/// The mock scorer: context `test`.
pub fn mock() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(apart::COMMAND) {
        return apart::serve();
    }
    apart::use_program(Path::new(ITSELF));
    run("score-mock", async |module: Module| {
        // Beside the sockets: what a mock says does not belong to the lasting state.
        let folder = module.mesh.with_file_name(format!("{}.kept", module.label()));
        let engine = Arc::new(Mock::default());
        let attributes = engine.identity().attributes();
        let service = ScoreService::open(engine, ResultStore::open(&folder, KEPT_BYTES))
            .map_err(ModuleError::Failed)?;
        module.serve_with(Arc::new(service), attributes).await
    })
}
