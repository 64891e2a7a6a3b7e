"""Does search find? Brahman beside SQLite FTS5 (porter and trigram), LanceDB (hybrid) and Chroma (dense), on the same chunks, the same
vectors and the same questions, in one run.

Usage: quality.py BIN [--corpora NAMES] [--documents N] [--questions N] [--seed N] [--json FILE]

BIN is the folder of the programs; the model must have been pulled. Corpora:
  en de ja zh    Debian's package descriptions: a package's summary asks for its long description. They are fetched by apt into a folder of
                 their own (Acquire::Languages), for most machines have only the summaries. ja and zh are searched by words alone.
  python         Python's documentation, as Debian's package python3-doc has its sources (apt-get download, dpkg -x): the questions of its FAQ,
                 cut out of the text, ask for their answers; the headings of its howtos ask for their sections,
                 and those of its tutorial are the other questions.
  repository     this repository's own documents: their headings ask for their sections.

Every corpus is indexed by Brahman; chunks and vectors are then read from its segments, and given to the peers as they are. Every system
gives its best chunks, of which ten count. Weights are chosen on other questions of the same corpus, and one for all corpora together.
Differences are paired, with 95 % intervals by the bootstrap.
"""

import argparse
import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile

import chromadb
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.rerankers import RRFReranker

K = 10
WEIGHTS = [round(0.1 * n, 1) for n in range(11)]
RESAMPLES = 2000
EMBEDDED_AT_ONCE = 64
# Of a corpus, what one question must share with a chunk for it to be the answer.
OVERLAP = 0.5


class Mesh:
    """A mesh of its own, in a folder that goes with it."""

    def __init__(self, programs):
        self.folder = tempfile.mkdtemp(prefix="brahman-quality.")
        os.chmod(self.folder, 0o700)
        self.brahman = os.path.join(programs, "brahman")
        self.env = {
            **os.environ,
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "BRAHMAN_SOCKET": self.folder + "/run/brahman.sock",
            "BRAHMAN_STATE": self.folder + "/state",
        }
        self.log = open(self.folder + "/log", "wb")
        command = [self.brahman, "up", "--context", "prod"]
        self.process = subprocess.Popen(command, env=self.env, stdout=self.log, stderr=self.log)
        subprocess.run([self.brahman, "status", "--wait", "120"], env=self.env, stdout=subprocess.DEVNULL, check=True)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments):
        subprocess.run([self.brahman, *arguments], env=self.env, stdout=subprocess.DEVNULL, check=True)

    def call(self, method, **parameters):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(600)
            connection.connect(self.env["BRAHMAN_SOCKET"])
            message = {"method": "org.brahman." + method, "parameters": parameters}
            connection.sendall(json.dumps(message).encode() + b"\0")
            parts = []
            while not parts or not parts[-1].endswith(b"\0"):
                part = connection.recv(1 << 20)
                if not part:
                    raise SystemExit(f"{method}: the connection was closed")
                parts.append(part)
        reply = json.loads(b"".join(parts)[:-1])
        if "error" in reply:
            raise SystemExit(f"{method}: {reply}")
        return reply["parameters"]

    def embed(self, texts):
        vectors = []
        for first in range(0, len(texts), EMBEDDED_AT_ONCE):
            batch = texts[first : first + EMBEDDED_AT_ONCE]
            vectors += self.call("Embed.EmbedText", texts=batch, role="query", truncate=True)["vectors"]
        return np.array(vectors, dtype=np.float32)


def question(text, document, start=None, end=None, kind="known"):
    """The answer is a document, or a part of it, in bytes."""
    return {"text": text, "document": document, "start": start, "end": end, "kind": kind}


# Corpora: documents by id, and questions.


def fetched_by_apt(folder, languages):
    """Packages and translations, in a folder of their own."""
    lists = os.path.join(folder, "lists")
    if not os.path.isdir(lists):
        os.makedirs(lists + "/partial")
        options = ["-o", "Dir::State::Lists=" + lists, "-o", "Acquire::Languages=" + ",".join(languages)]
        subprocess.run(["apt-get", *options, "update"], check=True, stdout=subprocess.DEVNULL)
    return lists


