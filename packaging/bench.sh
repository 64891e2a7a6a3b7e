#!/usr/bin/env bash
# Figures beside their peers, in one run. bench.sh [mesh|doors|embed|rerank|index|index-mesh|ingest|pii|score]…
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$CARGO_TARGET_DIR/release
# environment NAME PACKAGES…: a virtual environment of these packages; prints its python.
environment() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/$1
    shift
    if [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ]; then
        echo "bench: installing $* into $folder" >&2
        rm -rf "$folder"
        python3 -m venv "$folder"
        "$folder/bin/python3" -m pip install --quiet --disable-pip-version-check "$@" >&2
        echo "$*" >"$folder/installed"
    fi
    echo "$folder/bin/python3"
}
BRAHMAN_BENCH_PYTHON=$(environment peers fastembed==0.9.1)
export BRAHMAN_BENCH_PYTHON
if [ $# = 0 ] || [[ " $* " == *" doors "* ]]; then
    BRAHMAN_BENCH_DOORS_PYTHON=$(environment doors-peers fastembed==0.9.1 fastapi==0.165.0 uvicorn==0.54.0 openai==3.57.0)
    export BRAHMAN_BENCH_DOORS_PYTHON
fi
if [[ " $* " == *" index "* ]]; then
    BRAHMAN_BENCH_INDEX_PYTHON=$(environment index-peers hnswlib==0.8.0 faiss-cpu==1.15.1 usearch==2.26.6 numpy==2.4.6)
    export BRAHMAN_BENCH_INDEX_PYTHON
fi
if [[ " $* " == *" ingest "* ]]; then
    BRAHMAN_BENCH_INGEST_PYTHON=$(environment ingest-peers connectorx==0.4.6 pyarrow==26.0.1 duckdb==2.0.0)
    export BRAHMAN_BENCH_INGEST_PYTHON
fi
if [[ " $* " == *" pii "* ]]; then
    BRAHMAN_BENCH_PII_PYTHON=$(environment pii-peers faker==40.54.0 python-stdnum==2.2 presidio-analyzer==2.2.366)
    # Its templates are wanted, not the models that it runs on.
    "$BRAHMAN_BENCH_PII_PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps presidio-evaluator==0.3.2 >&2
    export BRAHMAN_BENCH_PII_PYTHON
fi
if [[ " $* " == *" score "* ]]; then
    BRAHMAN_BENCH_SCORE_PYTHON=$(environment score-peers numpy==2.4.6 onnxruntime==1.31.1)
    export BRAHMAN_BENCH_SCORE_PYTHON BRAHMAN_SCORE_MODEL=$PWD/tests/assets/induction BRAHMAN_SCORE_BUDGET_MIB=256
fi
if ! command -v nginx >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "bench: installing nginx-light, the peer of a brokered call" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light; } >&2
fi
"$bin/brahman" models pull
# Picked from the whole workspace: by itself it would have other features, and everything be built a second time.
cargo build --locked --release --workspace --bin brahman-bench
lscpu | grep -E '^(Model name|CPU\(s\))'
"$bin/brahman-bench" "$bin" "$@"
