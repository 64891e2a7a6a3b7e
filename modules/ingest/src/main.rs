//! `brahman-ingest`: started by init.

fn main() -> std::process::ExitCode {
    brahman_ingest::program::ingest()
}
