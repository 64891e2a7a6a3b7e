#!/usr/bin/env python3
"""Prints the licences of everything that the shipped programs are built of.

Which crates those are, and under what licence, is cargo's word (the lock file's, for this platform, without what tests and builds alone
need); the texts are those that lie in the crates' own folders. A text that several crates share is printed once.
"""

import hashlib
import json
import os
import subprocess
import sys

NAMES = ("license", "licence", "copying", "notice", "unlicense")


def metadata():
    host = next(line.split()[1] for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if line.startswith("host:"))
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    return json.loads(subprocess.check_output(command, cwd=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")))


def linked(data):
    """Ids of the packages that the default members link, themselves left out."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    own = set(data["workspace_members"])
    found, queue = set(), list(data["workspace_default_members"])
    while queue:
        at = queue.pop()
        if at in found:
            continue
        found.add(at)
        for dependency in nodes[at]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                queue.append(dependency["pkg"])
    return found - own


def texts(package):
    folder = os.path.dirname(package["manifest_path"])
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.lower().startswith(NAMES) and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                yield name, file.read().strip()


def main():
    data = metadata()
    wanted = linked(data)
    packages = sorted((p for p in data["packages"] if p["id"] in wanted), key=lambda p: (p["name"], p["version"]))
    shared = {}
    print("Brahman's programs contain the following, each under the licence named.\n")
    for package in packages:
        licence = package["license"] or "see its text below"
        print(f"{package['name']} {package['version']}: {licence}")
        for name, text in texts(package):
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            shared.setdefault(key, (text, []))[1].append(f"{package['name']} {package['version']} ({name})")
    for text, users in sorted(shared.values(), key=lambda pair: pair[1][0]):
        print("\n" + "=" * 80 + "\n" + "\n".join(users) + "\n" + "-" * 80 + "\n" + text)
    missing = [p["name"] for p in packages if not p["license"] and not list(texts(p))]
    if missing:
        sys.exit(f"licences: neither a licence nor its text: {', '.join(missing)}")


if __name__ == "__main__":
    main()
