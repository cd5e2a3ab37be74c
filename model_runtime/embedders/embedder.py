"""How does a sentence-transformers model turn texts into unit vectors?

Texts become token ids, sorted into batches of bounded time; a `Forward` makes vectors of them: `TorchForward` in
float32, `Int8Forward` on a CPU that multiplies bytes. Texts are never read as control tokens: a "[SEP]" in a text is
five characters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from model_runtime.embedders.folder import DEFAULT, ModelFolder, UnusableModel, find
from model_runtime.embedders.precision import Precision

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vectors = NDArray[np.float32]

# On one CPU core the rate is flat from 128 tokens a batch on (2,900 to 3,500 tokens a second, 2,450 at 40), so the
# smallest wins: at 256 padding wastes 0.9 % instead of 4 % at 4,096, and a batch takes about 65 ms. CUDA: not measured.
_TOKENS_PER_BATCH = {"cpu": 256, "cuda": 32_768}


class Forward(Protocol):
    """Token ids to pooled vectors. Any number of threads may call it at once."""

    device: str

    def __call__(self, ids: list[list[int]]) -> Vectors:
        """float32 [len(ids), d], of any length."""
        ...

    def prepare_thread(self) -> None:
        """Called once in each thread that will call: parallelism is theirs, one core each."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of about one length. `rows[i]` is the place of `ids[i]` among the texts that were asked for."""

    rows: list[int]
    ids: list[list[int]]


class SentenceEmbedder:
    """Synchronous and stateless: any number of threads may call it at once, none waits for another."""

    def __init__(self, space: str, dimensions: int, tokens: "_TokenIds", forward: Forward) -> None:
        self.space = space
        self.dimensions = dimensions
        self.max_tokens = tokens.max_text_tokens
        """Tokens of a text that are read, without the model's own special ones."""
        self.device = forward.device
        self.prepare_thread = forward.prepare_thread
        self._tokens = tokens
        self._forward = forward

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors in the order of `texts`: float32 [n, dimensions]; tokens beyond `max_tokens` are not read."""
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for batch in self.plan(texts):
            vectors[batch.rows] = self.run(batch)
        return vectors

    def plan(self, texts: Sequence[str]) -> list[Batch]:
        """Batches of bounded time (on a CPU core about 60 ms each), longest texts first."""
        ids = self._tokens(texts)
        return list(batches(ids, _TOKENS_PER_BATCH[self.device]))

    def run(self, batch: Batch) -> Vectors:
        """float32 [len(batch.rows), dimensions], unit length."""
        vectors = self._forward(batch.ids)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def batches(ids: Sequence[list[int]], budget: int) -> Iterator[Batch]:
    """Texts sorted by length and cut where the padded batch would exceed `budget` tokens or waste an eighth."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    start = 0
    while start < len(order):
        longest = len(ids[order[start]])
        end = start + 1
        while end < len(order) and (end - start + 1) * longest <= budget and len(ids[order[end]]) * 8 >= longest * 7:
            end += 1
        yield Batch(order[start:end], [ids[i] for i in order[start:end]])
        start = end


class _TokenIds:
    """Token ids of texts with the model's special tokens, cut at its limit."""

    def __init__(self, tokenizer: "Tokenizer", max_length: int, pad_id: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self.max_text_tokens = max_length - tokenizer.num_special_tokens_to_add(is_pair=False)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        # A model without special tokens has none for an empty text: it reads one padding token instead.
        return [e.ids or [self._pad_id] for e in self._tokenizer.encode_batch_fast(list(texts))]


def load(
    name: str = DEFAULT, precision: Precision = Precision.FLOAT32, exports: Path | None = None
) -> SentenceEmbedder:
    """The model "minilm" (packaged), in a folder, or of a hub id.

    `exports`: the folder that keeps what int8 was made of; the first time that takes some ten seconds. float32 takes
    seconds every time: it imports torch and reads the weights. Raises UnusableModel.
    """
    from tokenizers import Tokenizer

    folder = find(name)
    pad_id = folder.config().get("pad_token_id") or 0
    tokens = _TokenIds(Tokenizer.from_file(str(folder.tokenizer_file())), folder.max_length(), pad_id)
    pooling = folder.pooling()
    fingerprint = folder.weights_fingerprint()
    small = _in_int8(name, pooling, precision)
    try:
        forward = _int8(folder, pooling, exports) if small else _float32(folder, pooling, pad_id)
    except (OSError, ValueError) as e:
        raise UnusableModel(f"{folder.path} could not be loaded: {e}") from e
    # Asked from the model itself: a pipeline may end in a layer that no setting names.
    dimensions = forward(tokens(["dimensions"])).shape[1]
    space = f"{folder.name}:{dimensions}:{fingerprint}:{pooling or 'pipeline'}-unit{'-int8' if small else ''}"
    return SentenceEmbedder(space, dimensions, tokens, forward)


def _in_int8(name: str, pooling: str | None, precision: Precision) -> bool:
    from model_runtime.embedders import int8

    if precision is Precision.INT8:
        if pooling is None:
            raise UnusableModel(f"only float32 runs the pipeline of {name}: set STRATAMEM_EMBEDDER_PRECISION=float32")
        return True
    return precision is Precision.AUTO and name == DEFAULT and int8.pays()


def _int8(folder: ModelFolder, pooling: str | None, exports: Path | None) -> Forward:
    from model_runtime.embedders.int8 import Int8Forward

    if pooling is None or exports is None:
        raise ValueError("int8 needs a plain pooling and a folder for its export")
    return Int8Forward(folder, pooling, exports)


def _float32(folder: ModelFolder, pooling: str | None, pad_id: int) -> Forward:
    from model_runtime.embedders.torch_forward import TorchForward

    return TorchForward(folder, pooling, pad_id)
