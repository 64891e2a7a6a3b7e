#!/usr/bin/env bash
# Makes tests/corpus/states/<version>.tar.gz: the state of a small mesh of this version, once it was stopped.
# make.sh [FOLDER OF PROGRAMS]; target/release unless said. What is in it is what tests/tests/mesh/corpus.rs expects.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
programs=$(cd "${1:-$repository/target/release}" && pwd)
work=$(mktemp -d)
export PATH="$programs:$PATH" HOME="$work/home" XDG_RUNTIME_DIR="$work/run" BRAHMAN_CARDS="$work/cards"
export BRAHMAN_STATE="$work/state" BRAHMAN_CACHE="$work/cache"
unset BRAHMAN_SOCKET BRAHMAN_BROKER_CONTEXT XDG_STATE_HOME XDG_CACHE_HOME XDG_CONFIG_HOME
trap 'brahman down >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
mkdir -p "$HOME/notes" "$work/run" "$work/cards" "$work/cache"
chmod 700 "$work/run"
for card in broker catalog ingest embed-mock index; do cp "$repository/packaging/cards/$card.toml" "$work/cards"; done
brahman up >"$work/log" 2>&1 &
brahman status --wait 60 >/dev/null

# Two generations of a table, documents with a watch, and an index of each: one up to its dataset, one behind it.
printf 'id,text\n1,the first row\n2,another row\n' >"$HOME/t.csv"
brahman ingest files table "$HOME/t.csv"
printf 'id,text\n1,the first row\n2,a changed row\n3,a third row\n' >"$HOME/t.csv"
brahman ingest files table "$HOME/t.csv"
printf 'notes on ships\n' >"$HOME/notes/ships.md"
printf 'notes on trains\n' >"$HOME/notes/trains.md"
brahman ingest files notes "$HOME/notes"
for name in table notes; do
    brahman index create "$name" --dataset "$name"
    brahman index refresh "$name"
done
brahman index eval table --queries 10
brahman ingest watch notes "$HOME/notes"
printf 'notes on planes\n' >"$HOME/notes/planes.md"
brahman ingest files notes "$HOME/notes"
brahman down

version=$(brahman --version | cut -d' ' -f2)
rm -rf "$work/state/logs" "$work/state/.lock"
mkdir -p "$here/states"
tar --sort=name --owner=0 --group=0 --numeric-owner -C "$work" -czf "$here/states/$version.tar.gz" state
echo "$here/states/$version.tar.gz"
