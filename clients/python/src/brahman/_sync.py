"""The client for threads."""

import os
import select
import socket
import struct
import threading
import time
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

from . import _wire
from ._contract import IDEMPOTENT
from ._wire import CallOptions, Frames, Reply
from .dataset import Dataset
from .errors import ProtocolError, Unreachable, error
from .results import Embedded, Hits, Progress, rerank_step, search_parameters, vectors_of

#: Idle connections that are kept.
_IDLE_MAX = 16
#: How long a call goes on if nothing else is said.
_TIMEOUT = 60.0
#: Texts of one call of ``EmbedText``, and of one frame of ``EmbedBulk``.
_PART_TEXTS, _FRAME_TEXTS = 256, 4096
#: Bytes of texts in one call, escapes counted.
_PART_BYTES = 12 << 20
_FAULT_BIT = 1 << 31


class Connection:
    """One connection, one call at a time."""

    def __init__(self, path: str, timeout: float):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except OSError as cause:
            self._socket.close()
            raise Unreachable(f"cannot connect to {path}: {cause.strerror or cause}") from cause
        self._frames = Frames()
        #: Whether the last call is over.
        self.is_clean = True

    def send(self, message: bytes, timeout: Optional[float]) -> None:
        self.is_clean = False
        self._socket.settimeout(timeout)
        self._socket.sendall(message)

    def receive(self, timeout: Optional[float]) -> Reply:
        self._socket.settimeout(timeout)
        while True:
            try:
                reply = self._frames.next()
            except ProtocolError:
                raise
            except Exception:
                # An error reply ends its call as any other does.
                self.is_clean = self._frames.is_empty
                raise
            if reply is not None:
                self.is_clean = not reply.continues and self._frames.is_empty
                return reply
            data = self._socket.recv(_wire.READ_BYTES)
            if not data:
                raise ConnectionResetError("the other end hung up before answering")
            self._frames.feed(data)

    @property
    def is_reusable(self) -> bool:
        """Whether another call may be made: nothing lies unread, and the other end is there."""
        if not self.is_clean:
            return False
        # Not select(), which cannot look at a descriptor of 1024 or more.
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)

    def exactly(self, count: int, timeout: Optional[float]) -> bytes:
        """So many bytes of a connection that has left Varlink."""
        self._socket.settimeout(timeout)
        chunks = [self._frames.rest()]
        have = len(chunks[0])
        while have < count:
            data = self._socket.recv(min(_wire.READ_BYTES, count - have))
            if not data:
                raise ConnectionResetError("the other end hung up in the middle of a frame")
            chunks.append(data)
            have += len(data)
        whole = b"".join(chunks)
        self._frames.feed(whole[count:])
        return whole[:count]

    def close(self) -> None:
        self._socket.close()


