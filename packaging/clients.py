#!/usr/bin/env python3
"""clients.py URL BRAHMAN [CLIENT]…: each client does what its users do with it, and gets what the mesh itself says."""

import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

URL, BRAHMAN, *WANTED = sys.argv[1:]
CLIENT = pathlib.Path(__file__).resolve().parent.parent / "clients" / "python"
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
    from mcp.client.streamable_http import streamable_http_client

    async def over_http():
        # Its end ends the session, too.
        async with streamable_http_client(URL + "/mcp") as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            assert "search" in {tool.name for tool in (await session.list_tools()).tools}
            await session.send_ping()

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
    asyncio.run(over_http())


def gates():
    """A dataset and an index of a few notes, which are there once."""
    with tempfile.TemporaryDirectory() as folder:
        for number, words in enumerate(("The gate is blue.", "The gate was green once.", "Whoever paints a gate waits for rain.", "Tea.")):
            path = pathlib.Path(folder, f"note-{number}.md")
            path.write_text(f"# Gates\n\n{words}\n", encoding="utf-8")
        mesh("org.brahman.Ingest.Files", {"dataset": "notes", "paths": [folder]})
    mesh("org.brahman.Index.Create", {"name": "notes", "dataset": "notes", "id_column": "id", "text_column": "text"})
    mesh("org.brahman.Index.Refresh", {"name": "notes"})


def fastmcp_package():
    import fastmcp

    async def work(client):
        async with client:
            tools = {tool.name for tool in await client.list_tools()}
            assert {"search", "get", "list", "explain"} <= tools, tools
            said = await client.call_tool("explain", {"flow": "embed"})
            assert "embed-mock" in said.content[0].text, said
            assert any("notes" in str(resource.uri) for resource in await client.list_resources())

    gates()
    asyncio.run(work(fastmcp.Client(URL + "/mcp")))
    config = {"mcpServers": {"brahman": {"command": BRAHMAN, "args": ["mcp"], "env": {"BRAHMAN_SOCKET": os.environ["BRAHMAN_SOCKET"]}}}}
    asyncio.run(work(fastmcp.Client(config)))


def node_openai_package():
    script = """
        const OpenAI = require(process.argv[1] + "/openai").default;
        const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "unused", maxRetries: 0 });
        const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
        (async () => {
            const reply = await client.embeddings.create({ model: process.argv[3], input: texts });
            const models = await client.models.list();
            let code = "none";
            try { await client.embeddings.create({ model: "nothing", input: "x" }); } catch (error) { code = error.code; }
            console.log(JSON.stringify({ vectors: reply.data.map((entry) => entry.embedding), models: models.data.map((one) => one.id), code }));
        })();
    """
    command = ["node", "-e", script, os.environ["BRAHMAN_NODE_MODULES"], URL, MODEL]
    out = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout)
    same(told["vectors"])
    assert MODEL in told["models"] and told["code"] == "model_not_found", told["code"]


#: Scenarios that any server can be put through. The others ask for tools, prompts and resources of a reference server's own, by name,
#: for sampling, elicitation and completion, or for sessions, none of which this server offers.
CONFORMANCE = ("server-initialize", "ping", "tools-list", "resources-list", "server-sse-multiple-streams", "dns-rebinding-protection")


def conformance_suite():
    program = pathlib.Path(os.environ["BRAHMAN_NODE_MODULES"], "@modelcontextprotocol", "conformance", "dist", "index.js")
    with tempfile.TemporaryDirectory() as folder:
        for scenario in CONFORMANCE:
            command = ["node", str(program), "server", "--url", URL + "/mcp", "--scenario", scenario, "--output-dir", folder]
            out = subprocess.run(command, capture_output=True, text=True, check=False)
            assert out.returncode == 0, f"{scenario}:\n{out.stdout}{out.stderr}"


