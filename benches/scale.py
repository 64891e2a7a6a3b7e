"""What a large index costs: the memory of a refresh, searches by size, by filter, after changes, and a refresh with nothing to do.

Usage: scale.py BIN [--rows N,N,…] [--dim N] [--queries N] [--json FILE]

BIN is the folder of the programs. Vectors are made up: mixtures of directions, as embeddings are, not even over the sphere. They come with
the dataset, so that nothing is embedded. Memory is that of the index module alone, as the kernel counts it: the most it ever had resident
during the refresh (VmHWM, mapped files included), and the most that was its own (RssAnon, looked at every 20 ms); beside the vectors' own
bytes. Latencies are a client's, over the socket, one call at a time: the median of a round of questions; before and after a change the best
round, once none is quicker than those before.
"""

import argparse
import json
import statistics
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mesh import Mesh

K = 10
GROUP = 50_000
DIRECTIONS = 48
NOISE = 0.25
CHANGED = 0.01
WARM_UP = 20
# Rounds of the same questions, at least and at most; they end when one is not quicker than the best before by this share.
ROUNDS = (6, 40)
QUICKER = 0.03
PAUSE_S = 2


def status(pid, name):
    """Bytes; 0 of a process that has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


class Peak:
    """The most memory that a process has while something is done."""

    def __init__(self, pid):
        self.pid, self.own, self.done = pid, 0, threading.Event()
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")
        self.before = status(pid, "VmRSS")
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        # What is over within 20 ms is seen at its ends.
        while True:
            self.own = max(self.own, status(self.pid, "RssAnon"))
            if self.done.wait(0.02):
                self.own = max(self.own, status(self.pid, "RssAnon"))
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.resident = status(self.pid, "VmHWM")
        # Of another process the figures would be nothing.
        if not self.resident:
            raise SystemExit(f"process {self.pid} ended while it was looked at")


def made_up(rows, dim, rng):
    directions = rng.standard_normal((DIRECTIONS, dim)).astype(np.float32)
    for first in range(0, rows, GROUP):
        count = min(GROUP, rows - first)
        weights = rng.standard_normal((count, DIRECTIONS)).astype(np.float32)
        vectors = weights @ directions + NOISE * DIRECTIONS**0.5 * rng.standard_normal((count, dim)).astype(np.float32)
        yield first, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def written(path, rows, dim, seed, changed=frozenset()):
    """The dataset as Parquet; of the rows `changed`, the vectors are others."""
    item = pa.list_(pa.float32(), dim)
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("vector", item), ("rare", pa.bool_()), ("tenth", pa.int64())])
    rng, others = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=["tenth"]) as writer:
        for first, vectors in made_up(rows, dim, rng):
            numbers = range(first, first + len(vectors))
            for number in changed.intersection(numbers):
                other = vectors[number - first] + 0.05 * others.standard_normal(dim).astype(np.float32)
                vectors[number - first] = other / np.linalg.norm(other)
            columns = [
                pa.array([f"row-{n}" for n in numbers]),
                pa.array([f"the text of row {n}" for n in numbers]),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=item),
                pa.array([n % 1000 == 7 for n in numbers]),
                pa.array([n % 10 for n in numbers]),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def queries(rows, dim, seed, count):
    """Questions near the rows, and none of them."""
    rng = np.random.default_rng(seed + 2)
    first, vectors = next(made_up(min(rows, GROUP), dim, np.random.default_rng(seed)))
    near = vectors[rng.integers(0, len(vectors), count)]
    far = vectors[rng.integers(0, len(vectors), count)]
    mixed = 0.7 * near + 0.3 * far
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def timed(ask, all_queries):
    for query in all_queries[:WARM_UP]:
        ask(query)
    times = []
    for query in all_queries:
        began = time.perf_counter()
        ask(query)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def settled(ask, all_queries):
    """The same when they are as quick as they get: the best round of several, before a change as after it."""
    best = timed(ask, all_queries)
    for done in range(1, ROUNDS[1]):
        time.sleep(PAUSE_S)
        now = timed(ask, all_queries)
        was, best = best, min(best, now)
        if done + 1 >= ROUNDS[0] and now > (1 - QUICKER) * was:
            break
    return best


def of_size(programs, rows, dim, count):
    out = {"rows": rows, "dim": dim}
    with Mesh(programs, "scale") as mesh:
        raw, name = rows * dim * 4, "d"
        path = mesh.folder + "/rows.parquet"
        written(path, rows, dim, rows)
        mesh.run("ingest", "files", name, path, "--no-pii")
        filters = ["--filter-column", "rare", "--filter-column", "tenth"]
        mesh.run("index", "create", "i", "--dataset", name, "--vector-column", "vector", *filters)
        pid = mesh.pid("brahman-index")
        began = time.perf_counter()
        with Peak(pid) as peak:
            mesh.run("index", "refresh", "i")
        out["refresh_s"] = time.perf_counter() - began
        out["resident_over_raw"], out["own_over_raw"] = peak.resident / raw, peak.own / raw
        out["before_mib"] = peak.before >> 20
        began = time.perf_counter()
        mesh.run("index", "refresh", "i")
        out["nothing_to_do_s"] = time.perf_counter() - began

        asked = [[float(x) for x in query] for query in queries(rows, dim, rows, count)]

        def search(query, **more):
            return mesh.call("Index.Search", index="i", vectors=[query], k=K, **more)

        def recall():
            def ids(reply):
                return {hit["doc_id"] for hit in reply["results"][0]}

            return statistics.mean(len(ids(search(query)) & ids(search(query, exact=True))) / K for query in asked)

        reply = search(asked[0])
        out["said_ef"], out["said_recall"] = reply.get("ef"), reply.get("recall")
        out["recall"] = recall()
        out["search_us"] = settled(search, asked)
        for label, condition in [
            ("filter_0.1%_us", {"rare": True}),
            ("filter_10%_us", {"tenth": 3}),
            ("filter_id_us", {"doc_id": f"row-{rows // 2}"}),
        ]:
            out[label] = timed(lambda query: search(query, filter=condition), asked)
        out["get_us"] = timed(lambda _: mesh.call("Index.Get", index="i", doc_id=f"row-{rows // 3}"), asked)

        changed = frozenset(int(n) for n in np.random.default_rng(5).choice(rows, int(rows * CHANGED), replace=False))
        written(path, rows, dim, rows, changed)
        mesh.run("ingest", "files", name, path, "--no-pii")
        began = time.perf_counter()
        with Peak(pid) as peak:
            mesh.run("index", "refresh", "i")
        out["refresh_changed_s"] = time.perf_counter() - began
        out["changed_resident_over_raw"], out["changed_own_over_raw"] = peak.resident / raw, peak.own / raw
        out["changed_at_once_us"] = timed(search, asked)
        # What was appended is linked behind.
        out["changed_us"] = settled(search, asked)
        out["changed_over_before"] = out["changed_us"] / out["search_us"]
        out["changed_recall"] = recall()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", metavar="BIN")
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", metavar="FILE")
    ask = parser.parse_args()
    results = []
    for rows in (int(n) for n in ask.rows.split(",")):
        result = of_size(ask.programs, rows, ask.dim, ask.queries)
        results.append(result)
        print(f"{rows} rows of {ask.dim} numbers", flush=True)
        for key, value in result.items():
            if key not in ("rows", "dim"):
                print(f"  {key:28} {value if not isinstance(value, float) else round(value, 4)}", flush=True)
    if ask.json:
        with open(ask.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