def descriptions(folder, language):
    apt = {"zh": "zh_CN"}.get(language, language)
    lists = fetched_by_apt(folder, ["en", "de", "ja", "zh_CN"])
    names = [name for name in glob.glob(lists + "/*Translation-*") if name.replace("%5f", "_").split("Translation-")[1].split(".")[0] == apt]
    if not names:
        return None
    text = "".join(
        subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", name], check=True, capture_output=True).stdout.decode("utf8", "replace")
        for name in sorted(names)
    )
    documents, seen = [], set()
    for record in text.split("\n\n"):
        package, summary, body = None, None, []
        for line in record.split("\n"):
            if line.startswith("Package: "):
                package = line[9:].strip()
            elif line.startswith("Description-"):
                tag, _, value = line.partition(": ")
                if tag != "Description-md5":
                    summary = value.strip()
            elif line.startswith(" "):
                body.append("" if line.strip() == "." else line[1:])
        whole = "\n".join(body).strip()
        # One of each: what is there twice has no one answer.
        if package and summary and len(whole) > 80 and summary not in seen and whole not in seen:
            seen.update([summary, whole])
            documents.append((package, summary, whole))
    return documents


def packages(folder, language, count, questions, rng):
    all_of_them = descriptions(folder, language)
    if not all_of_them:
        return None
    rng.shuffle(all_of_them)
    chosen = all_of_them[:count]
    documents = {package: text for package, _, text in chosen}
    asked = [question(summary, package) for package, summary, _ in chosen[: 2 * questions]]
    return documents, asked


def underlined(text):
    """Headings of reStructuredText: place, length with the underline, character, words; in characters."""
    lines = text.split("\n")
    at = 0
    for line, following in zip(lines, lines[1:] + [""]):
        title, rule = line.strip(), following.strip()
        if title and re.fullmatch(r"([-=~^\"'*#+.])\1{3,}", rule) and len(rule) >= len(title) - 2 and not re.fullmatch(r"([-=~^*#+.])\1*", title):
            yield at, len(line) + 1 + len(following) + 1, rule[0], title
        at += len(line) + 1


def without_markup(title):
    return re.sub(r"[`*]|:[\w:]+:", "", title).strip()


