"""How does this process embed texts without a server?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memory.domain.errors import EmbedderUnavailable
from memory.ports.models import QUERY_TEXTS, Embedder, Tokenizer, Vectors
from model_runtime.embedders.lanes import EmbeddingFailed, Lanes
from model_runtime.embedders.precision import Precision

if TYPE_CHECKING:
    from model_runtime.embedders.embedder import SentenceEmbedder


@dataclass(frozen=True, slots=True)
class Models:
    """One model's two faces. `embedder` is closed by whoever loaded it."""

    embedder: "InProcessEmbedder"
    tokenizer: Tokenizer


def load_models(
    name: str,
    give_way: Callable[[], None] = lambda: None,
    *,
    precision: Precision = Precision.FLOAT32,
    exports: Path | None = None,
) -> Models:
    """Loads "minilm" (packaged), a folder or a hub id. Blocks for seconds. Raises EmbedderUnavailable.

    `give_way`: called before each batch of an ingest, in its thread; may block for a moment.
    `exports`: where what int8 needs is kept.
    """
    from model_runtime.embedders import embedder, tokenizer
    from model_runtime.embedders.folder import UnusableModel

    try:
        model = embedder.load(name, precision, exports)
        return Models(InProcessEmbedder(model, give_way), tokenizer.load(name))
    except (UnusableModel, OSError, ImportError) as e:
        raise EmbedderUnavailable(f"The embedder {name!r} can't be loaded: {e}", embedder=name) from e


class InProcessEmbedder(Embedder):
    """Owns its threads: `close()` ends them."""

    def __init__(
        self,
        model: "SentenceEmbedder",
        give_way: Callable[[], None] = lambda: None,
        *,
        ingest_threads: int | None = None,
    ) -> None:
        """`ingest_threads`: cores that an ingest may use; by default all, on a GPU one thread."""
        self._lanes = Lanes(model, QUERY_TEXTS, give_way, ingest_threads=ingest_threads)

    @property
    def space(self) -> str:
        return self._lanes.model.space

    @property
    def dimensions(self) -> int:
        return self._lanes.model.dimensions

    async def embed(self, texts: Sequence[str]) -> Vectors:
        try:
            return await self._lanes.embed(texts)
        except EmbeddingFailed as error:
            raise EmbedderUnavailable(str(error), space=self.space) from (error.__cause__ or error)

    def close(self) -> None:
        """Waits for the batches that are being computed (well under a second), drops those that are not."""
        self._lanes.close()
