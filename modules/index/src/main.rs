//! `brahman-index`: started by init.

fn main() -> std::process::ExitCode {
    brahman_index::program::index()
}
