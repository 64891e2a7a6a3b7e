"""LangChain's ``Embeddings`` and a retriever; needs ``langchain-core``."""

from typing import Any, List, Optional

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever

from ._sync import Client


class BrahmanEmbeddings(Embeddings):
    """Vectors of the mesh's embedding model."""

    def __init__(self, client: Optional[Client] = None, *, model: Optional[str] = None, truncate: bool = True):
        self._client, self._model, self._truncate = client or Client(), model, truncate

    def _embed(self, texts: List[str], role: str) -> List[List[float]]:
        vectors = self._client.embed(texts, model=self._model, role=role, truncate=self._truncate)
        return [[float(number) for number in vector] for vector in vectors]

    def embed_documents(self, texts: List[str]) -> List[List[float]]:
        return self._embed(texts, "document") if texts else []

    def embed_query(self, text: str) -> List[float]:
        return self._embed([text], "query")[0]


class BrahmanRetriever(BaseRetriever):
    """The hits of an index."""

    index: str
    k: int = 10
    mode: str = "hybrid"
    rerank: Any = None
    filter: Any = None
    client: Any = None

    def _get_relevant_documents(self, query: str, *, run_manager: Any = None, **options: Any) -> List[Document]:
        client = self.client or Client()
        terms = {"k": self.k, "mode": self.mode, "rerank": self.rerank, "filter": self.filter, **options}
        hits = client.search(self.index, query, **terms)
        metadata = [{"doc_id": hit.doc_id, "line": hit.line, "score": hit.score, "heading": hit.heading} for hit in hits]
        return [Document(page_content=hit.text, metadata=said) for hit, said in zip(hits, metadata)]
