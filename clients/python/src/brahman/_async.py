"""The same client for asyncio."""

import asyncio
import time
from typing import Any, AsyncIterator, Dict, Iterable, List, Mapping, Optional, Sequence

from . import _wire
from ._contract import IDEMPOTENT
from ._sync import _IDLE_MAX, _PART_BYTES, _PART_TEXTS, _TIMEOUT, collect
from ._wire import CallOptions, Frames, Reply
from .errors import ProtocolError, Unreachable
from .results import Embedded, Hits, Progress, rerank_step, search_parameters, vectors_of


class AsyncConnection:
    """One connection, one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer, self._frames = reader, writer, Frames()
        self.is_clean = True

    @classmethod
    async def open(cls, path: str) -> "AsyncConnection":
        try:
            return cls(*await asyncio.open_unix_connection(path, limit=_wire.READ_BYTES))
        except OSError as cause:
            raise Unreachable(f"cannot connect to {path}: {cause.strerror or cause}") from cause

    async def send(self, message: bytes) -> None:
        self.is_clean = False
        self._writer.write(message)
        await self._writer.drain()

    async def receive(self) -> Reply:
        while True:
            try:
                reply = self._frames.next()
            except ProtocolError:
                raise
            except Exception:
                self.is_clean = self._frames.is_empty
                raise
            if reply is not None:
                self.is_clean = not reply.continues and self._frames.is_empty
                return reply
            data = await self._reader.read(_wire.READ_BYTES)
            if not data:
                raise ConnectionResetError("the other end hung up before answering")
            self._frames.feed(data)

    @property
    def is_reusable(self) -> bool:
        return self.is_clean and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()


class AsyncClient:
    """The mesh, for asyncio. See :class:`brahman.Client`."""

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
        self._idle: List[AsyncConnection] = []

    async def _take(self) -> AsyncConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            connection.close()
        return await AsyncConnection.open(self.socket_path)

    def _give_back(self, connection: AsyncConnection) -> None:
        if connection.is_clean and len(self._idle) < _IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    async def close(self) -> None:
        """Closes idle connections. The client can be used again."""
        while self._idle:
            self._idle.pop().close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(
        self,
        method: str,
        parameters: Optional[Mapping[str, Any]] = None,
        *,
        timeout: Optional[float] = None,
        context: Optional[str] = None,
        require: Optional[Mapping[str, str]] = None,
        idempotent: Optional[bool] = None,
    ) -> Dict[str, Any]:
        """Calls a method, and gives the parameters of its reply. One that is safe to repeat survives the other end's death."""
        options = CallOptions(timeout if timeout is not None else self.timeout, context or self.context, require or self.require)
        return (await self._reply(method, parameters, options, idempotent)).parameters

    async def _reply(
        self, method: str, parameters: Optional[Mapping[str, Any]], options: CallOptions, idempotent: Optional[bool] = None
    ) -> Reply:
        message = _wire.encode(method, parameters, options)
        repeatable = method in IDEMPOTENT if idempotent is None else idempotent
        until = time.monotonic() + (options.timeout or self.timeout)
        pause = 0.002
        while True:
            left = max(0.001, until - time.monotonic()) + 1.0
            connection = None
            try:
                connection = await self._take()
                await asyncio.wait_for(connection.send(message), left)
                return await asyncio.wait_for(connection.receive(), left)
            except Unreachable:
                if time.monotonic() + pause > until:
                    raise
            except asyncio.TimeoutError as cause:
                raise TimeoutError(f"no answer within {options.timeout} s") from cause
            except OSError as cause:
                if not repeatable or time.monotonic() + pause > until:
                    raise Unreachable(f"{self.socket_path} hung up during {method}") from cause
            finally:
                if connection is not None:
                    self._give_back(connection)
            await asyncio.sleep(pause)
            pause = min(0.25, pause * 2)

    async def stream(
        self,
        method: str,
        parameters: Optional[Mapping[str, Any]] = None,
        *,
        context: Optional[str] = None,
        require: Optional[Mapping[str, str]] = None,
    ) -> AsyncIterator[Dict[str, Any]]:
        """Calls a method with ``more``: one reply after the other. Closing the iterator ends the work."""
        options = CallOptions(None, context or self.context, require or self.require)
        connection = await self._take()
        try:
            await connection.send(_wire.encode(method, parameters, options, more=True))
            while True:
                reply = await connection.receive()
                yield reply.parameters
                if not reply.continues:
                    return
        except OSError as cause:
            if isinstance(cause, Unreachable):
                raise
            raise Unreachable(f"{self.socket_path} hung up during {method}") from cause
        finally:
            self._give_back(connection)

    async def embed(self, texts: Iterable[str], **options: Any) -> Any:
        """Vectors of texts, any number; see :meth:`brahman.Client.embed`."""
        embedded = await self.embed_full(texts, **options)
        embedded.warn()
        return embedded.vectors

    async def embed_full(
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
        call = CallOptions(timeout if timeout is not None else self.timeout, context or self.context, require)
        embedded = Embedded(vectors=[])
        for part in _wire.parts(listed, _PART_TEXTS, _PART_BYTES):
            first = len(embedded.vectors)
            collect(embedded, await self._reply("org.brahman.Embed.EmbedText", {"texts": part, **terms}, call), first)
        embedded.vectors = vectors_of(embedded.vectors)
        return embedded

    async def search(
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
        """Searches an index; see :meth:`brahman.Client.search`."""
        parameters = search_parameters(index, text, vector, {"k": k, "rerank": rerank_step(rerank), **options})
        return Hits.of(await self.call("org.brahman.Index.Search", parameters, timeout=timeout, context=context))

    async def ingest(self, dataset: str, paths: Iterable[str], **options: Any) -> AsyncIterator[Progress]:
        """Reads files and folders into a dataset; the last progress, of phase ``done``, has the result."""
        parameters = {"dataset": dataset, "paths": [str(path) for path in paths], **options}
        async for reply in self.stream("org.brahman.Ingest.Files", parameters):
            yield Progress.of(reply)

    async def refresh(self, index: str) -> AsyncIterator[Progress]:
        """Brings an index up to its dataset; the last progress, of phase ``done``, has the result."""
        async for reply in self.stream("org.brahman.Index.Refresh", {"name": index}):
            yield Progress.of(reply)

    async def status(self) -> Dict[str, Any]:
        """Every module and its state."""
        return await self.call("org.brahman.Broker.Status")
