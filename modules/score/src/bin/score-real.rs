//! The real scorer: a causal language model in ONNX Runtime.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_score::engine::Engine;
use brahman_score::kept::Kept;
use brahman_score::onnx::{Model, Settings};
use brahman_score::service::ScoreService;
use brahman_sidecar::{Module, ModuleError, run};

/// Results of some thousand long conversations.
const KEPT_MIB: u64 = 256;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("check") {
        return check(arguments.next());
    }
    run("score-real", async |module: Module| {
        let settings = Settings::from_env(&module.cache).map_err(ModuleError::Config)?;
        module.report(ModuleState::Loading, Some(format!("loads {}", settings.model.display())), BTreeMap::new()).await;
        let opened = tokio::task::spawn_blocking(move || Model::open(&settings)).await;
        let model = opened.map_err(|e| ModuleError::Config(format!("loading ended: {e}")))?.map_err(ModuleError::Config)?;
        let mut attributes = model.identity().attributes();
        attributes.insert("device_reason".to_owned(), model.info().device.reason);
        let mib = std::env::var("BRAHMAN_SCORE_KEPT_MIB").ok().and_then(|v| v.parse().ok()).unwrap_or(KEPT_MIB);
        let kept = Kept::open(&module.state.join(module.label()), mib << 20);
        let service = ScoreService::open(Arc::new(model), kept).map_err(ModuleError::Failed)?;
        module.serve_with(Arc::new(service), attributes).await
    })
}

/// `score-real check DIR`: whether a model will do. Prints what was found; exit 0 or 78.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command that a person runs")]
fn check(folder: Option<String>) -> ExitCode {
    let cache = brahman_sidecar::place::cache_dir();
    let settings = match folder {
        Some(folder) => Settings::with(&cache, folder.into()),
        None => Settings::from_env(&cache),
    };
    match settings.and_then(|settings| Model::open(&settings)) {
        Ok(model) => {
            println!("{}", model.describe());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(brahman_sidecar::module::EXIT_CONFIG)
        }
    }
}