def langchain_standard_tests():
    gates()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "test_standard.py").write_text(
            """
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from brahman.langchain import BrahmanEmbeddings, BrahmanRetriever


class TestInit(EmbeddingsUnitTests):
    embeddings_class = BrahmanEmbeddings


class TestEmbeddings(EmbeddingsIntegrationTests):
    embeddings_class = BrahmanEmbeddings


class TestRetriever(RetrieversIntegrationTests):
    retriever_constructor = BrahmanRetriever
    retriever_constructor_params = {"index": "notes", "mode": "semantic"}
    retriever_query_example = "which colour has the gate?"
""",
            encoding="utf-8",
        )
        environment = {**os.environ, "PYTHONPATH": str(CLIENT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", folder]
        out = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert out.returncode == 0, out.stdout + out.stderr
        assert " passed" in out.stdout, out.stdout


def promtool_check():
    program = os.environ.get("BRAHMAN_PROMTOOL")
    if not program:
        return "passed over"
    with urllib.request.urlopen(URL + "/metrics") as reply:
        text = reply.read()
    out = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, check=False)
    assert out.returncode == 0, (out.stdout + out.stderr).decode()


#: Views of the page, by what one of them must show.
VIEWS = {
    "modules": ("/", "embed-mock"),
    "search": ("/page/search?index=notes&text=gate&mode=lexical", "<mark>gate</mark>"),
    "datasets": ("/page/datasets?name=notes", "History"),
    "indexes": ("/page/indexes", "notes"),
    "trials": ("/page/indexes?name=notes", "notes"),
    "score": ("/page/score", "textarea"),
}


def browser_page():
    program = os.environ.get("BRAHMAN_CHROMIUM")
    if not program:
        return "passed over"
    gates()
    folder = pathlib.Path(os.environ["BRAHMAN_SCREENSHOTS"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as profile:
        common = [program, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        common += ["--no-sandbox", f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=2500"]

        def browse(*arguments):
            out = subprocess.run([*common, *arguments], capture_output=True, text=True, timeout=120, check=False)
            assert out.returncode == 0, out.stderr
            console = [line for line in out.stderr.splitlines() if "CONSOLE" in line and "[DOM]" not in line]
            assert not console, console
            return out.stdout

        shown = browse("--dump-dom", URL + "/")
        assert "(live)" in shown and "embed-mock" in shown, shown
        talk = "memory boat: The boat is called Kolva.\nuser: Which boat?\nassistant: The boat is called Kolva."
        body = urllib.parse.urlencode({"talk": talk}).encode()
        with urllib.request.urlopen(urllib.request.Request(URL + "/page/matrix", data=body)) as reply:
            matrix = folder / "matrix.html"
            matrix.write_bytes(reply.read())
        views = {name: (URL + path, word) for name, (path, word) in VIEWS.items()}
        views["matrix"] = (matrix.as_uri(), "Kolva")
        for name, (url, word) in views.items():
            assert word.lower() in browse("--dump-dom", url).lower(), f"{name}: {word}"
            for width, size in (("narrow", "500,1100"), ("wide", "1280,900")):
                for scheme, number in (("light", 1), ("dark", 0)):
                    file = folder / f"{name}-{width}-{scheme}.png"
                    setting = f"--blink-settings=preferredColorScheme={number}"
                    browse(f"--window-size={size}", setting, f"--screenshot={file}", url)
                    assert file.stat().st_size > 5000, file
    print(f"screenshots of the page: {folder}", flush=True)


CHECKS = {
    "openai": openai_package,
    "ollama": ollama_package,
    "cohere": cohere_package,
    "langchain": langchain_packages,
    "llama": llama_index_package,
    "mcp": mcp_package,
    "fastmcp": fastmcp_package,
    "node": node_openai_package,
    "conformance": conformance_suite,
    "standard": langchain_standard_tests,
    "promtool": promtool_check,
    "browser": browser_page,
}

unknown = set(WANTED) - set(CHECKS)
if unknown:
    raise SystemExit(f"{', '.join(sorted(unknown))}: there is no such check, there are {', '.join(CHECKS)}")
for name, check in CHECKS.items():
    if not WANTED or name in WANTED:
        print(f"{check.__name__}: {check() or 'fine'}", flush=True)
