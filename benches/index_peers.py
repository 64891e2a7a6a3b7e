"""Peers of the index on the same vectors: hnswlib, faiss (HNSWFlat, IVF-SQ8, Flat), usearch; M = 16, one thread a search.

Usage: index_peers.py FOLDER DIM. The folder has base.f32, queries.f32 (unit vectors) and truth.u32 (ten rows a query).
Prints one JSON object: builds in seconds, and for each engine its curve of [recall@10, queries a second].
"""

import json
import sys
import time

import faiss
import hnswlib
import numpy as np
from usearch.index import Index

folder, dim = sys.argv[1], int(sys.argv[2])
base = np.fromfile(f"{folder}/base.f32", dtype=np.float32).reshape(-1, dim)
queries = np.fromfile(f"{folder}/queries.f32", dtype=np.float32).reshape(-1, dim)
truth = np.fromfile(f"{folder}/truth.u32", dtype=np.uint32).reshape(-1, 10)
M, EF_CONSTRUCTION, BUILD_THREADS = 16, 200, 2
EFS = [10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 200, 256, 400, 800]
PROBES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]


def recall(found):
    hits = [len(set(map(int, a)) & set(map(int, b))) / 10 for a, b in zip(found, truth)]
    return float(np.mean(hits))


def timed(work):
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def curve(search, settings, repeats=3):
    points = []
    for setting in settings:
        best, found = float("inf"), None
        for _ in range(repeats):
            found, seconds = timed(lambda: search(setting))
            best = min(best, seconds)
        points.append([recall(found), len(queries) / best])
        # Beyond this nothing is asked; a curve that no longer rises has nothing more to give.
        if points[-1][0] >= 0.9995 or (len(points) > 6 and points[-1][0] <= points[-4][0]):
            break
    return points


out = {"builds": {}, "curves": {}}

h = hnswlib.Index("ip", dim)
h.init_index(len(base), M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
h.set_num_threads(BUILD_THREADS)
_, out["builds"]["hnswlib"] = timed(lambda: h.add_items(base))
h.set_num_threads(1)
out["curves"]["hnswlib"] = curve(lambda ef: (h.set_ef(ef), h.knn_query(queries, 10)[0])[1], EFS)
del h

faiss.omp_set_num_threads(BUILD_THREADS)
f = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
f.hnsw.efConstruction = EF_CONSTRUCTION
_, out["builds"]["faiss HNSWFlat"] = timed(lambda: f.add(base))
faiss.omp_set_num_threads(1)


def faiss_search(ef):
    f.hnsw.efSearch = ef
    return f.search(queries, 10)[1]


out["curves"]["faiss HNSWFlat"] = curve(faiss_search, EFS)

u = Index(ndim=dim, metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION)
_, out["builds"]["usearch"] = timed(lambda: u.add(np.arange(len(base)), base, threads=BUILD_THREADS))


def usearch_search(ef):
    u.expansion_search = ef
    return u.search(queries, 10, threads=1).keys


out["curves"]["usearch"] = curve(usearch_search, EFS)
del u

faiss.omp_set_num_threads(BUILD_THREADS)
lists = 1024
ivf = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
_, out["builds"]["faiss IVF-SQ8"] = timed(lambda: (ivf.train(base), ivf.add(base)))
faiss.omp_set_num_threads(1)


def ivf_search(probe):
    ivf.nprobe = probe
    return ivf.search(queries, 10)[1]


out["curves"]["faiss IVF-SQ8"] = curve(ivf_search, PROBES)
del ivf

flat = faiss.IndexFlatIP(dim)
flat.add(base)
few = queries[:100]
_, one = timed(lambda: [flat.search(few[i : i + 1], 10) for i in range(len(few))])
_, batch = timed(lambda: flat.search(queries[:400], 10))
out["flat_single_qps"], out["flat_batch_qps"] = len(few) / one, 400 / batch
json.dump(out, sys.stdout)
