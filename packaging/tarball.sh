#!/usr/bin/env bash
# tarball.sh BINARIES DIST: DIST/brahman-VERSION-MACHINE-linux.tar.gz, and SHA256SUMS. Made for ~/.local: programs find their Cards beside
# themselves, and the user unit lies where systemd looks. The same commit and programs give the same bytes.
set -euo pipefail
bin=$(realpath "$1")
mkdir -p "$2" && dist=$(realpath "$2")
cd "$(dirname "$0")"
. ./release.sh
while read -r program; do ./glibc.sh "$bin/$program"; done <programs
name=brahman-$version-$machine-linux
root=$work/$name
./install.sh install "$bin" "$root" "" >/dev/null
# `""` is no prefix that systemd knows: the units of ~/.local are put in their place by hand. %h is the home.
rm -rf "$root/etc"
for unit in systemd/user/*; do
    install -d "$root/share/systemd/user"
    sed 's|@PREFIX@|%h/.local|g' "$unit" >"$root/share/systemd/user/$(basename "$unit")"
done
find "$root" -type d -exec chmod 755 {} +
out=$dist/$name.tar.gz
tar --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work" -cf - "$name" | gzip -9n >"$out.new"
mv "$out.new" "$out"
sums "$dist"
echo "$out"
