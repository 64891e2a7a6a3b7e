"""A dataset, as other libraries open it."""

import uuid
from typing import TYPE_CHECKING, Any, Dict, List, Optional

if TYPE_CHECKING:
    from ._sync import Client

#: How long a pin outlives a process that did not take it away.
_PIN_LIFE_S = 24 * 3600


class Dataset:
    """One generation of a dataset. As a context manager it keeps that generation, whatever is committed meanwhile."""

    def __init__(self, client: "Client", name: str):
        self._client = client
        self.name = name
        self._pin: Optional[str] = None
        self._info: Optional[Dict[str, Any]] = None

    def __enter__(self) -> "Dataset":
        pin = f"python-{uuid.uuid4().hex[:12]}"
        self._client.call("org.brahman.Catalog.Pin", {"name": self.name, "pin": pin, "life_s": _PIN_LIFE_S})
        self._pin = pin
        # What was known may have been of another generation than the one that is pinned.
        self._info = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._pin is not None:
            self._client.call("org.brahman.Catalog.Unpin", {"name": self.name, "pin": self._pin})
            self._pin = None

    @property
    def info(self) -> Dict[str, Any]:
        """What the catalog says of it: rows, generation, columns, objects."""
        if self._info is None:
            self._info = self._client.call("org.brahman.Catalog.Get", {"name": self.name})["dataset"]
        return self._info

    @property
    def generation(self) -> int:
        return int(self.info["generation"])

    @property
    def paths(self) -> List[str]:
        """Parquet files on this machine, of an object in S3 its copy."""
        return [one.get("path") or one["url"].removeprefix("file://") for one in self.info["objects"]]

    def to_arrow(self) -> Any:
        """The same as a ``pyarrow.dataset.Dataset``."""
        import pyarrow.dataset

        return pyarrow.dataset.dataset(self.paths, format="parquet")

    def to_duckdb(self, connection: Any = None) -> Any:
        """The same as a DuckDB relation."""
        import duckdb

        return (connection or duckdb).read_parquet(self.paths)
