#!/usr/bin/env bash
# glibc.sh PROGRAM…: fails unless each runs on any system with glibc 2.36 (Debian 12) or newer: no symbol of a later one, and no library
# but glibc's and gcc's own.
set -euo pipefail
newest=2.36
for program in "$@"; do
    name=$(basename "$program")
    libraries=$(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }')
    symbols=$(objdump -T "$program")
    for library in $libraries; do
        case $library in
            libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | ld-linux*.so.* | libgcc_s.so.1) ;;
            *) echo "glibc: $name needs $library, expected glibc's libraries and libgcc_s alone" >&2; exit 1 ;;
        esac
    done
    wanted=$(grep -oE 'GLIBC_[0-9]+(\.[0-9]+)+' <<<"$symbols" | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
    if [ "$(printf '%s\n' "$newest" "${wanted:-0}" | sort -V | tail -n 1)" != "$newest" ]; then
        echo "glibc: $name needs glibc $wanted, expected $newest or older: build it on Debian 12" >&2
        exit 1
    fi
done