class Client:
    """The mesh. Safe to use from several threads, and as a context manager.

    ``context`` and ``require`` (attributes that a provider must have, such as ``{"model": …}``) hold for every call that says nothing else.
    """

    def __init__(
        self,
        socket_path: Optional[str] = None,
        *,
        timeout: float = _TIMEOUT,
        context: Optional[str] = None,
        require: Optional[Mapping[str, str]] = None,
    ):
        self.socket_path = socket_path or _wire.find_socket()
        self.timeout = timeout
        self.context = context
        self.require = dict(require or {})
        self._idle: List[Connection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()

    # The connection's life.

    def _options(self, timeout: Optional[float], context: Optional[str], require: Optional[Mapping[str, str]]) -> CallOptions:
        return CallOptions(timeout if timeout is not None else self.timeout, context or self.context, require or self.require)

    def _take(self) -> Connection:
        if self._process != os.getpid():
            # After a fork they are the parent's as well: each would read the other's answers.
            self._idle, self._lock, self._process = [], threading.Lock(), os.getpid()
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.is_reusable:
                    return connection
                connection.close()
        return Connection(self.socket_path, self.timeout)

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if connection.is_clean and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes idle connections. The client can be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Any method.

    def call(
        self,
        method: str,
        parameters: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = None,
        context: Optional[str] = None,
        require: Optional[Mapping[str, str]] = None,
        idempotent: Optional[bool] = None,
    ) -> Dict[str, Any]:
        """Calls a method, and gives the parameters of its reply.

        A call that is safe to repeat (by the interface's own word, or by ``idempotent``) is made again until its time is up if the process
        at the other end goes away.
        """
        return self._reply(method, parameters, self._options(timeout, context, require), idempotent).parameters

    def _reply(self, method: str, parameters: Optional[Mapping[str, Any]], options: CallOptions, idempotent: Optional[bool] = None) -> Reply:
        message = _wire.encode(method, parameters, options)
        repeatable = method in IDEMPOTENT if idempotent is None else idempotent
        until = time.monotonic() + (options.timeout or self.timeout)
        pause = 0.002
        while True:
            left = max(0.001, until - time.monotonic())
            connection = None
            try:
                connection = self._take()
                # The mesh answers at the deadline; a little later nobody does.
                connection.send(message, left + 1.0)
                return connection.receive(left + 1.0)
            except Unreachable:
                # Not connected is not called.
                if time.monotonic() + pause > until:
                    raise
            except socket.timeout as cause:
                raise TimeoutError(f"no answer within {options.timeout} s") from cause
            except OSError as cause:
                if not repeatable or time.monotonic() + pause > until:
                    raise Unreachable(f"{self.socket_path} hung up during {method}") from cause
            finally:
                if connection is not None:
                    self._give_back(connection)
            time.sleep(pause)
            pause = min(0.25, pause * 2)

    def stream(
        self,
        method: str,
        parameters: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = None,
        context: Optional[str] = None,
        require: Optional[Mapping[str, str]] = None,
    ) -> Iterator[Dict[str, Any]]:
        """Calls a method with ``more``: one reply after the other. Closing the iterator ends the work.

        ``timeout`` is the longest wait for one reply; none unless said.
        """
        options = CallOptions(None, context or self.context, require or self.require)
        connection = self._take()
        try:
            connection.send(_wire.encode(method, parameters, options, more=True), self.timeout)
            while True:
                reply = connection.receive(timeout)
                yield reply.parameters
                if not reply.continues:
                    return
        except socket.timeout as cause:
            raise TimeoutError(f"no reply within {timeout} s") from cause
        except OSError as cause:
            if isinstance(cause, (Unreachable, TimeoutError)):
                raise
            raise Unreachable(f"{self.socket_path} hung up during {method}") from cause
        finally:
            self._give_back(connection)

    # The daily work.

    def embed(self, texts: Iterable[str], **options: Any) -> Any:
        """Vectors of texts, any number: a numpy array if numpy is there, else lists. What is not as it should be is a ``BrahmanWarning``.

        Options: ``model``, ``role`` (``query`` or ``document``), ``prompt_name``, ``prompt``, ``dimensions``, ``truncate``, ``context``.
        """
        embedded = self.embed_full(texts, **options)
        embedded.warn()
        return embedded.vectors

    def embed_full(
        self,
        texts: Iterable[str],
        *,
        model: Optional[str] = None,
        context: Optional[str] = None,
        timeout: Optional[float] = None,
        **options: Any,
    ) -> Embedded:
        """The same with all that is known of how they were made."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        require = {**self.require, "model": model} if model else self.require
        terms = {name: value for name, value in options.items() if value is not None}
        try:
            import pyarrow
        except ImportError:
            pyarrow = None
        if pyarrow is not None and len(listed) > _PART_TEXTS:
            return self._embed_bulk(listed, terms, CallOptions(None, context or self.context, require), timeout)
        embedded = Embedded(vectors=[])
        for part in _wire.parts(listed, _PART_TEXTS, _PART_BYTES):
            first = len(embedded.vectors)
            reply = self._reply("org.brahman.Embed.EmbedText", {"texts": part, **terms}, self._options(timeout, context, require))
            collect(embedded, reply, first)
        embedded.vectors = vectors_of(embedded.vectors)
        return embedded

    def _embed_bulk(self, texts: List[str], terms: Dict[str, Any], options: CallOptions, timeout: Optional[float]) -> Embedded:
        """By Arrow frames: no number is written out in digits."""
        import pyarrow

        wait = timeout if timeout is not None else 600.0
        connection = self._take()
        try:
            connection.send(_wire.encode("org.brahman.Embed.EmbedBulk", terms, options, upgrade=True), self.timeout)
            reply = connection.receive(wait)
            said = reply.parameters
            embedded = Embedded(vectors=[], provider=reply.provider, warnings=list(said.get("warnings") or []))
            embedded.model, embedded.dim, embedded.fingerprint = said["model"], said["dim"], said["fingerprint"]
            embedded.device, embedded.mock = said["device"], said["mock"]
            tables = []
            for part in _wire.parts(texts, _FRAME_TEXTS, _PART_BYTES):
                sink = pyarrow.BufferOutputStream()
                batch = pyarrow.record_batch({"text": pyarrow.array(part, pyarrow.string())})
                with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                body = sink.getvalue().to_pybytes()
                connection.send(struct.pack("<I", len(body)) + body, wait)
                (length,) = struct.unpack("<I", connection.exactly(4, wait))
                data = connection.exactly(length & ~_FAULT_BIT, wait)
                if length & _FAULT_BIT:
                    import json

                    fault = json.loads(data)
                    raise error(fault["error"], fault.get("parameters") or {})
                table = pyarrow.ipc.open_stream(data).read_all()
                first = sum(len(known) for known in tables)
                for at, (tokens, kept) in enumerate(zip(table["tokens"].to_pylist(), table["kept"].to_pylist())):
                    if kept < tokens:
                        embedded.truncated.append({"index": first + at, "tokens": tokens, "kept": kept})
                embedded.cached += sum(table["cached"].to_pylist())
                tables.append(table)
            connection.send(struct.pack("<I", 0), wait)
        finally:
            connection.is_clean = False
            self._give_back(connection)
        column = pyarrow.concat_tables(tables)["vector"].combine_chunks()
        flat = column.flatten().to_numpy() if vectors_of([]).__class__.__module__ == "numpy" else None
        embedded.vectors = flat.reshape(len(texts), embedded.dim) if flat is not None else column.to_pylist()
        return embedded

    def search(
        self,
        index: str,
        text: Optional[str] = None,
        *,
        vector: Optional[Sequence[float]] = None,
        k: int = 10,
        rerank: Any = None,
        timeout: Optional[float] = None,
        context: Optional[str] = None,
        **options: Any,
    ) -> Hits:
        """Searches an index by words in ``text``, or by a ``vector``. ``rerank``: True, or the name of a model.

        Options: ``mode`` (``semantic``, ``lexical`` or ``hybrid``), ``filter``, ``exact``, ``ef``, ``per_document``, ``passages``.
        """
        parameters = search_parameters(index, text, vector, {"k": k, "rerank": rerank_step(rerank), **options})
        return Hits.of(self.call("org.brahman.Index.Search", parameters, timeout=timeout, context=context))

    def ingest(self, dataset: str, paths: Iterable[str], **options: Any) -> Iterator[Progress]:
        """Reads files and folders into a dataset; the last progress, of phase ``done``, has the result."""
        parameters = {"dataset": dataset, "paths": [str(path) for path in paths], **options}
        return map(Progress.of, self.stream("org.brahman.Ingest.Files", parameters))

    def create_index(self, name: str, dataset: str, *, id_column: str = "id", text_column: Optional[str] = "text", **options: Any) -> bool:
        """Declares an index of a dataset; whether it is a new one."""
        parameters = {"name": name, "dataset": dataset, "id_column": id_column, **options}
        if text_column and "text_columns" not in options and "vector_column" not in options:
            parameters["text_column"] = text_column
        return bool(self.call("org.brahman.Index.Create", parameters)["created"])

    def refresh(self, index: str) -> Iterator[Progress]:
        """Brings an index up to its dataset; the last progress, of phase ``done``, has the result."""
        return map(Progress.of, self.stream("org.brahman.Index.Refresh", {"name": index}))

    def dataset(self, name: str) -> Dataset:
        """A dataset, pinned while it is open: ``with mesh.dataset("notes") as notes: notes.to_arrow()``."""
        return Dataset(self, name)

    def datasets(self) -> List[Dict[str, Any]]:
        """All datasets."""
        return list(self.call("org.brahman.Catalog.List")["datasets"])

    def indexes(self) -> List[Dict[str, Any]]:
        """All indexes."""
        return list(self.call("org.brahman.Index.List")["indexes"])

    def rerank(self, query: str, texts: Sequence[str], **options: Any) -> List[Dict[str, Any]]:
        """Texts by how well they answer a query: places and scores, the best first."""
        return list(self.call("org.brahman.Rerank.Rerank", {"query": query, "texts": list(texts), **options})["results"])

    def status(self) -> Dict[str, Any]:
        """Every module and its state."""
        return self.call("org.brahman.Broker.Status")


def collect(embedded: Embedded, reply: Reply, first: int) -> None:
    """Takes in what one call of ``EmbedText`` gave."""
    said = reply.parameters
    if embedded.fingerprint and embedded.fingerprint != said["fingerprint"]:
        raise ProtocolError("another model answered in the middle of this work: begin again")
    embedded.vectors.extend(said["vectors"])
    embedded.model, embedded.dim, embedded.fingerprint = said["model"], said["dim"], said["fingerprint"]
    embedded.device, embedded.mock, embedded.provider = said["device"], said["mock"], reply.provider
    embedded.cached += said["cached"]
    embedded.truncated.extend({**cut, "index": cut["index"] + first} for cut in said["truncated"])
    embedded.warnings.extend(text for text in said.get("warnings") or [] if text not in embedded.warnings)
