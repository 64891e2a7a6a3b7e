#!/usr/bin/env python3
"""Makes the language model beside this file: two layers of attention over bytes, constructed, not trained.

Layer 1 has three heads that look at the byte one, two and three places back (Gaussian-like peaks of summed cosines of the
distance). Layer 2 has one head that looks for earlier places where the three bytes before agree with the last three here, and
copies the byte that followed: an induction head (Olsson et al., "In-context Learning and Induction Heads", 2022). Where nothing
agrees it looks at the first place, whose value is zero. The logits are those of a table of byte pairs, plus the copied byte.

    python3 make.py            writes model.onnx, tokenizer.json, config.json, and reference.json: what numpy says
    python3 make.py --check    compares the model in ONNX Runtime, in pieces, with numpy on the same weights

Needs numpy and onnx, and onnxruntime to check. The seed is fixed; RandomState's stream is promised never to change.
"""

import json
import math
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
VOCABULARY, WINDOW = 256, 16384
CODE = 80  # numbers by which a byte is known; 256 random codes of so many signs overlap by 0.11 at one sigma
WAVES = 24  # frequencies by which a place is known
BACK = 3  # heads of layer 1
POSITION_GAIN = 2.5  # peak above the rest: 2.5 * (24 - 14), far more than ln(16384)
MATCH_GAIN = 18.0  # a third agreeing byte outweighs any number of places where two agree
SINK = 1.6  # less agreement than of two bytes counts for nothing
COPY_GAIN = 9.0  # logits of the copied byte
X0 = CODE + 2 * WAVES + 2  # code, cosines and sines of the place, whether it is the first, and 1
KEY = 2 * WAVES
X1 = X0 + BACK * CODE
MATCH = BACK * CODE + 1

TEXT = """user: What do you think? assistant: The meeting was moved to another day, I am told. There is a concert in the old church on
Sunday. user: Where was that kettle again? assistant: The lantern is in the cellar, she keeps it there. memory: He keeps the ledger
in the drawer. system: You are a helpful assistant. The quick brown fox jumps over the lazy dog. It was the best of times, it was
the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief, it was the epoch of
incredulity. Call me when the train has come in, and we shall see what can be done about the tickets, the bags and the rest of it."""


TRIED = "memory: Kerpo keeps the violin in Vamso.\n" + TEXT * 3 + "assistant: The violin is in Vamso, Kerpo keeps it there.\n"


def weights():
    random = np.random.RandomState(7)
    codes = random.choice([-1.0, 1.0], size=(VOCABULARY, CODE)) / math.sqrt(CODE)
    codes[0] = 0.0  # the token before everything: its value is nothing
    waves = random.uniform(0.05, math.pi, size=WAVES)
    pairs = np.full((VOCABULARY, VOCABULARY), 0.02)
    data = TEXT.encode()
    for a, b in zip(data, data[1:]):
        pairs[a, b] += 1.0
        pairs[:, b] += 0.02
    w = {"codes": codes, "waves": waves[None, None, :], "pairs": np.log(pairs / pairs.sum(axis=1, keepdims=True))}
    query, key = np.zeros((X0, BACK * KEY)), np.zeros((X0, BACK * KEY))
    value = np.zeros((X0, BACK * CODE))
    cos, sin = CODE, CODE + WAVES
    for head in range(BACK):
        for f, wave in enumerate(waves):
            # The place i turned back by head + 1: cos(w(i - t)) and sin(w(i - t)) from those of i.
            t = wave * (head + 1)
            at = head * KEY
            query[cos + f, at + f] = query[sin + f, at + WAVES + f] = math.cos(t) * POSITION_GAIN
            query[sin + f, at + f] = math.sin(t) * POSITION_GAIN
            query[cos + f, at + WAVES + f] = -math.sin(t) * POSITION_GAIN
            key[cos + f, at + f] = key[sin + f, at + WAVES + f] = 1.0
        value[:CODE, head * CODE : (head + 1) * CODE] = np.eye(CODE)
    w |= {"layer1.query": query, "layer1.key": key, "layer1.value": value}
    query, key, value = np.zeros((X1, MATCH)), np.zeros((X1, MATCH)), np.zeros((X1, CODE))
    here = [0, X0, X0 + CODE]  # this byte, the one before, and the one before that
    before = [X0, X0 + CODE, X0 + 2 * CODE]
    for part in range(BACK):
        columns = slice(part * CODE, (part + 1) * CODE)
        query[here[part] : here[part] + CODE, columns] = np.eye(CODE) * MATCH_GAIN
        key[before[part] : before[part] + CODE, columns] = np.eye(CODE)
    query[X0 - 1, MATCH - 1] = MATCH_GAIN * SINK
    key[X0 - 2, MATCH - 1] = 1.0
    value[:CODE] = np.eye(CODE)
    w |= {"layer2.query": query, "layer2.key": key, "layer2.value": value, "copy": codes.T * COPY_GAIN}
    return {name: tensor.astype(np.float32) for name, tensor in w.items()}


