//! The mock embedder: context `test`.

fn main() -> std::process::ExitCode {
    brahman_embed::program::mock()
}
