//! `brahman-broker`: started by init.

fn main() -> std::process::ExitCode {
    brahman_broker::run::program()
}
