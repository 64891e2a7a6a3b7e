#!/usr/bin/env bash
# Figures beside their peers, in one run. bench.sh [mesh|embed|index]…
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$CARGO_TARGET_DIR/release
peers=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/peers
wanted="fastembed==0.9.1"
if [ "$(cat "$peers/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "bench: installing $wanted into $peers" >&2
    rm -rf "$peers"
    python3 -m venv "$peers"
    "$peers/bin/python3" -m pip install --quiet --disable-pip-version-check "$wanted"
    echo "$wanted" >"$peers/installed"
fi
if [[ " $* " == *" index "* ]]; then
    index_peers=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/index-peers
    index_wanted="hnswlib==0.8.0 faiss-cpu==1.15.1 usearch==2.26.6 numpy==2.4.6"
    if [ "$(cat "$index_peers/installed" 2>/dev/null)" != "$index_wanted" ]; then
        echo "bench: installing $index_wanted into $index_peers" >&2
        rm -rf "$index_peers"
        python3 -m venv "$index_peers"
        # shellcheck disable=SC2086 # a list of packages
        "$index_peers/bin/python3" -m pip install --quiet --disable-pip-version-check $index_wanted
        echo "$index_wanted" >"$index_peers/installed"
    fi
    export BRAHMAN_BENCH_INDEX_PYTHON=$index_peers/bin/python3
fi
if ! command -v nginx >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "bench: installing nginx-light, the peer of a brokered call" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light; } >&2
fi
"$bin/brahman" models pull
cargo build --locked --release -p brahman-benches
lscpu | grep -E '^(Model name|CPU\(s\))'
BRAHMAN_BENCH_PYTHON=$peers/bin/python3 "$bin/brahman-bench" "$bin" "$@"
