//! The mock scorer: context `test`.

fn main() -> std::process::ExitCode {
    brahman_score::program::mock()
}
