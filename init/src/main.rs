//! `brahman-init`: started by systemd, or by `brahman up`.

use std::path::PathBuf;
use std::process::ExitCode;

use std::time::Duration;

use brahman_init::shim::Shim;
use brahman_init::supervisor;
use brahman_sidecar::module::EXIT_CONFIG;
use brahman_sidecar::{place, telemetry};
use clap::{Parser, Subcommand};

/// How long the last lines of the log may take: a reader that is stopped must not hold up the end.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Supervises the modules of a mesh and holds their sockets.
///
/// SIGTERM and SIGINT end the mesh in order, a second one at once. SIGHUP reads the Cards again.
/// Exit status: 0 ended as asked, 1 the mesh could not be set up, 2 wrong usage, 78 what only a
/// person can mend: a Card, a context, a file that lies in the way.
#[derive(Parser, Debug)]
#[command(name = "brahman-init", version)]
struct Arguments {
    /// Context the broker starts in, such as test or prod
    #[arg(long, env = "BRAHMAN_BROKER_CONTEXT")]
    context: Option<String>,
    /// Folder of Cards, instead of all others
    #[arg(long)]
    cards: Option<PathBuf>,
    /// Directory for lasting state
    #[arg(long)]
    state: Option<PathBuf>,
    /// The mesh socket
    #[arg(long)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand, Debug)]
enum Role {
    /// Becomes a module's program, with its limits set (init calls itself so)
    #[command(name = "__exec", hide = true)]
    Exec(Shim),
    /// Ends what a killed init left behind (`brahman down` calls init so)
    #[command(name = "__sweep", hide = true)]
    Sweep,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sweep = match arguments.role {
        Some(Role::Exec(shim)) => {
            telemetry::init();
            return shim.exec();
        }
        Some(Role::Sweep) => true,
        None => false,
    };
    telemetry::init_queued();
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let options = supervisor::Options {
        mesh: absolute(arguments.socket.unwrap_or_else(place::mesh_socket)),
        cards: place::cards::sources(arguments.cards.as_deref()),
        state: absolute(arguments.state.unwrap_or_else(place::state_dir)),
        context: arguments.context.filter(|c| !c.is_empty()),
        detached: std::env::var_os(place::DETACHED).is_some_and(|value| !value.is_empty()),
    };
    // One thread: everything here is waiting, and starting processes is safest with nothing beside
    // it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            if sweep {
                supervisor::sweep(&options.mesh).await
            } else {
                supervisor::run(options).await
            }
        })
    });
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            if supervisor::is_configuration(&error) {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    };
    telemetry::flush(LAST_LINES);
    code
}
