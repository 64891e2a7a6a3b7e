//! The remote embedder: a server that speaks OpenAI's, Ollama's or TEI's HTTP.

fn main() -> std::process::ExitCode {
    brahman_embed::program::http()
}
