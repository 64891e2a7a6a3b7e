//! `brahman-broker`: started by init.

use std::process::ExitCode;

fn main() -> ExitCode {
    brahman_sidecar::run("broker", brahman_broker::run::run)
}
