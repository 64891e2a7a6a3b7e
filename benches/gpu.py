"""embed-real on a GPU beside sentence-transformers, in one run: speed, agreement with the CPU, memory given back, refusals.

    gpu.py --bin DIR --cards DIR --model DIR --ort LIBRARY --out DIR [--device cuda:0] [--texts 20000] [--limit 420]

Writes DIR/gpu.md after every step, and DIR/gpu.log. A step that fails or takes too long leaves the others. Needs numpy, pyarrow, onnx,
torch and sentence-transformers. The peer's weights are those of our model.onnx, written back as safetensors.
"""
import argparse, json, os, queue, random, re, select, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np

WORDS = """a about after all also and any as at back be because but by can come could day do even find first for from get give go good
have he her here him his how if in into it its just know like look make man many may me more my new no not now of on one only or other our
out over people say see she so some take than that the their them then there these they thing think this those time to two up us use very want
way we well what when which who will with woman work world would year you your house water light river stone music paper city road school
market garden summer winter window table letter number history science computer memory engine network signal value price contract""".split()
WITHIN_MIB = 32


def texts(part, count):
    """`count` texts of 8, 40 and 150 words by turns; no two parts share one."""
    out = []
    for i in range(count):
        dice = random.Random(part * 1_000_003 + i)
        out.append(f"{part} {i} " + " ".join(dice.choices(WORDS, k=(8, 40, 150)[i % 3])))
    return out


# ---------------------------------------------------------------------------------------------------------------- the peer

def tensors_of(model):
    """The weights of `brahman models pull`'s graph under Hugging Face's names."""
    import onnx
    from onnx import numpy_helper
    out = {}
    for tensor in onnx.load(model).graph.initializer:
        if not re.match(r"(embeddings|encoder)\.", tensor.name):
            continue
        value = numpy_helper.to_array(tensor)
        if ".qkv." in tensor.name:
            for part, piece in zip(("query", "key", "value"), np.split(value, 3, axis=-1)):
                out[tensor.name.replace("qkv", f"self.{part}")] = np.ascontiguousarray(piece.T)
        elif value.ndim == 2 and not tensor.name.startswith("embeddings."):
            out[tensor.name] = np.ascontiguousarray(value.T)
        else:
            out[tensor.name] = np.ascontiguousarray(value)
    return out


