#!/usr/bin/env bash
# clients.sh PROGRAMS: others' clients, unmodified and pinned, against a mesh of mocks with its gateway at a TCP port, and against `brahman mcp`.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=$1
tools=${XDG_CACHE_HOME:-$HOME/.cache}/brahman-build/clients
# Pinned, so that a new release of any of them is met on purpose.
python=(
    openai==3.57.0 ollama==0.6.3 cohere==7.3.1 mcp==2.3.0 numpy langchain-openai==1.7.4 langchain-ollama==1.1.0
    llama-index-embeddings-openai==0.7.0
)
if [ "$(cat "$tools/installed" 2>/dev/null)" != "${python[*]}" ]; then
    echo "clients: installing from PyPI into $tools" >&2
    mkdir -p "$(dirname "$tools")"
    [ -x "$tools/bin/python3" ] || python3 -m venv "$tools"
    "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check "${python[@]}" >&2
    echo "${python[*]}" >"$tools/installed"
fi

folder=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$folder/cards"
for card in broker catalog embed-mock index ingest rerank-mock score-mock; do
    cp "packaging/cards/$card.toml" "$folder/cards/"
done
sed "s/^listen = .*/listen = [\"http.sock\", \"tcp:127.0.0.1:$port\"]/" packaging/cards/gateway.toml >"$folder/cards/gateway.toml"
export BRAHMAN_SOCKET=$folder/run/brahman.sock BRAHMAN_CACHE=$folder/cache
"$programs/brahman-init" --context test --cards "$folder/cards" --state "$folder/state" --socket "$BRAHMAN_SOCKET" 2>"$folder/log" &
init=$!
trap 'kill $init; wait $init || true; rm -rf "$folder"' EXIT
# Until the socket is there nobody can be asked.
for _ in $(seq 100); do [ -S "$BRAHMAN_SOCKET" ] && break; sleep 0.1; done
"$programs/brahman" status --wait 60 >/dev/null || { cat "$folder/log"; exit 1; }
"$tools/bin/python3" packaging/clients.py "http://127.0.0.1:$port" "$programs/brahman"
