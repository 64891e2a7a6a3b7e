//! `brahman-init`: started by systemd, or by `brahman up`.

use std::path::PathBuf;
use std::process::ExitCode;

use brahman_init::shim::Shim;
use brahman_init::{cards, supervisor};
use brahman_sidecar::{place, telemetry};
use clap::{Parser, Subcommand};

/// Supervises the modules of a mesh and holds their sockets.
///
/// SIGTERM and SIGINT end the mesh in order, a second one at once. SIGHUP reads the Cards again.
/// Exit status: 0 ended as asked, 1 the mesh could not be set up, 2 wrong usage.
#[derive(Parser, Debug)]
#[command(name = "brahman-init", version)]
struct Arguments {
    /// Context the broker starts in, such as test or prod
    #[arg(long, env = "BRAHMAN_BROKER_CONTEXT")]
    context: Option<String>,
    /// Folder of Cards
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
}

fn main() -> ExitCode {
    telemetry::init();
    let arguments = Arguments::parse();
    if let Some(Role::Exec(shim)) = arguments.role {
        return shim.exec();
    }
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let options = supervisor::Options {
        mesh: absolute(arguments.socket.unwrap_or_else(place::mesh_socket)),
        cards: absolute(cards::folder(arguments.cards.as_deref())),
        state: absolute(arguments.state.unwrap_or_else(place::state_dir)),
        context: arguments.context.filter(|c| !c.is_empty()),
    };
    // One thread: everything here is waiting, and starting processes is safest with nothing beside it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(supervisor::run(options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
