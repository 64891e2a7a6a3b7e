#!/usr/bin/env python3
"""clients.py URL BRAHMAN [CLIENT]…: each client does what its users do with it, and gets what the mesh itself says."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile

URL, BRAHMAN, *WANTED = sys.argv[1:]
TEXTS = [f"a text of number {n} – ünïcode" for n in range(300)]


def mesh(method, parameters):
    out = subprocess.run([BRAHMAN, "call", "--json", method, "-"], input=json.dumps(parameters), capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


PLAIN = mesh("org.brahman.Embed.EmbedText", {"texts": TEXTS})
MODEL = PLAIN["model"]


def same(vectors, of=TEXTS):
    import numpy

    expected = numpy.asarray(PLAIN["vectors"][: len(of)], dtype=numpy.float32)
    assert numpy.array_equal(numpy.asarray(vectors, dtype=numpy.float32), expected), "not the vectors of EmbedText"


def openai_package():
    import openai

    client = openai.OpenAI(base_url=URL + "/v1", api_key="unused", max_retries=0)
    reply = client.embeddings.create(model=MODEL, input=TEXTS)
    same([entry.embedding for entry in reply.data])
    assert reply.usage.total_tokens > 0 and reply.model == MODEL
    same([client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float").data[0].embedding], TEXTS[:1])
    assert MODEL in [model.id for model in client.models.list()]
    try:
        client.embeddings.create(model="text-embedding-3-small", input="x")
        raise SystemExit("a model that is not served was")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    try:
        client.embeddings.create(model=MODEL, input=[[1, 2, 3]])
        raise SystemExit("token ids were taken")
    except openai.BadRequestError as error:
        assert error.param == "input", error


def ollama_package():
    import ollama

    client = ollama.Client(host=URL)
    same(client.embed(model=MODEL, input=TEXTS).embeddings)
    same([client.embeddings(model=MODEL, prompt=TEXTS[0]).embedding], TEXTS[:1])
    assert MODEL in [model.model for model in client.list().models]
    assert "embedding" in client.show(MODEL).capabilities
    assert [model.model for model in client.ps().models]
    try:
        client.embed(model="nothing", input="x")
        raise SystemExit("a model that is not served was")
    except ollama.ResponseError as error:
        assert error.status_code == 404, error


def cohere_package():
    import cohere

    client = cohere.ClientV2(api_key="unused", base_url=URL)
    documents = ["the cat sat on the mat", "a gate that is blue", "rain"]
    model = mesh("org.brahman.Rerank.Info", {})["model"]
    reply = client.rerank(model=model, query="blue gate", documents=documents, top_n=2)
    assert [result.index for result in reply.results][0] == 1, reply


def langchain_packages():
    from langchain_ollama import OllamaEmbeddings
    from langchain_openai import OpenAIEmbeddings

    first = OpenAIEmbeddings(model=MODEL, base_url=URL + "/v1", api_key="unused", check_embedding_ctx_length=False)
    same(first.embed_documents(TEXTS))
    same([first.embed_query(TEXTS[0])], TEXTS[:1])
    same(OllamaEmbeddings(model=MODEL, base_url=URL).embed_documents(TEXTS))


def llama_index_package():
    from llama_index.embeddings.openai import OpenAIEmbedding

    model = OpenAIEmbedding(model_name=MODEL, api_base=URL + "/v1", api_key="unused")
    same(model.get_text_embedding_batch(TEXTS[:20]), TEXTS[:20])


def mcp_package():
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def work():
        server = StdioServerParameters(command=BRAHMAN, args=["mcp"], env={"BRAHMAN_SOCKET": os.environ["BRAHMAN_SOCKET"]})
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            assert {"search", "get", "list", "ingest", "embed", "score", "explain"} <= tools, tools
            with tempfile.TemporaryDirectory() as folder:
                with open(os.path.join(folder, "gates.md"), "w", encoding="utf-8") as file:
                    file.write("# Gates\n\nThe gate is blue.\n")
                done = await session.call_tool("ingest", {"dataset": "gates", "paths": [folder]})
                assert "can be searched" in done.content[0].text, done
            found = await session.call_tool("search", {"query": "gate", "indexes": ["gates"], "mode": "lexical"})
            assert "blue" in found.content[0].text, found
            resources = (await session.list_resources()).resources
            assert any(str(resource.uri) == "brahman://datasets/gates" for resource in resources), resources

    asyncio.run(work())


for check in (openai_package, ollama_package, cohere_package, langchain_packages, llama_index_package, mcp_package):
    if WANTED and check.__name__.split("_")[0] not in WANTED:
        continue
    check()
    print(f"{check.__name__}: fine", flush=True)
