//! `brahman-gateway`: started by init.

fn main() -> std::process::ExitCode {
    brahman_gateway::program::gateway()
}
