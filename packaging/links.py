#!/usr/bin/env python3
"""links.py FOLDER…: fails if a page of Markdown links to a file that is not there. Links to the network are not followed."""

import os
import re
import sys

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def dead(folder):
    for at, _, names in os.walk(folder):
        for name in sorted(name for name in names if name.endswith(".md")):
            page = os.path.join(at, name)
            with open(page, encoding="utf-8") as file:
                text = CODE.sub("", file.read())
            for link in LINK.findall(text):
                target = link.split("#")[0]
                if target and not re.match(r"[a-z][a-z0-9+.-]*:", target) and not os.path.exists(os.path.join(at, target)):
                    yield f"{page}: {link}"


def main():
    found = [line for folder in sys.argv[1:] for line in dead(folder)]
    if found:
        sys.exit("links: no such files\n" + "\n".join(found))


if __name__ == "__main__":
    main()
