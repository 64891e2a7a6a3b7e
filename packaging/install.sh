#!/usr/bin/env bash
# install.sh install|documentation|uninstall BINARIES DESTDIR PREFIX
#
# Programs without their debug information, Cards, examples, all documentation, licences, manual pages, completions and units;
# or the documentation alone. KEEP_SYMBOLS=1 strips nothing.
set -euo pipefail
what=$1 bin=$2 dest=$3 prefix=$4
cd "$(dirname "$0")"
programs=$(cat programs)
share=$dest$prefix/share
doc=$share/doc/brahman

# units KIND: where systemd looks for units of this prefix (systemd.unit(5)); nothing where it looks nowhere.
units() {
    case $prefix in
        /usr | /usr/local) echo "$prefix/lib/systemd/$1" ;;
        "${HOME:-/nonexistent}"/*) [ "$1" = system ] || echo "${XDG_DATA_HOME:-$HOME/.local/share}/systemd/user" ;;
        *) echo "/etc/systemd/$1" ;;
    esac
}

put() { install -D -m 644 "$1" "$2"; }

program() {
    local target=$dest$prefix/bin/$1
    install -d "$dest$prefix/bin"
    # Beside it first: a program that runs is replaced, not written to.
    if [ -n "${KEEP_SYMBOLS:-}" ]; then cp "$bin/$1" "$target.new"; else strip -o "$target.new" "$bin/$1"; fi
    chmod 755 "$target.new"
    mv -f "$target.new" "$target"
}

documentation() {
    local page
    for page in $(cd ../docs && find . -type f | sort); do put "../docs/$page" "$doc/$page"; done
    # What lies at the root of the repository lies beside these pages here: one folder less to go up.
    sed -i 's|](\.\./\.\./|](../|g' "$doc"/*/*.md
    # The examples lie in share/brahman; a link lets the pages' links reach them.
    ln -sfn ../../brahman/examples "$doc/examples"
    for page in README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE-MIT LICENSE-APACHE; do put "../$page" "$doc/$page"; done
    sed -i 's|](\.\./README\.md|](README.md|g' "$doc"/*.md
    # The pages of docs/ lie beside these here.
    sed -i 's|](docs/|](|g' "$doc/README.md" "$doc/CHANGELOG.md" "$doc/CONTRIBUTING.md" "$doc/SECURITY.md"
    put ../docs/card.schema.json "$share/brahman/card.schema.json"
    # What the programs are built of is cargo's word. THIRD_PARTY=FILE takes what was written before.
    if [ -n "${THIRD_PARTY:-}" ]; then
        put "$THIRD_PARTY" "$doc/THIRD-PARTY.txt"
    elif command -v cargo >/dev/null; then
        python3 licences.py >"$doc/THIRD-PARTY.txt"
        chmod 644 "$doc/THIRD-PARTY.txt"
    else
        echo "install: no cargo here, so THIRD-PARTY.txt, the licences of what is linked, is left out" >&2
    fi
}

# Written by the program itself, so that they are of its own version.
from_the_program() {
    local man=$share/man/man1
    install -d "$man"
    "$bin/brahman" man "$man"
    chmod 644 "$man"/brahman*.1
    local shell path
    while read -r shell path; do
        install -d "$(dirname "$share/$path")"
        "$bin/brahman" completions "$shell" >"$share/$path"
        chmod 644 "$share/$path"
    done <<'LIST'
bash bash-completion/completions/brahman
zsh zsh/site-functions/_brahman
fish fish/vendor_completions.d/brahman.fish
LIST
}

if [ "$what" = install ]; then
    for program in $programs; do program "$program"; done
    for card in cards/*.toml; do put "$card" "$share/brahman/$card"; done
    for example in $(cd .. && find examples -type f | sort); do put "../$example" "$share/brahman/$example"; done
    documentation
    from_the_program
    for kind in system user; do
        folder=$(units $kind)
        for unit in systemd/$kind/*; do
            [ -n "$folder" ] || continue
            install -d "$dest$folder"
            sed "s|@PREFIX@|$prefix|g" "$unit" >"$dest$folder/$(basename "$unit")"
            chmod 644 "$dest$folder/$(basename "$unit")"
        done
    done
    if [ -z "$dest" ] && [ "$(id -u)" = 0 ] && [ -n "$(units system)" ] && ! getent passwd brahman >/dev/null; then
        useradd --system --home-dir /var/lib/brahman --shell /usr/sbin/nologin brahman
    fi
    echo "installed to $dest$prefix"
    case :$PATH: in *":$prefix/bin:"*) ;; *) echo "$prefix/bin is not in PATH: export PATH=\"$prefix/bin:\$PATH\"" ;; esac
    echo "next: brahman models pull, then brahman up --context prod --detach"
    echo "at every login: systemctl --user daemon-reload && systemctl --user enable --now brahman.socket brahman.service"
    if [ -n "$(units system)" ]; then echo "or for the system: systemctl daemon-reload && systemctl enable --now brahman.socket brahman.service"; fi
elif [ "$what" = documentation ]; then
    documentation
else
    for program in $programs; do rm -f "$dest$prefix/bin/$program"; done
    rm -rf "$share/brahman" "$doc"
    for kind in system user; do
        folder=$(units $kind)
        [ -z "$folder" ] || rm -f "$dest$folder"/brahman.{service,socket}
    done
    rm -f "$share"/man/man1/brahman{,-*}.1 "$share/bash-completion/completions/brahman"
    rm -f "$share/zsh/site-functions/_brahman" "$share/fish/vendor_completions.d/brahman.fish"
    echo "removed from $dest$prefix; state in /var/lib/brahman and ~/.local/state/brahman was left"
fi
