"""Varlink's messages, without any input or output: calls to bytes, bytes to replies; and where the mesh is."""

import itertools
import json
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional

from .errors import ProtocolError, error

#: Longest message either way.
MESSAGE_BYTES_MAX = 16 << 20
#: As much is read at once: small reads are what makes general clients slow.
READ_BYTES = 1 << 20
_numbers = itertools.count(1)


def find_socket() -> str:
    """The mesh's socket, found as the command finds it."""
    named = os.environ.get("BRAHMAN_SOCKET")
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime, "brahman/brahman.sock") if runtime else "/run/brahman/brahman.sock"


@dataclass(frozen=True)
class CallOptions:
    """How a call is made."""

    timeout: Optional[float] = None
    context: Optional[str] = None
    require: Optional[Mapping[str, str]] = None
    trace: Optional[str] = None


@dataclass
class Reply:
    """One reply."""

    parameters: Dict[str, Any]
    continues: bool
    provider: Optional[str]
    mock: bool


def encode(method: str, parameters: Optional[Mapping[str, Any]], options: CallOptions, *, more: bool = False, upgrade: bool = False) -> bytes:
    """A call's message."""
    message: Dict[str, Any] = {"org.brahman.call": next(_numbers), "method": method, "parameters": dict(parameters or {})}
    if more:
        message["more"] = True
    if upgrade:
        message["upgrade"] = True
    if options.timeout is not None:
        message["org.brahman.deadline_ms"] = max(1, int(options.timeout * 1000))
    for key, value in (("context", options.context), ("trace", options.trace), ("require", dict(options.require or {}) or None)):
        if value is not None:
            message["org.brahman." + key] = value
    data = json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\0"
    if len(data) > MESSAGE_BYTES_MAX:
        raise ValueError(f"the call has {len(data)} bytes, a message at most {MESSAGE_BYTES_MAX}: send less at once")
    return data


class Frames:
    """Bytes that come, and the messages in them. What was looked through once is not looked through again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > 2 * MESSAGE_BYTES_MAX:
            raise ProtocolError("the reply is longer than a message may be")

    def next(self) -> Optional[Reply]:
        """The next reply, if a whole one has come. An error reply is raised."""
        end = self._buffer.find(b"\0", self._seen)
        if end < 0:
            self._seen = len(self._buffer)
            return None
        try:
            message = json.loads(bytes(memoryview(self._buffer)[:end]))
        except (ValueError, RecursionError) as cause:
            raise ProtocolError("the reply is not JSON, or is nested too deeply") from cause
        del self._buffer[: end + 1]
        self._seen = 0
        if not isinstance(message, dict):
            raise ProtocolError("the reply is not an object")
        parameters = message.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ProtocolError("the reply's parameters are not an object")
        if "error" in message:
            raise error(str(message["error"]), parameters)
        provider = message.get("org.brahman.provider")
        return Reply(parameters, bool(message.get("continues")), provider, bool(message.get("org.brahman.mock")))

    def rest(self) -> bytes:
        """What has come and is no message, for a connection that leaves Varlink."""
        rest, self._buffer, self._seen = bytes(self._buffer), bytearray(), 0
        return rest

    @property
    def is_empty(self) -> bool:
        return not self._buffer


def parts(texts: List[str], texts_max: int, bytes_max: int) -> "List[List[str]]":
    """Texts in calls of bounded size, in their order."""
    all_parts: List[List[str]] = []
    size = bytes_max + 1
    for text in texts:
        # As much as a character may take as JSON.
        length = len(text) * 4 + 8
        if size + length > bytes_max or len(all_parts[-1]) >= texts_max:
            all_parts.append([])
            size = 0
        all_parts[-1].append(text)
        size += length
    return all_parts
