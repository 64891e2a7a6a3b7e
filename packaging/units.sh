#!/usr/bin/env bash
# Verifies the systemd units, and that the system unit's exposure is at most 3.0.
set -euo pipefail
cd "$(dirname "$0")/systemd"
command -v systemd-analyze >/dev/null || { echo "units: systemd-analyze is missing. Run: apt-get install -y systemd" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The programs stand in their places, so that verify finds what ExecStart names.
mkdir -p "$work/prefix/bin" "$work/system" "$work/user"
printf '#!/bin/sh\n' >"$work/prefix/bin/brahman-init"
chmod +x "$work/prefix/bin/brahman-init"
for kind in system user; do
    for unit in "$kind"/*; do
        sed "s|@PREFIX@|$work/prefix|g" "$unit" >"$work/$unit"
    done
done
systemd-analyze verify --man=no "$work"/system/brahman.service "$work"/system/brahman.socket
systemd-analyze verify --user --man=no "$work"/user/brahman.service "$work"/user/brahman.socket 2>"$work/user.log" || {
    # Without a user session there is nothing to verify user units against.
    grep -qi 'XDG_RUNTIME_DIR\|Failed to initialize\|No medium' "$work/user.log" || { cat "$work/user.log" >&2; exit 1; }
    XDG_RUNTIME_DIR="$work" systemd-analyze verify --user --man=no "$work"/user/brahman.service "$work"/user/brahman.socket
}
exposure=$(systemd-analyze security --offline=true --no-pager "$work/system/brahman.service" | sed -n 's/.*exposure level for .*: \([0-9.]*\).*/\1/p')
echo "units: verified; exposure of the system unit $exposure (at most 3.0)"
awk -v e="$exposure" 'BEGIN { exit !(e != "" && e <= 3.0) }'
