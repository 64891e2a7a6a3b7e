"""Brahman from Python: embed, search, ingest, and call any method of the mesh. The standard library alone is needed."""

from . import errors as _errors
from ._async import AsyncClient
from ._sync import Client
from ._wire import find_socket
from .dataset import Dataset
from .errors import BrahmanError, BrahmanWarning, ProtocolError, Unreachable
from .results import Embedded, Hit, Hits, Progress

globals().update(_errors.CLASSES)

__all__ = [
    "AsyncClient",
    "BrahmanError",
    "BrahmanWarning",
    "Client",
    "Dataset",
    "Embedded",
    "Hit",
    "Hits",
    "Progress",
    "ProtocolError",
    "Unreachable",
    "find_socket",
    *_errors.CLASSES,
]
__version__ = "0.1.0"
