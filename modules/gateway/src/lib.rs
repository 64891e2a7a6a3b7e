//! The mesh over HTTP: for clients of OpenAI, Ollama, Cohere, Jina and text-embeddings-inference,
//! for Prometheus, for `curl`.
//!
//! `door` accepts connections, `service` lets requests in and sends each where `routes` says;
//! `embeddings` with `openai`, `ollama` and `tei`, `rerank` and `score` are the dialects of others,
//! `calls`, `idl`, `openapi`, `plain`, `upload` and `mcp` are the mesh's own methods; `caller` and
//! `keys` say who may what, `places` how much at once, `sessions` which of `mcp`'s requests can be
//! cancelled, `mesh` asks the mesh, `answer` and `refusal` make replies.
//!
//! Invariants: nothing is computed or kept here, everything comes through the mesh; whoever comes
//! by TCP has no uid, and opens no path; every input is bounded in bytes, number and time before it
//! is read; an error has the shape that its API's clients know; what was cut, made up or uncertain
//! is told in a header.

mod answer;
mod caller;
mod calls;
mod door;
mod embeddings;
mod idl;
mod keys;
mod mcp;
mod mesh;
mod metrics;
mod ollama;
mod openai;
mod openapi;
mod page;
mod places;
mod plain;
pub mod program;
mod refusal;
mod rerank;
mod routes;
mod score;
mod service;
mod sessions;
mod settings;
mod tei;
mod upload;
