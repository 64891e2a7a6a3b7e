#!/usr/bin/env bash
# install.sh install|uninstall BINARIES DESTDIR PREFIX
set -euo pipefail
what=$1 bin=$2 dest=$3 prefix=$4
cd "$(dirname "$0")"
programs="brahman brahman-init brahman-broker brahman-catalog brahman-ingest ingest-mock brahman-index index-mock embed-http embed-mock embed-real score-mock score-real"
if [ "$what" = install ]; then
    for program in $programs; do install -D -m 755 "$bin/$program" "$dest$prefix/bin/$program"; done
    for card in cards/*.toml; do install -D -m 644 "$card" "$dest$prefix/share/brahman/$card"; done
    for example in $(cd .. && find examples -type f); do install -D -m 644 "../$example" "$dest$prefix/share/brahman/$example"; done
    doc="$dest$prefix/share/doc/brahman"
    for page in $(cd ../docs && find . -type f); do install -D -m 644 "../docs/$page" "$doc/$page"; done
    install -D -m 644 ../CHANGELOG.md "$doc/CHANGELOG.md"
    # The pages of docs/ lie beside it there.
    sed 's|](docs/|](|g' ../README.md >"$doc/README.md"
    chmod 644 "$doc/README.md"
    # Written by the program itself, so that they are of its own version.
    man="$dest$prefix/share/man/man1"
    install -d "$man"
    "$bin/brahman" man "$man"
    chmod 644 "$man"/brahman*.1
    completion() {
        install -d "$(dirname "$dest$prefix/share/$2")"
        "$bin/brahman" completions "$1" >"$dest$prefix/share/$2"
        chmod 644 "$dest$prefix/share/$2"
    }
    completion bash bash-completion/completions/brahman
    completion zsh zsh/site-functions/_brahman
    completion fish fish/vendor_completions.d/brahman.fish
    for kind in system user; do
        for unit in systemd/$kind/*; do
            target="$dest$prefix/lib/systemd/$kind/$(basename "$unit")"
            install -d "$(dirname "$target")"
            sed "s|@PREFIX@|$prefix|g" "$unit" >"$target"
        done
    done
    if [ -z "$dest" ] && [ "$(id -u)" = 0 ] && ! getent passwd brahman >/dev/null; then
        useradd --system --home-dir /var/lib/brahman --shell /usr/sbin/nologin brahman
    fi
    echo "installed to $dest$prefix; next: systemctl daemon-reload && systemctl enable --now brahman.socket brahman.service"
else
    for program in $programs; do rm -f "$dest$prefix/bin/$program"; done
    rm -rf "$dest$prefix/share/brahman" "$dest$prefix/share/doc/brahman"
    rm -f "$dest$prefix"/lib/systemd/{system,user}/brahman.{service,socket}
    rm -f "$dest$prefix"/share/man/man1/brahman{,-*}.1 "$dest$prefix/share/bash-completion/completions/brahman"
    rm -f "$dest$prefix/share/zsh/site-functions/_brahman" "$dest$prefix/share/fish/vendor_completions.d/brahman.fish"
    echo "removed from $dest$prefix; state in /var/lib/brahman and ~/.local/state/brahman was left"
fi
