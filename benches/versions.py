#!/usr/bin/env python3
"""Two versions of the programs in turn, on one machine: does a change make anything slower?

versions.py OLD_BIN OLD_CARDS NEW_BIN NEW_CARDS [commit|hop|embed|search|score|ingest]…

Both meshes run at once, each with a state and caches of its own, and are asked by turns: five pairs of blocks, old first in one pair and
new first in the next, what a block has left to the disk written out before the next. A row gives the median of each, the median of the
pairs' ratios (above 1: the new one is faster) and their spread.
"""

import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from mesh import Mesh

PAIRS = 5
HERE = os.path.dirname(os.path.abspath(__file__))


class Version(Mesh):
    """The mesh of one of the two versions, with caches of its own."""

    def __init__(self, programs, name, cards, work):
        # The model and ONNX Runtime are there already; what is cached of their answers is not shared.
        kept = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "brahman")
        cache = os.path.join(work, name)
        shutil.copytree(kept, os.path.join(cache, "brahman"), symlinks=True)
        model = os.path.join(HERE, "..", "tests", "assets", "induction")
        super().__init__(programs, name, cards, XDG_CACHE_HOME=cache, BRAHMAN_SCORE_MODEL=model, BRAHMAN_SECRETS=secrets(work))
        self.name = name


def secrets(work):
    path = os.path.join(work, "secrets.toml")
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write('[minio]\npassword = "secret"\n')
        os.chmod(path, 0o600)
    return path


def timed(call, *arguments, **named):
    since = time.perf_counter()
    reply = call(*arguments, **named)
    return time.perf_counter() - since, reply


def words(rng, count):
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(count))


class Commit:
    """100 rows of CSV, from `Ingest.Files` to committed."""

    def __init__(self, name, work, bucket=None, rescue=None):
        self.figure, self.bucket, self.rescue = f"commit of 100 rows, {name}, p50, ms", bucket, rescue
        self.dataset = name.split()[0].lower()
        self.paths = []
        for at in range(2):
            path = os.path.join(work, f"{self.dataset}-{at}.csv")
            rng = random.Random(at)
            with open(path, "w") as file:
                file.write("id,name,value\n" + "".join(f"{row},{words(rng, 3)},{rng.random()}\n" for row in range(100)))
            self.paths.append(path)

    def prepare(self, mesh):
        if self.bucket:
            mesh.run("buckets", "add", "lake", f"s3://{mesh.name}/brahman", "-o", f"aws_endpoint={self.bucket}", "-o", "aws_allow_http=true",
                     "-o", "aws_access_key_id=me", "--secret", "minio")
        if self.rescue:
            folder = os.path.join(mesh.folder, "rescue")
            os.makedirs(folder, exist_ok=True)
            mesh.run("buckets", "add", "rescue", f"file://{folder}")

    def block(self, mesh, number):
        took = []
        for at in range(25):
            bucket = {"bucket": "lake"} if self.bucket else {}
            took.append(timed(mesh.last, "Ingest.Files", dataset=self.dataset, paths=[self.paths[at % 2]], **bucket)[0] * 1e3)
        return statistics.median(took[5:])


class Hop:
    """A call that a provider answers at once, through the broker."""

    figure = "hop: Catalog.List through the broker, p50, µs"

    def prepare(self, mesh):
        pass

    def block(self, mesh, number):
        return statistics.median(timed(mesh.call, "Catalog.List")[0] * 1e6 for _ in range(2000))


class Embed:
    figure = "embed: 256 new texts of 5 to 60 words, texts/s"
    more_is_better = True

    def prepare(self, mesh):
        mesh.call("Embed.EmbedText", texts=["warm"])

    def block(self, mesh, number):
        rng = random.Random(number)
        texts = [words(rng, rng.randint(5, 60)) for _ in range(256)]
        seconds, reply = timed(mesh.call, "Embed.EmbedText", texts=texts)
        assert reply["cached"] == 0, reply["cached"]
        return len(texts) / seconds


class Search:
    """50,000 vectors of 384 dimensions of a mixture."""

    figure = "search: 10 of 50,000 × 384 through the broker, p50, µs"

    def __init__(self, work):
        import numpy
        import pyarrow
        import pyarrow.parquet

        rng = numpy.random.default_rng(1)
        centres = rng.standard_normal((500, 384), dtype=numpy.float32)
        rows = centres[rng.integers(0, 500, 50_000)] + 0.5 * rng.standard_normal((50_000, 384), dtype=numpy.float32)
        self.queries = (centres[rng.integers(0, 500, 500)] + 0.5 * rng.standard_normal((500, 384), dtype=numpy.float32)).tolist()
        self.path = os.path.join(work, "vectors.parquet")
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), 384)
        pyarrow.parquet.write_table(pyarrow.table({"id": pyarrow.array(range(50_000)), "v": vectors}), self.path)

    def prepare(self, mesh):
        mesh.last("Ingest.Files", dataset="vectors", paths=[self.path])
        mesh.call("Index.Create", name="vectors", dataset="vectors", id_column="id", vector_column="v")
        mesh.last("Index.Refresh", name="vectors")

    def block(self, mesh, number):
        took = [timed(mesh.call, "Index.Search", index="vectors", vector=query, k=10)[0] * 1e6 for query in self.queries]
        return statistics.median(took[50:])


