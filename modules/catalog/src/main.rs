//! `brahman-catalog`: started by init.

fn main() -> std::process::ExitCode {
    brahman_catalog::program::catalog()
}
