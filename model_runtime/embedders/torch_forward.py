"""How does torch turn token ids into pooled vectors?

A model that is a transformer, then mean or first-token pooling, is run here directly: importing the
sentence-transformers library takes 4 s more at start, and its `encode` 2 ms more per query. Every other pipeline is
run by the library.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model_runtime.embedders.folder import ModelFolder
from model_runtime.embedders.packed import pack_linears

if TYPE_CHECKING:
    import torch

_Model = Callable[["torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]
"""(ids int64 [n, length], mask int64 [n, length] or None where no row is padded) -> float32 [n, d]"""


class TorchForward:
    """In float32, padded batches; on CUDA where there is one. Any number of threads may call it at once."""

    def __init__(self, folder: ModelFolder, pooling: str | None, pad_id: int) -> None:
        """Takes seconds. `pooling`: None gives the whole pipeline to the library. Raises OSError, ValueError."""
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pad_id = pad_id
        with _quiet():
            self._model = _direct(folder, pooling, self.device) if pooling else _by_library(folder, self.device)

    def __call__(self, ids: list[list[int]]) -> NDArray[np.float32]:
        """float32 [n, d], of any length."""
        import torch

        with torch.inference_mode():
            table, mask = self._padded(ids)
            vectors = self._model(table.to(self.device), None if mask is None else mask.to(self.device))
            return np.asarray(vectors.float().cpu().numpy(), np.float32)

    def prepare_thread(self) -> None:
        """Makes the calling thread compute on one core.

        OpenMP threads of one product wait for each other by spinning: beside other busy processes on two cores, a
        query on two threads took 490 ms (p50) instead of 12 ms on one. Parallelism comes from several threads of one
        core each. torch keeps the number for threads that start later, too: who wants more sets it in its own thread.
        """
        import torch

        torch.set_num_threads(1)

    def _padded(self, ids: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor | None]":
        """(ids, mask), both int64 [n, longest]; the mask is None where all are of one length."""
        import torch

        longest = max(map(len, ids))
        table = torch.tensor([row + [self._pad_id] * (longest - len(row)) for row in ids])
        if all(len(row) == longest for row in ids):
            return table, None
        lengths = torch.tensor([len(row) for row in ids])
        return table, (torch.arange(longest) < lengths[:, None]).long()


def _direct(folder: ModelFolder, pooling: str, device: str) -> _Model:
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


def _by_library(folder: ModelFolder, device: str) -> _Model:
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
