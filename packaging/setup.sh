#!/usr/bin/env bash
# Makes a bare Debian or Ubuntu with a Rust toolchain ready: installs what is missing (as root, or by sudo), or prints
# the one command that does. Says nothing when nothing is missing.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v python3 >/dev/null || missing+=(python3)
command -v python3 >/dev/null && ! python3 -m pip --version >/dev/null 2>&1 && missing+=(python3-pip)
command -v python3 >/dev/null && ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1 && missing+=(python3-venv)
# Real servers for the tests; each test starts a private one.
found() { for path in "$@"; do [ -x "$path" ] && return 0; done; return 1; }
found /usr/lib/postgresql/*/bin/initdb /usr/local/bin/initdb /usr/bin/initdb || missing+=(postgresql)
command -v psql >/dev/null || missing+=(postgresql-client)
found /usr/sbin/mariadbd /usr/bin/mariadbd /usr/local/bin/mariadbd || missing+=(mariadb-server-core)
command -v mariadb >/dev/null || missing+=(mariadb-client-core)
# Certificates for the tests of TLS.
command -v openssl >/dev/null || missing+=(openssl)

if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get install -y ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing: ${missing[*]}. This is no Debian: install them with this system's package manager." >&2
        exit 1
    elif [ "$(id -u)" = 0 ]; then
        echo "setup: installing ${missing[*]}" >&2
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive $install >&2
    elif sudo -n true 2>/dev/null; then
        echo "setup: installing ${missing[*]} with sudo" >&2
        sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $install >&2
    else
        echo "setup: missing: ${missing[*]}. Run: sudo $install" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "setup: no Rust toolchain. Run: curl https://sh.rustup.rs | sh, or install rustup from this system's packages" >&2
    exit 1
fi
