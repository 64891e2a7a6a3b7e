#!/usr/bin/env python3
"""wheel.py ROOT DIST VERSION GLIBC: a Python wheel that carries Brahman's programs, so that `pip install` brings them.

ROOT is an installed tree (bin/, share/). The programs become scripts of the environment, their Cards, manual pages and completions lie in its
share/, where the programs look for them. The client (clients/python) is beside them, which is Python
alone: any Python 3.9 or newer takes it, on a system with this glibc or a newer one. The
same tree gives the same bytes: entries are sorted, and their times are SOURCE_DATE_EPOCH.
"""

import base64
import hashlib
import os
import re
import sys
import time
import zipfile

SUMMARY = "Supervised mesh of local AI data services: ingest, embed, index, search, score"
# Parts of share/ that an environment has use for. Documentation is linked to from the metadata.
SHARED = ("brahman", "man", "bash-completion", "zsh", "fish")


def files(folder):
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(at, name)
            if not os.path.islink(path):
                yield os.path.relpath(path, folder), path


def entries(root, version):
    """(name in the wheel, bytes, mode), but for RECORD."""
    data, info = f"brahman-{version}.data", f"brahman-{version}.dist-info"
    for name, path in files(os.path.join(root, "bin")):
        yield f"{data}/scripts/{name}", read(path), 0o755
    for part in SHARED:
        for name, path in files(os.path.join(root, "share", part)):
            yield f"{data}/data/share/{part}/{name}", read(path), 0o644
    client = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../clients/python/src")
    for name, path in files(client):
        # What Python makes of it on the way is not part of it.
        if "__pycache__" not in name:
            yield name, read(path), 0o644
    licences = []
    for name in ("LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY.txt"):
        path = os.path.join(root, "share/doc/brahman", name)
        if os.path.exists(path):
            licences.append(name)
            yield f"{info}/licenses/{name}", read(path), 0o644
    yield f"{info}/METADATA", metadata(root, version, licences), 0o644
    yield f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: brahman\nRoot-Is-Purelib: false\nTag: {tag()}\n".encode(), 0o644


def metadata(root, version, licences):
    with open(os.path.join(root, "share/doc/brahman/INSTALL.md"), encoding="utf-8") as file:
        # Links to other pages lead nowhere from an index of packages.
        about = re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", file.read())
    head = ["Metadata-Version: 2.4", "Name: brahman", f"Version: {version}", f"Summary: {SUMMARY}", "Author: The Brahman authors"]
    head += ["License-Expression: MIT OR Apache-2.0", *(f"License-File: {name}" for name in licences), "Requires-Python: >=3.9"]
    head += ["Classifier: Operating System :: POSIX :: Linux", "Description-Content-Type: text/markdown"]
    return ("\n".join(head) + "\n\n" + about).encode()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def tag():
    return f"py3-none-manylinux_{sys.argv[4].replace('.', '_')}_{os.uname().machine}"


def main():
    root, dist, version = sys.argv[1:4]
    moment = time.gmtime(max(int(os.environ["SOURCE_DATE_EPOCH"]), 315532800))[:6]  # a zip begins in 1980
    out = os.path.join(dist, f"brahman-{version}-{tag()}.whl")
    record_name = f"brahman-{version}.dist-info/RECORD"
    record = []
    with zipfile.ZipFile(out + ".new", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:

        def add(name, content, mode):
            entry = zipfile.ZipInfo(name, moment)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, (0o100000 | mode) << 16
            wheel.writestr(entry, content)

        for name, content, mode in entries(root, version):
            add(name, content, mode)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
        add(record_name, ("\n".join([*record, f"{record_name},,"]) + "\n").encode(), 0o644)
    os.replace(out + ".new", out)
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main()