def peer_folder(model, target):
    from safetensors.numpy import save_file
    os.makedirs(f"{target}/1_Pooling", exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(f"{model}/{name}", target)
    save_file(tensors_of(f"{model}/model.onnx"), f"{target}/model.safetensors", metadata={"format": "pt"})
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds)]
    for name, value in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": json.load(open(f"{model}/brahman.json"))["max_tokens"], "do_lower_case": False}),
        ("1_Pooling/config.json", {"word_embedding_dimension": 384, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
                                   "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}),
    ):
        json.dump(value, open(f"{target}/{name}", "w"))


def peer(model, folder, device):
    """Answers a line of JSON with a line of JSON, so that a hang or a crash stays here."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    import torch, sentence_transformers, transformers
    peer_folder(model, folder)
    loaded = {}

    def get(kind):
        if kind not in loaded:
            one = sentence_transformers.SentenceTransformer(folder, device="cpu" if kind == "cpu" else device)
            loaded[kind] = one.half() if kind == "fp16" else one
            if kind != "cpu":
                loaded[kind].encode(texts(9_000, 512), batch_size=256)
        return loaded[kind]

    def say(value, number=0):
        print(json.dumps({**value, "number": number}), file=answers, flush=True)

    say({"versions": f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"})
    for line in sys.stdin:
        ask = json.loads(line)
        number = ask["number"]
        try:
            one, batch = get(ask["kind"]), ask.get("batch", 256)
            if ask["do"] == "rate":
                given = texts(ask["part"], ask["count"])
                started = time.perf_counter()
                one.encode(given, batch_size=batch, convert_to_numpy=True)
                say({"rate": len(given) / (time.perf_counter() - started)}, number)
            elif ask["do"] == "one":
                took = []
                for text in texts(ask["part"], 3 * ask["count"])[::3]:
                    started = time.perf_counter()
                    one.encode([text])
                    took.append(time.perf_counter() - started)
                say({"p50_ms": 1e3 * sorted(took)[len(took) // 2]}, number)
            elif ask["do"] == "vectors":
                np.save(ask["to"], one.encode(texts(ask["part"], ask["count"]), batch_size=batch).astype(np.float32))
                say({"dtype": str(next(one.parameters()).dtype)}, number)
            else:
                say({"ready": True}, number)
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"}, number)


class Peer:
    def __init__(self, model, folder, device, log):
        command = [sys.executable, os.path.abspath(__file__), "peer", model, folder, device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1)
        self.number = 0

    def answer(self, limit):
        while True:
            if not select.select([self.process.stdout], [], [], limit)[0]:
                raise TimeoutError(f"the peer said nothing for {limit:.0f} s")
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("the peer has ended; gpu.log has its reason")
            answer = json.loads(line)
            # One that came after its step was over.
            if answer["number"] != self.number:
                continue
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer

    def ask(self, limit, **ask):
        self.number += 1
        self.process.stdin.write(json.dumps({**ask, "number": self.number}) + "\n")
        self.process.stdin.flush()
        return self.answer(limit)


# ---------------------------------------------------------------------------------------------------------------- the GPU

class Gpu:
    """NVML, held open so that the driver's own memory does not come and go; absent where there is none."""

    def __init__(self, device):
        self.handle = self.peer = None
        try:
            import pynvml
            pynvml.nvmlInit()
            self.nvml = pynvml
            if not device.startswith("cuda"):
                return
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
        except Exception as error:
            print(f"no NVML: {error}", file=sys.stderr)

    def used(self):
        """MiB in use, without the peer's: it may have opened the device already."""
        if self.handle is None:
            return None
        return self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used / 2**20 - (self.of(self.peer) if self.peer else 0)

    def of(self, pid):
        if self.handle is None:
            return None
        for one in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle):
            if one.pid == pid:
                return (one.usedGpuMemory or 0) / 2**20
        return 0.0

    def back(self, base, limit=8):
        """Seconds until memory in use is the base again within the bar, and the difference then."""
        started = time.perf_counter()
        while True:
            left = self.used() - base
            took = time.perf_counter() - started
            if left <= WITHIN_MIB or took > limit:
                return took, left
            time.sleep(0.02)

    def watch(self, stop, seen):
        while not stop.wait(0.05):
            if self.handle is not None:
                seen.append(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)


# ---------------------------------------------------------------------------------------------------------------- the mesh

