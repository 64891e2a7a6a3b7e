"""What calls give: vectors, hits, the progress of a work."""

import warnings
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from .errors import BrahmanWarning

try:
    import numpy
except ImportError:  # numpy is used if it is there
    numpy = None  # type: ignore[assignment]


def vectors_of(rows: Sequence[Sequence[float]]) -> Any:
    """Vectors as an array of 32-bit numbers if numpy is there, else as they are."""
    return numpy.asarray(rows, dtype=numpy.float32) if numpy is not None else list(rows)


@dataclass
class Embedded:
    """Vectors, and how they were made."""

    vectors: Any
    model: str = ""
    dim: int = 0
    fingerprint: str = ""
    device: str = ""
    mock: bool = False
    provider: Optional[str] = None
    #: How many were not computed for this call.
    cached: int = 0
    #: The texts that were longer than the model reads: their places, tokens and what was kept.
    truncated: List[Dict[str, Any]] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)

    def warn(self) -> None:
        """Says what is not as it should be."""
        if self.truncated:
            warnings.warn(f"{len(self.truncated)} texts were longer than the model reads, and were cut", BrahmanWarning, stacklevel=3)
        if self.mock:
            warnings.warn(f"the vectors were made up by the mock {self.provider or self.model}", BrahmanWarning, stacklevel=3)
        for text in self.warnings:
            warnings.warn(text, BrahmanWarning, stacklevel=3)


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    doc_id: str
    chunk: int
    line: int
    start: int
    end: int
    text: str
    score: float
    heading: Optional[str] = None
    #: Everything that the index said of it.
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Hit":
        names = ("doc_id", "chunk", "line", "start", "end", "text", "score")
        return cls(*(data[name] for name in names), heading=data.get("heading"), data=data)


@dataclass
class Hits(Sequence[Hit]):
    """The hits of one query, best first, and who answered."""

    hits: List[Hit]
    reply: Mapping[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, at: Any) -> Any:
        return self.hits[at]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @property
    def generation(self) -> int:
        return int(self.reply["generation"])

    @property
    def model(self) -> str:
        return str(self.reply["model"])

    @property
    def stale(self) -> bool:
        """Whether the dataset has moved on."""
        return bool(self.reply["stale"])

    @property
    def dataset_gone(self) -> bool:
        """Whether the dataset was deleted or renamed: nothing refreshes the index any more."""
        return bool(self.reply.get("dataset_gone", False))

    def to_arrow(self) -> Any:
        """The hits as a pyarrow table."""
        import pyarrow

        names = ("doc_id", "chunk", "line", "start", "end", "text", "score", "heading")
        return pyarrow.table({name: [getattr(hit, name) for hit in self.hits] for name in names})

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> "Hits":
        hits = cls([Hit.of(hit) for hit in reply["results"][0]], reply)
        if reply.get("mock"):
            warnings.warn("the index's vectors were made up by a mock", BrahmanWarning, stacklevel=3)
        if reply.get("truncated"):
            warnings.warn("the query was longer than the model reads, and was cut", BrahmanWarning, stacklevel=3)
        if reply.get("degraded"):
            warnings.warn(str(reply["degraded"]), BrahmanWarning, stacklevel=3)
        if hits.dataset_gone:
            warnings.warn("the index's dataset was deleted or renamed: nothing refreshes it any more", BrahmanWarning, stacklevel=3)
        return hits


@dataclass(frozen=True)
class Progress:
    """How far a work is; ``data`` has all of the reply, which is the result where ``phase`` is ``done``."""

    phase: str
    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Progress":
        return cls(str(data.get("phase", "done")), data)


def search_parameters(index: str, text: Optional[str], vector: Optional[Sequence[float]], options: Mapping[str, Any]) -> Dict[str, Any]:
    """The parameters of a search."""
    parameters: Dict[str, Any] = {"index": index}
    if text is not None:
        parameters["text"] = text
    if vector is not None:
        parameters["vector"] = [float(number) for number in vector]
    parameters.update({name: value for name, value in options.items() if value is not None})
    return parameters


def rerank_step(rerank: Any) -> Optional[Dict[str, Any]]:
    """What a search's ``rerank`` means: True, a model's name, or the step itself."""
    if rerank is None or rerank is False:
        return None
    if rerank is True:
        return {}
    return {"model": rerank} if isinstance(rerank, str) else dict(rerank)
