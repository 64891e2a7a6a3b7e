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
gives its best chunks, of which ten count. A question that is asked of two places has no one answer, and is left out. Weights are chosen on
other questions of the same corpus, and one for all corpora together. Differences are paired, with 95 % intervals by the bootstrap.

A hybrid search fuses two lists, and how long they are decides as well: Brahman's are of a hundred by `weighted` and of forty by `rrf`,
LanceDB's as long as what is asked for. So ways and weights are also compared on whole lists: meaning by comparing all vectors, words as a
lexical search gives all that it finds, both fused here by the rules of modules/index/src/fusion.rs, without its rule for what one document
alone has. These rows say "whole lists"; the others are what a caller gets.
"""

import argparse
import collections
import glob
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import unicodedata

import chromadb
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.rerankers import RRFReranker
from mesh import Mesh

K = 10
WEIGHTS = [round(0.1 * n, 1) for n in range(11)]
WAYS = [*(("weighted", weight) for weight in WEIGHTS), ("rrf", 0.5)]
RESAMPLES = 2000
EMBEDDED_AT_ONCE = 64
# Of an answer or a chunk, whichever is shorter, what the two must share for the chunk to be the answer.
OVERLAP = 0.5
# What one reply may have: the interface's most hits, and bytes within a message of 16 MiB, of which every hit takes some beside its text.
HITS_MAX = 10_000
REPLY_BYTES = 15 << 20
HIT_BYTES = 400
# As fusion.rs has it.
RANK_OFFSET = 60
# Words asked for that stand in one document alone, and letters that such a word has at least.
RARE_WORDS = 300
RARE_LETTERS = 5
# Where weights by their MRR stand in what is written.
CURVE = "weights on other questions"
WHOLE_CURVE = "whole lists: weights on other questions"
# By which LanceDB is told the stems; it finds no languages by itself.
LANCE_LANGUAGES = {"de": "German"}


def embedded(mesh, texts):
    """Questions as vectors of length 1."""
    vectors = []
    for first in range(0, len(texts), EMBEDDED_AT_ONCE):
        batch = texts[first : first + EMBEDDED_AT_ONCE]
        vectors += mesh.call("Embed.EmbedText", texts=batch, role="query", truncate=True)["vectors"]
    return unit(np.array(vectors, dtype=np.float32))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def question(text, document, start=None, end=None, kind="known"):
    """The answer is a document, or a part of it, in bytes."""
    return {"text": text, "document": document, "start": start, "end": end, "kind": kind}


# Corpora: documents by id, and questions.


def fetched(folder, name, fetch):
    """A folder that is there as a whole, or is made now: what was cut off is made again."""
    whole = os.path.join(folder, name)
    if not os.path.isdir(whole):
        begun = whole + ".begun"
        shutil.rmtree(begun, ignore_errors=True)
        os.makedirs(begun)
        fetch(begun)
        os.rename(begun, whole)
    return whole


def fetched_by_apt(folder, languages):
    """Packages and translations, in a folder of their own."""

    def fetch(lists):
        os.makedirs(lists + "/partial")
        options = ["-o", "Dir::State::Lists=" + lists, "-o", "Acquire::Languages=" + ",".join(languages)]
        subprocess.run(["apt-get", *options, "update"], check=True, stdout=subprocess.DEVNULL)

    return fetched(folder, "lists", fetch)


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
    depends = subprocess.run(["apt-cache", "depends", "python3-doc"], check=True, capture_output=True, text=True).stdout
    package = re.search(r"Depends: (python3\.\d+-doc)", depends)
    if not package:
        return None

    def fetch(where):
        subprocess.run(["apt-get", "download", package[1]], check=True, cwd=where, stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg", "-x", glob.glob(where + "/*.deb")[0], where], check=True)

    found = glob.glob(fetched(folder, package[1], fetch) + "/usr/share/doc/**/_sources", recursive=True)
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
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=top, capture_output=True, text=True, check=True).stdout.split("\0")
    documents, asked = {}, []
    for name in listed:
        if not re.search(r"\.(md|rs|py|toml|sh)$", name):
            continue
        text = open(os.path.join(top, name), encoding="utf8", errors="replace").read()
        documents[name] = text
        if name.endswith(".md") and name != "CHANGELOG.md":
            # Within a fence a line with # is a comment.
            fences = [m.span() for m in re.finditer(r"^```.*?^```", text, re.M | re.S)]
            headings = re.finditer(r"^#{2,4} (.+)$", text, re.M)
            found = [(m.start(), m[1]) for m in headings if not any(a <= m.start() < b for a, b in fences)]
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
    vectors = unit(np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32))
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
        # A word counts once, however it is written.
        words = re.findall(r"\w+", one["text"].lower())
        if tokenizer.startswith("trigram"):
            words = [word[at : at + 3] for word in words for at in range(len(word) - 2)]
        if not words:
            out.append([])
            continue
        match = " OR ".join('"' + word.replace('"', "") + '"' for word in dict.fromkeys(words))
        rows = db.execute("select rowid from chunks where chunks match ? order by bm25(chunks) limit ?", (match, K))
        out.append([row[0] for row in rows])
    return out


def by_lance(folder, name, chunks, vectors, asked, queries, language, depth):
    """`depth` is the length of its two lists: as long as what is asked for."""
    db = lancedb.connect(os.path.join(folder, "lance"))
    rows = [{"row": n, "text": chunk["text"], "vector": vectors[n]} for n, chunk in enumerate(chunks)]
    table = db.create_table(name, rows, mode="overwrite")
    table.create_fts_index("text", language=language)
    reranker = RRFReranker()
    out = []
    for one, query in zip(asked, queries):
        words = re.sub(r"[^\w\s]", " ", one["text"])
        search = table.search(query_type="hybrid").vector(query).text(words).distance_type("cosine").rerank(reranker)
        out.append(search.limit(depth).to_arrow()["row"].to_pylist()[:K])
    return out


def by_chroma(name, chunks, vectors, queries):
    """By vectors alone, in its HNSW graph: it is given no words to search by."""
    # Names have three characters at least.
    collection = chromadb.EphemeralClient().create_collection("quality-" + name, metadata={"hnsw:space": "cosine"})
    for first in range(0, len(chunks), 2000):
        ids = [str(n) for n in range(first, min(first + 2000, len(chunks)))]
        collection.add(ids=ids, embeddings=vectors[first : first + 2000].tolist())
    found = collection.query(query_embeddings=queries.tolist(), n_results=K)["ids"]
    return [[int(ident) for ident in ids] for ids in found]


# Whole lists, fused here.


def whole_depth(chunks):
    """How many hits one reply has room for, be they the longest."""
    sizes = sorted((len(json.dumps(chunk["text"], ensure_ascii=False).encode()) + HIT_BYTES for chunk in chunks), reverse=True)
    room = int(np.searchsorted(np.cumsum(sizes), REPLY_BYTES, side="right"))
    return min(room, len(chunks), HITS_MAX)


def whole_lists(mesh, name, places, asked, queries, vectors, depth):
    """For every question the cosine of every chunk, and its BM25: 0 where no word of the question stands."""
    for one, query in zip(asked, queries):
        hits = mesh.call("Index.Search", index=name, text=one["text"], mode="lexical", k=depth, literal=True)["results"][0]
        words = np.zeros(len(vectors), dtype=np.float32)
        for hit in hits:
            words[places[hit["doc_id"], hit["chunk"]]] = hit["bm25"]
        yield vectors @ query, words


def fused(near, words, method, weight):
    """The best chunks of both; of equals the one with more of the words."""
    if method == "weighted":
        width = near.max() - near.min()
        meaning = (near - near.min()) / width if width > 0 else np.ones_like(near)
        told = words / words.max() if words.max() > 0 else words
        score = weight * meaning + (1 - weight) * told
    else:
        score = np.zeros_like(near)
        # What no word finds stands in one list only.
        for scores, stands, share in ((near, np.full(len(near), True), weight), (words, words > 0, 1 - weight)):
            places = np.empty(len(scores))
            places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
            score += np.where(stands, share * (RANK_OFFSET + 1) / (RANK_OFFSET + places), 0)
    return np.lexsort((np.arange(len(near)), -words, -score))[:K].tolist()


def ranks_of_whole_lists(chunks, asked, lists):
    """By way and weight the ranks of the answers."""
    found = {way: [] for way in WAYS}
    for near, words in lists:
        for way in WAYS:
            found[way].append(fused(near, words, *way))
    return {way: ranks(asked, chunks, of) for way, of in found.items()}


# Words, as modules/index/src/analyser.rs sees them.


UNSPACED = [
    (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0x1100, 0x11FF),
    (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF), (0xE01, 0xE4E), (0xE80, 0xEFF), (0x1000, 0x103F), (0x1780, 0x17D3),
]
SPELLED = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ı": "i", "ς": "σ"}
INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"


def is_unspaced(c):
    return any(first <= ord(c) <= last for first, last in UNSPACED)


def words_of(text):
    """Words with spaces around them, identifiers as wholes; scripts without spaces have none."""
    start = None
    for at, c in enumerate(text + " "):
        if not is_unspaced(c) and (c == "_" or c.isalnum()):
            start = at if start is None else start
        elif start is not None and not (c in INVISIBLE or (unicodedata.category(c)[0] == "M" and not c.isascii())):
            yield text[start:at]
            start = None


def parts_of(word):
    """Where an identifier is cut: at underscores and changes of case."""
    parts, start = [], None
    for at, c in enumerate(word):
        if c == "_":
            if start is not None:
                parts.append(word[start:at])
            start = None
            continue
        if start is None:
            start = at
            continue
        before, after = word[at - 1], word[at + 1 : at + 2]
        is_plural = after == "s" and at + 2 == len(word) and before.isupper()
        ends_a_run = after.islower() and not is_plural and (before.isupper() or before.isnumeric())
        if c.isupper() and (before.islower() or ends_a_run):
            parts.append(word[start:at])
            start = at
    if start is not None:
        parts.append(word[start:])
    return parts


def folded(word):
    """Small letters, without accents, its compatible forms made one."""
    out, is_accented = [], False
    for c in unicodedata.normalize("NFKD", word.lower()).lower():
        if c in INVISIBLE or ("\u0300" <= c <= "\u036f" and is_accented):
            continue
        if c in SPELLED:
            out.append(SPELLED[c])
            continue
        is_accented = any(first <= ord(c) <= last for first, last in ((0x41, 0x24F), (0x370, 0x3FF), (0x1E00, 0x1FFF)))
        out.append(c)
    return unicodedata.normalize("NFC", "".join(out)).replace("ё", "е")


def rare_words(documents, rng):
    """Whole words of letters, as they are written, that stand in one document alone: elsewhere not even in an identifier."""
    places, written = collections.defaultdict(set), {}
    for ident, text in documents.items():
        for word in set(words_of(text)):
            parts = parts_of(word)
            key = folded(word)
            for piece in {key, *map(folded, parts)}:
                places[piece].add(ident)
            if parts == [word] and word.isalpha() and len(word) >= RARE_LETTERS:
                # Of several the first in order, so that every run asks the same.
                written[key] = min(word, written.get(key, word))
    words = sorted(key for key in written if len(places[key]) == 1)
    rng.shuffle(words)
    return [question(written[key], next(iter(places[key])), kind="rare") for key in words[:RARE_WORDS]]


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


def line(label, values):
    print(f"  {label:44} MRR {values['mrr']:.3f}  recall@{K} {values['recall']:.3f}  first {values['first']:.3f}", flush=True)


def compared(label, one, other, rng):
    difference = reciprocal(one) - reciprocal(other)
    low, high = interval(difference, rng)
    print(f"  {label:44} {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)
    return {"difference": float(difference.mean()), "low": low, "high": high}


def best_of(curve):
    return max(WEIGHTS, key=lambda weight: curve[weight])


def better(placed):
    """Of several systems the one with the higher MRR on the questions that count: what is compared with it has the harder task."""
    return max(placed, key=lambda of: reciprocal(of).mean())


def asked_once(asked):
    counts = collections.Counter(one["text"].lower() for one in asked)
    return [one for one in asked if counts[one["text"].lower()] == 1]


def questions(asked, limit):
    """Those that weights are chosen on, and those that count."""
    asked = asked_once(asked)
    others = [one for one in asked if one["kind"] == "other"][:limit]
    if others:
        return others, [one for one in asked if one["kind"] != "other"][:limit]
    half = len(asked) // 2
    return asked[half : half + limit], asked[: min(half, limit)]


class Figures:
    """What one corpus gives: printed as it comes, and kept."""

    def __init__(self, chunks, test):
        self.chunks, self.test, self.rng = chunks, test, np.random.default_rng(7)
        self.out = {"chunks": len(chunks), "questions": len(test), "systems": {}}

    def ranked(self, label, placed):
        self.out["systems"][label] = figures(placed)
        line(label, self.out["systems"][label])
        return placed

    def note(self, label, found, of=None):
        return self.ranked(label, ranks(self.test if of is None else of, self.chunks, found))

    def compare(self, label, one, other):
        self.out[label] = compared(label, one, other, self.rng)

    def curve(self, label, curve):
        self.out[label] = curve
        print(f"  {label}: " + "  ".join(f"{weight}: {mrr:.3f}" for weight, mrr in curve.items()), flush=True)


def by_whole_lists(mesh, name, chunks, vectors, places, tuning, test, queries, figures_of):
    """Ways and weights on lists that nothing is cut from: ranks by weight chosen on other questions, by places, and of either list."""
    depth = whole_depth(chunks)
    if depth < len(chunks):
        print(f"  whole lists: by words at most {depth} of {len(chunks)} chunks, for which one reply has room", flush=True)
    lists = whole_lists(mesh, name, places, tuning, embedded(mesh, [one["text"] for one in tuning]), vectors, depth)
    on_others = ranks_of_whole_lists(chunks, tuning, lists)
    curve = {weight: float(reciprocal(on_others["weighted", weight]).mean()) for weight in WEIGHTS}
    figures_of.curve(WHOLE_CURVE, curve)
    placed = ranks_of_whole_lists(chunks, test, whole_lists(mesh, name, places, test, queries, vectors, depth))
    best = best_of(curve)
    words = figures_of.ranked("whole lists: words alone", placed["weighted", 0.0])
    near = figures_of.ranked("whole lists: meaning alone", placed["weighted", 1.0])
    weighted = figures_of.ranked(f"whole lists: weighted {best}", placed["weighted", best])
    rrf = figures_of.ranked("whole lists: rrf", placed["rrf", 0.5])
    figures_of.compare("whole lists: weighted - rrf", weighted, rrf)
    figures_of.compare("whole lists: weighted - the better list", weighted, better([words, near]))
    return weighted


def of_corpus(mesh, folder, name, documents, asked, limit, rng, by_words_alone):
    print(f"{name}: {len(documents)} documents", flush=True)
    chunks, vectors = indexed(mesh, name, documents, None)
    places = {(chunk["document"], chunk["chunk"]): n for n, chunk in enumerate(chunks)}
    described = mesh.call("Index.Stats", name=name)["index"]
    tuning, test = questions(asked, limit)
    print(f"  {len(chunks)} chunks, words {described['words']}, {len(test)} questions, {len(tuning)} others", flush=True)
    of = Figures(chunks, test)

    words = of.note("lexical", searched(mesh, name, places, test, "lexical"))
    porter = of.note("SQLite FTS5, porter", by_fts5(chunks, test, "porter unicode61"))
    trigram = of.note("SQLite FTS5, trigram", by_fts5(chunks, test, "trigram"))
    of.compare("lexical - the better FTS5", words, better([porter, trigram]))
    if by_words_alone:
        return of.out
    queries = embedded(mesh, [one["text"] for one in test])
    near = of.note("semantic", searched(mesh, name, places, test, "semantic"))
    both = of.note("hybrid, as it comes", searched(mesh, name, places, test, "hybrid"))
    curve = {}
    for weight in WEIGHTS:
        placed = ranks(tuning, chunks, searched(mesh, name, places, tuning, "hybrid", fusion={"method": "weighted", "weight": weight}))
        curve[weight] = float(reciprocal(placed).mean())
    of.curve(CURVE, curve)
    best = best_of(curve)
    chosen = of.note(f"hybrid, weight {best}", searched(mesh, name, places, test, "hybrid", fusion={"method": "weighted", "weight": best}))
    of.note("hybrid, rrf", searched(mesh, name, places, test, "hybrid", fusion={"method": "rrf"}))
    lance = of.note("LanceDB, hybrid", by_lance(folder, name, chunks, vectors, test, queries, "English", K))
    chroma = of.note("Chroma (dense)", by_chroma(name, chunks, vectors, queries))
    peers, lists = better([porter, trigram, lance, chroma]), better([words, near])
    of.compare("hybrid as it comes - the better of its lists", both, lists)
    of.compare("hybrid as it comes - the best peer", both, peers)
    of.compare("hybrid, chosen weight - the better list", chosen, lists)
    of.compare("hybrid, chosen weight - the best peer", chosen, peers)

    weighted = by_whole_lists(mesh, name, chunks, vectors, places, tuning, test, queries, of)
    language = LANCE_LANGUAGES.get(name, "English")
    found = by_lance(folder, name, chunks, vectors, test, queries, language, len(chunks))
    lance_whole = of.note(f"whole lists: LanceDB, {language} stems", found)
    of.compare("whole lists: weighted - LanceDB", weighted, lance_whole)

    kinds = sorted({one["kind"] for one in test})
    for kind in kinds if len(kinds) > 1 else []:
        chosen_ones = np.array([one["kind"] == kind for one in test])
        systems = [("semantic", near), ("lexical", words), ("hybrid", both), ("LanceDB, hybrid", lance), ("Chroma (dense)", chroma)]
        for label, placed in [*systems, ("SQLite FTS5, porter", porter), ("SQLite FTS5, trigram", trigram)]:
            of.ranked(f"{kind}: {label}", placed[chosen_ones])
    rare = rare_words(documents, rng)
    for mode in ("lexical", "hybrid"):
        of.note(f"{len(rare)} words of one document, {mode}", searched(mesh, name, places, rare, mode), rare)
    return of.out


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
    out = {}
    with Mesh(asked_for.programs, "quality") as mesh:
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
    for label in (CURVE, WHOLE_CURVE):
        curves = [of[label] for of in out.values() if label in of]
        if curves:
            mean = {weight: float(np.mean([curve[weight] for curve in curves])) for weight in WEIGHTS}
            print(f"one weight for all, {label}: " + "  ".join(f"{weight}: {mrr:.3f}" for weight, mrr in mean.items()))
            out[f"one weight for all, {label}"] = mean
    if asked_for.json:
        with open(asked_for.json, "w", encoding="utf8") as file:
            json.dump(out, file, indent=2)


if __name__ == "__main__":
    sys.exit(main())
