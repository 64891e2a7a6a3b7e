#!/usr/bin/env bash
# deb.sh BINARIES DIST: DIST/brahman_VERSION_ARCH.deb, and SHA256SUMS. Laid out by hand and packed by dpkg-deb, so that nothing but dpkg is
# needed. The same commit and programs give the same bytes.
set -euo pipefail
bin=$(realpath "$1")
mkdir -p "$2" && dist=$(realpath "$2")
cd "$(dirname "$0")"
. ./release.sh
while read -r program; do ./glibc.sh "$bin/$program"; done <programs
architecture=$(dpkg --print-architecture)
root=$work/root
./install.sh install "$bin" "$root" /usr >/dev/null
doc=$root/usr/share/doc/brahman

# Licences are in `copyright`; Debian keeps the text of Apache-2.0 once for all.
rm -f "$doc/LICENSE-MIT" "$doc/LICENSE-APACHE"
sed -i 's/\[\([^]]*\)\](LICENSE-[A-Z]*)/\1/g' "$doc"/*.md
{
    cat <<'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: brahman
Source: https://example.org/brahman

Files: *
TEXT
    sed -n 's/^Copyright (c) /Copyright: /p' ../LICENSE-MIT
    cat <<'TEXT'
License: Expat or Apache-2.0
Comment: The programs contain libraries under licences of their own, which
 THIRD-PARTY.txt beside this file names and holds.

License: Expat
TEXT
    sed -n '/^Permission is hereby granted/,$p' ../LICENSE-MIT | sed 's/^$/./; s/^/ /'
    cat <<'TEXT'

License: Apache-2.0
 On Debian systems the text of the Apache License, version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
TEXT
} >"$doc/copyright"
cat >"$work/changelog" <<TEXT
brahman ($version) unstable; urgency=medium

  * What has changed is in CHANGELOG.md, beside this file.

 -- Brahman <brahman@example.org>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT
gzip -9n <"$work/changelog" >"$doc/changelog.gz"
for page in "$root"/usr/share/man/man1/*.1; do gzip -9n "$page"; done
# zsh's folder for packages.
mkdir -p "$root/usr/share/zsh/vendor-completions"
mv "$root/usr/share/zsh/site-functions/_brahman" "$root/usr/share/zsh/vendor-completions/_brahman"
rmdir "$root/usr/share/zsh/site-functions"

# What an administrator may change, and the system's user.
install -D -m 644 debian/default "$root/etc/default/brahman"
install -d "$root/etc/brahman/cards"
install -D -m 644 debian/sysusers.conf "$root/usr/lib/sysusers.d/brahman.conf"
install -D -m 644 debian/lintian-overrides "$root/usr/share/lintian/overrides/brahman"

install -d "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 "debian/$script" "$root/DEBIAN/$script"; done
echo /etc/default/brahman >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<TEXT
Package: brahman
Version: $version
Architecture: $architecture
Maintainer: Brahman <brahman@example.org>
Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
Depends: adduser, libc6 (>= 2.36), libgcc-s1
Recommends: ca-certificates
Section: database
Priority: optional
Homepage: https://example.org/brahman
Description: supervised mesh of local AI data services
 Turns folders and tables into datasets, embeds and indexes them, searches
 them by meaning and by words, and scores which memories the answers of a
 language model depend on.
 .
 Services are supervised, and reached through one Unix socket; shells, scripts
 and agents call them. By context the same call gets a real model or a
 deterministic mock.
TEXT
# It says how to keep, back up and remove what this package installs, too.
install -D -m 644 /dev/stdin "$root/usr/share/lintian/overrides/brahman" <<TEXT
brahman: package-contains-upstream-installation-documentation [usr/share/doc/brahman/INSTALL.md]
TEXT
find "$root" -type d -exec chmod 755 {} +
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
out=$dist/brahman_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$out" >/dev/null
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error "$out" >&2
else
    echo "deb: Debian's policy was not checked: lintian is missing (apt-get install -y lintian)" >&2
fi
sums "$dist"
echo "$out"
