"""Whether tuning finds the best of a grid in few trials, and whether its agent keeps out of people's way.

Usage: tuning.py BIN [--indexes N]

A grid: on N (20) made-up indexes every one of 6 × 6 graphs is built and measured at 6 widths; the best of the 216 is the quickest p95 that
reaches a recall of 0.95. Then `Autotune` is given the same grid: how many of its trials pass until one of them is a graph whose own p95, as
the whole grid had measured it, is within 2 % of the best. Latencies repeat to a few hundredths at best, so the same is also said for 10 %.

The agent: `Autotune` of four graphs on an idle mesh, and on one whose agent has other indexes to try while a client searches 20 times a
second; and that client's latencies while the agent works alone, beside those of the idle mesh.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mesh import Mesh

MS = [4, 8, 12, 16, 24, 32]
EF_CONSTRUCTIONS = [32, 64, 100, 150, 200, 400]
WIDTHS = [10, 20, 40, 80, 160, 320]
TARGET = 0.95


def made(rng, rows, dim, centres, noise):
    middle = rng.standard_normal((centres, dim), dtype=np.float32)
    return middle[rng.integers(0, centres, rows)] + noise * rng.standard_normal((rows, dim), dtype=np.float32)


def index(mesh, work, name, vectors):
    path = os.path.join(work, name + ".parquet")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"id": pa.array(range(len(vectors))), "v": column}), path)
    mesh.last("Ingest.Files", dataset=name, paths=[path])
    mesh.call("Index.Create", name=name, dataset=name, id_column="id", vector_column="v")
    mesh.last("Index.Refresh", name=name)
    mesh.call("Index.EvalAutogen", name=name, queries=200, k=10)


def best_of(trial):
    """The quickest p95 among the widths that reach the target."""
    reached = [width["p95_us"] for width in trial["widths"] if width["recall_at_k"] >= TARGET]
    return min(reached, default=float("inf"))


def grids(mesh, work, count):
    within = {0.02: [], 0.10: []}
    for number in range(count):
        rng = np.random.default_rng(number)
        dim = [32, 64, 96, 128][number % 4]
        name = f"grid{number}"
        index(mesh, work, name, made(rng, 3000 + 500 * (number % 5), dim, [20, 200, 1000][number % 3], [0.2, 0.5, 1.0][number % 3]))
        p95 = {}
        for m in MS:
            for ef in EF_CONSTRUCTIONS:
                config = {"m": m, "ef_construction": ef}
                p95[m, ef] = best_of(mesh.last("Index.Trial", name=name, config=config, target_recall=TARGET, ef_search=WIDTHS)["trial"])
        best = min(p95.values())
        mesh.last("Index.Autotune", name=name, m=MS, ef_construction=EF_CONSTRUCTIONS, ef_search=WIDTHS, target_recall=TARGET, trials=36)
        tried = [t["config"] for t in mesh.call("Index.Trials", name=name)["trials"] if t["by"] == "autotune"]
        for share, needed in within.items():
            good = [at for at, config in enumerate(tried, 1) if p95[config["m"], config["ef_construction"]] <= (1 + share) * best]
            needed.append(min(good))
        mesh.call("Index.Delete", name=name)
    for share, needed in within.items():
        bar = "≤ 12" if share == 0.02 else "-"
        print(f"| trials until within {share:.0%} of the best of {len(MS)} × {len(EF_CONSTRUCTIONS)} × {len(WIDTHS)}, mean of {count} indexes (most)"
              f" | {statistics.mean(needed):.1f} ({max(needed)}) | {bar} |", flush=True)


class Client(threading.Thread):
    """Searches 20 times a second on a connection of its own, until it is told to stop."""

    def __init__(self, mesh, name, queries):
        super().__init__(daemon=True)
        self.mesh, self.name_, self.queries, self.took, self.done = mesh, name, queries, [], threading.Event()

    def run(self):
        with self.mesh.another() as mesh:
            at = 0
            while not self.done.is_set():
                since = time.perf_counter()
                mesh.call("Index.Search", index=self.name_, vector=self.queries[at % len(self.queries)], k=10)
                self.took.append((time.perf_counter() - since) * 1e6)
                at += 1
                self.done.wait(0.05)

    def stop(self):
        self.done.set()
        self.join()
        return self.took


def tuned(mesh):
    since = time.perf_counter()
    mesh.last("Index.Autotune", name="tuned", m=[8, 16], ef_construction=[64, 200], target_recall=TARGET)
    return time.perf_counter() - since


def agent(programs, work):
    config = os.path.join(work, "index.toml")
    with open(config, "w") as file:
        file.write("[agent]\nenabled = true\nmax_trials_per_hour = 1000\ncooldown_s = 0\nperiod_s = 1\n")
    rng = np.random.default_rng(99)
    seconds, searches = {}, {}
    for name, environment in (("without", {}), ("beside", {"BRAHMAN_INDEX_CONFIG": config})):
        with Mesh(programs, name, **environment) as mesh:
            for of in ("tuned", "other", "asked"):
                index(mesh, work, of, made(rng, 20_000, 128, 400, 0.5))
            queries = made(rng, 200, 128, 400, 0.5).tolist()
            client = Client(mesh, "asked", queries)
            if name == "without":
                # Nothing else goes on: the client is measured by itself, autotune by itself.
                client.start()
                time.sleep(10)
                searches[name] = client.stop()
            else:
                client.start()
                seen, until = 0, time.monotonic() + 60
                while seen < 3 and time.monotonic() < until:
                    time.sleep(1)
                    seen = mesh.call("Index.AgentStatus")["trials_last_hour"]
                searches[name] = client.took[:]
                assert seen, "the agent did nothing in a minute"
            seconds[name] = tuned(mesh)
            client.stop()
    p99 = {name: statistics.quantiles(took, n=100)[98] for name, took in searches.items()}
    print(f"| autotune of four graphs beside the agent and 20 searches a second / alone | {seconds['beside']:.2f} / {seconds['without']:.2f} s"
          f" = {seconds['beside'] / seconds['without']:.2f}× | ≤ 1.3× |")
    print(f"| p99 of live searches while the agent works / idle | {p99['beside']:.0f} / {p99['without']:.0f} µs = {p99['beside'] / p99['without']:.2f}× | ≤ 1.5× |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("--indexes", type=int, default=20)
    arguments = parser.parse_args()
    print("| figure | measured | bar |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="brahman-tuning-") as work:
        agent(arguments.programs, work)
        with Mesh(arguments.programs, "grids") as mesh:
            grids(mesh, work, arguments.indexes)


if __name__ == "__main__":
    main()