class Refresh:
    """The same vectors, a new index each time."""

    figure = "refresh of 50,000 × 384, s"

    def prepare(self, mesh):
        pass

    def block(self, mesh, number):
        name = f"again{number}"
        mesh.call("Index.Create", name=name, dataset="vectors", id_column="id", vector_column="v")
        seconds, _ = timed(mesh.last, "Index.Refresh", name=name)
        mesh.call("Index.Delete", name=name)
        return seconds


class Score:
    figure = "score: 8 memories × 16 responses, tokens/s"
    more_is_better = True

    def prepare(self, mesh):
        pass

    def block(self, mesh, number):
        rng = random.Random(1000 + number)
        memories = [{"role": "memory", "key": f"m{number}-{at}", "text": words(rng, 12)} for at in range(8)]
        turns = []
        for _ in range(16):
            turns += [{"role": "user", "text": words(rng, 12)}, {"role": "assistant", "text": words(rng, 20)}]
        conversation = {"conversation": memories + turns}
        seconds, reply = timed(mesh.last, "Score.ScoreMatrix", conversation=conversation)
        return reply["tokens_forwarded"] / seconds


class Ingest:
    figure = "ingest: CSV of 60 MB, MB/s"
    more_is_better = True

    def __init__(self, work):
        self.path = os.path.join(work, "large.csv")
        rng = random.Random(3)
        lines = [f"{words(rng, 4)},{rng.random()},{rng.randint(0, 1 << 40)},2026-01-{rng.randint(1, 28):02}\n" for _ in range(10_000)]
        with open(self.path, "w") as file:
            file.write("name,value,number,day\n")
            while file.tell() < 60_000_000:
                file.writelines(lines)

    def prepare(self, mesh):
        pass

    def block(self, mesh, number):
        seconds, _ = timed(mesh.last, "Ingest.Files", dataset="large", paths=[self.path])
        return os.path.getsize(self.path) / 1e6 / seconds


def compare(measure, old, new):
    more = getattr(measure, "more_is_better", False)
    for mesh in (old, new):
        measure.prepare(mesh)
        measure.block(mesh, 99)
    figures, ratios = {"old": [], "new": []}, []
    for pair in range(PAIRS):
        for mesh in (old, new) if pair % 2 == 0 else (new, old):
            os.sync()
            time.sleep(1)
            figures[mesh.name].append(measure.block(mesh, pair))
        before, after = figures["old"][-1], figures["new"][-1]
        ratios.append(after / before if more else before / after)
    middle = {name: statistics.median(all_) for name, all_ in figures.items()}
    print(f"| {measure.figure} | {middle['old']:.4g} | {middle['new']:.4g} | {statistics.median(ratios):.3f} | {min(ratios):.3f} – {max(ratios):.3f} |", flush=True)


def s3(work):
    """SeaweedFS where the tests' tools have it: its address and process."""
    services = ["s3", "master", "volume", "filer"]
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * len(services))]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    folder = os.path.join(work, "weed")
    os.makedirs(folder)
    config = os.path.join(work, "s3.json")
    with open(config, "w") as file:
        json.dump({"identities": [{"name": "me", "credentials": [{"accessKey": "me", "secretKey": "secret"}],
                                   "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}, file)
    weed = os.path.join(os.environ["BRAHMAN_TEST_TOOLS"], "bin", "weed")
    log = open(os.path.join(work, "weed.log"), "w")
    program = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}", "-volume.max=300",
               "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    for at, service in enumerate(services):
        program += [f"-{service}.port={ports[2 * at]}", f"-{service}.port.grpc={ports[2 * at + 1]}"]
    process = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True, cwd=work)
    return f"http://127.0.0.1:{ports[0]}", process


def make_buckets(endpoint, names):
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="me", aws_secret_access_key="secret", region_name="us-east-1",
                          config=Config(retries={"max_attempts": 3}))
    for name in names:
        for attempt in range(120):
            try:
                client.create_bucket(Bucket=name)
                break
            except Exception:
                if attempt == 119:
                    raise
                time.sleep(0.5)


def main():
    old_bin, old_cards, new_bin, new_cards = (os.path.abspath(path) for path in sys.argv[1:5])
    wanted = set(sys.argv[5:]) or {"commit", "hop", "embed", "search", "score", "ingest"}
    server = None
    with tempfile.TemporaryDirectory(prefix="brahman-versions-") as work:
        try:
            with Version(old_bin, "old", old_cards, work) as old, Version(new_bin, "new", new_cards, work) as new:
                print("| figure | old | new | ratio, median of five pairs | spread |\n|---|---|---|---|---|", flush=True)
                for part, measures in (("hop", [Hop]), ("embed", [Embed]), ("score", [Score]), ("ingest", [lambda: Ingest(work)])):
                    for measure in measures if part in wanted else []:
                        compare(measure(), old, new)
                if "search" in wanted:
                    compare(Search(work), old, new)
                    compare(Refresh(), old, new)
                if "commit" in wanted:
                    compare(Commit("folder", work), old, new)
                    endpoint, server = s3(work)
                    make_buckets(endpoint, ("old", "new"))
                    compare(Commit("S3 (SeaweedFS)", work, bucket=endpoint), old, new)
                    # Last: with it, every later commit is copied.
                    compare(Commit("copies in a second folder", work, rescue=True), old, new)
        finally:
            if server:
                server.terminate()
                server.wait()


if __name__ == "__main__":
    main()
