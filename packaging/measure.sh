#!/usr/bin/env bash
# A measurement of indexes, by a script of benches/. measure.sh scale|tuning|many [OPTION]…
set -euo pipefail
cd "$(dirname "$0")/.."
script=$1
shift
bin=$CARGO_TARGET_DIR/release
packages=(pyarrow==26.0.1 numpy==2.4.6)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/measure-tools
if [ "$(cat "$folder/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    echo "bench: installing ${packages[*]} into $folder" >&2
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python3" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2
    echo "${packages[*]}" >"$folder/installed"
fi
lscpu | grep -E '^(Model name|CPU\(s\))'
"$folder/bin/python3" "benches/$script.py" "$bin" "$@"
