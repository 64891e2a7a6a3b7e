//! The real reranker: a cross-encoder in ONNX Runtime.

fn main() -> std::process::ExitCode {
    brahman_rerank::program::real()
}
