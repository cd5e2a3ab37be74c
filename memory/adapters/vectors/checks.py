"""What may come into a vector index? Wrong shapes and rows are the caller's mistakes: ValueError, IndexError."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.ports.indexes import RowHits, Rows
from memory.ports.models import Vectors


def as_vectors(vectors: Vectors, dimensions: int) -> Vectors:
    """float32 [n, d], contiguous. Raises ValueError for another shape or for numbers that are not finite."""
    checked = np.ascontiguousarray(vectors, dtype=np.float32)
    if checked.ndim != 2 or checked.shape[1] != dimensions:
        raise ValueError(f"vectors must be [n, {dimensions}], not {list(checked.shape)}")
    if not np.isfinite(checked).all():
        raise ValueError("vectors must be finite")
    return checked


def as_query(query: Vectors, dimensions: int) -> Vectors:
    """float32 [d]. Raises ValueError for another shape or for numbers that are not finite."""
    if query.ndim != 1:
        raise ValueError(f"a query must be [{dimensions}], not {list(query.shape)}")
    return as_vectors(query.reshape(1, -1), dimensions).reshape(-1)


def as_rows(rows: Rows, size: int) -> Rows:
    """int64 [m]. Raises IndexError for a row that doesn't exist: a negative one would be another row in numpy."""
    checked = np.ascontiguousarray(rows, dtype=np.int64).reshape(-1)
    if checked.size and (checked.min() < 0 or checked.max() >= size):
        raise IndexError(f"rows must be in 0..{size - 1}")
    return checked


def as_mask(allowed: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """bool [size]. Raises ValueError for a mask of another index: guessing would show what is out of scope."""
    if allowed.shape != (size,) or allowed.dtype != np.bool_:
        raise ValueError(f"allowed must be bool [{size}], not {allowed.dtype} {list(allowed.shape)}")
    return allowed


def ranked(rows: Rows, scores: NDArray[np.floating[Any]], k: int) -> RowHits:
    """The first `k` by falling score; equal scores by rising row, so that answers don't depend on the technology."""
    order = np.lexsort((rows, -scores))[:k]
    return RowHits(rows[order], scores[order].astype(np.float32, copy=False))
