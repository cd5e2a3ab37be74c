"""How does a sentence-transformers model turn texts into unit vectors?

A model that is a transformer, then mean or first-token pooling, is run here directly: importing the
sentence-transformers library takes 4 s more at start, and its `encode` 2 ms more per query. Every other pipeline is
run by the library. Texts are never read as control tokens: a "[SEP]" in a text is five characters.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model_runtime.embedders.folder import DEFAULT, ModelFolder, UnusableModel, find
from model_runtime.embedders.packed import pack_linears

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

Vectors = NDArray[np.float32]

_Forward = Callable[["torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]
"""(ids int64 [n, length], mask int64 [n, length] or None where no row is padded) -> float32 [n, d]"""

# On one CPU core the rate is flat from 128 tokens a batch on (2,900 to 3,500 tokens a second, 2,450 at 40), so the
# smallest wins: at 256 padding wastes 0.9 % instead of 4 % at 4,096, and a batch takes about 65 ms. CUDA: not measured.
_TOKENS_PER_BATCH = {"cpu": 256, "cuda": 32_768}


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of about one length. `rows[i]` is the place of `ids[i]` among the texts that were asked for."""

    rows: list[int]
    ids: list[list[int]]


class SentenceEmbedder:
    """Synchronous and stateless: any number of threads may call it at once, none waits for another."""

    def __init__(self, space: str, dimensions: int, tokens: "_TokenIds", forward: _Forward, device: str) -> None:
        self.space = space
        self.dimensions = dimensions
        self.max_tokens = tokens.max_text_tokens
        """Tokens of a text that are read, without the model's own special ones."""
        self.device = device
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
        import torch

        with torch.inference_mode():
            ids, mask = self._tokens.padded(batch.ids)
            on_device = self._forward(ids.to(self.device), None if mask is None else mask.to(self.device))
            vectors = torch.nn.functional.normalize(on_device.float(), dim=1).cpu().numpy()
        return np.asarray(vectors, np.float32)


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

    def padded(self, ids: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor | None]":
        """(ids, mask), both int64 [n, longest]; the mask is None where all are of one length."""
        import torch

        longest = max(map(len, ids))
        table = torch.tensor([row + [self._pad_id] * (longest - len(row)) for row in ids])
        if all(len(row) == longest for row in ids):
            return table, None
        lengths = torch.tensor([len(row) for row in ids])
        return table, (torch.arange(longest) < lengths[:, None]).long()


def load(name: str = DEFAULT) -> SentenceEmbedder:
    """The model "minilm" (packaged), in a folder, or of a hub id; on CUDA where there is one.

    Takes seconds: it imports torch and reads the weights. Raises UnusableModel.
    """
    import torch
    from tokenizers import Tokenizer

    folder = find(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = _TokenIds(
        Tokenizer.from_file(str(folder.tokenizer_file())), _max_length(folder), _config(folder).get("pad_token_id") or 0
    )
    fingerprint = folder.weights_fingerprint()
    pooling = _direct_pooling(folder)
    try:
        with _quiet():
            forward = _direct(folder, pooling, device) if pooling else _by_library(folder, device)
    except (OSError, ValueError) as e:
        raise UnusableModel(f"{folder.path} could not be loaded: {e}") from e
    dimensions = _dimensions(forward, tokens, device)
    space = f"{folder.name}:{dimensions}:{fingerprint}:{pooling or 'pipeline'}-unit"
    return SentenceEmbedder(space, dimensions, tokens, forward, device)


def use_one_core(nice: int = 0) -> None:
    """Makes the calling thread compute on one core, and give way to threads of a lower `nice` (Linux).

    OpenMP threads of one product wait for each other by spinning: beside other busy processes on two cores, a
    query on two threads took 490 ms (p50) instead of 12 ms on one. Parallelism comes from several threads of one
    core each. torch keeps the number for threads that start later, too: who wants more sets it in its own thread.
    """
    import torch

    torch.set_num_threads(1)
    if nice and hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):  # not permitted in this sandbox: only fairness is lost
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _direct(folder: ModelFolder, pooling: str, device: str) -> _Forward:
    import torch
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(
        str(folder.path), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    model.eval().requires_grad_(False).to(device)
    if device == "cpu":
        pack_linears(model)

    def forward(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[:, 0] if pooling == "cls" else _mean(states, mask)

    return forward


def _mean(states: "torch.Tensor", mask: "torch.Tensor | None") -> "torch.Tensor":
    """The mean over the tokens that are not padding: [n, length, d] -> [n, d]."""
    if mask is None:
        return states.mean(1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def _by_library(folder: ModelFolder, device: str) -> _Forward:
    import torch
    from sentence_transformers import SentenceTransformer

    pipeline: Any = SentenceTransformer(
        str(folder.path), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
    ).eval()

    def forward(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask}
        embedding: torch.Tensor = pipeline(features)["sentence_embedding"]
        return embedding

    return forward


def _direct_pooling(folder: ModelFolder) -> str | None:
    """ "mean" or "cls" where the pipeline is transformer, pooling and at most a normalisation, else None."""
    modules = folder.settings("modules.json")
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]) or modules[0]["path"]:
        return None
    pooling = folder.settings(f"{modules[1]['path']}/config.json")
    modes = {key.removeprefix("pooling_mode_") for key, on in pooling.items() if on is True and "_mode_" in key}
    modes |= {pooling["pooling_mode"]} if isinstance(pooling.get("pooling_mode"), str) else set()
    return {("mean_tokens",): "mean", ("mean",): "mean", ("cls_token",): "cls", ("cls",): "cls"}.get(tuple(modes))


def _max_length(folder: ModelFolder) -> int:
    """Tokens that the model reads, special ones included: its own setting, else what it has positions for."""
    own = folder.settings("sentence_bert_config.json").get("max_seq_length")
    return int(own or _config(folder).get("max_position_embeddings") or 512)


def _config(folder: ModelFolder) -> dict[str, Any]:
    config: dict[str, Any] = folder.settings("config.json")
    return config


def _dimensions(forward: _Forward, tokens: _TokenIds, device: str) -> int:
    """Asked from the model itself: a pipeline may end in a layer that no setting names."""
    import torch

    ids, _ = tokens.padded(tokens(["dimensions"]))
    with torch.inference_mode():
        return int(forward(ids.to(device), None).shape[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of transformers on stderr while weights are read."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
