#!/usr/bin/env bash
# What a large index costs, from ten thousand vectors to a million. scale.sh [--rows N,…] [--dim N] [--queries N]…
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$CARGO_TARGET_DIR/release
packages=(pyarrow==26.0.1 numpy==2.4.6)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/scale-tools
if [ "$(cat "$folder/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    echo "scale: installing ${packages[*]} into $folder" >&2
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python3" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2
    echo "${packages[*]}" >"$folder/installed"
fi
lscpu | grep -E '^(Model name|CPU\(s\))'
"$folder/bin/python3" benches/scale.py "$bin" "$@"
