#!/usr/bin/env bash
# Puts systemd's varlinkctl into a folder as `varlinkctl`: this machine's own if it has one, else Debian trixie's, unpacked with the
# libraries that it needs and installed nowhere. Tests speak to the mesh with it, for it refuses what the specification does not name.
set -euo pipefail
bin=$1
if own=$(command -v varlinkctl); then
    ln -sf "$own" "$bin/varlinkctl"
    exit 0
fi
folder=$bin/../varlinkctl
mkdir -p "$folder"/{lists/partial,archives/partial,root}
folder=$(cd "$folder" && pwd)
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 || true)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} trixie main" >"$folder/trixie.list"
: >"$folder/status"
apt="apt-get -qq -o Dir::State::status=$folder/status -o Dir::Etc::sourcelist=$folder/trixie.list -o Dir::Etc::sourceparts=-
    -o Dir::State::lists=$folder/lists -o Dir::Cache::archives=$folder/archives -o APT::Sandbox::User=root"
# shellcheck disable=SC2086
$apt update
# shellcheck disable=SC2086
(cd "$folder/archives" && $apt download systemd libsystemd-shared libsystemd0 libc6 libgcc-s1 libacl1 libaudit1 libcap-ng0 libblkid1 \
    libcap2 libcrypt1 libgcrypt20 libgpg-error0 liblz4-1 liblzma5 libmount1 libpam0g libpcre2-8-0 libseccomp2 libselinux1 libssl3t64 \
    libzstd1 zlib1g)
for package in "$folder"/archives/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
rm -rf "$folder/archives"
lib=$(echo "$folder"/root/usr/lib/*-linux-gnu)
loader=$(echo "$lib"/ld-linux-*.so.*)
printf '#!/bin/sh\nexec "%s" --library-path "%s:%s/systemd" "%s/root/usr/bin/varlinkctl" "$@"\n' "$loader" "$lib" "$lib" "$folder" >"$bin/varlinkctl"
chmod +x "$bin/varlinkctl"
"$bin/varlinkctl" --version >/dev/null
