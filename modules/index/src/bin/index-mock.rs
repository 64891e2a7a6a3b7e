//! The mock index: context `test`. The same service beside the mesh's socket, in memory where the
//! system keeps that

fn main() -> std::process::ExitCode {
    brahman_index::program::mock()
}
