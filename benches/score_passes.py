"""The plain way: one full pass of the model for each sequence, in onnxruntime.

score_passes.py MODEL SEQUENCES THREADS: SEQUENCES is a JSON list of {"tokens": […], "wanted": [[from, to], …]}. Prints JSON: the seconds that
the passes took, and the log-probabilities at the wanted places of each.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

model, file, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
empty = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs() if "past" in i.name}
sequences = json.load(open(file))


def score(tokens, wanted):
    ids = np.array([tokens], dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1], dtype=np.int64)[None]}
    logits = session.run(["logits"], feed | empty)[0][0]
    places = np.concatenate([np.arange(a, b) for a, b in wanted]) if wanted else np.zeros(0, np.int64)
    rows = logits[places - 1].astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    norm = top[:, 0] + np.log(np.exp(rows - top).sum(axis=1))
    return rows[np.arange(len(places)), ids[0, places]] - norm


score(sequences[0]["tokens"][:64], [[1, 64]])
started = time.perf_counter()
scores = [score(s["tokens"], s["wanted"]).tolist() for s in sequences]
print(json.dumps({"seconds": time.perf_counter() - started, "scores": scores}))