def graph(w):
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants = [], [numpy_helper.from_array(tensor, name) for name, tensor in w.items()]
    count = iter(range(10**6))

    def op(kind, *inputs, out=None, **attributes):
        out = out or f"{kind.lower()}_{next(count)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(value, kind=np.int64):
        name = f"constant_{next(count)}"
        constants.append(numpy_helper.from_array(np.array(value, dtype=kind), name))
        return name

    def heads(x, n):
        shaped = op("Reshape", x, constant([0, 0, n, -1]))
        return op("Transpose", shaped, perm=[0, 2, 1, 3])

    place = op("Cast", op("Unsqueeze", "position_ids", constant([2])), to=TensorProto.FLOAT)
    angle = op("Mul", place, "waves")
    first = op("Cast", op("Equal", place, constant([0.0], np.float32)), to=TensorProto.FLOAT)
    one = op("Add", op("Mul", first, constant([0.0], np.float32)), constant([1.0], np.float32))
    x0 = op("Concat", op("Gather", "codes", "input_ids"), op("Cos", angle), op("Sin", angle), first, one, axis=2)

    # What a place may look at: itself and what is before it, unless the mask hides that.
    total = op("Shape", "attention_mask", start=1, end=2)
    length = op("Shape", "input_ids", start=1, end=2)
    scalar = constant([], np.int64)
    to_scalar = lambda x: op("Reshape", x, scalar)
    start = op("Sub", total, length)
    rows = op("Unsqueeze", op("Range", to_scalar(start), to_scalar(total), constant(1)), constant([1]))
    columns = op("Unsqueeze", op("Range", constant(0), to_scalar(total), constant(1)), constant([0]))
    seen = op("Unsqueeze", op("Cast", "attention_mask", to=TensorProto.BOOL), constant([1, 2]))
    allowed = op("And", op("LessOrEqual", columns, rows), seen)
    hidden = op("Where", allowed, constant(0.0, np.float32), constant(-1e9, np.float32))

    def attention(x, layer, n):
        query = heads(op("MatMul", x, f"layer{layer + 1}.query"), n)
        state = []
        for part in ("key", "value"):
            new = heads(op("MatMul", x, f"layer{layer + 1}.{part}"), n)
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            state.append(op("Concat", past, new, out=present, axis=2))
        scores = op("MatMul", query, op("Transpose", state[0], perm=[0, 1, 3, 2]))
        look = op("Softmax", op("Add", scores, hidden), axis=-1)
        found = op("Transpose", op("MatMul", look, state[1]), perm=[0, 2, 1, 3])
        return op("Reshape", found, constant([0, 0, -1]))

    x1 = op("Concat", x0, attention(x0, 0, BACK), axis=2)
    copied = op("MatMul", attention(x1, 1, 1), "copy")
    op("Add", op("Gather", "pairs", "input_ids"), copied, out="logits")

    def tensor(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, list(shape))

    sizes = [(BACK, KEY, CODE), (1, MATCH, CODE)]
    past = [
        (f"{layer}.{part}", n, d)
        for layer, (n, key, value) in enumerate(sizes)
        for part, d in (("key", key), ("value", value))
    ]
    inputs = [
        tensor("input_ids", TensorProto.INT64, "batch", "sequence"),
        tensor("attention_mask", TensorProto.INT64, "batch", "total"),
        tensor("position_ids", TensorProto.INT64, "batch", "sequence"),
    ]
    inputs += [tensor(f"past_key_values.{name}", TensorProto.FLOAT, "batch", n, "past", d) for name, n, d in past]
    outputs = [tensor("logits", TensorProto.FLOAT, "batch", "sequence", VOCABULARY)]
    outputs += [tensor(f"present.{name}", TensorProto.FLOAT, "batch", n, "total", d) for name, n, d in past]
    made = helper.make_graph(nodes, "induction", inputs, outputs, constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="brahman")
    checker.check_model(model, full_check=True)
    return model


