//! `brahman-profiles`: started by init.

fn main() -> std::process::ExitCode {
    brahman_profiles::program::profiles()
}
