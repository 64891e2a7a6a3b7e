"""fastembed's Python package on the model files at hand, with its defaults: prints vectors and texts/s as JSON."""
import json, os, shutil, sys, tempfile, time

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

folder, texts = sys.argv[1], json.load(open(sys.argv[2]))
with tempfile.TemporaryDirectory() as local:
    for name in ("model.onnx", "tokenizer.json", "config.json", "special_tokens_map.json"):
        shutil.copy(os.path.join(folder, name), local)
    # sentence-transformers' window, which the package reads from here.
    with open(os.path.join(folder, "tokenizer_config.json")) as f:
        config = json.load(f)
    config["model_max_length"] = 256
    with open(os.path.join(local, "tokenizer_config.json"), "w") as f:
        json.dump(config, f)
    TextEmbedding.add_custom_model(
        model="local/minilm", pooling=PoolingType.MEAN, normalization=True, dim=384, model_file="model.onnx",
        sources=ModelSource(url="https://localhost/none"))
    model = TextEmbedding("local/minilm", specific_model_path=local)
    started = time.perf_counter()
    vectors = [v.tolist() for v in model.embed(texts)]
    print(json.dumps({"rate": len(texts) / (time.perf_counter() - started), "vectors": vectors}))