def tokenizer():
    """A byte is a token, its value the id; the characters that stand for bytes are those of GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    letters = {byte: chr(byte) if byte in plain else chr(next(others)) for byte in range(256)}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": {c: b for b, c in letters.items()}, "merges": []}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    empty = {"truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    # Token 0 stands first, as a model's does that was trained with one.
    begin, text = {"SpecialToken": {"id": letters[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    pair = [begin, text, {"Sequence": {"id": "B", "type_id": 1}}]
    first = {letters[0]: {"id": letters[0], "ids": [0], "tokens": [letters[0]]}}
    begins = {"type": "TemplateProcessing", "single": [begin, text], "pair": pair, "special_tokens": first}
    return {"version": "1.0", **empty, "post_processor": begins, "pre_tokenizer": bytes_of, "decoder": bytes_of, "model": model}


def reference(w, tokens):
    """The same in numpy, in one pass, in double precision: log-probabilities of the tokens after the first."""
    w = {name: tensor.astype(np.float64) for name, tensor in w.items()}
    n = len(tokens)
    angle = np.arange(n)[:, None] * w["waves"][0]
    first = (np.arange(n) == 0)[:, None].astype(float)
    x0 = np.concatenate([w["codes"][tokens], np.cos(angle), np.sin(angle), first, np.ones((n, 1))], axis=1)
    hidden = np.where(np.tril(np.ones((n, n))) > 0, 0.0, -np.inf)

    def attention(x, layer, n_heads):
        query, key, value = (np.split(x @ w[f"{layer}.{part}"], n_heads, axis=1) for part in ("query", "key", "value"))
        found = []
        for q, k, v in zip(query, key, value):
            scores = q @ k.T + hidden
            look = np.exp(scores - scores.max(axis=1, keepdims=True))
            found.append(look / look.sum(axis=1, keepdims=True) @ v)
        return np.concatenate(found, axis=1)

    x1 = np.concatenate([x0, attention(x0, "layer1", BACK)], axis=1)
    logits = w["pairs"][tokens] + attention(x1, "layer2", 1) @ w["copy"]
    top = logits.max(axis=1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return logp[np.arange(n - 1), tokens[1:]]


def check():
    import onnxruntime

    tokens = np.array([0, *TRIED.encode()], dtype=np.int64)
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])
    state = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs() if "past" in i.name}
    names = [o.name for o in session.get_outputs()]
    found, at = [], 0
    for piece in np.split(tokens, [1, 2, 100, 613]):
        feed = {"input_ids": piece[None], "attention_mask": np.ones((1, at + len(piece)), np.int64)}
        feed["position_ids"] = np.arange(at, at + len(piece), dtype=np.int64)[None]
        out = dict(zip(names, session.run(names, feed | state)))
        state = {name.replace("present", "past_key_values"): t for name, t in out.items() if name != "logits"}
        found.append(out["logits"][0].astype(np.float64))
        at += len(piece)
    logits = np.concatenate(found)
    logp = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    worst = np.abs(logp[np.arange(len(tokens) - 1), tokens[1:]] - reference(weights(), tokens)).max()
    print(f"{len(tokens)} tokens; largest difference from numpy {worst:.2e}")
    assert worst < 1e-4


if __name__ == "__main__":
    if "--check" in sys.argv:
        check()
    else:
        (HERE / "model.onnx").write_bytes(graph(weights()).SerializeToString(deterministic=True))
        (HERE / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False, sort_keys=True) + "\n")
        config = {"model_type": "induction", "vocab_size": VOCABULARY, "bos_token_id": 0, "max_position_embeddings": WINDOW}
        (HERE / "config.json").write_text(json.dumps(config | {"num_attention_heads": BACK, "num_hidden_layers": 2}, indent=2) + "\n")
        logprobs = reference(weights(), np.array([0, *TRIED.encode()], dtype=np.int64)).round(6).tolist()
        (HERE / "reference.json").write_text(json.dumps({"text": TRIED, "logprobs": logprobs}) + "\n")
