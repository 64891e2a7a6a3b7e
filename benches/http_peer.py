"""The openai package's client, and the peer that it is compared on: FastAPI around fastembed, on the model files at hand.

    http_peer.py serve PORT MODEL_FOLDER
    http_peer.py client BASE_URL TEXTS.json: prints vectors and texts/s as JSON
"""

import base64
import json
import os
import shutil
import sys
import tempfile
import time


def serve(port, folder):
    import numpy
    import uvicorn
    from fastapi import FastAPI
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType
    from pydantic import BaseModel

    class Request(BaseModel):
        input: str | list[str]
        model: str = ""
        encoding_format: str = "float"

    with tempfile.TemporaryDirectory() as local:
        for name in ("model.onnx", "tokenizer.json", "config.json", "special_tokens_map.json"):
            shutil.copy(os.path.join(folder, name), local)
        # sentence-transformers' window, which the package reads from here.
        with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["model_max_length"] = 256
        with open(os.path.join(local, "tokenizer_config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        source = ModelSource(url="https://localhost/none")
        shape = {"pooling": PoolingType.MEAN, "normalization": True, "dim": 384, "model_file": "model.onnx", "sources": source}
        TextEmbedding.add_custom_model(model="local/minilm", **shape)
        model = TextEmbedding("local/minilm", specific_model_path=local)
        app = FastAPI()

        # Not `async`: FastAPI gives such a function a thread, so that the server answers others meanwhile.
        @app.post("/v1/embeddings")
        def embeddings(request: Request):
            texts = [request.input] if isinstance(request.input, str) else request.input
            entries = []
            for index, vector in enumerate(model.embed(texts)):
                # As the package asks for it.
                if request.encoding_format == "base64":
                    shown = base64.b64encode(numpy.asarray(vector, dtype="<f4").tobytes()).decode()
                else:
                    shown = vector.tolist()
                entries.append({"object": "embedding", "index": index, "embedding": shown})
            usage = {"prompt_tokens": 0, "total_tokens": 0}
            return {"object": "list", "data": entries, "model": request.model, "usage": usage}

        uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")


def client(url, file):
    import openai

    with open(file, encoding="utf-8") as read:
        texts = json.load(read)
    ours = openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=600)
    # Loads what is loaded late, on either side.
    ours.embeddings.create(model="all-MiniLM-L6-v2", input="one text before the others")
    started = time.perf_counter()
    reply = ours.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
    rate = len(texts) / (time.perf_counter() - started)
    print(json.dumps({"rate": rate, "vectors": [entry.embedding for entry in reply.data]}))


{"serve": serve, "client": client}[sys.argv[1]](*sys.argv[2:])
