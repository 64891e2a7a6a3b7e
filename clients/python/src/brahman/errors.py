"""Exceptions by the names of the mesh's errors.

``BrahmanError`` is what they all are. An error of somebody else's module, which is not known here, is one of it with its own ``name``.
"""

from typing import Any, Dict, Mapping, Type

from ._contract import ERRORS


class BrahmanError(Exception):
    """An answer of the mesh that is an error."""

    #: Its qualified name, such as ``org.brahman.Index.NoSuchIndex``.
    name: str = ""

    def __init__(self, name: str, parameters: Mapping[str, Any]):
        self.name = name
        #: The error's data.
        self.parameters: Dict[str, Any] = dict(parameters)
        #: Whether the same call may succeed later.
        self.retryable: bool = bool(parameters.get("retryable", False))
        super().__init__(str(parameters.get("message") or name))


class BrahmanWarning(UserWarning):
    """What was not as it should be, though there is an answer: texts that were cut, a mock, a stale index."""


class Unreachable(ConnectionError):
    """Nobody listens at the socket, or whoever did has gone in the middle of a call that is not safe to repeat."""


class ProtocolError(Exception):
    """What came from the other end is not Varlink."""


#: Classes by qualified name. Errors of several interfaces that are called alike are one class.
BY_NAME: Dict[str, Type[BrahmanError]] = {}


def _declare() -> Dict[str, Type[BrahmanError]]:
    classes: Dict[str, Type[BrahmanError]] = {}
    for interface, names in ERRORS.items():
        for short in names:
            known = classes.setdefault(short, type(short, (BrahmanError,), {"__doc__": f"``{interface}.{short}``", "__module__": "brahman"}))
            BY_NAME[f"{interface}.{short}"] = known
    return classes


#: The same by their short names, as the package exports them.
CLASSES = _declare()


def error(name: str, parameters: Mapping[str, Any]) -> BrahmanError:
    """The exception for an error reply."""
    return BY_NAME.get(name, BrahmanError)(name, parameters)
