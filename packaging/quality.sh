#!/usr/bin/env bash
# What search finds, beside its peers, on the same chunks, vectors and questions. quality.sh [--corpora en,de,…] [--questions N]…
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$CARGO_TARGET_DIR/release
packages=(lancedb==0.40.0 chromadb==1.5.9 pyarrow==26.0.1 numpy==2.4.6)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/quality-peers
if [ "$(cat "$folder/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    echo "quality: installing ${packages[*]} into $folder" >&2
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python3" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2
    echo "${packages[*]}" >"$folder/installed"
fi
"$bin/brahman" models pull
lscpu | grep -E '^(Model name|CPU\(s\))'
"$folder/bin/python3" benches/quality.py "$bin" "$@"
