"""Five small language models in the layouts of real ones, and what numpy says of a text in 64 bits.

A token's vector is added to all before it: that sum, of the cache, and its own vector make the logits. What is in the caches is a multiple
of 1/16, so that 16 bits hold it exactly.

    python3 make.py            writes the folders and their reference.json
    python3 make.py --check    compares each model in ONNX Runtime, in pieces, with its reference

Needs numpy and onnx, and onnxruntime to check.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).resolve().parent
VOCABULARY, WIDTH = 256, 16
TEXT = "".join(f"{n}. The gate is blue, and Renmu keeps the barometer in Tasvoli. naïve café\n" for n in range(12))

# Cache; token that stands first, and who says so; graph; whether weights lie beside it.
MODELS = {
    "gpt": dict(cache=TensorProto.FLOAT, first=None, graph="model.onnx", external=False),
    "llama": dict(cache=TensorProto.FLOAT16, first="tokenizer", graph="model.onnx", external=True),
    "gemma": dict(cache=TensorProto.BFLOAT16, first="config", graph="model.onnx", external=False),
    "uncached": dict(cache=None, first=None, graph="model.onnx", external=False),
    "merged": dict(cache=TensorProto.FLOAT, first="tokenizer", graph="onnx/decoder_model_merged.onnx", external=True),
}


def weights():
    dice = np.random.RandomState(7)
    vectors = dice.randint(-8, 9, (VOCABULARY, WIDTH)).astype(np.float32) / 16
    return {"vectors": vectors, "past": dice.randint(-64, 65, (WIDTH, VOCABULARY)).astype(np.float32) / 32,
            "own": dice.randint(-64, 65, (WIDTH, VOCABULARY)).astype(np.float32) / 32}


def reference(tokens):
    w = {name: table.astype(np.float64) for name, table in weights().items()}
    vectors = w["vectors"][tokens]
    places = np.arange(len(tokens))[:, None] / 1024
    logits = np.tanh(np.cumsum(vectors, axis=0) / 4 + places) @ w["past"] + vectors @ w["own"]
    top = logits.max(axis=1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return logp[np.arange(len(tokens) - 1), tokens[1:]]


def graph(kind):
    narrow, cache = kind["cache"] is None, kind["cache"]
    ids = TensorProto.INT32 if narrow else TensorProto.INT64
    tables = [numpy_helper.from_array(table, name) for name, table in weights().items()]
    number = lambda name, value, dtype=np.int64: tables.append(numpy_helper.from_array(np.array(value, dtype=dtype), name))
    number("one", [1])
    number("two", [2])
    number("last_axis", [-1])
    number("end", [2**62])
    number("tokens_axis", 2)
    number("quarter", 0.25, np.float32)
    number("place", 1 / 1024, np.float32)
    node = helper.make_node
    nodes = [node("Gather", ["vectors", "input_ids"], ["own_vectors"]), node("Unsqueeze", ["own_vectors", "one"], ["heads"])]
    free = lambda name: helper.make_tensor_value_info(name, ids, ["batch", "tokens"])
    inputs = [free("input_ids"), helper.make_tensor_value_info("attention_mask", ids, ["batch", "all"]), free("position_ids")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", VOCABULARY])]
    if cache is None:
        nodes.append(node("Identity", ["heads"], ["all_vectors"]))
    else:
        for part in ("key", "value"):
            past, present = f"past_key_values.0.{part}", f"present.0.{part}"
            nodes.append(node("Cast", ["heads"], [f"new_{part}"], to=cache))
            nodes.append(node("Concat", [past, f"new_{part}"], [present], axis=2))
            inputs.append(helper.make_tensor_value_info(past, cache, ["batch", 1, "past", WIDTH]))
            outputs.append(helper.make_tensor_value_info(present, cache, ["batch", 1, "all", WIDTH]))
        nodes.append(node("Cast", ["present.0.value"], ["all_vectors"], to=TensorProto.FLOAT))
    if "merged" in kind["graph"]:
        inputs.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
        inputs.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))
    nodes += [
        node("CumSum", ["all_vectors", "tokens_axis"], ["sums"]),
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["count"]),
        node("Neg", ["count"], ["from"]),
        node("Slice", ["sums", "from", "end", "two"], ["own_sums"]),
        node("Squeeze", ["own_sums", "one"], ["read"]),
        node("Mul", ["read", "quarter"], ["less"]),
        node("Cast", ["position_ids"], ["places"], to=TensorProto.FLOAT),
        node("Mul", ["places", "place"], ["small_places"]),
        node("Unsqueeze", ["small_places", "last_axis"], ["wide_places"]),
        node("Add", ["less", "wide_places"], ["placed"]),
        node("Tanh", ["placed"], ["bounded"]),
        node("MatMul", ["bounded", "past"], ["of_past"]),
        node("MatMul", ["own_vectors", "own"], ["of_own"]),
        node("Add", ["of_past", "of_own"], ["logits"]),
    ]
    made = helper.make_model(helper.make_graph(nodes, "small", inputs, outputs, tables), opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made


def tokenizer(first):
    """A byte is a token, its value the id; the characters that stand for bytes are those of GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    letters = {byte: chr(byte) if byte in plain else chr(next(others)) for byte in range(256)}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": {c: b for b, c in letters.items()}, "merges": []}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    begin, text = {"SpecialToken": {"id": letters[1], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {letters[1]: {"id": letters[1], "ids": [1], "tokens": [letters[1]]}}
    begins = {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text, {"Sequence": {"id": "B", "type_id": 1}}],
              "special_tokens": special}
    empty = {"truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    made = {"version": "1.0", **empty, "post_processor": begins if first == "tokenizer" else None}
    return made | {"pre_tokenizer": bytes_of, "decoder": bytes_of, "model": model}, letters[1]


def configuration(name):
    """What each says of itself in its own words; that one has a token to begin with does not say that its texts do."""
    if name == "gpt":
        return "config.json", {"model_type": "gpt2", "n_positions": 4096, "n_head": 1, "n_embd": WIDTH, "bos_token_id": 1}
    if name == "gemma":
        text = {"max_position_embeddings": 4096, "num_attention_heads": 1, "hidden_size": WIDTH}
        return "config.json", {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 9}}
    if name == "merged":
        decoder = {"filename": MODELS[name]["graph"], "num_attention_heads": 1, "hidden_size": WIDTH}
        return "genai_config.json", {"model": {"context_length": 4096, "bos_token_id": 1, "decoder": decoder}}
    return "config.json", {"model_type": name, "max_position_embeddings": 4096, "num_attention_heads": 1, "hidden_size": WIDTH}


