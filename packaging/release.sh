# Sourced by the scripts that make packages, from this folder: what they have in common. Times in a package are those of the last commit,
# so that the same commit makes the same package.
# shellcheck shell=bash disable=SC2034
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../Cargo.toml)
[ -n "$version" ] || { echo "package: Cargo.toml names no version" >&2; exit 1; }
machine=$(uname -m)
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || { echo "package: no git here, so SOURCE_DATE_EPOCH must be set" >&2; exit 1; }
fi
export SOURCE_DATE_EPOCH LC_ALL=C
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# sums FOLDER: notes what every package in it must be.
sums() { (cd "$1" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%f\n' | sort | xargs -r sha256sum >SHA256SUMS); }
