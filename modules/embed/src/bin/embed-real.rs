//! The real embedder: a model in ONNX Runtime.

fn main() -> std::process::ExitCode {
    brahman_embed::program::real()
}