def python_sources(folder):
    where = os.path.join(folder, "python-doc")
    if not os.path.isdir(where):
        os.makedirs(where)
        depends = subprocess.run(["apt-cache", "depends", "python3-doc"], check=True, capture_output=True, text=True).stdout
        package = re.search(r"Depends: (python3\.\d+-doc)", depends)
        if not package:
            return None
        subprocess.run(["apt-get", "download", package[1]], check=True, cwd=where, stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg", "-x", glob.glob(where + "/*.deb")[0], where], check=True)
    found = glob.glob(where + "/usr/share/doc/**/_sources", recursive=True)
    return found[0] if found else None


def python_documentation(folder, rng):
    root = python_sources(folder)
    if not root:
        return None
    documents, asked = {}, []
    for base, _, names in sorted(os.walk(root)):
        part = os.path.relpath(base, root).split("/")[0]
        if part not in ("faq", "tutorial", "howto", "reference", "using", "library", "extending"):
            continue
        for name in sorted(names):
            text = open(os.path.join(base, name), encoding="utf8").read()
            if part == "library" and len(text) > 40_000:
                continue
            ident = f"{part}/{name.removesuffix('.txt')}"
            if part == "faq":
                # A question that stood in the text would find itself.
                kept, cut, answers = [], 0, []
                for at, length, _, title in list(underlined(text)):
                    kept.append(text[cut:at])
                    cut = at
                    if title.endswith("?") and len(title.split()) >= 4:
                        answers.append((without_markup(title), len("".join(kept).encode())))
                        cut = at + length
                    else:
                        answers.append((None, len("".join(kept).encode())))
                kept.append(text[cut:])
                text = "".join(kept)
                ends = [start for _, start in answers[1:]] + [len(text.encode())]
                asked += [question(q, ident, a, b, "faq") for (q, a), b in zip(answers, ends) if q and b - a > 150]
            if part in ("howto", "tutorial", "using"):
                found = list(underlined(text))
                starts = [len(text[:at].encode()) for at, _, _, _ in found] + [len(text.encode())]
                # The first names the document.
                kind = "section" if part == "howto" else "other"
                asked += [
                    question(without_markup(title), ident, a, b, kind)
                    for (_, _, _, title), a, b in list(zip(found, starts, starts[1:]))[1:]
                    if b - a > 200 and len(title.split()) >= 2
                ]
            documents[ident] = text
    rng.shuffle(asked)
    return documents, asked


def repository(rng):
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    listed = subprocess.run(["git", "ls-files"], cwd=top, capture_output=True, text=True, check=True).stdout.split()
    documents, asked = {}, []
    for name in listed:
        if not re.search(r"\.(md|rs|py|toml|sh)$", name):
            continue
        text = open(os.path.join(top, name), encoding="utf8", errors="replace").read()
        documents[name] = text
        if name.endswith(".md") and name != "CHANGELOG.md":
            found = [(m.start(), m[2]) for m in re.finditer(r"^(#{2,4}) (.+)$", text, re.M)]
            starts = [len(text[:at].encode()) for at, _ in found] + [len(text.encode())]
            for (_, title), a, b in zip(found, starts, starts[1:]):
                if len(title.split()) >= 3 and b - a > 200:
                    asked.append(question(without_markup(title), name, a, b, "section"))
    rng.shuffle(asked)
    return documents, asked


# Systems: a list of chunk numbers a question, best first.


def indexed(mesh, name, documents, language):
    path = os.path.join(mesh.folder, name + ".jsonl")
    with open(path, "w", encoding="utf8") as out:
        for ident, text in documents.items():
            out.write(json.dumps({"id": ident, "text": text}, ensure_ascii=False) + "\n")
    mesh.call("Ingest.Files", dataset=name, paths=[path], pii=False)
    parameters = {"language": language} if language else {}
    mesh.call("Index.Create", name=name, dataset=name, id_column="id", text_column="text", **parameters)
    mesh.run("index", "refresh", name)
    files = glob.glob(f"{mesh.folder}/state/indexes/{name}/segments/*.parquet")
    table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    chunks = [
        {"document": d, "chunk": c, "start": s, "end": s + len(t.encode()), "text": t}
        for d, c, s, t in zip(*(table[column].to_pylist() for column in ("doc_id", "chunk_idx", "start", "chunk_text")))
    ]
    return chunks, vectors


def searched(mesh, name, places, asked, mode, **more):
    out = []
    for one in asked:
        hits = mesh.call("Index.Search", index=name, text=one["text"], mode=mode, k=K, literal=True, **more)["results"][0]
        out.append([places[hit["doc_id"], hit["chunk"]] for hit in hits])
    return out


def by_fts5(chunks, asked, tokenizer):
    db = sqlite3.connect(":memory:")
    db.execute(f"create virtual table chunks using fts5(text, tokenize='{tokenizer}')")
    db.executemany("insert into chunks(rowid, text) values(?, ?)", ((n, chunk["text"]) for n, chunk in enumerate(chunks)))
    out = []
    for one in asked:
        words = re.findall(r"\w+", one["text"])
        if tokenizer.startswith("trigram"):
            words = [word[at : at + 3] for word in words for at in range(len(word) - 2)]
        if not words:
            out.append([])
            continue
        match = " OR ".join('"' + word.replace('"', "") + '"' for word in dict.fromkeys(words))
        rows = db.execute("select rowid from chunks where chunks match ? order by bm25(chunks) limit ?", (match, K))
        out.append([row[0] for row in rows])
    return out


def by_lance(folder, name, chunks, vectors, asked, queries):
    db = lancedb.connect(os.path.join(folder, "lance"))
    rows = [{"row": n, "text": chunk["text"], "vector": vectors[n]} for n, chunk in enumerate(chunks)]
    table = db.create_table(name, rows)
    table.create_fts_index("text")
    reranker = RRFReranker()
    out = []
    for one, query in zip(asked, queries):
        words = re.sub(r"[^\w\s]", " ", one["text"])
        search = table.search(query_type="hybrid").vector(query).text(words).distance_type("cosine").rerank(reranker)
        out.append([hit["row"] for hit in search.limit(K).to_list()])
    return out


def by_chroma(name, chunks, vectors, queries):
    collection = chromadb.EphemeralClient().create_collection(name, metadata={"hnsw:space": "cosine"})
    for first in range(0, len(chunks), 2000):
        ids = [str(n) for n in range(first, min(first + 2000, len(chunks)))]
        collection.add(ids=ids, embeddings=vectors[first : first + 2000].tolist())
    found = collection.query(query_embeddings=queries.tolist(), n_results=K)["ids"]
    return [[int(ident) for ident in ids] for ids in found]


# Figures.


def is_answer(one, chunk):
    if one["document"] != chunk["document"]:
        return False
    if one["start"] is None:
        return True
    shared = min(one["end"], chunk["end"]) - max(one["start"], chunk["start"])
    return shared > OVERLAP * min(one["end"] - one["start"], chunk["end"] - chunk["start"])


def ranks(asked, chunks, lists):
    """The place of the first answer, from 1; 0 if it is not among ten."""
    out = []
    for one, found in zip(asked, lists):
        places = [place for place, n in enumerate(found[:K], 1) if is_answer(one, chunks[n])]
        out.append(places[0] if places else 0)
    return np.array(out)


def reciprocal(of):
    return np.where(of > 0, 1 / np.maximum(of, 1), 0.0)


def interval(differences, rng):
    means = [np.mean(rng.choice(differences, len(differences))) for _ in range(RESAMPLES)]
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def figures(of):
    return {"mrr": float(np.mean(reciprocal(of))), "recall": float(np.mean(of > 0)), "first": float(np.mean(of == 1))}


def rare_words(chunks, rng, count=300):
    """Words that stand in one document alone."""
    places = {}
    for chunk in chunks:
        for word in set(re.findall(r"[a-z]{5,}", chunk["text"].lower())):
            places.setdefault(word, set()).add(chunk["document"])
    words = sorted(word for word, documents in places.items() if len(documents) == 1)
    rng.shuffle(words)
    return [question(word, next(iter(places[word])), kind="rare") for word in words[:count]]


def line(label, values):
    print(f"  {label:44} MRR {values['mrr']:.3f}  recall@{K} {values['recall']:.3f}  first {values['first']:.3f}", flush=True)


def compared(label, one, other, rng):
    difference = reciprocal(one) - reciprocal(other)
    low, high = interval(difference, rng)
    print(f"  {label:44} {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)
    return {"difference": float(difference.mean()), "low": low, "high": high}


def of_corpus(mesh, folder, name, documents, asked, limit, rng, by_words_alone):
    print(f"{name}: {len(documents)} documents", flush=True)
    chunks, vectors = indexed(mesh, name, documents, None)
    places = {(chunk["document"], chunk["chunk"]): n for n, chunk in enumerate(chunks)}
    described = mesh.call("Index.Stats", name=name)["index"]
    print(f"  {len(chunks)} chunks, words {described['words']}", flush=True)
    # Weights are chosen on other questions than those that count.
    tuning = [one for one in asked if one["kind"] == "other"][:limit]
    test = [one for one in asked if one["kind"] != "other"]
    if not tuning:
        half = len(asked) // 2
        tuning, test = asked[half : half + limit], asked[: min(half, limit)]
    numbers = np.random.default_rng(7)
    out = {"chunks": len(chunks), "questions": len(test), "systems": {}}

    def note(label, found, of=test):
        placed = ranks(of, chunks, found)
        out["systems"][label] = figures(placed)
        line(label, out["systems"][label])
        return placed

    words = note("lexical", searched(mesh, name, places, test, "lexical"))
    porter = note("SQLite FTS5, porter", by_fts5(chunks, test, "porter unicode61"))
    trigram = note("SQLite FTS5, trigram", by_fts5(chunks, test, "trigram"))
    out["lexical - best FTS5"] = compared("lexical - the better FTS5", words, max(porter, trigram, key=lambda of: reciprocal(of).mean()), numbers)
    if by_words_alone:
        return out
    queries = mesh.embed([one["text"] for one in test])
    near = note("semantic", searched(mesh, name, places, test, "semantic"))
    both = note("hybrid, as it comes", searched(mesh, name, places, test, "hybrid"))
    curve = {}
    for weight in WEIGHTS:
        placed = ranks(tuning, chunks, searched(mesh, name, places, tuning, "hybrid", fusion={"method": "weighted", "weight": weight}))
        curve[weight] = float(reciprocal(placed).mean())
    best = max(WEIGHTS, key=lambda weight: curve[weight])
    out["weights on other questions"] = curve
    print("  weights on other questions: " + "  ".join(f"{weight}: {mrr:.3f}" for weight, mrr in curve.items()), flush=True)
    chosen = note(f"hybrid, weight {best}", searched(mesh, name, places, test, "hybrid", fusion={"method": "weighted", "weight": best}))
    note("hybrid, rrf", searched(mesh, name, places, test, "hybrid", fusion={"method": "rrf"}))
    lance = note("LanceDB, hybrid", by_lance(folder, name, chunks, vectors, test, queries))
    chroma = note("Chroma, dense", by_chroma(name, chunks, vectors, queries))
    peers = max([porter, lance, chroma], key=lambda of: reciprocal(of).mean())
    lists = max([words, near], key=lambda of: reciprocal(of).mean())
    out["hybrid - better list"] = compared("hybrid as it comes - the better of its lists", both, lists, numbers)
    out["chosen - better list"] = compared("hybrid, chosen weight - the better list", chosen, lists, numbers)
    out["chosen - best peer"] = compared("hybrid, chosen weight - the best peer", chosen, peers, numbers)
    kinds = sorted({one["kind"] for one in test})
    for kind in kinds if len(kinds) > 1 else []:
        of = np.array([one["kind"] == kind for one in test])
        for label, placed in (("semantic", near), ("lexical", words), ("hybrid", both), ("LanceDB", lance)):
            line(f"  {kind} alone: {label}", figures(placed[of]))
            out["systems"][f"{kind}: {label}"] = figures(placed[of])
    rare = rare_words(chunks, rng)
    for mode in ("lexical", "hybrid"):
        note(f"{len(rare)} words of one document, {mode}", searched(mesh, name, places, rare, mode), rare)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs")
    parser.add_argument("--corpora", default="en,de,python,repository,ja,zh")
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json")
    asked_for = parser.parse_args()
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "brahman-build", "quality-corpora")
    os.makedirs(cache, exist_ok=True)
    mesh = Mesh(os.path.abspath(asked_for.programs))
    out = {}
    try:
        for name in asked_for.corpora.split(","):
            rng = random.Random(asked_for.seed)
            if name == "python":
                corpus = python_documentation(cache, rng)
            elif name == "repository":
                corpus = repository(rng)
            else:
                corpus = packages(cache, name, asked_for.documents, asked_for.questions, rng)
            if corpus is None:
                print(f"{name}: not to be had on this machine (apt gives no list for it): left out", flush=True)
                continue
            out[name] = of_corpus(mesh, mesh.folder, name, *corpus, asked_for.questions, rng, name in ("ja", "zh"))
    finally:
        mesh.close()
    curves = [of["weights on other questions"] for of in out.values() if "weights on other questions" in of]
    if curves:
        mean = {weight: float(np.mean([curve[weight] for curve in curves])) for weight in WEIGHTS}
        print("one weight for all: " + "  ".join(f"{weight}: {mrr:.3f}" for weight, mrr in mean.items()))
        out["one weight for all"] = mean
    if asked_for.json:
        with open(asked_for.json, "w", encoding="utf8") as file:
            json.dump(out, file, indent=2)


if __name__ == "__main__":
    sys.exit(main())
