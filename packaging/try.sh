#!/usr/bin/env bash
# try.sh deb|tarball|wheel DIST: installs a package of DIST where nothing else is, and runs a mesh of mocks with it.
#
# The deb and the tarball are tried in a root that holds their files, glibc and libgcc alone (by unshare and chroot; where the kernel
# allows neither, in an empty environment, which is said), the wheel in a fresh virtual environment without an index of packages.
set -euo pipefail
kind=$1 dist=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$dist" && sha256sum --quiet -c SHA256SUMS)
# one PATTERN: the newest package of a kind.
one() { local found; found=$(ls -t "$dist"/$1 2>/dev/null | head -n 1); [ -n "$found" ] || { echo "try: no $1 in $dist" >&2; exit 1; }; echo "$found"; }

# What is run there: no shell is in the root, so each command comes from here.
commands() {
    cat <<'LIST'
brahman --version
brahman check
brahman up --detach --context test
brahman status --wait 60
brahman embed hello
brahman resolve embed.EmbedText
brahman down
LIST
}

# A root of the package's own files and what every program links.
furnish() {
    local root=$1 library
    mkdir -p "$root"/{proc,dev,tmp,run,home}
    for library in $(ldd "$root$2"/bin/* | grep -oE '/[^ ]+\.so[^ ]*' | sort -u); do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    mkdir -p "$root/etc"
    printf 'root:x:0:0::/home:/bin/none\n' >"$root/etc/passwd"
}

# in_root ROOT PREFIX: the commands, each by chroot, in a namespace of their own that ends with them.
in_root() {
    local root=$1 prefix=$2 chroot
    chroot=$(PATH="$PATH:/usr/sbin:/sbin" command -v chroot)
    export root prefix chroot
    if unshare -r -m -p -f --mount-proc sh -c 'mount --rbind /proc "$root/proc" && mount --rbind /dev "$root/dev"' 2>/dev/null; then
        commands >"$work/commands"
        # shellcheck disable=SC2016
        unshare -r -m -p -f --mount-proc sh -euc '
            mount --rbind /proc "$root/proc"
            mount --rbind /dev "$root/dev"
            while read -r line; do
                echo "\$ $line"
                # shellcheck disable=SC2086
                env -i HOME=/home XDG_RUNTIME_DIR=/run PATH="$prefix/bin" "$chroot" "$root" "$prefix"/bin/$line
            done <"$1"' sh "$work/commands"
    else
        echo "try: no namespaces here: run outside of a root, in an empty environment" >&2
        in_environment "$root$prefix/bin"
    fi
}

# in_environment BIN: the commands, with a home and nothing else of this machine's.
in_environment() {
    mkdir -p "$work/home" "$work/run"
    chmod 700 "$work/run"
    commands | while read -r line; do
        echo "\$ $line"
        # shellcheck disable=SC2086
        env -i HOME="$work/home" XDG_RUNTIME_DIR="$work/run" PATH="$1" "$1"/$line
    done
}

case $kind in
    deb)
        package=$(one 'brahman_*.deb')
        dpkg-deb --info "$package" >/dev/null
        dpkg-deb -x "$package" "$work/root"
        for script in postinst prerm postrm; do dpkg-deb --ctrl-tarfile "$package" | tar -xO "./$script" | sh -n; done
        python3 "$here/links.py" "$work/root/usr/share/doc/brahman"
        if command -v lintian >/dev/null; then lintian --fail-on error "$package"; else echo "try: no lintian here, so the policy was not looked at" >&2; fi
        furnish "$work/root" /usr
        in_root "$work/root" /usr
        ;;
    tarball)
        package=$(one 'brahman-*-linux.tar.gz')
        mkdir -p "$work/root/home/.local"
        tar -xzf "$package" -C "$work/root/home/.local" --strip-components=1
        python3 "$here/links.py" "$work/root/home/.local/share/doc/brahman"
        furnish "$work/root" /home/.local
        in_root "$work/root" /home/.local
        ;;
    wheel)
        package=$(one 'brahman-*.whl')
        python3 -m venv "$work/venv"
        "$work/venv/bin/python3" -m pip install --quiet --disable-pip-version-check --no-index "$package"
        in_environment "$work/venv/bin"
        "$work/venv/bin/python3" -m pip uninstall --quiet --yes brahman
        [ ! -e "$work/venv/bin/brahman" ] || { echo "try: pip left programs behind" >&2; exit 1; }
        ;;
    *)
        echo "try: $kind is no kind of package, expected deb, tarball or wheel" >&2
        exit 2
        ;;
esac
echo "try: $(basename "$package") works"
