#!/usr/bin/env bash
# wheel.sh BINARIES DIST: DIST/brahman-VERSION-py3-none-manylinux_2_36_MACHINE.whl, and SHA256SUMS.
set -euo pipefail
bin=$(realpath "$1")
mkdir -p "$2" && dist=$(realpath "$2")
cd "$(dirname "$0")"
. ./release.sh
while read -r program; do ./glibc.sh "$bin/$program"; done <programs
./install.sh install "$bin" "$work/root" "" >/dev/null
python3 wheel.py "$work/root" "$dist" "$version" 2.36
sums "$dist"
