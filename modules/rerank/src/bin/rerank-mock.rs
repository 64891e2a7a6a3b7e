//! The mock reranker: context `test`.

fn main() -> std::process::ExitCode {
    brahman_rerank::program::mock()
}
