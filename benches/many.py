"""Many small files: what they cost on disk, and when a first refresh gives its first answers.

Usage: many.py BIN [--files N] [--wait]

N (20,000) pages of Markdown of about 700 bytes, their words drawn from docs/ as often as they stand there. The time to an answer counts from
the call of `Refresh`; a client asks again and again, by words and by meaning. Disk is all that the mesh has below its state and its caches,
the model not counted, over the bytes of the files: when everything is embedded with --wait, else after the first answers alone.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

from mesh import Mesh

DOCS = Path(__file__).resolve().parent.parent / "docs"


def pages(folder, count):
    """Writes them; their bytes."""
    words = re.findall(r"\S+", "\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))))
    rng, total = random.Random(1), 0
    for number in range(count):
        at = Path(folder) / f"{number // 500:03}"
        at.mkdir(exist_ok=True)
        lines = [" ".join(rng.choices(words, k=12)) for _ in range(8)]
        text = f"# Page {number}\n\n" + "\n".join(lines) + "\n"
        (at / f"page-{number}.md").write_text(text, encoding="utf-8")
        total += len(text.encode())
    return total


def size(*folders):
    """Bytes that lie on disk."""
    return sum(os.lstat(os.path.join(at, name)).st_blocks * 512 for folder in folders for at, _, names in os.walk(folder) for name in names)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--wait", action="store_true", help="until all is embedded")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brahman-many-") as work:
        kept = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "brahman")
        cache = os.path.join(work, "cache")
        for part in ("models", "onnxruntime"):
            shutil.copytree(os.path.join(kept, part), os.path.join(cache, "brahman", part), symlinks=True)
        model = size(cache)
        files = os.path.join(work, "files")
        os.mkdir(files)
        text = pages(files, arguments.files)
        with Mesh(arguments.programs, "many", XDG_CACHE_HOME=cache) as mesh:
            since = time.monotonic()
            mesh.last("Ingest.Files", dataset="many", paths=[files])
            print(f"ingest of {arguments.files:,} files, {text / 1e6:.1f} MB: {time.monotonic() - since:.1f} s", flush=True)
            mesh.call("Index.Create", name="many", dataset="many", id_column="id", text_column="text")
            mesh.call("Embed.EmbedText", texts=["warm"])
            with mesh.another() as other:
                since = time.monotonic()

                def refreshed():
                    # Without --wait the mesh is stopped in the middle of it.
                    with contextlib.suppress(OSError, SystemExit):
                        other.last("Index.Refresh", name="many")

                refresh = threading.Thread(target=refreshed, daemon=True)
                refresh.start()
                print("| figure | measured | bar |\n|---|---|---|")
                for mode, bar in (("lexical", 2), ("semantic", 20)):
                    while not (hits := hits_of(mesh, mode)):
                        time.sleep(0.02)
                    took = time.monotonic() - since
                    far = f"{hits['read']:,} documents read" if "read" in hits else f"{hits.get('embedded', 0):,} chunks embedded"
                    said = f"partial: {hits.get('partial', False)}, {far}"
                    print(f"| first answer of a first refresh, {mode} ({said}) | {took:.2f} s | ≤ {bar} s |", flush=True)
                if arguments.wait:
                    refresh.join()
                    print(f"| all embedded | {time.monotonic() - since:.0f} s | - |")
                    os.sync()
                    disk = size(mesh.folder, cache) - model
                    print(f"| disk in all over the text | {disk / text:.1f}× | ≤ 10× |", flush=True)


def hits_of(mesh, mode):
    """The reply, if it has a hit."""
    try:
        reply = mesh.call("Index.Search", index="many", text="how does a module say that it is ready", mode=mode, k=10)
    except SystemExit:
        # Nothing to be searched yet.
        return None
    return reply if reply["results"][0] else None


if __name__ == "__main__":
    main()
