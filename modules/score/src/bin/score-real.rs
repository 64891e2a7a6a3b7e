//! The real scorer: a causal language model in ONNX Runtime, or on a server.

fn main() -> std::process::ExitCode {
    brahman_score::program::real()
}
