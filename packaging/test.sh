#!/usr/bin/env bash
# Every test, on real parts: fetches the model, ONNX Runtime and the foreign clients once, builds, runs.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(packaging/tools.sh)
cargo build --locked --bins
"$CARGO_TARGET_DIR/debug/brahman" models pull
export BRAHMAN_TEST_TOOLS=$tools
# .config/nextest.toml says how; examples in the documentation are beyond it.
"$tools/bin/cargo-nextest" nextest run --locked --workspace --exclude brahman-benches
cargo test --locked --workspace --exclude brahman-benches --doc