class Mesh:
    def __init__(self, args, name, log, **env):
        self.args, self.log = args, log
        self.folder = f"{args.work}/{name}"
        os.makedirs(f"{self.folder}/cards", mode=0o700)
        for card in ("broker.toml", "embed-real.toml"):
            shutil.copy(f"{args.cards}/{card}", f"{self.folder}/cards")
        self.socket = f"{self.folder}/run/mesh.sock"
        # A cache of its own: vectors of another device must not answer.
        self.env = {**os.environ, "PATH": f"{args.bin}:{os.environ['PATH']}", "BRAHMAN_SOCKET": self.socket, "BRAHMAN_CACHE": f"{self.folder}/cache",
                    "BRAHMAN_MODEL_DIR": args.model, "ORT_DYLIB_PATH": args.ort, "BRAHMAN_ALLOW_CPU": "", **env}
        command = [f"{args.bin}/brahman-init", "--context", "prod", "--cards", f"{self.folder}/cards", "--state", f"{self.folder}/state",
                   "--socket", self.socket]
        self.started = time.perf_counter()
        self.init = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def cli(self, *words, limit=30):
        out = subprocess.run([f"{self.args.bin}/brahman", "--json", *words], env=self.env, capture_output=True, text=True, timeout=limit)
        if words != ("status",):
            print("$ brahman", *words, out.stdout[-3000:], out.stderr[-1000:], file=self.log, flush=True)
        return json.loads(out.stdout) if out.stdout.strip() else {}

    def module(self):
        try:
            return next((m for m in self.cli("status").get("modules", []) if m["label"] == "embed-real"), {})
        except (ValueError, subprocess.TimeoutExpired):
            return {}

    def settled(self, limit=60, not_pid=None):
        """Waits until embed-real is ready or failed; its row of `status` and the seconds that took."""
        started = time.perf_counter()
        while time.perf_counter() - started < limit:
            row = self.module()
            if row.get("state") in ("ready", "failed") and (row.get("pid") or 0) != not_pid:
                print("status:", json.dumps(row), file=self.log)
                return row, time.perf_counter() - started
            if self.init.poll() is not None:
                raise RuntimeError(f"brahman-init ended with {self.init.returncode}; gpu.log has its reason")
            time.sleep(0.05)
        raise TimeoutError(f"embed-real is {row.get('state')} after {limit} s")

    def info(self):
        return self.cli("call", "embed.Info")

    def down(self):
        if self.init.poll() is None:
            self.init.send_signal(signal.SIGCONT)
            self.init.terminate()
            try:
                self.init.wait(12)
            except subprocess.TimeoutExpired:
                self.init.kill()

    def bulk(self, given, connections, rows, ahead=2):
        """Embeds texts by EmbedBulk over several connections with frames under way on each: vectors, and how many the cache had."""
        import pyarrow as pa
        started, frames = time.perf_counter(), []
        schema = pa.schema([("text", pa.utf8())])
        for start in range(0, len(given), rows):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, schema) as writer:
                writer.write_batch(pa.record_batch([pa.array(given[start:start + rows], pa.utf8())], schema=schema))
            body = sink.getvalue().to_pybytes()
            frames.append((start, struct.pack("<I", len(body)) + body))
        work = queue.SimpleQueue()
        for frame in frames:
            work.put(frame)
        out, cached, faults = np.zeros((len(given), 384), np.float32), [], []

        def converse():
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(60)
                    s.connect(self.socket)
                    call = {"method": "org.brahman.Embed.EmbedBulk", "parameters": {"truncate": True}, "upgrade": True}
                    s.sendall(json.dumps(call).encode() + b"\0")
                    reader = s.makefile("rb")
                    reply = b""
                    while not reply.endswith(b"\0"):
                        byte = reader.read(1)
                        if not byte:
                            raise RuntimeError(f"hung up after {reply!r}")
                        reply += byte
                    if b'"error"' in reply:
                        raise RuntimeError(reply.decode())
                    sent = []
                    while True:
                        while len(sent) < ahead:
                            try:
                                start, frame = work.get_nowait()
                            except queue.Empty:
                                break
                            s.sendall(frame)
                            sent.append(start)
                        if not sent:
                            break
                        length, = struct.unpack("<I", reader.read(4))
                        body = reader.read(length & 0x7FFFFFFF)
                        if length >> 31:
                            raise RuntimeError(body.decode())
                        start = sent.pop(0)
                        for batch in pa.ipc.open_stream(body):
                            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=True)
                            out[start:start + batch.num_rows] = flat.reshape(batch.num_rows, -1)
                            cached.append(sum(batch.column("cached").to_pylist()))
                            start += batch.num_rows
                    s.sendall(struct.pack("<I", 0))
            except Exception as error:
                faults.append(error)

        threads = [threading.Thread(target=converse, daemon=True) for _ in range(min(connections, len(frames)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        took = time.perf_counter() - started
        if faults:
            raise RuntimeError(f"EmbedBulk: {faults[0]}")
        if any(thread.is_alive() for thread in threads):
            raise TimeoutError("EmbedBulk did not end in 90 s")
        return out, took, sum(cached)

    def one(self, given):
        """Seconds of each call of EmbedText with one text."""
        took = []
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(self.socket)
            for text in given:
                started = time.perf_counter()
                s.sendall(json.dumps({"method": "org.brahman.Embed.EmbedText", "parameters": {"texts": [text]}}).encode() + b"\0")
                reply = b""
                while not reply.endswith(b"\0"):
                    piece = s.recv(1 << 16)
                    if not piece:
                        raise RuntimeError("hung up")
                    reply += piece
                if b'"error"' in reply[:200]:
                    raise RuntimeError(reply[:300].decode())
                took.append(time.perf_counter() - started)
        return took


def thread_seconds(pid):
    """CPU seconds of a process by thread name."""
    out, tick = {}, os.sysconf("SC_CLK_TCK")
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            stat = open(f"/proc/{pid}/task/{task}/stat").read()
        except OSError:
            continue
        name, rest = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
        out[name] = out.get(name, 0) + (int(rest[11]) + int(rest[12])) / tick
    return out


def cosines(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    return (a * b).sum(axis=1)


# ---------------------------------------------------------------------------------------------------------------- the run

class Run:
    def __init__(self, args):
        self.args, self.rows, self.notes, self.began = args, [], [], time.perf_counter()
        self.log = open(f"{args.out}/gpu.log", "a", buffering=1)
        self.cuda = args.device.startswith("cuda")
        self.gpu = Gpu(args.device)
        self.base = self.gpu.used()
        self.meshes, self.plan, self.peer, self.mesh = [], None, None, None

    def left(self):
        return self.args.limit - (time.perf_counter() - self.began)

    def row(self, figure, value, bar="", kept=None):
        self.rows.append((figure, value, bar, {True: "yes", False: "**no**", None: ""}[kept]))
        print(f"[{time.perf_counter() - self.began:6.1f} s] {figure}: {value} {bar} {'' if kept is None else kept}", flush=True)
        print("ROW", figure, value, bar, kept, file=self.log)

    def write(self):
        with open(f"{self.args.out}/gpu.md.new", "w") as out:
            out.write(f"Asked for {self.args.device}; {self.args.texts} texts a round (a third each of 8, 40 and 150 words), new ones each round.\n\n")
            out.write("| figure | value | bar | kept |\n|---|---|---|---|\n")
            out.writelines(f"| {' | '.join(str(c).replace('|', '/') for c in row)} |\n" for row in self.rows)
            out.writelines(f"\n{note}\n" for note in self.notes)
        os.replace(f"{self.args.out}/gpu.md.new", f"{self.args.out}/gpu.md")

    def step(self, name, limit, work):
        if name in self.args.skip.split(","):
            return
        limit = int(min(limit, self.left()))
        print(f"STEP {name}, at most {limit} s", file=self.log)
        if limit < 3:
            return self.row(name, "left out: no time")
        def late(*_):
            raise TimeoutError(f"not done in {limit} s")
        signal.signal(signal.SIGALRM, late)
        signal.alarm(limit)
        try:
            work()
        except Exception as error:
            traceback.print_exc(file=self.log)
            self.row(name, f"FAILED: {type(error).__name__}: {str(error)[:700]}", kept=False)
        finally:
            signal.alarm(0)
            self.write()

    def up(self, name, **env):
        mesh = Mesh(self.args, name, self.log, **env)
        self.meshes.append(mesh)
        return mesh

    def mib(self, value):
        return "—" if value is None else f"{value:.0f} MiB"

    # -- steps

    def start(self):
        self.mesh = self.up("gpu", BRAHMAN_DEVICE=self.args.device)
        row, _ = self.mesh.settled(60)
        self.row("from start of the mesh to ready", f"{time.perf_counter() - self.mesh.started:.2f} s")
        if row.get("state") != "ready":
            raise RuntimeError(f"embed-real is {row.get('state')}: {row.get('reason')}")
        info = self.mesh.info()
        info = info.get("parameters", info)
        device = info["device"]
        self.row("device requested / active", f"{device['requested']} / {device['active']}", self.args.device, device["active"] == self.args.device)
        self.row("reason", device["reason"])
        if device["active"] != "cpu":
            pooled = "pooled there" in device["reason"]
            self.row("hidden states copied back", "no" if pooled else "yes", "no", pooled)
        self.row("runtime", info.get("runtime"))
        for one in info.get("gpu") or []:
            self.row("GPU by Info", f"{one['name']}, driver {one['driver']}, {one['memory_total'] >> 20} MiB")
        self.row("GPU memory before / when ready / of the process", " / ".join(map(self.mib, (self.base, self.gpu.used(), self.gpu.of(row["pid"])))))

    def exercise(self, part):
        count = max(60, self.args.texts // 5)
        _, took, cached = self.mesh.bulk(texts(part, count), *self.plan)
        print(f"exercise: {count} texts in {took:.2f} s, {cached} cached", file=self.log)

    def unload(self):
        self.plan = self.plan or (8, 256)
        self.exercise(100)
        pid = self.mesh.module()["pid"]
        self.row("GPU memory after work / of the process", " / ".join(map(self.mib, (self.gpu.used(), self.gpu.of(pid)))))
        began = time.perf_counter()
        self.mesh.cli("stop", "embed-real")
        self.row("unload (`brahman stop embed-real`)", f"{time.perf_counter() - began:.2f} s")
        if self.base is not None:
            took, left = self.gpu.back(self.base)
            self.row("GPU memory not back after unload", f"{left:+.0f} MiB, {took:.2f} s after the stop", f"≤ {WITHIN_MIB} MiB", left <= WITHIN_MIB)
        self.mesh.cli("start", "embed-real")
        row, took = self.mesh.settled(60, not_pid=pid)
        self.row("load again, to ready", f"{took:.2f} s", kept=None if row["state"] == "ready" else False)

    def kill(self):
        self.exercise(101)
        pid = self.mesh.module()["pid"]
        # init would start it anew before the memory could be read.
        os.kill(self.mesh.init.pid, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            if self.base is not None:
                took, left = self.gpu.back(self.base)
                self.row("GPU memory not back after SIGKILL", f"{left:+.0f} MiB, {took:.2f} s after it", f"≤ {WITHIN_MIB} MiB", left <= WITHIN_MIB)
        finally:
            os.kill(self.mesh.init.pid, signal.SIGCONT)
        row, took = self.mesh.settled(60, not_pid=pid)
        self.row("after SIGKILL, to ready again", f"{took:.2f} s", kept=row["state"] == "ready")

    def tune(self):
        """The number of connections and rows a frame that serve best, on fewer texts."""
        self.exercise(102)
        count, seen = max(60, self.args.texts // 2), {}
        for i, plan in enumerate([(16, 256), (8, 512), (16, 512), (32, 256)]):
            if self.left() < 110 and seen:
                break
            _, took, _ = self.mesh.bulk(texts(110 + i, count), *plan)
            seen[plan] = count / took
        self.plan = max(seen, key=seen.get)
        self.row("EmbedBulk by connections × rows a frame, texts/s", ", ".join(f"{c}×{r}: {rate:.0f}" for (c, r), rate in seen.items()))

    def peer_up(self):
        self.row("peer", self.peer.answer(90)["versions"])
        for kind in ("fp16", "fp32"):
            self.peer.ask(60, do="load", kind=kind)

    def rate(self):
        seen = {"embed-real": [], "fp16": [], "fp32": []}
        pid = self.mesh.module()["pid"]
        busy = {}
        try:
            self.rounds(seen, busy, pid)
        finally:
            self.rated(seen, busy)

    def rounds(self, seen, busy, pid):
        args = self.args
        for turn in range(args.rounds):
            for who in seen:
                if self.left() < 60 and seen[who]:
                    continue
                stop, samples = threading.Event(), []
                watcher = threading.Thread(target=self.gpu.watch, args=(stop, samples))
                watcher.start()
                before = thread_seconds(pid)
                try:
                    if who == "embed-real":
                        given = texts(turn, args.texts)
                        _, took, cached = self.mesh.bulk(given, *self.plan)
                        if cached:
                            self.row("texts that the cache answered", cached, "0", False)
                        seen[who].append(args.texts / took)
                        spent = {k: v - before.get(k, 0) for k, v in thread_seconds(pid).items()}
                        top = sorted(spent.items(), key=lambda x: -x[1])[:5]
                        self.threads = f"{took:.2f} s for {args.texts} texts; " + ", ".join(f"{k} {v:.2f}" for k, v in top)
                        print("CPU seconds", self.threads, file=self.log)
                    else:
                        seen[who].append(self.peer.ask(90, do="rate", kind=who, part=turn, count=args.texts)["rate"])
                finally:
                    stop.set()
                    watcher.join()
                busy[who] = sum(samples) / len(samples) if samples else None

    def rated(self, seen, busy):
        best = {who: max(rates) for who, rates in seen.items() if rates}
        if "embed-real" not in best:
            return
        each = lambda who: f"{best[who]:.0f} (" + ", ".join(f"{r:.0f}" for r in seen[who]) + ")"
        used = "" if busy["embed-real"] is None else f", GPU busy {busy['embed-real']:.0f} %"
        self.row(f"embed-real, texts/s, {self.plan[0]} connections, {self.plan[1]} rows a frame: best (each)", each("embed-real") + used)
        for who in ("fp16", "fp32"):
            if who in best:
                ratio = best["embed-real"] / best[who]
                used = "" if busy[who] is None else f", GPU busy {busy[who]:.0f} %"
                self.row(f"sentence-transformers {who}, batch 256, texts/s: best (each)", each(who) + used)
                self.row(f"ratio to {who}", f"{ratio:.2f}", "≥ 1.0" if who == "fp16" else "", ratio >= 1 if who == "fp16" else None)
        self.row("CPU seconds of embed-real by thread, last round", self.threads)

    def more(self):
        took = sorted(self.mesh.one(texts(200, 3 * 60)[::3]))
        self.row("one text of 8 words by EmbedText, p50", f"{1e3 * took[len(took) // 2]:.2f} ms")
        self.row("the same, sentence-transformers fp16, p50", f"{self.peer.ask(20, do='one', kind='fp16', part=201, count=60)['p50_ms']:.2f} ms")
        rate = self.peer.ask(40, do="rate", kind="fp16", batch=1024, part=3, count=self.args.texts)["rate"]
        self.row("sentence-transformers fp16, batch 1024, texts/s, once", f"{rate:.0f}")
        self.row("GPU memory of embed-real at the end", self.mib(self.gpu.of(self.mesh.module()["pid"])))

    def agree(self):
        count, part = self.args.sample, 300
        given = texts(part, count)
        cpu = self.up("cpu", BRAHMAN_DEVICE="cpu", BRAHMAN_EMBED_THREADS=str(min(8, os.cpu_count())))
        on_gpu, _, _ = self.mesh.bulk(given, *self.plan)
        row, _ = cpu.settled(60)
        on_cpu, took, _ = cpu.bulk(given, 4, 64)
        print(f"the CPU's {count} took {took:.1f} s", file=self.log)
        found = cosines(on_gpu, on_cpu)
        self.row(f"cosine of {count}: embed-real {self.args.device} to embed-real cpu, least / mean", f"{found.min():.6f} / {found.mean():.6f}", "≥ 0.999", bool(found.min() >= 0.999))
        vectors = {}
        for kind in ("cpu", "fp16"):
            path = f"{self.args.work}/{kind}.npy"
            self.peer.ask(60, do="vectors", kind=kind, part=part, count=count, to=path)
            vectors[kind] = np.load(path)
        found = cosines(on_gpu, vectors["cpu"])
        self.row("cosine: embed-real to sentence-transformers fp32 on the CPU, least / mean", f"{found.min():.6f} / {found.mean():.6f}", "≥ 0.999", bool(found.min() >= 0.999))
        found = cosines(vectors["fp16"], vectors["cpu"])
        self.row("cosine: sentence-transformers fp16 to its fp32 on the CPU, least / mean", f"{found.min():.6f} / {found.mean():.6f}")

    def refusals(self):
        cases = {
            "cuda:7": ({"BRAHMAN_DEVICE": "cuda:7"}, "failed", "cuda:7"),
            "cuda:7 with BRAHMAN_ALLOW_CPU=1": ({"BRAHMAN_DEVICE": "cuda:7", "BRAHMAN_ALLOW_CPU": "1"}, "ready", "cpu"),
            "cuda:0 where CUDA_VISIBLE_DEVICES hides it": ({"BRAHMAN_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": "-1"}, "failed", "cuda:0"),
            "cuda:0 without the CUDA libraries": ({"BRAHMAN_DEVICE": "cuda:0", "LD_LIBRARY_PATH": os.environ.get("BRAHMAN_PLAIN_PATH", "")}, None, ""),
            "auto": ({"BRAHMAN_DEVICE": "auto"}, "ready", self.args.device),
        }

        def tried(item):
            i, (env, _, _) = item
            mesh = self.up(f"case{i}", BRAHMAN_EMBED_THREADS="2", **env)
            try:
                row, _ = mesh.settled(40)
                if row["state"] != "ready":
                    return row["state"], str(row.get("reason"))
                info = mesh.info()
                device = info.get("parameters", info)["device"]
                return "ready", f"active {device['active']}: {device['reason']}"
            except Exception as error:
                return "?", f"{type(error).__name__}: {error}"
            finally:
                mesh.down()

        with ThreadPoolExecutor(len(cases)) as pool:
            done = list(pool.map(tried, enumerate(cases.values())))
        for (name, (_, state, words)), (found, reason) in zip(cases.items(), done):
            self.row(f"asked for {name}", f"{found}: {' '.join(reason.split())[:700]}", state and f"{state}, names {words}" or "", state and found == state and words in reason)

    def all(self):
        args = self.args
        self.peer = Peer(args.model, f"{args.work}/peer", "cuda" if self.cuda else "cpu", self.log)
        self.gpu.peer = self.peer.process.pid
        try:
            self.step("the mesh", 90, self.start)
            if self.mesh is not None and self.mesh.module().get("state") == "ready":
                self.plan = (8, 256)
                self.step("unload", 60, self.unload)
                self.step("SIGKILL", 60, self.kill)
                self.step("the peer", 110, self.peer_up)
                self.step("tuning", 60, self.tune)
                self.step("texts/s", 150, self.rate)
                self.step("agreement", 60, self.agree)
                self.step("single texts", 60, self.more)
            self.step("refusals", 50, self.refusals)
        finally:
            for mesh in self.meshes:
                mesh.down()
            self.peer.process.kill()
            self.peer.process.wait()
            self.gpu.peer = None
            took, left = self.gpu.back(self.base, 3) if self.base is not None else (0, None)
            self.row("GPU memory not back at the end", "—" if left is None else f"{left:+.0f} MiB")
            self.row("whole run", f"{time.perf_counter() - self.began:.0f} s")
            self.write()
        return any(row[3] == "**no**" for row in self.rows)


def main():
    if sys.argv[1:2] == ["peer"]:
        return peer(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    for name in ("bin", "cards", "model", "ort", "out"):
        parser.add_argument(f"--{name}", required=True, type=os.path.abspath)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", default="", help="steps to leave out: unload,SIGKILL,tuning,agreement,single texts,refusals")
    parser.add_argument("--limit", type=float, default=420)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    # Sockets have short names.
    args.work = tempfile.mkdtemp(prefix="bgpu.", dir="/tmp")
    try:
        return int(Run(args).all())
    finally:
        shutil.rmtree(args.work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