def main():
    for name, kind in MODELS.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        file = folder / kind["graph"]
        file.parent.mkdir(parents=True)
        beside = dict(save_as_external_data=True, location=file.name + "_data", size_threshold=1024) if kind["external"] else {}
        onnx.save_model(graph(kind), file, **beside)
        made, first = tokenizer(kind["first"])
        (folder / "tokenizer.json").write_text(json.dumps(made, ensure_ascii=False, sort_keys=True) + "\n")
        if kind["first"] == "config":
            (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "bos_token": {"content": first}}) + "\n")
        file, config = configuration(name)
        (folder / file).write_text(json.dumps(config, indent=2) + "\n")
        tokens = np.array([*([1] if kind["first"] else []), *TEXT.encode()])
        logprobs = [*([] if kind["first"] else [None]), *reference(tokens).round(7).tolist()]
        (folder / "reference.json").write_text(json.dumps({"text": TEXT, "logprobs": logprobs}) + "\n")


def check():
    import ml_dtypes
    import onnxruntime
    of = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
    for name, kind in MODELS.items():
        session = onnxruntime.InferenceSession(str(HERE / name / kind["graph"]))
        said = json.loads((HERE / name / "reference.json").read_text())
        tokens = np.array([*([1] if kind["first"] else []), *TEXT.encode()])
        if kind["cache"] == TensorProto.BFLOAT16:
            print(name, "bfloat16 has no numpy type here; loads")
            continue
        ids, logits, at = (np.int32 if kind["cache"] is None else np.int64), [], 0
        past = None if kind["cache"] is None else [np.zeros((1, 1, 0, WIDTH), of[kind["cache"]])] * 2
        while at < len(tokens):
            piece = tokens[at:] if past is None else tokens[at:at + 100]
            feed = {"input_ids": piece[None].astype(ids), "attention_mask": np.ones((1, at + len(piece)), ids),
                    "position_ids": np.arange(at, at + len(piece))[None].astype(ids)}
            if past is not None:
                feed |= {"past_key_values.0.key": past[0], "past_key_values.0.value": past[1]}
            if "merged" in kind["graph"]:
                feed |= {"use_cache_branch": np.array([at > 0]), "num_logits_to_keep": np.array(0)}
            out, *rest = session.run(None, feed)
            past, at = rest or None, at + len(piece)
            logits.append(out[0].astype(np.float64))
        logits = np.concatenate(logits)
        top = logits.max(axis=1, keepdims=True)
        logp = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        ours = logp[np.arange(len(tokens) - 1), tokens[1:]]
        theirs = np.array([x for x in said["logprobs"] if x is not None])
        print(name, len(theirs), "worst", np.abs(ours - theirs).max(), "mean", theirs.mean())


if __name__ == "__main__":
    check() if "--check" in sys.argv else main()
