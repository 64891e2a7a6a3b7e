//! The Varlink codec, sans I/O: bytes in, frames and headers out.
//!
//! * [`frame`]: where one message ends and the next begins (NUL, or newline for people with `nc`).
//! * [`header`]: the few top-level keys that routing needs, found without parsing the payload.
//! * [`fault`]: errors as they travel.
//! * [`parameters`]: what a call was given, typed, or what is wrong with it and where.
//! * [`base64`]: bytes among the parameters.
//! * [`numbers`]: a vector among the parameters, read at the speed of a search.
//!
//! Invariants: no message over [`MESSAGE_BYTES_MAX`], none deeper than [`DEPTH_MAX`]; both are
//! checked before any recursive parser sees a byte.

pub mod base64;
pub mod fault;
pub mod frame;
pub mod header;
pub mod numbers;
pub mod parameters;

/// Longest message, as in sd-varlink.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Longest name of a method, interface included: ours have 40.
pub const METHOD_BYTES_MAX: usize = 256;
/// Deepest nesting of a message: ours need 6, and recursive parsers in other languages stand 100.
pub const DEPTH_MAX: usize = 64;

/// Header key: milliseconds the caller still waits.
pub const KEY_DEADLINE: &str = "org.brahman.deadline_ms";
/// Header key: context for this call alone.
pub const KEY_CONTEXT: &str = "org.brahman.context";
/// Header key: an opaque trace id, passed on.
pub const KEY_TRACE: &str = "org.brahman.trace";
/// Header key: the caller's uid, set by the broker only.
pub const KEY_UID: &str = "org.brahman.uid";
/// Header key: attributes that the provider must have, an object of strings.
pub const KEY_REQUIRE: &str = "org.brahman.require";
/// Header and reply key: a number of the caller's own, given back by servers that know it, so that
/// an answer is known to belong to its call.
pub const KEY_CALL: &str = "org.brahman.call";
/// Header key: true for a call on which a provider that was called straight has ended.
pub const KEY_AGAIN: &str = "org.brahman.again";
/// Reply key: true if the provider is a mock, set by the broker.
pub const KEY_MOCK: &str = "org.brahman.mock";
/// Reply key: label of the provider that answered.
pub const KEY_PROVIDER: &str = "org.brahman.provider";
